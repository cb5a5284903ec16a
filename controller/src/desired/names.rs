//! What nodes are called, and where.

use fleet_model::NodeName;
use fleet_plan::{ResolvedPlan, resolved::Placed};
use fleet_proto::v1::HostsEntry;

use super::works::Scene;

/// Every node by name, as seen from this one. Private IPv4 addresses repeat between locations, so they are good only
/// within one network; everywhere else a name means the IPv6 address.
pub(super) fn hosts(scene: &Scene<'_>) -> Vec<HostsEntry> {
    let mut entries = Vec::new();
    for placed in scene.plan.nodes() {
        let Some(known) = scene.addresses.get(&placed.node.name) else { continue };
        let names = names(&placed.node.name, scene.plan);
        let ipv4 = known.private_ipv4.filter(|_| same_network(&scene.placed, &placed));
        let ipv4 = ipv4.map(|address| address.to_string());
        let ipv6 = known.ipv6.map(|address| address.to_string());
        entries.extend(
            [ipv6, ipv4].into_iter().flatten().map(|address| HostsEntry { address, names: names.clone() }),
        );
    }
    entries
}

/// Names and addresses that reach this node's services, from wherever.
pub(super) fn certified(scene: &Scene<'_>) -> Vec<String> {
    let name = &scene.placed.node.name;
    let known = scene.addresses.get(name).cloned().unwrap_or_default();
    let addresses = [
        known.ipv6.map(|address| address.to_string()),
        known.private_ipv4.map(|address| address.to_string()),
        known.public_ipv4.map(|address| address.to_string()),
    ];
    names(name, scene.plan).into_iter().chain(addresses.into_iter().flatten()).collect()
}

fn same_network(a: &Placed<'_>, b: &Placed<'_>) -> bool {
    a.location.id == b.location.id && a.network.name == b.network.name
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
