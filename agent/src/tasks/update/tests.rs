use std::fs;

use fleet_task::Outcome;

use super::*;
use crate::tasks::{
    support::fake::{Debian, Fault},
    tests::Rig,
};

fn task(reboot: bool) -> Update {
    Update::new(TaskId::new("update"), UpdateTask { every_hours: 24, reboot })
}

/// As if the last update were this old.
fn aged(rig: &Rig, hours: u64) {
    let at = now() - Duration::from_secs(hours * 3600);
    let stamp = Stamp { at_ms: u64::try_from(at.as_millis()).expect("fits"), upgraded: Vec::new() };
    fs::write(rig.path(STAMP), serde_json::to_vec(&stamp).expect("json")).expect("stamp");
}

#[tokio::test]
async fn packages_are_upgraded_when_due_and_named() {
    let (debian, rig) = Debian::rig(&[]);
    debian.has("openssl").has("bash").offers_newer("openssl", "3.0.2");
    assert_eq!(rig.changed(&task(false)).await, ["upgraded 1 packages: openssl 1.0 → 3.0.2"]);
    let stamp: Stamp = serde_json::from_str(&rig.text(STAMP)).expect("json");
    assert_eq!(stamp.upgraded, ["openssl 1.0 → 3.0.2"]);
    let before = debian.ran("").len();
    rig.unchanged(&task(false)).await;
    aged(&rig, 23);
    rig.unchanged(&task(false)).await;
    assert_eq!(debian.ran("").len(), before, "a look starts no program");
    aged(&rig, 25);
    assert_eq!(rig.changed(&task(false)).await, ["looked for newer packages: there are none"]);
    let updates = debian.ran(" update");
    assert!(updates.iter().all(|line| line.contains("Error-Mode=any")) && updates.len() == 2, "{updates:?}");
}

#[tokio::test]
async fn a_lock_is_waited_for_by_name_and_never_removed() {
    let (debian, rig) = Debian::rig(&[]);
    debian.locked_by(812, "unattended-upgrade");
    let what = rig.waits(&task(false)).await;
    assert_eq!(what, "unattended-upgrade (pid 812) to end, which holds /var/lib/dpkg/lock-frontend");
    assert!(rig.path("/var/lib/dpkg/lock-frontend").exists());
    assert_eq!(debian.ran("").len(), 0);
    debian.unlocked();
    rig.changed(&task(false)).await;
}

#[tokio::test]
async fn what_was_cut_off_is_finished_before_anything_else() {
    let (debian, rig) = Debian::rig(&[]);
    debian.half_done("openssl");
    aged(&rig, 1);
    assert_eq!(rig.changed(&task(false)).await, ["finish what an interrupted run left: openssl"]);
    assert_eq!(debian.ran("--configure -a").len(), 1);
    assert_eq!(debian.ran("upgrade").len(), 0, "an update is not due");
    rig.unchanged(&task(false)).await;
}

fn needs_reboot(rig: &Rig) {
    fs::write(rig.path("/run/reboot-required"), "").expect("mark");
    fs::write(rig.path("/run/reboot-required.pkgs"), "libc6\n").expect("mark");
}

#[tokio::test]
async fn a_reboot_is_only_told_unless_the_plan_wants_it() {
    let (debian, rig) = Debian::rig(&[]);
    aged(&rig, 1);
    needs_reboot(&rig);
    let report = rig.run(Arc::new(task(false))).await;
    assert_eq!(
        (report.outcome, report.warnings),
        (Outcome::Unchanged, vec!["a reboot is needed: for libc6".into()])
    );
    assert_eq!(debian.ran("reboot").len(), 0);
}

/// Is permitted to reboot, and does.
async fn reboots(debian: &Debian, rig: &Rig) {
    rig.controller.grant(PERMIT);
    debian.fault_at(0, Fault::DiesAfter);
    tokio::select! {
        _ = rig.run(Arc::new(task(true))) => panic!("it goes down"),
        () = debian.dead() => (),
    }
    assert_eq!(debian.ran("systemctl reboot").len(), 1);
    debian.revive();
    fs::write(rig.path("/proc/sys/kernel/random/boot_id"), "boot-2\n").expect("boot");
}

