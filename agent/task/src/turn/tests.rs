use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use async_trait::async_trait;
use fleet_model::{ManualClock, Timestamp};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    Engine, Journal, NoRunner, Phases, Repair, Run, Task, Terms,
    fake::{Behaviour, FakeController, FakeTask},
};

/// A node whose agent starts anew at every run: only the disk remembers.
struct Bench {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    controller: Arc<FakeController>,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("folder"),
            clock: Arc::new(ManualClock::at(Timestamp::from_millis(1_000))),
            controller: Arc::default(),
        }
    }

    async fn run(&self, phases: &Phases, run: Run<'_>) -> Vec<Report> {
        let journal = Journal::open(self.folder.path().join("journal.json")).expect("journal");
        let node = Node::new(self.folder.path(), Arc::new(NoRunner), Arc::new(journal))
            .with_controller(self.controller.clone());
        let engine = Engine::new(node, self.clock.clone());
        engine.run(phases, run, &CancellationToken::new(), |_| ()).await
    }

    async fn outcome(&self, phases: &Phases, repair: Repair) -> Outcome {
        let run = Run { generation: 1, repair, ..Run::default() };
        self.run(phases, run).await.remove(0).outcome
    }
}

fn under(on_drift: OnDrift, wish: &str, task: &Arc<FakeTask>) -> Phases {
    let mut phases = Phases::new();
    let terms = Terms { on_drift, wish: Some(wish.into()) };
    phases.add_under("first", task.clone() as Arc<dyn Task>, terms);
    phases
}

fn works(name: &str) -> Arc<FakeTask> {
    Arc::new(FakeTask::new(name, Behaviour::Works))
}

const WAITS_FOR_FIRST: &str = "phase `first` to converge";

#[tokio::test]
async fn drift_is_shown_with_its_age_and_holds_only_if_it_should() {
    for (policy, holds) in [(OnDrift::Report, false), (OnDrift::Hold, true)] {
        let (bench, task, later) = (Bench::new(), works("t"), works("later"));
        let phases = under(policy, "a", &task).then("second", [later.clone() as Arc<dyn Task>]);
        let run = Run { generation: 1, ..Run::default() };
        let first = bench.run(&phases, run.clone()).await;
        assert!(first.iter().all(Report::is_converged), "it converges first under any policy: {first:?}");
        task.converged.store(false, SeqCst);
        let since = bench.clock.now();
        for _ in 0..2 {
            let reports = bench.run(&phases, run.clone()).await;
            let drifted = Outcome::Drifted { lines: vec!["t differs".into()], since };
            assert_eq!(reports[0].outcome, drifted, "{policy:?}");
            let expected = if holds { Outcome::Waiting(WAITS_FOR_FIRST.into()) } else { Outcome::Unchanged };
            assert_eq!(reports[1].outcome, expected, "{policy:?}");
            bench.clock.advance(Duration::from_secs(100));
        }
        assert_eq!(task.applies.load(SeqCst), 1, "it is left alone");
        // A new generation with the same wish is no reason to touch it either.
        let reports = bench.run(&phases, Run { generation: 2, ..run }).await;
        assert!(matches!(reports[0].outcome, Outcome::Drifted { .. }));
        // Another wish is.
        let outcome = bench.outcome(&under(policy, "b", &task), Repair::None).await;
        assert!(matches!(outcome, Outcome::Changed(_)), "{outcome:?}");
    }
}

#[tokio::test]
async fn drift_that_goes_away_by_itself_is_forgotten() {
    let (bench, task) = (Bench::new(), works("t"));
    let phases = under(OnDrift::Report, "a", &task);
    bench.outcome(&phases, Repair::None).await;
    task.converged.store(false, SeqCst);
    bench.outcome(&phases, Repair::None).await;
    task.converged.store(true, SeqCst);
    assert_eq!(bench.outcome(&phases, Repair::None).await, Outcome::Unchanged);
    bench.clock.advance(Duration::from_secs(50));
    task.converged.store(false, SeqCst);
    let since = bench.clock.now();
    let lines = vec!["t differs".into()];
    assert_eq!(bench.outcome(&phases, Repair::None).await, Outcome::Drifted { lines, since });
}

#[tokio::test]
async fn a_repair_says_what_differed_and_for_how_long() {
    let (bench, task) = (Bench::new(), works("t"));
    let phases = under(OnDrift::Report, "a", &task);
    bench.outcome(&phases, Repair::None).await;
    task.converged.store(false, SeqCst);
    bench.outcome(&phases, Repair::None).await;
    bench.clock.advance(Duration::from_secs(200));
    let other = bench.outcome(&phases, Repair::Task(TaskId::new("other"))).await;
    assert!(matches!(other, Outcome::Drifted { .. }));
    let line = "this had drifted, and was known to for 3 min before it was repaired";
    let expected = Outcome::Changed(vec!["t differs".into(), line.into()]);
    assert_eq!(bench.outcome(&phases, Repair::Task(TaskId::new("t"))).await, expected);
    assert_eq!(bench.outcome(&phases, Repair::None).await, Outcome::Unchanged);
    // Once asked for is once repaired.
    task.converged.store(false, SeqCst);
    assert!(matches!(bench.outcome(&phases, Repair::None).await, Outcome::Drifted { .. }));
}

