//! One task's turn in a run: look, decide, move, look again.

use std::{sync::Arc, time::Duration};

use fleet_model::Clock;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Finding, JournalError, Node, OnDrift, Outcome, Permission, Report, TaskError, TaskId,
    journal::{Intent, Standing},
    phases::Planned,
    report::age,
};

/// After this many interruptions in a row an apply is suspected of causing them (a reboot loop).
pub(crate) const MAX_INTERRUPTIONS: u32 = 3;
/// Applies one after the other, each opening the way for the next one's permit. More would be a task that goes round
/// in circles.
const MAX_STAGES: usize = 4;
/// Most lines remembered of what was changed before a task converged.
const MAX_CHANGES: usize = 40;

/// How long a permit is kept over failures: long enough for a restart with all its attempts.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// One task being worked on.
pub(crate) struct Turn {
    pub(crate) planned: Planned,
    pub(crate) node: Node,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) generation: u64,
    pub(crate) asked_for: bool,
    /// A person asked for drift to be repaired whatever the policy.
    pub(crate) repair: bool,
    pub(crate) begun: mpsc::Sender<TaskId>,
}

/// How a turn ended.
struct End {
    outcome: Outcome,
    warnings: Vec<String>,
}

impl Turn {
    pub(crate) async fn work(self) -> Report {
        let (id, started) = (self.id().clone(), Instant::now());
        let deadline = self.planned.task.deadline();
        let End { outcome, warnings } = match tokio::time::timeout(deadline, self.converge()).await {
            Ok(end) => end,
            Err(_) => {
                self.close();
                let why = format!(
                    "it did not end within {} s; next: look at what it runs on the node (`systemctl status fleet-agent`)",
                    deadline.as_secs()
                );
                self.failed(&mut self.node.journal().standing(&id), why, Vec::new())
            }
        };
        match &outcome {
            Outcome::Failed(why) => tracing::warn!(task = %id, %why, "task failed"),
            Outcome::Changed(what) => tracing::info!(task = %id, ?what, "task changed the node"),
            Outcome::Waiting(what) => tracing::info!(task = %id, for_what = %what, "task waits"),
            Outcome::Drifted { lines, .. } => tracing::info!(task = %id, ?lines, "task has drifted"),
            Outcome::Unchanged | Outcome::Running => tracing::debug!(task = %id, "task unchanged"),
        }
        Report { task: id, outcome, warnings, at: self.clock.now(), took: started.elapsed() }
    }

    async fn converge(&self) -> End {
        let journal = self.node.journal();
        let interrupted = journal.interrupted(self.id());
        let mut standing = journal.standing(self.id());
        standing.repairing |= self.repair;
        let first = match self.look().await {
            Ok(finding) => finding,
            Err(error) => return self.stuck(&mut standing, error, Vec::new()),
        };
        if first.drift.is_empty() {
            if let Some(intent) = interrupted
                && first.waiting.is_none()
            {
                self.close();
                note(&mut standing.changed, finished(&intent));
            }
            return self.settled(&mut standing, first);
        }
        if self.had_converged(&standing) {
            let since = *standing.differs_since.get_or_insert_with(|| self.clock.now());
            if self.planned.terms.on_drift != OnDrift::Repair && !standing.repairing && interrupted.is_none()
            {
                if let Err(error) = self.keep(&standing) {
                    tracing::warn!(task = %self.id(), %error, "since when it differs is not remembered");
                }
                return End {
                    outcome: Outcome::Drifted { lines: first.drift, since },
                    warnings: first.warnings,
                };
            }
        }
        let interruptions = match &interrupted {
            Some(intent) if intent.generation == self.generation && !self.asked_for => {
                intent.interruptions + 1
            }
            _ => 0,
        };
        if interruptions >= MAX_INTERRUPTIONS {
            let why = format!(
                "its apply was cut off {interruptions} times in a row ({}); next: see in the node's log what \
                 stopped it, then run `fleet-agent --once` there",
                first.drift.join(", ")
            );
            return self.failed(&mut standing, why, first.warnings);
        }
        let resumed = interrupted.is_some();
        self.stages(standing, first, interruptions, resumed).await
    }

