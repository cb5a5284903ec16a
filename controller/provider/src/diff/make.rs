//! What is missing or different.

use std::collections::BTreeSet;

use fleet_mcp::types::{DomainType, Server, ServicePlan, State};
use fleet_plan::resolved::{Cpu, Node, Service};

use super::{Removal, Task, Verdict, Work};
use crate::{
    event::{Step, Verb},
    graph::{DENY_IPV6, Key, Resource, Want},
    mark::{Mark, Owner},
    rule,
    settled::Settled,
    view::{DomainView, View, private_ipv4, same_name},
};

/// What `resource` needs.
pub(super) fn verdict(resource: &Resource, view: &View, mark: &Mark, settled: &Settled) -> Verdict {
    let domain = view.our_domain(mark, &resource.location, &resource.domain);
    match (&resource.want, domain) {
        (Want::Domain(_), _) => match view.domain(&resource.location, &resource.domain) {
            None => absent(),
            Some(held) => known(resource, mark, held.domain.description.as_deref(), &held.domain.state),
        },
        (Want::Ready(_), _) => Verdict::Fine,
        // A new domain has that rule turned on.
        (Want::DenyIpv6(true), None) => Verdict::Fine,
        (Want::DenyIpv6(false), None) => Verdict::Do(Verb::Change, deny_detail(resource)),
        (Want::Power(_), None) => starting(resource),
        (Want::Monitoring(_, None), None) | (Want::Size { .. }, None) => Verdict::Fine,
        (_, None) => absent(),
        (Want::Vlan { name, address, prefix }, Some(domain)) => match domain.vlan(name) {
            None => absent(),
            Some(vlan) => {
                let range = vlan.private_ipv4_range;
                let verdict = known(resource, mark, vlan.description.as_deref(), &vlan.state);
                if !matches!(verdict, Verdict::Blocked(_))
                    && (range.address, range.prefix_size) != (*address, *prefix)
                {
                    return Verdict::Blocked(format!(
                        "vlan `{name}` in {} has subnet {}/{}, the plan says {address}/{prefix}: a subnet cannot \
                         change in place; give the network another name, or set the plan back",
                        resource.location, range.address, range.prefix_size
                    ));
                }
                verdict
            }
        },
        (Want::Server { node, network }, Some(domain)) => match domain.server(mark, node.name.as_str()) {
            None => absent(),
            Some(server) => {
                let verdict = known(resource, mark, server.description.as_deref(), &server.state);
                match verdict {
                    Verdict::Fine => {
                        let reasons = replacing(resource, node, network, domain, server, settled);
                        if reasons.is_empty() { Verdict::Fine } else { Verdict::Replace(reasons.join("; ")) }
                    }
                    other => other,
                }
            }
        },
        (Want::Size { node, cpu, memory_gb, .. }, Some(domain)) => match domain.server(mark, node.as_str()) {
            Some(server) if server.state.is_normal() && !has_size(server, cpu, *memory_gb) => {
                let size = |count: u32, memory: u32| format!("{count} CPU and {memory} GB");
                let restarts = if server.started { "; the server is restarted" } else { "" };
                let (has, wanted) = (size(server.cpu.count, server.memory_gb), size(cpu.count, *memory_gb));
                let what = if has == wanted {
                    format!("{} CPU in {} a socket, {}", cpu.count, cpu.cores_per_socket, cpu.speed)
                } else {
                    format!("{has} becomes {wanted}")
                };
                Verdict::Do(Verb::Change, format!("{what}{restarts}"))
            }
            _ => Verdict::Fine,
        },
        (Want::Disk(node, disk), Some(domain)) => match domain.server(mark, node.as_str()) {
            None => absent(),
            Some(server) => match server.disks().into_iter().find(|found| found.scsi_id == disk.scsi_id) {
                None => absent(),
                Some(found) if found.size_gb < disk.size_gb => {
                    Verdict::Do(Verb::Change, format!("{} GB becomes {} GB", found.size_gb, disk.size_gb))
                }
                Some(_) => Verdict::Fine,
            },
        },
        (Want::Monitoring(node, plan), Some(domain)) => {
            let held = domain.server(mark, node.as_str()).and_then(|server| server.monitoring.as_ref());
            match (held.map(|monitoring| &monitoring.service_plan), plan.map(service_plan)) {
                (None, None) => Verdict::Fine,
                (None, Some(plan)) => Verdict::Do(Verb::Create, plan.to_string()),
                (Some(held), None) => Verdict::Do(Verb::Destroy, held.to_string()),
                (Some(held), Some(plan)) if *held != plan => {
                    Verdict::Do(Verb::Change, format!("{held} becomes {plan}"))
                }
                (Some(_), Some(_)) => Verdict::Fine,
            }
        }
        (Want::Power(node), Some(domain)) => match domain.server(mark, node.as_str()) {
            Some(server) if server.started => Verdict::Fine,
            Some(_) => Verdict::Do(Verb::Change, String::new()),
            None => starting(resource),
        },
        (Want::Nat(node), Some(domain)) => {
            let internal = domain.server(mark, node.as_str()).and_then(private_ipv4);
            match internal.and_then(|internal| domain.nat(internal)) {
                Some(_) => Verdict::Fine,
                None => absent(),
            }
        }
        (Want::Rule(name, content), Some(domain)) => match domain.rule(name) {
            None => absent(),
            Some(found) => match rule::wanted(view, mark, domain, name, content) {
                Some(wanted) if rule::is_as_wanted(found, &wanted) => Verdict::Fine,
                Some(wanted) => Verdict::Do(Verb::Change, rule::difference(found, &wanted)),
                None => Verdict::Do(Verb::Change, "its addresses change".into()),
            },
        },
        (Want::List(name, family, places), Some(domain)) => match domain.list(name) {
            None => absent(),
            Some(found) => {
                let state = found.state.clone().unwrap_or(State::Normal);
                let verdict = known(resource, mark, found.description.as_deref(), &state);
                let wanted = rule::listed(view, mark, *family, places);
                let another = found.ip_version.as_ref().is_some_and(|held| *held != rule::version(*family));
                match (verdict, wanted) {
                    (Verdict::Fine, _) if another => Verdict::Blocked(format!(
                        "address list `{name}` in {} is of another IP version, which cannot change: delete it at the \
                         cloud, and run again",
                        resource.location
                    )),
                    (Verdict::Fine, Some(wanted)) if rule::has_listed(found, &wanted) => Verdict::Fine,
                    (Verdict::Fine, Some(wanted)) => {
                        Verdict::Do(Verb::Change, rule::list_difference(found, &wanted))
                    }
                    (Verdict::Fine, None) => Verdict::Do(Verb::Change, "its networks change".into()),
                    (other, _) => other,
                }
            }
        },
        (Want::DenyIpv6(on), Some(domain)) => match domain.rule(DENY_IPV6) {
            Some(found) if found.enabled != *on => Verdict::Do(Verb::Change, deny_detail(resource)),
            _ => Verdict::Fine,
        },
    }
}