#[tokio::test]
async fn a_repair_that_fails_is_over() {
    let (bench, works) = (Bench::new(), works("t"));
    bench.outcome(&under(OnDrift::Hold, "a", &works), Repair::None).await;
    let fails = Arc::new(FakeTask::new("t", Behaviour::Fails));
    let phases = under(OnDrift::Hold, "a", &fails);
    assert!(matches!(bench.outcome(&phases, Repair::All).await, Outcome::Failed(_)));
    assert!(matches!(bench.outcome(&phases, Repair::None).await, Outcome::Drifted { .. }));
    assert_eq!(fails.applies.load(SeqCst), 1);
}

#[tokio::test]
async fn a_repair_waits_for_its_permit() {
    let (bench, done) = (Bench::new(), works("t"));
    bench.outcome(&under(OnDrift::Report, "a", &done), Repair::None).await;
    let task = Arc::new(FakeTask::new("t", Behaviour::Works).needing("join/x"));
    let phases = under(OnDrift::Report, "a", &task);
    let waits = Outcome::Waiting("its turn for `join/x`".into());
    assert_eq!(bench.outcome(&phases, Repair::All).await, waits);
    assert_eq!(bench.outcome(&phases, Repair::None).await, waits, "asked for is not forgotten");
    bench.controller.grant("join/x");
    assert!(matches!(bench.outcome(&phases, Repair::None).await, Outcome::Changed(_)));
}

#[tokio::test]
async fn nothing_is_applied_without_its_permit_and_it_is_given_back() {
    let bench = Bench::new();
    let task = Arc::new(FakeTask::new("t", Behaviour::Works).needing("join/x"));
    let phases = under(OnDrift::Repair, "a", &task);
    for _ in 0..2 {
        let waits = Outcome::Waiting("its turn for `join/x`".into());
        assert_eq!(bench.outcome(&phases, Repair::None).await, waits);
    }
    assert_eq!(task.applies.load(SeqCst), 0);
    assert!(bench.controller.released().is_empty(), "its turn is kept");
    bench.controller.grant("join/x");
    assert!(matches!(bench.outcome(&phases, Repair::None).await, Outcome::Changed(_)));
    assert_eq!(bench.controller.released(), ["join/x"]);
}

#[tokio::test]
async fn a_restart_that_failed_keeps_its_permit_until_it_has_converged() {
    for permit in ["join/x", "reboot"] {
        for behaviour in [Behaviour::Fails, Behaviour::Lies] {
            let bench = Bench::new();
            bench.controller.grant(permit);
            let task = |behaviour| Arc::new(FakeTask::new("t", behaviour).needing(permit));
            let fails = under(OnDrift::Repair, "a", &task(behaviour));
            // Also after a look that says nothing, and after a restart of the agent.
            let blind = under(OnDrift::Repair, "a", &task(Behaviour::CannotLook));
            for phases in [&fails, &blind, &fails] {
                let outcome = bench.outcome(phases, Repair::None).await;
                assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
                assert_eq!(bench.controller.released(), [""; 0], "{permit} {behaviour:?}");
            }
            let works = under(OnDrift::Repair, "a", &task(Behaviour::Works));
            assert!(matches!(bench.outcome(&works, Repair::None).await, Outcome::Changed(_)));
            assert_eq!(bench.controller.released(), [permit]);
            // What was disturbed then is no reason to keep the next one.
            bench.controller.revoke(permit);
            let asks = under(OnDrift::Repair, "a", &task(Behaviour::Works));
            assert!(matches!(bench.outcome(&asks, Repair::None).await, Outcome::Waiting(_)));
            assert!(matches!(bench.outcome(&blind, Repair::None).await, Outcome::Failed(_)));
            assert_eq!(bench.controller.released(), [permit, permit]);
        }
    }
}

#[tokio::test]
async fn what_takes_nothing_from_anybody_gives_its_permit_back_when_it_fails() {
    for behaviour in [Behaviour::Fails, Behaviour::Lies] {
        let bench = Bench::new();
        bench.controller.grant("join/x");
        let mut fails = FakeTask::new("t", behaviour).needing("join/x");
        fails.gentle = true;
        let outcome = bench.outcome(&under(OnDrift::Repair, "a", &Arc::new(fails)), Repair::None).await;
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
        assert_eq!(bench.controller.released(), ["join/x"]);
    }
}

