//! What the backing is told: whole specifications, made from the state.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fleet_mcp::types::{
    Action, Address, AddressRange, Endpoint, FirewallRule, IpAddressList, IpVersion, PortList,
    Protocol as Wire, State as Phase,
};

use super::{Record, State, catalogue::BACKING_IMAGE, network, record::Under};
use crate::backing::{
    DiskSpec, DomainSpec, Match, NatSpec, NicSpec, Protocol, RuleSpec, ServerSpec, VlanSpec, World,
};

impl State {
    /// The domain as it should be, and its revision. `None` if there is no such domain, or it is on its way out.
    pub fn domain_spec(&self, id: &str) -> Option<(DomainSpec, u64)> {
        let domain = self.domain(id).ok()?;
        if domain.entity.state == Phase::PendingDelete {
            return None;
        }
        let live: Vec<_> = self
            .vlans
            .iter()
            .filter(|vlan| vlan.domain() == id)
            .filter(|vlan| !matches!(vlan.entity.state, Phase::PendingDelete | Phase::FailedAdd))
            .collect();
        let vlans = live.iter().map(|vlan| {
            let entity = &vlan.entity;
            VlanSpec {
                id: vlan.id().to_owned(),
                ipv4: (entity.private_ipv4_range.address, entity.private_ipv4_range.prefix_size),
                ipv4_gateway: entity.ipv4_gateway_address.unwrap_or(Ipv4Addr::UNSPECIFIED),
                ipv6: entity.ipv6_range.map_or(Ipv6Addr::UNSPECIFIED, |range| range.address.0),
                ipv6_gateway: entity.ipv6_gateway_address.map_or(Ipv6Addr::UNSPECIFIED, |address| address.0),
            }
        });
        // A translation whose VLAN is gone has nothing to translate to.
        let nats = self.nats.iter().filter(|nat| {
            nat.network_domain_id.as_str() == id
                && live.iter().any(|vlan| network::contains(vlan, nat.internal_ip))
        });
        let rules = self.rules.iter().filter(|rule| rule.network_domain_id.as_str() == id && rule.enabled);
        let spec = DomainSpec {
            id: id.to_owned(),
            snat: domain.entity.snat_ipv4_address.unwrap_or(Ipv4Addr::UNSPECIFIED),
            vlans: vlans.collect(),
            nat: nats.map(|nat| NatSpec { internal: nat.internal_ip, external: nat.external_ip }).collect(),
            rules: rules.filter_map(|rule| self.rule_spec(rule)).collect(),
        };
        Some((spec, domain.revision))
    }

    /// The server as it will be once its operation has succeeded.
    pub(crate) fn server_spec(&self, record: &Record) -> ServerSpec {
        let mut server = record.entity.clone();
        if let Some(Under { operation, .. }) = &record.pending {
            operation.effect(&mut server);
        }
        let nics = server.network_info.iter().flat_map(fleet_mcp::types::NetworkInfo::nics);
        let nics = nics.filter_map(|nic| {
            Some(NicSpec {
                id: nic.id.to_string(),
                vlan: nic.vlan_id.as_ref()?.to_string(),
                mac: nic.mac_address.clone()?,
                ipv4: nic.private_ipv4?,
                ipv6: nic.ipv6?.0,
            })
        });
        ServerSpec {
            id: record.id().to_owned(),
            name: server.name.clone(),
            domain: record.domain().unwrap_or_default().to_owned(),
            image: Some(&record.image).filter(|image| *image != BACKING_IMAGE).cloned(),
            cpus: server.cpu.count,
            memory_mib: u64::from(server.memory_gb) * 1024,
            disks: server
                .disk
                .iter()
                .map(|disk| DiskSpec {
                    id: disk.id.as_ref().map(ToString::to_string).unwrap_or_default(),
                    scsi_id: disk.scsi_id,
                    size_gb: disk.size_gb,
                })
                .collect(),
            nics: nics.collect(),
            root_password: record.password.clone(),
        }
    }

    /// Everything there should be, for the backing to adopt.
    pub fn world(&self) -> World {
        let domains = self.domains.iter().filter_map(|domain| self.domain_spec(&domain.id()));
        let servers = self.servers.iter().filter(|server| server.made || server.pending.is_some());
        World {
            domains: domains.map(|(spec, _)| spec).collect(),
            servers: servers
                .map(|server| (self.server_spec(server), server.entity.started && !server.ghost))
                .collect(),
            images: self.copies.iter().map(|copy| copy.entity.id.to_string()).collect(),
        }
    }

