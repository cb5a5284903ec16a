//! What holds whatever happens. `World` checks after every event that nothing starts past a budget or while halted.

use std::time::Duration;

use fleet_rollout::{Event, Health, Kind, Policy, State, Step, advance, explain};
use proptest::prelude::*;

use crate::world::{NEW, OLD, World, because, name, policy};

const NODES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

#[derive(Clone, Debug)]
enum Move {
    Say(usize, u8, bool),
    Answer(usize, bool),
    Session(usize, bool),
    /// How it is: which task fails, how often its agent crashed; and the newest order it has seen.
    Fare(usize, bool, u64, u64),
    /// Whether it is well when it is asked at the end of a bake.
    Well(usize, bool),
    Command(u8),
    Wait(u64),
    Jump(i64),
    FailOver,
}

fn moves() -> impl Strategy<Value = Move> {
    let node = 0..NODES.len();
    prop_oneof![
        10 => (node.clone(), 0..6_u8, any::<bool>()).prop_map(|(n, s, new)| Move::Say(n, s, new)),
        8 => (node.clone(), any::<bool>()).prop_map(|(n, passed)| Move::Answer(n, passed)),
        6 => (node.clone(), any::<bool>()).prop_map(|(n, open)| Move::Session(n, open)),
        2 => (node.clone(), any::<bool>(), 0..3_u64, 0..60_u64).prop_map(|(n, f, c, o)| Move::Fare(n, f, c, o)),
        2 => (node, any::<bool>()).prop_map(|(n, well)| Move::Well(n, well)),
        3 => (0..9_u8).prop_map(Move::Command),
        4 => (10..400_u64).prop_map(Move::Wait),
        1 => (-1_000_000..1_000_000_i64).prop_map(Move::Jump),
        1 => Just(Move::FailOver),
    ]
}

fn make(world: &mut World, next: &Move) {
    let event = match *next {
        Move::Say(node, step, new) => {
            let step = match step {
                0 => Step::Committed,
                1 => Step::Fetching,
                2 => Step::Trial,
                3 => Step::Busy { detail: String::new() },
                4 => Step::Failed { reason: because(Kind::Other) },
                _ => Step::RolledBack { reason: because(Kind::Crashed) },
            };
            let node = name(NODES[node]);
            let order = world.rollout.nodes[&node].order;
            Event::Report { node, order, target: if new { NEW } else { OLD }.into(), step, health: None }
        }
        Move::Fare(node, fails, crashes, order) => {
            let failing = fails.then(|| ("task".to_owned(), "why".to_owned())).into_iter().collect();
            let health = Some(Health { failing, crashes: Some(crashes) });
            let node = name(NODES[node]);
            let order = world.rollout.nodes[&node].order.max(order);
            let new = world.rollout.nodes[&node].state == State::Committed;
            let target = if new { NEW } else { OLD }.into();
            Event::Report { node, order, target, step: Step::Committed, health }
        }
        Move::Well(node, well) => {
            let node = name(NODES[node]);
            if well {
                world.unwell.remove(&node)
            } else {
                world.unwell.insert(node)
            };
            return;
        }
        Move::Answer(node, passed) => {
            for gate in ["before", "after"] {
                world.answer(NODES[node], gate, passed);
            }
            return;
        }
        Move::Session(node, true) => Event::Connected { node: name(NODES[node]) },
        Move::Session(node, false) => Event::Lost { node: name(NODES[node]) },
        Move::Command(0) => Event::Halt { by: "me".into(), reason: "a doubt".into() },
        Move::Command(1 | 2) => Event::Resume { retry: false },
        Move::Command(3) => Event::Resume { retry: true },
        Move::Command(4) => Event::Undo,
        Move::Command(5) => Event::StopLine { by: "me".into(), reason: "a doubt".into() },
        Move::Command(6) => Event::ClearLine,
        Move::Command(7) => Event::SendBack { node: name("d"), by: "me".into() },
        Move::Command(_) => Event::Hold { node: name("c"), reason: "a doubt".into() },
        Move::Wait(seconds) => return world.wait(seconds),
        Move::Jump(seconds) => {
            let by = Duration::from_secs(seconds.unsigned_abs());
            world.now = if seconds < 0 { world.now.before(by) } else { world.now.after(by) };
            Event::Tick
        }
        Move::FailOver => return world.fail_over(Duration::from_secs(7200)),
    };
    // Random operators say what makes no sense; `World` checks that a refusal changes nothing.
    let _ = world.try_event(event);
}

