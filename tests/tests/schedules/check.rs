//! What must hold, as the cloud's API tells it, whatever happened.

use std::collections::{BTreeMap, BTreeSet};

use fleet_plan::ResolvedPlan;
use fleet_provider::{
    graph::{Want, resources},
    journal::Index,
};
use fleet_tests::LocalCloud;
use serde_json::Value;

use crate::life::FLEET;

/// Kinds of the journal's index with the lists they are in.
const KINDS: [(&str, &str); 6] = [
    ("domain", "network/networkDomain"),
    ("vlan", "network/vlan"),
    ("server", "server/server"),
    ("block", "network/publicIpBlock"),
    ("nat", "network/natRule"),
    ("list", "network/ipAddressList"),
];

/// Reasons a run ended with: each one line with a next step, none said twice.
pub fn reasons(reasons: &[String]) {
    assert!(!reasons.is_empty());
    for reason in reasons {
        assert!(!reason.contains('\n') && reason.contains("; ") && reason.len() > 20, "not clear: {reason}");
        assert!(!reason.contains("defect"), "{reason}");
    }
    let distinct: BTreeSet<&String> = reasons.iter().collect();
    assert_eq!(distinct.len(), reasons.len(), "said twice: {reasons:#?}");
}

/// The items of one list; of every network domain where the API wants one.
fn all(cloud: &LocalCloud, list: &str) -> Vec<Value> {
    if !["network/natRule", "network/firewallRule", "network/ipAddressList"].contains(&list) {
        return cloud.list(list);
    }
    let domains = cloud.list("network/networkDomain");
    domains.iter().flat_map(|domain| cloud.list_in(list, text(domain, "id"))).collect()
}

fn text<'a>(item: &'a Value, member: &str) -> &'a str {
    item[member].as_str().unwrap_or_else(|| panic!("no `{member}` in {item}"))
}

/// Names of items with where they are.
fn names(items: &[Value]) -> Vec<String> {
    let mut names: Vec<String> =
        items.iter().map(|item| format!("{}/{}", text(item, "datacenterId"), text(item, "name"))).collect();
    names.sort();
    names
}

/// No two things of one name in one place, no two translations of one server, and nothing without the mark.
pub fn nothing_twice(cloud: &LocalCloud) {
    for (_, list) in &KINDS[..3] {
        let items = all(cloud, list);
        let names = names(&items);
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{list}: {names:?}");
        let marked = |item: &&Value| text(item, "description").contains(&format!("fleet={FLEET} id="));
        assert_eq!(items.iter().filter(marked).count(), items.len(), "{list} without mark: {items:#?}");
    }
    let mut seen = BTreeSet::new();
    for nat in all(cloud, "network/natRule") {
        let key = (text(&nat, "networkDomainId").to_owned(), text(&nat, "internalIp").to_owned());
        assert!(seen.insert(key), "two translations for one server: {nat}");
    }
}

