//! Firewall rules and their lists as the API wants them, and whether one that is there is such a one. Pure.

use std::net::IpAddr;

use fleet_mcp::types::{
    Action, Address, AddressRange, CreateFirewallRule, Endpoint, FirewallRule, IpAddressList, IpVersion,
    Placement, PortRange, Protocol, Vlan,
};
use fleet_plan::resolved::{Source, Traffic};

use crate::{
    graph::{Family, Place, Rule, Sources},
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
        Rule::Accept(family, from, to) => {
            let end = |place| {
                let (address, prefix) = network(view, mark, *family, place)?;
                Some(Endpoint::network(address, prefix))
            };
            let from = match from {
                Sources::One(place) => end(place)?,
                Sources::List(name) => {
                    let list = domain.list(name)?;
                    Endpoint { ip_address_list_id: Some(list.id.clone()), ..Endpoint::default() }
                }
            };
            (version(*family), Protocol::Ip, from, end(to)?)
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

/// The API's word.
pub const fn version(family: Family) -> IpVersion {
    match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    }
}

/// Private addresses of a network; `None` while they are not known.
fn network(view: &View, mark: &Mark, family: Family, place: &Place) -> Option<(IpAddr, u8)> {
    let vlan = vlan(view, mark, place)?;
    Some(match family {
        Family::V4 => (vlan.private_ipv4_range.address.into(), vlan.private_ipv4_range.prefix_size),
        Family::V6 => {
            let range = vlan.ipv6_range?;
            (range.address.0.into(), range.prefix_size)
        }
    })
}

/// What a list of these networks has in it, in their order; `None` while an address it needs is not known.
pub fn listed(view: &View, mark: &Mark, family: Family, places: &[Place]) -> Option<Vec<AddressRange>> {
    let range = |place| {
        let (address, prefix) = network(view, mark, family, place)?;
        Some(AddressRange { begin: Address::Ip(address), end: None, prefix_size: Some(prefix) })
    };
    places.iter().map(range).collect()
}

/// Whether a list that is there has these networks in it and nothing else, in whatever order.
pub fn has_listed(found: &IpAddressList, wanted: &[AddressRange]) -> bool {
    let sorted = |ranges: &[AddressRange]| {
        let mut ends: Vec<_> =
            ranges.iter().map(|range| (range.begin, range.end, range.prefix_size)).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    };
    found.child_ip_address_list.is_empty() && sorted(&found.ip_address) == sorted(wanted)
}

/// What of a list comes and goes, for people.
pub fn list_difference(found: &IpAddressList, wanted: &[AddressRange]) -> String {
    let beyond = |some: &[AddressRange], others: &[AddressRange]| {
        let some = some.iter().filter(|range| !others.contains(range));
        some.map(range).collect::<Vec<_>>().join(", ")
    };
    let (comes, goes) = (beyond(wanted, &found.ip_address), beyond(&found.ip_address, wanted));
    let mut parts = Vec::new();
    if !comes.is_empty() {
        parts.push(format!("{comes} comes in"));
    }
    if !goes.is_empty() {
        parts.push(format!("{goes} goes out"));
    }
    if !found.child_ip_address_list.is_empty() {
        parts.push("the lists in it go out".to_owned());
    }
    parts.join(", ")
}

fn range(range: &AddressRange) -> String {
    match (range.end, range.prefix_size) {
        (Some(end), _) => format!("{} to {end}", range.begin),
        (None, Some(prefix)) => format!("{}/{prefix}", range.begin),
        (None, None) => range.begin.to_string(),
    }
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
    // No rule of ours names ports by a list.
    let by_list = |end: &Endpoint| end.port_list.is_some() || end.port_list_id.is_some();
    ip(a) == ip(b) && list(a) == list(b) && ports(a) == ports(b) && !by_list(a) && !by_list(b)
}

/// The list of addresses one end names: requests by its id, answers by a reference.
fn list(end: &Endpoint) -> Option<&str> {
    let reference = end.ip_address_list.as_ref().map(|list| &list.id);
    end.ip_address_list_id.as_ref().or(reference).map(|id| id.as_str())
}

/// Address and prefix; a host is a network of one.
fn ip(end: &Endpoint) -> Option<(Address, u8)> {
    let ip = end.ip.as_ref()?;
    let prefix = match ip.address {
        Address::Any => 0,
        Address::Ip(IpAddr::V4(_)) => ip.prefix_size.unwrap_or(32),
        Address::Ip(IpAddr::V6(_)) => ip.prefix_size.unwrap_or(128),
    };
    Some((ip.address, prefix))
}
