//! Releases that are no good: the old version is back by itself each time, and the new one remembered with its reason.

use std::{fs, os::unix::process::CommandExt, process::Command};

use fleet_supervisor::{
    digest::Digest,
    install,
    record::{Terms, Why},
};

use crate::support::{Node, SHORT_WATCHDOG_US, program};

fn terms(trial_ms: u64) -> Terms {
    Terms { tries: 3, trial_ms, ceiling_ms: 60_000 }
}

/// Far longer than any of these takes: what ends a trial is then not the time.
const LONG: u64 = 50_000;

fn check(manner: &str, trial_ms: u64, reason: &str) {
    let mut node = Node::new();
    comes_back(&mut node, manner, trial_ms, reason);
}

/// The same, with somebody who watches closely.
fn check_watched(manner: &str, reason: &str) {
    let mut node = Node::new();
    node.prepare = |command| {
        command.env("WATCHDOG_USEC", SHORT_WATCHDOG_US);
    };
    comes_back(&mut node, manner, LONG, reason);
}

fn comes_back(node: &mut Node, manner: &str, trial_ms: u64, reason: &str) {
    node.start();
    node.heard("READY=1");
    let bad = program("new", manner);
    node.install("new", &bad, terms(trial_ms)).expect("install");
    node.agent_exits();
    node.wait("the failure", |node| node.state().failure(Digest::of(&bad)).is_some());
    node.wait("the old agent", |node| node.runs() == "old");
    assert_eq!(node.active().version, "old");
    let failed = node.state().failure(Digest::of(&bad)).cloned().expect("remembered");
    assert!(failed.reason.contains(reason), "{manner}: {}", failed.reason);
    assert!(matches!(node.install("new", &bad, terms(trial_ms)), Err(install::Error::FailedBefore { .. })));
    node.drain();
    node.heard("WATCHDOG=1");
}

#[test]
fn crashes_at_start() {
    check("crash", LONG, "it exited with status 3, after 3 starts");
}

#[test]
fn hangs_at_start() {
    check_watched("hang", "it hung: no sign of life, after 3 starts");
}

#[test]
fn hangs_at_start_and_nobody_watches() {
    let mut node = Node::new();
    node.prepare = |command| {
        command.env_remove("WATCHDOG_USEC");
    };
    comes_back(&mut node, "hang", 300, "it was not ready in time");
}

#[test]
fn hangs_after_it_was_ready() {
    check_watched("silent", "it hung");
}

#[test]
fn is_ready_but_never_commits() {
    check("uncommitted", 300, "it was ready and did not commit in time");
}

#[test]
fn healthy_then_crashes() {
    check("late", LONG, "it exited with status 4, after its commit");
}

#[test]
fn commits_and_leaves_unasked() {
    check("leaves", LONG, "it exited unasked, after its commit");
}

#[test]
fn leaves_before_it_commits() {
    check("gone", LONG, "it exited unasked, after 3 starts");
}

