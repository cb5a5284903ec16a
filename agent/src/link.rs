//! The half that keeps the node in touch: gets an identity, dials, holds a session, dials again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use fleet_model::{Clock, Timestamp, chain};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{self, agents_client::AgentsClient},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{
    Places, Settings,
    backoff::{Backoff, SESSION_MOST},
    contact::Contact,
    controller::{Giver, Line, Permits},
    desired::Offer,
    dial::{DialError, Dialler},
    facts::Gatherer,
    gates::Gates,
    health,
    identity::{
        Credentials, Holdings, IdentityError, Key,
        enrol::{self, EnrolError, Seed},
        fingerprint, nonce, renew,
    },
    offset::ControllerTime,
    rescue::Rescue,
    session::{End, Session, hello},
    update::Word,
    worker::{Board, Look},
};

/// How often to look for a seed where there is none.
const SEED_PAUSE: Duration = Duration::from_secs(5);
/// Sessions refused without a reason before asking the enrolment listener for one, and before falling back
/// to the certificate before the current one.
const UNEXPLAINED: u32 = 3;
/// A session that lasted this long was a good one: the next failure is a first one.
const GOOD: Duration = Duration::from_secs(30);
/// One that was lost before this is a failure: a controller that drops this agent each time is not stormed. Longer than
/// a controller that restarts again and again leaves its agents alone.
const BRIEF: Duration = Duration::from_secs(2);
/// How long a seed that makes no sense is left alone; another one is looked at as soon as it is there.
const DAMAGED_PAUSE: Duration = Duration::from_secs(300);
/// Pauses after a certificate was given. The first dials at once; a controller that gives certificates that are to be
/// renewed at once does not have us spin.
const RENEWED: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// The ways from the session to the worker.
pub(crate) struct Orders {
    pub(crate) offers: watch::Sender<Offer>,
    pub(crate) looks: mpsc::Sender<Look>,
    pub(crate) updates: mpsc::Sender<Word>,
}

/// What tasks reach the controller by, and what else is to be known of it or said to it.
pub(crate) struct Wires {
    pub(crate) permits: Arc<Permits>,
    pub(crate) line: watch::Sender<Line>,
    /// Whom releases are fetched from.
    pub(crate) giver: watch::Sender<Line>,
    pub(crate) contact: watch::Sender<Contact>,
    pub(crate) stands: watch::Receiver<Option<v1::Standing>>,
    pub(crate) gates: Gates,
    pub(crate) rescue: Rescue,
}

/// What the link and its sessions share.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) nonce: String,
    pub(crate) protocol: (u32, u32),
    pub(crate) board: watch::Receiver<Board>,
    pub(crate) orders: Orders,
    pub(crate) controller: Option<ControllerTime>,
    pub(crate) permits: Arc<Permits>,
    /// Where this agent stands with its own releases.
    pub(crate) stands: watch::Receiver<Option<v1::Standing>>,
    pub(crate) gates: Gates,
    line: watch::Sender<Line>,
    contact: watch::Sender<Contact>,
    places: Places,
    gatherer: Gatherer,
    holdings: Option<Holdings>,
    /// Key of the renewal under way: a retry shows the same one.
    next_key: Option<Key>,
    renew_at: Instant,
    renewal_failing: Option<String>,
}

impl Shared {
    /// Now, by the controller's clock as far as it is known.
    fn now(&self) -> Timestamp {
        self.controller.map_or_else(|| self.clock.now(), ControllerTime::now)
    }

    pub(crate) fn machine(&self) -> String {
        match &self.holdings {
            Some(holdings) => fingerprint(&self.places, &holdings.current.fleet),
            None => String::new(),
        }
    }

    pub(crate) fn facts(&mut self) -> v1::Facts {
        let mut facts = self.gatherer.gather();
        facts.clock_offset_ms = self.controller.map_or(0, |time| time.offset_ms(self.clock.as_ref()));
        if let Some(holdings) = &self.holdings {
            facts.certificate_not_after_ms = holdings.current.not_after.as_millis();
        }
        facts
    }

    pub(crate) fn observed(&self, facts: &v1::Facts) -> v1::Observed {
        let board = self.board.borrow();
        let inputs = health::Inputs {
            facts,
            reports: &board.reports,
            now: self.now(),
            local: self.clock.now(),
            renewal_failing: self.renewal_failing.as_deref(),
            trouble: board.trouble.as_deref(),
        };
        v1::Observed {
            generation: board.generation.0,
            tasks: board.reports.iter().map(Into::into).collect(),
            health: Some(health::assess(&inputs)),
        }
    }

