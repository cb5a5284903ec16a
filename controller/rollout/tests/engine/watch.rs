//! What is held against nodes that have the target while they are watched, and against those in the middle of it.

use std::{collections::BTreeMap, time::Duration};

use fleet_rollout::{
    Effect, Event, Health, Kind, Policy, Reason, Standing, State, Step, explain, outstanding,
};

use crate::world::{NEW, OLD, World, name, policy};

const NODES: [&str; 4] = ["a", "b", "c", "d"];

/// All are there, and the canary is on its way. With gates on both sides, or none.
fn started(gates: bool) -> World {
    let mut policy = policy();
    if !gates {
        policy.gates.clear();
    }
    let mut world = World::new(policy, &NODES);
    world.window(true);
    for node in NODES {
        world.connect(node);
    }
    world.event(Event::Start);
    world
}

/// The canary has the release, and is watched.
fn baking(gates: bool) -> World {
    let mut world = started(gates);
    if gates {
        world.update("a");
    } else {
        world.say_how("a", NEW, Step::Committed, health(&[], 7));
    }
    assert_eq!(world.rollout.standing(), Standing::Baking);
    world
}

fn health(failing: &[&str], crashes: u64) -> Health {
    let failing = failing.iter().map(|task| ((*task).to_owned(), "why".to_owned())).collect();
    Health { failing, crashes: Some(crashes) }
}

fn asked(world: &World, gate: &str) -> bool {
    world.last.iter().any(|effect| matches!(effect, Effect::Ask { gate: asked, .. } if asked == gate))
}

/// Lets time pass in which nobody says anything.
fn hush(world: &mut World, seconds: u64) {
    for _ in 0..seconds / 5 {
        world.now = world.now.after(Duration::from_secs(5));
        world.event(Event::Tick);
    }
}

fn why(world: &World, node: &str) -> String {
    explain(&world.rollout, &name(node)).expect("known").to_string()
}

/// Failed, told to go back, and everything stops; nobody else was touched.
fn stopped(world: &World, kind: Kind) {
    let canary = &world.rollout.nodes[&name("a")];
    assert_eq!(canary.state, State::Failed, "{canary:?}");
    assert_eq!(canary.reason.as_ref().map(|reason| reason.kind), Some(kind), "{canary:?}");
    assert!(canary.returning, "{canary:?}");
    let told = outstanding(&world.rollout);
    assert!(matches!(told.as_slice(), [Effect::Offer { back: true, .. }]), "{told:?}");
    assert_eq!(world.rollout.standing(), Standing::Halted);
    assert!(["b", "c", "d"].iter().all(|node| !world.rollout.nodes[&name(node)].touched));
    world.replays();
}

#[test]
fn a_gate_that_turns_bad_in_the_bake_is_a_failure() {
    let mut world = baking(true);
    hush(&mut world, 15);
    assert!(asked(&world, "after") && !asked(&world, "before"), "{:?}", world.last);
    world.answer("a", "after", false);
    assert_eq!(world.state("a"), State::Committed, "one no may be a restart of what is looked at");
    assert!(why(&world, "a").contains("gate after waits until"), "{}", why(&world, "a"));
    world.answer("a", "after", false);
    stopped(&world, Kind::GateAfter);
}

#[test]
fn a_gate_that_says_no_and_then_nothing_more_is_a_failure_too() {
    let mut world = baking(true);
    world.answer("a", "after", false);
    for _ in 0..24 {
        assert_eq!(world.state("a"), State::Committed);
        hush(&mut world, 5);
    }
    stopped(&world, Kind::GateAfter);
}

/// Somebody pulls a cable right after the no, or right after the last question: it is asked again first.
#[test]
fn a_gate_has_its_time_again_when_the_node_is_back() {
    for last in [false, true] {
        let mut world = baking(true);
        if last {
            hush(&mut world, 120);
            assert!(asked(&world, "after"), "{:?}", world.last);
        } else {
            world.answer("a", "after", false);
        }
        world.lose("a");
        hush(&mut world, 150);
        world.connect("a");
        hush(&mut world, 30);
        assert_eq!(world.state("a"), State::Committed, "asked last: {last}");
        world.answer("a", "after", true);
        world.wait(130);
        assert_eq!(world.rollout.wave, 1);
        world.replays();
    }
}

