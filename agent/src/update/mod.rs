//! Releases of the agent itself: takes the controller's orders, has the supervisor try what they lead to, says where
//! that stands.
//!
//! What is held on disk is the newest order, whom to trust, and the highest release accepted ([`record`]). Where an order
//! stands is read from the supervisor's record each time ([`judge`]), so that a restart, a power cut or a rollback
//! in between changes nothing: whatever process runs next says what is so. Doing an order twice changes nothing.
//!
//! An order found on disk may have been taken back while the node was off: it is not begun before it was heard again, in
//! a session or at the rescue door. What the supervisor was asked for already goes on.
//!
//! The agent never replaces the file it runs from: it fills the idle slot, asks for a trial, and exits in order. The
//! version that starts on trial decides by [`trial`] what it says of itself.

mod judge;
mod offer;
mod record;
#[cfg(test)]
mod table;
mod trial;
mod words;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fleet_model::{Clock, Timestamp};
use fleet_proto::v1::{self, StandingReason, StandingStep, order::Want};
use fleet_release::outlook;
use fleet_supervisor::{
    agent::Supervised,
    digest::Digest,
    disk::{Disk, Host},
    install,
    record::{Content, State},
    slots::Slots,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    Places,
    backoff::Backoff,
    contact::{Contact, Named},
    controller::{
        Line,
        artifacts::{self, Lacking},
    },
    state,
    worker::Board,
};

use judge::{Known, Progress};
use offer::Plan;
use record::{Record, Store};
use words::Verdict;

pub(crate) use record::trust_seed;

/// Whether a release that came by an untrusted way may be installed here now; why not otherwise, in one line. Nothing is
/// done about it, but that links of the chain of roots that were found good are kept.
pub(crate) fn acceptable(
    places: &Places,
    offer: &v1::ReleaseOffer,
    named: Named,
    now: Timestamp,
) -> Result<(), String> {
    let checked = offer::verify(&Store::new(places), offer, named, None, now, String::new());
    checked.map(drop).map_err(|verdict| verdict.detail)
}

/// How often an agent on trial looks whether it may commit, and whether its commit is on disk.
const LOOK: Duration = Duration::from_millis(500);
/// Pauses after somebody was busy or away.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How long an update waits for the node's work to pause: what is cut off there is journalled, but why cut it.
const QUIET: Duration = Duration::from_secs(600);

/// What the session passes on.
#[derive(Debug)]
pub(crate) enum Word {
    /// Take this.
    Order(v1::Order),
    /// Take it back.
    Withdraw(v1::Withdraw),
}

/// What it listens to, and whom it tells.
pub(crate) struct Ways {
    pub(crate) words: mpsc::Receiver<Word>,
    pub(crate) contact: watch::Receiver<Contact>,
    pub(crate) board: watch::Receiver<Board>,
    pub(crate) line: watch::Receiver<Line>,
    pub(crate) standing: watch::Sender<Option<v1::Standing>>,
}

/// The part of the agent that has it replaced.
pub(crate) struct Update<D = Host> {
    store: Store<D>,
    record: Record,
    clock: Arc<dyn Clock>,
    supervised: Option<(Supervised, Slots<D>)>,
    /// What runs; empty if that cannot be known.
    own: String,
    /// How often this node's agent crashed.
    crashes: Option<u64>,
    doing: Doing,
    /// Whether the order was said to this process, not only found on disk.
    heard: bool,
    retry: Backoff,
    /// Not to be tried again before.
    again: Instant,
    /// Until when the node's own work is waited for at most, once that was begun for this order.
    pause: Option<Instant>,
    /// This process has asked something of the supervisor, which takes it once it is gone.
    asked: bool,
    /// Where to note that this program works here, and which it is.
    signs: Option<(Places, Option<Digest>)>,
    ways: Ways,
}

/// What is under way, beside what the supervisor does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    Fetching,
    Waiting(String),
    /// Until the order is said to this process: it may not stand any more.
    Unheard,
    /// Until the order is said again.
    Stuck(Verdict),
}

/// What to do now.
enum Next {
    /// Nothing until a word comes.
    Rest,
    /// Look again then.
    Again(Duration),
    /// Look again when the node's work pauses, then at the latest.
    Pause(Instant),
    Fetch(Box<Plan>),
    /// The supervisor has something to do once this process is gone.
    Leave,
}

