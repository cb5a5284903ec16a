//! When a server that runs may go away for a moment, and when it had better not.

use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

const ALL: [(&str, &str); 3] = [("EU6", "Amsterdam"), ("EU7seed", "Amsterdam"), ("EU8", "Amsterdam")];

/// A member that has something new to read at its next start.
async fn renewed() -> Bench {
    let bench = Bench::member().await;
    fs::write(bench.rig.path(KEY), "new key").expect("write");
    bench
}

fn restarts(bench: &Bench) -> usize {
    bench.ran("systemctl restart").len()
}

#[tokio::test(start_paused = true)]
async fn while_a_member_is_missing_or_something_is_wrong_it_stays() {
    let check = async |trouble: fn(&Bench), expected: &str| {
        let bench = renewed().await;
        let before = bench.ran("").len();
        trouble(&bench);
        let task = bench.task();
        assert_eq!(bench.rig.waits(&task).await, expected);
        assert!(!task.holds(), "later phases may mend it");
        assert_eq!(bench.rig.text(TLS[0]), "key", "nor is it given half of what is new");
        // An apply that was permitted before looks for itself.
        task.apply(&bench.rig.node()).await.expect("nothing to do");
        assert_eq!(
            (restarts(&bench), bench.ran("")[before..].iter().any(|line| !line.contains("show"))),
            (0, false)
        );
        assert_eq!(bench.rig.controller.released().last().map(String::as_str), Some("join/fleet"));
        // What is no matter of a restart is done all the same.
        bench.machine.debian.unit(UNIT, true, false);
        task.apply(&bench.rig.node()).await.expect("enabled");
        assert_eq!((restarts(&bench), bench.machine.debian.is_up(UNIT)), (0, (true, true)));
        bench.machine.cluster.set(&ALL);
        bench.rig.changed(&bench.task()).await;
        assert_eq!((restarts(&bench), bench.rig.text(TLS[0]).as_str()), (1, "new key"));
    };
    let before = "before rethinkdb@fleet.service is restarted with what is new";
    check(|b| b.machine.cluster.set(&ALL[..2]), &format!("EU8 to be in the cluster, {before}")).await;
    check(
        |b| {
            b.machine.cluster.state().view.as_mut().expect("set").issues =
                vec!["Table `todo.tasks` is available, but some replicas are not ready.".into()];
        },
        &format!(
            "the cluster to have no issues, {before} (RethinkDB says: Table `todo.tasks` is available, but some \
             replicas are not ready.)"
        ),
    )
    .await;
    check(
        |b| {
            let state = &mut b.machine.cluster.state();
            state.view.as_mut().expect("set").servers.remove(2);
            state.view.as_mut().expect("set").unclear = vec!["EU8".into()];
        },
        &format!("EU8 to be in the cluster, {before}"),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_serves_nobody_is_restarted_to_be_let_in_again() {
    let check = async |trouble: fn(&Bench)| {
        let bench = renewed().await;
        trouble(&bench);
        bench.rig.changed(&bench.task()).await;
        assert_eq!((restarts(&bench), bench.rig.text(TLS[0]).as_str()), (1, "new key"));
    };
    check(|b| b.machine.cluster.set(&ALL[..1])).await;
    check(|b| b.machine.cluster.state().view = None).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_fails_is_finished_in_the_same_turn() {
    let bench = renewed().await;
    let asked = bench.rig.controller.asked().len();
    bench.machine.debian.dies(UNIT, "error: it cannot bind");
    let why = bench.rig.failed(&bench.task()).await;
    assert!(why.contains("it cannot bind"), "{why}");
    // Its own permit is the only one it ever wants, and none is between a server that is down and its start.
    bench.rig.controller.revoke("join/fleet");
    bench.machine.debian.unit(UNIT, false, true);
    bench.rig.changed(&bench.task()).await;
    let wanted = &bench.rig.controller.asked()[asked..];
    assert!(!wanted.is_empty() && wanted.iter().all(|permit| permit == "join/fleet"), "{wanted:?}");
    assert_eq!(bench.machine.debian.is_up(UNIT), (true, true));
}

#[tokio::test(start_paused = true)]
async fn the_less_is_left_of_a_certificate_the_less_is_waited_for() {
    let day = Duration::from_secs(24 * 3600);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let check = async |until: Duration, permitted: bool, waits: Option<&str>| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("ca");
        let mut leaf = CertificateParams::default();
        leaf.not_after = rcgen::date_time_ymd(1970, 1, 1) + until;
        let leaf = leaf.signed_by(&KeyPair::generate().expect("key"), &issuer).expect("signed").pem();
        let bench = Bench::allowed();
        fs::write(bench.rig.path(CERTIFICATE), leaf).expect("write");
        fs::write(bench.rig.path(CA), issuer.pem()).expect("write");
        bench.rig.changed(&bench.task()).await;
        // The controller is back after long: there is a new one, and the seed is alone with its own.
        if !permitted {
            bench.rig.controller.revoke("join/fleet");
        }
        bench.machine.cluster.set(&[("EU6", "Amsterdam"), ("EU8", "Amsterdam")]);
        fs::write(bench.rig.path(CERTIFICATE), "new").expect("write");
        match waits {
            Some(what) => assert!(bench.rig.waits(&bench.task()).await.contains(what)),
            None => drop(bench.rig.changed(&bench.task()).await),
        }
        assert_eq!(bench.ran("systemctl restart").len(), usize::from(waits.is_none()), "{until:?}");
    };
    // It ran out: without anybody's leave.
    check(now - day, false, None).await;
    // It is about to: one at a time, and not for a member that may never come back.
    check(now + day / 2, false, Some("its turn for `join/fleet`")).await;
    check(now + day / 2, true, None).await;
    check(now + 2 * day, true, Some("EU7seed to be in the cluster")).await;
}