#[test]
fn needs_more_memory_than_there_is() {
    let mut node = Node::new();
    node.prepare = |command: &mut Command| {
        let limit = || {
            let most = libc::rlimit { rlim_cur: 256 << 20, rlim_max: 256 << 20 };
            // SAFETY: plain system call on a local struct.
            match unsafe { libc::setrlimit(libc::RLIMIT_AS, &most) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: the closure only makes a system call.
        unsafe { command.pre_exec(limit) };
    };
    comes_back(&mut node, "greedy", LONG, "signal 6 ended it, after 3 starts");
}

#[test]
fn artifact_that_changed_on_disk() {
    let mut node = Node::new();
    node.start();
    node.heard("READY=1");
    let good = program("new", "good");
    let slot = node.install("new", &good, terms(LONG)).expect("install");
    let path = node.slots.program(slot);
    let mut bytes = fs::read(&path).expect("program");
    bytes[100] ^= 1;
    fs::remove_file(&path).expect("remove");
    fs::write(&path, bytes).expect("write");
    node.agent_exits();
    node.wait("the failure", |node| node.state().failure(Digest::of(&good)).is_some());
    node.wait("the old agent again", |node| node.starts("old") >= 2);
    assert_eq!(node.starts("new"), 0);
}

#[test]
fn artifact_that_is_no_program() {
    let mut node = Node::new();
    node.start();
    node.heard("READY=1");
    node.install("new", b"\x7fELF, but no more", terms(LONG)).expect("install");
    node.agent_exits();
    node.wait("the old agent again", |node| node.starts("old") >= 2);
    let failed = node.state().failed.pop().expect("remembered");
    assert!(failed.reason.contains("after 3 starts"), "{}", failed.reason);
}

#[test]
fn a_controller_that_is_away_fails_nobody() {
    let mut node = Node::new();
    node.start();
    node.heard("READY=1");
    // It asks for more time three hundred times, once each 20 ms: longer than its trial.
    node.install("new", &program("new", "extending"), terms(5_000)).expect("install");
    node.agent_exits();
    node.wait("its first start", |node| node.starts("new") > 0);
    node.wait("the end of its trial", |node| node.state().trial.is_none());
    assert_eq!((node.active().version.as_str(), node.state().failed), ("new", Vec::new()));
}

#[test]
fn a_controller_that_stays_away_has_the_old_one_back_and_condemns_nobody() {
    let mut node = Node::new();
    node.start();
    node.heard("READY=1");
    let lonely = program("new", "lonely");
    let terms = Terms { tries: 3, trial_ms: LONG, ceiling_ms: 1_000 };
    // As often as it is asked for: each time it goes back, and may be asked for once more.
    for turn in 1..=2 {
        node.install("new", &lonely, terms.clone()).expect("install");
        node.agent_exits();
        node.wait("its start", |node| node.starts("new") >= turn);
        node.wait("the end of its trial", |node| node.state().trial.is_none());
        node.wait("the old agent", |node| node.runs() == "old");
        assert_eq!((node.active().version.as_str(), node.state().failed), ("old", Vec::new()));
        assert!(node.state().untried, "nobody goes back to it");
        assert_eq!(node.starts("new"), turn, "one start is as long as a trial may be");
    }
    // One that never asked for more time was given all it had.
    let idle = program("idle", "uncommitted");
    let terms = Terms { tries: 3, trial_ms: 300, ceiling_ms: 300 };
    node.install("idle", &idle, terms).expect("install");
    node.agent_exits();
    node.wait("its failure", |node| node.state().failure(Digest::of(&idle)).is_some());
    node.wait("the old agent", |node| node.runs() == "old");
    assert_eq!(node.state().failure(Digest::of(&idle)).map(|failed| failed.why), Some(Why::Late));
}

#[test]
fn a_good_version_stays_and_can_be_sent_back() {
    let mut node = Node::new();
    node.start();
    node.heard("READY=1");
    let good = program("new", "good");
    node.install("new", &good, terms(LONG)).expect("install");
    node.agent_exits();
    node.wait("the commit", |node| node.active().version == "new");
    node.heard("READY=1");
    // A stop in order, and another start: still the new one.
    node.kill(libc::SIGTERM);
    node.start();
    node.wait("its second start", |node| node.starts("new") >= 2);
    install::go_back(&mut node.slots, "slow", "back-1").expect("ask");
    node.agent_exits();
    node.wait("the old one", |node| node.runs() == "old" && node.active().version == "old");
    assert_eq!(
        node.state().failure(Digest::of(&good)).map(|failed| failed.reason.clone()),
        Some("sent back: slow".into())
    );
    match install::go_back(&mut node.slots, "once more", "back-2") {
        Err(install::Error::FailedBefore { reason }) => assert_eq!(reason, "sent back: slow"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_that_is_gone_back_to_and_crashes_makes_room_again() {
    let mut node = Node::new();
    node.prepare = |command| {
        command.args(["--probation-ms", "50"]);
    };
    node.start();
    node.heard("READY=1");
    let spent = program("spent", "spent");
    node.install("spent", &spent, terms(LONG)).expect("install");
    node.agent_exits();
    node.wait("its proof", |node| node.active().version == "spent" && node.state().probation.is_none());
    let good = program("good", "good");
    node.install("good", &good, terms(LONG)).expect("install");
    node.agent_exits();
    node.wait("the next one's proof", |node| {
        node.active().version == "good" && node.state().probation.is_none()
    });
    install::go_back(&mut node.slots, "slow", "1000").expect("ask");
    node.agent_exits();
    node.wait("its failure", |node| node.state().failure(Digest::of(&spent)).is_some());
    node.wait("the other one", |node| node.runs() == "good" && node.active().version == "good");
    let reason = node.state().failure(Digest::of(&spent)).map(|failed| failed.reason.clone());
    assert_eq!(reason.as_deref(), Some("it exited with status 3, after it was gone back to"));
    assert_eq!(node.state().failure(Digest::of(&good)), None);
    node.drain();
    node.heard("WATCHDOG=1");
}

#[test]
fn the_way_back_stays_until_a_version_has_proved_itself() {
    let mut node = Node::new();
    node.start();
    node.heard("READY=1");
    node.install("new", &program("new", "good"), terms(LONG)).expect("install");
    node.agent_exits();
    node.wait("the commit", |node| node.active().version == "new");
    let next = program("next", "good");
    match node.install("next", &next, terms(LONG)) {
        Err(install::Error::OnProbation) => (),
        other => panic!("{other:?}"),
    }
    // A supervisor that needs less of a proof.
    node.kill(libc::SIGTERM);
    node.prepare = |command| {
        command.args(["--probation-ms", "10"]);
    };
    node.start();
    node.wait("the proof", |node| node.state().probation.is_none());
    node.install("next", &next, terms(LONG)).expect("install");
}

#[test]
fn systemd_hears_of_an_end_only_when_all_ends() {
    let mut node = Node::new();
    node.start();
    node.heard("READY=1");
    node.install("new", &program("new", "farewell"), terms(LONG)).expect("install");
    node.agent_exits();
    node.wait("the failure", |node| !node.state().failed.is_empty());
    node.wait("the old agent again", |node| node.runs() == "old");
    assert!(!node.has_heard("STOPPING=1"));
    node.kill(libc::SIGTERM);
    node.heard("STOPPING=1");
}

#[test]
fn an_agent_that_is_told_to_stop_on_trial_loses_no_try() {
    let mut node = Node::new();
    node.start();
    node.heard("READY=1");
    node.install("new", &program("new", "uncommitted"), terms(LONG)).expect("install");
    node.agent_exits();
    for turn in 1..=5 {
        node.wait("its start", |node| node.starts("new") >= turn);
        node.kill(libc::SIGTERM);
        assert_eq!(node.state().trial.expect("still on trial").tries, 0);
        node.start();
    }
}

/// A file system of 8 MB of its own, gone with the test.
struct Small(std::path::PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn full_disk() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("small");
    fs::create_dir(&path).expect("folder");
    // Room for five programs and some records; an installation needs three beside the one that runs.
    let one = program("old", "good").len();
    let size = 5 * one + (2 << 20);
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
        .arg(&path)
        .status();
    assert!(mounted.is_ok_and(|status| status.success()), "only root may mount a file system of its own");
    let small = Small(path.clone());
    let mut node = Node::within(folder, Some(path.join("slots")));
    // Declared last and so gone first: nothing removes a folder that something is mounted on.
    let _small = small;
    node.start();
    node.heard("READY=1");
    let good = program("new", "good");
    fs::write(path.join("ballast"), vec![1; 4 * one + (3 << 19)]).expect("ballast");
    match node.install("new", &good, terms(LONG)) {
        Err(install::Error::Space { needed, free }) => assert!(needed > free),
        other => panic!("{other:?}"),
    }
    fs::remove_file(path.join("ballast")).expect("remove");
    node.install("new", &good, terms(LONG)).expect("there is room now");
    // The disk is full when the trial should begin: it cannot be counted, so the old one runs on.
    let mut ballast = fs::File::create(path.join("ballast")).expect("ballast");
    while std::io::Write::write(&mut ballast, &[1; 4096]).is_ok_and(|n| n > 0) {}
    node.agent_exits();
    node.wait("the old agent again", |node| node.starts("old") >= 2);
    assert_eq!((node.starts("new"), node.active().version.as_str()), (0, "old"));
    drop(ballast);
    fs::remove_file(path.join("ballast")).expect("remove");
    node.agent_exits();
    node.wait("the commit", |node| node.active().version == "new");
}
