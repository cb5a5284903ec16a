//! What the simulation must show.

use fleet_rollout::{Outcome, Policy};

use crate::{
    agents::{Fault, Release, fleet as agents},
    engine::{Engine, RELEASE},
    fleet::{Fleet, Strategy as _},
    report,
};

/// Storms, clones and sleepers are no fault of a release: nobody goes back, nothing halts, all that return are updated.
#[test]
fn a_good_release_reaches_all_through_storms_clones_and_sleep() {
    for seed in 1..=2 {
        let mut engine = Engine::new(report::AGENTS, Policy::default(), "r", RELEASE);
        let run = report::run(&mut engine, Release::Good, seed);
        assert_eq!(run.false_rollbacks, 0, "seed {seed}");
        assert_eq!(run.halted_at, None, "seed {seed}: {:?}", engine.rollout.halt);
        assert!(engine.finished(), "seed {seed}");
        let outcomes = |outcome| {
            engine.rollout.nodes.keys().filter(|name| engine.rollout.outcome(name) == Some(outcome)).count()
        };
        let updated = outcomes(Outcome::Updated);
        assert_eq!(updated, run.updated, "seed {seed}: what is believed is what is");
        // Whoever never returned is silent, and nobody else.
        assert_eq!(updated + outcomes(Outcome::Silent), report::AGENTS, "seed {seed}");
        assert!(updated >= report::AGENTS * 95 / 100, "seed {seed}: {updated}");
    }
}

/// A release that is bad everywhere touches the canary and nobody else, also when it is bad only after its commit.
#[test]
fn a_bad_release_stops_at_the_canary() {
    for fault in [Fault::Crash, Fault::Hang, Fault::LateCrash] {
        for seed in 1..=2 {
            let mut engine = Engine::new(report::AGENTS, Policy::default(), "r", RELEASE);
            let run = report::run(&mut engine, Release::Bad(fault), seed);
            assert_eq!(run.touched, 1, "{fault:?}, seed {seed}");
            assert!(run.halted_at.is_some() && run.updated == 0, "{fault:?}, seed {seed}");
        }
    }
}

/// Faults of single hosts stay below the thresholds: they are set aside and listed, and all others get the release.
#[test]
fn an_uneven_release_neither_loses_nor_blocks_anybody_silently() {
    let mut engine = Engine::new(report::AGENTS, Policy::default(), "r", RELEASE);
    let run = report::run(&mut engine, Release::Uneven, 1);
    assert_eq!(run.false_rollbacks, 0);
    assert!(engine.finished(), "{:?}", engine.rollout.halt);
    let count = |outcome| report::ends(&engine).iter().filter(|end| **end == Some(outcome)).count();
    assert_eq!(count(Outcome::Updated), run.updated);
    assert!(count(Outcome::RolledBack) > 0);
    assert_eq!(count(Outcome::Updated) + count(Outcome::RolledBack) + count(Outcome::Silent), report::AGENTS);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let once = || {
        let mut engine = Engine::new(200, Policy::default(), "r", RELEASE);
        let fleet = Fleet::new(7, agents(200, Release::Uneven, 7), vec![(30, 930)]);
        fleet.run(&mut engine, 86_400);
        engine.rollout
    };
    assert_eq!(once(), once());
}

/// Another controller goes on, and everybody ends as if nothing had happened.
#[test]
fn a_controller_killed_at_any_step_is_continued_by_another() {
    for brought in report::brought() {
        let unharmed = report::run_dying(brought.clone(), None);
        assert!(unharmed.finished(), "{:?}", brought.0);
        assert!(report::ends(&unharmed).iter().all(Option::is_some));
        let (deaths, different) = report::deaths(&brought);
        assert!(deaths > 100, "{deaths} deaths, {:?}", brought.0);
        assert!(different.is_empty(), "{:?}: {different:?}", brought.0);
    }
}

/// The table that the example prints says what the documents promise about it.
#[test]
fn the_engine_touches_fewer_than_anybody_else() {
    for (name, release) in report::RELEASES {
        let runs: Vec<_> = report::strategies()
            .into_iter()
            .map(|(rules, mut strategy)| (rules, report::run(strategy.as_mut(), release, 1)))
            .collect();
        let ours = &runs[0].1;
        assert_eq!(ours.false_rollbacks, 0, "{name}");
        if matches!(release, Release::Bad(_)) {
            for (rules, theirs) in &runs[1..] {
                assert!(
                    ours.touched < theirs.touched,
                    "{name}: {} against {} of {rules}",
                    ours.touched,
                    theirs.touched
                );
            }
        }
    }
}
