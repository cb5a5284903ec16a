//! Firewall rules as the API wants them, and whether one that is there is such a rule. Pure.

use std::net::IpAddr;

use fleet_mcp::types::{
    Action, CreateFirewallRule, Endpoint, FirewallRule, IpVersion, Placement, PortRange, Protocol, Vlan,
};
use fleet_plan::resolved::{Source, Traffic};

use crate::{
    graph::{Place, Rule},
    mark::Mark,
    view::{DomainView, View},
};

/// The rule in full; `None` while an address it needs is not known.
pub fn wanted(
    view: &View,
    mark: &Mark,
    domain: &DomainView,
    name: &str,
    rule: &Rule,
) -> Option<CreateFirewallRule> {
    let (ip_version, protocol, source, destination) = match rule {
        Rule::Opening(node, traffic, source) => {
            let server = domain.server(mark, node.as_str())?;
            let host = Endpoint::host(domain.addresses(server).public_ipv4?);
            let (protocol, destination) = match *traffic {
                Traffic::Icmp => (Protocol::Icmp, host),
                Traffic::Tcp(first, last) => (Protocol::Tcp, host.ports(first, last)),
                Traffic::Udp(first, last) => (Protocol::Udp, host.ports(first, last)),
            };
            let source = match *source {
                Source::Any => Endpoint::any(),
                // The API writes a single host without a prefix.
                Source::Cidr(address, 32) => Endpoint::host(address),
                Source::Cidr(address, prefix) => Endpoint::network(address, prefix),
                Source::Operator => return None,
            };
            (IpVersion::V4, protocol, source, destination)
        }
        Rule::Accept6(from, to) => {
            let network = |place: &Place| {
                let range = vlan(view, mark, place)?.ipv6_range?;
                Some(Endpoint::network(range.address.0, range.prefix_size))
            };
            (IpVersion::V6, Protocol::Ip, network(from)?, network(to)?)
        }
        Rule::Accept4(from, to) => {
            let network = |place: &Place| {
                let range = vlan(view, mark, place)?.private_ipv4_range;
                Some(Endpoint::network(range.address, range.prefix_size))
            };
            (IpVersion::V4, Protocol::Ip, network(from)?, network(to)?)
        }
    };
    Some(CreateFirewallRule {
        network_domain_id: domain.domain.id.clone(),
        name: name.to_owned(),
        action: Action::AcceptDecisively,
        ip_version,
        protocol,
        source,
        destination,
        enabled: true,
        placement: Some(Placement::last()),
    })
}

fn vlan<'a>(view: &'a View, mark: &Mark, place: &Place) -> Option<&'a Vlan> {
    view.our_domain(mark, &place.location, &place.domain)?.vlan(&place.network)
}

/// Whether a rule that is there does what is wanted.
pub fn is_as_wanted(found: &FirewallRule, wanted: &CreateFirewallRule) -> bool {
    found.enabled == wanted.enabled
        && found.action == wanted.action
        && found.ip_version == wanted.ip_version
        && found.protocol == wanted.protocol
        && same_end(&found.source, &wanted.source)
        && same_end(&found.destination, &wanted.destination)
}

/// What differs, for people: what it is, and what it becomes.
pub fn difference(found: &FirewallRule, wanted: &CreateFirewallRule) -> String {
    let mut parts = Vec::new();
    if found.enabled != wanted.enabled {
        parts.push(if wanted.enabled { "turned on" } else { "turned off" }.to_owned());
    }
    let mut part = |what: &str, found: String, wanted: String| {
        if found != wanted {
            parts.push(format!("{what} {found} becomes {wanted}"));
        }
    };
    part("action", format!("{:?}", found.action), format!("{:?}", wanted.action));
    part("protocol", format!("{:?}", found.protocol), format!("{:?}", wanted.protocol));
    part("version", format!("{:?}", found.ip_version), format!("{:?}", wanted.ip_version));
    part("source", end(&found.source), end(&wanted.source));
    part("destination", end(&found.destination), end(&wanted.destination));
    parts.join(", ")
}

/// One end for people: `192.0.2.0/24 port 22`.
fn end(end: &Endpoint) -> String {
    use fleet_mcp::types::Address;
    let address = match ip(end) {
        None => "a list".to_owned(),
        Some((Address::Any, _)) => "any".to_owned(),
        Some((Address::Ip(address), prefix)) => format!("{address}/{prefix}"),
    };
    match end.port.map(|PortRange { begin, end }| (begin, end.unwrap_or(begin))) {
        None => address,
        Some((first, last)) if first == last => format!("{address} port {first}"),
        Some((first, last)) => format!("{address} ports {first} to {last}"),
    }
}

/// Whether two ends match the same traffic, however they are written.
fn same_end(a: &Endpoint, b: &Endpoint) -> bool {
    let ports = |end: &Endpoint| end.port.map(|PortRange { begin, end }| (begin, end.unwrap_or(begin)));
    let lists = |end: &Endpoint| end.ip_address_list.is_some() || end.port_list.is_some();
    ip(a) == ip(b) && ports(a) == ports(b) && !lists(a) && !lists(b)
}

/// Address and prefix; a host is a network of one.
fn ip(end: &Endpoint) -> Option<(fleet_mcp::types::Address, u8)> {
    use fleet_mcp::types::Address;
    let ip = end.ip.as_ref()?;
    let prefix = match ip.address {
        Address::Any => 0,
        Address::Ip(IpAddr::V4(_)) => ip.prefix_size.unwrap_or(32),
        Address::Ip(IpAddr::V6(_)) => ip.prefix_size.unwrap_or(128),
    };
    Some((ip.address, prefix))
}
