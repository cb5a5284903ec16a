//! What the cloud held when it was last looked at: one snapshot per run, kept current as steps settle. Pure.

use std::{collections::BTreeMap, net::Ipv4Addr};

use fleet_mcp::{
    Id,
    types::{FirewallRule, NatRule, NetworkDomain, PublicIpBlock, Server, State, Vlan},
};

use crate::{
    event::Addresses,
    mark::{Mark, Owner},
};

/// Every network domain with what is in it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By id.
    pub domains: BTreeMap<Id<NetworkDomain>, DomainView>,
}

/// A network domain with what is in it.
#[derive(Clone, Debug)]
pub struct DomainView {
    /// The domain itself.
    pub domain: NetworkDomain,
    /// Its VLANs.
    pub vlans: BTreeMap<Id<Vlan>, Vlan>,
    /// Its servers.
    pub servers: BTreeMap<Id<Server>, Server>,
    /// Its blocks of public addresses; read only where something of ours is.
    pub blocks: BTreeMap<Id<PublicIpBlock>, PublicIpBlock>,
    /// Its translations; likewise.
    pub nats: BTreeMap<Id<NatRule>, NatRule>,
    /// Its firewall rules; likewise.
    pub rules: BTreeMap<Id<FirewallRule>, FirewallRule>,
}

impl View {
    /// The network domain of this name in a data centre, whoever's it is.
    pub fn domain(&self, location: &str, name: &str) -> Option<&DomainView> {
        self.domains
            .values()
            .filter(|found| found.domain.datacenter_id.as_str() == location)
            .find(|found| same_name(&found.domain.name, name))
    }

    /// The same if it is ours: what is in a domain of others is none of our business.
    pub fn our_domain(&self, mark: &Mark, location: &str, name: &str) -> Option<&DomainView> {
        self.domain(location, name).filter(|found| mark.is_ours(found.domain.description.as_deref()))
    }

    /// Takes note of a domain; what is in it stays.
    pub fn put_domain(&mut self, domain: NetworkDomain) {
        match self.domains.get_mut(&domain.id) {
            Some(held) => held.domain = domain,
            None => {
                self.domains.insert(domain.id.clone(), DomainView::empty(domain));
            }
        }
    }

    /// Takes note of a VLAN.
    pub fn put_vlan(&mut self, vlan: Vlan) {
        if let Some(held) = self.domains.get_mut(&vlan.network_domain.id) {
            held.vlans.insert(vlan.id.clone(), vlan);
        }
    }

    /// Takes note of a server.
    pub fn put_server(&mut self, server: Server) {
        let Some(info) = &server.network_info else { return };
        if let Some(held) = self.domains.get_mut(&info.network_domain_id) {
            held.servers.insert(server.id.clone(), server);
        }
    }
}

impl DomainView {
    /// A domain with nothing in it.
    pub fn empty(domain: NetworkDomain) -> Self {
        Self {
            domain,
            vlans: BTreeMap::new(),
            servers: BTreeMap::new(),
            blocks: BTreeMap::new(),
            nats: BTreeMap::new(),
            rules: BTreeMap::new(),
        }
    }

    /// The VLAN of this name.
    pub fn vlan(&self, name: &str) -> Option<&Vlan> {
        self.vlans.values().find(|vlan| same_name(&vlan.name, name))
    }

    /// The server that is a node's; see [`choose`].
    pub fn server(&self, mark: &Mark, name: &str) -> Option<&Server> {
        choose(mark, self.servers.values(), name)
    }

    /// The translation of a private address.
    pub fn nat(&self, internal: Ipv4Addr) -> Option<&NatRule> {
        self.nats.values().find(|nat| nat.internal_ip == internal)
    }

    /// The firewall rule of this name.
    pub fn rule(&self, name: &str) -> Option<&FirewallRule> {
        self.rules.values().find(|rule| same_name(&rule.name, name))
    }

    /// A server's addresses.
    pub fn addresses(&self, server: &Server) -> Addresses {
        let private_ipv4 = private_ipv4(server);
        let nic = server.network_info.as_ref().map(|info| &info.primary_nic);
        Addresses {
            public_ipv4: private_ipv4.and_then(|internal| self.nat(internal)).map(|nat| nat.external_ip),
            private_ipv4,
            ipv6: nic.and_then(|nic| nic.ipv6).map(|address| address.0),
        }
    }
}

/// Of the servers of this name the one that counts: ours before others', sound before failed, then the first by id.
/// Names of servers need not be unique, so that a repeated create would show as a second one.
pub fn choose<'a>(mark: &Mark, servers: impl Iterator<Item = &'a Server>, name: &str) -> Option<&'a Server> {
    servers.filter(|server| server.name == name).min_by_key(|server| {
        let ours = mark.owner(server.description.as_deref()) == Owner::Ours;
        let rank = match server.state {
            State::Normal | State::PendingChange => 0,
            State::PendingAdd => 1,
            State::FailedChange | State::RequiresSupport => 2,
            _ => 3,
        };
        (!ours, rank, server.id.clone())
    })
}

/// A server's private IPv4 address.
pub fn private_ipv4(server: &Server) -> Option<Ipv4Addr> {
    server.network_info.as_ref()?.primary_nic.private_ipv4
}

/// The API compares names without case.
pub fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}
