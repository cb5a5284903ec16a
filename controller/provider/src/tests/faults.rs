//! Faults of the cloud, deaths of a run, and stopping.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{check_nothing_left, provisioned};
use crate::{
    event::{Event, StepState},
    fake::Fault,
    testing::{World, small},
};

/// Each fault on each call of a run; afterwards, everything is there once.
async fn fault_everywhere(fault: Fault) {
    let plan = small();
    let calls = {
        let world = World::new();
        world.apply(&plan).await;
        world.cloud.calls()
    };
    assert!(calls > 50, "a run has {calls} calls");
    for call in 0..calls {
        let world = World::new();
        world.cloud.fault(call, fault);
        world.apply_at_last(&plan).await;
        world.check_exact(&plan).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_is_repeated() {
    fault_everywhere(Fault::LostRequest).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_adopted() {
    fault_everywhere(Fault::LostAnswer).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_listed_late_is_not_asked_for_twice() {
    let plan = small();
    for fault in [Fault::LostAnswer, Fault::TroubleAfter] {
        let mut hit = 0;
        for call in 0..60 {
            let world = World::new();
            world.cloud.state().unlisted = Duration::from_secs(4);
            world.cloud.fault(call, fault);
            world.apply_at_last(&plan).await;
            let deployed = world.cloud.changes().into_iter().filter(|call| *call == "deployServer").count();
            assert_eq!((deployed, world.cloud.state().servers.len()), (3, 3), "fault on call {call}");
            hit += usize::from(world.cloud.unanswered().contains(&"deployServer"));
            // Another run knows what was made, however soon it follows.
            world.cloud.count_anew();
            world.apply(&plan).await;
            assert_eq!(world.cloud.changes(), [] as [&str; 0], "fault on call {call}");
        }
        assert_eq!(hit, 3, "each server's answer was lost once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cloud_in_trouble_is_asked_again() {
    fault_everywhere(Fault::Trouble).await;
    fault_everywhere(Fault::TroubleAfter).await;
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_falls_silent_after_an_effect_leaves_nothing_unknown() {
    let (plan, mut cut) = (small(), 0);
    for call in 0..60 {
        let world = World::new();
        world.cloud.fault(call, Fault::LostAnswer);
        (call + 1..call + 400).for_each(|call| world.cloud.fault(call, Fault::LostRequest));
        let outcome = world.run(&plan).await.0;
        cut += usize::from(outcome.is_err() || outcome.is_ok_and(|outcome| !outcome.problems.is_empty()));
        world.cloud.count_anew();
        world.apply(&plan).await;
        world.check_exact(&plan).await;
    }
    assert!(cut > 50, "only {cut} runs were cut short");
}

#[tokio::test(start_paused = true)]
async fn a_killed_run_is_finished_by_the_next() {
    let plan = small();
    for effect in [false, true] {
        for call in 0.. {
            let world = World::new();
            // One server has to be cleaned and made again, before the kill or after it.
            world.cloud.state().failing.insert("EU7rethinkSeed".into(), 1);
            world.cloud.fault(call, Fault::Hang { effect });
            // The run is dropped where it hangs, as a kill would leave it.
            let finished = tokio::select! {
                (outcome, _) = world.run(&plan) => {
                    assert_eq!(outcome.expect("a run").problems, [] as [String; 0]);
                    true
                }
                () = world.cloud.hung() => false,
            };
            world.cloud.count_anew();
            world.apply(&plan).await;
            world.check_exact(&plan).await;
            if finished {
                assert!(call > 60, "only {call} points of death");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_destruction_is_finished_by_the_next() {
    let plan = small();
    for effect in [false, true] {
        for call in 0.. {
            let world = World::new();
            world.apply(&plan).await;
            world.cloud.count_anew();
            world.cloud.fault(call, Fault::Hang { effect });
            let finished = tokio::select! {
                _ = world.destroy() => true,
                () = world.cloud.hung() => false,
            };
            world.cloud.count_anew();
            let outcome = world.destroy().await;
            assert_eq!(outcome.problems, [] as [String; 0]);
            check_nothing_left(&world);
            assert_eq!(
                world.vault.0.lock().expect("unlocked").len(),
                0,
                "passwords of servers that are gone"
            );
            if finished {
                assert!(call > 40, "only {call} points of death");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_busy_answers_is_weathered() {
    let (world, plan) = (World::new(), small());
    for call in 10..150 {
        if call % 5 != 0 {
            world.cloud.fault(call, Fault::Busy);
        }
    }
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_to_be_made_is_cleaned_and_made_again() {
    let (world, plan) = (World::new(), small());
    world.cloud.state().failing.insert("EU7rethinkSeed".into(), 2);
    world.apply(&plan).await;
    assert_eq!(world.cloud.changes().iter().filter(|call| **call == "cleanServer").count(), 2);
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_made_stops_its_own_node_only() {
    let (world, plan) = (World::new(), small());
    world.cloud.state().failing.insert("EU7rethinkSeed".into(), 99);
    let (outcome, events) = world.run(&plan).await;
    let outcome = outcome.expect("a run");
    assert_eq!(
        outcome.problems,
        [
            "server `EU7rethinkSeed` in EU7: FAILED_ADD, 3 times in a row; see what the cloud says of it, and run again"
        ]
    );
    assert_eq!(provisioned(&events), ["EU6rethink01", "EU7rethink01"]);
    assert!(!outcome.stopped);
    assert_eq!(world.cloud.changes().iter().filter(|call| **call == "deployServer").count(), 5);
    world.cloud.state().failing.clear();
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_image_names_those_there_are() {
    let (world, mut plan) = (World::new(), small());
    plan.locations[1].networks[0].nodes[0].image = "Windows".into();
    let outcome = world.run(&plan).await.0.expect("a run");
    assert_eq!(
        outcome.problems,
        ["server `EU6rethink01` in EU6: EU6 has no image whose name contains `Windows`; there are: \
          CentOS 7 64-bit 2 CPU, Debian 12 64-bit 1 CPU"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_finishes_what_is_in_hand_and_begins_nothing_more() {
    let (world, plan) = (World::new(), small());
    let (sender, mut receiver) = mpsc::channel(4);
    let stop = CancellationToken::new();
    let provider = world.provider();
    let run = provider.apply(&plan, &sender, &stop);
    let watch = async {
        let mut begun = Vec::new();
        let mut ended = Vec::new();
        while let Some(event) = receiver.recv().await {
            match event {
                Event::Step(step, StepState::Started) => begun.push((step.kind, step.name)),
                Event::Step(step, StepState::Done) => {
                    stop.cancel();
                    ended.push((step.kind, step.name));
                }
                _ => {}
            }
        }
        (begun, ended)
    };
    let (outcome, (mut begun, mut ended)) = tokio::join!(
        async {
            let outcome = run.await;
            drop(sender.clone());
            outcome
        },
        async { tokio::time::timeout(Duration::from_secs(3600), watch).await.unwrap_or_default() }
    );
    let outcome = outcome.expect("a run");
    assert!(outcome.stopped);
    begun.sort();
    ended.sort();
    assert_eq!(begun, ended, "what was begun was finished");
    assert!(world.cloud.state().servers.is_empty(), "no server was begun");
    world.apply(&plan).await;
    world.check_exact(&plan).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_has_to_listen() {
    let (world, plan) = (World::new(), small());
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let outcome = world.provider().apply(&plan, &sender, &CancellationToken::new()).await.expect("a run");
    assert_eq!(outcome.problems, [] as [String; 0]);
    world.check_exact(&plan).await;
}
