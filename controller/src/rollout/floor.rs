//! The fleet as the driver of rollouts sees it: who is there, what they say, and how they are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use fleet_model::{NodeName, Timestamp};
use fleet_plan::ResolvedPlan;
use fleet_proto::v1::{self, to_agent};
use tokio::time::Instant;

use super::{
    members::{self, Members},
    plans::{Said, Worked, said},
};
use crate::{
    reconcile::board::{Board, Change, Turn},
    records::{EnrolmentRecord, RecordError, Records, keys},
    session::stream::Desk,
};

/// Longest reason taken of a task that fails, in characters.
const REASON: usize = 160;
/// Number of a question whose answer is not waited for: no round of questions ever gets there.
const NOBODY: u64 = u64::MAX;

/// The fleet.
#[async_trait]
pub trait Floor: Send + Sync + Debug {
    /// Whoever has a session.
    fn connected(&self) -> BTreeSet<NodeName>;

    /// What a node said of itself in its open session.
    fn standing(&self, node: &NodeName) -> Option<Arc<v1::Standing>>;

    /// What its session can do beyond the first protocol; none if it has no session.
    fn can(&self, node: &NodeName) -> Option<Abilities>;

    /// What the plan in force changes of what running nodes do; none if there is no plan.
    fn change(&self) -> Option<Change>;

    /// What the work of the plan in force is known by.
    fn wanted(&self) -> Option<String>;

    /// What a node says of the work it was given last; none if it has not spoken of that.
    fn worked(&self, node: &NodeName) -> Option<Worked>;

    /// Tasks of a node's that fail.
    fn failing(&self, node: &NodeName) -> Broken;

    /// When a node last said anything, and in which session; none while it has none.
    fn heard(&self, node: &NodeName) -> Option<Heard>;

    /// Has a node say something.
    fn call(&self, node: &NodeName);

    /// Generation that a node said last how it gets on with, and the newest.
    fn generations(&self, node: &NodeName) -> (u64, u64);

    /// Gives a node work in its turn; says whether there is any to give. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails.
    async fn give(&self, node: &NodeName, turn: Turn) -> Result<bool, RecordError>;

    /// Tells a node, if it is there. Of orders only the newest counts.
    fn tell(&self, node: &NodeName, message: to_agent::Message);

    /// Lets a node fetch these, and nothing it could before.
    fn allow(&self, node: &NodeName, digests: Vec<String>);

    /// Port of its todo application.
    fn todo_port(&self, node: &NodeName) -> u16;

    /// Grows when nodes come for good or go for good, or the plan changes.
    fn epoch(&self) -> u64;

    /// Everybody.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails.
    async fn members(&self) -> Result<Members, RecordError>;
}

/// Tasks that fail, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broken {
    /// By what the node said last.
    pub now: BTreeMap<String, String>,
    /// For so long that it counts.
    pub lasting: BTreeMap<String, String>,
}

/// Another one than before means that a node has said something meanwhile, whatever clocks did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The session.
    pub session: u64,
    /// When it last said something.
    pub at: Timestamp,
}

/// What a session can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Takes orders.
    pub orders: bool,
    /// Answers gates.
    pub gates: bool,
    /// Knows what an order to go back is to leave.
    pub leaves: bool,
    /// Version of its agent.
    pub version: String,
}

/// The real one.
#[derive(Debug)]
pub struct Sessions {
    desk: Arc<Desk>,
    board: Arc<Board>,
    records: Records,
    /// How long something may stay failed before it counts: agents try again by themselves.
    patience: Duration,
    /// The plan last seen, and how many there were.
    plan: Mutex<(Option<Arc<ResolvedPlan>>, u64)>,
    /// Since when nodes say that something failed, and of which generation.
    failing: Mutex<BTreeMap<NodeName, (u64, Instant)>>,
    /// Since when tasks of nodes fail.
    tasks: Mutex<BTreeMap<NodeName, BTreeMap<String, Instant>>>,
}

impl Sessions {
    /// Over these sessions and this plan; what stays failed for longer than `patience` counts as failed.
    pub fn new(desk: Arc<Desk>, board: Arc<Board>, records: Records, patience: Duration) -> Self {
        let (plan, failing, tasks) = Default::default();
        Self { desk, board, records, patience, plan, failing, tasks }
    }
}

#[async_trait]
impl Floor for Sessions {
    fn connected(&self) -> BTreeSet<NodeName> {
        self.desk.registry.lives().iter().map(|live| live.node.clone()).collect()
    }

    fn standing(&self, node: &NodeName) -> Option<Arc<v1::Standing>> {
        self.desk.registry.standing_of(node)
    }