    /// Applies until nothing differs, or until what still differs is not a matter of another permit.
    async fn stages(
        &self,
        mut standing: Standing,
        mut finding: Finding,
        interruptions: u32,
        resumed: bool,
    ) -> End {
        for _ in 0..MAX_STAGES {
            if let Some(wait) = self.permitted(&mut standing, finding.permit.as_deref()) {
                return match wait {
                    Ok(what) => self.waiting(&mut standing, what, finding.warnings),
                    Err(error) => {
                        self.failed(&mut standing, TaskError::from(error).explain(), finding.warnings)
                    }
                };
            }
            let intent = Intent {
                begun: self.clock.now(),
                generation: self.generation,
                drift: finding.drift.clone(),
                interruptions,
            };
            let disturbed = standing.disturbed;
            if finding.permit.is_some() {
                standing.disturbed.get_or_insert_with(|| self.clock.now());
            }
            let begun = self.keep(&standing).and_then(|()| self.node.journal().begin(self.id(), intent));
            if let Err(error) = begun {
                // Nothing was begun after all.
                standing.disturbed = disturbed;
                return self.failed(&mut standing, TaskError::from(error).explain(), finding.warnings);
            }
            // Only tells the board; a full channel means it is being told anyway.
            let _ = self.begun.try_send(self.id().clone());
            let applied = self.planned.task.apply(&self.node).await;
            let second = self.look().await;
            self.close();
            let stage = judge(finding, applied, second);
            let told = self.planned.task.done();
            note(&mut standing.changed, if told.is_empty() { stage.done } else { told });
            match stage.verdict {
                Verdict::Settled(second) => {
                    if resumed && second.waiting.is_none() {
                        let line = "an earlier apply of this was interrupted and has been resumed";
                        note(&mut standing.changed, [line.to_owned()]);
                    }
                    return self.settled(&mut standing, second);
                }
                Verdict::Next(second) => finding = second,
                Verdict::Stuck(error, warnings) => return self.stuck(&mut standing, error, warnings),
                Verdict::Differs(why, warnings) => return self.failed(&mut standing, why, warnings),
            }
        }
        let why = format!(
            "still differs after {MAX_STAGES} applies: {}; next: something on the node undoes it",
            finding.drift.join(", ")
        );
        self.failed(&mut standing, why, finding.warnings)
    }

    fn id(&self) -> &TaskId {
        self.planned.task.id()
    }

    async fn look(&self) -> Result<Finding, TaskError> {
        self.planned.task.check(&self.node).await
    }

    fn had_converged(&self, standing: &Standing) -> bool {
        self.planned.terms.wish.is_some() && standing.converged == self.planned.terms.wish
    }

    /// What stands in the way of applying: `None` when no permit is needed or it is held. That it was asked for is on
    /// disk before it is, so that it is given back also after a restart.
    fn permitted(
        &self,
        standing: &mut Standing,
        wanted: Option<&str>,
    ) -> Option<Result<String, JournalError>> {
        let wanted = wanted?;
        if standing.permit.as_deref() != Some(wanted) {
            self.release(standing);
            standing.permit = Some(wanted.to_owned());
        }
        if let Err(error) = self.keep(standing) {
            return Some(Err(error));
        }
        match self.node.controller().permit(wanted, self.id()) {
            Permission::Held => None,
            Permission::Waiting(what) => Some(Ok(what)),
        }
    }

    fn release(&self, standing: &mut Standing) {
        if let Some(permit) = standing.permit.take() {
            self.node.controller().release(&permit);
        }
        standing.disturbed = None;
    }

    /// Nothing differs: converged, or waiting.
    fn settled(&self, standing: &mut Standing, finding: Finding) -> End {
        if let Some(what) = finding.waiting {
            return self.waiting(standing, what, finding.warnings);
        }
        let mut changed = std::mem::take(&mut standing.changed);
        if let Some(since) = standing.differs_since.take()
            && !changed.is_empty()
        {
            let known = age(self.clock.now().since(since));
            changed.push(format!("this had drifted, and was known to for {known} before it was repaired"));
        }
        self.release(standing);
        standing.repairing = false;
        standing.converged.clone_from(&self.planned.terms.wish);
        if let Err(error) = self.keep(standing) {
            tracing::warn!(task = %self.id(), %error, "that it converged is not remembered");
        }
        let outcome = if changed.is_empty() { Outcome::Unchanged } else { Outcome::Changed(changed) };
        End { outcome, warnings: finding.warnings }
    }

