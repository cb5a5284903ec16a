//! Leave for members of a database to be off for a while: only while its table is whole, so that they are off one after
//! the other.
//!
//! Which server is back the cloud knows before its database does. So every member has to have looked again, since it was
//! asked, and found its server in the cluster; and whoever lays out the replicas, that all of them are ready.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fleet_model::NodeName;
use fleet_plan::{ResolvedPlan, resolved::Work};
use fleet_proto::v1::{self, command};
use fleet_provider::Leave;
use tokio::time::{Instant, timeout_at};

use super::{board::Board, settle::tasks};
use crate::{permit::keeper::lacks, session::stream::Desk, settings::Timing};

/// How long nodes that were asked to look again are waited for, before they are asked anew: a session may be dead and
/// nobody know yet.
const LOOK: Duration = Duration::from_secs(30);
/// Between two looks, if nobody says anything.
const AGAIN: Duration = Duration::from_secs(10);

/// Asks the nodes of the plan in force.
#[derive(Debug)]
pub struct Members {
    /// The plan.
    pub board: Arc<Board>,
    /// Who is there.
    pub desk: Arc<Desk>,
    /// How long a node may take to converge.
    pub timing: Timing,
}

#[async_trait]
impl Leave for Members {
    async fn to_restart(&self, node: &NodeName) -> Result<(), String> {
        let Some(plan) = self.board.plan() else { return Ok(()) };
        whole(&self.desk, &plan, node, self.timing.converge).await
    }
}

/// Waits until the databases of `plan` can do without `node` for a while.
///
/// # Errors
/// They cannot within `patience`: cause and next step.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn whole(
    desk: &Desk,
    plan: &ResolvedPlan,
    node: &NodeName,
    patience: Duration,
) -> Result<(), String> {
    let view = |node: &NodeName| desk.registry.view(node);
    let servers = tasks(plan, |work| matches!(work, Work::Rethinkdb(_)));
    // While nobody ever enrolled there is no database, whatever runs there.
    if !servers.iter().any(|(member, _)| view(member).enrolled) {
        return Ok(());
    }
    let others = servers.into_iter().filter(|(member, _)| member != node);
    let relied_on: Vec<_> = others.chain(tasks(plan, |work| matches!(work, Work::Database(_)))).collect();
    let deadline = Instant::now() + patience;
    let mut changed = desk.registry.watch();
    loop {
        let silent = look(desk, &relied_on, deadline).await;
        let until = deadline.min(Instant::now() + AGAIN);
        let why = loop {
            changed.borrow_and_update();
            let lacking = relied_on.iter().find_map(|(member, task)| lacks(&view(member), member, task));
            let why = match (lacking, &silent) {
                (Some(why), _) => why,
                (None, Some(silent)) => format!("node `{silent}`, which does not look again"),
                // What they found came before their answers.
                (None, None) => return Ok(()),
            };
            if timeout_at(until, changed.changed()).await.is_err() {
                break why;
            }
        };
        if Instant::now() >= deadline {
            return Err(format!(
                "its server stays on, since the database is not whole without it: waited {} s for {why}; see `fleetctl \
                 status`, and run `fleetctl up` again; who knows better switches the server off at the cloud first",
                patience.as_secs()
            ));
        }
    }
}

/// Has everybody look again; who did not, if somebody did not.
async fn look(desk: &Desk, relied_on: &[(NodeName, String)], deadline: Instant) -> Option<NodeName> {
    let mut nodes: Vec<&NodeName> = relied_on.iter().map(|(node, _)| node).collect();
    nodes.sort();
    nodes.dedup();
    let mut lives = Vec::new();
    for node in nodes {
        match desk.registry.live(node) {
            Some(live) => lives.push(live),
            None => return Some(node.clone()),
        }
    }
    let patience = LOOK.min(deadline.saturating_duration_since(Instant::now()));
    let answers = desk.dispatch.ask(lives, command::What::Recheck(v1::Recheck {}), patience).await;
    answers.silent.into_iter().next().or(answers.failed.into_iter().map(|(node, _)| node).next())
}
