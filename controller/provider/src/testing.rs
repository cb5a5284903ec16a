//! What tests of this crate share: plans, a vault in memory, runs against the cloud in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use fleet_mcp::types::{Address, IpMatch, IpVersion};
use fleet_model::{FleetName, NodeName, Secret, SystemClock};
use fleet_plan::{
    ResolvedPlan,
    resolved::{
        Cloud as PlanCloud, Cpu, Disk, Domain, Internet, Location, Network, NetworkRef, Node, Opening,
        Service, Source, Template, Traffic,
    },
};
use fleet_store::{MemoryStore, Store};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    Outcome, Provider, ProviderError,
    cloud::Cloud,
    event::Event,
    fake::{FakeCloud, State},
    graph::{DENY_IPV6, Want, resources},
    journal::Journal,
    mark::{Mark, is_our_rule},
    vault::{Vault, VaultError},
};

/// Passwords in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryVault(pub(crate) Mutex<BTreeMap<NodeName, String>>);

#[async_trait]
impl Vault for MemoryVault {
    async fn initial_password(&self, node: &NodeName) -> Result<Secret, VaultError> {
        let mut held = self.0.lock().expect("no panic while held");
        let count = held.len();
        Ok(Secret::new(held.entry(node.clone()).or_insert_with(|| format!("drawn-{count}")).clone()))
    }
    async fn forget(&self, node: &NodeName) -> Result<(), VaultError> {
        self.0.lock().expect("no panic while held").remove(node);
        Ok(())
    }
    async fn keep(&self, nodes: &BTreeSet<NodeName>) -> Result<(), VaultError> {
        self.0.lock().expect("no panic while held").retain(|node, _| nodes.contains(node));
        Ok(())
    }
}

/// A fleet's surroundings, which outlive its runs.
pub(crate) struct World {
    pub(crate) cloud: Arc<FakeCloud>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) vault: Arc<MemoryVault>,
}

pub(crate) fn fleet() -> FleetName {
    "test".parse().expect("a name")
}

