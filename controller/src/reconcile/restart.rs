//! Leave for members of a database to be off for a while: only while its table is whole, so that they are off one after
//! the other.
//!
//! Which server is back the cloud knows before its database does. So every other member has to have looked again, since
//! leave was asked and since the last one was off, and found its server in the cluster and nobody missing; and whoever
//! lays out the replicas, that all of them are ready. A member that all others miss is what they wait for: it may go at
//! any time.
//!
//! Who is a member is told by what nodes are to do now. What else the plan in force wants they are given by a rollout,
//! which comes later.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use fleet_model::NodeName;
use fleet_plan::ResolvedPlan;
use fleet_proto::v1::{TaskReport, TaskResult, task_spec::Kind};
use fleet_provider::{Leave, Turn};
use futures::future::join_all;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::{board::Board, settle::look};
use crate::{
    permit::keeper::lacks,
    session::{registry::View, stream::Desk},
};

/// Between two looks of all.
const AGAIN: Duration = Duration::from_secs(10);

/// Asks the nodes of the plan in force.
#[derive(Debug)]
pub struct Members {
    /// The plan.
    pub board: Arc<Board>,
    /// Who of them goes.
    pub turns: Turns,
}

#[async_trait]
impl Leave for Members {
    async fn to_restart(&self, node: &NodeName) -> Result<Option<Turn>, String> {
        let Some(plan) = self.board.plan() else { return Ok(None) };
        self.turns.next(&plan, node).await
    }
}

/// Lets members of the database go, one after the other.
#[derive(Debug)]
pub struct Turns {
    desk: Arc<Desk>,
    patience: Duration,
    turn: Arc<Mutex<State>>,
}

/// Whoever holds it finds out whether a member may go, or is one that is off.
#[derive(Debug, Default)]
struct State {
    /// How many went so far.
    given: u64,
    /// The last look of all, unless somebody went since.
    look: Option<Look>,
}

#[derive(Debug)]
struct Look {
    began: Instant,
    ended: Instant,
    /// Who did not look.
    silent: BTreeSet<NodeName>,
}

/// What a node has of the database.
#[derive(Debug)]
struct Part {
    node: NodeName,
    task: String,
    /// Name of the server, if it is one; otherwise it lays out the replicas.
    server: Option<String>,
    view: View,
}

impl Part {
    /// What the node says of it, if that is about what it is to do now.
    fn report(&self) -> Option<&TaskReport> {
        let generation = self.view.desired.as_ref()?.generation;
        let observed = self.view.observed.as_ref().filter(|observed| observed.generation == generation)?;
        observed.tasks.iter().find(|report| report.name == self.task)
    }

    /// A server of the cluster that says now who else is in it; what it says of that.
    fn witness(&self, silent: &BTreeSet<NodeName>) -> Option<&TaskReport> {
        let heard = self.view.connected && !silent.contains(&self.node);
        let report = self.report().filter(|_| heard && self.server.is_some())?;
        matches!(report.result(), TaskResult::Unchanged | TaskResult::Changed).then_some(report)
    }

    fn lacks(&self) -> Option<String> {
        lacks(&self.view, &self.node, &self.task).or_else(|| {
            let report = self.report()?;
            let why = match &report.cluster {
                Some(cluster) if cluster.missing_members.is_empty() => return None,
                Some(cluster) => format!("not in the cluster: {}", cluster.missing_members.join(", ")),
                // An older agent, which has a reason if somebody is missing, and may have it for something else.
                None if report.reason.is_empty() => return None,
                None => {
                    let next = "its agent is too old to say whether a server is missing: update it";
                    format!("{} ({next})", report.reason)
                }
            };
            Some(format!("task `{}` of node `{}`: {why}", self.task, self.node))
        })
    }
}

/// Whether a report says that this server is not in the cluster; one of an older agent never does.
fn misses(report: &TaskReport, server: &str) -> bool {
    report.cluster.as_ref().is_some_and(|seen| seen.missing_members.iter().any(|name| name == server))
}

impl Turns {
    /// Of nodes that may take so long to converge.
    pub fn new(desk: Arc<Desk>, patience: Duration) -> Self {
        Self { desk, patience, turn: Arc::default() }
    }