/// What differs and cannot be changed in place, though the resource is usable: cause and next step.
pub(super) fn remark(resource: &Resource, view: &View, mark: &Mark) -> Option<String> {
    let domain = view.our_domain(mark, &resource.location, &resource.domain)?;
    match &resource.want {
        Want::Domain(service) => {
            let held = domain.domain.plan.as_ref()?;
            let wanted = match service {
                Service::Essentials => DomainType::Essentials,
                Service::Advanced => DomainType::Advanced,
            };
            (*held != wanted).then(|| {
                format!(
                    "network domain `{}` in {} is {held}, the plan says {wanted}: change it at the cloud, or set the \
                     plan back",
                    resource.domain, resource.location
                )
            })
        }
        _ => None,
    }
}

/// A new translation waits for those that leave its location, whose addresses it may take; a new VLAN waits for those that leave its domain, whose subnet it may want; a server for one of its name, whose
/// password must be forgotten first.
pub(super) fn after_leavers(works: &mut [Work], leaving: &[Work], view: &View) {
    for work in works {
        let Task::Make(resource) = &work.task else { continue };
        for leaver in leaving {
            let Task::Remove(removal) = &leaver.task else { continue };
            let waits = match (&resource.want, removal) {
                (Want::Vlan { .. }, Removal::Vlan(_)) | (Want::Domain(_), Removal::Domain(_)) => {
                    leaver.step.location == resource.location
                }
                (Want::Server { node, .. }, Removal::Server(_, Some(name))) => *name == node.name,
                // Addresses that become free are used again before new ones are asked for.
                (Want::Nat(_), Removal::Nat(..)) => leaver.step.location == resource.location,
                _ => false,
            };
            // What is there already only settles; waiting would chain it to what it does not need.
            let there = view.domain(&resource.location, &resource.domain).is_some();
            if waits && (there || !matches!(resource.want, Want::Domain(_))) {
                work.needs.push(leaver.key.clone());
            }
        }
    }
}