pub(crate) fn mark() -> Mark {
    Mark::new(fleet(), "0001".into())
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            cloud: Arc::new(FakeCloud::new(1)),
            store: Arc::new(MemoryStore::new(Arc::new(SystemClock))),
            vault: Arc::default(),
        }
    }

    pub(crate) fn provider(&self) -> Provider {
        let cloud: Arc<dyn Cloud> = Arc::clone(&self.cloud) as _;
        let vault: Arc<dyn Vault> = Arc::clone(&self.vault) as _;
        Provider::new(cloud, Arc::clone(&self.store), vault, fleet(), "0001".into(), Arc::new(SystemClock))
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal::new(Arc::clone(&self.store), Arc::new(SystemClock))
    }

    /// One run with everything it said.
    pub(crate) async fn run(&self, plan: &ResolvedPlan) -> (Result<Outcome, ProviderError>, Vec<Event>) {
        let (sender, receiver) = mpsc::channel(4);
        let listener = tokio::spawn(drain(receiver));
        let outcome = self.provider().apply(plan, &sender, &CancellationToken::new()).await;
        drop(sender);
        (outcome, listener.await.expect("the listener ends"))
    }

    /// One run that must end well.
    pub(crate) async fn apply(&self, plan: &ResolvedPlan) -> Outcome {
        let outcome = self.run(plan).await.0.expect("a run");
        assert_eq!(outcome.problems, [] as [String; 0]);
        outcome
    }

    /// Runs until one ends well; a fault may cost one run, not more.
    pub(crate) async fn apply_at_last(&self, plan: &ResolvedPlan) -> Outcome {
        if let Ok(outcome) = self.run(plan).await.0
            && outcome.problems.is_empty()
        {
            return outcome;
        }
        self.apply(plan).await
    }

    /// Takes everything down.
    pub(crate) async fn destroy(&self) -> Outcome {
        let (sender, receiver) = mpsc::channel(4);
        let listener = tokio::spawn(drain(receiver));
        let outcome = self.provider().destroy(&sender, &CancellationToken::new()).await.expect("a run");
        drop(sender);
        listener.await.expect("the listener ends");
        outcome
    }

    /// The cloud holds exactly what the plan says, the journal nothing open, and another run does nothing.
    pub(crate) async fn check_exact(&self, plan: &ResolvedPlan) {
        self.check_counts(plan);
        assert_eq!(self.journal().open().await.expect("readable"), []);
        let index = self.journal().index().await.expect("readable");
        {
            let state = self.cloud.state();
            let there: BTreeSet<(&str, &str)> = (state.domains.keys().map(|id| ("domain", id.as_str())))
                .chain(state.vlans.keys().map(|id| ("vlan", id.as_str())))
                .chain(state.servers.keys().map(|id| ("server", id.as_str())))
                .chain(state.lists.keys().map(|id| ("list", id.as_str())))
                .chain(state.blocks.keys().map(|id| ("block", id.as_str())))
                .chain(state.nats.keys().map(|id| ("nat", id.as_str())))
                .collect();
            assert_eq!(index.iter().collect::<BTreeSet<_>>(), there, "what is there is in the index");
        }
        self.cloud.count_anew();
        let outcome = self.apply(plan).await;
        assert_eq!(self.cloud.changes(), [] as [&str; 0], "a second run changes nothing");
        assert_eq!((outcome.changing_calls, outcome.addresses.len()), (0, plan.nodes().count()));
        assert!(self.cloud.calls() <= 3 + 4 * plan.locations.len(), "few reads");
    }

    fn check_counts(&self, plan: &ResolvedPlan) {
        let state = self.cloud.state();
        let text = |items: Vec<String>| items.into_iter().collect::<Vec<_>>();
        let mut want = (vec![], vec![], vec![], vec![], vec![]);
        for resource in resources(plan) {
            match resource.want {
                Want::Domain(_) => want.0.push(format!("{}/{}", resource.location, resource.domain)),
                Want::Vlan { name, .. } => want.1.push(format!("{}/{name}", resource.location)),
                Want::Server { node, .. } => want.2.push(node.name.to_string()),
                Want::Rule(name, _) => want.3.push(format!("{}/{name}", resource.location)),
                Want::List(name, ..) => want.4.push(name),
                _ => {}
            }
        }
        let sorted = |mut items: Vec<String>| {
            items.sort();
            items
        };
        let normal = "everything is settled";
        assert!(state.domains.values().all(|held| held.state.is_normal()), "{normal}");
        assert!(state.vlans.values().all(|held| held.state.is_normal()), "{normal}");
        assert!(state.servers.values().all(|held| held.state.is_normal() && held.started), "{normal}");
        let domains = state.domains.values().map(|held| format!("{}/{}", held.datacenter_id, held.name));
        assert_eq!(sorted(domains.collect()), sorted(text(want.0)), "domains");
        let vlans = state.vlans.values().map(|held| format!("{}/{}", held.datacenter_id, held.name));
        assert_eq!(sorted(vlans.collect()), sorted(want.1), "vlans");
        let servers = state.servers.values().map(|held| held.name.clone());
        assert_eq!(sorted(servers.collect()), sorted(want.2), "servers");
        let ours = state.rules.values().filter(|rule| is_our_rule(&rule.name));
        let rules = ours.map(|held| format!("{}/{}", held.datacenter_id, held.name));
        assert_eq!(sorted(rules.collect()), sorted(want.3), "rules");
        let lists = state.lists.values().inspect(|list| assert!(mark().is_ours(list.description.as_deref())));
        assert_eq!(sorted(lists.map(|list| list.name.clone()).collect()), sorted(want.4), "lists");
        Self::check_accepts(&state, plan);
        for location in &plan.locations {
            let accepts = location.networks.iter().any(|network| !network.accept.is_empty());
            let deny = state
                .rules
                .values()
                .find(|rule| rule.name == DENY_IPV6 && rule.datacenter_id.as_str() == location.id)
                .expect("the platform's rule");
            assert_eq!(deny.enabled, !accepts, "{}", location.id);
            let here = plan.nodes().filter(|placed| placed.location.id == location.id);
            let public = here.filter(|placed| placed.node.internet.is_some()).count();
            let nats = state.nats.values().filter(|nat| nat.datacenter_id.as_str() == location.id).count();
            assert_eq!(nats, public, "translations in {}", location.id);
            let blocks =
                state.blocks.values().filter(|block| block.datacenter_id.as_str() == location.id).count();
            assert_eq!(blocks, public.div_ceil(2), "blocks in {}", location.id);
        }
        for placed in plan.nodes() {
            let name = placed.node.name.as_str();
            let server = state.servers.values().find(|server| server.name == name).expect("there");
            let disks: Vec<(u8, u32)> = server
                .disk
                .iter()
                .filter(|disk| disk.scsi_id > 0)
                .map(|disk| (disk.scsi_id, disk.size_gb))
                .collect();
            let wanted: Vec<(u8, u32)> =
                placed.node.disks.iter().map(|disk| (disk.scsi_id, disk.size_gb)).collect();
            assert_eq!(disks.iter().collect::<BTreeSet<_>>(), wanted.iter().collect(), "disks of {name}");
            assert_eq!(disks.len(), wanted.len());
            assert_eq!(server.monitoring.is_some(), placed.node.monitoring.is_some(), "monitoring of {name}");
        }
    }
}