#[tokio::test]
async fn what_fails_again_and_again_lets_others_have_their_turn() {
    let bench = Bench::new();
    bench.controller.grant("join/x");
    let fails = Arc::new(FakeTask::new("t", Behaviour::Fails).needing("join/x"));
    let phases = under(OnDrift::Repair, "a", &fails);
    for _ in 0..3 {
        assert!(matches!(bench.outcome(&phases, Repair::None).await, Outcome::Failed(_)));
        assert_eq!(bench.controller.released(), [""; 0]);
        bench.clock.advance(KEPT / 2);
    }
    assert!(matches!(bench.outcome(&phases, Repair::None).await, Outcome::Failed(_)));
    assert_eq!(bench.controller.released(), ["join/x"]);
    // With the next permit it begins anew.
    assert!(matches!(bench.outcome(&phases, Repair::None).await, Outcome::Failed(_)));
    assert_eq!(bench.controller.released(), ["join/x"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_does_not_end_keeps_its_permit() {
    let bench = Bench::new();
    bench.controller.grant("join/x");
    let hangs = Arc::new(FakeTask::new("t", Behaviour::Hangs).needing("join/x"));
    let outcome = bench.outcome(&under(OnDrift::Repair, "a", &hangs), Repair::None).await;
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("did not end")), "{outcome:?}");
    assert_eq!(bench.controller.released(), [""; 0]);
}

#[tokio::test]
async fn a_failure_with_nothing_disturbed_gives_the_permit_back() {
    for permit in ["join/x", "reboot"] {
        let bench = Bench::new();
        let asks = Arc::new(FakeTask::new("t", Behaviour::Works).needing(permit));
        let outcome = bench.outcome(&under(OnDrift::Repair, "a", &asks), Repair::None).await;
        assert!(matches!(outcome, Outcome::Waiting(_)));
        let blind = Arc::new(FakeTask::new("t", Behaviour::CannotLook).needing(permit));
        let outcome = bench.outcome(&under(OnDrift::Repair, "a", &blind), Repair::None).await;
        assert!(matches!(outcome, Outcome::Failed(_)));
        assert_eq!(bench.controller.released(), [permit]);
    }
}

#[tokio::test]
async fn a_reboot_permit_is_released_after_the_restart_once_converged() {
    let bench = Bench::new();
    bench.controller.grant("reboot");
    let reboots = Arc::new(FakeTask::new("t", Behaviour::Hangs).needing("reboot"));
    let phases = under(OnDrift::Repair, "a", &reboots);
    {
        let run = bench.outcome(&phases, Repair::None);
        tokio::pin!(run);
        while reboots.applies.load(SeqCst) == 0 {
            tokio::select! { _ = &mut run => panic!("it hangs"), () = tokio::task::yield_now() => () }
        }
    }
    // Back again: first something is still in the way.
    let waits = Arc::new(FakeTask::new("t", Behaviour::Waits));
    bench.outcome(&under(OnDrift::Repair, "a", &waits), Repair::None).await;
    assert!(bench.controller.released().is_empty());
    let done = works("t");
    done.converged.store(true, SeqCst);
    let outcome = bench.outcome(&under(OnDrift::Repair, "a", &done), Repair::None).await;
    assert!(matches!(outcome, Outcome::Changed(_)), "{outcome:?}");
    assert_eq!(bench.controller.released(), ["reboot"]);
}

#[tokio::test]
async fn a_task_that_is_gone_gives_its_permit_back() {
    let bench = Bench::new();
    let task = Arc::new(FakeTask::new("t", Behaviour::Works).needing("join/x"));
    bench.outcome(&under(OnDrift::Repair, "a", &task), Repair::None).await;
    bench.run(&Phases::new(), Run::default()).await;
    assert!(bench.controller.released().is_empty(), "nothing to do is more likely a damaged file");
    bench.outcome(&under(OnDrift::Repair, "a", &works("other")), Repair::None).await;
    assert_eq!(bench.controller.released(), ["join/x"]);
}

/// Differs in two steps; only the second needs a permit.
struct TwoSteps {
    id: TaskId,
    done: std::sync::atomic::AtomicU32,
}

#[async_trait]
impl Task for TwoSteps {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, _node: &Node) -> Result<Finding, TaskError> {
        Ok(match self.done.load(SeqCst) {
            0 => Finding::drift(["package".into(), "server".into()]),
            1 => Finding::drift(["server".into()]).with_permit("join/x"),
            _ => Finding::converged(),
        })
    }

    async fn apply(&self, _node: &Node) -> Result<(), TaskError> {
        self.done.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn what_needs_no_permit_is_done_before_it_and_all_is_reported_in_the_end() {
    let task = || TwoSteps { id: TaskId::new("t"), done: 0.into() };
    let both = Outcome::Changed(vec!["package".into(), "server".into()]);
    let granted = Bench::new();
    granted.controller.grant("join/x");
    let phases = Phases::new().then("first", [Arc::new(task()) as Arc<dyn Task>]);
    assert_eq!(granted.outcome(&phases, Repair::None).await, both);

    let later = Bench::new();
    let phases = Phases::new().then("first", [Arc::new(task()) as Arc<dyn Task>]);
    assert!(matches!(later.outcome(&phases, Repair::None).await, Outcome::Waiting(_)));
    later.controller.grant("join/x");
    assert_eq!(later.outcome(&phases, Repair::None).await, both);
}
