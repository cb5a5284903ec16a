use serde::{Deserialize, Deserializer, Serialize};

use super::{AddressRange, IpVersion, NetworkDomain, State};
use crate::{Id, Operation, Resource, resource::Deletable};

/// Ports of a rule or list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// First port.
    pub begin: u16,
    /// Last port; absent is one port.
    pub end: Option<u16>,
}

/// A list named by a rule or by another list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct ListRef<T> {
    /// Its id.
    pub id: Id<T>,
    /// Its name.
    pub name: Option<String>,
}

/// A named list of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpAddressList {
    /// Its id.
    pub id: Id<Self>,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Which IP.
    pub ip_version: Option<IpVersion>,
    /// Its addresses.
    #[serde(default)]
    pub ip_address: Vec<AddressRange>,
    /// Lists it includes.
    #[serde(default)]
    pub child_ip_address_list: Vec<ListRef<Self>>,
    /// Where it is in its life.
    pub state: Option<State>,
    /// When it was made.
    pub create_time: Option<String>,
    /// Whose it is; answers may leave it out.
    pub network_domain_id: Option<Id<NetworkDomain>>,
}

/// Makes an address list; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateIpAddressList {
    /// In which network domain.
    pub network_domain_id: Id<NetworkDomain>,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Which IP.
    pub ip_version: IpVersion,
    /// Its addresses.
    #[serde(default)]
    pub ip_address: Vec<AddressRange>,
    /// Lists it includes.
    #[serde(default)]
    pub child_ip_address_list_id: Vec<Id<IpAddressList>>,
}

/// Changes an address list; absent members stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EditIpAddressList {
    /// Which.
    pub id: Id<IpAddressList>,
    /// New description; an empty one removes it.
    #[serde(default, deserialize_with = "named_text")]
    pub description: Option<String>,
    /// All its addresses from now on.
    #[serde(default, deserialize_with = "named_list")]
    pub ip_address: Option<Vec<AddressRange>>,
    /// All lists it includes from now on.
    #[serde(default, deserialize_with = "named_list")]
    pub child_ip_address_list_id: Option<Vec<Id<IpAddressList>>>,
}

/// A named list of ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortList {
    /// Its id.
    pub id: Id<Self>,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Its ports.
    #[serde(default)]
    pub port: Vec<PortRange>,
    /// Lists it includes.
    #[serde(default)]
    pub child_port_list: Vec<ListRef<Self>>,
    /// Where it is in its life.
    pub state: Option<State>,
    /// When it was made.
    pub create_time: Option<String>,
    /// Whose it is; answers may leave it out.
    pub network_domain_id: Option<Id<NetworkDomain>>,
}

/// Makes a port list; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatePortList {
    /// In which network domain.
    pub network_domain_id: Id<NetworkDomain>,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Its ports.
    #[serde(default)]
    pub port: Vec<PortRange>,
    /// Lists it includes.
    #[serde(default)]
    pub child_port_list_id: Vec<Id<PortList>>,
}

/// Changes a port list; absent members stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EditPortList {
    /// Which.
    pub id: Id<PortList>,
    /// New description; an empty one removes it.
    #[serde(default, deserialize_with = "named_text")]
    pub description: Option<String>,
    /// All its ports from now on.
    #[serde(default, deserialize_with = "named_list")]
    pub port: Option<Vec<PortRange>>,
    /// All lists it includes from now on.
    #[serde(default, deserialize_with = "named_list")]
    pub child_port_list_id: Option<Vec<Id<PortList>>>,
}

/// A member that is there and says `nil` is an empty list; only one that is absent is none.
fn named_list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    Option::deserialize(deserializer).map(|list| Some(list.unwrap_or_default()))
}

/// The same for a text.
fn named_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer).map(|text| Some(text.unwrap_or_default()))
}

impl Resource for IpAddressList {
    const KIND: &'static str = "address list";
    const ROOT: &'static str = "ipAddressLists";
    const ITEM: &'static str = "ipAddressList";
    const PATH: &'static str = "network/ipAddressList";
}

impl Deletable for IpAddressList {
    const DELETE: &'static str = "network/deleteIpAddressList";
}

impl Operation for CreateIpAddressList {
    const PATH: &'static str = "network/createIpAddressList";
}

impl Operation for EditIpAddressList {
    const PATH: &'static str = "network/editIpAddressList";
}

impl Resource for PortList {
    const KIND: &'static str = "port list";
    const ROOT: &'static str = "portLists";
    const ITEM: &'static str = "portList";
    const PATH: &'static str = "network/portList";
}

impl Deletable for PortList {
    const DELETE: &'static str = "network/deletePortList";
}

impl Operation for CreatePortList {
    const PATH: &'static str = "network/createPortList";
}

impl Operation for EditPortList {
    const PATH: &'static str = "network/editPortList";
}