impl World {
    /// Exactly those networks reach a network that it accepts, whichever rules say so.
    fn check_accepts(state: &State, plan: &ResolvedPlan) {
        let range = |location: &str, network: &str| {
            let mut vlans = state.vlans.values();
            let vlan = vlans.find(|vlan| vlan.datacenter_id.as_str() == location && vlan.name == network);
            vlan.and_then(|vlan| vlan.ipv6_range).map(|range| IpAddr::V6(range.address.0)).expect("a network")
        };
        let address = |ip: Option<&IpMatch>| match ip?.address {
            Address::Ip(address) => Some(address),
            Address::Any => None,
        };
        let mut reached = BTreeSet::new();
        let mut rules =
            state.rules.values().filter(|rule| rule.ip_version == IpVersion::V6 && !rule.is_default());
        rules.try_for_each(|rule| {
            let to = address(rule.destination.ip.as_ref())?;
            match &rule.source.ip_address_list {
                None => drop(reached.insert((address(rule.source.ip.as_ref())?, to))),
                Some(list) => reached.extend(state.lists[&list.id].ip_address.iter().filter_map(|range| {
                    let Address::Ip(from) = range.begin else { return None };
                    Some((from, to))
                })),
            }
            Some(())
        });
        let networks =
            plan.locations.iter().flat_map(|at| at.networks.iter().map(move |network| (at, network)));
        let wanted: BTreeSet<_> = networks
            .flat_map(|(at, network)| {
                let to = range(&at.id, &network.name);
                network.accept.iter().map(move |from| (range(&from.location, &from.network), to))
            })
            .collect();
        assert_eq!(reached, wanted, "who reaches whom");
    }
}

async fn drain(mut receiver: mpsc::Receiver<Event>) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = receiver.recv().await {
        events.push(event);
    }
    events
}

/// The reference fleet.
pub(crate) fn reference() -> ResolvedPlan {
    let text = include_str!("../../../packaging/plans/rethinkdb.yaml");
    let mut plan = fleet_plan::load("rethinkdb.yaml", text, &BTreeMap::new()).expect("no problems").plan;
    plan.place_operator(&["192.0.2.7"]).expect("an address");
    plan
}

/// Two locations, three nodes: everything there is, once.
pub(crate) fn small() -> ResolvedPlan {
    let mut plan = reference();
    plan.locations.truncate(2);
    let ids: BTreeSet<String> = plan.locations.iter().map(|location| location.id.clone()).collect();
    for network in plan.locations.iter_mut().flat_map(|location| &mut location.networks) {
        network.accept.retain(|from| ids.contains(&from.location));
    }
    plan
}

