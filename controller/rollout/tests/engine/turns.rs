//! Who may start when: windows, and members of a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fleet_model::Timestamp;
use fleet_rollout::{
    Event, Member, Obstacle, Policy, Rollout, Spec, Standing, State, Step, explain,
    policy::{Amount, Budgets, Canaries, Weekday, Window},
    preview,
};

use crate::{
    commands::{NODES, started},
    world::{self, NEW, OLD, World, name},
};

#[test]
fn a_closed_window_holds_and_says_when_it_opens() {
    let mut world = started();
    world.update("a");
    world.window(false);
    world.wait(130);
    let node = name("b");
    let told = explain(&world.rollout, &node).expect("known");
    assert!(
        told.obstacles.iter().any(|o| matches!(o, Obstacle::WindowClosed { opens: Some(_), .. })),
        "{told}"
    );
    world.window(true);
    assert!(NODES.iter().any(|node| world.state(node) == State::Held));
}

fn reference_fleet() -> (Rollout, Timestamp) {
    let members = (0..5)
        .map(|i| Member { cluster: Some("todo".into()), seed: i == 0, ..Member::new(name(&format!("n{i}"))) })
        .collect();
    let spec = Spec {
        id: "r".into(),
        target: NEW.into(),
        previous: Some(OLD.into()),
        policy: Policy {
            waves: Vec::new(),
            budgets: fleet_rollout::policy::Budgets {
                in_flight: fleet_rollout::policy::Amount::Percent(100),
                unavailable: fleet_rollout::policy::Amount::Percent(100),
                ..Default::default()
            },
            wave_budgets: fleet_rollout::policy::Budgets {
                in_flight: fleet_rollout::policy::Amount::Percent(100),
                unavailable: fleet_rollout::policy::Amount::Percent(100),
                ..Default::default()
            },
            ..Policy::default()
        },
        spare: BTreeMap::from([("todo".into(), 1)]),
    };
    let now = Timestamp::from_millis(0);
    (Rollout::draft(spec, members, now).expect("sound"), now)
}

#[test]
fn database_nodes_go_one_by_one_and_the_seed_last() {
    let (mut rollout, mut now) = reference_fleet();
    let mut order = Vec::new();
    let send =
        |rollout: &mut Rollout, event, now| fleet_rollout::advance(rollout, event, now).expect("lawful");
    for i in 0..5 {
        send(&mut rollout, Event::Connected { node: name(&format!("n{i}")) }, now);
    }
    send(&mut rollout, Event::Start, now);
    for _ in 0..1000 {
        let busy: Vec<_> = rollout.nodes.values().filter(|n| n.state.in_flight()).collect();
        assert!(busy.len() <= 1);
        if let Some(node) = busy.first() {
            let (node, at) = (node.member.node.clone(), node.order);
            order.push(node.to_string());
            let event =
                Event::Report { node, order: at, target: NEW.into(), step: Step::Committed, health: None };
            send(&mut rollout, event, now);
        }
        now = now.after(Duration::from_secs(10));
        send(&mut rollout, Event::Tick, now);
        let nodes = rollout.awaited().into_iter().cloned().collect();
        send(&mut rollout, Event::Well { nodes }, now);
    }
    assert_eq!(rollout.standing(), Standing::Finished);
    assert_eq!(order.len(), 5);
    assert_eq!(order[4], "n0");
}

/// What it was ordered before it fell silent may go on, and its place is taken as long as it has not said otherwise.
#[test]
fn who_is_back_in_the_middle_of_its_trial_counts_before_it_says_so() {
    for (cluster, says) in [(true, Step::Trial), (false, Step::Trial), (false, Step::Committed)] {
        let zone =
            |zone: &str| Window { zone: zone.into(), days: vec![Weekday::Monday], from: 0, until: 1440 };
        let one = Budgets { in_flight: Amount::Count(1), ..world::policy().budgets };
        let policy = Policy {
            gates: Vec::new(),
            windows: BTreeMap::from([("X".into(), zone("Z"))]),
            canaries: Canaries { named: vec![name("a"), name("b")], drawn: Amount::Count(0) },
            canary_budgets: if cluster { Budgets { in_flight: Amount::Count(9), ..one } } else { one },
            budgets: if cluster { Budgets { in_flight: Amount::Count(9), ..one } } else { one },
            ..world::policy()
        };
        let member = |node: &str, location: &str| Member {
            location: location.into(),
            cluster: cluster.then(|| "todo".to_owned()),
            ..Member::new(name(node))
        };
        let mut world = World::with(policy, vec![member("a", "X"), member("b", "Y")]);
        world.window(true);
        world.connect("a");
        world.connect("b");
        world.event(Event::Hold { node: name("b"), reason: "a doubt".into() });
        world.event(Event::Start);
        world.say("a", NEW, Step::Trial);
        world.lose("a");
        world.wait(400);
        assert_eq!(world.state("a"), State::Silent);
        world.event(Event::Offsets { seconds_ahead: BTreeMap::new() });
        world.event(Event::StopLine { by: "me".into(), reason: "a doubt".into() });
        world.event(Event::Release { node: name("b") });
        world.connect("a");
        world.event(Event::ClearLine);
        assert_eq!((world.state("a"), world.state("b")), (State::CatchingUp, State::Pending));
        let back = says == Step::Committed;
        world.say("a", if back { OLD } else { NEW }, says);
        assert_eq!(world.state("b"), if back { State::Offered } else { State::Pending });
        assert_eq!(world.state("a"), if back { State::CatchingUp } else { State::Trial });
        world.replays();
    }
}

#[test]
fn no_member_starts_while_another_is_away() {
    let (mut rollout, now) = reference_fleet();
    let send = |rollout: &mut Rollout, event| fleet_rollout::advance(rollout, event, now).expect("lawful");
    for i in 0..4 {
        send(&mut rollout, Event::Connected { node: name(&format!("n{i}")) });
    }
    send(&mut rollout, Event::Start);
    assert!(rollout.nodes.values().all(|node| !node.state.in_flight()));
    let canary = preview(&rollout)[0].nodes[0].clone();
    let told = explain(&rollout, &canary).expect("known");
    assert!(told.obstacles.iter().any(|o| matches!(o, Obstacle::Cluster { .. })), "{told}");
}

#[test]
fn a_member_that_has_no_part_in_it_is_missed_by_its_cluster_all_the_same() {
    let (mut rollout, now) = reference_fleet();
    let send = |rollout: &mut Rollout, event| fleet_rollout::advance(rollout, event, now).expect("lawful");
    let beside = |out: &[&str]| {
        let out = out.iter().map(|node| name(node)).collect::<BTreeSet<_>>();
        Event::Beside { out: BTreeMap::from([("todo".to_owned(), out)]) }
    };
    for i in 0..5 {
        send(&mut rollout, Event::Connected { node: name(&format!("n{i}")) });
    }
    send(&mut rollout, beside(&["elsewhere"]));
    send(&mut rollout, Event::Start);
    assert!(rollout.nodes.values().all(|node| !node.state.in_flight()));
    let canary = preview(&rollout)[0].nodes[0].clone();
    let told = explain(&rollout, &canary).expect("known").to_string();
    assert!(told.contains("elsewhere is out"), "{told}");
    send(&mut rollout, beside(&[]));
    assert_eq!(rollout.nodes.values().filter(|node| node.state.in_flight()).count(), 1);
    assert!(send(&mut rollout, beside(&[])).is_empty(), "said twice");
}
