//! The finished program: flags, readiness, signals.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Far longer than anything here takes: only what hangs is caught by it.
const HANGS: Duration = Duration::from_secs(60);

fn agent(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-agent"));
    command.args(args).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET").env_remove("FLEET_LOG");
    command
}

fn ended(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = agent(args).output().expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn version_and_mistakes() {
    let version = format!("fleet-agent {}\n", fleet_agent::VERSION);
    assert_eq!(ended(&["--version"]), (Some(0), version, String::new()));
    let (code, out, said) = ended(&["--frobnicate"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(said.starts_with("error: unknown flag `--frobnicate`\nusage: "), "{said}");
    let output = agent(&["--root", "/nonexistent"]).env("FLEET_LOG", "a=b=c").output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn once_with_nothing_desired_is_fine() {
    let root = tempfile::tempdir().expect("folder");
    let (code, out, said) = ended(&["--once", "--root", root.path().to_str().expect("text")]);
    assert_eq!((code, out.trim()), (Some(0), ""), "{said}");
}

/// Ends the agent when a test fails half way.
struct Guard(Child);

impl Guard {
    fn ended(&mut self) -> ExitStatus {
        let given_up = Instant::now() + HANGS;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < given_up, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn ready_before_enrolled_and_gone_when_told() {
    let root = tempfile::tempdir().expect("folder");
    let address = root.path().join("notify");
    let socket = UnixDatagram::bind(&address).expect("bind");
    socket.set_read_timeout(Some(HANGS)).expect("timeout");
    let mut command = agent(&["--root", root.path().to_str().expect("text")]);
    command.env("NOTIFY_SOCKET", &address).env("WATCHDOG_USEC", "3000000").stderr(Stdio::null());
    let mut agent = Guard(command.spawn().expect("starts"));
    let hear = || {
        let mut heard = [0; 64];
        let n = socket.recv(&mut heard).expect("a word in time");
        String::from_utf8(heard[..n].to_vec()).expect("text")
    };
    assert_eq!(hear(), "READY=1");
    assert_eq!(hear(), "WATCHDOG=1");
    let pid = Pid::from_raw(i32::try_from(agent.0.id()).expect("a process id"));
    // The supervisor passes these on; an agent that ended by them would be rolled back.
    for meaningless in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
        kill(pid, meaningless).expect("signal");
        assert_eq!(hear(), "WATCHDOG=1", "{meaningless}");
        assert_eq!(hear(), "WATCHDOG=1", "{meaningless}");
    }
    kill(pid, Signal::SIGTERM).expect("signal");
    assert!(agent.ended().success());
    assert_eq!(hear(), "STOPPING=1");
}

/// Runs the agent below `root`, which is expected to end with one line on its standard error.
fn fails(root: &Path) -> String {
    let mut command = agent(&["--root", root.to_str().expect("text")]);
    let mut agent = Guard(command.env("FLEET_LOG", "error").stderr(Stdio::piped()).spawn().expect("starts"));
    assert_eq!(agent.ended().code(), Some(1));
    let mut said = String::new();
    agent.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
    said
}

#[test]
fn what_keeps_it_from_starting_is_one_line_and_an_end() {
    let check = |prepare: &dyn Fn(&Path), expected: &str| {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("var/lib/fleet-agent");
        fs::create_dir_all(&folder).expect("folder");
        prepare(&folder);
        let said = fails(root.path());
        assert!(said.contains(expected), "{said}");
    };
    let another = |folder: &Path| {
        fs::remove_dir(folder).expect("empty");
        fs::write(folder, "in the way").expect("file");
    };
    check(&another, "make the agent's folder");
    check(&|folder| fs::create_dir(folder.join("journal.json")).expect("folder"), "read the journal");
    check(&|folder| fs::create_dir(folder.join("schema")).expect("folder"), "schema");
    let newer = |folder: &Path| {
        let text = "fleet-agent-state 1\nschema 77\nwriter -\nbefore 1 -\n";
        fs::write(folder.join("schema"), text).expect("file");
    };
    check(&newer, "has schema 77, and this agent");
    let root = tempfile::tempdir().expect("folder");
    let folder = root.path().join("var/lib/fleet-agent");
    fs::create_dir_all(&folder).expect("folder");
    let lock = File::create(folder.join("lock")).expect("file");
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).expect("locked");
    assert!(fails(root.path()).contains("another agent is running"));
}

#[test]
fn the_version_that_comes_back_has_the_work_that_it_left() {
    let root = tempfile::tempdir().expect("folder");
    let folder = root.path().join("var/lib/fleet-agent");
    fs::create_dir_all(folder.join("work-2")).expect("folder");
    let program = fs::read(env!("CARGO_BIN_EXE_fleet-agent")).expect("program");
    let left = format!("before 1 {}", fleet_supervisor::digest::Digest::of(&program));
    let text = format!("fleet-agent-state 1\nschema 2\nwriter -\n{left}\n");
    fs::write(folder.join("schema"), text).expect("file");
    fs::write(folder.join("work-2/journal.json"), "of another form").expect("file");
    fs::write(folder.join("journal.json"), "{}").expect("file");
    let (code, _, said) = ended(&["--once", "--root", root.path().to_str().expect("text")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("a newer version was here"), "{said}");
    let marker = fs::read_to_string(folder.join("schema")).expect("there");
    assert!(marker.contains("schema 1\n") && !marker.contains("before"), "{marker}");
    assert!(!folder.join("work-2/journal.json").exists(), "it gives its space back");
}

#[test]
fn a_seed_that_makes_no_sense_is_told_once_until_there_is_another() {
    let root = tempfile::tempdir().expect("folder");
    let seed = root.path().join("etc/fleet-agent/enrol.json");
    fs::create_dir_all(seed.parent().expect("a folder")).expect("folder");
    let log = root.path().join("log");
    let mut command = agent(&["--root", root.path().to_str().expect("text")]);
    command.stderr(File::create(&log).expect("file"));
    let said = || fs::read_to_string(&log).expect("text");
    let until = |what: &str, times: usize| {
        let given_up = Instant::now() + HANGS;
        while said().matches(what).count() < times {
            assert!(Instant::now() < given_up, "never: {what}: {}", said());
            thread::sleep(Duration::from_millis(5));
        }
    };
    let beside = root.path().join("seed");
    let write = |text: &str| {
        fs::write(&beside, text).expect("file");
        fs::rename(&beside, &seed).expect("in its place");
    };
    let damaged = ["{", r#"{"fleet":"f","node":"n","token":"t","enrol_addresses":[],"trust_bundle":""}"#];
    write(damaged[0]);
    let mut agent = Guard(command.spawn().expect("starts"));
    until("the seed cannot be used", 1);
    write(damaged[1]);
    until("the seed cannot be used", 2);
    // It still listens, and all that time it said each thing once: it does not ask again what stays as it is.
    fs::remove_file(&seed).expect("removed");
    until("waiting for a seed", 1);
    let pid = Pid::from_raw(i32::try_from(agent.0.id()).expect("a process id"));
    kill(pid, Signal::SIGTERM).expect("signal");
    assert!(agent.ended().success());
    let said = said();
    assert_eq!(said.matches("the seed cannot be used").count(), 2, "{said}");
    assert_eq!(said.matches("next=").count(), 2, "each with what to do: {said}");
}
