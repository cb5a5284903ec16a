//! Every node: its session if it has one, what it last said, what it should be.
//!
//! In memory, because heartbeats are too many for a disk; what must survive a restart is written behind by
//! [`Registry::take_dirty`]'s caller. One lock, held for map look-ups only, never across an await.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use fleet_model::{NodeName, Timestamp};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{self, to_agent},
};
use futures::task::AtomicWaker;
use tokio::sync::watch;
use tonic::Status;

use super::{
    admission::{Admission, Present, admit},
    pace::Pace,
};
use crate::{records::ObservedRecord, tls::peer::Peer};

/// Commands that may wait for one agent; beyond it the agent counts as not answering.
const COMMANDS: usize = 64;
/// Answers about permits likewise: an agent asks for one or two.
const PERMITS: usize = 16;
/// Questions to gates likewise: a policy has a few, and asks again.
const GATES: usize = 16;
/// How stale the stored `last_seen` of a quiet, healthy node may become.
const SEEN_STALE: Duration = Duration::from_secs(300);
/// Longest text taken from a greeting.
const TEXT: usize = 128;

/// Who is there.
#[derive(Debug)]
pub struct Registry {
    nodes: Mutex<HashMap<NodeName, Entry>>,
    /// Sessions open now.
    sessions: AtomicU64,
    next_id: AtomicU64,
    /// Grows when nodes come for good or go for good.
    membership: AtomicU64,
    /// Grows with every change worth looking at.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Entry {
    live: Option<Arc<Live>>,
    desired: Option<Arc<v1::Desired>>,
    observed: Option<Arc<v1::Observed>>,
    facts: Option<Arc<v1::Facts>>,
    /// Where it stands with its releases, as said in this session.
    standing: Option<Arc<v1::Standing>>,
    agent_version: String,
    enrolled: bool,
    /// Why it was not let in when it last wanted to enrol or return, unless it has come in since.
    refused: Option<String>,
    last_seen: Timestamp,
    written_seen: Timestamp,
    dirty: bool,
}