    fn rule_spec(&self, rule: &FirewallRule) -> Option<RuleSpec> {
        let ipv6 = rule.ip_version == IpVersion::V6;
        let protocol = match rule.protocol {
            Wire::Ip => None,
            Wire::Icmp => Some(Protocol::Icmp),
            Wire::Tcp => Some(Protocol::Tcp),
            Wire::Udp => Some(Protocol::Udp),
            Wire::Other(_) => return None,
        };
        let source = self.matches(&rule.source, ipv6)?;
        let destination = self.matches(&rule.destination, ipv6)?;
        Some(RuleSpec {
            name: rule.name.clone(),
            accept: rule.action == Action::AcceptDecisively,
            ipv6,
            protocol,
            source,
            source_ports: self.ports(&rule.source)?,
            destination,
            destination_ports: self.ports(&rule.destination)?,
        })
    }

    /// What one end matches; empty is any. `None` if it names a list with nothing in it: such a rule matches
    /// nothing, and must not turn into one that matches everything.
    fn matches(&self, end: &Endpoint, ipv6: bool) -> Option<Vec<Match>> {
        if let Some(ip) = &end.ip {
            return match ip.address {
                Address::Any => Some(Vec::new()),
                Address::Ip(address) => Some(vec![network_of(address, ip.prefix_size)]),
            };
        }
        let list = end.ip_address_list.as_ref()?;
        let mut found = Vec::new();
        self.gather_addresses(&list.id, &mut BTreeSet::new(), &mut found);
        found.retain(|found| match found {
            Match::Network(address, _) | Match::Range(address, _) => address.is_ipv6() == ipv6,
        });
        (!found.is_empty()).then_some(found)
    }

    /// Every list counts once, however often it is included.
    fn gather_addresses<'a>(
        &'a self,
        id: &'a fleet_mcp::Id<IpAddressList>,
        seen: &mut BTreeSet<&'a str>,
        into: &mut Vec<Match>,
    ) {
        let new = seen.insert(id.as_str());
        let Some(list) = self.ip_lists.iter().find(|list| new && list.id == *id) else { return };
        into.extend(list.ip_address.iter().filter_map(range_of));
        for child in &list.child_ip_address_list {
            self.gather_addresses(&child.id, seen, into);
        }
    }

    /// Ports of one end; empty is any. `None` as in [`Self::matches`].
    fn ports(&self, end: &Endpoint) -> Option<Vec<(u16, u16)>> {
        if let Some(port) = end.port {
            return Some(vec![(port.begin, port.end.unwrap_or(port.begin))]);
        }
        let Some(list) = &end.port_list else { return Some(Vec::new()) };
        let mut found = Vec::new();
        self.gather_ports(&list.id, &mut BTreeSet::new(), &mut found);
        (!found.is_empty()).then_some(found)
    }

    fn gather_ports<'a>(
        &'a self,
        id: &'a fleet_mcp::Id<PortList>,
        seen: &mut BTreeSet<&'a str>,
        into: &mut Vec<(u16, u16)>,
    ) {
        let new = seen.insert(id.as_str());
        let Some(list) = self.port_lists.iter().find(|list| new && list.id == *id) else { return };
        into.extend(list.port.iter().map(|port| (port.begin, port.end.unwrap_or(port.begin))));
        for child in &list.child_port_list {
            self.gather_ports(&child.id, seen, into);
        }
    }
}

fn network_of(address: IpAddr, prefix_size: Option<u8>) -> Match {
    let longest = if address.is_ipv6() { 128 } else { 32 };
    Match::Network(address, prefix_size.unwrap_or(longest).min(longest))
}

fn range_of(range: &AddressRange) -> Option<Match> {
    match (range.begin, range.end, range.prefix_size) {
        (Address::Ip(first), Some(Address::Ip(last)), _) => Some(Match::Range(first, last)),
        (Address::Ip(first), _, prefix_size) => Some(network_of(first, prefix_size)),
        (Address::Any, ..) => None,
    }
}