/// The cloud holds what `plan` wants and nothing else, and the journal knows all of it.
pub fn as_planned(cloud: &LocalCloud, plan: &ResolvedPlan, index: Option<&Index>) {
    let (mut domains, mut vlans, mut servers, mut rules) = (vec![], vec![], BTreeMap::new(), vec![]);
    for resource in resources(plan) {
        let place = &resource.location;
        match resource.want {
            Want::Domain(_) => domains.push(format!("{place}/{}", resource.domain)),
            Want::Vlan { name, .. } => vlans.push(format!("{place}/{name}")),
            Want::Server { node, .. } => drop(servers.insert(format!("{place}/{}", node.name), node)),
            Want::Rule(name, _) => rules.push(format!("{place}/{name}")),
            _ => {}
        }
    }
    for want in [&mut domains, &mut vlans, &mut rules] {
        want.sort();
    }
    assert_eq!(names(&all(cloud, "network/networkDomain")), domains);
    assert_eq!(names(&all(cloud, "network/vlan")), vlans);
    let mut held = all(cloud, "network/firewallRule");
    held.retain(|rule| !text(rule, "name").starts_with("CCDEFAULT."));
    assert!(held.iter().all(|rule| rule["enabled"] == true), "a rule is off: {held:#?}");
    assert_eq!(names(&held), rules);

    let held = all(cloud, "server/server");
    assert_eq!(names(&held), servers.keys().cloned().collect::<Vec<_>>());
    let nats = all(cloud, "network/natRule");
    let public = servers.values().filter(|node| node.internet.is_some()).count();
    assert_eq!(nats.len(), public, "{nats:#?}");
    for server in held {
        let node = &servers[&format!("{}/{}", text(&server, "datacenterId"), text(&server, "name"))];
        assert_eq!((text(&server, "state"), &server["started"]), ("NORMAL", &Value::Bool(true)), "{server}");
        let disks: Vec<(u64, u64)> = server["disk"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|disk| Some((disk["scsiId"].as_u64()?, disk["sizeGb"].as_u64()?)))
            .filter(|(scsi, _)| *scsi != 0)
            .collect();
        let wanted: Vec<(u64, u64)> =
            node.disks.iter().map(|disk| (disk.scsi_id.into(), disk.size_gb.into())).collect();
        assert_eq!(disks, wanted, "{server}");
        let monitoring = server["monitoring"]["servicePlan"].as_str().map(str::to_lowercase);
        let wanted = node.monitoring.map(|plan| format!("{plan:?}").to_lowercase());
        assert_eq!(monitoring, wanted, "{server}");
        let internal = &server["networkInfo"]["primaryNic"]["privateIpv4"];
        let domain = &server["networkInfo"]["networkDomainId"];
        let own = |nat: &&Value| nat["internalIp"] == *internal && nat["networkDomainId"] == *domain;
        assert_eq!(nats.iter().filter(own).count(), usize::from(node.internet.is_some()), "{server}");
    }
    no_idle_blocks(cloud, &nats);
    if let Some(index) = index {
        index_is_exact(cloud, index);
    }
}

/// A block of addresses that nothing uses is paid for all the same.
fn no_idle_blocks(cloud: &LocalCloud, nats: &[Value]) {
    for block in all(cloud, "network/publicIpBlock") {
        let base: std::net::Ipv4Addr = text(&block, "baseIp").parse().expect("an address");
        let size = u32::try_from(block["size"].as_u64().expect("a number")).expect("small");
        let addresses: Vec<String> =
            (0..size).map(|offset| std::net::Ipv4Addr::from(u32::from(base) + offset).to_string()).collect();
        let used = nats.iter().any(|nat| addresses.iter().any(|address| text(nat, "externalIp") == address));
        assert!(used, "nothing uses {block}");
    }
}

/// What is there is in the journal, and the other way round.
fn index_is_exact(cloud: &LocalCloud, index: &Index) {
    let there: BTreeSet<(String, String)> = KINDS
        .iter()
        .flat_map(|(kind, list)| {
            all(cloud, list).into_iter().map(|item| ((*kind).to_owned(), text(&item, "id").to_owned()))
        })
        .collect();
    let known: BTreeSet<(String, String)> =
        index.iter().map(|(kind, id)| (kind.to_owned(), id.to_owned())).collect();
    let unknown: Vec<_> = there.difference(&known).collect();
    let stale: Vec<_> = known.difference(&there).collect();
    assert!(unknown.is_empty() && stale.is_empty(), "not in the journal: {unknown:?}; not there: {stale:?}");
}

/// Nothing at all is left, in the cloud and in the journal.
pub fn nothing_left(cloud: &LocalCloud, index: &Index) {
    let holdings = cloud.holdings();
    assert!(holdings.values().all(Vec::is_empty), "{holdings:#?}");
    assert_eq!(index.iter().count(), 0, "{index:?}");
}
