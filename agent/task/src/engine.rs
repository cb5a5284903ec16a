//! Runs phases of tasks: check → apply → check.
//!
//! Phases run in order, the tasks of a phase together. A phase that is not converged holds back the ones
//! after it: their tasks are reported as waiting for it and are not even looked at, since what they build
//! on is not there. What a task says of its own `apply` counts for nothing; the second look decides.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fleet_model::{Clock, Timestamp};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Finding, Node, Outcome, Report, Task, TaskId, journal::Intent};

/// After this many interruptions in a row an apply is suspected of causing them (a reboot loop).
const MAX_INTERRUPTIONS: u32 = 3;
/// How long tasks under way may go on after the engine was told to stop. Less than the two seconds the
/// whole agent has.
const STOP_GRACE: Duration = Duration::from_millis(1500);
/// Room for "task n begins to apply"; one message a task and run.
const BEGUN: usize = 16;

/// Phases in order, each with tasks that may run together.
#[derive(Clone, Default)]
pub struct Phases(Vec<(String, Vec<Arc<dyn Task>>)>);

impl Phases {
    /// No phases yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `task` to the phase of that name, which takes its place where it first appears.
    pub fn add(&mut self, phase: &str, task: Arc<dyn Task>) {
        match self.0.iter_mut().find(|(name, _)| name == phase) {
            Some((_, tasks)) => tasks.push(task),
            None => self.0.push((phase.to_owned(), vec![task])),
        }
    }

    /// The same with one more phase.
    #[must_use]
    pub fn then(mut self, phase: &str, tasks: impl IntoIterator<Item = Arc<dyn Task>>) -> Self {
        tasks.into_iter().for_each(|task| self.add(phase, task));
        self
    }

    fn tasks(&self) -> impl Iterator<Item = &Arc<dyn Task>> {
        self.0.iter().flat_map(|(_, tasks)| tasks)
    }
}

/// What one run is about.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Generation of the desired state the phases come from.
    pub generation: u64,
    /// What the run before found; a task that was converged keeps that report until this run knows better.
    pub previous: &'a [Report],
    /// A person asked for it: also try what was interrupted too often.
    pub asked_for: bool,
}

/// Runs tasks on one node.
#[derive(Clone, Debug)]
pub struct Engine {
    node: Node,
    clock: Arc<dyn Clock>,
}

impl Engine {
    /// An engine for `node`.
    pub fn new(node: Node, clock: Arc<dyn Clock>) -> Self {
        Self { node, clock }
    }

    /// Looks at every task, moves what drifts, looks again. `on_change` sees all reports after each change;
    /// the last ones are returned, in the order of the phases.
    ///
    /// # Cancel safety
    /// Cancelling `stop` starts nothing new and gives tasks under way a moment to end. Dropping the future
    /// ends them at once; the journal knows what was under way.
    pub async fn run(
        &self,
        phases: &Phases,
        run: Run<'_>,
        stop: &CancellationToken,
        mut on_change: impl FnMut(&[Report]),
    ) -> Vec<Report> {
        let mut board = Board::new(phases, run.previous, self.clock.now());
        let mut held: Option<String> = None;
        for (phase, tasks) in &phases.0 {
            if let Some(by) = &held {
                for task in tasks {
                    board.set(
                        task.id(),
                        Outcome::Waiting(format!("phase `{by}` to converge")),
                        self.clock.now(),
                    );
                }
                continue;
            }
            if stop.is_cancelled() {
                break;
            }
            for task in tasks {
                board.start(task.id(), self.clock.now());
            }
            on_change(&board.0);
            self.phase(tasks, run, stop, &mut board, &mut on_change).await;
            if tasks.iter().any(|task| !board.is_converged(task.id())) {
                held = Some(phase.clone());
            }
        }
        on_change(&board.0);
        board.0
    }

