use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Datacenter, DomainType, Prefix4, Progress, State};
use crate::{
    Id, Operation, Resource,
    resource::{Deletable, Stateful},
};

/// A network domain: router and firewall of its VLANs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkDomain {
    /// Its id.
    pub id: Id<Self>,
    /// Where it is.
    pub datacenter_id: Id<Datacenter>,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Service plan.
    #[serde(rename = "type")]
    pub plan: Option<DomainType>,
    /// Source address of outbound traffic with no translation rule.
    pub snat_ipv4_address: Option<Ipv4Addr>,
    /// Transit network to the outside.
    pub outside_transit_vlan_ipv4_subnet: Option<Prefix4>,
    /// When it was made.
    pub create_time: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// Read if there, never written: one public client takes it for a text and fails on an object.
    #[serde(skip_serializing)]
    pub progress: Option<Progress>,
}

/// Makes a network domain; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployNetworkDomain {
    /// Where.
    pub datacenter_id: Id<Datacenter>,
    /// Its name, unique in the data centre.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Service plan.
    #[serde(rename = "type")]
    pub plan: DomainType,
}

/// Changes name, description or service plan; absent members stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EditNetworkDomain {
    /// Which.
    pub id: Id<NetworkDomain>,
    /// New name.
    pub name: Option<String>,
    /// New description.
    pub description: Option<String>,
    /// New service plan.
    #[serde(rename = "type")]
    pub plan: Option<DomainType>,
}

impl Resource for NetworkDomain {
    const KIND: &'static str = "network domain";
    const ROOT: &'static str = "networkDomains";
    const ITEM: &'static str = "networkDomain";
    const PATH: &'static str = "network/networkDomain";
}

impl Stateful for NetworkDomain {
    fn state(&self) -> &State {
        &self.state
    }
    fn failure(&self) -> Option<&str> {
        self.progress.as_ref()?.failure_reason.as_deref()
    }
}

impl Deletable for NetworkDomain {
    const DELETE: &'static str = "network/deleteNetworkDomain";
}

impl Operation for DeployNetworkDomain {
    const PATH: &'static str = "network/deployNetworkDomain";
}

impl Operation for EditNetworkDomain {
    const PATH: &'static str = "network/editNetworkDomain";
}
