//! Who may take a member of a database away for a while.

use std::{sync::Arc, time::Duration};

use fleet_controller::reconcile::restart::Turns;
use fleet_plan::ResolvedPlan;
use fleet_proto::v1::{self, Until, task_spec::Kind};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::{
    harness::{DEADLINE, Fixture, node, start_with},
    runs::{PLAN, apply, finish, fresh},
    world::World,
};

/// Two members; what lays out the replicas is on one of them.
fn plan() -> String {
    let member = "image: Debian 12, internet: [22], tasks: [{rethinkdb: {seed: three}}";
    PLAN.replace("{name: three, image: Debian 12, internet: [22]}", &format!("{{name: three, {member}, {{database: {{name: d, table: t, replicas: 1}}}}]}}\n          - {{name: four, {member}]}}"))
}

fn resolved(text: &str) -> ResolvedPlan {
    fleet_plan::load("plan.yaml", text, &Default::default()).unwrap_or_else(|why| panic!("{why}")).plan
}

async fn up(world: &World, text: &str, until: Until) -> Fixture {
    let fixture = start_with(fresh(), world).await;
    assert!(finish(apply(&fixture, text, until).await).await.1.ok);
    fixture
}

fn turns(fixture: &Fixture, patience: Duration) -> Turns {
    Turns::new(fixture.desk.clone(), patience)
}

/// Has the node say this of one of its tasks, whatever its looks find.
async fn saying(fixture: &Fixture, name: &str, kind: fn(&Kind) -> bool, reason: &str) {
    let registry = &fixture.desk.registry;
    loop {
        let view = registry.view(&node(name));
        let (desired, seen) = view.desired.zip(view.observed).expect("settled");
        let mut seen = v1::Observed::clone(&seen);
        let task = desired.tasks.iter().find(|task| task.kind.as_ref().is_some_and(kind)).expect("its task");
        let report = seen.tasks.iter_mut().find(|report| report.name == task.name).expect("reported");
        if report.reason != reason {
            reason.clone_into(&mut report.reason);
            registry.observed(&registry.live(&node(name)).expect("there"), seen);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn went<T>(turn: &Result<Option<T>, String>) -> bool {
    matches!(turn, Ok(Some(_)))
}

#[tokio::test]
async fn a_member_goes_only_while_the_others_are_whole() {
    let world = World::new();
    let fixture = up(&world, &plan(), Until::Ready).await;
    let (plan, desk, turns) = (resolved(&plan()), &fixture.desk, turns(&fixture, DEADLINE));
    for times in 1..=2 {
        assert!(went(&turns.next(&plan, &node("four")).await));
        let mut looks = world.looks();
        looks.sort();
        let looked = [vec![node("four"); times], vec![node("three"); times]].concat();
        assert_eq!(looks, looked, "what was said before is not believed");
    }
    assert!(matches!(turns.next(&plan, &node("one")).await, Ok(None)), "it serves no database");

    // The replicas are on their way: the task says that it is fine, and that somebody is missing.
    world.script(|script| {
        script.unsettled.insert("three", 1);
    });
    let short = Duration::from_millis(300);
    assert!(timeout(short, turns.next(&plan, &node("four"))).await.is_err());
    let left_so = "`d.t` has 5 replicas, more than 3, and is left so";
    let database = saying(&fixture, "three", |kind| matches!(kind, Kind::Database(_)), left_so);
    let four = node("four");
    let let_go = tokio::select! {
        let_go = turns.next(&plan, &four) => let_go,
        () = database => unreachable!("it says so for ever"),
    };
    assert!(went(&let_go), "what is left so is no obstacle: {:?}", let_go.err());

    // Somebody who is down keeps the rest on.
    assert!(timeout(short, turns.next(&plan, &node("three"))).await.is_err());
    drop(let_go);
    assert!(went(&turns.next(&plan, &node("three")).await));

    // One does not come back.
    desk.registry.live(&node("three")).expect("there").end(Status::aborted("a test"));
    fixture.until("it to go", || desk.registry.sessions() == 3).await;
    let hasty = self::turns(&fixture, Duration::from_secs(1));
    let why = hasty.next(&plan, &node("four")).await.err().expect("half of it is away");
    assert!(why.contains("waited 1 s for node `three`, which has no session"), "{why}");
    // Whom all others miss is what they wait for.
    let miss = "not in the cluster: three; in the cluster and not in the plan: five";
    let missed = saying(&fixture, "four", |kind| matches!(kind, Kind::Rethinkdb(_)), miss);
    let three = node("three");
    let let_go = tokio::select! {
        let_go = turns.next(&plan, &three) => let_go,
        () = missed => unreachable!("it says so for ever"),
    };
    assert!(went(&let_go), "{:?}", let_go.err());
    fixture.stop().await;
}

#[tokio::test]
async fn members_are_those_that_serve_it_now_whatever_the_plan_wants() {
    let world = World::new();
    let fixture = up(&world, &plan(), Until::Ready).await;
    // Not a member any more, and another name for what lays out the replicas: neither was given yet.
    let other = plan()
        .replace(
            "{name: four, image: Debian 12, internet: [22], tasks: [{rethinkdb: {seed: three}}]}",
            "{name: four, image: Debian 12, internet: [22]}",
        )
        .replace("{database: {name: d,", "{database: {name: e,");
    assert_ne!(other, plan());
    let turns = turns(&fixture, Duration::from_secs(5));
    let four = turns.next(&resolved(&other), &node("four")).await;
    assert!(went(&four), "{:?}", four.err());
    fixture.stop().await;
}

#[tokio::test]
async fn turns_do_not_overlap_and_whoever_waits_is_not_late() {
    let world = World::new();
    let fixture = up(&world, &plan(), Until::Ready).await;
    let (plan, turns) = (resolved(&plan()), Arc::new(turns(&fixture, Duration::from_secs(1))));
    let first = turns.next(&plan, &node("three")).await.expect("whole").expect("a member");
    let second = tokio::spawn({
        let (turns, plan) = (turns.clone(), plan.clone());
        async move { went(&turns.next(&plan, &node("four")).await) }
    });
    sleep(Duration::from_millis(1500)).await;
    assert!(!second.is_finished());
    drop(first);
    assert!(second.await.expect("ends"));
    fixture.stop().await;
}

#[tokio::test]
async fn servers_that_never_ran_an_agent_hold_no_database() {
    let world = World::new();
    let fixture = up(&world, &plan(), Until::Provisioned).await;
    let turns = turns(&fixture, Duration::ZERO);
    assert!(matches!(turns.next(&resolved(&plan()), &node("four")).await, Ok(None)));
    fixture.stop().await;
}
