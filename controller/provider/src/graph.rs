//! What a plan wants of the cloud: resources and what each needs first. Pure.

use fleet_model::NodeName;
use fleet_plan::{
    ResolvedPlan,
    resolved::{Cpu, Disk, Location, NetworkRef, Node, Service, Source, Traffic},
};

use crate::mark::{accept_list, accept_rule, opening_rule};

/// Name of the platform's own rule that keeps all outside IPv6 traffic away.
pub const DENY_IPV6: &str = "CCDEFAULT.DenyExternalInboundIPv6";

/// Names one piece of work within a run. What leaves is named by the API's ids, since plans no longer name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Network domain of a location.
    Domain(String),
    /// Network.
    Vlan(NetworkRef),
    /// A node's server.
    Server(NodeName),
    /// CPUs and memory of a node's server.
    Size(NodeName),
    /// A node's added disk by SCSI id.
    Disk(NodeName, u8),
    /// A node's monitoring.
    Monitoring(NodeName),
    /// Power of a node's server.
    Power(NodeName),
    /// A node's public address and its translation.
    Nat(NodeName),
    /// Firewall rule of a location by name.
    Rule(String, String),
    /// List of networks of a location, by name.
    List(String, String),
    /// A node is complete.
    Ready(NodeName),
    /// Translation to be deleted.
    NatGone(String),
    /// Firewall rule to be deleted.
    RuleGone(String),
    /// List of networks to be deleted.
    ListGone(String),
    /// Server to be powered off.
    PowerGone(String),
    /// Server to be deleted.
    ServerGone(String),
    /// Block of public addresses to be given back.
    BlockGone(String),
    /// VLAN to be deleted.
    VlanGone(String),
    /// Network domain to be deleted.
    DomainGone(String),
}

/// A resource that should exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its key.
    pub key: Key,
    /// Data centre.
    pub location: String,
    /// Name of the network domain it is in.
    pub domain: String,
    /// What must exist before it.
    pub needs: Vec<Key>,
    /// What it should be like.
    pub want: Want,
}

/// What a resource should be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// A network domain of this service plan.
    Domain(Service),
    /// A VLAN.
    Vlan {
        /// Its name.
        name: String,
        /// Base of its IPv4 network.
        address: std::net::Ipv4Addr,
        /// Prefix length.
        prefix: u8,
    },
    /// A server in the network of this name.
    Server {
        /// Everything about it.
        node: Box<Node>,
        /// Its network.
        network: String,
    },
    /// A node's server has so many CPUs and so much memory.
    Size {
        /// The node.
        node: NodeName,
        /// Its CPUs.
        cpu: Cpu,
        /// Its memory in GB.
        memory_gb: u32,
    },
    /// An added disk of a node's server.
    Disk(NodeName, Disk),
    /// A node's server has this monitoring.
    Monitoring(NodeName, Option<Service>),
    /// A node's server is on.
    Power(NodeName),
    /// A node has a public address.
    Nat(NodeName),
    /// A firewall rule of this name.
    Rule(String, Rule),
    /// A list of these networks, under this name.
    List(String, Family, Vec<Place>),
    /// The platform's own rule against outside IPv6 is on or off.
    DenyIpv6(bool),
    /// A node with all that is its own is complete.
    Ready(NodeName),
}

/// What a firewall rule of ours lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// From one source to a node's public address.
    Opening(NodeName, Traffic, Source),
    /// From other networks to one.
    Accept(Family, Sources, Place),
}

/// Which private addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, which does not leave its domain.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As names of rules have it.
    const fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Which networks a rule lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// One.
    One(Place),
    /// Several: those of the list of this name. One rule instead of one for each is fewer calls, and fewer of the rules
    /// a domain may have.
    List(String),
}

/// Where a network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Data centre.
    pub location: String,
    /// Name of its network domain.
    pub domain: String,
    /// Its name.
    pub network: String,
}

/// Everything `plan` wants, in the order of the plan.
pub fn resources(plan: &ResolvedPlan) -> Vec<Resource> {
    let mut all = Vec::new();
    for location in &plan.locations {
        let domain = Key::Domain(location.id.clone());
        let mut add = |key: Key, needs: Vec<Key>, want: Want| {
            let (location, domain) = (location.id.clone(), location.domain.name.clone());
            all.push(Resource { key, location, domain, needs, want });
        };
        add(domain.clone(), vec![], Want::Domain(location.domain.service));
        let accepts = location.networks.iter().any(|network| !network.accept.is_empty());
        let deny = Key::Rule(location.id.clone(), DENY_IPV6.to_owned());
        add(deny, vec![domain.clone()], Want::DenyIpv6(!accepts));
        for network in &location.networks {
            let vlan = NetworkRef { location: location.id.clone(), network: network.name.clone() };
            let want =
                Want::Vlan { name: network.name.clone(), address: network.address, prefix: network.prefix };
            add(Key::Vlan(vlan.clone()), vec![domain.clone()], want);
            for node in &network.nodes {
                node_resources(&location.id, &vlan, node, &mut add);
            }
            // The plan was checked: what it accepts exists.
            let sources: Vec<(&NetworkRef, Place)> = network
                .accept
                .iter()
                .filter_map(|from| Some((from, place(plan.network(from)?.0, &from.network))))
                .collect();
            let to = place(location, &network.name);
            accept_resources(Family::V6, &sources, &vlan, &to, &mut add);
            // Private IPv4 does not leave its domain.
            let here: Vec<_> = sources.into_iter().filter(|(from, _)| from.location == location.id).collect();
            accept_resources(Family::V4, &here, &vlan, &to, &mut add);
        }
    }
    all
}

