//! A rollout as operators see it.

use fleet_model::NodeName;
use fleet_proto::v1;
use fleet_rollout::{Finish, Phase, Rollout, Standing, explain, preview, state::Node};

use super::{
    archive::{Head, LineRecord},
    commands::{Drawn, outcome},
    core::Core,
    trouble::Trouble,
};

/// The line.
pub(super) fn line(line: Option<&LineRecord>) -> v1::LineReply {
    match line {
        None => v1::LineReply::default(),
        Some(LineRecord { by, reason, at }) => {
            v1::LineReply { stopped: true, by: by.clone(), reason: reason.clone(), since_ms: at.as_millis() }
        }
    }
}

/// All of a rollout.
pub(super) fn whole(core: &Core, head: &Head, rollout: &Rollout) -> v1::Rollout {
    let mut seen = brief(head, rollout);
    seen.waves = preview(rollout)
        .into_iter()
        .map(|wave| v1::RolloutWave {
            wave: small(wave.wave),
            nodes: wave.nodes.iter().map(ToString::to_string).collect(),
            in_flight: small(wave.limits.in_flight),
            unavailable: small(wave.limits.unavailable),
            failed: small(wave.limits.failed),
            silent: small(wave.limits.silent),
            bake_ms: u64::try_from(wave.bake.as_millis()).unwrap_or(u64::MAX),
        })
        .collect();
    // In the order in which they go.
    let mut nodes: Vec<&Node> = rollout.nodes.values().collect();
    nodes.sort_by_key(|node| (node.wave, node.place));
    seen.nodes = nodes.into_iter().map(|one| node(core, rollout, one)).collect();
    seen.policy = serde_json::to_string(&rollout.spec.policy).unwrap_or_default();
    seen.policy_lines = rollout.spec.policy.lines();
    seen
}

impl Core {
    /// A rollout as it would be.
    pub fn shown(&self, of: &Drawn) -> v1::Rollout {
        drawn(self, "", of)
    }
}

/// A rollout as it would be.
pub(super) fn drawn(core: &Core, by: &str, drawn: &Drawn) -> v1::Rollout {
    let head = Head {
        version: drawn.version.clone(),
        previous_version: drawn.previous_version.clone(),
        by: by.to_owned(),
        started: core.now(),
        snapshot: Default::default(),
        log: Vec::new(),
        notices: Vec::new(),
    };
    whole(core, &head, &drawn.rollout)
}

/// A rollout without its nodes.
pub(super) fn brief(head: &Head, rollout: &Rollout) -> v1::Rollout {
    let standing = rollout.standing();
    let (halted, halted_nodes) = match (&rollout.halt, &rollout.line) {
        _ if standing != Standing::Halted => Default::default(),
        (Some(halt), _) => (halt.reason.clone(), halt.nodes.iter().map(ToString::to_string).collect()),
        (None, Some(line)) => (format!("{} stopped the line: {}", line.by, line.reason), Vec::new()),
        (None, None) => Default::default(),
    };
    let bake_left = rollout.bake_left().unwrap_or_default();
    let kind = if rollout.spec.target.is_plan() {
        v1::RolloutKind::RolloutOfPlan
    } else {
        v1::RolloutKind::RolloutOfRelease
    };
    v1::Rollout {
        id: rollout.spec.id.clone(),
        release: rollout.spec.target.digest().to_owned(),
        kind: kind.into(),
        version: head.version.clone(),
        previous: rollout.spec.previous.as_ref().map(|target| target.digest().to_owned()).unwrap_or_default(),
        previous_version: head.previous_version.clone(),
        standing: word(standing).into(),
        finish: finish(&rollout.phase).to_owned(),
        halted,
        halted_nodes,
        wave: small(rollout.wave + 1),
        bake_left_ms: u64::try_from(bake_left.as_millis()).unwrap_or(u64::MAX),
        started_ms: head.started.as_millis(),
        started_by: head.by.clone(),
        changed_ms: rollout.clock.as_millis(),
        notices: head
            .notices
            .iter()
            .map(|told| v1::RolloutNotice { at_ms: told.at.as_millis(), text: told.text.clone() })
            .collect(),
        ..v1::Rollout::default()
    }
}

fn node(core: &Core, rollout: &Rollout, node: &Node) -> v1::RolloutNode {
    let name = &node.member.node;
    let ended = rollout.outcome(name).map(outcome).unwrap_or_default();
    let running = if rollout.spec.target.is_plan() {
        match core.floor.generations(name) {
            (_, 0) => None,
            (observed, desired) if observed == desired => Some(format!("generation {desired}")),
            (observed, desired) => Some(format!("generation {observed} of {desired}")),
        }
    } else {
        core.floor.standing(name).map(|standing| standing.running_version.clone())
    };
    let gates = node.gates.iter().map(|(gate, asked)| {
        let answer = asked.answer.as_ref();
        v1::RolloutGate {
            gate: gate.clone(),
            answered: answer.is_some(),
            passed: answer.is_some_and(|answer| answer.passed),
            detail: answer.map(|answer| answer.detail.clone()).unwrap_or_default(),
            at_ms: answer.map_or(0, |answer| answer.at.as_millis()),
        }
    });
    v1::RolloutNode {
        node: name.to_string(),
        location: node.member.location.clone(),
        wave: small(node.wave + 1),
        state: node.state.to_string(),
        reason: node.reason.as_ref().map(ToString::to_string).unwrap_or_default(),
        connected: node.connected,
        hold: node.hold.clone().unwrap_or_default(),
        gates: gates.collect(),
        outcome: ended.to_owned(),
        running_version: running.unwrap_or_default(),
    }
}

/// Why a node is not updated yet.
pub(super) fn why(core: &Core, rollout: &Rollout, name: &NodeName) -> Result<v1::ExplainReply, Trouble> {
    let known = rollout.nodes.get(name).zip(explain(rollout, name));
    let Some((one, explanation)) = known else {
        return Err(Trouble::Refused(fleet_rollout::Refused::UnknownNode(name.clone())));
    };
    Ok(v1::ExplainReply {
        rollout: rollout.spec.id.clone(),
        node: Some(node(core, rollout, one)),
        obstacles: explanation.obstacles.iter().map(ToString::to_string).collect(),
        notes: explanation.notes,
    })
}

fn word(standing: Standing) -> v1::RolloutStanding {
    match standing {
        Standing::Draft => v1::RolloutStanding::RolloutDraft,
        Standing::Running => v1::RolloutStanding::RolloutRunning,
        Standing::Baking => v1::RolloutStanding::RolloutBaking,
        Standing::Halted => v1::RolloutStanding::RolloutHalted,
        Standing::Undoing => v1::RolloutStanding::RolloutUndoing,
        Standing::Finished => v1::RolloutStanding::RolloutFinished,
    }
}

fn finish(phase: &Phase) -> &'static str {
    match phase {
        Phase::Finished { finish: Finish::Done } => "done",
        Phase::Finished { finish: Finish::Undone } => "undone",
        Phase::Finished { finish: Finish::Superseded } => "superseded",
        _ => "",
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
