//! What a database still has to do when a machine that held some of it is another one.
//!
//! A node that is home has a server and no data. Its replicas are laid out and filled by the `database` task of another
//! node, whose last look may be from before. Until that has looked again and has nothing left to say, one more
//! replacement could take the last copy.

use std::{sync::Arc, time::Duration};

use fleet_model::NodeName;
use fleet_plan::{ResolvedPlan, resolved::Work};
use fleet_proto::v1::{self, NodeState, TaskResult, command};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{driver::Tools, progress::Teller};
use crate::session::{registry::View, stream::Desk};

/// How long a node is waited for before it is asked to look again.
const AGAIN: Duration = Duration::from_secs(10);

/// Nodes with tasks of this kind, and the tasks' names.
fn tasks(plan: &ResolvedPlan, is: fn(&Work) -> bool) -> Vec<(NodeName, String)> {
    let of = |placed: fleet_plan::resolved::Placed<'_>| {
        let name = placed.node.name.clone();
        let tasks = placed.node.tasks.iter().filter(|task| is(&task.work));
        tasks.map(move |task| (name.clone(), task.name.clone())).collect::<Vec<_>>()
    };
    plan.nodes().flat_map(of).collect()
}

/// How a task stands, by its node's latest report.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// As desired, and nothing to be said about it.
    Settled,
    /// On its way, or fine but for a warning.
    Open(String),
    /// It will not go on by itself.
    Stuck(String),
}

fn standing(view: &View, node: &NodeName, task: &str) -> Standing {
    if !view.connected {
        return Standing::Open(format!("node `{node}` has no session"));
    }
    let generation = view.desired.as_ref().map_or(0, |desired| desired.generation);
    let observed = view.observed.as_ref().filter(|observed| observed.generation == generation);
    let report = observed.and_then(|seen| seen.tasks.iter().find(|report| report.name == task));
    let Some(report) = report else { return Standing::Open(format!("task `{task}` is not reported on yet")) };
    let why = || match report.reason.as_str() {
        "" => format!("task `{task}`"),
        reason => format!("task `{task}`: {reason}"),
    };
    match report.result() {
        TaskResult::Unchanged | TaskResult::Changed if report.reason.is_empty() => Standing::Settled,
        TaskResult::Failed => Standing::Stuck(why()),
        TaskResult::Drifted => {
            Standing::Stuck(format!("task `{task}` differs and is left so; `fleetctl repair {node} {task}`"))
        }
        _ => Standing::Open(why()),
    }
}

/// Whether more than one of `nodes` may hold a copy of a database: one that is silent, or whose own server is in
/// trouble, is no loss.
pub fn several_hold_copies<'n>(
    plan: &ResolvedPlan,
    desk: &Desk,
    nodes: impl IntoIterator<Item = &'n NodeName>,
) -> bool {
    let servers = tasks(plan, |work| matches!(work, Work::Rethinkdb(_)));
    let holds = |node: &&NodeName| {
        let view = desk.registry.view(node);
        let well =
            |(name, task): &(NodeName, String)| name == *node && !trouble(&standing(&view, node, task));
        view.connected && servers.iter().any(well)
    };
    !tasks(plan, |work| matches!(work, Work::Database(_))).is_empty()
        && nodes.into_iter().filter(holds).count() > 1
}

/// Why `node` should not lose its disks now: somebody's database is not settled. A node that is silent, or whose own
/// server is in trouble, may be what it waits for, and is no loss.
pub fn in_the_way(plan: &ResolvedPlan, desk: &Desk, node: &NodeName) -> Option<String> {
    let at = |node: &NodeName, task: &str| standing(&desk.registry.view(node), node, task);
    if !desk.registry.view(node).connected {
        return None;
    }
    let servers = tasks(plan, |work| matches!(work, Work::Rethinkdb(_)));
    let own = |(name, task): &(NodeName, String)| name == node && trouble(&at(name, task));
    if servers.iter().any(own) {
        return None;
    }
    tasks(plan, |work| matches!(work, Work::Database(_))).iter().find_map(|(name, task)| {
        match at(name, task) {
            Standing::Settled => None,
            Standing::Open(why) | Standing::Stuck(why) => Some(format!("on node `{name}`, {why}")),
        }
    })
}