/// No windows, no gates.
fn all_there_and_started() -> World {
    let policy = Policy { windows: Default::default(), gates: Vec::new(), ..policy() };
    let mut world = World::new(policy, &NODES);
    for node in NODES {
        world.connect(node);
    }
    world.event(Event::Start);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn whatever_happens_budgets_hold_and_the_log_gives_the_state(
        gates: bool,
        steps in proptest::collection::vec(moves(), 1..120),
    ) {
        let mut policy = Policy { windows: Default::default(), ..policy() };
        if !gates {
            policy.gates.clear();
        }
        let mut world = World::new(policy, &NODES);
        for node in NODES {
            world.connect(node);
        }
        world.event(Event::Start);
        for next in &steps {
            make(&mut world, next);
        }
        world.replays();
    }

    /// Many have it and are watched, and something that all need comes and goes, with the line stopped and without.
    #[test]
    fn whatever_fails_of_those_that_are_watched_they_go_back_within_the_budgets(
        steps in proptest::collection::vec(
            prop_oneof![
                6 => (0..NODES.len(), any::<bool>()).prop_map(|(node, passed)| Move::Answer(node, passed)),
                2 => (0..NODES.len(), any::<bool>()).prop_map(|(node, open)| Move::Session(node, open)),
                2 => (0..NODES.len(), Just(0), any::<bool>()).prop_map(|(n, s, new)| Move::Say(n, s, new)),
                2 => (1..7_u8).prop_map(Move::Command),
                1 => (10..100_u64).prop_map(Move::Wait),
                1 => Just(Move::FailOver),
            ],
            1..80,
        ),
    ) {
        let mut policy = Policy { windows: Default::default(), ..policy() };
        policy.gates.retain(|gate| gate.name == "after");
        policy.canaries.named = NODES.map(name).to_vec();
        let mut world = World::new(policy, &NODES);
        for node in NODES {
            world.connect(node);
        }
        world.event(Event::Start);
        for node in NODES {
            world.say(node, NEW, Step::Committed);
            world.answer(node, "after", true);
        }
        prop_assert!(NODES.iter().all(|node| world.state(node) == State::Committed));
        for next in &steps {
            make(&mut world, next);
        }
        world.replays();
    }

    /// From wherever chance led, a fleet whose nodes answer comes to an end, and every node to one outcome.
    #[test]
    fn every_rollout_ends_and_every_node_in_one_outcome(
        steps in proptest::collection::vec(moves(), 1..60),
    ) {
        let mut world = all_there_and_started();
        for next in &steps {
            make(&mut world, next);
        }
        world.event(Event::ClearLine);
        world.event(Event::Release { node: name("c") });
        world.unwell.clear();
        for node in NODES {
            world.connect(node);
        }
        for _ in 0..400 {
            if world.rollout.halt.is_some() {
                world.event(Event::Resume { retry: false });
            }
            let target = world.rollout.target().to_string();
            for node in NODES {
                if world.rollout.nodes[&name(node)].state.in_flight() {
                    world.say(node, &target, Step::Committed);
                }
            }
            world.wait(20);
        }
        for node in NODES {
            prop_assert!(
                world.rollout.outcome(&name(node)).is_some(),
                "{}, {:?}",
                explain(&world.rollout, &name(node)).expect("known"),
                world.rollout.phase
            );
            prop_assert!(!world.rollout.nodes[&name(node)].state.in_flight());
        }
        world.replays();
    }

    /// Words from before a rollout, or twice, or out of turn never stop the machine.
    #[test]
    fn the_same_input_gives_the_same_state(steps in proptest::collection::vec(moves(), 1..60)) {
        let run = || {
            let mut world = World::new(policy(), &NODES);
            world.window(true);
            world.event(Event::Start);
            steps.iter().for_each(|next| make(&mut world, next));
            world
        };
        let (mut one, mut other) = (run(), run());
        prop_assert_eq!(&one.rollout, &other.rollout);
        let now = one.now;
        let effects = advance(&mut one.rollout, Event::Tick, now);
        prop_assert_eq!(effects, advance(&mut other.rollout, Event::Tick, now));
    }
}

/// Found by the property above: failures heard of while the line was stopped belong to the wave that comes next.
#[test]
fn a_wave_with_too_many_failures_is_halted_before_it_starts() {
    let mut world = all_there_and_started();
    let moves = [
        Move::Say(0, 0, true),
        Move::Command(5),
        Move::Say(3, 4, true),
        Move::Wait(120),
        Move::Say(1, 4, true),
        Move::Command(6),
    ];
    for next in &moves {
        make(&mut world, next);
    }
    for _ in 0..40 {
        world.wait(20);
    }
    world.replays();
}

/// Found by the property above: the only canary failed, and all others took the release up by themselves.
#[test]
fn a_rollout_that_nobody_can_prove_any_more_ends() {
    let mut world = all_there_and_started();
    make(&mut world, &Move::Say(0, 2, true));
    make(&mut world, &Move::Wait(270));
    for node in 1..NODES.len() {
        make(&mut world, &Move::Say(node, 0, true));
    }
    for _ in 0..100 {
        world.wait(20);
        if world.rollout.halt.is_some() {
            world.event(Event::Resume { retry: false });
        }
    }
    assert!(world.rollout.outcome(&name("a")).is_some(), "{:?}", world.rollout.phase);
}
