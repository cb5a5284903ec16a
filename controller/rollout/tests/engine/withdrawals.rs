//! What a halt, a stopped line and an undo take back of what is under way, and who is too late to hear it.

use std::time::Duration;

use fleet_rollout::{Effect, Event, Finish, Kind, Phase, Policy, Standing, State, Step, explain};

use crate::{
    commands::{NODES, halt, started},
    world::{NEW, OLD, World, because, name, policy},
};

/// What stops a rollout, and the event that lets it go on.
fn stops() -> [(Event, Event); 3] {
    let (by, reason) = (|| "me".to_owned(), || "a doubt".to_owned());
    [
        (Event::Halt { by: by(), reason: reason() }, Event::Resume { retry: false }),
        (Event::StopLine { by: by(), reason: reason() }, Event::ClearLine),
        (Event::Hold { node: name("a"), reason: reason() }, Event::Release { node: name("a") }),
    ]
}

/// The canary's effects: what it is told.
fn withdrawn(world: &World) -> bool {
    world.last.iter().any(|effect| matches!(effect, Effect::Withdraw { .. }))
}

fn taken_from_a(world: &World) -> bool {
    let taken = |effect: &Effect| matches!(effect, Effect::Withdraw { node, .. } if *node == name("a"));
    world.last.iter().any(taken)
}

#[test]
fn whoever_fetches_is_stopped_as_well_and_goes_on_later() {
    for (stop, go_on) in stops() {
        let mut world = started();
        world.answer("a", "before", true);
        world.say("a", NEW, Step::Fetching);
        let order = world.rollout.nodes[&name("a")].order;
        world.event(stop.clone());
        assert!(withdrawn(&world), "{stop:?}: {:?}", world.last);
        // Words of before the withdrawal change nothing about it.
        world.say_of("a", order, NEW, Step::Fetching);
        world.connect("a");
        assert!(withdrawn(&world), "{stop:?}: said again");
        world.say("a", OLD, Step::Committed);
        assert_eq!(world.state("a"), State::Pending, "{stop:?}");
        assert!(!world.rollout.nodes[&name("a")].touched, "{stop:?}");
        world.event(go_on);
        // Another canary took the place of one that was held.
        let next = if matches!(stop, Event::Hold { .. }) { State::Pending } else { State::Held };
        assert_eq!(world.state("a"), next, "{stop:?}");
        world.replays();
    }
}

/// An agent whose disk was full could not even write down that it failed, and would begin again once there is room.
#[test]
fn what_failed_before_the_switch_is_taken_back_too() {
    for (kind, taken) in [(Kind::DiskFull, true), (Kind::NotReady, false)] {
        let mut world = started();
        world.answer("a", "before", true);
        let reason = because(kind);
        world.say("a", NEW, Step::Failed { reason: reason.clone() });
        assert_eq!(world.rollout.standing(), Standing::Halted, "{kind:?}");
        assert_eq!(withdrawn(&world), taken, "{kind:?}: {:?}", world.last);
        world.fail_over(Duration::from_secs(60));
        assert_eq!(withdrawn(&world), taken, "{kind:?}: said again: {:?}", world.last);
        // It has nothing in hand now; that it failed is known all the same, however long it takes.
        world.say("a", OLD, Step::Committed);
        world.wait(3600);
        assert_eq!(world.rollout.nodes[&name("a")].reason, Some(reason), "{kind:?}");
        assert_eq!(world.state("a"), State::Failed, "{kind:?}");
        world.event(Event::Resume { retry: true });
        assert_eq!(world.state("a"), State::Held, "{kind:?}");
        world.update("a");
        assert!(!world.rollout.nodes[&name("a")].withdrawn, "{kind:?}");
        world.replays();
    }
}

#[test]
fn whoever_switched_before_the_withdrawal_came_stays_on_trial() {
    for (stop, go_on) in stops() {
        let mut world = started();
        world.answer("a", "before", true);
        world.say("a", NEW, Step::Fetching);
        world.event(stop.clone());
        world.say("a", NEW, Step::Trial);
        assert_eq!(world.state("a"), State::Trial, "{stop:?}");
        world.event(go_on);
        assert_eq!(world.state("a"), State::Trial, "{stop:?}");
        world.say("a", NEW, Step::Committed);
        assert_eq!(world.state("a"), State::Proving, "{stop:?}");
    }
}

#[test]
fn whoever_goes_on_fetching_after_a_return_is_stopped_too() {
    let mut world = started();
    world.answer("a", "before", true);
    world.say("a", NEW, Step::Fetching);
    world.lose("a");
    world.wait(400);
    assert_eq!(world.state("a"), State::Silent);
    halt(&mut world);
    world.connect("a");
    world.say("a", NEW, Step::Fetching);
    assert!(withdrawn(&world), "{:?}", world.last);
}