    pub(crate) fn renew_at(&self) -> Instant {
        self.renew_at
    }

    /// Tries to renew; whether there is a new certificate to dial with.
    pub(crate) async fn renew(&mut self, client: &mut AgentsClient<Channel>) -> bool {
        let Some(holdings) = self.holdings.clone() else { return false };
        let result = async {
            let key = match self.next_key.take() {
                Some(key) => key,
                None => Key::make_in(&self.places.state())?,
            };
            let result = renew::renew(&self.places, &holdings.current, &key, client).await;
            self.next_key = result.is_err().then_some(key);
            result
        };
        match result.await {
            Ok(renewed) => {
                tracing::info!(until = %renewed.current.not_after, "certificate renewed");
                self.hold(renewed);
                true
            }
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(%why, next = error.next_step(), "certificate not renewed");
                self.renewal_failing = Some(why);
                let wait = renew::next_wait(self.now(), holdings.current.not_after, &mut rand::rng());
                self.renew_at = Instant::now() + wait.max(error.pause());
                false
            }
        }
    }

    /// These are the credentials now.
    fn hold(&mut self, holdings: Holdings) {
        self.renew_at = Instant::now() + renew::first_wait(self.now(), &holdings.current);
        self.renewal_failing = None;
        self.contact.send_modify(|contact| contact.named = Some(holdings.current.named()));
        self.holdings = Some(holdings);
    }

    /// A session with the current credentials has opened: the previous ones have done their service.
    fn settle(&mut self) {
        let Some(holdings) = &mut self.holdings else { return };
        if holdings.previous.take().is_some()
            && let Err(error) = holdings.store(&self.places)
        {
            tracing::warn!(%error, "the certificate before this one stays on disk");
        }
        // The controller's clock is known now, and may be another than ours.
        let current = holdings.current.clone();
        if self.renewal_failing.is_none() {
            self.renew_at = Instant::now() + renew::first_wait(self.now(), &current);
        }
    }

    /// The controller does not take the current credentials: go back to the ones before, if any.
    fn fall_back(&mut self) -> bool {
        let Some(previous) = self.holdings.as_mut().and_then(|holdings| holdings.previous.take()) else {
            return false;
        };
        tracing::warn!("the new certificate is not taken; using the one before it");
        let holdings = Holdings { current: previous, previous: None };
        if let Err(error) = holdings.store(&self.places) {
            tracing::warn!(%error, "the choice of certificate is not on disk");
        }
        self.hold(holdings);
        true
    }
}

/// Keeps the node in touch.
pub(crate) struct Link {
    shared: Shared,
    stop: CancellationToken,
    giver: watch::Sender<Line>,
    rescue: Rescue,
    backoff: Backoff,
    /// After new certificates, while no session lasts.
    renewals: Backoff,
    /// Sessions in a row that did not open and nobody said why.
    unexplained: u32,
}

impl Link {
    pub(crate) fn new(
        settings: Settings,
        places: Places,
        orders: Orders,
        wires: Wires,
        board: watch::Receiver<Board>,
        stop: CancellationToken,
    ) -> Self {
        let shared = Shared {
            clock: settings.clock,
            nonce: nonce(),
            protocol: settings.protocol,
            board,
            orders,
            controller: None,
            permits: wires.permits,
            stands: wires.stands,
            gates: wires.gates,
            line: wires.line,
            contact: wires.contact,
            gatherer: Gatherer::new(places.clone()),
            places,
            holdings: None,
            next_key: None,
            renew_at: Instant::now(),
            renewal_failing: None,
        };
        let (first, most) = RENEWED;
        let renewals = Backoff::new(first, most);
        let (giver, rescue) = (wires.giver, wires.rescue);
        Self { shared, stop, giver, rescue, backoff: Backoff::of_sessions(), renewals, unexplained: 0 }
    }

