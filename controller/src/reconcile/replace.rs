//! `replace`: another server for a node, under the same name and with another identity.
//!
//! ```text
//! mark ─► destroy the server ─► retire the identity, forget what was seen and held ─► unmark ─► apply ─► settle
//! ```
//!
//! Before any of it, the cloud is looked at: a server that nothing could take the place of stays. Each step may be done
//! again, and the mark stays until all but the last two are done: killed anywhere, the next run
//! finishes it, if it has the operator's consent to destroy what is still there. Once unmarked nothing is destroyed any
//! more, so the new server is safe.

use std::{collections::BTreeSet, sync::Arc};

use fleet_model::NodeName;
use fleet_plan::{ResolvedPlan, resolved::Cloud};
use fleet_proto::v1::{self, NodeState};
use fleet_provider::{
    event::{Event, Verb},
    provider::Outcome,
};
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
    node: NodeName,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<v1::Finished, RecordError> {
    // As far as the others are.
    let provision_only = tools.fleet().await?.value.provision_only;
    let until = if provision_only { v1::Until::Provisioned } else { v1::Until::Ready };
    // What the plan changes elsewhere, and was not rolled out yet, is not this one's business.
    let wish = apply::Wish { given, until, consented: [node].into(), rolls: None };
    apply::run(tools, wish, teller, stop).await
}

/// Nodes of the plan whose replacement was begun and is not finished.
///
/// # Errors
/// [`RecordError`] if the store fails.
pub async fn pending(tools: &Tools, plan: &ResolvedPlan) -> Result<BTreeSet<NodeName>, RecordError> {
    let marks = tools.records().list::<ReplacingRecord>(&keys::replacings()).await?;
    let nodes = marks.into_iter().filter_map(|(name, _)| name.parse().ok());
    Ok(nodes.filter(|node| plan.node(node).is_some()).collect())
}

/// What came of replacements.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    pub(super) outcome: Outcome,
    /// Nodes that are to be made anew.
    pub(super) nodes: BTreeSet<NodeName>,
}

/// One run's replacements.
pub(super) struct Replacing<'a> {
    pub(super) tools: &'a Tools,
    pub(super) plan: &'a ResolvedPlan,
    /// Nodes whose servers the operator let go.
    pub(super) consented: &'a BTreeSet<NodeName>,
    pub(super) provision: &'a dyn Provision,
    pub(super) teller: &'a Arc<Teller>,
    pub(super) stop: &'a CancellationToken,
}

