//! A Debian node in a folder: answers the programs that tasks start by changing files, as the real ones do, and fails
//! or dies half way when told to.

mod accounts;
mod packages;
pub(crate) mod ssh;
mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use fleet_task::{Command, CommandError, Output, Runner};
use tokio::sync::Notify;

use crate::tasks::{faults::power, support::locks::tests::line, tests::Rig};
use units::FakeUnit;

/// Bytes a program needs.
const ROOM: usize = 64 * 1024;
/// Programs that do not sync what they write.
const UNSYNCED: [&str; 1] = ["ssh-keygen"];
const LOCK: &str = "/var/lib/dpkg/lock-frontend";

/// What happens at a certain call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The program fails and does nothing.
    Fails,
    /// Everything ends before the program has done anything.
    DiesBefore,
    /// Everything ends when the program has done its work and before anybody hears of it.
    DiesAfter,
}

/// The node.
#[derive(Debug, Default)]
pub(crate) struct Debian {
    root: OnceLock<PathBuf>,
    state: Mutex<State>,
    died: Notify,
}

#[derive(Debug, Default)]
struct State {
    ran: Vec<String>,
    fault: Option<(usize, Fault)>,
    dead: bool,
    offered: BTreeMap<String, String>,
    /// A package the mirror lists and does not have.
    lacking: Option<String>,
    /// Files that come with a package.
    brings: BTreeMap<String, Vec<(String, String)>>,
    units: BTreeMap<String, FakeUnit>,
    starts: u64,
    tracking: String,
    /// What the running sshd has read last.
    sshd: BTreeMap<String, String>,
    /// Users sshd turns away whatever key they show, once it has read our settings.
    turned_away: BTreeSet<String>,
    keys: u32,
    busy: u32,
    answers: BTreeMap<String, Output>,
    at_boot: Option<AtBoot>,
}

/// Called when the node boots.
#[derive(Clone)]
struct AtBoot(Arc<dyn Fn(&Debian) + Send + Sync>);

impl std::fmt::Debug for AtBoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtBoot")
    }
}

impl Debian {
    /// A node with these files, and what a Debian always has.
    pub(crate) fn rig(files: &[(&str, &str)]) -> (Arc<Self>, Rig) {
        let debian = Arc::new(Self::default());
        let rig = Rig::with(debian.clone(), files);
        for (path, text) in [
            (LOCK, ""),
            ("/proc/locks", ""),
            ("/proc/uptime", "1000.00 900.00\n"),
            ("/proc/sys/kernel/osrelease", "6.1.0-20-amd64\n"),
            ("/proc/sys/kernel/random/boot_id", "boot-1\n"),
            ("/var/lib/dpkg/status", ""),
            ("/var/lib/fleet-agent/key", ""),
            ("/var/cache/apt/archives/lock", ""),
            ("/run/.keep", ""),
        ] {
            let path = rig.path(path);
            fs::create_dir_all(path.parent().expect("absolute")).expect("parent");
            if !path.exists() {
                fs::write(path, text).expect("file");
            }
        }
        debian.root.set(rig.path("/")).expect("only once");
        (debian, rig)
    }

    /// At the `nth` call from now on (counted from 0), once.
    pub(crate) fn fault_at(&self, nth: usize, fault: Fault) {
        let mut state = self.lock();
        let nth = state.ran.len() + nth;
        state.fault = Some((nth, fault));
    }

    /// Waits until it has died.
    pub(crate) async fn dead(&self) {
        self.died.notified().await;
    }

    /// Switches it on again; no fault is to come any more.
    pub(crate) fn revive(&self) {
        let mut state = self.lock();
        (state.dead, state.fault) = (false, None);
    }

    /// The power goes.
    pub(crate) fn loses_power(&self) {
        self.lock().dead = true;
        self.died.notify_one();
    }

    /// The power is back: what is enabled starts, with what the disk has for it.
    pub(crate) fn boots(&self) {
        self.revive();
        if self.root.get().is_none() {
            // No program runs on that node.
            return;
        }
        self.put("/proc/sys/kernel/random/boot_id", "boot-2\n");
        self.put("/proc/locks", "");
        if self.path("/proc/sys/kernel/hostname").exists() {
            self.put("/proc/sys/kernel/hostname", &self.text("/etc/hostname"));
        }
        let sshd = self.has_host_key();
        {
            let mut state = self.lock();
            state.units.iter_mut().for_each(|(name, unit)| unit.boots(sshd || name != "ssh.service"));
        }
        if sshd {
            self.reload_sshd();
        }
        let then = self.lock().at_boot.clone();
        if let Some(AtBoot(then)) = then {
            then(self);
        }
    }

