//! The wire's numbers as the words people and programs read.

use fleet_proto::v1::{HealthLevel, NodeState, StepVerb, TaskResult};

/// State of a node.
pub fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::NodeUnspecified => "unknown",
        NodeState::NodePlanned => "planned",
        NodeState::NodeCreating => "creating",
        NodeState::NodeProvisioned => "provisioned",
        NodeState::NodeBooting => "booting",
        NodeState::NodeSeeding => "seeding",
        NodeState::NodeFirstBoot => "first-boot",
        NodeState::NodeEnrolled => "enrolled",
        NodeState::NodeConverging => "converging",
        NodeState::NodeReady => "ready",
        NodeState::NodeFailed => "failed",
        NodeState::NodeSilent => "silent",
        NodeState::NodeGone => "gone",
    }
}

/// Health of a node.
pub fn health(level: HealthLevel) -> &'static str {
    match level {
        HealthLevel::HealthUnspecified => "unknown",
        HealthLevel::HealthOk => "ok",
        HealthLevel::HealthDegraded => "degraded",
        HealthLevel::HealthFailed => "failed",
    }
}

/// Result of a task.
pub fn task(result: TaskResult) -> &'static str {
    match result {
        TaskResult::Unspecified => "unknown",
        TaskResult::Unchanged => "unchanged",
        TaskResult::Changed => "changed",
        TaskResult::Failed => "failed",
        TaskResult::Waiting => "waiting",
        TaskResult::Running => "running",
        TaskResult::Drifted => "drifted",
    }
}

/// What a step does.
pub fn verb(verb: StepVerb) -> &'static str {
    match verb {
        StepVerb::StepUnspecified => "look at",
        StepVerb::StepCreate => "create",
        StepVerb::StepChange => "change",
        StepVerb::StepDestroy => "destroy",
        StepVerb::StepReplace => "replace",
        StepVerb::StepAdopt => "adopt",
        StepVerb::StepRelease => "release",
    }
}

/// What is done to what: `create server`; power is turned on or off, not changed.
pub fn doing(verb: StepVerb, kind: &str) -> String {
    if kind.starts_with("power ") { kind.to_owned() } else { format!("{} {kind}", self::verb(verb)) }
}
