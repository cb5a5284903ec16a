use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Ipv6, NetworkDomain, Server, State, Vlan};
use crate::{Id, Operation};

/// Network of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInfo {
    /// Its network domain.
    pub network_domain_id: Id<NetworkDomain>,
    /// Its name; in summaries only.
    pub network_domain_name: Option<String>,
    /// First card.
    pub primary_nic: Nic,
    /// More cards.
    #[serde(default)]
    pub additional_nic: Vec<Nic>,
}

impl NetworkInfo {
    /// All cards, primary first.
    pub fn nics(&self) -> impl Iterator<Item = &Nic> {
        std::iter::once(&self.primary_nic).chain(&self.additional_nic)
    }
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// Its id.
    pub id: Id<Self>,
    /// Private IPv4 address.
    pub private_ipv4: Option<Ipv4Addr>,
    /// Private IPv6 address.
    pub ipv6: Option<Ipv6>,
    /// VLAN it is in.
    pub vlan_id: Option<Id<Vlan>>,
    /// That VLAN's name.
    pub vlan_name: Option<String>,
    /// `E1000`, `VMXNET3`, …
    pub network_adapter: Option<String>,
    /// `00:50:56:…`.
    pub mac_address: Option<String>,
    /// The hypervisor's number for it.
    pub key: Option<u32>,
    /// Whether its cable is in.
    pub connected: Option<bool>,
    /// Where it is in its life.
    pub state: Option<State>,
}

/// A card to be made: in a VLAN, or with an address that says which VLAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewNic {
    /// The VLAN; exactly one of this and the address.
    pub vlan_id: Option<Id<Vlan>>,
    /// The address; exactly one of this and the VLAN.
    pub private_ipv4: Option<Ipv4Addr>,
    /// `E1000` if absent.
    pub network_adapter: Option<String>,
}

/// Adds a network card; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddNic {
    /// To which server.
    pub server_id: Id<Server>,
    /// The card.
    pub nic: NewNic,
}

/// Removes an additional network card; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveNic {
    /// Which card.
    pub id: Id<Nic>,
}

/// Puts two network cards of a server into each other's VLANs; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeNicVlans {
    /// One card.
    pub nic_id1: Id<Nic>,
    /// The other.
    pub nic_id2: Id<Nic>,
}

/// Changes a network card's model; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeNetworkAdapter {
    /// Of which card.
    pub nic_id: Id<Nic>,
    /// `E1000`, `VMXNET3`, …
    pub network_adapter: String,
}

/// Tells the platform that the guest has given a network card other addresses; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotifyNicIpChange {
    /// Which card.
    pub nic_id: Id<Nic>,
    /// New IPv4 address.
    pub private_ipv4: Option<Ipv4Addr>,
    /// New IPv6 address.
    pub ipv6: Option<Ipv6>,
}

impl Operation for ExchangeNicVlans {
    const PATH: &'static str = "server/exchangeNicVlans";
}

impl Operation for ChangeNetworkAdapter {
    const PATH: &'static str = "server/changeNetworkAdapter";
}

impl Operation for NotifyNicIpChange {
    const PATH: &'static str = "server/notifyNicIpChange";
}

impl Operation for AddNic {
    const PATH: &'static str = "server/addNic";
}

impl Operation for RemoveNic {
    const PATH: &'static str = "server/removeNic";
}
