//! What each node should be: plan and addresses in, tasks out. Pure.

use std::collections::BTreeMap;

use fleet_model::{Generation, NodeName};
use fleet_plan::{
    ResolvedPlan,
    resolved::{Network, Placed},
};
use fleet_proto::v1::{self, HostnameTask, HostsEntry, HostsTask, LvmTask, TaskSpec, task_spec::Kind};
use fleet_provider::event::Addresses;

/// Volume group, logical volume and mount point of the images' root file system.
const ROOT: (&str, &str, &str) = ("rootvol00", "rootlvol00", "/");

/// Tasks of every node whose server has addresses.
pub fn tasks(
    plan: &ResolvedPlan,
    addresses: &BTreeMap<NodeName, Addresses>,
) -> BTreeMap<NodeName, Vec<TaskSpec>> {
    plan.nodes()
        .filter(|placed| addresses.contains_key(&placed.node.name))
        .map(|placed| (placed.node.name.clone(), of_node(plan, addresses, &placed)))
        .collect()
}

/// The desired state that follows `held`: the same one if nothing changed, otherwise the next generation.
pub fn next(held: Option<&v1::Desired>, tasks: Vec<TaskSpec>) -> Option<v1::Desired> {
    match held {
        Some(held) if held.tasks == tasks => None,
        held => {
            let generation = Generation(held.map_or(0, |held| held.generation)).next();
            Some(v1::Desired { generation: generation.0, tasks, recheck_s: 0 })
        }
    }
}

fn of_node(
    plan: &ResolvedPlan,
    addresses: &BTreeMap<NodeName, Addresses>,
    placed: &Placed<'_>,
) -> Vec<TaskSpec> {
    let name = placed.node.name.to_string();
    let added = u32::try_from(placed.node.disks.len()).unwrap_or(u32::MAX);
    let (volume_group, logical_volume, mount_point) = ROOT;
    vec![
        task("hostname", "identity", Kind::Hostname(HostnameTask { hostname: name })),
        task("hosts", "identity", Kind::Hosts(HostsTask { entries: hosts(plan, addresses, placed) })),
        task(
            "root-volume",
            "storage",
            Kind::Lvm(LvmTask {
                volume_group: volume_group.to_owned(),
                logical_volume: logical_volume.to_owned(),
                mount_point: mount_point.to_owned(),
                expected_disks: added,
            }),
        ),
    ]
}

fn task(name: &str, phase: &str, kind: Kind) -> TaskSpec {
    TaskSpec { name: name.to_owned(), phase: phase.to_owned(), kind: Some(kind), ..TaskSpec::default() }
}

/// Every node by name, as seen from `from`. Private IPv4 addresses repeat between locations, so they are good only
/// within one network; everywhere else a name means the IPv6 address.
fn hosts(
    plan: &ResolvedPlan,
    addresses: &BTreeMap<NodeName, Addresses>,
    from: &Placed<'_>,
) -> Vec<HostsEntry> {
    let mut entries = Vec::new();
    for placed in plan.nodes() {
        let Some(known) = addresses.get(&placed.node.name) else { continue };
        let names = names(&placed.node.name, plan);
        let neighbour = same_network(from, placed.location.id.as_str(), placed.network);
        let ipv4 = known.private_ipv4.filter(|_| neighbour).map(|address| address.to_string());
        let ipv6 = known.ipv6.map(|address| address.to_string());
        entries.extend(
            [ipv6, ipv4].into_iter().flatten().map(|address| HostsEntry { address, names: names.clone() }),
        );
    }
    entries
}

fn same_network(from: &Placed<'_>, location: &str, network: &Network) -> bool {
    from.location.id == location && from.network.name == network.name
}

/// The name as planned, qualified, and in lower case for programs that compare names byte by byte.
fn names(node: &NodeName, plan: &ResolvedPlan) -> Vec<String> {
    let mut names = vec![node.to_string(), format!("{node}.{}", plan.fleet)];
    let lower = node.as_str().to_ascii_lowercase();
    if lower != node.as_str() {
        names.push(lower);
    }
    names
}

/// What an agent's report means for a node that should be `desired`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Convergence {
    /// Every task is done, for this very generation.
    Converged,
    /// Some tasks failed: the first of them and why.
    Failed(String),
    /// Not there yet: what is waited for.
    Underway(String),
}