/// Its log holds no word about who is well, and what gates said in its bake moved nobody.
#[test]
fn a_log_of_before_comes_to_what_it_came_to() {
    let mut world = World::of_before(policy(), &NODES);
    world.window(true);
    for node in NODES {
        world.connect(node);
    }
    world.event(Event::Start);
    world.update("a");
    for _ in 0..2 {
        world.answer("a", "after", false);
    }
    hush(&mut world, 115);
    assert_eq!((world.rollout.wave, world.state("a")), (0, State::Committed));
    hush(&mut world, 10);
    assert_eq!((world.rollout.wave, world.state("a")), (1, State::Committed));
    hush(&mut world, 1200);
    assert_eq!(world.state("a"), State::Committed, "nobody waits to hear that it is well");
    assert!(world.rollout.awaited().is_empty());
    world.replays();
}

#[test]
fn a_bake_does_not_end_on_a_no_nor_on_what_was_answered_before_its_end() {
    let mut world = baking(true);
    hush(&mut world, 125);
    let nodes = [name("a")].into();
    world.event(Event::Well { nodes });
    assert_eq!(world.rollout.wave, 0, "its gates passed two minutes ago");
    world.answer("a", "after", false);
    hush(&mut world, 15);
    assert_eq!(world.rollout.wave, 0);
    world.answer("a", "after", true);
    assert_eq!(world.rollout.wave, 1);
    world.replays();
}

#[test]
fn a_gate_that_is_not_answered_at_the_end_is_no_pass() {
    let mut world = baking(true);
    hush(&mut world, 300);
    assert_eq!((world.state("a"), world.rollout.wave), (State::Silent, 0));
}

/// Answers that say what is known already are not stored: of thousands there are many.
#[test]
fn a_gate_that_passes_as_before_writes_nothing() {
    let mut world = baking(true);
    let seq = world.rollout.seq;
    hush(&mut world, 60);
    world.answer("a", "after", true);
    assert_eq!(world.rollout.seq, seq);
}

#[test]
fn a_task_that_fails_only_since_the_update_fails_the_node() {
    let mut world = started(false);
    world.say_how("a", OLD, Step::Committed, health(&["old trouble"], 0));
    world.say_how("a", NEW, Step::Committed, health(&["old trouble"], 0));
    assert_eq!(world.state("a"), State::Committed);
    world.say_how("a", NEW, Step::Committed, health(&["old trouble", "todo"], 0));
    stopped(&world, Kind::Work);
    assert!(why(&world, "a").contains("task `todo`, which did not before: why"), "{}", why(&world, "a"));
    let remembered = |effect: &Effect| matches!(effect, Effect::Remember { .. });
    assert!(world.last.iter().any(remembered), "{:?}", world.last);
}

#[test]
fn what_fails_by_the_time_of_another_try_is_not_held_against_that() {
    let mut world = started(false);
    world.say_how("a", OLD, Step::Committed, health(&[], 0));
    world.say("a", NEW, Step::RolledBack { reason: Reason::new(Kind::Crashed, "") });
    world.say_how("a", OLD, Step::Committed, health(&["old trouble"], 0));
    world.event(Event::Resume { retry: true });
    assert_eq!(world.state("a"), State::Offered);
    world.say_how("a", NEW, Step::Committed, health(&["old trouble"], 0));
    assert_eq!(world.state("a"), State::Committed);
    world.say_how("a", NEW, Step::Committed, health(&["old trouble", "todo"], 0));
    stopped(&world, Kind::Work);
}

#[test]
fn what_failed_before_is_known_of_nodes_that_wait_for_their_turn() {
    let mut world = started(false);
    world.say_how("b", OLD, Step::Committed, health(&["old trouble"], 0));
    world.say("a", NEW, Step::Committed);
    world.wait(130);
    for node in ["b", "c", "d"] {
        if world.state(node) == State::Offered {
            let failing: &[&str] = if node == "b" { &["old trouble"] } else { &[] };
            world.say_how(node, NEW, Step::Committed, health(failing, 0));
            assert_eq!(world.state(node), State::Committed);
        }
    }
}

/// Of a plan's work the node itself says whether it failed.
#[test]
fn what_fails_under_a_plan_is_for_the_node_to_say() {
    let mut policy = policy();
    policy.gates.clear();
    let mut world = World::of("plan:new", "plan:old", policy, &NODES);
    world.window(true);
    world.connect("a");
    world.event(Event::Start);
    world.say("a", "plan:new", Step::Committed);
    world.say_how("a", "plan:new", Step::Committed, health(&["todo"], 0));
    assert_eq!(world.state("a"), State::Committed);
}

