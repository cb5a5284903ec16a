//! The one door: preview, apply, destroy.

use std::{collections::BTreeMap, sync::Arc};

use fleet_model::{FleetName, NodeName};
use fleet_plan::ResolvedPlan;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    event::{Addresses, Event, Step},
    vault::Vault,
};

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Changing calls sent to the API.
    pub changing_calls: u64,
    /// Addresses of every node whose server is settled.
    pub addresses: BTreeMap<NodeName, Addresses>,
    /// One line each, cause and next step; empty means everything is as planned.
    pub problems: Vec<String>,
    /// After [`Provider::destroy`]: what the API listed afterwards, one line a kind (`servers: 0`).
    pub proof: Vec<String>,
    /// The run was told to stop before its end.
    pub stopped: bool,
}