    async fn phase(
        &self,
        tasks: &[Arc<dyn Task>],
        run: Run<'_>,
        stop: &CancellationToken,
        board: &mut Board,
        on_change: &mut impl FnMut(&[Report]),
    ) {
        let (begun, mut begins) = mpsc::channel(BEGUN);
        let mut working = JoinSet::new();
        for task in tasks {
            let worker = Worker {
                task: task.clone(),
                node: self.node.clone(),
                clock: self.clock.clone(),
                generation: run.generation,
                asked_for: run.asked_for,
                begun: begun.clone(),
            };
            working.spawn(worker.work());
        }
        drop(begun);
        // Its message may be read after its end; then it is old news.
        let mut ended = BTreeSet::new();
        let mut last_moment: Option<Instant> = None;
        loop {
            let out_of_time = async {
                match last_moment {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm may be dropped and polled again without loss: channel receive, JoinSet and timers.
            tokio::select! {
                Some(task) = begins.recv() => {
                    if !ended.contains(&task) {
                        board.set(&task, Outcome::Running, self.clock.now());
                    }
                }
                done = working.join_next() => match done {
                    Some(Ok(report)) => {
                        ended.insert(report.task.clone());
                        board.put(report);
                    }
                    // A task that panics is a defect of ours; its report says so instead of taking the
                    // agent down (where panics unwind at all).
                    Some(Err(error)) => tracing::error!(%error, "a task ended abnormally"),
                    None => break,
                },
                () = stop.cancelled(), if last_moment.is_none() => {
                    last_moment = Some(Instant::now() + STOP_GRACE);
                    continue;
                }
                () = out_of_time => break,
            }
            on_change(&board.0);
        }
        for task in tasks {
            board.give_up(task.id(), stop.is_cancelled(), self.clock.now());
        }
    }
}

/// Everybody's latest report.
struct Board(Vec<Report>);

impl Board {
    fn new(phases: &Phases, previous: &[Report], at: Timestamp) -> Self {
        let fresh = |id: &TaskId| Report {
            task: id.clone(),
            outcome: Outcome::Waiting("its turn".into()),
            warnings: Vec::new(),
            at,
            took: Duration::ZERO,
        };
        let of =
            |id: &TaskId| previous.iter().find(|old| old.task == *id).cloned().unwrap_or_else(|| fresh(id));
        Self(phases.tasks().map(|task| of(task.id())).collect())
    }

    fn of(&mut self, task: &TaskId) -> Option<&mut Report> {
        self.0.iter_mut().find(|report| report.task == *task)
    }

    fn set(&mut self, task: &TaskId, outcome: Outcome, at: Timestamp) {
        if let Some(report) = self.of(task) {
            *report = Report { task: task.clone(), outcome, warnings: Vec::new(), at, took: Duration::ZERO };
        }
    }

    fn put(&mut self, report: Report) {
        if let Some(place) = self.of(&report.task) {
            *place = report;
        }
    }

    /// A converged task being looked at again is still converged; any other one is at work.
    fn start(&mut self, task: &TaskId, at: Timestamp) {
        if !self.is_converged(task) {
            self.set(task, Outcome::Running, at);
        }
    }

    fn is_converged(&self, task: &TaskId) -> bool {
        self.0.iter().any(|report| report.task == *task && report.is_converged())
    }

    /// Whoever is still "running" when its phase is over did not report.
    fn give_up(&mut self, task: &TaskId, stopping: bool, at: Timestamp) {
        if self.of(task).is_some_and(|report| report.outcome == Outcome::Running) {
            let outcome = if stopping {
                Outcome::Waiting("the agent to start again; it was stopped half way".into())
            } else {
                Outcome::Failed(
                    "it ended abnormally; next: look at the agent's log and report a defect".into(),
                )
            };
            self.set(task, outcome, at);
        }
    }
}

/// One task being worked on.
struct Worker {
    task: Arc<dyn Task>,
    node: Node,
    clock: Arc<dyn Clock>,
    generation: u64,
    asked_for: bool,
    begun: mpsc::Sender<TaskId>,
}

impl Worker {
    async fn work(self) -> Report {
        let (id, started) = (self.task.id().clone(), Instant::now());
        let deadline = self.task.deadline();
        let (outcome, warnings) = match tokio::time::timeout(deadline, self.converge()).await {
            Ok(result) => result,
            Err(_) => {
                self.close();
                let why = format!(
                    "it did not end within {} s; next: look at what it runs on the node (`systemctl status fleet-agent`)",
                    deadline.as_secs()
                );
                (Outcome::Failed(why), Vec::new())
            }
        };
        match &outcome {
            Outcome::Failed(why) => tracing::warn!(task = %id, %why, "task failed"),
            Outcome::Changed(what) => tracing::info!(task = %id, ?what, "task changed the node"),
            Outcome::Waiting(what) => tracing::info!(task = %id, for_what = %what, "task waits"),
            Outcome::Unchanged | Outcome::Running => tracing::debug!(task = %id, "task unchanged"),
        }
        Report { task: id, outcome, warnings, at: self.clock.now(), took: started.elapsed() }
    }

    async fn converge(&self) -> (Outcome, Vec<String>) {
        let (task, node) = (&self.task, &self.node);
        let interrupted = node.journal().interrupted(task.id());
        let first = match task.check(node).await {
            Ok(finding) => finding,
            Err(error) => return (Outcome::Failed(error.explain()), Vec::new()),
        };
        if first.drift.is_empty() {
            let outcome = match interrupted {
                Some(intent) if first.waiting.is_none() => {
                    self.close();
                    Outcome::Changed(finished(&intent))
                }
                _ => settled(&first),
            };
            return (outcome, first.warnings);
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
            return (Outcome::Failed(why), first.warnings);
        }
        let intent = Intent {
            begun: self.clock.now(),
            generation: self.generation,
            drift: first.drift.clone(),
            interruptions,
        };
        if let Err(error) = node.journal().begin(task.id(), intent) {
            return (Outcome::Failed(crate::TaskError::from(error).explain()), first.warnings);
        }
        // Only tells the board; a full channel means it is being told anyway.
        let _ = self.begun.try_send(task.id().clone());
        let applied = task.apply(node).await;
        let second = task.check(node).await;
        self.close();
        judge(interrupted.as_ref(), first, applied, second)
    }

    /// The apply is over, whatever came of it. Failing to say so costs one more look after a restart.
    fn close(&self) {
        if let Err(error) = self.node.journal().end(self.task.id()) {
            tracing::warn!(task = %self.task.id(), %error, "the journal keeps an apply that is over");
        }
    }
}

/// What two looks and an apply between them amount to. Pure.
fn judge(
    interrupted: Option<&Intent>,
    first: Finding,
    applied: Result<(), crate::TaskError>,
    second: Result<Finding, crate::TaskError>,
) -> (Outcome, Vec<String>) {
    let second = match second {
        Ok(second) => second,
        Err(look) => {
            // The apply's own trouble explains more than the look that failed after it.
            return (Outcome::Failed(applied.err().unwrap_or(look).explain()), first.warnings);
        }
    };
    let mut warnings = second.warnings.clone();
    if !second.drift.is_empty() {
        let why = match applied {
            Err(error) => error.explain(),
            Ok(()) => format!(
                "still differs after it was applied: {}; next: something on the node undoes it or hides it",
                second.drift.join(", ")
            ),
        };
        return (Outcome::Failed(why), warnings);
    }
    if let Err(error) = applied {
        warnings.push(format!("it is as desired although applying it complained: {}", error.explain()));
    }
    if let Some(what) = second.waiting {
        return (Outcome::Waiting(what), warnings);
    }
    let mut changes = first.drift;
    if interrupted.is_some() {
        changes.push("an earlier apply of this was interrupted and has been resumed".into());
    }
    (Outcome::Changed(changes), warnings)
}

fn settled(finding: &Finding) -> Outcome {
    match &finding.waiting {
        Some(what) => Outcome::Waiting(what.clone()),
        None => Outcome::Unchanged,
    }
}

fn finished(intent: &Intent) -> Vec<String> {
    let mut lines = intent.drift.clone();
    lines.push(format!("begun {}, interrupted, and found complete", intent.begun));
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use fleet_model::SystemClock;

    use super::*;
    use crate::{
        Journal, NoRunner,
        fake::{Behaviour, FakeTask},
    };

    struct Bench {
        folder: tempfile::TempDir,
        stop: CancellationToken,
    }

    impl Bench {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().expect("folder"), stop: CancellationToken::new() }
        }

        /// As after a restart of the agent: only the disk remembers.
        fn engine(&self) -> Engine {
            let journal = Journal::open(self.folder.path().join("journal.json")).expect("journal");
            let node = Node::new(self.folder.path(), Arc::new(NoRunner), Arc::new(journal));
            Engine::new(node, Arc::new(SystemClock))
        }

        async fn run(&self, phases: &Phases) -> Vec<Report> {
            self.engine().run(phases, RUN, &self.stop, |_| ()).await
        }

        fn holds_intent(&self, task: &str) -> bool {
            let journal = Journal::open(self.folder.path().join("journal.json")).expect("journal");
            journal.interrupted(&TaskId::new(task)).is_some()
        }
    }