/// One session.
pub struct Live {
    /// Whose.
    pub node: NodeName,
    /// Distinguishes it from earlier and later sessions of the node.
    pub id: u64,
    /// The machine it comes from.
    pub machine: String,
    /// Its connection.
    pub peer: Arc<Peer>,
    /// Whether its agent takes orders.
    pub orders: bool,
    /// Whether its agent answers gates.
    pub gates: bool,
    silence: Duration,
    last_seen: AtomicI64,
    /// How far its clock was ahead of ours when it last said, in milliseconds.
    ahead: AtomicI64,
    outbox: Mutex<Outbox>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Outbox {
    desired: Option<Arc<v1::Desired>>,
    permits: VecDeque<v1::PermitAnswer>,
    /// Of orders and what takes them back only the newest counts.
    order: Option<Box<to_agent::Message>>,
    gates: VecDeque<v1::GateAsk>,
    commands: VecDeque<v1::Command>,
    ended: Option<Status>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("node", &self.node).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Live {
    /// Its clock shows `node_time_ms` as ours shows `now`.
    pub fn clock(&self, node_time_ms: i64, now: Timestamp) {
        self.ahead.store(node_time_ms.saturating_sub(now.as_millis()), Ordering::Relaxed);
    }

    /// When it last said anything.
    pub fn last_seen(&self) -> Timestamp {
        Timestamp::from_millis(self.last_seen.load(Ordering::Relaxed))
    }

    /// From when on it counts as silent unless it says something.
    pub fn silent_from(&self) -> Timestamp {
        self.last_seen().after(self.silence)
    }

    /// Notes that it said something.
    pub fn heard(&self, now: Timestamp) {
        self.last_seen.fetch_max(now.as_millis(), Ordering::Relaxed);
    }

    /// Sends a command, unless too many wait already.
    pub fn command(&self, command: v1::Command) -> bool {
        let mut outbox = self.outbox();
        if outbox.ended.is_some() || outbox.commands.len() >= COMMANDS {
            return false;
        }
        outbox.commands.push_back(command);
        drop(outbox);
        self.waker.wake();
        true
    }

    /// Answers a question about a permit. Of too many the oldest are dropped: whoever asks that often asks again.
    pub fn permit(&self, answer: v1::PermitAnswer) {
        let mut outbox = self.outbox();
        if outbox.permits.len() >= PERMITS {
            outbox.permits.pop_front();
        }
        outbox.permits.push_back(answer);
        drop(outbox);
        self.waker.wake();
    }

    /// Tells it an order, or takes one back, or asks a gate.
    pub fn order(&self, message: to_agent::Message) {
        let mut outbox = self.outbox();
        match message {
            to_agent::Message::Gate(ask) => {
                outbox.gates.retain(|waiting| waiting.gate != ask.gate);
                if outbox.gates.len() >= GATES {
                    outbox.gates.pop_front();
                }
                outbox.gates.push_back(ask);
            }
            order => outbox.order = Some(Box::new(order)),
        }
        drop(outbox);
        self.waker.wake();
    }

    /// Ends the session, saying why.
    pub fn end(&self, why: Status) {
        self.outbox().ended = Some(why);
        self.waker.wake();
    }

    fn desire(&self, desired: Arc<v1::Desired>) {
        // Only the newest matters: an older one still waiting is replaced.
        self.outbox().desired = Some(desired);
        self.waker.wake();
    }

    /// The next thing to tell the agent; whoever polls is woken when there is more.
    pub(crate) fn poll_outbox(&self, waker: &Waker) -> Option<Result<v1::ToAgent, Status>> {
        // Registered before looking, so that nothing can slip in between.
        self.waker.register(waker);
        let mut outbox = self.outbox();
        if let Some(why) = &outbox.ended {
            return Some(Err(why.clone()));
        }
        if let Some(desired) = outbox.desired.take() {
            let desired = to_agent::Message::Desired(v1::Desired::clone(&desired));
            return Some(Ok(v1::ToAgent { message: Some(desired) }));
        }
        if let Some(answer) = outbox.permits.pop_front() {
            if outbox.permits.is_empty() {
                outbox.permits = VecDeque::new();
            }
            return Some(Ok(v1::ToAgent { message: Some(to_agent::Message::Permit(answer)) }));
        }
        if let Some(order) = outbox.order.take() {
            return Some(Ok(v1::ToAgent { message: Some(*order) }));
        }
        if let Some(ask) = outbox.gates.pop_front() {
            if outbox.gates.is_empty() {
                outbox.gates = VecDeque::new();
            }
            return Some(Ok(v1::ToAgent { message: Some(to_agent::Message::Gate(ask)) }));
        }
        let command = outbox.commands.pop_front()?;
        if outbox.commands.is_empty() {
            // Ten thousand sessions keep no memory for commands they had once.
            outbox.commands = VecDeque::new();
        }
        Some(Ok(v1::ToAgent { message: Some(to_agent::Message::Command(command)) }))
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

impl Default for Registry {
    fn default() -> Self {
        Self {
            nodes: Mutex::default(),
            sessions: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
            membership: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        }
    }
}

impl Registry {
    /// Takes what the store remembers of a node.
    pub fn remember(&self, node: NodeName, record: ObservedRecord) {
        let last_seen = Timestamp::from_millis(record.last_seen_ms);
        let mut nodes = self.nodes();
        let entry = nodes.entry(node).or_default();
        entry.agent_version = record.agent_version;
        entry.last_seen = last_seen;
        entry.written_seen = last_seen;
        entry.observed = record.observed.map(Arc::new);
        entry.facts = record.facts.map(Arc::new);
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
        now: Timestamp,
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
            silent_from: live.silent_from(),
        });
        if let Admission::Refuse(refusal) = admit(node, present, &hello.machine, now) {
            return Err(refusal);
        }
        // Told at once what it should be, unless it holds exactly that already.
        let desired = entry.desired.clone().filter(|desired| desired.generation != hello.generation);
        let can = |what: &str| hello.capabilities.iter().any(|named| named == what);
        let live = Arc::new(Live {
            node: node.clone(),
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            machine: hello.machine.clone(),
            peer,
            orders: can("orders"),
            gates: can("gates"),
            silence: pace.silence(),
            last_seen: AtomicI64::new(now.as_millis()),
            ahead: AtomicI64::new(hello.node_time_ms.saturating_sub(now.as_millis())),
            outbox: Mutex::new(Outbox { desired, ..Outbox::default() }),
            waker: AtomicWaker::new(),
        });
        hello.agent_version.clone_into(&mut entry.agent_version);
        entry.dirty = true;
        entry.refused = None;
        entry.standing = None;
        let older = entry.live.replace(live.clone());
        drop(nodes);
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
            entry.last_seen = entry.last_seen.max(live.last_seen());
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
        self.report(live, |entry| entry.standing = Some(Arc::new(standing)))
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
            entry.observed = Some(Arc::new(observed));
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

    /// One node as seen at `now`.
    pub fn view(&self, node: &NodeName, now: Timestamp) -> View {
        self.nodes().get(node).map(|entry| entry.view(now)).unwrap_or_default()
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
        self.nodes()
            .values()
            .filter_map(|entry| Some(entry.live.as_ref()?.ahead.load(Ordering::Relaxed)))
            .collect()
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// How many open sessions are silent at `now`.
    pub fn silent(&self, now: Timestamp) -> usize {
        let nodes = self.nodes();
        nodes
            .values()
            .filter_map(|entry| entry.live.as_ref())
            .filter(|live| live.silent_from() <= now)
            .count()
    }

    /// A node other than `but` that has an identity and is not heard of.
    pub fn absent(&self, but: &NodeName, now: Timestamp) -> Option<NodeName> {
        let here = |entry: &Entry| entry.live.as_ref().is_some_and(|live| now < live.silent_from());
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
    pub fn take_dirty(&self, now: Timestamp, limit: usize) -> Vec<(NodeName, ObservedRecord)> {
        let mut nodes = self.nodes();
        let mut taken = Vec::new();
        for (node, entry) in nodes.iter_mut() {
            if taken.len() >= limit {
                break;
            }
            let last_seen = entry.seen();
            let stale = last_seen.since(entry.written_seen) >= SEEN_STALE;
            if entry.dirty || stale {
                entry.dirty = false;
                entry.written_seen = last_seen.min(now);
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
    fn seen(&self) -> Timestamp {
        self.live.as_ref().map_or(self.last_seen, |live| live.last_seen().max(self.last_seen))
    }

    fn view(&self, now: Timestamp) -> View {
        View {
            connected: self.live.as_ref().is_some_and(|live| now < live.silent_from()),
            session: self.live.is_some(),
            last_seen: self.seen(),
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
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// A machine opens a session as a node.
        Enter {
            node: u8,
            machine: u8,
        },
        /// The so-many-th session ever opened closes, perhaps for the second time.
        Leave(usize),
        /// The so-many-th session ever opened says something.
        Speak(usize),
        Wait(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..3_u8, 0..3_u8).prop_map(|(node, machine)| Step::Enter { node, machine }),
            any::<usize>().prop_map(Step::Leave),
            any::<usize>().prop_map(Step::Speak),
            (0..60_u16).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        /// Whatever comes in whatever order: one session a node at most, the newest of its machine; a clone never
        /// displaces a node at work; what a replaced session says is not heard.
        #[test]
        fn one_session_a_node(steps in steps()) {
            let registry = Registry::default();
            let mut now = Timestamp::from_millis(1_000_000);
            let mut opened: Vec<Arc<Live>> = Vec::new();
            let mut spoken = 0;
            let mut current: BTreeMap<NodeName, usize> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Enter { node, machine } => {
                        let node: NodeName = format!("n{node}").parse().expect("a name");
                        let hello = v1::Hello { machine: machine.to_string(), ..v1::Hello::default() };
                        let peer = Arc::new(Peer::of_node(node.clone()));
                        let held = current.get(&node).map(|&index| opened[index].clone());
                        let cloned = held
                            .as_ref()
                            .is_some_and(|held| held.machine != hello.machine && now < held.silent_from());
                        match registry.enter(&node, &hello, peer, now) {
                            Ok((live, _)) => {
                                prop_assert!(!cloned, "a clone got in");
                                current.insert(node, opened.len());
                                opened.push(live);
                            }
                            Err(refusal) => {
                                prop_assert!(cloned, "refused without cause: {refusal:?}");
                                prop_assert_eq!(refusal.kind(), RefusalKind::RefusalClone);
                            }
                        }
                    }
                    Step::Leave(which) if !opened.is_empty() => {
                        let index = which % opened.len();
                        registry.leave(&opened[index]);
                        current.retain(|_, held| *held != index);
                    }
                    Step::Speak(which) if !opened.is_empty() => {
                        let index = which % opened.len();
                        let live = &opened[index];
                        live.heard(now);
                        spoken += 1;
                        let facts = v1::Facts { cpus: spoken, ..v1::Facts::default() };
                        registry.facts(live, facts);
                        let heard = registry.view(&live.node, now).facts.map(|facts| facts.cpus);
                        let is_current = current.get(&live.node) == Some(&index);
                        prop_assert_eq!(heard == Some(spoken), is_current);
                    }
                    Step::Wait(secs) => now = now.after(Duration::from_secs(secs.into())),
                    Step::Leave(_) | Step::Speak(_) => {}
                }
                let ids = |lives: Vec<Arc<Live>>| {
                    let mut ids: Vec<_> = lives.iter().map(|live| live.id).collect();
                    ids.sort_unstable();
                    ids
                };
                let expected = current.values().map(|&index| opened[index].clone()).collect();
                prop_assert_eq!(ids(registry.lives()), ids(expected));
                prop_assert_eq!(registry.sessions(), current.len() as u64);
            }
        }
    }
}
