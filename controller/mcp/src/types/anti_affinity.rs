use serde::{Deserialize, Serialize};

use super::{Datacenter, NetworkInfo, Server, State};
use crate::{Id, Operation, Resource, resource::Deletable};

/// Servers that never share a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AntiAffinityRule {
    /// Its id.
    pub id: Id<Self>,
    /// Where it is in its life.
    pub state: State,
    /// When it was made.
    pub created: Option<String>,
    /// Where it is.
    pub datacenter_id: Option<Id<Datacenter>>,
    /// The servers, two at least.
    #[serde(default)]
    pub server_summary: Vec<ServerSummary>,
}

/// A server as a rule shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerSummary {
    /// Its id.
    pub id: Id<Server>,
    /// Its name.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Its network.
    pub networking_details: Option<NetworkingDetails>,
}

/// The network of a server in a summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkingDetails {
    /// Its network.
    pub network_info: Option<NetworkInfo>,
}

/// Makes a rule; asynchronous; from 2.7 on, before there is a 0.9 call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateAntiAffinityRule {
    /// For which servers; two of one network domain.
    #[serde(default)]
    pub server_id: Vec<Id<Server>>,
}

impl Resource for AntiAffinityRule {
    const KIND: &'static str = "anti-affinity rule";
    const ROOT: &'static str = "antiAffinityRules";
    const ITEM: &'static str = "antiAffinityRule";
    const PATH: &'static str = "server/antiAffinityRule";
}

impl Deletable for AntiAffinityRule {
    const DELETE: &'static str = "server/deleteAntiAffinityRule";
}

impl Operation for CreateAntiAffinityRule {
    const PATH: &'static str = "server/createAntiAffinityRule";
}
