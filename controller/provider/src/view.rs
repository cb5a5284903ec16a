//! What the cloud held when it was last looked at: one snapshot per run, kept current as steps settle. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use fleet_mcp::{
    Id,
    types::{FirewallRule, IpAddressList, NatRule, NetworkDomain, PublicIpBlock, Server, State, Vlan},
};

use crate::{
    event::Addresses,
    journal::Index,
    mark::{Mark, Owner},
    moment::moment,
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
    /// Those of them that the journal knows to be a node's.
    pub known: BTreeSet<Id<Server>>,
    /// Its blocks of public addresses; read only where something of ours is.
    pub blocks: BTreeMap<Id<PublicIpBlock>, PublicIpBlock>,
    /// Its translations; likewise.
    pub nats: BTreeMap<Id<NatRule>, NatRule>,
    /// Its firewall rules; likewise.
    pub rules: BTreeMap<Id<FirewallRule>, FirewallRule>,
    /// Lists of addresses its rules may name; likewise.
    pub lists: BTreeMap<Id<IpAddressList>, IpAddressList>,
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

    /// Takes note of which servers the journal knows.
    pub fn know(&mut self, index: &Index) {
        for held in self.domains.values_mut() {
            let known = held.servers.keys().filter(|id| index.holds("server", id.as_str()));
            held.known = known.cloned().collect();
        }
    }

    /// Takes note that the journal knows this server.
    pub fn know_server(&mut self, id: &Id<Server>) {
        let mut held = self.domains.values_mut();
        if let Some(held) = held.find(|held| held.servers.contains_key(id)) {
            held.known.insert(id.clone());
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
            known: BTreeSet::new(),
            blocks: BTreeMap::new(),
            nats: BTreeMap::new(),
            rules: BTreeMap::new(),
            lists: BTreeMap::new(),
        }
    }

    /// The VLAN of this name.
    pub fn vlan(&self, name: &str) -> Option<&Vlan> {
        self.vlans.values().find(|vlan| same_name(&vlan.name, name))
    }

    /// The server that is a node's; see [`DomainView::choose`].
    pub fn server(&self, mark: &Mark, name: &str) -> Option<&Server> {
        self.choose(mark, self.servers.values(), name)
    }

    /// Of the servers of this name the one that counts. Names of servers need not be unique, so that a repeated create
    /// shows as a second one; the one that does the node's work must not be taken for it. Ours come before others', those
    /// that are there before those that never came about or are leaving; then the one that the journal knows, the one
    /// with a translation, one that is on, and the oldest.
    pub fn choose<'a>(
        &self,
        mark: &Mark,
        servers: impl Iterator<Item = &'a Server>,
        name: &str,
    ) -> Option<&'a Server> {
        servers.filter(|server| server.name == name).min_by_key(|server| {
            let ours = mark.owner(server.description.as_deref()) == Owner::Ours;
            let made = server.create_time.as_deref().and_then(moment);
            (
                !ours,
                is_no_server(server),
                !self.known.contains(&server.id),
                !self.is_translated(server),
                !server.started,
                made.is_none(),
                made,
                server.id.clone(),
            )
        })
    }

    /// Whether a server that does not count may go without anybody's consent: nobody ever took it for a node's, nothing
    /// leads to it, and it does not run.
    pub fn is_spare(&self, server: &Server) -> bool {
        is_no_server(server)
            || !(self.known.contains(&server.id) || self.is_translated(server) || server.started)
    }

    fn is_translated(&self, server: &Server) -> bool {
        private_ipv4(server).and_then(|internal| self.nat(internal)).is_some()
    }

    /// The translation of a private address.
    pub fn nat(&self, internal: Ipv4Addr) -> Option<&NatRule> {
        self.nats.values().find(|nat| nat.internal_ip == internal)
    }

    /// The firewall rule of this name.
    pub fn rule(&self, name: &str) -> Option<&FirewallRule> {
        self.rules.values().find(|rule| same_name(&rule.name, name))
    }

    /// The list of addresses of this name.
    pub fn list(&self, name: &str) -> Option<&IpAddressList> {
        self.lists.values().find(|list| same_name(&list.name, name))
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

/// Whether it never came about, or is on its way out.
const fn is_no_server(server: &Server) -> bool {
    matches!(server.state, State::FailedAdd | State::PendingDelete | State::PendingClean)
}

/// A server's private IPv4 address.
pub fn private_ipv4(server: &Server) -> Option<Ipv4Addr> {
    server.network_info.as_ref()?.primary_nic.private_ipv4
}

/// The API compares names without case.
pub fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}