/// What it was offered waits for it, and so does that this was taken back.
#[test]
fn who_fell_silent_before_it_began_hears_that_it_is_not_to() {
    let undo = (Event::Undo, Event::Undo);
    let supersede = (Event::Supersede, Event::Supersede);
    for (stop, go_on) in stops().into_iter().chain([undo, supersede]) {
        for (said, taken) in [(None, true), (Some(Step::Fetching), true), (Some(Step::Trial), false)] {
            let what = format!("{stop:?} after {said:?}");
            let mut world = World::new(Policy { gates: Vec::new(), ..policy() }, &NODES);
            world.window(true);
            NODES.into_iter().for_each(|node| world.connect(node));
            world.event(Event::Start);
            if let Some(step) = said.clone() {
                world.say("a", NEW, step);
            }
            world.lose("a");
            world.wait(400);
            assert_eq!(world.state("a"), State::Silent, "{what}");
            let order = world.rollout.nodes[&name("a")].order;
            world.event(stop.clone());
            assert_eq!(taken_from_a(&world), taken, "{what}: {:?}", world.last);
            world.fail_over(Duration::from_secs(60));
            world.connect("a");
            assert_eq!(taken_from_a(&world), taken, "{what}: {:?}", world.last);
            let again = |effect: &Effect| matches!(effect, Effect::Offer { node, back: false, .. } if *node == name("a"));
            assert!(!world.last.iter().any(again), "{what}: {:?}", world.last);
            if !taken || matches!(stop, Event::Undo | Event::Supersede) {
                world.replays();
                continue;
            }
            // It speaks before it has heard of that.
            world.say_of("a", order, OLD, Step::Committed);
            assert_eq!(world.state("a"), State::CatchingUp, "{what}");
            world.say_of("a", order, NEW, Step::Fetching);
            assert!(!world.rollout.nodes[&name("a")].withdrawn || taken_from_a(&world), "{what}");
            world.say("a", OLD, Step::Committed);
            assert_eq!(world.state("a"), State::Pending, "{what}");
            assert!(!world.rollout.nodes[&name("a")].touched, "{what}");
            world.event(go_on.clone());
            let next = if matches!(stop, Event::Hold { .. }) { State::Pending } else { State::Offered };
            assert_eq!(world.state("a"), next, "{what}");
            world.replays();
        }
    }
}

/// It goes on while somebody is away who had not begun: that is offered again once it is there.
#[test]
fn what_was_taken_back_of_somebody_who_is_away_is_not_for_ever() {
    for (stop, go_on) in stops() {
        let mut world = started();
        world.answer("a", "before", true);
        world.lose("a");
        world.wait(400);
        world.event(stop.clone());
        world.event(go_on);
        world.connect("a");
        assert!(!taken_from_a(&world), "{stop:?}: {:?}", world.last);
        assert_eq!(world.state("a"), State::Held, "{stop:?}");
        world.update("a");
        world.replays();
    }
}

#[test]
fn who_never_answers_a_withdrawal_is_silent_not_failed() {
    let mut world = started();
    world.answer("a", "before", true);
    world.say("a", NEW, Step::Fetching);
    halt(&mut world);
    world.wait(600);
    assert_eq!(world.state("a"), State::Silent);
    // It comes to itself, and its session was never lost.
    world.say("a", OLD, Step::Committed);
    world.event(Event::Resume { retry: false });
    world.update("a");
    world.replays();
}

/// Of what it was offered it says nothing, as long as it is stuck.
#[test]
fn who_is_silent_with_a_session_is_offered_it_again_once_it_speaks() {
    let mut world = World::new(Policy { gates: Vec::new(), ..policy() }, &NODES);
    world.window(true);
    NODES.into_iter().for_each(|node| world.connect(node));
    world.event(Event::Start);
    world.wait(130);
    assert_eq!((world.state("a"), world.rollout.standing()), (State::Silent, Standing::Running));
    let told = explain(&world.rollout, &name("a")).expect("known").to_string();
    assert!(!told.contains("over"), "{told}");
    assert!(told.contains("it has a session, and catches up"), "{told}");
    let order = world.rollout.nodes[&name("a")].order;
    // Of before the offer: it may take that still.
    world.say_of("a", order - 1, OLD, Step::Committed);
    assert_eq!(world.state("a"), State::Silent);
    world.say("a", OLD, Step::Committed);
    let again = |effect: &Effect| matches!(effect, Effect::Offer { node, .. } if *node == name("a"));
    assert!(world.state("a") == State::CatchingUp || world.last.iter().any(again), "{:?}", world.last);
    let next = NODES.into_iter().find(|node| *node != "a" && world.state(node) == State::Offered);
    world.say(next.expect("another canary"), NEW, Step::Committed);
    world.wait(20);
    assert_eq!(world.state("a"), State::Offered);
    world.replays();
}

#[test]
fn an_undo_while_the_line_is_stopped_leaves_withdrawals_standing() {
    let mut world = started();
    world.answer("a", "before", true);
    world.say("a", NEW, Step::Fetching);
    world.event(Event::StopLine { by: "me".into(), reason: "a doubt".into() });
    world.event(Event::Undo);
    world.connect("a");
    assert!(withdrawn(&world), "{:?}", world.last);
    world.say("a", OLD, Step::Committed);
    assert_eq!(world.state("a"), State::RolledBack);
    world.event(Event::ClearLine);
    assert_eq!(world.rollout.phase, Phase::Finished { finish: Finish::Undone });
}

#[test]
fn a_node_that_began_before_the_halt_is_shown_as_what_it_says() {
    let mut world = started();
    world.answer("a", "before", true);
    halt(&mut world);
    world.say("a", NEW, Step::Trial);
    assert_eq!(world.state("a"), State::Trial);
    assert_eq!(world.rollout.standing(), Standing::Halted);
}
