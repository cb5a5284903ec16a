use serde::{Deserialize, Serialize};

use super::{Server, ServicePlan, State};
use crate::{Id, Operation};

/// Monitoring of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Its number.
    pub monitoring_id: Option<String>,
    /// Its plan.
    pub service_plan: ServicePlan,
    /// Where it is in its life.
    pub state: Option<State>,
}

/// Turns monitoring on; `NO_CHANGE` if it is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnableServerMonitoring {
    /// Which server.
    pub id: Id<Server>,
    /// With which plan.
    pub service_plan: ServicePlan,
}

/// Changes the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeServerMonitoringPlan {
    /// Which server.
    pub id: Id<Server>,
    /// To which plan.
    pub service_plan: ServicePlan,
}

impl Operation for EnableServerMonitoring {
    const PATH: &'static str = "server/enableServerMonitoring";
}

impl Operation for ChangeServerMonitoringPlan {
    const PATH: &'static str = "server/changeServerMonitoringPlan";
}
