use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Datacenter, NetworkDomain, PublicIpBlock};
use crate::{Id, Resource};

/// A public address in use by a translation rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReservedPublicIpv4Address {
    /// The address.
    pub value: Ipv4Addr,
    /// Where it is.
    pub datacenter_id: Option<Id<Datacenter>>,
    /// Block it is in.
    pub ip_block_id: Option<Id<PublicIpBlock>>,
    /// Whose it is.
    pub network_domain_id: Option<Id<NetworkDomain>>,
}

impl Resource for ReservedPublicIpv4Address {
    const KIND: &'static str = "reserved public address";
    const ROOT: &'static str = "reservedPublicIpv4Addresses";
    const ITEM: &'static str = "ip";
    const PATH: &'static str = "network/reservedPublicIpv4Address";
}
