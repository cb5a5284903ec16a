//! Starts one of two agent slots, and the old one again when the new one fails.
//!
//! systemd starts `fleet-supervisor`, it starts the agent. No network, no threads, no async runtime: the standard
//! library, `sha2` for digests, and `libc` for what the standard library lacks (waiting for signals and a socket at
//! once, sending a signal other than SIGKILL, the free space of a file system). It never updates itself, so what
//! follows is frozen.
//!
//! # The contract, version 1
//!
//! **Files**, below `/usr/local/lib/fleet/slots`. Each is replaced whole: written beside, synced, renamed, folder
//! synced. Records are lines of text; the last is `sum` and the SHA-256 of all before it. See [`record`].
//!
//! | file | writer | what |
//! |---|---|---|
//! | `a/fleet-agent`, `b/fleet-agent` | the agent, the idle slot only | the program |
//! | `a/slot`, `b/slot` | the agent | digest, size, serial and version of that program; read only where `state` cannot be |
//! | `a/release`, `b/release` | the agent | the signed release it came from, for whoever wants to check again |
//! | `request` | the agent | "try what is in the idle slot", or "go back"; taken when the agent next exits |
//! | `state` | the supervisor alone | active slot, trial with its try counter, probation, failed versions |
//!
//! **Environment** of the agent: `FLEET_SUPERVISOR=1` (this version), `FLEET_SLOTS` (the folder), `FLEET_SLOT` (`a` or
//! `b`), `FLEET_TRIAL` (own digest, only while on trial), `NOTIFY_SOCKET` (ours), `WATCHDOG_USEC` as systemd gave it.
//!
//! **Messages** of the agent to `NOTIFY_SOCKET`, in the form of sd_notify(3): `READY`, `WATCHDOG`, `STATUS` and `ERRNO`
//! pass through to systemd; `STOPPING` does not, for another agent follows. `X_FLEET_COMMIT=DIGEST` ends the trial well: once `state` is on disk the
//! agent reads there that its slot is active; until it does, it says so again. `X_FLEET_EXTEND=1` begins the trial's
//! time anew: "I am well, the controller is not to be had"; all extensions together end at the request's ceiling, and
//! with the last one the trial, with no verdict.
//!
//! **Trial.** A request starts the idle slot on trial. Every start is counted on disk *before* it happens, a power cut
//! counts therefore too; an orderly stop is taken back. No commit in time, no more tries, or a program that is not
//! what its digest says: the other slot starts, and the digest is remembered with the reason. It is refused from then on,
//! unless a request says `again`. Nothing that a full or broken disk does not let us count is tried. A slot that cannot be
//! read, a start for which the system lacks something, and a ceiling that an agent comes to by asking for more time, end
//! the trial with no verdict: the other slot starts, and it may be asked for again.
//!
//! **Probation.** After a commit, a crash brings the old slot back as well; an agent that was killed or silent, which may be
//! the node's fault, has [`decide::PROBATION_CRASHES`] such ends. Probation ends with the first run of [`decide::PROBATION`]. The old slot stays for as long as nothing else is put there, and a request `return`
//! goes back to it days later, unless that one failed here before. During probation nothing else is put there.
//! What is gone back to is on probation as well: should it fail too, the version that was left for it, which did not
//! fail but was sent back, serves again, and stays.
//!
//! **Exit of the agent.** An exit with no request waiting is a crash, whatever its status. Any exit makes the supervisor look for a request and start anew, after a pause that doubles with
//! each crash. An agent silent for `WATCHDOG_USEC` is killed by the supervisor, which counts as a crash.
//!
//! **Signals.** SIGTERM and SIGINT are passed on, and end both; SIGHUP, SIGUSR1 and SIGUSR2 are passed on. The agent
//! dies with the supervisor, so that there are never two.
//!
//! # Why no signature is checked at start
//!
//! The agent checks signatures before it fills a slot; what it then records is the digest, and that is checked at every
//! start. Whoever can write the slots could as well replace this program: a signature checked here would keep out nobody
//! whom the digest lets in, at the price of a key that could not be rotated without updating what is never updated.
//!
//! Start with [`decide`] for the rules, [`slots`] for the files, [`install`] for the agent's side.

pub mod agent;
pub mod decide;
pub mod digest;
pub mod disk;
pub mod install;
pub mod notify;
pub mod record;
pub mod run;
pub mod slots;
mod system;
