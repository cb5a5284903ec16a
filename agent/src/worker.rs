//! The half that does the node's work: owns the desired state, runs the engine, publishes what came of it.

use std::{sync::Arc, time::Duration};

use fleet_model::{Clock, Generation};
use fleet_proto::v1;
use fleet_task::{Engine, Node, Outcome, Repair, Report, Run};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Places, Settings, backoff,
    controller::{Permits, artifacts},
    desired::{Held, Offer, OfferError},
};

/// How much sooner to look again, at the latest, while not everything is as desired.
const SOONER: u32 = 10;
/// How soon to look again when something is waited for: much of it comes within seconds and without a word. Each
/// look that finds the same doubles the pause.
const SOON: Duration = Duration::from_secs(2);
/// The same after a failure, which seldom heals by itself, and while all is done but something is warned of.
const LATER: Duration = Duration::from_secs(15);

/// What the node is like, for whoever reports it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    /// Generation the reports are about.
    pub(crate) generation: Generation,
    /// One for each task.
    pub(crate) reports: Vec<Report>,
    /// Whether the engine is at work.
    pub(crate) running: bool,
    /// Whether this process has looked at every task once.
    pub(crate) cycled: bool,
    /// Why the newest offer was not taken, if so.
    pub(crate) trouble: Option<String>,
}

/// Look at every task again now.
#[derive(Debug)]
pub(crate) struct Look {
    /// Whose drift is to be repaired whatever the policy.
    pub(crate) repair: Repair,
    /// Told when that is done: nothing, or why it is not.
    pub(crate) done: oneshot::Sender<String>,
}

/// What the session sends to the worker.
pub(crate) struct Inbox {
    pub(crate) offers: watch::Receiver<Offer>,
    pub(crate) looks: mpsc::Receiver<Look>,
    pub(crate) permits: Arc<Permits>,
}

/// Does the node's work.
pub(crate) struct Worker {
    places: Places,
    engine: Engine,
    held: Held,
    board: watch::Sender<Board>,
    recheck: Duration,
    /// How long the last pause was, while what is looked at stays the same and is not as desired.
    pause: Option<Duration>,
    /// When to look again.
    again: Instant,
    stop: CancellationToken,
}

impl Worker {
    pub(crate) fn new(
        settings: &Settings,
        places: &Places,
        node: Node,
        board: watch::Sender<Board>,
        stop: CancellationToken,
    ) -> Self {
        let clock: Arc<dyn Clock> = settings.clock.clone();
        let held = Held::load(places);
        board.send_modify(|board| board.generation = held.generation());
        Self {
            places: places.clone(),
            engine: Engine::new(node, clock),
            held,
            board,
            recheck: settings.recheck,
            pause: None,
            again: Instant::now(),
            stop,
        }
    }

    /// Works until told to stop: at once, after every new offer, when asked, and now and then unasked.
    pub(crate) async fn run(mut self, mut inbox: Inbox) {
        self.sweep();
        self.converge(false).await;
        while !self.stop.is_cancelled() {
            // All arms wait on channels or timers and lose nothing when dropped.
            tokio::select! {
                () = self.stop.cancelled() => break,
                Ok(()) = inbox.offers.changed() => {
                    let offer = inbox.offers.borrow_and_update().clone();
                    if let Some(offer) = offer && self.take(&offer) {
                        self.converge(false).await;
                    }
                }
                Some(look) = inbox.looks.recv() => {
                    let error = self.obey(&look.repair).await;
                    // Whoever asked may have gone; the board has it anyway.
                    let _ = look.done.send(error);
                }
                () = inbox.permits.news() => {
                    self.converge(false).await;
                }
                () = tokio::time::sleep_until(self.again) => {
                    self.converge(false).await;
                }
            }
        }
    }

    /// Does what a person asked for; what is wrong with it, if anything.
    async fn obey(&mut self, repair: &Repair) -> String {
        if let Repair::Task(task) = repair
            && !self.held.desired.tasks.iter().any(|spec| spec.name == task.as_str())
        {
            return format!("this node has no task `{task}`");
        }
        self.run_tasks(true, repair.clone()).await;
        String::new()
    }

    /// Mean time between two looks while all is as desired.
    fn mean(&self) -> Duration {
        match self.held.desired.recheck_s {
            0 => self.recheck,
            seconds => Duration::from_secs(seconds.into()),
        }
    }

    fn sweep(&self) {
        artifacts::sweep(&self.places.artifacts(), &artifacts::named(&self.held.desired));
    }

