//! Runs phases of tasks: check → apply → check.
//!
//! Phases run in order, the tasks of a phase together. A phase that is not converged holds back the ones
//! after it: their tasks are reported as waiting for it and are not even looked at, since what they build
//! on is not there. What a task says of its own `apply` counts for nothing; the second look decides. What happens
//! to one task is in [`crate::turn`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fleet_model::Clock;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Node, Outcome, Phases, Report, TaskId, board::Board, phases::Planned, turn::Turn};

/// How long tasks under way may go on after the engine was told to stop. Less than the two seconds the
/// whole agent has.
const STOP_GRACE: Duration = Duration::from_millis(1500);
/// Room for "task n begins to apply"; one message a task and run.
const BEGUN: usize = 16;

/// Whose drift is repaired whatever the policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nobody's.
    #[default]
    None,
    /// This task's.
    Task(TaskId),
    /// Everybody's.
    All,
}

impl Repair {
    fn means(&self, id: &TaskId) -> bool {
        match self {
            Self::None => false,
            Self::Task(task) => task == id,
            Self::All => true,
        }
    }
}

/// What one run is about.
#[derive(Clone, Debug, Default)]
pub struct Run<'a> {
    /// Generation of the desired state the phases come from.
    pub generation: u64,
    /// What the run before found; a task that was converged keeps that report until this run knows better.
    pub previous: &'a [Report],
    /// A person asked for it: also try what was interrupted too often.
    pub asked_for: bool,
    /// A person asked for drift to be repaired.
    pub repair: Repair,
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
        self.forget_others(phases);
        let mut board = Board::new(phases, run.previous, self.clock.now());
        let mut held: Option<String> = None;
        for (phase, tasks) in &phases.0 {
            if let Some(by) = &held {
                let what = Outcome::Waiting(format!("phase `{by}` to converge"));
                for planned in tasks {
                    board.set(planned.task.id(), what.clone(), self.clock.now());
                }
                continue;
            }
            if stop.is_cancelled() {
                break;
            }
            for planned in tasks {
                board.start(planned.task.id(), self.clock.now());
            }
            on_change(&board.0);
            self.phase(tasks, &run, stop, &mut board, &mut on_change).await;
            if tasks.iter().any(|planned| board.holds(planned)) {
                held = Some(phase.clone());
            }
        }
        on_change(&board.0);
        board.0
    }

    /// What is remembered of tasks that are gone, their permits above all, is given up.
    fn forget_others(&self, phases: &Phases) {
        let kept: BTreeSet<&TaskId> = phases.names().collect();
        if kept.is_empty() {
            // More likely a desired state that could not be read than a node with nothing to do.
            return;
        }
        match self.node.journal().keep_only(&kept) {
            Ok(permits) => permits.iter().for_each(|permit| self.node.controller().release(permit)),
            Err(error) => tracing::warn!(%error, "the journal keeps tasks that are gone"),
        }
    }

    async fn phase(
        &self,
        tasks: &[Planned],
        run: &Run<'_>,
        stop: &CancellationToken,
        board: &mut Board,
        on_change: &mut impl FnMut(&[Report]),
    ) {
        let (begun, mut begins) = mpsc::channel(BEGUN);
        let mut working = JoinSet::new();
        for planned in tasks {
            let turn = Turn {
                planned: planned.clone(),
                node: self.node.clone(),
                clock: self.clock.clone(),
                generation: run.generation,
                asked_for: run.asked_for,
                repair: run.repair.means(planned.task.id()),
                begun: begun.clone(),
            };
            working.spawn(turn.work());
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
        for planned in tasks {
            board.give_up(planned.task.id(), stop.is_cancelled(), self.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use fleet_model::SystemClock;

    use super::*;
    use crate::{
        Journal, NoRunner, Task,
        fake::{Behaviour, FakeTask},
        turn::MAX_INTERRUPTIONS,
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

    const RUN: Run<'static> = Run { generation: 1, previous: &[], asked_for: false, repair: Repair::None };

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
        check(Behaviour::NotYet, |outcome| *outcome == Outcome::Waiting("a lock".into())).await;
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

    #[tokio::test]
    async fn what_waits_alone_holds_nobody() {
        for (behaviour, goes_on) in [(Behaviour::Waits, true), (Behaviour::Fails, false)] {
            let (bench, later) = (Bench::new(), task("later", Behaviour::Works));
            let mut alone = FakeTask::new("t", behaviour);
            alone.holds = false;
            let phases = one(&Arc::new(alone)).then("next", [later.clone() as Arc<dyn Task>]);
            let reports = bench.run(&phases).await;
            assert!(!reports[0].is_converged());
            assert_eq!(reports[1].is_converged(), goes_on, "a failure always holds: {reports:?}");
        }
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