    fn can(&self, node: &NodeName) -> Option<Abilities> {
        let live = self.desk.registry.live(node)?;
        let version = self.desk.registry.view(node).agent_version;
        Some(Abilities { orders: live.orders, gates: live.gates, leaves: live.leaves, version })
    }

    fn change(&self) -> Option<Change> {
        self.board.change()
    }

    fn wanted(&self) -> Option<String> {
        self.board.wanted().map(|works| works.digest.clone())
    }

    fn worked(&self, node: &NodeName) -> Option<Worked> {
        let view = self.desk.registry.view(node);
        let (desired, assigned) = (view.desired?, self.board.assigned(node)?);
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let said = said(&desired, view.observed.as_deref().filter(|_| view.session))?;
        let said = match said {
            Said::Failed(why) => {
                let (generation, since) =
                    failing.entry(node.clone()).or_insert_with(|| (desired.generation, Instant::now()));
                if *generation != desired.generation {
                    (*generation, *since) = (desired.generation, Instant::now());
                }
                if since.elapsed() < self.patience { Said::Underway } else { Said::Failed(why) }
            }
            said => {
                failing.remove(node);
                said
            }
        };
        let wanted = self.board.wants(node).is_some_and(|wanted| wanted == assigned.work);
        Some(Worked { wanted, said })
    }

    fn failing(&self, node: &NodeName) -> Broken {
        let view = self.desk.registry.view(node);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // What a node said before it was gone stays true until it says otherwise.
        let reports = view.observed.iter().flat_map(|observed| &observed.tasks);
        let failed: BTreeMap<&str, &str> = reports
            .filter(|report| report.result() == v1::TaskResult::Failed)
            .map(|report| (report.name.as_str(), report.reason.as_str()))
            .collect();
        if failed.is_empty() {
            tasks.remove(node);
            return Broken::default();
        }
        let since = tasks.entry(node.clone()).or_default();
        since.retain(|task, _| failed.contains_key(task.as_str()));
        for task in failed.keys() {
            since.entry((*task).to_owned()).or_insert_with(Instant::now);
        }
        let lasts = |task: &str| since.get(task).is_some_and(|since| since.elapsed() >= self.patience);
        let told = |(task, why): (&str, &str)| (task.to_owned(), why.chars().take(REASON).collect());
        let now: BTreeMap<String, String> = failed.into_iter().map(told).collect();
        let mut lasting = now.clone();
        lasting.retain(|task, _| lasts(task));
        Broken { now, lasting }
    }

    fn heard(&self, node: &NodeName) -> Option<Heard> {
        let live = self.desk.registry.live(node)?;
        Some(Heard { session: live.id, at: live.last_seen() })
    }

    fn call(&self, node: &NodeName) {
        if let Some(live) = self.desk.registry.live(node) {
            // Nobody waits for the answer as such; if there is no room for the question, the next heartbeat does as well.
            live.command(v1::Command { id: NOBODY, what: Some(v1::command::What::Noop(v1::Noop {})) });
        }
    }

    fn generations(&self, node: &NodeName) -> (u64, u64) {
        let view = self.desk.registry.view(node);
        let (observed, desired) = (view.observed, view.desired);
        (observed.map_or(0, |observed| observed.generation), desired.map_or(0, |desired| desired.generation))
    }

    async fn give(&self, node: &NodeName, turn: Turn) -> Result<bool, RecordError> {
        self.board.give(node, turn).await
    }

    fn tell(&self, node: &NodeName, message: to_agent::Message) {
        if let Some(live) = self.desk.registry.live(node) {
            live.order(message);
        }
    }

    fn allow(&self, node: &NodeName, digests: Vec<String>) {
        self.desk.rollouts.allow(node, digests);
    }

    fn todo_port(&self, node: &NodeName) -> u16 {
        members::todo_port(self.board.plan().as_deref(), node)
    }

    fn epoch(&self) -> u64 {
        let plan = self.board.plan();
        let mut seen = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let same = match (&seen.0, &plan) {
            (Some(seen), Some(plan)) => Arc::ptr_eq(seen, plan),
            (seen, plan) => seen.is_none() && plan.is_none(),
        };
        if !same {
            *seen = (plan, seen.1 + 1);
        }
        self.desk.registry.membership() + seen.1
    }

    async fn members(&self) -> Result<Members, RecordError> {
        let enrolments = self.records.list::<EnrolmentRecord>(&keys::enrolments()).await?;
        let enrolled: BTreeMap<NodeName, String> = enrolments
            .into_iter()
            .filter_map(|(node, record)| Some((node.parse().ok()?, record.id)))
            .collect();
        Ok(members::members(self.board.plan().as_deref(), &self.board.works(), &enrolled))
    }
}