impl Update {
    pub(crate) fn new(
        places: &Places,
        clock: Arc<dyn Clock>,
        supervised: Option<Supervised>,
        own: Option<Digest>,
        crashes: Option<u64>,
        ways: Ways,
    ) -> Self {
        let supervised = supervised.map(|supervised| {
            let slots = Slots::new(&supervised.slots, Host);
            (supervised, slots)
        });
        let signs = Some((places.clone(), own));
        let own = own.map(|digest| digest.to_string()).unwrap_or_default();
        Self { crashes, signs, ..Self::on(Store::new(places), clock, supervised, own, ways) }
    }

    /// Works until this process has to make room for another: then it should end in order.
    pub(crate) async fn run(mut self) {
        loop {
            let next = self.look();
            self.publish(false);
            let packed = self.store.packed();
            let board = self.ways.board.clone();
            // All arms wait on channels, timers or a fetch, which goes on where it was dropped.
            tokio::select! {
                Some(word) = self.ways.words.recv() => self.hear(word),
                next = wait(next, packed, &self.ways.line, board) => match next {
                    Done::Look => (),
                    Done::Fetched(_, Ok(_)) if self.works() => (),
                    Done::Fetched(plan, Ok(packed)) => self.install(*plan, packed).await,
                    Done::Fetched(_, Err(Lacking::Later(error))) => self.wait_for(error.to_string()),
                    Done::Fetched(_, Err(lacking)) => {
                        self.stuck(lacking.into());
                    }
                    Done::Leave => {
                        tracing::info!(order = self.record.number, "making room for another version");
                        return;
                    }
                },
            }
        }
    }

    /// Fills the idle slot. Not to be cut short: what it writes last starts a trial.
    async fn install(&mut self, plan: Plan, packed: std::path::PathBuf) {
        let Some((_, slots)) = &self.supervised else { return };
        let (mut slots, store, signs) = (slots.clone(), self.store.clone(), self.signs.clone());
        // Waiting for the disk must not hold the session up.
        let filled = tokio::task::spawn_blocking(move || {
            if let Some((places, own)) = signs {
                state::sign(&places, own)?;
            }
            plan.install(&mut slots, &store, &packed)
        })
        .await;
        let broken = || Verdict::new(StandingReason::StandingOther, "the installation ended abnormally");
        self.doing = match filled.map_err(|_| broken()).and_then(|result| result) {
            Ok(()) => {
                self.asked = true;
                Doing::Nothing
            }
            Err(verdict) => {
                self.stuck(verdict);
                return;
            }
        };
    }
}

impl<D: Disk + Clone> Update<D> {
    fn on(
        store: Store<D>,
        clock: Arc<dyn Clock>,
        supervised: Option<(Supervised, Slots<D>)>,
        own: String,
        ways: Ways,
    ) -> Self {
        let (first, most) = RETRY;
        let record = store.record();
        let failed = record.failed().filter(|_| record.stands());
        let mut update = Self {
            record,
            store,
            clock,
            supervised,
            own,
            crashes: None,
            doing: failed.map_or(Doing::Nothing, Doing::Stuck),
            heard: false,
            retry: Backoff::new(first, most),
            again: Instant::now(),
            pause: None,
            asked: false,
            signs: None,
            ways,
        };
        let on_trial = update.supervised.as_ref().is_some_and(|(supervised, _)| supervised.trial.is_some());
        if !on_trial && matches!(update.progress(), Some(Progress::Trial)) {
            // Started with a request that waits: the supervisor could not take it. Once more, but not at once.
            update.wait_for("the supervisor, whose disk takes no record; free some space on the node".into());
            update.again = Instant::now() + most;
        }
        update
    }

    /// Takes in what the controller says.
    fn hear(&mut self, word: Word) {
        match word {
            Word::Order(order) if order.number > self.record.number => {
                tracing::info!(order = order.number, "new order");
                self.record = Record::new(&order, self.runs().0);
                self.heard = true;
                self.retry.reset();
                self.pause = None;
                self.doing = match self.store.keep_record(&self.record) {
                    Ok(()) => Doing::Nothing,
                    Err(error) => Doing::Stuck(error.into()),
                };
            }
            Word::Order(order) if order.number == self.record.number => {
                self.heard = true;
                // Said again: what was in its way may be gone.
                if matches!(self.doing, Doing::Stuck(_) | Doing::Unheard) {
                    self.record.fail(None);
                    self.doing = Doing::Nothing;
                }
                self.again = Instant::now();
                self.publish(true);
            }
            Word::Order(order) => {
                tracing::warn!(
                    order = order.number,
                    newest = self.record.number,
                    "an older order is refused"
                );
                self.publish(true);
            }
            Word::Withdraw(v1::Withdraw { number }) => self.withdraw(number),
        }
    }