#[tokio::test]
async fn a_reboot_waits_for_the_permit_then_happens_once() {
    let (debian, rig) = Debian::rig(&[]);
    aged(&rig, 1);
    needs_reboot(&rig);
    let what = rig.waits(&task(true)).await;
    assert!(what.contains("reboot"), "{what}");
    assert_eq!(debian.ran("reboot").len(), 0);
    reboots(&debian, &rig).await;
    fs::remove_file(rig.path("/run/reboot-required")).expect("mark");
    let changes = rig.changed(&task(true)).await;
    assert_eq!(changes[0], "reboot: for libc6");
    rig.unchanged(&task(true)).await;
    assert_eq!(rig.controller.released(), [PERMIT]);
}

#[tokio::test]
async fn a_reboot_that_settles_nothing_is_not_repeated() {
    let (debian, rig) = Debian::rig(&[]);
    aged(&rig, 1);
    needs_reboot(&rig);
    reboots(&debian, &rig).await;
    let report = rig.run(Arc::new(task(true))).await;
    assert!(report.warnings[0].contains("a reboot did not change that"), "{report:?}");
    assert_eq!(debian.ran("systemctl reboot").len(), 1);
}

#[tokio::test]
async fn the_same_reason_after_another_upgrade_is_another_reboot() {
    let (debian, rig) = Debian::rig(&[]);
    aged(&rig, 1);
    needs_reboot(&rig);
    reboots(&debian, &rig).await;
    fs::remove_file(rig.path("/run/reboot-required")).expect("mark");
    rig.changed(&task(true)).await;
    // Weeks later the same library is upgraded again.
    debian.has("libc6").offers_newer("libc6", "2.1");
    aged(&rig, 25);
    rig.changed(&task(false)).await;
    needs_reboot(&rig);
    let report = rig.run(Arc::new(task(false))).await;
    assert_eq!(report.warnings, ["a reboot is needed: for libc6"], "not that one did not help");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_go_down_is_a_failure() {
    let (_debian, rig) = Debian::rig(&[]);
    aged(&rig, 1);
    needs_reboot(&rig);
    rig.controller.grant(PERMIT);
    let why = rig.failed(&task(true)).await;
    assert!(why.contains("still up after 300 s") && why.contains("list-jobs"), "{why}");
}

#[tokio::test]
async fn a_mirror_out_of_reach_is_a_clear_cause() {
    let (debian, rig) = Debian::rig(&[]);
    let stderr = "E: Failed to fetch http://deb.example/dists/x  Temporary failure resolving 'deb.example'\n";
    debian.answers(
        "apt-get",
        fleet_task::Output { code: Some(100), stdout: Vec::new(), stderr: stderr.into() },
    );
    let why = rig.failed(&task(false)).await;
    assert!(why.contains("packages could not be fetched: Failed to fetch http://deb.example"), "{why}");
    assert!(why.contains("next: see whether the node reaches the mirror"), "{why}");
    assert!(!rig.path(STAMP).exists());
}

#[tokio::test]
async fn a_mirror_out_of_reach_is_a_warning_once_it_was_reached() {
    let (debian, rig) = Debian::rig(&[]);
    debian.has("openssl").offers_newer("openssl", "2.0");
    aged(&rig, 51);
    let stderr = "E: Failed to fetch http://deb.example/dists/x  Could not connect\n";
    let output = fleet_task::Output { code: Some(100), stdout: Vec::new(), stderr: stderr.into() };
    debian.answers("apt-get", output);
    rig.changed(&task(false)).await;
    let report = rig.run(Arc::new(task(false))).await;
    assert_eq!(report.outcome, Outcome::Unchanged);
    let [warning] = report.warnings.as_slice() else { panic!("{report:?}") };
    assert!(
        warning.contains("Failed to fetch http://deb.example") && warning.contains("next: "),
        "{warning}"
    );
    assert!(warning.ends_with("that last worked 2 d 3 h ago"), "{warning}");
    assert_eq!(debian.ran("apt-get").len(), 1, "tried again in an hour, not at every look");
    // A reboot that is due is not forgotten over it.
    needs_reboot(&rig);
    assert_eq!(rig.run(Arc::new(task(false))).await.warnings.len(), 2);
    fs::remove_file(rig.path("/run/reboot-required")).expect("mark");
    // An hour later it works.
    debian.answers_no_more("apt-get");
    an_hour_later(&rig);
    assert_eq!(rig.changed(&task(false)).await, ["upgraded 1 packages: openssl 1.0 → 2.0"]);
    assert!(rig.run(Arc::new(task(false))).await.warnings.is_empty());
}

#[tokio::test]
async fn a_package_the_mirror_does_not_have_holds_nobody_back() {
    for first in [true, false] {
        let (debian, rig) = Debian::rig(&[]);
        debian.has("openssl").offers_newer("openssl", "2.0");
        if !first {
            aged(&rig, 51);
        }
        debian.mirror_lacks(Some("openssl"));
        let changes = rig.changed(&task(false)).await;
        assert_eq!(changes, ["looked for newer packages, and they could not be fetched"]);
        let report = rig.run(Arc::new(task(false))).await;
        assert_eq!(report.outcome, Outcome::Unchanged, "later tasks go on");
        let [warning] = report.warnings.as_slice() else { panic!("{report:?}") };
        assert!(warning.contains("openssl.deb  404  Not Found") && warning.contains("next: "), "{warning}");
        let last = if first { "that last worked never" } else { "that last worked 2 d 3 h ago" };
        assert!(warning.ends_with(last), "{warning}");
        assert_eq!(debian.ran(" upgrade").len(), 1, "tried again in an hour, not at every look");
        debian.mirror_lacks(None);
        an_hour_later(&rig);
        assert_eq!(rig.changed(&task(false)).await, ["upgraded 1 packages: openssl 1.0 → 2.0"]);
        assert!(rig.run(Arc::new(task(false))).await.warnings.is_empty());
    }
}

/// After what could not be fetched.
fn an_hour_later(rig: &Rig) {
    let (node, id) = (rig.node(), TaskId::new("update"));
    let mut tried = Unfetched::read(&node, &id).expect("remembered");
    tried.at_ms -= milliseconds(RETRY);
    let text = serde_json::to_string(&tried).expect("json");
    node.journal().remember(&id, UNFETCHED, &text).expect("journal");
}

#[tokio::test]
async fn a_reboot_that_waits_for_its_turn_holds_nobody_back() {
    let (_debian, rig) = Debian::rig(&[("/srv/.keep", "")]);
    aged(&rig, 1);
    needs_reboot(&rig);
    let update = task(true);
    assert!(rig.waits(&update).await.contains("reboot"));
    assert!(!update.holds());
    assert_eq!(rig.controller.asked(), [PERMIT], "it is asked for");
    // What is more than a reboot does hold them.
    aged(&rig, 25);
    update.check(&rig.node()).await.expect("look");
    assert!(update.holds());
}

#[test]
fn stamps_grow_old_and_wrong() {
    let check = |at_s: u64, now_s: u64, expected: Option<&str>| {
        let stamp = Stamp { at_ms: at_s * 1000, upgraded: Vec::new() };
        let found = due(Some(&stamp), Duration::from_secs(now_s), Duration::from_secs(7200));
        assert_eq!(found.as_deref(), expected);
    };
    check(0, 7199, None);
    check(0, 7200, Some("upgrade packages: the last time was 2 h ago"));
    check(3600, 0, None);
    check(3601, 0, Some("upgrade packages: the last time was by a clock that was wrong"));
    assert!(due(None, Duration::ZERO, Duration::ZERO).is_some());
}
