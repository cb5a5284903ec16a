//! What would be done, and what nobody answers for.

use std::collections::BTreeSet;

use fleet_model::NodeName;
use fleet_plan::ResolvedPlan;
use fleet_proto::v1;
use fleet_provider::{event::Step, orphans::Orphan};
use tonic::Status;

use super::{OperatorService, bad_request, internal};
use crate::reconcile::{expiry, given::Given, orphans, progress::verb, replace};

impl OperatorService {
    pub(super) async fn preview_of(&self, request: v1::PreviewRequest) -> Result<v1::PreviewReply, Status> {
        let given = self.given(request.plan).await?;
        let consented = consent(&given.plan, &request.replace)?;
        let tools = self.driver.tools();
        let begun = replace::pending(tools, &given.plan).await.map_err(|error| internal(&error))?;
        let mut reply = self.look_at(given, &consented | &begun).await?;
        // Consent to what is begun may be old, and of somebody else.
        for step in reply.steps.iter_mut().filter(|step| step.verb() == v1::StepVerb::StepReplace) {
            let begun = begun.iter().any(|node| node.as_str() == step.name);
            if begun && !consented.iter().any(|node| node.as_str() == step.name) {
                step.wants_consent = true;
                step.detail = format!("its replacement was begun and not finished; {}", step.detail);
            }
        }
        Ok(reply)
    }

    async fn look_at(&self, given: Given, replace: BTreeSet<NodeName>) -> Result<v1::PreviewReply, Status> {
        let tools = self.driver.tools();
        let fleet = tools.fleet().await.map_err(|error| internal(&error))?;
        let provision = tools
            .provisioners
            .open(&given.plan.cloud, &fleet.value.id)
            .map_err(|error| Status::unavailable(error.0))?;
        let preview =
            provision.preview(&given.plan, &replace).await.map_err(|error| Status::unavailable(error.0))?;
        let expiry = expiry::step(tools, &given.plan);
        let (work, rollout) = self.roll(given).await?;
        Ok(v1::PreviewReply {
            steps: preview
                .replacements
                .into_iter()
                .map(|step| v1::PlannedStep { wants_consent: true, ..planned(step) })
                .chain(preview.steps.into_iter().chain(expiry).map(planned))
                .chain(work)
                .collect(),
            problems: preview.problems,
            rollout,
        })
    }

    /// What the plan changes of what running nodes do, and how that would be rolled out.
    async fn roll(&self, given: Given) -> Result<(Vec<v1::PlannedStep>, Option<v1::Rollout>), Status> {
        let change = self.board().change_by(given);
        let steps = change.nodes.iter().map(|(node, differences)| v1::PlannedStep {
            verb: v1::StepVerb::StepChange.into(),
            kind: "work".to_owned(),
            name: node.to_string(),
            location: change
                .given
                .plan
                .node(node)
                .map(|placed| placed.location.id.clone())
                .unwrap_or_default(),
            detail: differences.join(", "),
            ..v1::PlannedStep::default()
        });
        let steps = steps.collect();
        if change.nodes.is_empty() {
            return Ok((steps, None));
        }
        let mut rollouts = self.rollouts().turn().await;
        let drawn = rollouts.draw_plan(&change).await?;
        Ok((steps, drawn.map(|drawn| rollouts.shown(&drawn))))
    }

    pub(super) async fn orphans_now(&self) -> Result<v1::OrphansReply, Status> {
        let tools = self.driver.tools();
        let fleet_id = tools.fleet().await.map_err(|error| internal(&error))?.value.id;
        match orphans::look(tools).await {
            Ok(None) => Ok(v1::OrphansReply { fleet_id, ..v1::OrphansReply::default() }),
            Ok(Some(found)) => Ok(v1::OrphansReply {
                fleet_id,
                looked: true,
                orphans: found.into_iter().map(orphan).collect(),
            }),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }
}

/// Nodes whose servers may be replaced; each must be in the plan.
pub(super) fn consent(plan: &ResolvedPlan, names: &[String]) -> Result<BTreeSet<NodeName>, Status> {
    let known = |name: &String| {
        let node = name.parse::<NodeName>().ok().filter(|node| plan.node(node).is_some());
        node.ok_or_else(|| {
            let nodes: Vec<_> = plan.nodes().map(|placed| placed.node.name.to_string()).collect();
            bad_request(
                format!("`{name}` is to be replaced, and the plan has no such node"),
                format!("its nodes are {}", nodes.join(", ")),
            )
        })
    };
    names.iter().map(known).collect()
}

fn planned(step: Step) -> v1::PlannedStep {
    v1::PlannedStep {
        verb: verb(step.verb).into(),
        kind: step.kind.to_owned(),
        name: step.name,
        location: step.location,
        detail: step.detail,
        outside: step.outside,
        wants_consent: false,
    }
}

fn orphan(orphan: Orphan) -> v1::Orphan {
    let (fleet, fleet_id) = orphan.mark.map(|mark| (mark.fleet, mark.id)).unwrap_or_default();
    v1::Orphan {
        kind: orphan.kind.to_owned(),
        name: orphan.name,
        id: orphan.id,
        location: orphan.location,
        fleet,
        fleet_id,
        why: orphan.why,
        next_step: orphan.next_step,
        created_ms: orphan.created.map_or(0, |at| at.as_millis()),
    }
}