    fn withdraw(&mut self, number: u64) {
        let begun = number == self.record.number && matches!(self.progress(), Some(Progress::Trial));
        let done = number == self.record.number && self.record.done;
        if number >= self.record.number && !begun && !done {
            tracing::info!(order = number, "order withdrawn");
            let withdrawn = Record::withdrawn(number);
            // If it cannot be kept, the order stands after a restart, and is withdrawn again at the next session.
            if let Err(error) = self.store.keep_record(&withdrawn) {
                tracing::warn!(%error, "that the order was withdrawn is not kept");
            }
            self.record = withdrawn;
            self.doing = Doing::Nothing;
            self.pause = None;
        }
        self.publish(true);
    }

    fn state(&mut self) -> Option<State> {
        let (_, slots) = self.supervised.as_mut()?;
        slots
            .load()
            .inspect_err(|error| tracing::warn!(%error, "the supervisor's state cannot be read"))
            .ok()?
    }

    /// Whether this very process is on trial, or was and is about to be ended: with no commit it says and does nothing
    /// else any more.
    fn on_trial(&self, state: &State) -> bool {
        self.supervised
            .as_ref()
            .is_some_and(|(supervised, _)| supervised.trial.is_some() && state.active != supervised.slot)
    }

    /// Digest and version of what runs.
    fn runs(&mut self) -> (String, String) {
        let state = self.state();
        let slot = self.supervised.as_ref().map(|(supervised, _)| supervised.slot);
        let content = slot.and_then(|slot| state.as_ref()?.content(slot));
        match content {
            Some(Content { digest, version, .. }) => (digest.to_string(), version.clone()),
            None => (self.own.clone(), crate::VERSION.to_owned()),
        }
    }

    /// Where the order stands by the supervisor's word; none where there is no order, or nobody to ask.
    fn progress(&mut self) -> Option<Progress> {
        let want = self.record.want()?;
        let state = self.state()?;
        let request = self.supervised.as_mut().and_then(|(_, slots)| slots.requested().ok().flatten());
        let known = Known { state: &state, request: request.as_ref() };
        let number = self.record.number;
        match want {
            Want::Release(offer) => {
                let target = self.record.target.as_ref()?.digest()?;
                Some(known.release(number, target, offer.again, self.record.done))
            }
            Want::Back(back) => {
                let leave = if back.leave.is_empty() { &self.record.before } else { &back.leave };
                Some(known.back(number, leave, self.record.done))
            }
        }
    }

    /// Looks at what there is, and decides what to do.
    fn look(&mut self) -> Next {
        if self.supervised.is_some() {
            let Some(state) = self.state() else { return Next::Again(RETRY.1) };
            if self.on_trial(&state) {
                return self.prove();
            }
        }
        if !self.record.stands() || matches!(self.doing, Doing::Stuck(_)) {
            return Next::Rest;
        }
        match (self.record.want(), &self.supervised) {
            (None, _) => self.stuck(Verdict::unknown()),
            (Some(want), None) => {
                if let Want::Release(offer) = want {
                    self.record.target = offer::claimed(&offer);
                }
                self.stuck(Verdict::unsupervised())
            }
            (Some(want), Some(_)) => match self.progress() {
                Some(Progress::Done) => self.done(),
                Some(Progress::Back(_) | Progress::Not(_)) => {
                    self.doing = Doing::Nothing;
                    Next::Rest
                }
                Some(Progress::Due(_)) | None if !self.heard => {
                    self.doing = Doing::Unheard;
                    Next::Rest
                }
                _ if self.again > Instant::now() => Next::Again(self.again - Instant::now()),
                Some(Progress::Trial) if self.asked || !self.works() => Next::Leave,
                Some(Progress::Trial) => self.paused(),
                Some(Progress::Due(attempt)) => self.begin(want, attempt),
                // Not verified yet: what it leads to is not known.
                None => self.begin(want, 1),
            },
        }
    }

    fn stuck(&mut self, verdict: Verdict) -> Next {
        tracing::warn!(order = self.record.number, why = verdict.detail, "the order is not done");
        // The way back stays open: what is in its way now may be gone with this process.
        if matches!(self.record.want(), Some(Want::Release(_))) {
            self.record.fail(Some(&verdict));
            if let Err(error) = self.store.keep_record(&self.record) {
                tracing::warn!(%error, "that the order failed is not kept");
            }
        }
        self.doing = Doing::Stuck(verdict);
        Next::Rest
    }

