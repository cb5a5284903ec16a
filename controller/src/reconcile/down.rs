//! `down`: to nothing, proved.

use std::{collections::BTreeSet, sync::Arc};

use fleet_model::NodeName;
use fleet_plan::resolved::Cloud;
use fleet_proto::v1::{self, NodeState};
use fleet_provider::event::{Event, StepState, Verb};
use fleet_store::Expected;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{driver::Tools, progress::Teller};
use crate::{
    enrol::token,
    records::{EnrolmentRecord, FleetRecord, RecordError, keys},
};

/// Events of the provider that may wait for us.
const EVENTS: usize = 256;

/// Removes the fleet's resources, then its nodes' identities.
pub(super) async fn run(
    tools: &Tools,
    teller: &Arc<Teller>,
    stop: &CancellationToken,
) -> Result<v1::Finished, RecordError> {
    let held = tools.fleet().await?;
    let Some(cloud) = held.value.cloud.clone() else {
        teller.note("nothing was ever brought up here");
        return Ok(v1::Finished { ok: true, ..v1::Finished::default() });
    };
    let nodes = known(tools).await?;
    tools.homecoming.board.clear_stages();
    let provision = match tools.provisioners.open(&cloud, &held.value.id) {
        Ok(provision) => provision,
        Err(error) => return Ok(failed(error.0)),
    };
    let (sender, mut events) = mpsc::channel(EVENTS);
    let destroying = async {
        // Takes the sender along, so that the events end with it.
        let sender = sender;
        provision.destroy(&sender, stop).await
    };
    let telling = async {
        while let Some(event) = events.recv().await {
            tell(tools, teller, &nodes, &event);
        }
    };
    let (outcome, ()) = tokio::join!(destroying, telling);
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return Ok(failed(error.0)),
    };
    let mut problems = outcome.problems;
    if outcome.stopped {
        problems.push("stopped before the end; `fleetctl down` continues".to_owned());
    }
    let ok = problems.is_empty();
    if ok {
        forget(tools, teller, &nodes, held.value, cloud).await?;
    }
    let board = &tools.homecoming.board;
    let outcomes = nodes.iter().map(|node| {
        let stage = board.stage(node);
        v1::NodeOutcome {
            node: node.to_string(),
            state: stage.as_ref().map_or(NodeState::NodeUnspecified, |stage| stage.state).into(),
            reason: stage.map(|stage| stage.detail).unwrap_or_default(),
        }
    });
    Ok(v1::Finished {
        ok,
        changing_calls: outcome.changing_calls,
        nodes: outcomes.collect(),
        problems,
        proof: outcome.proof,
        took_ms: 0,
        ..v1::Finished::default()
    })
}

/// Every node anything is known of, in the plan or not.
async fn known(tools: &Tools) -> Result<BTreeSet<NodeName>, RecordError> {
    let board = &tools.homecoming.board;
    let planned: Vec<_> = board
        .plan()
        .map(|plan| plan.nodes().map(|placed| placed.node.name.clone()).collect())
        .unwrap_or_default();
    let enrolled = tools.records().list::<EnrolmentRecord>(&keys::enrolments()).await?;
    let enrolled = enrolled.into_iter().filter_map(|(name, _)| name.parse().ok());
    Ok(planned.into_iter().chain(enrolled).chain(board.all_addresses().into_keys()).collect())
}

fn tell(tools: &Tools, teller: &Teller, nodes: &BTreeSet<NodeName>, event: &Event) {
    let Event::Step(step, state) = event else { return };
    teller.step(step, state);
    let node = step.name.parse::<NodeName>().ok().filter(|node| nodes.contains(node));
    let server_gone = step.kind == "server" && step.verb == Verb::Destroy && matches!(state, StepState::Done);
    if let Some(node) = node.filter(|_| server_gone)
        && tools.homecoming.board.set_stage(&node, NodeState::NodeGone, "")
    {
        teller.node(&node, NodeState::NodeGone, "");
    }
}

/// Nothing is left at the cloud: the identities go too, and nothing given out to these nodes works any more.
async fn forget(
    tools: &Tools,
    teller: &Teller,
    nodes: &BTreeSet<NodeName>,
    fleet: FleetRecord,
    cloud: Cloud,
) -> Result<(), RecordError> {
    token::prune(tools.records(), tools.clock().now(), |_| true).await?;
    let removing = nodes.iter().map(|node| async move {
        tools.enrolment.remove(node, "the fleet was taken down").await?;
        tools.permits.forget(node).await?;
        tools.records().delete(&keys::replacing(node)).await?;
        tools.homecoming.board.forget(node).await
    });
    futures::future::try_join_all(removing).await?;
    for node in nodes {
        if tools.homecoming.board.set_stage(node, NodeState::NodeGone, "") {
            teller.node(node, NodeState::NodeGone, "");
        }
    }
    let record = FleetRecord { plan: None, cloud: Some(cloud), ..fleet };
    tools.records().put(&keys::fleet(), &record, Expected::Any).await?;
    tools.homecoming.board.set_given(None);
    Ok(())
}

fn failed(why: String) -> v1::Finished {
    v1::Finished { problems: vec![why], ..v1::Finished::default() }
}
