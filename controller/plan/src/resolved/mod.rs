//! What a plan means once nothing is left open.

mod host;
mod internet;
mod task;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use fleet_model::{FleetName, NodeName};
use fleet_rollout::Policy;
use serde::{Deserialize, Serialize};

pub use host::{Host, HostKey, SSH};
pub(crate) use internet::distinct;
pub use internet::{Internet, NoSuchSource, Opening, OperatorUnknown, Source, Traffic};
pub use task::{
    Access, AptRepository, Clock, Command, Content, Database, File, Key, OnDrift, Package, Packages,
    Rethinkdb, Service as ServiceTask, Task, Todo, Update, User, Work,
};

/// A plan with every default applied and every reference checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedPlan {
    /// The fleet's name.
    pub fleet: FleetName,
    /// Where its servers live.
    pub cloud: Cloud,
    /// Text for people about the fleet as a whole; may hold references to nodes.
    pub information: Template,
    /// Mean time between two looks of an agent at all its tasks; `None` leaves it to the agent.
    pub recheck: Option<Duration>,
    /// How long after `up` the controller takes the fleet down by itself; `None` never does.
    pub expires: Option<Duration>,
    /// How changes of what running nodes do reach them.
    pub rollout: Policy,
    /// Locations in the order of the file.
    pub locations: Vec<Location>,
}

impl ResolvedPlan {
    /// Every node with where it is, in the order of the file.
    pub fn nodes(&self) -> impl Iterator<Item = Placed<'_>> {
        self.locations.iter().flat_map(|location| {
            location.networks.iter().flat_map(move |network| {
                network.nodes.iter().map(move |node| Placed { location, network, node })
            })
        })
    }

    /// The node of this name with where it is.
    pub fn node(&self, name: &NodeName) -> Option<Placed<'_>> {
        self.nodes().find(|placed| placed.node.name == *name)
    }

    /// Files of the operator's host that tasks name, as written, each once and in the order of first use.
    pub fn files(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let named = self.nodes().flat_map(|placed| &placed.node.tasks).filter_map(|task| task.work.file());
        named.filter(|name| seen.insert(*name)).collect()
    }

    /// Whether somebody gets in by the operator's keys.
    pub fn wants_operator_keys(&self) -> bool {
        self.nodes().flat_map(|placed| &placed.node.tasks).any(|task| match &task.work {
            Work::Access(access) => access.keys.contains(&Key::Operator),
            _ => false,
        })
    }

    /// The network `LOCATION::NAME`.
    pub fn network(&self, reference: &NetworkRef) -> Option<(&Location, &Network)> {
        let location = self.locations.iter().find(|location| location.id == reference.location)?;
        let network = location.networks.iter().find(|network| network.name == reference.network)?;
        Some((location, network))
    }
}

/// A node and its surroundings.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// Its location.
    pub location: &'a Location,
    /// Its primary network.
    pub network: &'a Network,
    /// The node.
    pub node: &'a Node,
}

/// Which CloudControl API the fleet lives in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cloud {
    /// The cloud on this host.
    Local,
    /// Managed Cloud Platform; `endpoint` is the API's base URL, `https://api-eu.dimensiondata.com`.
    Mcp {
        /// Base URL without a path.
        endpoint: String,
    },
    /// None: its machines are there already, and reached by their addresses.
    Hosts,
}

/// One location: a data centre with one network domain of ours. With [`Cloud::Hosts`] a place that has a name, and one
/// network that stands for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Data centre, `EU7`.
    pub id: String,
    /// Its network domain.
    pub domain: Domain,
    /// Networks (VLANs) of the domain, in the order of the file.
    pub networks: Vec<Network>,
}

/// A network domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its name; unique in the data centre.
    pub name: String,
    /// Service plan.
    pub service: Service,
}

/// Service plan of a network domain, or of monitoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// `ESSENTIALS`.
    Essentials,
    /// `ADVANCED`.
    Advanced,
}

/// One network: a VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name, unique in the location.
    pub name: String,
    /// IPv4 network address.
    pub address: Ipv4Addr,
    /// Prefix length, 16 to 28.
    pub prefix: u8,
    /// Networks whose traffic is let in over private IPv6 (and IPv4 within one domain).
    pub accept: Vec<NetworkRef>,
    /// Its nodes.
    pub nodes: Vec<Node>,
}

/// `LOCATION::NETWORK`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkRef {
    /// Data centre.
    pub location: String,
    /// Network in it.
    pub network: String,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name: server name, host name, identity.
    pub name: NodeName,
    /// Description shown by the cloud.
    pub description: String,
    /// The first image of the data centre whose name contains this text.
    pub image: String,
    /// Virtual CPUs.
    pub cpu: Cpu,
    /// Memory in GB, as the API counts it.
    pub memory_gb: u32,
    /// Disks besides the system disk, by SCSI id.
    pub disks: Vec<Disk>,
    /// Monitoring plan, if any.
    pub monitoring: Option<Service>,
    /// Public IPv4 address with translation and open ports; `None` is no public address.
    pub internet: Option<Internet>,
    /// Text for people, shown when the fleet is up.
    pub information: Template,
    /// What it is, in the operator's words; rollouts may go by it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What its agent does, in this order.
    pub tasks: Vec<Task>,
    /// Its machine, if that is there already.
    #[serde(default)]
    pub host: Option<Host>,
}

impl Node {
    /// The login its plan gives it, if it does; else the one by which its machine was taken.
    pub fn login(&self) -> Option<&str> {
        let given = self.tasks.iter().find_map(|task| match &task.work {
            Work::Access(access) => Some(access.login.as_str()),
            _ => None,
        });
        given.or_else(|| self.host.as_ref().map(|host| host.login.as_str()))
    }
}

/// Virtual CPUs of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// How many.
    pub count: u32,
    /// Cores per socket.
    pub cores_per_socket: u32,
    /// `STANDARD` or `HIGHPERFORMANCE`.
    pub speed: String,
}

/// An added disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// SCSI id, 1 to 14 but 7.
    pub scsi_id: u8,
    /// Size in GB.
    pub size_gb: u32,
    /// `STANDARD`, `HIGHPERFORMANCE` or `ECONOMY`.
    pub speed: String,
}

/// Text with references to nodes left in it: `{{ node.public }}`, `{{ EU7::EU7rethinkSeed.ipv6 }}`.
/// References were checked when the plan was; their values are known only once the cloud has given them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(pub String);
