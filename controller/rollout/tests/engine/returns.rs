//! The way back of nodes that failed with what they were brought: many at once where something fails that all need.

use std::time::Duration;

use fleet_rollout::{
    Effect, Event, Kind, Member, Policy, Standing, State, Step, explain,
    policy::{Amount, Budgets, Canaries, Check, Gate, When},
};

use crate::world::{NEW, OLD, World, name};

const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Bounds that allow everything, but for failures.
fn wide() -> Budgets {
    let all = Amount::Percent(100);
    Budgets { in_flight: all, unavailable: all, failed: Amount::Count(1), silent: all }
}

fn policy() -> Policy {
    Policy {
        canaries: Canaries { named: NODES.map(name).to_vec(), drawn: Amount::Count(0) },
        waves: Vec::new(),
        canary_budgets: wide(),
        wave_budgets: wide(),
        budgets: wide(),
        gates: vec![Gate {
            name: "after".into(),
            when: When::After,
            check: Check::TodoRoundTrip,
            deadline: Duration::from_secs(120),
        }],
        ..Policy::default()
    }
}

/// All have it, and are watched in one wave.
fn watched(policy: Policy, cluster: bool) -> World {
    let member = |node| Member { cluster: cluster.then(|| "todo".to_owned()), ..Member::new(name(node)) };
    let mut world = World::with(policy, NODES.map(member).to_vec());
    NODES.into_iter().for_each(|node| world.connect(node));
    world.event(Event::Start);
    for node in NODES {
        world.say(node, NEW, Step::Committed);
        world.answer(node, "after", true);
    }
    assert!(NODES.iter().all(|node| world.state(node) == State::Committed));
    world
}

/// What the gate looks at is gone, for everybody.
fn fail(world: &mut World) {
    for node in NODES.into_iter().chain(NODES) {
        world.answer(node, "after", false);
    }
    assert!(NODES.iter().all(|node| world.state(node) == State::Failed));
    assert_eq!(world.rollout.standing(), Standing::Halted);
}

fn told(world: &World) -> Vec<&'static str> {
    NODES.into_iter().filter(|node| world.rollout.nodes[&name(node)].returning).collect()
}

fn why(world: &World, node: &str) -> String {
    explain(&world.rollout, &name(node)).expect("known").to_string()
}

/// Everybody who is told goes back, and only then the next are told; at most `at_once`.
fn all_go_back(world: &mut World, at_once: usize) {
    let mut gone = Vec::new();
    while gone.len() < NODES.len() {
        let now: Vec<_> = told(world).into_iter().filter(|node| !gone.contains(node)).collect();
        assert!((1..=at_once).contains(&now.len()), "{now:?} after {gone:?}");
        // It has what it failed with until it says otherwise.
        for node in NODES.into_iter().filter(|node| !gone.contains(node)) {
            world.say(node, NEW, Step::Committed);
            assert_eq!(world.state(node), State::Failed);
        }
        world.fail_over(Duration::from_secs(60));
        let back = |effect: &&Effect| matches!(effect, Effect::Offer { back: true, .. });
        assert_eq!(world.last.iter().filter(back).count(), now.len(), "{:?}", world.last);
        world.say(now[0], OLD, Step::Committed);
        assert_eq!(world.state(now[0]), State::RolledBack);
        gone.push(now[0]);
    }
    world.replays();
}

#[test]
fn members_of_a_cluster_go_back_one_after_the_other() {
    let mut world = watched(policy(), true);
    fail(&mut world);
    assert_eq!(told(&world).len(), 1);
    let waits = NODES.into_iter().find(|node| !told(&world).contains(node)).expect("others");
    assert!(why(&world, waits).contains("cluster todo can spare 1"), "{}", why(&world, waits));
    assert!(
        why(&world, waits).contains("it is to go back, and waits for its turn"),
        "{}",
        why(&world, waits)
    );
    assert!(!why(&world, waits).contains("it was told"), "{}", why(&world, waits));
    all_go_back(&mut world, 1);
}

#[test]
fn no_more_go_back_at_once_than_may_change_at_once() {
    for (in_flight, unavailable, at_once) in [(2, 5, 2), (5, 2, 2), (1, 1, 1)] {
        let bounds = Budgets {
            in_flight: Amount::Count(in_flight),
            unavailable: Amount::Count(unavailable),
            ..wide()
        };
        let mut world = watched(Policy { budgets: bounds, ..policy() }, false);
        fail(&mut world);
        all_go_back(&mut world, at_once);
    }
}

#[test]
fn nobody_is_told_to_go_back_while_the_line_is_stopped() {
    let mut world = watched(policy(), true);
    world.event(Event::StopLine { by: "me".into(), reason: "a doubt".into() });
    fail(&mut world);
    world.wait(60);
    world.fail_over(Duration::from_secs(60));
    assert!(told(&world).is_empty(), "{:?}", told(&world));
    assert!(why(&world, "a").contains("the line is stopped"), "{}", why(&world, "a"));
    world.event(Event::ClearLine);
    all_go_back(&mut world, 1);
}

/// One that was told and is not heard of again is a place less for those that start, and not for ever.
#[test]
fn who_does_not_go_back_keeps_nobody_else_for_ever() {
    let bounds = Budgets { in_flight: Amount::Count(1), ..wide() };
    let mut world = watched(Policy { budgets: bounds, ..policy() }, false);
    fail(&mut world);
    assert_eq!(told(&world).len(), 1);
    world.wait(700);
    assert_eq!(told(&world).len(), 1);
    world.wait(30);
    assert_eq!(told(&world).len(), 2);
    world.replays();
}

/// What failed stays failed to an operator who tries it once more or takes all of it back.
#[test]
fn whoever_waits_for_its_way_back_does_what_an_operator_says_instead() {
    for retry in [false, true] {
        let mut world = watched(policy(), true);
        fail(&mut world);
        world.event(if retry { Event::Resume { retry } } else { Event::Undo });
        assert!(world.rollout.nodes.values().all(|node| !node.returns));
        let offered = world.rollout.nodes.values().filter(|node| node.state == State::Offered).count();
        assert_eq!(offered, 1, "one of them at a time");
        assert!(
            world
                .rollout
                .nodes
                .values()
                .all(|node| { node.reason.as_ref().is_none_or(|reason| reason.kind == Kind::GateAfter) })
        );
        world.replays();
    }
}
