use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{Datacenter, Ipv6, NetworkDomain, PublicIpBlock, Vlan};
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

/// A private address in use or kept free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReservedPrivateIpv4Address {
    /// The address; older versions call it the value.
    #[serde(alias = "value")]
    pub ip_address: Ipv4Addr,
    /// Where it is.
    pub datacenter_id: Option<Id<Datacenter>>,
    /// Its VLAN.
    pub vlan_id: Option<Id<Vlan>>,
    /// Whether it is kept for one use alone.
    pub exclusive: Option<bool>,
    /// For people.
    pub description: Option<String>,
}

/// An IPv6 address in use or kept free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReservedIpv6Address {
    /// The address.
    #[serde(alias = "value")]
    pub ip_address: Ipv6,
    /// Where it is.
    pub datacenter_id: Option<Id<Datacenter>>,
    /// Its VLAN.
    pub vlan_id: Option<Id<Vlan>>,
    /// Whether it is kept for one use alone.
    pub exclusive: Option<bool>,
    /// For people.
    pub description: Option<String>,
}

/// Keeps an address of a VLAN free, or gives it back; synchronous. Which, and of which IP, the path says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReserveAddress {
    /// Of which VLAN.
    pub vlan_id: Id<Vlan>,
    /// The address.
    #[serde(alias = "ipv4", alias = "privateIpv4")]
    pub ip_address: IpAddr,
    /// For people.
    pub description: Option<String>,
}

impl Resource for ReservedPrivateIpv4Address {
    const KIND: &'static str = "reserved private address";
    const ROOT: &'static str = "reservedPrivateIpv4Addresses";
    const ITEM: &'static str = "ipv4";
    const PATH: &'static str = "network/reservedPrivateIpv4Address";
}

impl Resource for ReservedIpv6Address {
    const KIND: &'static str = "reserved IPv6 address";
    const ROOT: &'static str = "reservedIpv6Addresses";
    const ITEM: &'static str = "reservedIpv6Address";
    const PATH: &'static str = "network/reservedIpv6Address";
}
