//! The finished program: flags, readiness, signals.

use std::{
    os::unix::net::UnixDatagram,
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
    kill(pid, Signal::SIGTERM).expect("signal");
    assert!(agent.ended().success());
    assert_eq!(hear(), "STOPPING=1");
}