const fn trouble(standing: &Standing) -> bool {
    !matches!(standing, Standing::Settled)
}

/// Has every node with a `database` task look again, and waits until it has nothing left to say. One line for each that
/// has not in time.
pub(super) async fn databases(
    tools: &Tools,
    plan: &ResolvedPlan,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Vec<(NodeName, String)> {
    let deadline = Instant::now() + tools.homecoming.timing.converge;
    let mut problems = Vec::new();
    for (node, task) in tasks(plan, |work| matches!(work, Work::Database(_))) {
        let settling = Settling { tools, teller, node: &node, task: &task, deadline };
        // Cancel safe: it only asks and waits.
        let done = tokio::select! {
            () = stop.cancelled() => return problems,
            done = settling.settled() => done,
        };
        match done {
            Ok(()) => settling.stage(NodeState::NodeReady, ""),
            Err(why) => {
                settling.stage(NodeState::NodeConverging, &why);
                problems.push((node, why));
            }
        }
    }
    problems
}

/// Has a node look at everything; whether it says so by then.
///
/// # Cancel safety
/// May be dropped at any time.
pub(super) async fn look(desk: &Desk, node: &NodeName, deadline: Instant) -> bool {
    let Some(live) = desk.registry.live(node) else { return false };
    let left = deadline.saturating_duration_since(Instant::now());
    let asking = desk.dispatch.ask(vec![live.clone()], command::What::Recheck(v1::Recheck {}), left);
    // A node whose session breaks meanwhile never answers; it is asked anew in the next one.
    let gone = async {
        let mut changed = desk.registry.watch();
        while desk.registry.is_current(&live) && changed.changed().await.is_ok() {}
    };
    tokio::select! {
        answers = asking => answers.answered == 1 && answers.failed.is_empty(),
        () = gone => false,
    }
}

struct Settling<'a> {
    tools: &'a Tools,
    teller: &'a Teller,
    node: &'a NodeName,
    task: &'a str,
    deadline: Instant,
}

impl Settling<'_> {
    async fn settled(&self) -> Result<(), String> {
        let timing = &self.tools.homecoming.timing;
        let mut stuck: Option<Instant> = None;
        // Only what is said after it looked again counts: before, it may not know yet.
        let mut looked = false;
        self.stage(NodeState::NodeConverging, &format!("task `{}` looks for what was lost", self.task));
        loop {
            looked |= look(self.desk(), self.node, self.deadline).await;
            let until = self.deadline.min(Instant::now() + AGAIN);
            let why = loop {
                let mut changed = self.desk().registry.watch();
                let standing = self.standing();
                if looked && standing == Standing::Settled {
                    return Ok(());
                }
                let why = match standing {
                    Standing::Settled => format!("node `{}` does not look again", self.node),
                    Standing::Open(why) => {
                        stuck = None;
                        why
                    }
                    Standing::Stuck(why) => {
                        let since = *stuck.get_or_insert_with(Instant::now);
                        if looked && since.elapsed() >= timing.failed {
                            return Err(format!("{why}; the replicas of its database are not rebuilt"));
                        }
                        why
                    }
                };
                self.stage(NodeState::NodeConverging, &why);
                let patience = stuck.map_or(until, |since| until.min(since + timing.failed));
                if timeout_at(patience, changed.changed()).await.is_err() {
                    break why;
                }
            };
            if Instant::now() >= self.deadline {
                return Err(format!(
                    "its database is not settled within {} s: {why}; it goes on by itself, `fleetctl status {}` \
                     shows how far it is",
                    timing.converge.as_secs(),
                    self.node
                ));
            }
        }
    }

    fn standing(&self) -> Standing {
        standing(&self.desk().registry.view(self.node), self.node, self.task)
    }

    fn desk(&self) -> &Desk {
        &self.tools.homecoming.desk
    }

    fn stage(&self, state: NodeState, detail: &str) {
        if self.tools.homecoming.board.set_stage(self.node, state, detail) {
            self.teller.node(self.node, state, detail);
        }
    }
}