    const RUN: Run<'static> = Run { generation: 1, previous: &[], asked_for: false };

    fn task(name: &str, behaviour: Behaviour) -> Arc<FakeTask> {
        Arc::new(FakeTask::new(name, behaviour))
    }

    fn one(task: &Arc<FakeTask>) -> Phases {
        Phases::new().then("only", [task.clone() as Arc<dyn Task>])
    }

    async fn check(behaviour: Behaviour, expected: fn(&Outcome) -> bool) {
        let bench = Bench::new();
        let reports = bench.run(&one(&task("t", behaviour))).await;
        assert!(expected(&reports[0].outcome), "{behaviour:?}: {:?}", reports[0]);
        assert!(!bench.holds_intent("t"), "{behaviour:?} leaves an intent behind");
    }

    #[tokio::test]
    async fn what_each_behaviour_amounts_to() {
        check(Behaviour::Works, |outcome| *outcome == Outcome::Changed(vec!["t differs".into()])).await;
        check(Behaviour::Lies, |o| matches!(o, Outcome::Failed(why) if why.contains("still differs"))).await;
        check(Behaviour::Fails, |o| matches!(o, Outcome::Failed(why) if why.contains("cannot move; next:")))
            .await;
        check(Behaviour::CannotLook, |o| matches!(o, Outcome::Failed(why) if why.contains("cannot look")))
            .await;
        check(Behaviour::Waits, |outcome| *outcome == Outcome::Waiting("a disk".into())).await;
    }