/// Holds a report against the desired state.
pub fn convergence(desired: Option<&v1::Desired>, observed: Option<&v1::Observed>) -> Convergence {
    let Some(desired) = desired else { return Convergence::Underway("nothing is desired yet".to_owned()) };
    let Some(observed) = observed.filter(|observed| observed.generation == desired.generation) else {
        return Convergence::Underway(format!("generation {} not reported on yet", desired.generation));
    };
    let mut underway = None;
    for task in &desired.tasks {
        let report = observed.tasks.iter().find(|report| report.name == task.name);
        match report.map(v1::TaskReport::result) {
            Some(v1::TaskResult::Unchanged | v1::TaskResult::Changed) => {}
            Some(v1::TaskResult::Failed | v1::TaskResult::Drifted) => {
                let reason = report.map(|report| report.reason.as_str()).unwrap_or_default();
                return Convergence::Failed(format!("task `{}` failed: {reason}", task.name));
            }
            Some(v1::TaskResult::Waiting) => {
                let reason = report.map(|report| report.reason.as_str()).unwrap_or_default();
                underway.get_or_insert_with(|| format!("task `{}` waits: {reason}", task.name));
            }
            Some(v1::TaskResult::Running | v1::TaskResult::Unspecified) | None => {
                underway.get_or_insert_with(|| format!("task `{}` is at work", task.name));
            }
        }
    }
    underway.map_or(Convergence::Converged, Convergence::Underway)
}

#[cfg(test)]
pub(crate) mod tests {
    use fleet_plan::resolved::{Cloud, Cpu, Disk, Domain, Location, Network, Node, Service, Template};

    use super::*;

    /// A plan of two locations; `Ams1` and `Ams2` share a network, `Ams3` has another one there, `Lon1` is away.
    pub(crate) fn plan() -> ResolvedPlan {
        let node = |name: &str, disks: u8| Node {
            name: name.parse().expect("a name"),
            description: String::new(),
            image: "Debian".to_owned(),
            cpu: Cpu { count: 2, cores_per_socket: 1, speed: "STANDARD".to_owned() },
            memory_gb: 4,
            disks: (1..=disks)
                .map(|scsi_id| Disk { scsi_id, size_gb: 10, speed: "STANDARD".to_owned() })
                .collect(),
            monitoring: None,
            internet: None,
            information: Template(String::new()),
        };
        let network = |name: &str, nodes: Vec<Node>| Network {
            name: name.to_owned(),
            address: [10, 0, 0, 0].into(),
            prefix: 24,
            accept: vec![],
            nodes,
        };
        let location = |id: &str, networks: Vec<Network>| Location {
            id: id.to_owned(),
            domain: Domain { name: "d".to_owned(), service: Service::Essentials },
            networks,
        };
        ResolvedPlan {
            fleet: "Reference".parse().expect("a name"),
            cloud: Cloud::Local,
            information: Template(String::new()),
            locations: vec![
                location(
                    "EU7",
                    vec![
                        network("front", vec![node("Ams1", 1), node("Ams2", 0)]),
                        network("back", vec![node("Ams3", 0)]),
                    ],
                ),
                location("EU8", vec![network("front", vec![node("lon1", 0)])]),
            ],
        }
    }

