use serde::{Deserialize, Serialize};

use super::{
    Action, Address, Datacenter, IpAddressList, IpVersion, ListRef, NetworkDomain, Placing, PortList,
    PortRange, Protocol, State,
};
use crate::{Id, Operation, Resource, resource::Deletable};

/// A firewall rule. Its place is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FirewallRule {
    /// Its id.
    pub id: Id<Self>,
    /// Where it is.
    pub datacenter_id: Id<Datacenter>,
    /// `DEFAULT_RULE` or `CLIENT_RULE`.
    pub rule_type: Option<String>,
    /// Whose it is.
    pub network_domain_id: Id<NetworkDomain>,
    /// Its name, unique in the network domain.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Which IP.
    pub ip_version: IpVersion,
    /// Which protocol.
    pub protocol: Protocol,
    /// Where traffic comes from.
    pub source: Endpoint,
    /// Where traffic goes to.
    pub destination: Endpoint,
    /// Whether it is in force.
    pub enabled: bool,
    /// Where it is in its life.
    pub state: Option<State>,
}

impl FirewallRule {
    /// Whether the platform made it; such rules can be turned off, never deleted.
    pub fn is_default(&self) -> bool {
        self.rule_type.as_deref() == Some("DEFAULT_RULE")
    }
}

/// One end of the traffic a rule matches. Requests name lists by id, answers by id and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Address or network.
    pub ip: Option<IpMatch>,
    /// Address list, in requests.
    pub ip_address_list_id: Option<Id<IpAddressList>>,
    /// Address list, in answers.
    pub ip_address_list: Option<ListRef<IpAddressList>>,
    /// Ports; any if absent.
    pub port: Option<PortRange>,
    /// Port list, in requests.
    pub port_list_id: Option<Id<PortList>>,
    /// Port list, in answers.
    pub port_list: Option<ListRef<PortList>>,
}

impl Endpoint {
    /// Any address, any port.
    pub fn any() -> Self {
        Self { ip: Some(IpMatch { address: Address::Any, prefix_size: None }), ..Self::default() }
    }

    /// One host, any port.
    pub fn host(address: impl Into<std::net::IpAddr>) -> Self {
        let address = Address::Ip(address.into());
        Self { ip: Some(IpMatch { address, prefix_size: None }), ..Self::default() }
    }

    /// A network, any port.
    pub fn network(address: impl Into<std::net::IpAddr>, prefix_size: u8) -> Self {
        let address = Address::Ip(address.into());
        Self { ip: Some(IpMatch { address, prefix_size: Some(prefix_size) }), ..Self::default() }
    }

    /// The same with only these ports; `last` equal to `first` is one port.
    #[must_use]
    pub fn ports(mut self, first: u16, last: u16) -> Self {
        self.port = Some(PortRange { begin: first, end: (last != first).then_some(last) });
        self
    }
}

/// An address, a network, or any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpMatch {
    /// The address.
    pub address: Address,
    /// Prefix length; absent is one host.
    pub prefix_size: Option<u8>,
}

/// Where a rule goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// First, last, or beside a named rule.
    pub position: Placing,
    /// That rule's name.
    pub relative_to_rule: Option<String>,
}

impl Placement {
    /// After all others.
    pub fn last() -> Self {
        Self { position: Placing::Last, relative_to_rule: None }
    }
}

/// Makes a rule; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateFirewallRule {
    /// In which network domain.
    pub network_domain_id: Id<NetworkDomain>,
    /// Its name.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Which IP.
    pub ip_version: IpVersion,
    /// Which protocol.
    pub protocol: Protocol,
    /// Where traffic comes from.
    pub source: Endpoint,
    /// Where traffic goes to.
    pub destination: Endpoint,
    /// Whether it is in force.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Where it goes; last if absent.
    pub placement: Option<Placement>,
}

fn yes() -> bool {
    true
}

/// Changes a rule; absent members stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EditFirewallRule {
    /// Which.
    pub id: Id<FirewallRule>,
    /// What it does.
    pub action: Option<Action>,
    /// Which protocol.
    pub protocol: Option<Protocol>,
    /// Where traffic comes from.
    pub source: Option<Endpoint>,
    /// Where traffic goes to.
    pub destination: Option<Endpoint>,
    /// Whether it is in force.
    pub enabled: Option<bool>,
    /// Where it goes.
    pub placement: Option<Placement>,
}

impl EditFirewallRule {
    /// Turns a rule on or off and leaves the rest.
    pub fn enabling(id: Id<FirewallRule>, enabled: bool) -> Self {
        Self {
            id,
            action: None,
            protocol: None,
            source: None,
            destination: None,
            enabled: Some(enabled),
            placement: None,
        }
    }
}

impl Resource for FirewallRule {
    const KIND: &'static str = "firewall rule";
    const ROOT: &'static str = "firewallRules";
    const ITEM: &'static str = "firewallRule";
    const PATH: &'static str = "network/firewallRule";
}

impl Deletable for FirewallRule {
    const DELETE: &'static str = "network/deleteFirewallRule";
}

impl Operation for CreateFirewallRule {
    const PATH: &'static str = "network/createFirewallRule";
}

impl Operation for EditFirewallRule {
    const PATH: &'static str = "network/editFirewallRule";
}