/// Disks, openings and monitoring of a node.
type AnyNode = (Vec<u32>, Option<BTreeMap<Traffic, Vec<Source>>>, Option<Service>);

/// Nodes of a network, and places of networks it accepts.
type AnyNetwork = (Vec<AnyNode>, Vec<(usize, usize)>);

/// Any small plan that the plan crate would accept.
pub(crate) fn any_plan() -> impl Strategy<Value = ResolvedPlan> {
    let node = (
        prop::collection::vec(10..40u32, 0..3),
        prop::option::of(prop::collection::btree_map(
            prop_oneof![
                Just(Traffic::Icmp),
                (1..9u16).prop_map(|port| Traffic::Tcp(port, port)),
                (1..9u16).prop_map(|port| Traffic::Udp(port, port + 1)),
            ],
            prop_oneof![
                Just(vec![Source::Any]),
                prop::collection::btree_set(1..9u8, 1..3).prop_map(|hosts| {
                    hosts.into_iter().map(|host| Source::Cidr([192, 0, 2, host].into(), 32)).collect()
                }),
                Just(vec![Source::Cidr([192, 0, 2, 0].into(), 24), Source::Operator]),
            ],
            0..3,
        )),
        prop::option::of(prop_oneof![Just(Service::Essentials), Just(Service::Advanced)]),
    );
    let network = (prop::collection::vec(node, 0..4), prop::collection::vec((0..3usize, 0..3usize), 0..4));
    prop::collection::vec(prop::collection::vec(network, 1..4), 1..4).prop_map(|locations| {
        let counts: Vec<usize> = locations.iter().map(Vec::len).collect();
        let name = |network: usize| format!("net{network}");
        let location = |(index, networks): (usize, Vec<AnyNetwork>)| Location {
            id: format!("EU{index}"),
            domain: Domain { name: "Fox".into(), service: Service::Essentials },
            networks: networks
                .into_iter()
                .enumerate()
                .map(|(at, (nodes, accept))| Network {
                    name: name(at),
                    address: std::net::Ipv4Addr::new(10, 60, u8::try_from(at).expect("few"), 0),
                    prefix: 24,
                    accept: accept
                        .into_iter()
                        .filter(|(l, n)| {
                            counts.get(*l).is_some_and(|count| n < count) && (*l, *n) != (index, at)
                        })
                        .map(|(l, n)| NetworkRef { location: format!("EU{l}"), network: name(n) })
                        .collect::<BTreeSet<_>>()
                        .into_iter()
                        .collect(),
                    nodes: nodes
                        .into_iter()
                        .enumerate()
                        .map(|(n, (disks, open, monitoring))| {
                            node_of(&format!("n{index}-{at}-{n}"), disks, open, monitoring)
                        })
                        .collect(),
                })
                .collect(),
        };
        ResolvedPlan {
            fleet: fleet(),
            cloud: PlanCloud::Local,
            information: Template::default(),
            recheck: None,
            expires: None,
            rollout: Default::default(),
            locations: locations.into_iter().enumerate().map(location).collect(),
        }
    })
}

fn node_of(
    name: &str,
    disks: Vec<u32>,
    open: Option<BTreeMap<Traffic, Vec<Source>>>,
    monitoring: Option<Service>,
) -> Node {
    Node {
        name: name.parse().expect("a name"),
        description: "any".into(),
        image: "Debian 12".into(),
        cpu: Cpu { count: 1, cores_per_socket: 1, speed: "STANDARD".into() },
        memory_gb: 1,
        disks: (1..)
            .zip(disks)
            .map(|(scsi_id, size_gb)| Disk { scsi_id, size_gb, speed: "STANDARD".into() })
            .collect(),
        monitoring,
        internet: open.map(|open| Internet {
            open: open.into_iter().map(|(traffic, from)| Opening { traffic, from }).collect(),
        }),
        information: Template::default(),
        labels: BTreeMap::new(),
        tasks: Vec::new(),
        host: None,
    }
}