    /// Stays in touch until told to stop. Dropping a session in the middle is fine: what is under way is
    /// journalled, and the controller sees the stream end.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => (),
            () = self.live() => (),
        }
    }

    async fn live(&mut self) {
        self.load();
        loop {
            let Some(credentials) = self.identity().await else { continue };
            let started = Instant::now();
            let end = self.session(&credentials).await;
            let lasted = started.elapsed();
            if lasted >= GOOD {
                self.backoff.reset();
            }
            if lasted >= BRIEF {
                self.renewals.reset();
            }
            let rescue = self.rescue.due(&end, credentials.not_after <= self.shared.now());
            let pause = self.judge(end, lasted, &credentials).await;
            if rescue {
                let places = self.shared.places.clone();
                self.rescue.ask(&credentials, &places, &self.shared, &self.giver).await;
            }
            sleep(pause).await;
        }
    }

    fn load(&mut self) {
        match Holdings::load(&self.shared.places) {
            Ok(Some(holdings)) => self.shared.hold(holdings),
            Ok(None) => (),
            Err(error) => {
                let next = EnrolError::from(error);
                tracing::error!(why = chain(&next), next = next.next_step(), "credentials cannot be used");
            }
        }
    }

    /// The credentials to dial with; enrols first if there is a seed not used yet. `None` after a pause when
    /// there is nothing to dial with.
    async fn identity(&mut self) -> Option<Credentials> {
        let held = self.shared.holdings.as_ref().map(|holdings| holdings.current.clone());
        // Before it is read: one that is replaced while it is being tried is a new one.
        let stamp = self.seed_stamp();
        let seed = match Seed::load(&self.shared.places) {
            Ok(seed) => seed,
            Err(error) => {
                // What is wrong with its content does not heal by itself; a disk may.
                let least = match error {
                    IdentityError::Damaged { .. } => DAMAGED_PAUSE,
                    _ => Duration::ZERO,
                };
                let (error, wait) = (EnrolError::from(error), self.backoff.next(&mut rand::rng()).max(least));
                let next = error.next_step();
                tracing::error!(why = chain(&error), next, ?wait, "the seed cannot be used");
                if held.is_none() {
                    self.pause_or_new_seed(wait, stamp).await;
                }
                return held;
            }
        };
        match (seed, held) {
            (Some(seed), Some(held)) if seed.made(&held) => {
                enrol::forget_seed(&self.shared.places);
                Some(held)
            }
            (Some(seed), held) => match self.enrol(&seed).await {
                Ok(()) => self.shared.holdings.as_ref().map(|holdings| holdings.current.clone()),
                Err(error) => {
                    let wait = self.backoff.next(&mut rand::rng()).max(error.pause());
                    tracing::warn!(why = chain(&error), next = error.next_step(), ?wait, "not enrolled");
                    // With an older identity in hand, a seed that does not work is no reason to stay away.
                    if held.is_none() {
                        self.pause_or_new_seed(wait, stamp).await;
                    }
                    held
                }
            },
            (None, Some(held)) => Some(held),
            (None, None) => {
                tracing::info!(seed = %self.shared.places.enrol().display(), "waiting for a seed");
                while self.seed_stamp().is_none() {
                    sleep(SEED_PAUSE).await;
                    // A disk that could not be read at the start may be readable by now.
                    if let Ok(Some(holdings)) = Holdings::load(&self.shared.places) {
                        self.shared.hold(holdings);
                        break;
                    }
                }
                None
            }
        }
    }

    async fn enrol(&mut self, seed: &Seed) -> Result<(), EnrolError> {
        let mut greeting = hello(&self.shared);
        greeting.machine = fingerprint(&self.shared.places, seed.fleet());
        let (holdings, time) = seed.enrol(&self.shared.places, greeting).await?;
        enrol::forget_seed(&self.shared.places);
        self.enrolled(holdings, time);
        Ok(())
    }

    fn enrolled(&mut self, holdings: Holdings, time: ControllerTime) {
        self.shared.controller = Some(time);
        let current = &holdings.current;
        tracing::info!(node = %current.node, fleet = %current.fleet, until = %current.not_after, "enrolled");
        let offset = time.offset_ms(self.shared.clock.as_ref());
        if offset.unsigned_abs() > 1000 {
            tracing::warn!(offset_ms = offset, "this node's clock differs from the controller's");
        }
        self.shared.hold(holdings);
        self.backoff.reset();
        self.unexplained = 0;
    }

    /// When the seed was written, if there is one.
    fn seed_stamp(&self) -> Option<SystemTime> {
        std::fs::metadata(self.shared.places.enrol()).and_then(|meta| meta.modified()).ok()
    }

    /// Waits, but not longer than until the seed is another one than `before`.
    async fn pause_or_new_seed(&self, wait: Duration, before: Option<SystemTime>) {
        let end = Instant::now() + wait;
        while Instant::now() < end && self.seed_stamp() == before {
            sleep((end - Instant::now()).min(SEED_PAUSE)).await;
        }
    }

    async fn session(&mut self, credentials: &Credentials) -> Result<End, EnrolError> {
        if credentials.not_after <= self.shared.now() {
            // The session listener will not take it; the enrolment listener may, for a key it knows.
            return self.come_back(credentials).await;
        }
        let tls = credentials.tls(&self.shared.places)?;
        let channel = Dialler::new(&credentials.fleet)?.dial(&credentials.session_addresses, tls).await?;
        let session = match Session::open(channel, &mut self.shared).await {
            Ok(session) => session,
            Err(end) => return Ok(end),
        };
        tracing::info!(controller = ?credentials.session_addresses, "session open");
        self.unexplained = 0;
        self.shared.settle();
        self.shared.contact.send_modify(|contact| {
            contact.opened = true;
            contact.controller = Some(session.controller_version().to_owned());
        });
        let giver = || Some(Giver::Session(session.client.clone()));
        self.shared.line.send_replace(giver());
        self.giver.send_replace(giver());
        let end = session.serve(&mut self.shared).await;
        self.shared.line.send_replace(None);
        self.giver.send_replace(None);
        Ok(end)
    }

    async fn come_back(&mut self, credentials: &Credentials) -> Result<End, EnrolError> {
        let greeting = hello(&self.shared);
        let (holdings, time) = enrol::come_back(&self.shared.places, credentials, greeting).await?;
        self.enrolled(holdings, time);
        Ok(End::Renewed)
    }

    /// What the end of a session means: how long to wait before the next.
    async fn judge(
        &mut self,
        end: Result<End, EnrolError>,
        lasted: Duration,
        credentials: &Credentials,
    ) -> Duration {
        self.shared.contact.send_modify(|contact| contact.unwanted = unwanted(&end));
        match end {
            Ok(End::Renewed) => self.renewals.next(&mut rand::rng()),
            Ok(End::Lost(why)) => {
                if lasted >= BRIEF {
                    self.backoff.reset();
                }
                let wait = self.backoff.next(&mut rand::rng());
                tracing::info!(%why, ?wait, "session lost");
                wait
            }
            Ok(End::Refused(refusal)) => self.refused(&refusal),
            Err(EnrolError::Refused(refusal)) => self.refused(&refusal),
            Ok(End::NeverOpened(why)) => {
                self.unexplained += 1;
                self.closed_without_a_word(&why, credentials).await
            }
            Err(error) => {
                if matches!(error, EnrolError::Dial(DialError::Handshake { .. })) {
                    self.unexplained += 1;
                    return self.closed_without_a_word(&chain(&error), credentials).await;
                }
                let wait = self.backoff.next(&mut rand::rng());
                tracing::warn!(why = chain(&error), next = error.next_step(), ?wait, "no session");
                wait
            }
        }
    }

    fn refused(&mut self, refusal: &Refusal) -> Duration {
        let least = match refusal.kind() {
            RefusalKind::RefusalBusy => Duration::from_millis(refusal.retry_after_ms.min(60_000)),
            // These do not heal by asking often.
            RefusalKind::RefusalRetired | RefusalKind::RefusalRevoked => SESSION_MOST,
            _ => Duration::ZERO,
        };
        let wait = least + self.backoff.next(&mut rand::rng());
        tracing::warn!(kind = ?refusal.kind(), why = refusal.message, next = refusal.hint, ?wait, "refused");
        wait
    }

    /// In TLS 1.3 a refused certificate may look like any closed connection. After a few of those, try the
    /// certificate before this one, then ask the enrolment listener, which answers in words.
    async fn closed_without_a_word(&mut self, why: &str, credentials: &Credentials) -> Duration {
        let wait = self.backoff.next(&mut rand::rng());
        tracing::warn!(%why, ?wait, "the session did not open");
        if self.unexplained < UNEXPLAINED {
            return wait;
        }
        self.unexplained = 0;
        if self.shared.fall_back() {
            return wait;
        }
        match self.come_back(credentials).await {
            Ok(_) => self.renewals.next(&mut rand::rng()),
            Err(EnrolError::Refused(refusal)) => self.refused(&refusal),
            Err(error) => {
                tracing::info!(why = chain(&error), "the enrolment listener gives no reason either");
                wait
            }
        }
    }
}

/// Whether a controller answered and did not want what this agent says, and why. Everything else says nothing about
/// this program: the controller may be away, busy, or have something against this node.
fn unwanted(end: &Result<End, EnrolError>) -> Option<String> {
    let (Ok(End::Refused(refusal)) | Err(EnrolError::Refused(refusal))) = end else { return None };
    let blames = matches!(refusal.kind(), RefusalKind::RefusalVersion | RefusalKind::RefusalBadRequest);
    blames.then(|| refusal.message.clone())
}