    /// Waits until the database that nodes of `plan` serve can do without `node`; at once and with no turn if it is none
    /// of them.
    ///
    /// # Errors
    /// It cannot for so long: cause and next step.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn next(&self, plan: &ResolvedPlan, node: &NodeName) -> Result<Option<Turn>, String> {
        let mut changed = self.desk.registry.watch();
        let asked = Instant::now();
        // Counted from when the last one went: whoever waits for its turn is not late.
        let (mut since, mut given) = (asked, None);
        loop {
            changed.borrow_and_update();
            if !is_member(&self.parts(plan), node) {
                return Ok(None);
            }
            let mut turn = Arc::clone(&self.turn).lock_owned().await;
            if given.replace(turn.given) != Some(turn.given) {
                since = Instant::now();
            }
            let deadline = since + self.patience;
            let fresh = |look: &Look| look.began >= asked && look.ended.elapsed() < AGAIN;
            let look = match turn.look.take() {
                Some(look) if fresh(&look) => look,
                _ => self.look(plan, deadline).await,
            };
            let again = look.ended + AGAIN;
            // What they found came before their answers.
            let Some(why) = in_the_way(&self.parts(plan), node, &look.silent) else {
                turn.given += 1;
                return Ok(Some(Box::new(turn)));
            };
            turn.look = Some(look);
            drop(turn);
            if Instant::now() >= deadline {
                return Err(format!(
                    "its server stays on, since the database is not whole without it: waited {} s for {why}; see \
                     `fleetctl status`, and run `fleetctl up` again; who knows better switches the server off at the \
                     cloud first",
                    self.patience.as_secs()
                ));
            }
            timeout_at(deadline.min(again), changed.changed()).await.ok();
        }
    }

    /// What nodes of the plan have of the database. One that never ran an agent holds nothing, whatever runs there.
    fn parts(&self, plan: &ResolvedPlan) -> Vec<Part> {
        let of = |node: &NodeName| {
            let view = self.desk.registry.view(node);
            let desired = view.desired.clone().filter(|_| view.enrolled);
            let tasks = desired.iter().flat_map(|desired| &desired.tasks);
            let parts = tasks.filter_map(|task| {
                let server = match &task.kind {
                    Some(Kind::Rethinkdb(server)) => Some(server.server_name.clone()),
                    Some(Kind::Database(_)) => None,
                    _ => return None,
                };
                Some(Part { node: node.clone(), task: task.name.clone(), server, view: view.clone() })
            });
            parts.collect::<Vec<_>>()
        };
        plan.nodes().flat_map(|placed| of(&placed.node.name)).collect()
    }

    /// Has everybody look again who is there, each for as long as it takes it.
    async fn look(&self, plan: &ResolvedPlan, deadline: Instant) -> Look {
        let began = Instant::now();
        let nodes: BTreeSet<NodeName> = self.parts(plan).into_iter().map(|part| part.node).collect();
        let looks = nodes.into_iter().map(|node| async move {
            let looked = look(&self.desk, &node, deadline).await;
            (!looked).then_some(node)
        });
        let silent = join_all(looks).await.into_iter().flatten().collect();
        Look { began, ended: Instant::now(), silent }
    }
}

fn is_member(parts: &[Part], node: &NodeName) -> bool {
    parts.iter().any(|part| part.node == *node && part.server.is_some())
}

/// Why `node` should not be off now.
fn in_the_way(parts: &[Part], node: &NodeName, silent: &BTreeSet<NodeName>) -> Option<String> {
    let own = parts.iter().filter(|part| part.node == *node).find_map(|part| part.server.as_deref());
    let others = || parts.iter().filter(|part| part.node != *node);
    let mut witnesses = others().filter_map(|part| part.witness(silent)).peekable();
    // Of all: one that is cut off misses everybody.
    if witnesses.peek().is_some() && witnesses.all(|report| own.is_some_and(|own| misses(report, own))) {
        return None;
    }
    // Whether its own server is well does not matter when it goes; whether it finds the replicas ready does.
    let relied_on = || parts.iter().filter(|part| part.node != *node || part.server.is_none());
    let lacking = relied_on().find_map(Part::lacks);
    lacking.or_else(|| {
        let unheard = relied_on().find(|part| silent.contains(&part.node))?;
        Some(format!("node `{}`, which does not look again", unheard.node))
    })
}