#[test]
fn a_crash_after_the_commit_fails_the_node_and_one_before_it_does_not() {
    let mut world = baking(false);
    world.say_how("a", NEW, Step::Committed, health(&[], 7));
    assert_eq!(world.state("a"), State::Committed);
    // It began to count anew, whatever the reason.
    world.say_how("a", NEW, Step::Committed, health(&[], 2));
    assert_eq!(world.state("a"), State::Committed);
    world.say_how("a", NEW, Step::Committed, health(&[], 3));
    stopped(&world, Kind::Crashed);
}

/// One that crashes every eleven minutes, each time after its supervisor took it for proved, under a watch of an hour.
#[test]
fn a_version_that_crashes_now_and_then_does_not_outlive_a_long_watch() {
    let policy = Policy { gates: Vec::new(), canary_bake: Duration::from_secs(3600), ..policy() };
    let mut world = World::new(policy, &NODES);
    world.window(true);
    for node in NODES {
        world.connect(node);
    }
    world.event(Event::Start);
    world.say_how("a", NEW, Step::Committed, health(&[], 0));
    world.wait(660);
    world.lose("a");
    world.wait(10);
    world.connect("a");
    world.say_how("a", NEW, Step::Committed, health(&[], 1));
    stopped(&world, Kind::Crashed);
}

/// It takes the machine along, which is away for longer than it takes to count as silent.
#[test]
fn a_crash_is_held_against_the_version_however_long_the_node_is_away() {
    for (says, wanted) in [(NEW, State::Failed), (OLD, State::Committed)] {
        let mut world = baking(false);
        world.wait(130);
        let next = NODES.into_iter().find(|node| world.state(node) == State::Offered).expect("the next");
        world.say_how(next, NEW, Step::Committed, health(&[], 7));
        world.lose(next);
        world.wait(400);
        assert_eq!(world.state(next), State::Silent);
        world.connect(next);
        // Or it lost what it was brought, and is brought it once more: nothing of before counts then.
        world.say_how(next, says, Step::Committed, health(&[], 8));
        world.say_how(next, NEW, Step::Committed, health(&[], 8));
        assert_eq!(world.state(next), wanted, "{says}");
        world.replays();
    }
}

#[test]
fn an_agent_that_does_not_count_its_crashes_is_not_blamed_for_them() {
    let mut world = baking(false);
    let unsaid = Health { failing: BTreeMap::new(), crashes: None };
    world.say_how("a", NEW, Step::Committed, unsaid);
    world.wait(130);
    assert_eq!(world.rollout.wave, 1);
}

/// Its session is open still, as far as anybody knows: it died of what it was brought.
#[test]
fn a_node_of_which_nothing_is_heard_passes_no_bake() {
    for wave in [0, 1] {
        let mut world = baking(false);
        if wave == 1 {
            world.wait(130);
            for _ in 0..3 {
                let next = NODES.into_iter().find(|node| world.state(node) == State::Offered);
                world.say(next.expect("somebody's turn"), NEW, Step::Committed);
            }
        }
        let dead = if wave == 0 { "a" } else { "d" };
        world.unwell.insert(name(dead));
        world.wait(300);
        assert_eq!((world.rollout.wave, world.rollout.standing()), (wave, Standing::Baking));
        assert!(why(&world, dead).contains("has yet to be heard to be well"), "{}", why(&world, dead));
        // Its session lapses, and it falls silent.
        world.lose(dead);
        world.wait(310);
        assert_eq!(world.state(dead), State::Silent);
        world.replays();
    }
}

#[test]
fn a_node_that_answers_and_does_not_get_well_is_overdue_in_the_end() {
    let mut world = baking(false);
    world.unwell.insert(name("a"));
    world.wait(700);
    assert_eq!(world.rollout.standing(), Standing::Baking);
    hush(&mut world, 30);
    stopped(&world, Kind::Overdue);
}

/// Nobody is heard to be well before the time for that, and not for the bake before.
#[test]
fn words_from_before_the_end_of_the_bake_do_not_count() {
    let mut world = baking(false);
    hush(&mut world, 60);
    world.event(Event::Well { nodes: [name("a")].into() });
    hush(&mut world, 70);
    assert_eq!(world.rollout.wave, 0);
    assert_eq!(world.rollout.awaited(), [&name("a")]);
    world.event(Event::Well { nodes: [name("a")].into() });
    assert_eq!(world.rollout.wave, 1);
}

/// Who wants nobody watched for any time gets that.
#[test]
fn without_a_bake_the_word_of_the_node_is_enough() {
    let policy = Policy { canary_bake: Duration::ZERO, bake: Duration::ZERO, ..policy() };
    let mut world = World::new(policy, &NODES);
    world.window(true);
    world.connect("a");
    world.event(Event::Start);
    world.update("a");
    hush(&mut world, 20);
    assert_eq!(world.rollout.wave, 1);
}