/// How work on a resource is shown.
pub(super) fn step(resource: &Resource, verb: Verb, detail: String) -> Step {
    let (kind, name) = shown(resource);
    Step { verb, kind, name, location: resource.location.clone(), detail, outside: false }
}

/// Kind and name of a resource, as shown.
pub(crate) fn shown(resource: &Resource) -> (&'static str, String) {
    match &resource.want {
        Want::Domain(_) => ("network domain", resource.domain.clone()),
        Want::Vlan { name, .. } => ("vlan", name.clone()),
        Want::Server { node, .. } => ("server", node.name.to_string()),
        Want::Size { node, .. } => ("server size", node.to_string()),
        Want::Disk(node, disk) => ("disk", format!("{node}/{}", disk.scsi_id)),
        Want::Monitoring(node, _) => ("monitoring", node.to_string()),
        Want::Power(node) => ("power on", node.to_string()),
        Want::Nat(node) => ("nat rule", node.to_string()),
        Want::Rule(name, _) => ("firewall rule", name.clone()),
        Want::List(name, ..) => ("address list", name.clone()),
        Want::DenyIpv6(_) => ("firewall rule", DENY_IPV6.to_owned()),
        Want::Ready(node) => ("node", node.to_string()),
    }
}

/// What the journal should know of a resource that is there: kind and id.
pub(super) fn known_as(resource: &Resource, view: &View, mark: &Mark) -> Option<(&'static str, String)> {
    let domain = view.our_domain(mark, &resource.location, &resource.domain)?;
    Some(match &resource.want {
        Want::Domain(_) => ("domain", domain.domain.id.to_string()),
        Want::Vlan { name, .. } => ("vlan", domain.vlan(name)?.id.to_string()),
        Want::Server { node, .. } => ("server", domain.server(mark, node.name.as_str())?.id.to_string()),
        Want::Nat(node) => {
            let internal = domain.server(mark, node.as_str()).and_then(private_ipv4)?;
            ("nat", domain.nat(internal)?.id.to_string())
        }
        Want::List(name, ..) => ("list", domain.list(name)?.id.to_string()),
        _ => return None,
    })
}

/// Why a server cannot be had as the plan says without making it anew.
fn replacing(
    resource: &Resource,
    node: &Node,
    network: &str,
    domain: &DomainView,
    server: &Server,
    settled: &Settled,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let held = server.network_info.as_ref().and_then(|info| info.primary_nic.vlan_id.as_ref());
    let held = held.and_then(|id| domain.vlans.get(id)).map(|vlan| vlan.name.as_str());
    if let Some(held) = held.filter(|held| !same_name(held, network)) {
        reasons.push(format!("it is in network `{held}`, the plan says `{network}`"));
    }
    for disk in &node.disks {
        let found = server.disks().into_iter().find(|found| found.scsi_id == disk.scsi_id);
        if let Some(found) = found.filter(|found| found.size_gb > disk.size_gb) {
            reasons.push(format!(
                "disk {} has {} GB, the plan says {}, and disks cannot shrink",
                disk.scsi_id, found.size_gb, disk.size_gb
            ));
        }
    }
    if let Some((before, now)) = settled.differs(resource) {
        reasons.push(format!("{before} becomes {now}"));
    }
    reasons
}

