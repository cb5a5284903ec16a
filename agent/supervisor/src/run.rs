//! The loop: waits for the agent, its messages, signals and deadlines, and does what [`decide`](crate::decide) says.

use std::{
    fs, io,
    os::unix::{fs::DirBuilderExt, net::UnixDatagram, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use crate::{
    agent::CONTRACT,
    decide::{Action, Crash, Event},
    disk::Host,
    notify,
    record::{Slot, State, Terms, Why},
    slots::Slots,
    system::{self, Signals},
};

/// Longest pause between two starts.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A run of this length makes the next pause the shortest again.
const STEADY: Duration = Duration::from_secs(60);
/// Pause before a record that cannot be read is read once more.
const REREAD: Duration = Duration::from_millis(500);
/// How long an agent has to end before it is killed.
const GRACE: Duration = Duration::from_secs(20);
/// How long an agent on trial has to end: it is no good anyway.
const GRACE_FAILED: Duration = Duration::from_secs(5);

/// Where and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of the slots.
    pub slots: PathBuf,
    /// A folder for the socket; only root may look.
    pub run: PathBuf,
    /// Pause before the first restart; doubles with each crash.
    pub pause: Duration,
    /// A run of this length proves a committed version.
    pub probation: Duration,
    /// Arguments of the agent.
    pub arguments: Vec<String>,
}

/// Runs the agent until told to stop.
///
/// # Errors
/// There is nothing to run, or the system refuses what is needed to run it.
pub fn run(settings: Settings) -> io::Result<()> {
    let signals = Signals::catch()?;
    let mut slots = Slots::new(&settings.slots, Host);
    let state = slots.load_at_last(REREAD).ok_or_else(|| {
        let text = format!(
            "{} holds no state and no sound slot; `fleet-supervisor adopt FILE VERSION` makes one",
            settings.slots.display()
        );
        io::Error::new(io::ErrorKind::NotFound, text)
    })?;
    let (socket, address) = listen(&settings.run)?;
    let watchdog = notify::watchdog();
    let pause = settings.pause;
    Loop {
        settings,
        slots,
        state,
        signals,
        socket,
        address,
        watchdog,
        agent: None,
        stopping: false,
        pause,
        again: None,
    }
    .run()
}

/// A socket that only we and our agent reach.
fn listen(folder: &Path) -> io::Result<(UnixDatagram, PathBuf)> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let address = folder.join("notify");
    match fs::remove_file(&address) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let socket = UnixDatagram::bind(&address)?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

struct Agent {
    child: Child,
    slot: Slot,
    since: Instant,
    /// Last sign of life.
    alive: Instant,
    /// Until when the trial must be committed, and until when it may be extended at most.
    trial: Option<(Instant, Instant, Terms)>,
    /// It has asked for more time in this trial.
    extended: bool,
    ready: bool,
    /// We told it to end, and kill it then.
    kill: Option<Instant>,
    /// Why we told it to end, if that was its own fault.
    fault: Option<Crash>,
}

struct Loop {
    settings: Settings,
    slots: Slots<Host>,
    state: State,
    signals: Signals,
    socket: UnixDatagram,
    address: PathBuf,
    watchdog: Option<Duration>,
    agent: Option<Agent>,
    stopping: bool,
    pause: Duration,
    /// When to start the next agent.
    again: Option<Instant>,
}

impl Loop {
    fn run(mut self) -> io::Result<()> {
        self.again = Some(Instant::now());
        loop {
            if self.agent.is_none() && self.stopping {
                return Ok(());
            }
            let now = Instant::now();
            if self.agent.is_none() && self.again.is_some_and(|at| at <= now) {
                self.start()?;
            }
            self.deadlines(now);
            system::wait(
                &self.signals,
                &self.socket,
                self.next_deadline().map(|at| at.saturating_duration_since(now)),
            );
            // Messages first: the commit of an agent that then died counts.
            self.listen();
            self.signals();
            self.bury();
        }
    }

    fn start(&mut self) -> io::Result<()> {
        self.again = None;
        let event = self.slots.idle();
        for action in self.decide(event) {
            match action {
                Action::Start(slot) => self.spawn(slot),
                Action::GiveUp(why) => return Err(io::Error::new(io::ErrorKind::NotFound, why)),
                _ => (),
            }
        }
        Ok(())
    }

    /// Decides, writes down, says what is to be said; gives the rest.
    fn decide(&mut self, event: Event) -> Vec<Action> {
        let decision = self.slots.step(&self.state, event);
        self.state = decision.state;
        let said = |action: &Action| {
            if let Action::Say(text) = action {
                eprintln!("fleet-supervisor: {text}")
            }
        };
        decision.actions.iter().for_each(said);
        decision.actions
    }

    fn spawn(&mut self, slot: Slot) {
        let trial = (self.state.current() == slot).then(|| self.state.trial.clone()).flatten();
        let mut command = Command::new(self.slots.program(slot));
        command
            .args(&self.settings.arguments)
            .env("FLEET_SUPERVISOR", CONTRACT)
            .env("FLEET_SLOTS", self.slots.folder())
            .env("FLEET_SLOT", slot.name())
            .env("NOTIFY_SOCKET", &self.address)
            .env_remove("FLEET_TRIAL")
            .env_remove("WATCHDOG_PID");
        if let (Some(_), Some(content)) = (&trial, self.state.content(slot)) {
            command.env("FLEET_TRIAL", content.digest.to_string());
        }
        // What is left in the socket is of an agent before.
        let mut piece = [0; 4096];
        while self.socket.recv(&mut piece).is_ok() {}
        // A new agent has the whole time to give its first sign of life.
        self.tell("WATCHDOG=1");
        let now = Instant::now();
        match system::spawn(&mut command) {
            Ok(child) => {
                eprintln!("fleet-supervisor: slot {slot} starts, process {}", child.id());
                let trial = trial.map(|trial| {
                    let Terms { trial_ms, ceiling_ms, .. } = trial.terms;
                    (later(now, trial_ms), later(now, ceiling_ms), trial.terms)
                });
                let agent = Agent {
                    child,
                    slot,
                    since: now,
                    alive: now,
                    trial,
                    extended: false,
                    ready: false,
                    kill: None,
                    fault: None,
                };
                self.agent = Some(agent);
            }
            Err(error) if passing(&error) => {
                eprintln!("fleet-supervisor: slot {slot} cannot be started now: {error}");
                self.decide(Event::Unstarted {
                    slot,
                    why: format!("the system cannot start it now: {error}"),
                });
                self.pause_before_next(true);
            }
            Err(error) => {
                let how = format!("it cannot be started: {error}");
                self.ended(slot, Duration::ZERO, Some(Crash { why: Why::Crashed, how }));
            }
        }
    }

    fn listen(&mut self) {
        let mut piece = [0; 4096];
        while let Ok(n) = self.socket.recv(&mut piece) {
            let said = notify::parse(&piece[..n]);
            let now = Instant::now();
            let Some(agent) = &mut self.agent else { continue };
            agent.ready |= said.ready;
            if said.ready || said.alive {
                agent.alive = now;
            }
            if said.extend
                && let Some((until, most, terms)) = &mut agent.trial
            {
                *until = later(now, terms.trial_ms).min(*most);
                agent.extended = true;
            }
            // An agent that is being ended no longer decides anything.
            let commit = said.commit.filter(|_| agent.kill.is_none() && agent.trial.is_some());
            if !said.pass.is_empty() {
                self.tell(&said.pass);
            }
            if let Some(digest) = commit {
                self.decide(Event::Commit { digest });
                let Some(agent) = &mut self.agent else { continue };
                if self.state.trial.is_none() {
                    agent.trial = None;
                    agent.since = now;
                } else if self.state.content(agent.slot).is_some_and(|content| content.digest == digest)
                    && let Some((until, _, terms)) = &mut agent.trial
                {
                    // It is well, and only the disk does not take that down: nothing to condemn it for.
                    *until = later(now, terms.trial_ms);
                }
            }
        }
    }

    fn signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            match signal {
                libc::SIGCHLD => system::reap(self.agent.as_ref().map(|agent| agent.child.id())),
                libc::SIGTERM | libc::SIGINT => {
                    if !self.stopping {
                        self.stopping = true;
                        self.tell("STOPPING=1");
                        if self.agent.as_ref().is_some_and(|agent| agent.trial.is_some()) {
                            self.decide(Event::Stopped);
                        }
                    }
                    self.end(signal, GRACE);
                }
                other => {
                    if let Some(agent) = &self.agent {
                        system::signal(&agent.child, other);
                    }
                }
            }
        }
    }

    /// Ends the agent that runs.
    fn end(&mut self, signal: i32, grace: Duration) {
        if let Some(agent) = &mut self.agent {
            system::signal(&agent.child, signal);
            agent.kill.get_or_insert(Instant::now() + grace);
        }
    }

    fn bury(&mut self) {
        let status = match &mut self.agent {
            Some(agent) => agent.child.try_wait(),
            None => return,
        };
        let Ok(Some(status)) = status else { return };
        let Some(agent) = self.agent.take() else { return };
        if self.stopping {
            return;
        }
        let unasked = || {
            let crash = || Crash { why: Why::Crashed, how: "it exited unasked".to_owned() };
            (!self.slots.asked(&self.state)).then(crash)
        };
        let crash = match agent.kill {
            Some(_) => agent.fault,
            None => crash(status).or_else(unasked),
        };
        self.ended(agent.slot, agent.since.elapsed(), crash);
    }

    /// The agent is gone, or never came.
    fn ended(&mut self, slot: Slot, ran: Duration, crash: Option<Crash>) {
        let how = crash.as_ref().map_or("in order", |crash| &crash.how);
        eprintln!("fleet-supervisor: slot {slot} ended after {ran:.1?}: {how}");
        let crashed = crash.is_some();
        self.decide(Event::Exited { slot, crash });
        if ran >= STEADY {
            self.pause = self.settings.pause;
        }
        self.pause_before_next(crashed);
    }

    fn pause_before_next(&mut self, crashed: bool) {
        if !crashed {
            self.pause = self.settings.pause;
        }
        // There is nobody to say it, and silence and pause together may be more than systemd bears.
        self.tell("WATCHDOG=1");
        self.again = Some(Instant::now() + self.pause);
        if crashed {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    fn deadlines(&mut self, now: Instant) {
        let watchdog = self.silence();
        let Some(agent) = &mut self.agent else { return };
        if let Some(at) = agent.kill {
            if at <= now {
                system::signal(&agent.child, libc::SIGKILL);
                agent.kill = Some(later(now, GRACE.as_millis() as u64));
            }
            return;
        }
        if let Some((until, most, _)) = &agent.trial
            && *until <= now
        {
            let late = |reason: &str| Event::Late { reason: reason.to_owned() };
            let event = match (agent.ready, agent.extended && until == most) {
                (false, _) => late("it was not ready in time"),
                (true, false) => late("it was ready and did not commit in time"),
                // Its last extension was cut short by the ceiling alone.
                (true, true) => Event::Ceiling,
            };
            let actions = self.decide(event);
            if actions.contains(&Action::End) {
                self.end(libc::SIGTERM, GRACE_FAILED);
            }
            return;
        }
        if watchdog.is_some_and(|silence| now.duration_since(agent.alive) >= silence) {
            agent.fault = Some(Crash { why: Why::Late, how: "it hung: no sign of life".to_owned() });
            // SIGABRT, as systemd does it: a core where somebody collects them.
            return self.end(libc::SIGABRT, GRACE_FAILED);
        }
        if self.state.probation.is_some()
            && agent.trial.is_none()
            && now.duration_since(agent.since) >= self.settings.probation
        {
            self.decide(Event::Proved);
        }
    }

    /// Silence after which the agent is ended: before systemd would end us.
    fn silence(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog.mul_f64(0.9))
    }

    fn next_deadline(&self) -> Option<Instant> {
        let Some(agent) = &self.agent else { return self.again };
        if agent.kill.is_some() {
            return agent.kill;
        }
        let trial = agent.trial.as_ref().map(|(until, ..)| *until);
        let silent = self.silence().map(|silence| agent.alive + silence);
        let proved = self
            .state
            .probation
            .filter(|_| agent.trial.is_none())
            .map(|_| agent.since + self.settings.probation);
        [trial, silent, proved].into_iter().flatten().min()
    }

    fn tell(&self, message: &str) {
        if let Err(error) = notify::tell(message) {
            eprintln!("fleet-supervisor: systemd does not listen: {error}");
        }
    }
}

