use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Address, Datacenter, IpVersion, NetworkDomain, State};
use crate::{Id, Operation, Resource, resource::Deletable};

/// A static route of a network domain; from 2.9 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StaticRoute {
    /// Its id.
    pub id: Id<Self>,
    /// Where it is.
    pub datacenter_id: Option<Id<Datacenter>>,
    /// Its network domain.
    pub network_domain_id: Id<NetworkDomain>,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// `CLIENT`, or `SYSTEM` for those of the platform.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Which IP.
    pub ip_version: IpVersion,
    /// The network it leads to.
    pub destination_network_address: Address,
    /// That network's prefix length.
    pub destination_prefix_size: u8,
    /// The next router.
    pub next_hop_address: Address,
    /// Where it is in its life.
    pub state: Option<State>,
    /// When it was made.
    pub create_time: Option<String>,
}

/// Makes a static route; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateStaticRoute {
    /// In which network domain.
    pub network_domain_id: Id<NetworkDomain>,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Which IP.
    pub ip_version: IpVersion,
    /// The network it leads to.
    pub destination_network_address: Address,
    /// That network's prefix length.
    pub destination_prefix_size: u8,
    /// The next router.
    pub next_hop_address: Address,
}

/// Removes all routes of the customer from a network domain; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreStaticRoutes {
    /// Of which.
    pub network_domain_id: Id<NetworkDomain>,
}

impl CreateStaticRoute {
    /// Network, prefix length and next hop, if all three are addresses of the version named.
    pub fn addresses(&self) -> Option<(IpAddr, u8, IpAddr)> {
        let (Address::Ip(network), Address::Ip(hop)) =
            (self.destination_network_address, self.next_hop_address)
        else {
            return None;
        };
        let longest = match self.ip_version {
            IpVersion::V4 if network.is_ipv4() && hop.is_ipv4() => 32,
            IpVersion::V6 if network.is_ipv6() && hop.is_ipv6() => 128,
            _ => return None,
        };
        (self.destination_prefix_size <= longest).then_some((network, self.destination_prefix_size, hop))
    }
}

impl Resource for StaticRoute {
    const KIND: &'static str = "static route";
    const ROOT: &'static str = "staticRoutes";
    const ITEM: &'static str = "staticRoute";
    const PATH: &'static str = "network/staticRoute";
}

impl Deletable for StaticRoute {
    const DELETE: &'static str = "network/deleteStaticRoute";
}

impl Operation for CreateStaticRoute {
    const PATH: &'static str = "network/createStaticRoute";
}

impl Operation for RestoreStaticRoutes {
    const PATH: &'static str = "network/restoreStaticRoutes";
}
