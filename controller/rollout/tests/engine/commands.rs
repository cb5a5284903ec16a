//! What operators' words do.

use std::{collections::BTreeMap, time::Duration};

use fleet_model::Timestamp;
use fleet_rollout::{
    Effect, Event, Finish, Kind, Member, Outcome, Phase, Policy, Reason, Rollout, Spec, Standing, State,
    Step, Target, explain,
    policy::{Amount, Budgets},
    preview,
};
use serde_json::json;

use crate::world::{NEW, OLD, World, because, name, policy};

pub const NODES: [&str; 4] = ["a", "b", "c", "d"];

/// All are there, and the canary is on its way.
pub fn started() -> World {
    let mut world = World::new(policy(), &NODES);
    world.window(true);
    for node in NODES {
        world.connect(node);
    }
    world.event(Event::Start);
    world
}

/// The canary has proved the release, and the wave of all others has begun.
pub fn second_wave() -> World {
    let mut world = started();
    world.update("a");
    world.wait(130);
    assert_eq!(world.rollout.wave, 1);
    world
}

pub fn finished() -> World {
    let mut world = second_wave();
    for _ in 0..3 {
        let next = NODES.into_iter().find(|node| world.state(node) == State::Held).expect("somebody's turn");
        world.update(next);
    }
    world.wait(70);
    assert_eq!(world.rollout.phase, Phase::Finished { finish: Finish::Done });
    world
}

pub fn halt(world: &mut World) {
    world.event(Event::Halt { by: "me".into(), reason: "a doubt".into() });
}

#[test]
fn a_good_release_reaches_everybody() {
    let world = finished();
    for node in NODES {
        assert_eq!(world.rollout.outcome(&name(node)), Some(Outcome::Updated));
    }
    world.replays();
}

