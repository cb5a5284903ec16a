//! A node in a folder: slots, a socket that stands for systemd, and the supervisor's program.

use std::{
    fs,
    os::unix::{net::UnixDatagram, process::CommandExt},
    path::PathBuf,
    process::{Child, Command},
    sync::{
        OnceLock,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use fleet_supervisor::{
    digest::Digest,
    disk::Host,
    install::{self, Package},
    record::{Content, Slot, State, Terms},
    slots::Slots,
};

/// Far beyond what anything here takes; passed only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Node {
    pub folder: tempfile::TempDir,
    pub slots: Slots<Host>,
    pub supervisor: Option<Child>,
    /// Lines that systemd was told and nobody asked for yet.
    told: Receiver<String>,
    /// Limits and the like for the next start.
    pub prepare: fn(&mut Command),
}

/// Far longer than a machine under load holds an agent up.
const WATCHDOG_US: &str = "60000000";
/// For agents that hang on purpose.
pub const SHORT_WATCHDOG_US: &str = "1500000";

/// An agent of `version` that behaves in `manner`.
pub fn program(version: &str, manner: &str) -> Vec<u8> {
    // Stripped, since each start reads every byte of it.
    static DUMMY: OnceLock<Vec<u8>> = OnceLock::new();
    let dummy = DUMMY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("dummy");
        let done = Command::new("strip").arg("-o").arg(&path).arg(env!("CARGO_BIN_EXE_dummy-agent")).status();
        assert!(done.expect("strip, of binutils").success());
        fs::read(path).expect("dummy")
    });
    let mut program = dummy.clone();
    program.extend_from_slice(format!("\nDUMMY {version} {manner}\n").as_bytes());
    program
}

impl Node {
    /// A node on a good agent `old`; not started yet.
    pub fn new() -> Self {
        Self::within(tempfile::tempdir().expect("folder"), None)
    }

    /// With the slots in a folder of their own.
    pub fn within(folder: tempfile::TempDir, slots: Option<PathBuf>) -> Self {
        let slots = slots.unwrap_or_else(|| folder.path().join("slots"));
        let mut slots = Slots::new(slots, Host);
        install::adopt(&mut slots, "old", &program("old", "good")).expect("adopt");
        let systemd = UnixDatagram::bind(folder.path().join("systemd")).expect("bind");
        let (tell, told) = mpsc::channel();
        // Reads at all times, as systemd does; ends with the test's program.
        thread::spawn(move || {
            let mut piece = [0; 1024];
            while let Ok(n) = systemd.recv(&mut piece) {
                for line in String::from_utf8_lossy(&piece[..n]).lines() {
                    if tell.send(line.to_owned()).is_err() {
                        return;
                    }
                }
            }
        });
        Self { folder, slots, supervisor: None, told, prepare: |_| () }
    }

    pub fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-supervisor"));
        command.arg("--slots").arg(self.slots.folder()).arg("--run").arg(self.folder.path().join("run"));
        command.args(["--pause-ms", "5"]);
        command.env("NOTIFY_SOCKET", self.folder.path().join("systemd"));
        command.env("WATCHDOG_USEC", WATCHDOG_US).env("DUMMY_LOG", self.folder.path().join("log"));
        let log =
            fs::File::options().append(true).create(true).open(self.folder.path().join("said")).expect("log");
        command.stderr(log).process_group(0);
        (self.prepare)(&mut command);
        self.supervisor = Some(command.spawn().expect("supervisor"));
    }

    /// Puts `program` into the idle slot and asks for its trial; it begins when the agent next exits.
    pub fn install(&mut self, version: &str, program: &[u8], terms: Terms) -> Result<Slot, install::Error> {
        let taken = self.state().taken.map_or(0, |id| id.parse().expect("ours"));
        let package = Package {
            version,
            digest: Digest::of(program),
            size: program.len() as u64,
            packed: program.len() as u64,
            release: b"",
            terms,
            again: false,
            id: &(taken + 1_u32).to_string(),
        };
        install::install(&mut self.slots, &package, program)
    }

    /// The agent that runs goes, as one does that has installed another.
    pub fn agent_exits(&self) {
        let log = fs::read_to_string(self.folder.path().join("log")).expect("log");
        let pid: i32 = log.lines().last().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("pid");
        signal(pid, libc::SIGTERM);
    }

    pub fn state(&mut self) -> State {
        let bytes = fs::read(self.slots.state()).expect("state is there at all times");
        State::decode(&bytes).expect("state is whole at all times")
    }

    pub fn active(&mut self) -> Content {
        let state = self.state();
        state.content(state.active).cloned().expect("content")
    }

    pub fn wait(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds(self) {
            if Instant::now() > end {
                let said = fs::read_to_string(self.folder.path().join("said")).unwrap_or_default();
                panic!("{what} did not come: {:?}\n{said}", self.state());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The agent that logged its start last.
    pub fn runs(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().last().and_then(|line| line.split(' ').next()).unwrap_or_default().to_owned()
    }

    pub fn starts(&self, version: &str) -> usize {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.split(' ').next() == Some(version)).count()
    }

    /// Waits until systemd hears `line`.
    pub fn heard(&self, line: &str) {
        while self.told.recv_timeout(DEADLINE).expect("the supervisor tells systemd") != line {}
    }

    /// Whether systemd has heard `line` by now; forgets all it has.
    pub fn has_heard(&self, line: &str) -> bool {
        self.told.try_iter().any(|told| told == line)
    }

    /// Forgets what systemd was told so far.
    pub fn drain(&self) {
        while self.told.try_recv().is_ok() {}
    }

    pub fn kill(&mut self, with: i32) {
        if let Some(mut supervisor) = self.supervisor.take() {
            signal(supervisor.id() as i32, with);
            supervisor.wait().expect("wait");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill(libc::SIGKILL);
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: plain system call.
    unsafe { libc::kill(pid, signal) };
}
