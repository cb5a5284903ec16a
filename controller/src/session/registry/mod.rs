//! Every node: its session if it has one, what it last said, what it should be.
//!
//! In memory, because heartbeats are too many for a disk; what must survive a restart is written behind by
//! [`Registry::take_dirty`]'s caller. One lock, held for map look-ups only, never across an await.

mod live;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleet_model::{Clock, NodeName, Timestamp};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1,
};
use tokio::sync::{Notify, watch};
use tonic::Status;

use super::{
    admission::{Admission, Present, admit},
    pace::Pace,
};
use crate::{records::ObservedRecord, tls::peer::Peer};

pub use live::Live;

/// How stale the stored `last_seen` of a quiet, healthy node may become.
const SEEN_STALE: Duration = Duration::from_secs(300);
/// Longest text taken from a greeting.
const TEXT: usize = 128;

/// Who is there.
#[derive(Debug)]
pub struct Registry {
    clock: Arc<dyn Clock>,
    nodes: Mutex<HashMap<NodeName, Entry>>,
    /// Sessions open now.
    sessions: AtomicU64,
    next_id: AtomicU64,
    /// Grows when nodes come for good or go for good.
    membership: AtomicU64,
    /// Grows with every change worth looking at.
    changed: watch::Sender<u64>,
    /// Rings when a node holds a newer generation than is desired of it.
    ahead: Notify,
}

#[derive(Debug, Default)]
struct Entry {
    live: Option<Arc<Live>>,
    desired: Option<Arc<v1::Desired>>,
    /// The newest generation that it said it holds, since its last session began.
    holds: u64,
    /// It is known from the store alone: what it holds it has not said yet.
    unheard: bool,
    observed: Option<Arc<v1::Observed>>,
    facts: Option<Arc<v1::Facts>>,
    /// Where it stands with its releases, as said in this session.
    standing: Option<Arc<v1::Standing>>,
    /// What it said last that its slots hold, in this session or one before.
    slots: Slots,
    agent_version: String,
    enrolled: bool,
    /// Why it was not let in when it last wanted to enrol or return, unless it has come in since.
    refused: Option<String>,
    last_seen: Timestamp,
    written_seen: Timestamp,
    dirty: bool,
}

/// Agents on a node, each by its SHA-256.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Slots {
    running: String,
    other: String,
}

/// What a node has of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It runs it, or tries it.
    Runs,
    /// It may go back to it.
    Other,
}

/// A node as others see it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Whether a session is open and not silent.
    pub connected: bool,
    /// Whether a session is open.
    pub session: bool,
    /// When it was last heard of; zero is never.
    pub last_seen: Timestamp,
    /// The same moment of its open session by [`Clock::passed`].
    pub last_heard: Option<Duration>,
    /// What it should be.
    pub desired: Option<Arc<v1::Desired>>,
    /// What its agent reported.
    pub observed: Option<Arc<v1::Observed>>,
    /// Facts.
    pub facts: Option<Arc<v1::Facts>>,
    /// The agent's version.
    pub agent_version: String,
    /// Whether it has an identity.
    pub enrolled: bool,
    /// Why it was not let in when it last wanted to enrol or return, unless it has come in since.
    pub refused: Option<String>,
}