#[test]
fn a_preview_shows_what_then_happens() {
    let world = World::new(policy(), &NODES);
    let waves = preview(&world.rollout);
    assert_eq!(waves.iter().map(|wave| wave.nodes.len()).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(waves[0].nodes, [name("a")]);
    let first = waves[1].nodes[0].clone();
    assert_eq!(second_wave().rollout.nodes[&first].state, State::Held);
}

#[test]
fn commands_are_refused_where_they_make_no_sense() {
    let check = |mut world: World, event: Event, hint: &str| {
        let refused = world.try_event(event).expect_err("refused").to_string();
        assert!(refused.contains(hint), "{refused}");
    };
    let halt = || Event::Halt { by: "me".into(), reason: "a doubt".into() };
    let draft = || World::new(policy(), &NODES);
    check(draft(), halt(), "nothing happens before it is started");
    check(draft(), Event::Undo, "nothing was touched yet");
    check(draft(), Event::Resume { retry: false }, "only a halted one");
    check(started(), Event::Start, "see how it stands");
    check(started(), Event::Resume { retry: false }, "only a halted one");
    check(started(), Event::Connected { node: name("nobody") }, "`nobody` is no node of this rollout");
    let mut undoing = started();
    undoing.event(Event::Undo);
    check(undoing, Event::Undo, "it goes back already");
    let mut over = started();
    over.event(Event::Supersede);
    check(over, Event::Undo, "the rollout that took over");
    let mut stopped = started();
    stopped.event(Event::StopLine { by: "me".into(), reason: "a doubt".into() });
    check(stopped, Event::Resume { retry: false }, "clear the line instead");
}

#[test]
fn halting_takes_back_what_has_not_begun_and_resuming_offers_it_again() {
    let mut world = started();
    world.answer("a", "before", true);
    assert_eq!(world.state("a"), State::Offered);
    halt(&mut world);
    assert!(world.last.iter().any(|effect| matches!(effect, Effect::Withdraw { .. })));
    world.say("a", OLD, Step::Committed);
    assert_eq!(world.state("a"), State::Pending);
    world.event(Event::Resume { retry: false });
    assert_eq!(world.state("a"), State::Held);
}

#[test]
fn a_failed_canary_halts_with_list_and_reason_and_touches_nobody_else() {
    let mut world = started();
    world.answer("a", "before", true);
    world.say("a", NEW, Step::RolledBack { reason: because(Kind::Crashed) });
    world.wait(3600);
    let halt = world.rollout.halt.clone().expect("halted");
    assert_eq!(halt.nodes, [name("a")]);
    assert!(halt.reason.contains("of the canaries failed"), "{}", halt.reason);
    for node in ["b", "c", "d"] {
        assert!(!world.rollout.nodes[&name(node)].touched);
    }
}

#[test]
fn a_resumed_rollout_halts_at_the_next_failure_only() {
    let mut world = started();
    world.answer("a", "before", true);
    world.say("a", NEW, Step::RolledBack { reason: because(Kind::Crashed) });
    world.event(Event::Resume { retry: false });
    // The canary proved nothing, so another one is drawn.
    let next =
        ["b", "c", "d"].into_iter().find(|node| world.state(node) == State::Held).expect("a second canary");
    assert_eq!(world.rollout.standing(), Standing::Running);
    world.answer(next, "before", true);
    world.say(next, NEW, Step::RolledBack { reason: because(Kind::Crashed) });
    assert_eq!(world.rollout.standing(), Standing::Halted);
    world.replays();
}

#[test]
fn a_retry_offers_again_what_is_remembered_as_bad() {
    let mut world = started();
    world.answer("a", "before", true);
    world.say("a", NEW, Step::RolledBack { reason: because(Kind::Crashed) });
    let stale = world.rollout.nodes[&name("a")].order;
    world.event(Event::Resume { retry: true });
    world.say_of("a", stale, NEW, Step::RolledBack { reason: because(Kind::Crashed) });
    world.answer("a", "before", true);
    assert!(
        world.last.iter().any(|effect| matches!(effect, Effect::Offer { again: true, .. })),
        "{:?}",
        world.last
    );
}

#[test]
fn an_application_that_does_not_work_sends_the_node_back() {
    let mut world = started();
    world.answer("a", "before", true);
    world.say("a", NEW, Step::Committed);
    world.answer("a", "after", false);
    world.wait(130);
    assert_eq!(world.state("a"), State::Failed);
    assert_eq!(world.rollout.standing(), Standing::Halted);
    world.say("a", NEW, Step::Committed);
    assert_eq!(world.state("a"), State::Failed);
    world.say("a", OLD, Step::Committed);
    assert_eq!(world.state("a"), State::RolledBack);
    assert!(
        explain(&world.rollout, &name("a"))
            .expect("known")
            .to_string()
            .contains("a gate after it did not pass")
    );
}

#[test]
fn a_gate_nobody_answers_is_no_failure() {
    let mut world = started();
    world.answer("a", "before", true);
    world.say("a", NEW, Step::Committed);
    world.wait(130);
    assert_eq!(world.state("a"), State::Silent);
}

#[test]
fn a_late_crash_in_the_bake_halts() {
    let mut world = started();
    world.update("a");
    world.wait(90);
    assert_eq!(world.rollout.standing(), Standing::Baking);
    world.say("a", NEW, Step::RolledBack { reason: because(Kind::Crashed) });
    assert_eq!(world.rollout.standing(), Standing::Halted);
    world.wait(3600);
    assert!(["b", "c", "d"].iter().all(|node| world.state(node) == State::Pending));
}

#[test]
fn a_canary_that_is_away_when_its_bake_ends_is_waited_for() {
    for crashed in [false, true] {
        let mut world = World::new(Policy { gates: Vec::new(), ..policy() }, &NODES);
        world.window(true);
        for node in NODES {
            world.connect(node);
        }
        world.event(Event::Start);
        world.say("a", NEW, Step::Committed);
        world.wait(119);
        world.lose("a");
        world.wait(5);
        assert_eq!(world.rollout.wave, 0, "it is away");
        world.connect("a");
        world.wait(1);
        assert_eq!(world.rollout.wave, 0, "it has not said anything yet");
        if crashed {
            world.say("a", NEW, Step::RolledBack { reason: because(Kind::Crashed) });
            world.wait(600);
            assert_eq!((world.rollout.wave, world.rollout.standing()), (0, Standing::Halted));
        } else {
            world.say("a", NEW, Step::Committed);
            world.wait(120);
            assert_eq!(world.rollout.wave, 1);
        }
    }
}

#[test]
fn a_bake_nobody_watched_does_not_count() {
    let mut world = started();
    world.update("a");
    world.fail_over(Duration::from_secs(86_400));
    assert_eq!(world.rollout.wave, 0);
    world.wait(130);
    assert_eq!(world.rollout.wave, 1);
}

#[test]
fn undo_sends_back_whoever_was_touched_and_nobody_else() {
    let mut world = second_wave();
    let held = NODES.into_iter().find(|node| world.state(node) == State::Held).expect("somebody's turn");
    world.answer(held, "before", true);
    world.say(held, NEW, Step::Trial);
    world.event(Event::Undo);
    for node in ["a", held] {
        assert_eq!(world.state(node), State::Offered);
        world.say(node, OLD, Step::Trial);
        world.say(node, OLD, Step::Committed);
    }
    assert_eq!(world.rollout.phase, Phase::Finished { finish: Finish::Undone });
    for node in NODES {
        let expected = if node == "a" || node == held { Outcome::RolledBack } else { Outcome::Untouched };
        assert_eq!(world.rollout.outcome(&name(node)), Some(expected), "{node}");
    }
    world.replays();
}

#[test]
fn one_node_is_sent_back_and_stays_there_without_a_halt() {
    let mut world = finished();
    let check = |world: &mut World, node: &str, hint: &str| {
        let event = Event::SendBack { node: name(node), by: "me".into() };
        let refused = world.try_event(event).expect_err("refused").to_string();
        assert!(refused.contains(hint), "{refused}");
    };
    check(&mut world, "nobody", "no node of this rollout");
    world.event(Event::SendBack { node: name("b"), by: "me".into() });
    let told = world.last.clone();
    assert!(told.iter().any(|effect| matches!(effect, Effect::Offer { back: true, .. })), "{told:?}");
    // Whatever was lost is said again.
    world.fail_over(Duration::from_secs(60));
    assert!(world.last.iter().any(|effect| matches!(effect, Effect::Offer { back: true, .. })));
    world.say("b", OLD, Step::Trial);
    world.say("b", OLD, Step::Committed);
    assert_eq!(world.state("b"), State::RolledBack);
    assert_eq!(world.rollout.standing(), Standing::Finished);
    check(&mut world, "b", "has what it had before");
    world.wait(3600);
    assert_eq!(world.state("b"), State::RolledBack, "it is not offered the release again");
    assert_eq!(world.rollout.outcome(&name("b")), Some(Outcome::RolledBack));
    world.replays();
}

/// It was away, or could not go back, when an operator sent it; now all are sent.
#[test]
fn undo_reaches_whoever_was_sent_back_and_is_not() {
    for cannot in [false, true] {
        let mut world = finished();
        if !cannot {
            world.lose("b");
        }
        world.event(Event::SendBack { node: name("b"), by: "me".into() });
        if cannot {
            world.say("b", OLD, Step::Failed { reason: because(Kind::Other) });
        }
        world.event(Event::Undo);
        for node in ["a", "c", "d"] {
            world.wait(10);
            world.say(node, OLD, Step::Committed);
        }
        if !cannot {
            world.connect("b");
        }
        assert_eq!(world.state("b"), State::Offered, "it could not: {cannot}");
        world.say("b", OLD, Step::Committed);
        assert_eq!(world.rollout.phase, Phase::Finished { finish: Finish::Undone });
        assert_eq!(world.rollout.outcome(&name("b")), Some(Outcome::RolledBack));
        world.replays();
    }
    // What holds it for another reason holds it still.
    let mut world = finished();
    world.event(Event::SendBack { node: name("b"), by: "me".into() });
    world.event(Event::Hold { node: name("b"), reason: "a doubt".into() });
    world.event(Event::Undo);
    world.wait(60);
    assert_eq!(world.state("b"), State::CatchingUp);
}

#[test]
fn a_node_that_cannot_go_back_says_why() {
    let mut world = finished();
    world.event(Event::SendBack { node: name("b"), by: "me".into() });
    world.say("b", OLD, Step::Failed { reason: because(Kind::Other) });
    let why = explain(&world.rollout, &name("b")).expect("known").to_string();
    assert!(why.contains("an operator sent it back: me; it cannot go back: it failed"), "{why}");
    world.connect("b");
    assert!(world.last.is_empty(), "it is not told again: {:?}", world.last);
    world.replays();
}

#[test]
fn undo_of_a_finished_rollout_reaches_a_sleeper_later() {
    let mut world = finished();
    world.event(Event::Undo);
    world.lose("d");
    for node in ["a", "b", "c"] {
        world.say(node, OLD, Step::Committed);
    }
    world.wait(400);
    assert_eq!(world.rollout.outcome(&name("d")), Some(Outcome::Silent));
    world.connect("d");
    assert!(
        world.last.iter().any(|effect| matches!(effect, Effect::Offer { back: true, .. })),
        "{:?}",
        world.last
    );
    world.say("d", OLD, Step::Committed);
    assert_eq!(world.rollout.outcome(&name("d")), Some(Outcome::RolledBack));
}

#[test]
fn a_node_that_was_off_joins_its_wave_when_it_returns() {
    let mut world = World::new(Policy { gates: Vec::new(), ..policy() }, &NODES);
    world.window(true);
    for node in ["a", "b", "c"] {
        world.connect(node);
    }
    world.event(Event::Start);
    world.say("a", NEW, Step::Committed);
    world.wait(130);
    for node in ["b", "c"] {
        world.say(node, NEW, Step::Committed);
    }
    world.wait(400);
    assert_eq!(world.rollout.outcome(&name("d")), Some(Outcome::Silent));
    world.connect("d");
    assert_eq!(world.state("d"), State::Offered);
    world.say("d", NEW, Step::Committed);
    assert_eq!(world.rollout.outcome(&name("d")), Some(Outcome::Updated));
}

#[test]
fn an_absent_canary_is_replaced_not_passed() {
    let mut world = World::new(policy(), &NODES);
    world.window(true);
    for node in ["b", "c", "d"] {
        world.connect(node);
    }
    world.event(Event::Start);
    world.wait(400);
    assert_eq!(world.state("a"), State::Silent);
    assert_eq!(world.rollout.standing(), Standing::Running, "one that was away before is nobody's failure");
    assert_eq!(NODES.iter().filter(|node| world.state(node) == State::Held).count(), 1);
    assert_eq!(world.rollout.wave, 0);
}

#[test]
fn the_line_stops_everything_and_clearing_it_goes_on() {
    let mut world = started();
    world.event(Event::StopLine { by: "me".into(), reason: "a doubt".into() });
    assert_eq!(world.rollout.standing(), Standing::Halted);
    let why = explain(&world.rollout, &name("a")).expect("known").to_string();
    assert!(why.contains("the line is stopped: a doubt, by me"), "{why}");
    world.event(Event::ClearLine);
    assert_eq!(world.state("a"), State::Held);
    // A halt of its own outlives the line.
    world.event(Event::StopLine { by: "me".into(), reason: "a doubt".into() });
    halt(&mut world);
    world.event(Event::ClearLine);
    assert_eq!(world.rollout.standing(), Standing::Halted);
}

#[test]
fn a_stored_rollout_of_another_form_is_refused_with_a_reason() {
    let world = started();
    let text =
        serde_json::to_string(&world.rollout).expect("plain data").replace("\"schema\":1", "\"schema\":3");
    let error = serde_json::from_str::<Rollout>(&text).expect_err("another form").to_string();
    assert!(error.contains("stored in form 3"), "{error}");
}

/// A controller of the release before goes on with rollouts of releases, and leaves those of plans alone.
#[test]
fn releases_are_stored_as_they_always_were_and_plans_in_a_form_of_their_own() {
    let release = serde_json::to_value(&started().rollout).expect("plain data");
    assert_eq!((&release["schema"], &release["spec"]["release"]), (&json!(1), &json!(NEW)));
    assert_eq!(release["spec"]["previous"], json!(OLD));
    let mut spec = started().rollout.spec;
    spec.target = Target::Plan("aa".into());
    let members = NODES.iter().map(|node| Member::new(name(node))).collect();
    let drawn = Rollout::draft(spec, members, Timestamp::from_millis(0)).expect("sound");
    let plan = serde_json::to_value(&drawn).expect("plain data");
    assert_eq!((&plan["schema"], &plan["spec"]["release"]), (&json!(2), &json!("plan:aa")));
    assert_eq!(serde_json::from_value::<Rollout>(plan).expect("reads"), drawn);
}

/// Work that failed is told like anything else, and no release is remembered as bad for it.
#[test]
fn a_plan_whose_tasks_fail_on_the_canary_halts_and_goes_back() {
    let mut policy = policy();
    policy.gates.clear();
    let mut world = World::of("plan:new", "plan:old", policy, &NODES);
    for node in NODES {
        world.connect(node);
    }
    world.window(true);
    world.event(Event::Start);
    world.say("a", "plan:new", Step::Trial);
    let why = Reason::new(Kind::Work, "task `x` failed: no space");
    world.say("a", "plan:new", Step::Failed { reason: why });
    assert!(!world.last.iter().any(|effect| matches!(effect, Effect::Remember { .. })), "{:?}", world.last);
    assert_eq!(world.rollout.standing(), Standing::Halted);
    assert_eq!(world.rollout.halt.as_ref().expect("halted").nodes, [name("a")]);
    assert!(NODES[1..].iter().all(|node| !world.rollout.nodes[&name(node)].touched));
    let told = explain(&world.rollout, &name("a")).expect("known").to_string();
    assert!(told.contains("its work failed: task `x` failed: no space"), "{told}");
    world.event(Event::Undo);
    let back = world.last.iter().find_map(|effect| match effect {
        Effect::Offer { node, target, back: true, .. } => Some((node.clone(), target.clone())),
        _ => None,
    });
    assert_eq!(back, Some((name("a"), Target::Plan("old".into()))));
    world.say("a", "plan:old", Step::Committed);
    assert_eq!(world.rollout.phase, Phase::Finished { finish: Finish::Undone });
    world.replays();
}

#[test]
fn how_long_it_is_watched_is_told_by_the_wave() {
    let mut world = started();
    assert_eq!(world.rollout.bake_left(), None);
    world.update("a");
    world.wait(20);
    assert_eq!(world.rollout.bake_left(), Some(Duration::from_secs(100)), "of the canaries' two minutes");
    world.wait(110);
    assert_eq!(world.rollout.bake_left(), None);
}

/// Two may fail, and one that is out is one too many for anybody else to start: it cannot go on, and says so.
#[test]
fn a_rollout_that_can_never_go_on_halts_with_list_and_reason() {
    for cluster in [None, Some("todo".to_owned())] {
        let two = Budgets { failed: Amount::Count(2), ..Budgets::default() };
        let policy = Policy {
            canaries: fleet_rollout::policy::Canaries { named: vec![name("a")], drawn: Amount::Count(0) },
            waves: Vec::new(),
            canary_budgets: two,
            wave_budgets: two,
            budgets: two,
            ..Policy::of_plans()
        };
        let member = |node| Member { cluster: cluster.clone(), ..Member::new(name(node)) };
        let nodes = ["a", "b", "c", "d", "e"];
        let mut world = World::with(policy, nodes.map(member).to_vec());
        nodes.into_iter().for_each(|node| world.connect(node));
        world.event(Event::Start);
        world.say("a", NEW, Step::Committed);
        world.wait(60);
        let next = nodes.into_iter().find(|node| world.state(node) == State::Offered).expect("the next");
        world.say(next, NEW, Step::Failed { reason: because(Kind::Work) });
        world.wait(60);
        assert_eq!(world.rollout.standing(), Standing::Halted);
        let halt = world.rollout.halt.clone().expect("halted");
        assert_eq!(halt.nodes, [name(next)]);
        assert!(halt.reason.contains("nobody else can start any more"), "{}", halt.reason);
        assert!(halt.reason.contains("at most 1 may be"), "{}", halt.reason);
        // Once more, and it goes on.
        world.event(Event::Resume { retry: true });
        assert_eq!(world.rollout.standing(), Standing::Running);
        world.replays();
    }
}

#[test]
fn bounds_by_which_nobody_could_ever_start_are_refused() {
    let none = Budgets { in_flight: Amount::Count(0), unavailable: Amount::Percent(0), ..Budgets::default() };
    let policy = Policy { canary_budgets: none, wave_budgets: none, budgets: none, ..Policy::default() };
    let problems = policy.problems(&[Member::new(name("a"))]);
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    let (canary, wave) = ("canary_budgets", "wave_budgets");
    assert_eq!(fields, [canary, canary, wave, wave, "budgets", "budgets"]);
    assert!(problems[0].message.contains("inFlight: 1"), "{}", problems[0]);
    assert!(problems[1].message.contains("unavailable: 1"), "{}", problems[1]);
}

#[test]
fn every_problem_of_a_policy_is_told_at_once() {
    let policy = Policy {
        canaries: fleet_rollout::policy::Canaries {
            named: vec![name("nobody")],
            drawn: fleet_rollout::policy::Amount::Percent(200),
        },
        attempts: 0,
        ..policy()
    };
    let spec = Spec {
        id: "r".into(),
        target: NEW.into(),
        previous: Some(NEW.into()),
        policy,
        spare: BTreeMap::new(),
    };
    let problems = Rollout::draft(spec, Vec::new(), Timestamp::from_millis(0)).expect_err("nothing is right");
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["canaries", "canaries", "attempts", "nodes", "release"]);
}