/// A node restarts what the gate looks at, or the whole machine, and is away for so long that it counts as silent.
#[test]
fn a_gate_that_closes_fails_nobody_in_the_middle() {
    let mut world = started(true);
    world.answer("a", "before", true);
    world.say("a", NEW, Step::Trial);
    world.answer("a", "before", false);
    world.lose("a");
    world.wait(400);
    assert_eq!(world.state("a"), State::Silent);
    world.connect("a");
    assert_eq!(world.state("a"), State::Offered, "it is told once more, and not asked");
    world.answer("a", "before", false);
    // It waits for its own work to pause.
    for _ in 0..20 {
        world.say("a", NEW, Step::Busy { detail: "waits for its work".into() });
        world.wait(20);
    }
    assert_eq!(world.state("a"), State::Offered);
    world.say("a", NEW, Step::Committed);
    assert_eq!(world.state("a"), State::Proving);
}

#[test]
fn what_was_taken_back_or_cut_begins_with_its_gates() {
    let mut world = started(true);
    world.answer("a", "before", true);
    world.say("a", NEW, Step::Fetching);
    world.say("a", OLD, Step::Committed);
    assert_eq!(world.state("a"), State::Held, "nothing of it is under way");
    world.answer("a", "before", true);
    world.event(Event::Halt { by: "me".into(), reason: "a doubt".into() });
    world.lose("a");
    world.wait(400);
    world.event(Event::Resume { retry: false });
    world.connect("a");
    assert_eq!(world.state("a"), State::Held);
}

/// Minutes pass until a gate opens.
#[test]
fn a_window_that_closed_while_gates_were_asked_is_closed() {
    let mut world = started(true);
    world.window(false);
    world.answer("a", "before", true);
    assert_eq!(world.state("a"), State::Pending);
    world.window(true);
    assert_eq!(world.state("a"), State::Held);
}

#[test]
fn busy_has_a_deadline_of_its_own_and_hears_what_is_taken_back() {
    let mut world = started(false);
    world.say("a", NEW, Step::Fetching);
    for _ in 0..119 {
        world.say("a", NEW, Step::Busy { detail: "waits for its work".into() });
        world.wait(30);
    }
    assert_eq!(world.state("a"), State::Fetching, "far beyond the time for a fetch and a trial");
    let order = world.rollout.nodes[&name("a")].order;
    world.event(Event::Halt { by: "me".into(), reason: "a doubt".into() });
    let withdrawn = |effect: &Effect| matches!(effect, Effect::Withdraw { .. });
    assert!(world.last.iter().any(withdrawn), "{:?}", world.last);
    // Of an order before: it has not heard the newest yet, and has no hour more for that.
    world.say_of("a", order, NEW, Step::Busy { detail: "waits for its work".into() });
    world.wait(130);
    assert_eq!(world.state("a"), State::Silent);
}

#[test]
fn orders_rise_above_what_nodes_have_seen_before_the_store_was_restored() {
    let mut world = started(false);
    let first = world.rollout.nodes[&name("a")].order;
    world.say_of("a", 5000, OLD, Step::Committed);
    let again = world.last.iter().find_map(|effect| match effect {
        Effect::Offer { order, back: false, .. } => Some(*order),
        _ => None,
    });
    assert_eq!(again, Some(5001), "{:?}", world.last);
    assert!(first < 5000);
    // What it says next is about that.
    world.say("a", NEW, Step::Committed);
    world.wait(130);
    let next = NODES.into_iter().find(|node| world.state(node) == State::Offered).expect("somebody's turn");
    assert!(world.rollout.nodes[&name(next)].order < 100, "one node uses up nobody else's numbers");
    // Taken back and sent back by numbers above as well.
    world.say_of(next, 7000, OLD, Step::Committed);
    world.event(Event::Halt { by: "me".into(), reason: "a doubt".into() });
    assert!(world.rollout.nodes[&name(next)].order > 7001);
    world.say(next, OLD, Step::Committed);
    world.event(Event::Undo);
    assert!(world.rollout.nodes[&name("a")].order > 5001);
    world.replays();
}

/// There is no number above the last: whoever says it has seen that harms nobody but itself.
#[test]
fn a_node_that_has_seen_the_last_number_stops_nobody_else() {
    let mut world = started(false);
    world.say_of("a", u64::MAX, OLD, Step::Committed);
    world.say_of("a", u64::MAX, NEW, Step::Committed);
    world.wait(130);
    assert_eq!(world.rollout.wave, 1);
    world.replays();
}
