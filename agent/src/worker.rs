//! The half that does the node's work: owns the desired state, runs the engine, publishes what came of it.

use std::{sync::Arc, time::Duration};

use fleet_model::{Clock, Generation};
use fleet_proto::v1;
use fleet_task::{Engine, Node, Report, Run};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Places, Settings, backoff,
    desired::{Held, Offer, OfferError},
};

/// How much sooner to look again while not everything is converged.
const SOONER: u32 = 10;

/// What the node is like, for whoever reports it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    /// Generation the reports are about.
    pub(crate) generation: Generation,
    /// One for each task.
    pub(crate) reports: Vec<Report>,
    /// Whether the engine is at work.
    pub(crate) running: bool,
    /// Why the newest offer was not taken, if so.
    pub(crate) trouble: Option<String>,
}

/// Look at every task again now; the reply comes when that is done.
pub(crate) type Recheck = oneshot::Sender<()>;

/// What the session sends to the worker.
pub(crate) struct Inbox {
    pub(crate) offers: watch::Receiver<Offer>,
    pub(crate) rechecks: mpsc::Receiver<Recheck>,
}

/// Does the node's work.
pub(crate) struct Worker {
    places: Places,
    engine: Engine,
    held: Held,
    board: watch::Sender<Board>,
    recheck: Duration,
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
            stop,
        }
    }

    /// Works until told to stop: at once, after every new offer, when asked, and now and then unasked.
    pub(crate) async fn run(mut self, mut inbox: Inbox) {
        self.converge(false).await;
        while !self.stop.is_cancelled() {
            let again = Instant::now() + backoff::about(self.pace(), &mut rand::rng());
            // All arms wait on channels or timers and lose nothing when dropped.
            tokio::select! {
                () = self.stop.cancelled() => break,
                Ok(()) = inbox.offers.changed() => {
                    let offer = inbox.offers.borrow_and_update().clone();
                    if let Some(offer) = offer && self.take(&offer) {
                        self.converge(false).await;
                    }
                }
                Some(reply) = inbox.rechecks.recv() => {
                    self.converge(true).await;
                    // Whoever asked may have gone; the board has it anyway.
                    let _ = reply.send(());
                }
                () = tokio::time::sleep_until(again) => {
                    self.converge(false).await;
                }
            }
        }
    }

    /// Mean time to the next look: sooner while something is not as desired, since what a task waits for (an
    /// added disk, say) comes without a word.
    fn pace(&self) -> Duration {
        let converged = self.board.borrow().reports.iter().all(Report::is_converged);
        if converged { self.recheck } else { self.recheck / SOONER }
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
        let generation = self.held.generation();
        let previous = {
            let board = self.board.borrow();
            if board.generation == generation { board.reports.clone() } else { Vec::new() }
        };
        let run = Run { generation: generation.0, previous: &previous, asked_for, ..Run::default() };
        let board = &self.board;
        let publish = |reports: &[Report], running| {
            board.send_if_modified(|board| {
                let news =
                    board.generation != generation || board.running != running || board.reports != reports;
                *board =
                    Board { generation, reports: reports.to_vec(), running, trouble: board.trouble.take() };
                news
            });
        };
        let reports =
            self.engine.run(&self.held.phases(), run, &self.stop, |reports| publish(reports, true)).await;
        publish(&reports, false);
        reports
    }
}
