use std::sync::Arc;

use fleet_task::Outcome;

use super::*;
use crate::tasks::support::fake::Debian;

const DEBIAN: &str = "pool 2.debian.pool.ntp.org iburst\nsourcedir /etc/chrony/sources.d\n";
const SYNCHRONISED: &str = "A,192.0.2.1,3,1.0,0.0001,0.0,0.0,1.0,0.0,0.1,0.01,0.01,64.2,Normal\n";

fn task(servers: &[&str]) -> Clock {
    let servers = servers.iter().map(ToString::to_string).collect();
    Clock::new(TaskId::new("clock"), ClockTask { servers, most_offset_ms: 0 })
}

fn rig() -> (Arc<Debian>, crate::tasks::tests::Rig) {
    let (debian, rig) = Debian::rig(&[]);
    debian.brings("chrony", CONFIG, DEBIAN).tracks(SYNCHRONISED);
    (debian, rig)
}

#[tokio::test]
async fn chrony_is_installed_and_the_distributions_servers_are_left_alone() {
    let (debian, rig) = rig();
    assert_eq!(rig.changed(&task(&[])).await, ["install chrony"]);
    assert_eq!(rig.text(CONFIG), DEBIAN);
    assert!(!rig.path(SOURCES).exists());
    assert_eq!(debian.is_up(UNIT), (true, true));
    rig.unchanged(&task(&[])).await;
}

#[tokio::test]
async fn the_plans_servers_replace_the_distributions_and_give_way_again() {
    let (debian, rig) = rig();
    debian.has("chrony").unit(UNIT, false, false);
    std::fs::create_dir_all(rig.path("/etc/chrony")).expect("folder");
    std::fs::write(rig.path(CONFIG), DEBIAN).expect("configuration");
    let changes = rig.changed(&task(&["ntp.example"])).await;
    assert_eq!(
        changes,
        [
            "ask ntp.example",
            "leave out the distribution's `pool 2.debian.pool.ntp.org iburst`",
            "start chrony.service at boot",
            "start chrony.service",
        ]
    );
    assert_eq!(rig.text(SOURCES), "server ntp.example iburst\n");
    rig.unchanged(&task(&["ntp.example"])).await;
    rig.changed(&task(&[])).await;
    assert_eq!(rig.text(CONFIG), DEBIAN);
    assert!(!rig.path(SOURCES).exists());
    assert_eq!(debian.ran("restart").len(), 1, "once, for what had changed");
    rig.unchanged(&task(&[])).await;
}

#[tokio::test]
async fn only_what_was_damaged_is_touched() {
    let (debian, rig) = rig();
    rig.changed(&task(&["ntp.example"])).await;
    rig.unchanged(&task(&["ntp.example"])).await;
    debian.unit(UNIT, false, true);
    assert_eq!(rig.changed(&task(&["ntp.example"])).await, ["start chrony.service"]);
    std::fs::remove_file(rig.path(SOURCES)).expect("damage");
    let changes = rig.changed(&task(&["ntp.example"])).await;
    assert_eq!(changes[0], "ask ntp.example");
    debian.lost("chrony");
    assert_eq!(rig.changed(&task(&["ntp.example"])).await, ["install chrony"]);
    rig.unchanged(&task(&["ntp.example"])).await;
}

#[tokio::test]
async fn a_clock_that_is_off_is_a_warning_and_nobody_to_ask_is_none() {
    let (debian, rig) = rig();
    rig.changed(&task(&["ntp.example"])).await;
    debian.tracks(&SYNCHRONISED.replace("0.0001", "1.25"));
    let report = rig.run(Arc::new(task(&["ntp.example"]))).await;
    assert_eq!(report.outcome, Outcome::Unchanged);
    assert_eq!(report.warnings, ["the clock is 1.2 s behind its time servers; 500 ms are allowed"]);
    debian.tracks(&SYNCHRONISED.replace("Normal", "Not synchronised")).started_ago(UNIT, 30);
    let report = rig.run(Arc::new(task(&["ntp.example"]))).await;
    assert_eq!((report.outcome, report.warnings), (Outcome::Unchanged, Vec::new()));
    debian.started_ago(UNIT, 900);
    let report = rig.run(Arc::new(task(&["ntp.example"]))).await;
    assert_eq!(report.outcome, Outcome::Unchanged);
    assert!(report.warnings[0].starts_with("no time server has answered chrony"), "{report:?}");
}

#[tokio::test]
async fn somebody_elses_lock_is_waited_for() {
    let (debian, rig) = rig();
    debian.locked_by(9, "apt-get");
    let what = rig.waits(&task(&[])).await;
    assert_eq!(what, "apt-get (pid 9) to end, which holds /var/lib/dpkg/lock-frontend");
    debian.unlocked();
    rig.changed(&task(&[])).await;
}

#[tokio::test]
async fn bad_servers_are_refused_before_anything_is_written() {
    for server in ["", "-x", "a b", "a\npool evil", "a iburst", "#"] {
        let (debian, rig) = rig();
        debian.has("chrony");
        let why = rig.failed(&task(&["ntp.example", server])).await;
        assert!(why.contains("is neither a host name nor an address"), "{why}");
        assert!(!rig.path(SOURCES).exists());
        assert_eq!(debian.ran("").len(), 0);
    }
}

#[tokio::test]
async fn a_lost_configuration_is_made_again() {
    let (debian, rig) = rig();
    debian.has("chrony").unit(UNIT, true, true);
    let why = rig.failed(&task(&[])).await;
    assert!(why.contains("chrony.conf is gone") && why.contains("--reinstall"), "{why}");
    std::fs::create_dir_all(rig.path("/usr/share/chrony")).expect("folder");
    std::fs::write(rig.path(TEMPLATE), DEBIAN).expect("template");
    let changes = rig.changed(&task(&[])).await;
    assert_eq!(changes[0], "make /etc/chrony/chrony.conf from the package's");
    assert_eq!(rig.text(CONFIG), DEBIAN);
}
