//! Who may take a member of a database away for a while.

use std::{sync::Arc, time::Duration};

use fleet_controller::reconcile::restart::Turns;
use fleet_plan::ResolvedPlan;
use fleet_proto::v1::Until;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::{
    harness::{DEADLINE, Fixture, node, start_with},
    runs::{PLAN, apply, finish, fresh},
    world::{Says, World},
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

/// Has this task of a node say this from its next look on, though it is fine.
fn says(world: &World, of: (&'static str, &'static str), says: Says) {
    world.script(|script| {
        script.says.insert(of, says);
    });
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
    let let_go = turns.next(&plan, &node("four")).await;
    assert!(went(&let_go), "they have come: {:?}", let_go.err());

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
    let reason = "not in the cluster: three; in the cluster and not in the plan: five";
    says(&world, ("four", "rethinkdb"), Says { reason, missing: None });
    let why = hasty.next(&plan, &node("three")).await.err().expect("an older agent names nobody");
    assert!(why.contains("node `three`, which has no session"), "{why}");
    says(&world, ("four", "rethinkdb"), Says { reason, missing: Some(&["three"]) });
    let let_go = turns.next(&plan, &node("three")).await;
    assert!(went(&let_go), "{:?}", let_go.err());
    fixture.stop().await;
}

#[tokio::test]
async fn who_is_missing_is_not_read_out_of_words() {
    let world = World::new();
    let fixture = up(&world, &plan(), Until::Ready).await;
    let plan = resolved(&plan());
    let (left_so, misses) = ("`d.t` has 5 replicas, more than 3, and is left so", "not in the cluster: five");
    let old = " (its agent is too old to say whether a server is missing: update it)";
    // What `three` says, and what it keeps `four` on for.
    let check =
        async |task: &'static str, reason, missing: Option<&'static [_]>, expected: Option<String>| {
            says(&world, ("three", task), Says { reason, missing });
            let patience = if expected.is_some() { Duration::from_secs(1) } else { DEADLINE };
            let asked = turns(&fixture, patience).next(&plan, &node("four")).await;
            match expected {
                None => assert!(went(&asked), "{reason:?} {missing:?}: {:?}", asked.err()),
                Some(expected) => {
                    let why = asked.err().expect("it stays on");
                    let expected = format!("for task `{task}` of node `three`: {expected}; see");
                    assert!(why.contains(&expected), "{reason:?} {missing:?}: {why}");
                }
            }
            world.script(|script| script.says.clear());
        };
    for task in ["rethinkdb", "database"] {
        check(task, "", Some(&[]), None).await;
        check(task, left_so, Some(&[]), None).await;
        check(task, misses, Some(&[]), None).await;
        check(task, "", Some(&["five", "three"]), Some("not in the cluster: five, three".to_owned())).await;
        // An agent that does not know the field: its warning may be of somebody who is missing.
        check(task, "", None, None).await;
        check(task, misses, None, Some(format!("{misses}{old}"))).await;
        check(task, left_so, None, Some(format!("{left_so}{old}"))).await;
    }
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