    /// Not yet. A permit stays with it until its lease ends, and what was done so far is not forgotten.
    fn waiting(&self, standing: &mut Standing, what: String, warnings: Vec<String>) -> End {
        if let Err(error) = self.keep(standing) {
            tracing::warn!(task = %self.id(), %error, "what was done so far is not remembered");
        }
        End { outcome: Outcome::Waiting(what), warnings }
    }

    fn stuck(&self, standing: &mut Standing, error: TaskError, warnings: Vec<String>) -> End {
        match error {
            TaskError::NotYet(what) => self.waiting(standing, what, warnings),
            error => self.failed(standing, error.explain(), warnings),
        }
    }

    /// It could not be done. Whatever was begun under a permit may have left the node half way through a restart: one
    /// that is away, and others must not go away beside it. Its permit is kept until it has converged, but not for
    /// ever: what fails again and again is not half way through anything, and others wait for their turn.
    fn failed(&self, standing: &mut Standing, why: String, warnings: Vec<String>) -> End {
        if standing.disturbed.is_none_or(|since| self.clock.now().since(since) > KEPT) {
            self.release(standing);
        }
        standing.repairing = false;
        if let Err(error) = self.keep(standing) {
            tracing::warn!(task = %self.id(), %error, "that it failed is not remembered");
        }
        End { outcome: Outcome::Failed(why), warnings }
    }

    fn keep(&self, standing: &Standing) -> Result<(), JournalError> {
        self.node.journal().stand(self.id(), standing)
    }

    /// The apply is over, whatever came of it. Failing to say so costs one more look after a restart.
    fn close(&self) {
        if let Err(error) = self.node.journal().end(self.id()) {
            tracing::warn!(task = %self.id(), %error, "the journal keeps an apply that is over");
        }
    }
}

/// What two looks and an apply between them amount to.
struct Stage {
    verdict: Verdict,
    /// What differed before and does not any more.
    done: Vec<String>,
}

enum Verdict {
    /// Nothing differs any more; it may wait for something.
    Settled(Finding),
    /// What still differs needs a permit the apply did not need.
    Next(Finding),
    /// The apply could not do its work.
    Stuck(TaskError, Vec<String>),
    /// The apply says it worked, and it did not.
    Differs(String, Vec<String>),
}

/// Judges an apply by the look after it. Pure.
fn judge(first: Finding, applied: Result<(), TaskError>, second: Result<Finding, TaskError>) -> Stage {
    let mut second = match second {
        Ok(second) => second,
        Err(look) => {
            // The apply's own trouble explains more than the look that failed after it.
            let error = applied.err().unwrap_or(look);
            return Stage { verdict: Verdict::Stuck(error, first.warnings), done: Vec::new() };
        }
    };
    let done = first.drift.iter().filter(|line| !second.drift.contains(line)).cloned().collect();
    let verdict = match applied {
        _ if second.drift.is_empty() => {
            if let Err(error) = applied
                && !matches!(error, TaskError::NotYet(_))
            {
                second
                    .warnings
                    .push(format!("it is as desired although applying it complained: {}", error.explain()));
            }
            Verdict::Settled(second)
        }
        Err(error) => Verdict::Stuck(error, second.warnings),
        Ok(()) if second.permit.is_some() && second.permit != first.permit => Verdict::Next(second),
        Ok(()) => {
            let why = format!(
                "still differs after it was applied: {}; next: something on the node undoes it or hides it",
                second.drift.join(", ")
            );
            Verdict::Differs(why, second.warnings)
        }
    };
    Stage { verdict, done }
}

/// Adds lines not there yet, up to the limit.
fn note(changed: &mut Vec<String>, lines: impl IntoIterator<Item = String>) {
    for line in lines {
        if changed.len() < MAX_CHANGES && !changed.contains(&line) {
            changed.push(line);
        }
    }
}

fn finished(intent: &Intent) -> Vec<String> {
    let mut lines = intent.drift.clone();
    lines.push(format!("begun {}, interrupted, and found complete", intent.begun));
    lines
}

#[cfg(test)]
mod tests {
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
                let expected =
                    if holds { Outcome::Waiting(WAITS_FOR_FIRST.into()) } else { Outcome::Unchanged };
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
}