/// Thirty days later at most, whatever the request says, so that no addition overflows.
fn later(now: Instant, ms: u64) -> Instant {
    now + Duration::from_millis(ms.min(30 * 86_400_000))
}

/// Whether a start failed for want of something that may be there a moment later: no verdict on the program.
fn passing(error: &io::Error) -> bool {
    let passing =
        [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EIO, libc::EINTR, libc::ETXTBSY];
    error.raw_os_error().is_some_and(|number| passing.contains(&number))
}

/// How an agent ended, unless it was in order.
fn crash(status: ExitStatus) -> Option<Crash> {
    let (why, how) = match (status.code(), status.signal()) {
        (Some(0), _) => return None,
        (Some(code), _) => (Why::Crashed, format!("it exited with status {code}")),
        // Not by us: then it is not asked how it ended.
        (None, Some(libc::SIGKILL)) => {
            (Why::Killed, "it was killed, as the kernel does for want of memory".to_owned())
        }
        (None, Some(signal)) => (Why::Crashed, format!("signal {signal} ended it")),
        (None, None) => (Why::Crashed, format!("it ended: {status}")),
    };
    Some(Crash { why, how })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_lacks_is_no_verdict() {
        let check = |number: i32, expected: bool| {
            assert_eq!(passing(&io::Error::from_raw_os_error(number)), expected, "{number}");
        };
        for lacking in [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EIO, libc::ETXTBSY] {
            check(lacking, true);
        }
        for wrong in [libc::ENOEXEC, libc::EACCES, libc::ENOENT, libc::EINVAL] {
            check(wrong, false);
        }
    }
}