    fn wait_for(&mut self, what: String) {
        tracing::info!(order = self.record.number, what, "the order waits");
        self.doing = Doing::Waiting(what);
        self.again = Instant::now() + self.retry.next(&mut rand::rng());
    }

    /// Whether the node is at work, which is waited for, though not for ever: what is cut off is journalled, but why cut
    /// it. Nothing is asked of the supervisor meanwhile, so what is taken back by then is not done.
    fn works(&mut self) -> bool {
        let now = Instant::now();
        if !self.ways.board.borrow().running || *self.pause.get_or_insert(now + QUIET) <= now {
            return false;
        }
        self.doing = Doing::Waiting("its own work to pause".into());
        true
    }

    /// What to do while the node is at work.
    fn paused(&self) -> Next {
        self.pause.map_or(Next::Again(LOOK), Next::Pause)
    }

    /// The order has led where it should.
    fn done(&mut self) -> Next {
        self.doing = Doing::Nothing;
        if !self.record.done {
            self.record.done = true;
            if let Err(error) = self.store.keep_record(&self.record) {
                tracing::warn!(%error, "that the order is done is not kept");
            }
        }
        Next::Rest
    }

    /// An agent on trial: says what it may say, until the supervisor has taken it down.
    fn prove(&mut self) -> Next {
        let word = trial::word(&self.ways.contact.borrow(), &self.ways.board.borrow());
        let Some((supervised, _)) = &self.supervised else { return Next::Rest };
        let said = match word {
            trial::Word::Commit => supervised.commit(),
            trial::Word::Extend => supervised.extend(),
            trial::Word::Nothing => Ok(()),
        };
        if let Err(error) = said {
            tracing::warn!(%error, "the supervisor does not listen");
        }
        Next::Again(LOOK)
    }

    /// Does what can be done at once of an order that is due.
    fn begin(&mut self, want: Want, attempt: u32) -> Next {
        let id = judge::id(self.record.number, attempt);
        // A release is fetched while the node works; that was done before if its work is waited for already.
        let fetched = self.pause.is_some();
        if (fetched || matches!(want, Want::Back(_))) && self.works() {
            return self.paused();
        }
        match want {
            Want::Back(v1::Return { reason, .. }) => {
                // The way back is open on a disk that takes nothing, too.
                if let Some((places, own)) = &self.signs
                    && let Err(error) = state::sign(places, *own)
                {
                    tracing::warn!(
                        error = fleet_model::chain(&error),
                        "which program works here is not noted"
                    );
                }
                let Some((_, slots)) = &mut self.supervised else { return Next::Rest };
                match install::go_back(slots, &reason, &id) {
                    Ok(()) => {
                        self.asked = true;
                        Next::Leave
                    }
                    Err(error) => self.stuck((&error).into()),
                }
            }
            Want::Release(offer) => self.take(&offer, id),
        }
    }

    fn take(&mut self, offer: &v1::ReleaseOffer, id: String) -> Next {
        let (named, controller) = {
            let contact = self.ways.contact.borrow();
            (contact.named.clone(), contact.controller.clone())
        };
        let Some(named) = named else {
            self.wait_for("this node's identity".into());
            return self.look();
        };
        let plan = match offer::verify(&self.store, offer, named, controller.as_deref(), self.clock.now(), id)
        {
            Ok(plan) => plan,
            Err(verdict) => {
                self.record.target = offer::claimed(offer);
                return self.stuck(verdict);
            }
        };
        let fresh = self.record.target.as_ref() != Some(&plan.target);
        if fresh {
            self.record.target = Some(plan.target.clone());
            if let Err(error) = self.store.keep_record(&self.record) {
                return self.stuck(error.into());
            }
            // Now that is known what it leads to: it may be there already, or known bad.
            return self.look();
        }
        let Some((_, slots)) = &mut self.supervised else { return Next::Rest };
        match plan.ready(slots) {
            Ok(()) => {
                if !matches!(self.doing, Doing::Waiting(_)) {
                    self.doing = Doing::Fetching;
                }
                let needed = BTreeSet::from([plan.packed.sha256.as_str()]);
                artifacts::sweep(&self.store.packed(), &needed);
                Next::Fetch(Box::new(plan))
            }
            Err(error @ (install::Error::OnProbation | install::Error::OnTrial)) => {
                self.wait_for(error.to_string());
                self.look()
            }
            Err(error) => self.stuck((&error).into()),
        }
    }

