//! One session: who it is, what waits to be told to its agent, and when that last said anything.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use fleet_model::{Clock, NodeName, Timestamp};
use fleet_proto::v1::{self, to_agent};
use futures::task::AtomicWaker;
use tonic::Status;

use crate::tls::peer::Peer;

/// Commands that may wait for one agent; beyond it the agent counts as not answering.
const COMMANDS: usize = 64;
/// Answers about permits likewise: an agent asks for one or two.
const PERMITS: usize = 16;
/// Questions to gates likewise: a policy has a few, and asks again.
const GATES: usize = 16;

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
    /// Whether its agent knows what an order to go back is to leave.
    pub leaves: bool,
    clock: Arc<dyn Clock>,
    silence: Duration,
    /// By the clock, for people.
    last_seen: AtomicI64,
    /// The same moment in milliseconds of time that passes: what silence is judged by.
    heard: AtomicU64,
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
    /// A session that begins with this greeting; `desired` is what it is told first.
    pub(super) fn new(
        node: NodeName,
        id: u64,
        hello: &v1::Hello,
        peer: Arc<Peer>,
        silence: Duration,
        desired: Option<Arc<v1::Desired>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let now = clock.now();
        let can = |what: &str| hello.capabilities.iter().any(|named| named == what);
        Self {
            node,
            id,
            machine: hello.machine.clone(),
            peer,
            orders: can("orders"),
            gates: can("gates"),
            leaves: can("leaves"),
            silence,
            last_seen: AtomicI64::new(now.as_millis()),
            heard: AtomicU64::new(millis(clock.passed())),
            ahead: AtomicI64::new(hello.node_time_ms.saturating_sub(now.as_millis())),
            clock,
            outbox: Mutex::new(Outbox { desired, ..Outbox::default() }),
            waker: AtomicWaker::new(),
        }
    }

    /// Its clock shows `node_time_ms` now.
    pub fn clock(&self, node_time_ms: i64) {
        self.ahead.store(node_time_ms.saturating_sub(self.clock.now().as_millis()), Ordering::Relaxed);
    }

    /// How far its clock was ahead of ours when it last said, in milliseconds.
    pub(super) fn ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// When it last said anything.
    pub fn last_seen(&self) -> Timestamp {
        Timestamp::from_millis(self.last_seen.load(Ordering::Relaxed))
    }

    /// The same moment by [`Clock::passed`].
    pub(super) fn last_heard(&self) -> Duration {
        Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// Whether it has said nothing for so long that it counts as silent, however the clock was set meanwhile.
    pub fn is_silent(&self) -> bool {
        self.clock.passed().saturating_sub(self.last_heard()) >= self.silence
    }

    /// Notes that it said something.
    pub fn heard(&self) {
        self.last_seen.store(self.clock.now().as_millis(), Ordering::Relaxed);
        self.heard.store(millis(self.clock.passed()), Ordering::Relaxed);
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

    pub(super) fn desire(&self, desired: Arc<v1::Desired>) {
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

fn millis(passed: Duration) -> u64 {
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}
