//! `replace`: another server for a node, under the same name and with another identity.
//!
//! ```text
//! mark ─► destroy the server ─► retire the identity, forget what was seen and held ─► unmark ─► apply
//! ```
//!
//! Each step may be done again, and the mark stays until all but the last are done: killed anywhere, the next run
//! finishes it. Once unmarked nothing is destroyed any more, so the new server is safe.

use std::sync::Arc;

use fleet_model::NodeName;
use fleet_plan::ResolvedPlan;
use fleet_proto::v1::{self, NodeState};
use fleet_provider::{event::Event, provider::Outcome};
use fleet_store::Expected;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    apply,
    driver::Tools,
    given::Given,
    progress::Teller,
    provision::{Provision, ProvisionError},
};
use crate::{
    enrol::token,
    records::{RecordError, ReplacingRecord, keys},
};

/// Events of the provider that may wait for us.
const EVENTS: usize = 256;

/// Replaces `node`, then works towards the plan as far as the last `up` did.
pub(super) async fn run(
    tools: &Tools,
    given: Given,
    node: &NodeName,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<v1::Finished, RecordError> {
    mark(tools, [node]).await?;
    // As far as the others are.
    let provision_only = tools.fleet().await?.value.provision_only;
    let until = if provision_only { v1::Until::Provisioned } else { v1::Until::Ready };
    apply::run(tools, given, until, teller, stop).await
}

/// Marks nodes whose servers are to be destroyed and made anew.
pub(super) async fn mark(
    tools: &Tools,
    nodes: impl IntoIterator<Item = &NodeName>,
) -> Result<(), RecordError> {
    let record = ReplacingRecord { since: tools.clock().now() };
    for node in nodes {
        tools.records().put(&keys::replacing(node), &record, Expected::Any).await?;
    }
    Ok(())
}

/// Does what is left of every replacement that was begun; the nodes' servers are then to be made.
pub(super) async fn finish(
    tools: &Tools,
    plan: &ResolvedPlan,
    provision: &dyn Provision,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<Result<Outcome, ProvisionError>, RecordError> {
    let mut whole = Outcome::default();
    for (name, _) in tools.records().list::<ReplacingRecord>(&keys::replacings()).await? {
        let Ok(node) = name.parse::<NodeName>() else { continue };
        // A node that left the plan meanwhile is destroyed as such.
        if plan.node(&node).is_some() {
            match destroy(tools, plan, &node, provision, teller, stop).await {
                Ok(outcome) => {
                    whole.changing_calls += outcome.changing_calls;
                    whole.stopped |= outcome.stopped;
                    whole.problems.extend(outcome.problems);
                }
                Err(error) => return Ok(Err(error)),
            }
            if whole.stopped || !whole.problems.is_empty() {
                return Ok(Ok(whole));
            }
            forget(tools, &node).await?;
            if tools.homecoming.board.set_stage(&node, NodeState::NodeGone, "its successor follows") {
                teller.node(&node, NodeState::NodeGone, "its successor follows");
            }
        }
        tools.records().delete(&keys::replacing(&node)).await?;
    }
    Ok(Ok(whole))
}

/// Destroys the node's server and leaves the rest.
async fn destroy(
    tools: &Tools,
    plan: &ResolvedPlan,
    node: &NodeName,
    provision: &dyn Provision,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<Outcome, ProvisionError> {
    tracing::info!(%node, "the node's server is destroyed for another");
    if tools.homecoming.board.set_stage(node, NodeState::NodeCreating, "its server is destroyed first") {
        teller.node(node, NodeState::NodeCreating, "its server is destroyed first");
    }
    let (sender, mut events) = mpsc::channel(EVENTS);
    let destroying = async {
        // Takes the sender along, so that the events end with it.
        let sender = sender;
        provision.destroy_node(plan, node, &sender, stop).await
    };
    let telling = async {
        while let Some(event) = events.recv().await {
            if let Event::Step(step, state) = event {
                teller.step(&step, &state);
            }
        }
    };
    tokio::join!(destroying, telling).0
}

/// The server is gone: so is who it was, what it said, what it held, and every token on its way to it.
async fn forget(tools: &Tools, node: &NodeName) -> Result<(), RecordError> {
    tools.enrolment.retire(node).await?;
    token::prune(tools.records(), tools.clock().now(), |whose| whose == node).await?;
    tools.homecoming.board.start_over(node).await?;
    tools.permits.forget(node).await
}