    pub(crate) fn addresses(plan: &ResolvedPlan) -> BTreeMap<NodeName, Addresses> {
        let numbered = plan.nodes().zip(1_u8..);
        numbered
            .map(|(placed, number)| {
                let addresses = Addresses {
                    public_ipv4: Some([198, 51, 100, number].into()),
                    private_ipv4: Some([10, 0, 0, number].into()),
                    ipv6: Some([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)].into()),
                };
                (placed.node.name.clone(), addresses)
            })
            .collect()
    }

    fn lines(tasks: &[TaskSpec]) -> Vec<String> {
        let Some(Kind::Hosts(hosts)) = tasks.iter().find_map(|task| match &task.kind {
            kind @ Some(Kind::Hosts(_)) => kind.clone(),
            _ => None,
        }) else {
            panic!("no hosts task")
        };
        hosts.entries.iter().map(|entry| format!("{} {}", entry.address, entry.names.join(" "))).collect()
    }

    #[test]
    fn names_mean_addresses_that_can_be_reached_from_there() {
        let plan = plan();
        let tasks = tasks(&plan, &addresses(&plan));
        let of = |name: &str| lines(&tasks[&name.parse::<NodeName>().expect("a name")]);
        assert_eq!(
            of("Ams1"),
            [
                "fd00::1 Ams1 Ams1.Reference ams1",
                "10.0.0.1 Ams1 Ams1.Reference ams1",
                "fd00::2 Ams2 Ams2.Reference ams2",
                "10.0.0.2 Ams2 Ams2.Reference ams2",
                "fd00::3 Ams3 Ams3.Reference ams3",
                "fd00::4 lon1 lon1.Reference",
            ]
        );
        assert_eq!(of("lon1")[..1], ["fd00::1 Ams1 Ams1.Reference ams1"]);
        assert_eq!(of("lon1").len(), 5, "own IPv4 only: `front` in Amsterdam is another network");
    }

    #[test]
    fn phases_and_disks() {
        let plan = plan();
        let tasks = tasks(&plan, &addresses(&plan));
        let ams1 = &tasks[&"Ams1".parse::<NodeName>().expect("a name")];
        let phases: Vec<_> = ams1.iter().map(|task| (task.name.as_str(), task.phase.as_str())).collect();
        assert_eq!(phases, [("hostname", "identity"), ("hosts", "identity"), ("root-volume", "storage")]);
        assert!(matches!(&ams1[2].kind, Some(Kind::Lvm(lvm)) if lvm.expected_disks == 1));
    }

    #[test]
    fn nodes_without_addresses_have_no_tasks_yet_and_are_not_named() {
        let plan = plan();
        let mut known = addresses(&plan);
        let ams1: NodeName = "Ams1".parse().expect("a name");
        known.remove(&ams1);
        let tasks = tasks(&plan, &known);
        assert!(!tasks.contains_key(&ams1));
        assert!(tasks.values().all(|tasks| !lines(tasks).iter().any(|line| line.contains("Ams1"))));
    }

    #[test]
    fn generations_grow_with_content_only() {
        let plan = plan();
        let mut known = addresses(&plan);
        let ams1: NodeName = "Ams1".parse().expect("a name");
        let first = next(None, tasks(&plan, &known)[&ams1].clone()).expect("something to do");
        assert_eq!(first.generation, 1);
        assert_eq!(next(Some(&first), tasks(&plan, &known)[&ams1].clone()), None);
        known.remove(&"lon1".parse::<NodeName>().expect("a name"));
        let second = next(Some(&first), tasks(&plan, &known)[&ams1].clone()).expect("changed");
        assert_eq!(second.generation, 2);
    }

    #[test]
    fn convergence_is_about_this_generation_and_every_task() {
        use v1::TaskResult::{Changed, Failed, Running, Unchanged, Waiting};
        let desired = v1::Desired {
            generation: 2,
            tasks: ["a", "b"].map(|name| TaskSpec { name: name.to_owned(), ..TaskSpec::default() }).into(),
            recheck_s: 0,
        };
        let check = |generation, results: &[(&str, v1::TaskResult)], wanted: &str| {
            let tasks = results.iter().map(|(name, result)| v1::TaskReport {
                name: (*name).to_owned(),
                result: (*result).into(),
                reason: "why".to_owned(),
                ..v1::TaskReport::default()
            });
            let observed = v1::Observed { generation, tasks: tasks.collect(), health: None };
            let text = match convergence(Some(&desired), Some(&observed)) {
                Convergence::Converged => "converged".to_owned(),
                Convergence::Failed(why) | Convergence::Underway(why) => why,
            };
            assert_eq!(text, wanted, "{results:?}");
        };
        check(2, &[("a", Unchanged), ("b", Changed)], "converged");
        check(1, &[("a", Unchanged), ("b", Changed)], "generation 2 not reported on yet");
        check(2, &[("a", Unchanged)], "task `b` is at work");
        check(2, &[("a", Waiting), ("b", Running)], "task `a` waits: why");
        check(2, &[("a", Waiting), ("b", Failed)], "task `b` failed: why");
        assert_eq!(convergence(None, None), Convergence::Underway("nothing is desired yet".to_owned()));
    }
}
