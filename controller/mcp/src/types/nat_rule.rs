use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Datacenter, NetworkDomain, State};
use crate::{Id, Operation, Resource, liberal, resource::Deletable};

/// A 1:1 address translation, all ports, both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NatRule {
    /// Its id.
    pub id: Id<Self>,
    /// Where it is.
    pub datacenter_id: Id<Datacenter>,
    /// Whose it is.
    pub network_domain_id: Id<NetworkDomain>,
    /// Private address.
    pub internal_ip: Ipv4Addr,
    /// Public address.
    pub external_ip: Ipv4Addr,
    /// `PUBLIC_IP_BLOCK` and the like.
    pub external_ip_addressability: Option<String>,
    /// When it was made.
    pub create_time: Option<String>,
    /// Where it is in its life.
    pub state: Option<State>,
}

/// Makes a translation; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateNatRule {
    /// In which network domain.
    pub network_domain_id: Id<NetworkDomain>,
    /// Private address.
    pub internal_ip: Ipv4Addr,
    /// Public address; the platform picks a free one if absent.
    // A public client that wants any sends an empty element.
    #[serde(default, deserialize_with = "liberal::filled")]
    pub external_ip: Option<Ipv4Addr>,
}

impl Resource for NatRule {
    const KIND: &'static str = "nat rule";
    const ROOT: &'static str = "natRules";
    const ITEM: &'static str = "natRule";
    const PATH: &'static str = "network/natRule";
}

impl Deletable for NatRule {
    const DELETE: &'static str = "network/deleteNatRule";
}

impl Operation for CreateNatRule {
    const PATH: &'static str = "network/createNatRule";
}