    /// Says where things stand, if that is news or `anyway`.
    fn publish(&mut self, anyway: bool) {
        let standing = self.standing();
        self.ways.standing.send_if_modified(|said| {
            let news = said.as_ref() != Some(&standing);
            *said = Some(standing);
            news || anyway
        });
    }

    fn standing(&mut self) -> v1::Standing {
        let (running_sha256, running_version) = self.runs();
        let state = self.state();
        let other = self.supervised.as_ref().zip(state.as_ref()).and_then(|((supervised, _), state)| {
            let other = state.content(supervised.slot.other())?;
            let served = state.trial.is_none() && !state.untried;
            (served && state.failure(other.digest).is_none()).then(|| other.clone())
        });
        let target = self.record.target.as_ref().map(|target| target.digest.clone());
        let on_trial = state.as_ref().is_some_and(|state| self.on_trial(state));
        let progress = if on_trial { None } else { self.progress() };
        let waits = |what: &str| Some(Verdict::new(StandingReason::Unspecified, format!("waits for {what}")));
        let (step, verdict, release) = match (&self.doing, progress) {
            _ if on_trial => (StandingStep::StandingTrial, None, Some(running_sha256.clone())),
            (Doing::Fetching, _) => (StandingStep::StandingFetching, None, target),
            (Doing::Waiting(what), _) => (StandingStep::StandingBusy, waits(what), target),
            // No word that nothing is in hand: whoever gave the order would take it for cut off.
            (Doing::Unheard, _) => (
                StandingStep::StandingBusy,
                waits("the controller to say that its order still stands"),
                target,
            ),
            (Doing::Stuck(verdict), _) => (StandingStep::StandingFailed, Some(verdict.clone()), target),
            (Doing::Nothing, Some(Progress::Trial)) => (StandingStep::StandingTrial, None, target),
            (Doing::Nothing, Some(Progress::Back(verdict))) => {
                (StandingStep::StandingRolledBack, Some(verdict), target)
            }
            (Doing::Nothing, Some(Progress::Not(verdict))) => {
                (StandingStep::StandingFailed, Some(verdict), target)
            }
            (Doing::Nothing, _) => (StandingStep::StandingCommitted, None, Some(running_sha256.clone())),
        };
        let Verdict { reason, detail } =
            verdict.unwrap_or_else(|| Verdict::new(StandingReason::Unspecified, String::new()));
        let or = |text: Option<String>| text.unwrap_or_default();
        v1::Standing {
            order: self.record.number,
            release: or(release),
            step: step.into(),
            reason: reason.into(),
            detail,
            running_sha256,
            running_version,
            other_sha256: or(other.as_ref().map(|other| other.digest.to_string())),
            other_version: or(other.map(|other| other.version)),
            warnings: self.warnings(),
            crashes: self.crashes,
        }
    }

    /// What expires soon. In whole days, so that it is news once a day.
    fn warnings(&self) -> Vec<String> {
        let Ok(Some(trust)) = self.store.trust() else { return Vec::new() };
        let soon = outlook(&trust, None, self.clock.now());
        let line = |warning: fleet_release::Warning| match warning.left.as_secs() / 86_400 {
            0 if warning.left.is_zero() => {
                format!("the {} of releases expired; nothing is updated", warning.kind)
            }
            days => format!("the {} of releases expires in {days} days", warning.kind),
        };
        soon.into_iter().map(line).collect()
    }
}

/// What came of waiting.
enum Done {
    Look,
    Fetched(Box<Plan>, Result<std::path::PathBuf, Lacking>),
    Leave,
}

/// Does what takes time and may be dropped at any moment.
async fn wait(
    next: Next,
    folder: std::path::PathBuf,
    line: &watch::Receiver<Line>,
    mut board: watch::Receiver<Board>,
) -> Done {
    match next {
        Next::Rest => std::future::pending().await,
        Next::Again(pause) => {
            sleep(pause).await;
            Done::Look
        }
        Next::Pause(until) => {
            // Either way it is time.
            let _ = timeout_at(until, board.wait_for(|board| !board.running)).await;
            Done::Look
        }
        Next::Leave => Done::Leave,
        Next::Fetch(plan) => {
            let fetched = artifacts::obtain(&folder, &plan.packed, line.clone()).await;
            Done::Fetched(plan, fetched)
        }
    }
}