fn place(location: &Location, network: &str) -> Place {
    let (location, domain) = (location.id.clone(), location.domain.name.clone());
    Place { location, domain, network: network.to_owned() }
}

/// What lets `sources` into a network: nothing, one rule, or one rule with a list.
fn accept_resources(
    family: Family,
    sources: &[(&NetworkRef, Place)],
    vlan: &NetworkRef,
    to: &Place,
    add: &mut impl FnMut(Key, Vec<Key>, Want),
) {
    let networks = sources.iter().map(|(from, _)| Key::Vlan((*from).clone()));
    let (name, mut needs, from) = match sources {
        [] => return,
        [(from, source)] => {
            let name = accept_rule(from, vlan, family.word());
            (name, networks.collect(), Sources::One(source.clone()))
        }
        _ => {
            let name = accept_list(vlan, family.word());
            let places = sources.iter().map(|(_, source)| source.clone()).collect();
            let key = Key::List(vlan.location.clone(), name.clone());
            // The networks may all be elsewhere.
            let networks = networks.chain([Key::Domain(vlan.location.clone())]).collect();
            add(key.clone(), networks, Want::List(name.clone(), family, places));
            (name.clone(), vec![key], Sources::List(name))
        }
    };
    needs.push(Key::Vlan(vlan.clone()));
    let rule = Rule::Accept(family, from, to.clone());
    add(Key::Rule(vlan.location.clone(), name.clone()), needs, Want::Rule(name, rule));
}

/// Names of rules that did before what this one does, or part of it: they go once it is there, and not before, so that
/// nothing is cut off in between.
pub fn predecessors(resource: &Resource, resources: &[Resource]) -> Vec<String> {
    let Want::Rule(_, Rule::Accept(family, from, to)) = &resource.want else { return Vec::new() };
    let network =
        |place: &Place| NetworkRef { location: place.location.clone(), network: place.network.clone() };
    match from {
        Sources::One(_) => vec![accept_list(&network(to), family.word())],
        Sources::List(list) => resources
            .iter()
            .filter(|other| other.location == resource.location)
            .filter_map(|other| match &other.want {
                Want::List(name, _, places) if name == list => Some(places),
                _ => None,
            })
            .flatten()
            .map(|from| accept_rule(&network(from), &network(to), family.word()))
            .collect(),
    }
}

fn node_resources(location: &str, vlan: &NetworkRef, node: &Node, add: &mut impl FnMut(Key, Vec<Key>, Want)) {
    let name = &node.name;
    let server = Key::Server(name.clone());
    let mut ready = vec![server.clone(), Key::Power(name.clone())];
    let want = Want::Server { node: Box::new(node.clone()), network: vlan.network.clone() };
    add(server.clone(), vec![Key::Vlan(vlan.clone())], want);
    // Disks before power: a guest finds what is there when it boots.
    let size = Key::Size(name.clone());
    let want = Want::Size { node: name.clone(), cpu: node.cpu.clone(), memory_gb: node.memory_gb };
    add(size.clone(), vec![server.clone()], want);
    let mut before_power = vec![server.clone(), size];
    for disk in &node.disks {
        let key = Key::Disk(name.clone(), disk.scsi_id);
        add(key.clone(), vec![server.clone()], Want::Disk(name.clone(), disk.clone()));
        before_power.push(key);
    }
    let monitoring = Want::Monitoring(name.clone(), node.monitoring);
    add(Key::Monitoring(name.clone()), vec![server.clone()], monitoring);
    add(Key::Power(name.clone()), before_power, Want::Power(name.clone()));
    if let Some(internet) = &node.internet {
        let nat = Key::Nat(name.clone());
        add(nat.clone(), vec![server], Want::Nat(name.clone()));
        ready.push(nat.clone());
        let pairs = internet
            .open
            .iter()
            .flat_map(|opening| opening.from.iter().map(move |source| (opening.traffic, *source)));
        // While nobody knows where the operator is, what is for the operator stays closed.
        for (traffic, source) in pairs.filter(|(_, source)| *source != Source::Operator) {
            let rule = opening_rule(name.as_str(), traffic, source);
            let key = Key::Rule(location.to_owned(), rule.clone());
            add(
                key.clone(),
                vec![nat.clone()],
                Want::Rule(rule, Rule::Opening(name.clone(), traffic, source)),
            );
            ready.push(key);
        }
    }
    add(Key::Ready(name.clone()), ready, Want::Ready(name.clone()));
}
