use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Datacenter, NetworkDomain, State};
use crate::{Id, Operation, Resource, resource::Deletable};

/// Consecutive public IPv4 addresses of a network domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicIpBlock {
    /// Its id.
    pub id: Id<Self>,
    /// Where it is.
    pub datacenter_id: Id<Datacenter>,
    /// Whose it is.
    pub network_domain_id: Id<NetworkDomain>,
    /// First address.
    pub base_ip: Ipv4Addr,
    /// How many; 2.
    pub size: u32,
    /// When it was made.
    pub create_time: Option<String>,
    /// Where it is in its life.
    pub state: Option<State>,
}

impl PublicIpBlock {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let first = u32::from(self.base_ip);
        (0..self.size).map(move |index| Ipv4Addr::from(first.wrapping_add(index)))
    }
}

/// Adds a block of two addresses; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddPublicIpBlock {
    /// To which network domain.
    pub network_domain_id: Id<NetworkDomain>,
}

impl Resource for PublicIpBlock {
    const KIND: &'static str = "public ip block";
    const ROOT: &'static str = "publicIpBlocks";
    const ITEM: &'static str = "publicIpBlock";
    const PATH: &'static str = "network/publicIpBlock";
}

impl Deletable for PublicIpBlock {
    const DELETE: &'static str = "network/removePublicIpBlock";
}

impl Operation for AddPublicIpBlock {
    const PATH: &'static str = "network/addPublicIpBlock";
}