    /// What else happens when it boots.
    pub(crate) fn at_boot(&self, then: impl Fn(&Self) + Send + Sync + 'static) {
        self.lock().at_boot = Some(AtBoot(Arc::new(then)));
    }

    /// The commands it ran whose text contains `what`.
    pub(crate) fn ran(&self, what: &str) -> Vec<String> {
        self.lock().ran.iter().filter(|line| line.contains(what)).cloned().collect()
    }

    /// Answers a program that has no meaning here.
    pub(crate) fn answers(&self, program: &str, output: Output) -> &Self {
        self.lock().answers.insert(program.into(), output);
        self
    }

    /// It has its meaning again.
    pub(crate) fn answers_no_more(&self, program: &str) {
        self.lock().answers.remove(program);
    }

    /// Somebody holds dpkg's lock.
    pub(crate) fn locked_by(&self, pid: u32, program: &str) -> &Self {
        let path = self.path(&format!("/proc/{pid}/cmdline"));
        fs::create_dir_all(path.parent().expect("absolute")).expect("parent");
        fs::write(path, format!("/usr/bin/{program}\0")).expect("cmdline");
        fs::write(self.path("/proc/locks"), line(&self.path(LOCK), pid)).expect("locks");
        self
    }

    /// Nobody does any more.
    pub(crate) fn unlocked(&self) {
        fs::write(self.path("/proc/locks"), "").expect("locks");
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.root.get().expect("made by `rig`").join(absolute.trim_start_matches('/'))
    }

    fn text(&self, absolute: &str) -> String {
        fs::read_to_string(self.path(absolute)).unwrap_or_default()
    }

    fn put(&self, absolute: &str, text: &str) {
        let path = self.path(absolute);
        let put = || -> std::io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            fs::write(&path, text)
        };
        put().expect("the folder of a test");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody else's program runs on this node: it counts among its calls, and fails or dies as they do.
    pub(crate) async fn asks(&self, command: &Command, act: impl FnOnce() -> Output) -> Output {
        match self.answer(command, act) {
            Some(output) => output,
            None => {
                self.died.notify_one();
                std::future::pending().await
            }
        }
    }

    /// The answer, or `None` if the machine is dead.
    fn answer(&self, command: &Command, act: impl FnOnce() -> Output) -> Option<Output> {
        let fault = {
            let mut state = self.lock();
            if state.dead {
                return None;
            }
            let nth = state.ran.len();
            state.ran.push(command.to_string());
            state.fault.filter(|(at, _)| *at == nth).map(|(_, fault)| fault)
        };
        match fault {
            Some(Fault::Fails) => return Some(failure(1, "E: it was told to fail")),
            Some(Fault::DiesBefore) => {
                self.lock().dead = true;
                return None;
            }
            Some(Fault::DiesAfter) | None => (),
        }
        let before = power::before();
        let output = act();
        if !UNSYNCED.contains(&command.program.as_str()) {
            power::after(&before);
        }
        if fault.is_some() {
            self.lock().dead = true;
            return None;
        }
        Some(output)
    }

    fn act(&self, command: &Command) -> Output {
        // Whatever a program is about to write, it needs some room.
        let probe = self.path("/probe");
        let room = fs::write(&probe, [0; ROOM]);
        let _ = fs::remove_file(&probe);
        if room.is_err() {
            return failure(1, "E: it cannot write: No space left on device");
        }
        if let Some(output) = self.lock().answers.get(&command.program) {
            return output.clone();
        }
        let args: Vec<&str> = command.args.iter().map(String::as_str).collect();
        match command.program.as_str() {
            "true" => Output::ok(""),
            "false" => failure(1, ""),
            "apt-get" => self.apt(&args),
            "dpkg" => self.dpkg(),
            "systemctl" => self.systemctl(&args),
            "journalctl" => self.journalctl(&args),
            "useradd" | "usermod" | "userdel" | "mkhomedir_helper" => self.accounts(&command.program, &args),
            "chronyc" => Output::ok(self.lock().tracking.clone()),
            "visudo" => self.visudo(&args),
            "ssh-keygen" => self.keygen(&args),
            "/usr/sbin/sshd" => self.sshd(&args),
            "ssh" => self.ssh(&args),
            other => failure(127, &format!("{other}: not on this node")),
        }
    }
}

fn failure(code: i32, said: &str) -> Output {
    Output { code: Some(code), stdout: Vec::new(), stderr: format!("{said}\n").into_bytes() }
}

#[async_trait]
impl Runner for Debian {
    async fn output(&self, command: &Command) -> Result<Output, CommandError> {
        Ok(self.asks(command, || self.act(command)).await)
    }
}
