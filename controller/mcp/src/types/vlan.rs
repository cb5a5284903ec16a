use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Datacenter, Gateway, Ipv6, NetworkDomain, Prefix4, Prefix6, Progress, State};
use crate::{
    Id, Operation, Resource,
    resource::{Deletable, Stateful},
};

/// A VLAN: one Ethernet network of a network domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vlan {
    /// Its id.
    pub id: Id<Self>,
    /// Where it is.
    pub datacenter_id: Id<Datacenter>,
    /// Its network domain.
    pub network_domain: NetworkDomainRef,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// IPv4 network.
    pub private_ipv4_range: Prefix4,
    /// Where the gateway sits.
    pub gateway_addressing: Option<Gateway>,
    /// IPv4 gateway.
    pub ipv4_gateway_address: Option<Ipv4Addr>,
    /// IPv6 network, always /64; there from the first answer on.
    pub ipv6_range: Option<Prefix6>,
    /// IPv6 gateway.
    pub ipv6_gateway_address: Option<Ipv6>,
    /// When it was made.
    pub create_time: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// What is under way or has failed.
    pub progress: Option<Progress>,
}

/// The network domain of a VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDomainRef {
    /// Its id.
    pub id: Id<NetworkDomain>,
    /// Its name.
    pub name: Option<String>,
}

/// Makes a VLAN; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployVlan {
    /// In which network domain.
    pub network_domain_id: Id<NetworkDomain>,
    /// Its name, unique in the network domain.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// IPv4 network; newer versions call it the network address.
    #[serde(alias = "privateIpv4NetworkAddress")]
    pub private_ipv4_base_address: Ipv4Addr,
    /// 16 to 28; 24 if absent.
    pub private_ipv4_prefix_size: Option<u8>,
    /// `LOW` if absent.
    pub gateway_addressing: Option<Gateway>,
}

/// Changes name or description; absent members stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EditVlan {
    /// Which.
    pub id: Id<Vlan>,
    /// New name.
    pub name: Option<String>,
    /// New description.
    pub description: Option<String>,
}

/// Makes the IPv4 network of a VLAN larger; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpandVlan {
    /// Which.
    pub id: Id<Vlan>,
    /// New prefix length, smaller than before.
    pub private_ipv4_prefix_size: u8,
}

impl Operation for ExpandVlan {
    const PATH: &'static str = "network/expandVlan";
}

impl Resource for Vlan {
    const KIND: &'static str = "vlan";
    const ROOT: &'static str = "vlans";
    const ITEM: &'static str = "vlan";
    const PATH: &'static str = "network/vlan";
}

impl Stateful for Vlan {
    fn state(&self) -> &State {
        &self.state
    }
    fn failure(&self) -> Option<&str> {
        self.progress.as_ref()?.failure_reason.as_deref()
    }
}

impl Deletable for Vlan {
    const DELETE: &'static str = "network/deleteVlan";
}

impl Operation for DeployVlan {
    const PATH: &'static str = "network/deployVlan";
}

impl Operation for EditVlan {
    const PATH: &'static str = "network/editVlan";
}