    #[tokio::test]
    async fn a_second_run_changes_nothing() {
        let (bench, task) = (Bench::new(), task("t", Behaviour::Works));
        bench.run(&one(&task)).await;
        let reports = bench.run(&one(&task)).await;
        assert_eq!(reports[0].outcome, Outcome::Unchanged);
        assert_eq!(task.applies.load(SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_a_failure() {
        let bench = Bench::new();
        let reports = bench.run(&one(&task("t", Behaviour::Hangs))).await;
        assert!(matches!(&reports[0].outcome, Outcome::Failed(why) if why.contains("within 60 s")));
        assert!(!bench.holds_intent("t"));
    }

    #[tokio::test]
    async fn a_phase_that_fails_holds_the_later_ones() {
        let bench = Bench::new();
        let (bad, fine, later) =
            (task("bad", Behaviour::Lies), task("fine", Behaviour::Works), task("later", Behaviour::Works));
        let mut phases = Phases::new();
        phases.add("first", bad);
        phases.add("second", later.clone());
        phases.add("first", fine);
        let reports = bench.run(&phases).await;
        let names: Vec<_> = reports.iter().map(|report| report.task.as_str()).collect();
        assert_eq!(names, ["bad", "fine", "later"], "phases stand where they first appeared");
        assert!(reports[1].is_converged(), "a neighbour's failure does not stop it: {:?}", reports[1]);
        assert_eq!(reports[2].outcome, Outcome::Waiting("phase `first` to converge".into()));
        assert_eq!(later.checks.load(SeqCst), 0);
    }

    /// Runs until `task` is being applied, then is killed.
    async fn killed_in_apply(bench: &Bench, task: &Arc<FakeTask>) {
        let (engine, phases) = (bench.engine(), one(task));
        let before = task.applies.load(SeqCst);
        let run = engine.run(&phases, RUN, &bench.stop, |_| ());
        tokio::pin!(run);
        while task.applies.load(SeqCst) == before {
            tokio::select! { _ = &mut run => panic!("it hangs"), () = tokio::task::yield_now() => () }
        }
    }

    #[tokio::test]
    async fn an_interrupted_apply_is_resumed_and_said() {
        let bench = Bench::new();
        killed_in_apply(&bench, &task("t", Behaviour::Hangs)).await;
        assert!(bench.holds_intent("t"));
        let reports = bench.run(&one(&task("t", Behaviour::Works))).await;
        assert!(
            matches!(&reports[0].outcome, Outcome::Changed(what) if what.len() == 2 && what[1].contains("resumed")),
            "{reports:?}"
        );
        assert!(!bench.holds_intent("t"));
    }

    #[tokio::test]
    async fn an_interrupted_apply_found_complete_is_a_change() {
        let bench = Bench::new();
        killed_in_apply(&bench, &task("t", Behaviour::Hangs)).await;
        let done = task("t", Behaviour::Works);
        done.converged.store(true, SeqCst);
        let reports = bench.run(&one(&done)).await;
        assert!(
            matches!(&reports[0].outcome, Outcome::Changed(what) if what[1].contains("found complete")),
            "{reports:?}"
        );
        assert_eq!(done.applies.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn an_apply_that_brings_the_node_down_is_not_tried_for_ever() {
        let bench = Bench::new();
        let task = task("t", Behaviour::Hangs);
        for _ in 0..MAX_INTERRUPTIONS {
            killed_in_apply(&bench, &task).await;
        }
        let engine = bench.engine();
        for _ in 0..2 {
            let reports = engine.run(&one(&task), RUN, &bench.stop, |_| ()).await;
            assert!(
                matches!(&reports[0].outcome, Outcome::Failed(why) if why.contains("3 times")),
                "{reports:?}"
            );
        }
        assert_eq!(task.applies.load(SeqCst), MAX_INTERRUPTIONS);
        // A person may insist, and a new generation is a new chance.
        for run in [Run { asked_for: true, ..RUN }, Run { generation: 2, ..RUN }] {
            let works = self::task("t", Behaviour::Works);
            let bench = Bench::new();
            for _ in 0..MAX_INTERRUPTIONS {
                killed_in_apply(&bench, &task).await;
            }
            let reports = bench.engine().run(&one(&works), run, &bench.stop, |_| ()).await;
            assert!(reports[0].is_converged(), "{reports:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_is_quick_and_leaves_the_intent() {
        let bench = Bench::new();
        let (hangs, later) = (task("t", Behaviour::Hangs), task("later", Behaviour::Works));
        let phases = one(&hangs).then("next", [later.clone() as Arc<dyn Task>]);
        let stop = bench.stop.clone();
        let (watched, engine) = (hangs.clone(), bench.engine());
        let run = engine.run(&phases, RUN, &bench.stop, move |_| {
            if watched.applies.load(SeqCst) > 0 {
                stop.cancel();
            }
        });
        let started = Instant::now();
        let reports = run.await;
        assert!(started.elapsed() <= STOP_GRACE + Duration::from_millis(10), "{:?}", started.elapsed());
        assert!(matches!(&reports[0].outcome, Outcome::Waiting(what) if what.contains("stopped half way")));
        assert_eq!(later.checks.load(SeqCst), 0);
        assert!(bench.holds_intent("t"), "the next start looks at it again");
    }

    #[tokio::test]
    async fn nothing_is_applied_without_a_journal() {
        let bench = Bench::new();
        let journal = Journal::open(bench.folder.path().join("no/such/folder.json")).expect("none yet");
        let node = Node::new(bench.folder.path(), Arc::new(NoRunner), Arc::new(journal));
        let task = task("t", Behaviour::Works);
        let engine = Engine::new(node, Arc::new(SystemClock));
        let reports = engine.run(&one(&task), RUN, &bench.stop, |_| ()).await;
        assert!(
            matches!(&reports[0].outcome, Outcome::Failed(why) if why.contains("journal")),
            "{reports:?}"
        );
        assert_eq!(task.applies.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn looking_again_does_not_flicker() {
        let (bench, task) = (Bench::new(), task("t", Behaviour::Works));
        let reports = bench.run(&one(&task)).await;
        let run = Run { previous: &reports, ..RUN };
        let engine = bench.engine();
        let seen = std::cell::RefCell::new(Vec::new());
        engine.run(&one(&task), run, &bench.stop, |now| seen.borrow_mut().push(now[0].is_converged())).await;
        assert!(seen.borrow().iter().all(|converged| *converged), "{seen:?}");
    }
}