impl Replacing<'_> {
    /// Finishes every replacement that was begun, then begins those consented to; the nodes' servers are then to be
    /// made. Ends with the first that does not succeed.
    pub(super) async fn perform(&self) -> Result<Result<Replaced, ProvisionError>, RecordError> {
        let mut whole = Replaced::default();
        let mut nodes = Vec::new();
        for (name, _) in self.tools.records().list::<ReplacingRecord>(&keys::replacings()).await? {
            let Ok(node) = name.parse::<NodeName>() else { continue };
            if self.plan.node(&node).is_none() {
                // A node that left the plan meanwhile is destroyed as such.
                self.tools.records().delete(&keys::replacing(&node)).await?;
                continue;
            }
            nodes.push((node, false));
        }
        let fresh = self.consented.iter().filter(|node| self.plan.node(node).is_some());
        let fresh: Vec<_> = fresh.filter(|node| !nodes.iter().any(|(begun, _)| begun == *node)).collect();
        nodes.extend(fresh.into_iter().map(|node| (node.clone(), true)));
        // Nothing is marked or destroyed before all of it may be, and can be made anew.
        match self.refused(nodes.iter().map(|(node, _)| node.clone()).collect()).await {
            Ok(problems) => whole.outcome.problems = problems,
            Err(error) => return Ok(Err(error)),
        }
        for (node, fresh) in nodes {
            if !whole.outcome.problems.is_empty() {
                break;
            }
            if self.stop.is_cancelled() {
                whole.outcome.stopped = true;
                break;
            }
            if let Err(error) = self.one(&node, fresh, &mut whole).await? {
                return Ok(Err(error));
            }
            if whole.outcome.stopped {
                break;
            }
        }
        Ok(Ok(whole))
    }

    async fn one(
        &self,
        node: &NodeName,
        fresh: bool,
        whole: &mut Replaced,
    ) -> Result<Result<(), ProvisionError>, RecordError> {
        let mark = keys::replacing(node);
        if fresh {
            let record = ReplacingRecord { since: self.tools.clock().now() };
            self.tools.records().put(&mark, &record, Expected::Any).await?;
        }
        let outcome = match self.destroy(node).await {
            Ok(outcome) => outcome,
            Err(error) => {
                // The cloud could not even be looked at. A mark of an earlier run stays: that one may have done more.
                if fresh {
                    self.tools.records().delete(&mark).await?;
                }
                return Ok(Err(error));
            }
        };
        let undone = outcome.stopped || !outcome.problems.is_empty();
        let calls = outcome.changing_calls;
        whole.outcome.changing_calls += calls;
        whole.outcome.stopped |= outcome.stopped;
        whole.outcome.problems.extend(outcome.problems);
        if undone {
            // Nothing was done to it: the next `up` must not take it for half destroyed.
            if fresh && calls == 0 {
                self.tools.records().delete(&mark).await?;
            }
            return Ok(Ok(()));
        }
        forget(self.tools, node).await?;
        self.stage(node, NodeState::NodeGone, "its successor follows");
        self.tools.records().delete(&mark).await?;
        whole.nodes.insert(node.clone());
        Ok(Ok(()))
    }

    /// Why some of `nodes` keep the servers they have: nobody agreed that they go, or nothing could take their place.
    async fn refused(&self, nodes: BTreeSet<NodeName>) -> Result<Vec<String>, ProvisionError> {
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let preview = self.provision.preview(self.plan, &nodes).await?;
        // One whose successor cannot be made is only destroyed.
        let goes = |verb| matches!(verb, Verb::Replace | Verb::Destroy);
        let is_there = |node: &NodeName| {
            let mut steps = preview.steps.iter();
            steps.any(|step| goes(step.verb) && step.is_machine() && step.name == node.as_str())
        };
        let refused = nodes.iter().filter(|node| is_there(node)).filter_map(|node| {
            if !self.consented.contains(node) {
                return Some(without_consent(node, &self.plan.cloud));
            }
            let why = preview.unmakeable.get(node)?;
            let machine = machine(&self.plan.cloud);
            Some(format!("node `{node}` keeps its {machine}, since none could take its place: {why}"))
        });
        Ok(refused.collect())
    }

    /// Destroys the node's server and leaves the rest.
    async fn destroy(&self, node: &NodeName) -> Result<Outcome, ProvisionError> {
        tracing::info!(%node, "the node's server is destroyed for another");
        let first = match self.plan.cloud {
            Cloud::Hosts => "its machine is released first",
            Cloud::Local | Cloud::Mcp { .. } => "its server is destroyed first",
        };
        self.stage(node, NodeState::NodeCreating, first);
        let (sender, mut events) = mpsc::channel(EVENTS);
        let destroying = async {
            // Takes the sender along, so that the events end with it.
            let sender = sender;
            self.provision.destroy_node(self.plan, node, &sender, self.stop).await
        };
        let telling = async {
            while let Some(event) = events.recv().await {
                if let Event::Step(step, state) = event {
                    self.teller.step(&step, &state);
                }
            }
        };
        tokio::join!(destroying, telling).0
    }

    fn stage(&self, node: &NodeName, state: NodeState, detail: &str) {
        if self.tools.homecoming.board.set_stage(node, state, detail) {
            self.teller.node(node, state, detail);
        }
    }
}

fn without_consent(node: &NodeName, cloud: &Cloud) -> String {
    let goes = match cloud {
        Cloud::Hosts => "releases its machine",
        Cloud::Local | Cloud::Mcp { .. } => "destroys its server with its disks",
    };
    format!(
        "a replacement of node `{node}` was begun and not finished, and finishing it {goes}; `fleetctl up --replace \
         {node}` says that you want that"
    )
}

const fn machine(cloud: &Cloud) -> &'static str {
    match cloud {
        Cloud::Hosts => "machine",
        Cloud::Local | Cloud::Mcp { .. } => "server",
    }
}

/// The server is gone: so is who it was, what it said, what it held, and every token on its way to it. First the
/// tokens, so that nobody comes in after the identity was retired; once more for whoever was coming in just then.
async fn forget(tools: &Tools, node: &NodeName) -> Result<(), RecordError> {
    for _ in 0..2 {
        token::prune(tools.records(), tools.clock().now(), |whose| whose == node).await?;
        tools.enrolment.retire(node).await?;
    }
    tools.homecoming.board.start_over(node).await?;
    tools.permits.forget(node).await
}