    /// Whether the offer is news to act upon.
    fn take(&mut self, offer: &v1::Desired) -> bool {
        let result = self.held.accept(offer.clone(), &self.places);
        match result {
            Ok(false) => {
                self.board.send_if_modified(|board| board.trouble.take().is_some());
                false
            }
            Ok(true) => {
                tracing::info!(generation = %self.held.generation(), "new desired state");
                self.board.send_modify(|board| board.trouble = None);
                self.sweep();
                true
            }
            Err(OfferError::Stale(error)) => {
                tracing::warn!(%error, "offer refused");
                false
            }
            Err(OfferError::Write(error)) => {
                let text = format!(
                    "generation {} was not taken: {error}; next: {}",
                    offer.generation,
                    error.next_step()
                );
                tracing::warn!(why = %text, "offer refused");
                self.board.send_modify(|board| board.trouble = Some(text));
                false
            }
        }
    }

    /// One run of the engine over what is held.
    pub(crate) async fn converge(&mut self, asked_for: bool) -> Vec<Report> {
        self.run_tasks(asked_for, Repair::None).await
    }

    async fn run_tasks(&mut self, asked_for: bool, repair: Repair) -> Vec<Report> {
        let generation = self.held.generation();
        let previous = {
            let board = self.board.borrow();
            if board.generation == generation { board.reports.clone() } else { Vec::new() }
        };
        let run = Run { generation: generation.0, previous: &previous, asked_for, repair };
        let board = &self.board;
        let publish = |reports: &[Report], running: bool| {
            board.send_if_modified(|board| {
                let cycled = board.cycled || !running;
                let news =
                    board.generation != generation || board.running != running || board.reports != reports;
                let news = news || board.cycled != cycled;
                let trouble = board.trouble.take();
                *board = Board { generation, reports: reports.to_vec(), running, cycled, trouble };
                news
            });
        };
        let reports =
            self.engine.run(&self.held.phases(), run, &self.stop, |reports| publish(reports, true)).await;
        publish(&reports, false);
        self.pause = pause(self.pause, &previous, &reports, self.mean());
        let pause = self.pause.unwrap_or(self.mean());
        self.again = Instant::now() + backoff::about(pause, &mut rand::rng());
        reports
    }
}

/// How long to wait before the next look; `None` means as long as when all is well. Pure.
fn pause(before: Option<Duration>, previous: &[Report], now: &[Report], mean: Duration) -> Option<Duration> {
    // A warning is often about others who are not there yet; one that stays is looked at as seldom as all is.
    let (least, most) = match now.iter().find(|report| !report.is_settled()) {
        Some(open) if matches!(open.outcome, Outcome::Failed(_)) => (LATER, mean / SOONER),
        Some(_) => (SOON, mean / SOONER),
        None if now.iter().any(|report| !report.warnings.is_empty()) => (LATER, mean),
        None => return None,
    };
    let kind = |report: &Report| {
        (report.task.clone(), std::mem::discriminant(&report.outcome), report.warnings.is_empty())
    };
    let same = previous.iter().map(kind).eq(now.iter().map(kind));
    let longer = before.filter(|_| same).map_or(least, |before| before * 2);
    Some(longer.max(least).min(most))
}

#[cfg(test)]
mod tests {
    use fleet_model::Timestamp;
    use fleet_task::TaskId;

    use super::*;

    fn report(outcome: Outcome) -> Report {
        let at = Timestamp::from_millis(0);
        Report {
            task: TaskId::new("t"),
            outcome,
            warnings: Vec::new(),
            missing_members: None,
            at,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn what_is_waited_for_is_looked_at_soon_then_less_often() {
        let mean = Duration::from_secs(100);
        let waits = [report(Outcome::Waiting("a server".into()))];
        let failed = [report(Outcome::Failed("no".into()))];
        let fine = [report(Outcome::Unchanged)];
        let mut now = pause(None, &[], &waits, mean);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(now.expect("not settled").as_secs());
            now = pause(now, &waits, &waits, mean);
        }
        assert_eq!(seen, [2, 4, 8, 10]);
        assert_eq!(pause(now, &fine, &waits, mean), Some(SOON), "something moved");
        assert_eq!(pause(None, &waits, &failed, Duration::from_secs(600)), Some(LATER));
        assert_eq!(pause(now, &waits, &fine, mean), None);
        let since = Timestamp::from_millis(0);
        let drifted = [report(Outcome::Drifted { lines: Vec::new(), since })];
        assert_eq!(pause(now, &waits, &drifted, mean), None, "left as it is on purpose");
    }

    #[test]
    fn a_warning_is_looked_at_again_soon_and_in_the_end_as_seldom_as_all_is() {
        let mean = Duration::from_secs(100);
        let warned = [Report { warnings: vec!["a member is missing".into()], ..report(Outcome::Unchanged) }];
        let mut now = pause(None, &[], &warned, mean);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(now.expect("warned").as_secs());
            now = pause(now, &warned, &warned, mean);
        }
        assert_eq!(seen, [15, 30, 60, 100]);
        assert_eq!(pause(now, &warned, &[report(Outcome::Unchanged)], mean), None);
    }
}