impl Registry {
    /// Of nobody yet; who is silent is told by what passes on this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            nodes: Mutex::default(),
            sessions: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
            membership: AtomicU64::new(0),
            changed: watch::Sender::new(0),
            ahead: Notify::new(),
        }
    }

    /// Takes what the store remembers of a node.
    pub fn remember(&self, node: NodeName, record: ObservedRecord) {
        let last_seen = Timestamp::from_millis(record.last_seen_ms);
        let mut nodes = self.nodes();
        let entry = nodes.entry(node).or_default();
        entry.agent_version = record.agent_version;
        entry.last_seen = last_seen;
        entry.written_seen = last_seen;
        entry.unheard = true;
        entry.observed = record.observed.map(Arc::new);
        entry.facts = record.facts.map(Arc::new);
        entry.slots = Slots { running: record.running_sha256, other: record.other_sha256 };
    }

    /// Sets what a node should be, and tells it if it is there. An older generation changes nothing.
    pub fn set_desired(&self, node: &NodeName, desired: Arc<v1::Desired>) {
        let mut nodes = self.nodes();
        let entry = nodes.entry(node.clone()).or_default();
        if entry.desired.as_ref().is_some_and(|held| held.generation > desired.generation) {
            return;
        }
        entry.desired = Some(desired.clone());
        // Under the lock: of two callers the later one is the later one for the agent too.
        if let Some(live) = &entry.live {
            live.desire(desired);
        }
        drop(nodes);
        self.touch();
    }

    /// What a node should be.
    pub fn desired(&self, node: &NodeName) -> Option<Arc<v1::Desired>> {
        self.nodes().get(node).and_then(|entry| entry.desired.clone())
    }

    /// Notes whether a node has an identity.
    pub fn set_enrolled(&self, node: &NodeName, enrolled: bool) {
        self.nodes().entry(node.clone()).or_default().enrolled = enrolled;
        self.membership.fetch_add(1, Ordering::Release);
        self.touch();
    }

    /// Grows when nodes come for good or go for good.
    pub fn membership(&self) -> u64 {
        self.membership.load(Ordering::Acquire)
    }

    /// Notes why a node was not let in; of one nobody knows, nothing is kept.
    pub fn refused(&self, node: &NodeName, why: String) {
        let mut nodes = self.nodes();
        let Some(entry) = nodes.get_mut(node) else { return };
        entry.refused = Some(why);
        drop(nodes);
        self.touch();
    }

    /// Opens a session, ending an older one of the same machine.
    ///
    /// # Errors
    /// A typed refusal: a clone, or a greeting that makes no sense.
    pub fn enter(
        &self,
        node: &NodeName,
        hello: &v1::Hello,
        peer: Arc<Peer>,
    ) -> Result<(Arc<Live>, Pace), Refusal> {
        if [&hello.machine, &hello.boot_nonce, &hello.agent_version].iter().any(|text| text.len() > TEXT) {
            return Err(Refusal::new(
                RefusalKind::RefusalBadRequest,
                format!("the greeting of node `{node}` holds overlong texts"),
                "use an agent of this controller's version",
            ));
        }
        let pace = Pace::among(usize::try_from(self.sessions()).unwrap_or(usize::MAX));
        let mut nodes = self.nodes();
        let entry = nodes.entry(node.clone()).or_default();
        let present = entry.live.as_ref().map(|live| Present {
            machine: &live.machine,
            last_seen: live.last_seen(),
            silent: live.is_silent(),
        });
        if let Admission::Refuse(refusal) = admit(node, present, &hello.machine) {
            return Err(refusal);
        }
        // Told at once what it should be, unless it holds exactly that already.
        let desired = entry.desired.clone().filter(|desired| desired.generation != hello.generation);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let clock = self.clock.clone();
        let live = Arc::new(Live::new(node.clone(), id, hello, peer, pace.silence(), desired, clock));
        hello.agent_version.clone_into(&mut entry.agent_version);
        entry.dirty = true;
        entry.refused = None;
        entry.standing = None;
        (entry.holds, entry.unheard) = (hello.generation, false);
        let ahead = entry.is_ahead();
        let older = entry.live.replace(live.clone());
        drop(nodes);
        if ahead {
            self.ahead.notify_one();
        }
        match older {
            Some(older) => older.end(Status::aborted("a newer session of this node took over")),
            None => {
                self.sessions.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.touch();
        Ok((live, pace))
    }

    /// Closes a session; nothing happens if a newer one has taken its place.
    pub fn leave(&self, live: &Live) {
        let mut nodes = self.nodes();
        let Some(entry) = nodes.get_mut(&live.node) else { return };
        if entry.live.as_ref().is_some_and(|held| held.id == live.id) {
            entry.live = None;
            entry.last_seen = live.last_seen();
            entry.dirty = true;
            drop(nodes);
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            self.touch();
        }
    }

    /// Takes facts from a session.
    pub fn facts(&self, live: &Live, facts: v1::Facts) {
        self.report(live, |entry| entry.facts = Some(Arc::new(facts)));
    }

    /// Takes from a session where its node stands; says whether that counts.
    pub fn standing(&self, live: &Live, standing: v1::Standing) -> bool {
        let slots = Slots { running: standing.running_sha256.clone(), other: standing.other_sha256.clone() };
        self.report(live, |entry| {
            if entry.slots != slots {
                entry.slots = slots;
                entry.dirty = true;
            }
            entry.standing = Some(Arc::new(standing));
        })
    }

    /// Who has something of the release of this version whose agent has this SHA-256, by name: as they said last, whether
    /// they are there or not.
    pub fn holders(&self, release: &str, version: &str) -> BTreeMap<NodeName, Holds> {
        let nodes = self.nodes();
        let held =
            nodes.iter().filter_map(|(node, entry)| Some((node.clone(), entry.holds(release, version)?)));
        held.collect()
    }

    /// Where a node stands, as said in its open session.
    pub fn standing_of(&self, node: &NodeName) -> Option<Arc<v1::Standing>> {
        let nodes = self.nodes();
        let entry = nodes.get(node).filter(|entry| entry.live.is_some())?;
        entry.standing.clone()
    }

    /// Whether a session is the one that speaks for its node.
    pub fn is_current(&self, live: &Live) -> bool {
        self.live(&live.node).is_some_and(|held| held.id == live.id)
    }

    /// Takes task results and health from a session.
    pub fn observed(&self, live: &Live, observed: v1::Observed) {
        self.report(live, |entry| {
            entry.dirty = true;
            entry.holds = entry.holds.max(observed.generation);
            entry.observed = Some(Arc::new(observed));
            if entry.is_ahead() {
                self.ahead.notify_one();
            }
        });
    }

    /// Only the current session speaks for the node: what a replaced one still had to say is dropped.
    fn report(&self, live: &Live, take: impl FnOnce(&mut Entry)) -> bool {
        let mut nodes = self.nodes();
        match nodes.get_mut(&live.node) {
            Some(entry) if entry.live.as_ref().is_some_and(|held| held.id == live.id) => take(entry),
            _ => return false,
        }
        drop(nodes);
        self.touch();
        true
    }

    /// The newest generation that a node said it holds; zero if it has not said so to this controller.
    pub fn holds(&self, node: &NodeName) -> u64 {
        self.nodes().get(node).map_or(0, |entry| entry.holds)
    }

    /// Whether a node is known from the store alone: what it holds it has not said yet.
    pub fn unheard(&self, node: &NodeName) -> bool {
        self.nodes().get(node).is_some_and(|entry| entry.unheard)
    }

    /// Waits until a node holds a newer generation than is desired of it: the store is an older copy.
    ///
    /// # Cancel safety
    /// May be dropped at any time: what rang stays rung.
    pub async fn ahead(&self) {
        self.ahead.notified().await;
    }

    /// One node as seen now.
    pub fn view(&self, node: &NodeName) -> View {
        self.nodes().get(node).map(Entry::view).unwrap_or_default()
    }

    /// The node's open session.
    pub fn live(&self, node: &NodeName) -> Option<Arc<Live>> {
        self.nodes().get(node).and_then(|entry| entry.live.clone())
    }

    /// Every open session.
    pub fn lives(&self) -> Vec<Arc<Live>> {
        self.nodes().values().filter_map(|entry| entry.live.clone()).collect()
    }

    /// How far the clocks of nodes in session were ahead of ours when they last said, in milliseconds.
    pub fn clocks(&self) -> Vec<i64> {
        self.nodes().values().filter_map(|entry| Some(entry.live.as_ref()?.ahead())).collect()
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// How many open sessions are silent.
    pub fn silent(&self) -> usize {
        let nodes = self.nodes();
        nodes.values().filter_map(|entry| entry.live.as_ref()).filter(|live| live.is_silent()).count()
    }

    /// A node other than `but` that has an identity and is not heard of.
    pub fn absent(&self, but: &NodeName) -> Option<NodeName> {
        let here = |entry: &Entry| entry.live.as_ref().is_some_and(|live| !live.is_silent());
        let nodes = self.nodes();
        let mut absent = nodes.iter().filter(|(node, entry)| entry.enrolled && *node != but && !here(entry));
        absent.next().map(|(node, _)| node.clone())
    }

    /// What every node should be.
    pub fn all_desired(&self) -> Vec<Arc<v1::Desired>> {
        self.nodes().values().filter_map(|entry| entry.desired.clone()).collect()
    }

    /// Nodes that should be something.
    pub fn all_desired_nodes(&self) -> Vec<NodeName> {
        let nodes = self.nodes();
        nodes.iter().filter(|(_, entry)| entry.desired.is_some()).map(|(node, _)| node.clone()).collect()
    }

    /// Whether a node has an identity.
    pub fn enrolled(&self, node: &NodeName) -> bool {
        self.nodes().get(node).is_some_and(|entry| entry.enrolled)
    }

    /// Forgets what a node was, ending its session with `why`: what it should be stays, for its successor.
    pub fn start_over(&self, node: &NodeName, why: Status) {
        let mut nodes = self.nodes();
        let Some(entry) = nodes.get_mut(node) else { return };
        let fresh = Entry { desired: entry.desired.take(), ..Entry::default() };
        let older = std::mem::replace(entry, fresh);
        drop(nodes);
        if let Some(live) = older.live {
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            live.end(why);
        }
        self.touch();
    }

    /// Forgets a node, ending its session with `why`.
    pub fn forget(&self, node: &NodeName, why: Status) {
        let entry = self.nodes().remove(node);
        self.membership.fetch_add(1, Ordering::Release);
        if let Some(live) = entry.and_then(|entry| entry.live) {
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            live.end(why);
        }
        self.touch();
    }

    /// Ends every session.
    pub fn end_all(&self, why: &Status) {
        self.lives().iter().for_each(|live| live.end(why.clone()));
    }

    /// Grows whenever something changed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says that something changed; whoever watches looks again.
    pub fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What should be written to the store, at most `limit` nodes; they count as written from now on.
    pub fn take_dirty(&self, limit: usize) -> Vec<(NodeName, ObservedRecord)> {
        let mut nodes = self.nodes();
        let mut taken = Vec::new();
        for (node, entry) in nodes.iter_mut() {
            if taken.len() >= limit {
                break;
            }
            let last_seen = entry.seen();
            // Either way: a clock that was set back is no reason to write nothing more.
            let apart = last_seen.since(entry.written_seen).max(entry.written_seen.since(last_seen));
            let stale = apart >= SEEN_STALE;
            if entry.dirty || stale {
                entry.dirty = false;
                entry.written_seen = last_seen;
                taken.push((node.clone(), entry.record()));
            }
        }
        taken
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeName, Entry>> {
        // No critical section can leave an entry half changed.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn holds(&self, release: &str, version: &str) -> Option<Holds> {
        let tries = |standing: &v1::Standing| {
            standing.release == release
                && matches!(
                    standing.step(),
                    v1::StandingStep::StandingFetching | v1::StandingStep::StandingTrial
                )
        };
        let Slots { running, other } = &self.slots;
        // An agent that never said which it is may be anybody's of that version.
        let runs = running == release || (running.is_empty() && self.agent_version == version);
        if runs || self.standing.as_deref().is_some_and(tries) {
            return Some(Holds::Runs);
        }
        (other == release).then_some(Holds::Other)
    }

    fn is_ahead(&self) -> bool {
        self.holds > self.desired.as_ref().map_or(0, |desired| desired.generation)
    }

    fn seen(&self) -> Timestamp {
        self.live.as_ref().map_or(self.last_seen, |live| live.last_seen())
    }

    fn view(&self) -> View {
        View {
            connected: self.live.as_ref().is_some_and(|live| !live.is_silent()),
            session: self.live.is_some(),
            last_seen: self.seen(),
            last_heard: self.live.as_ref().map(|live| live.last_heard()),
            desired: self.desired.clone(),
            observed: self.observed.clone(),
            facts: self.facts.clone(),
            agent_version: self.agent_version.clone(),
            enrolled: self.enrolled,
            refused: self.refused.clone(),
        }
    }

    fn record(&self) -> ObservedRecord {
        ObservedRecord {
            agent_version: self.agent_version.clone(),
            last_seen_ms: self.seen().as_millis(),
            observed: self.observed.as_deref().cloned(),
            facts: self.facts.as_deref().cloned(),
            running_sha256: self.slots.running.clone(),
            other_sha256: self.slots.other.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