/// Whether a server has these CPUs and this memory, as far as the cloud says.
pub(crate) fn has_size(server: &Server, cpu: &Cpu, memory_gb: u32) -> bool {
    server.cpu.count == cpu.count
        && server.memory_gb == memory_gb
        && server.cpu.speed.as_ref().is_none_or(|speed| speed.eq_ignore_ascii_case(&cpu.speed))
        && server.cpu.cores_per_socket.is_none_or(|cores| cores == cpu.cores_per_socket)
}

/// Blocks of two addresses that `missing` translations will take.
pub(super) fn blocks_needed(
    location: &str,
    domain: &str,
    missing: usize,
    freed: usize,
    view: &View,
    mark: &Mark,
) -> Vec<Step> {
    let free = view.our_domain(mark, location, domain).map_or(0, |held| free_addresses(held).len());
    let blocks = missing.saturating_sub(free + freed).div_ceil(2);
    let step = Step {
        verb: Verb::Create,
        kind: "public ip block",
        name: domain.to_owned(),
        location: location.to_owned(),
        detail: "two addresses".into(),
        outside: false,
    };
    vec![step; blocks]
}

/// Addresses of the domain's blocks that no translation uses, lowest first.
pub(crate) fn free_addresses(domain: &DomainView) -> BTreeSet<std::net::Ipv4Addr> {
    let used: BTreeSet<_> = domain.nats.values().map(|nat| nat.external_ip).collect();
    domain
        .blocks
        .values()
        .flat_map(|block| block.addresses())
        .filter(|address| !used.contains(address))
        .collect()
}

/// The API's word for a monitoring plan.
pub(crate) fn service_plan(service: Service) -> ServicePlan {
    match service {
        Service::Essentials => ServicePlan::Essentials,
        Service::Advanced => ServicePlan::Advanced,
    }
}

/// Whether a server is neither busy nor failed.
pub(crate) fn is_idle(server: &Server) -> bool {
    server.state.is_normal() && server.progress.is_none()
}

fn absent() -> Verdict {
    Verdict::Do(Verb::Create, String::new())
}

/// Power of a server that is yet to be made: one without more disks is started as it is made.
fn starting(resource: &Resource) -> Verdict {
    match resource.needs.iter().any(|need| matches!(need, Key::Disk(..))) {
        true => Verdict::Do(Verb::Change, String::new()),
        false => Verdict::Fine,
    }
}

fn deny_detail(resource: &Resource) -> String {
    match resource.want {
        Want::DenyIpv6(true) => "turned on: no network accepts another".into(),
        _ => "turned off: networks accept others".into(),
    }
}

/// The verdict on something that is there, by whose it is and where it is in its life.
fn known(resource: &Resource, mark: &Mark, description: Option<&str>, state: &State) -> Verdict {
    let shown = step(resource, Verb::Create, String::new());
    let (kind, name, location) = (shown.kind, shown.name, shown.location);
    match mark.owner(description) {
        Owner::Ours => {}
        Owner::Fleet(fleet) => {
            return Verdict::Blocked(format!(
                "{kind} `{name}` in {location} belongs to another fleet `{fleet}`: use another name, or bring that fleet \
                 down from where it was brought up"
            ));
        }
        Owner::Nobody => {
            return Verdict::Blocked(format!(
                "{kind} `{name}` in {location} exists and is not this fleet's: use another name, or remove it yourself"
            ));
        }
    }
    match state {
        State::Normal => Verdict::Fine,
        State::FailedAdd => {
            Verdict::Do(Verb::Create, "could not be made before; cleaned and made again".into())
        }
        State::PendingDelete | State::PendingClean => {
            Verdict::Do(Verb::Create, "is being deleted; made again when gone".into())
        }
        State::PendingAdd | State::PendingChange => Verdict::Settle("is under way; waited for".into()),
        state => Verdict::Blocked(format!(
            "{kind} `{name}` in {location} is {state}: look at it at the cloud, delete it there or have it repaired, and \
             run again"
        )),
    }
}
