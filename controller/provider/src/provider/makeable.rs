//! Whether servers can be made, as far as the cloud says before it is asked to: the image is there, the data centre works
//! and is large enough. Whether it has room only trying tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fleet_mcp::{McpError, types::Datacenter};
use fleet_model::NodeName;
use fleet_plan::{ResolvedPlan, resolved::Node};

use crate::{
    cloud::Cloud,
    diff::{Diff, Task, Work},
    graph::{Key, Want},
    images::Images,
};

/// Servers among `works` that would not come about, and why: what runs would say.
pub(super) async fn misfits(
    cloud: &Arc<dyn Cloud>,
    images: &Images,
    works: &[Work],
) -> Result<BTreeMap<NodeName, String>, McpError> {
    let servers = works.iter().filter_map(|work| match &work.task {
        Task::Make(resource) => match &resource.want {
            Want::Server { node, .. } => Some((resource.location.as_str(), node.as_ref())),
            _ => None,
        },
        _ => None,
    });
    let (mut centres, mut misfits) = (None, BTreeMap::new());
    for (location, node) in servers {
        let centres = match &centres {
            Some(listed) => listed,
            None => centres.insert(cloud.datacenters().await?),
        };
        let missing =
            images.find(location, &node.image, cloud.platform_images(), cloud.customer_images()).await?.err();
        if let Some(why) = missing.or_else(|| unfit(centres, location, node)) {
            misfits.insert(node.name.clone(), format!("server `{}` in {location}: {why}", node.name));
        }
    }
    Ok(misfits)
}

/// Of the nodes to be replaced those whose successors would not come about, and why.
pub(super) fn of(
    plan: &ResolvedPlan,
    replace: &BTreeSet<NodeName>,
    then: &Diff,
    misfits: &BTreeMap<NodeName, String>,
) -> BTreeMap<NodeName, String> {
    let why = |node: &NodeName| {
        if let Some(why) = misfits.get(node) {
            return Some(why.clone());
        }
        let location = plan.node(node).filter(|_| then.open.contains(&Key::Server(node.clone())))?.location;
        // What it needs is blocked, and that was said.
        let place = format!(" in {} ", location.id);
        let said: Vec<&str> =
            then.problems.iter().filter(|problem| problem.contains(&place)).map(String::as_str).collect();
        Some(said.join("; "))
    };
    replace.iter().filter_map(|node| Some((node.clone(), why(node)?))).collect()
}

/// Why a data centre cannot have a server like this.
fn unfit(centres: &[Datacenter], location: &str, node: &Node) -> Option<String> {
    let Some(centre) = centres.iter().find(|centre| centre.id.as_str() == location) else {
        let there: Vec<&str> = centres.iter().map(|centre| centre.id.as_str()).collect();
        return Some(format!("the cloud has no data centre {location}; there are: {}", there.join(", ")));
    };
    let hypervisor = centre.hypervisor.as_ref()?;
    if let Some(status) = hypervisor.maintenance_status.as_ref().filter(|status| *status != "NORMAL") {
        return Some(format!(
            "the hypervisors of {location} are in maintenance ({status}); run again when it is over"
        ));
    }
    let limit = |name: &str| {
        let property = hypervisor.property.iter().find(|property| property.name == name)?;
        property.value.parse::<u64>().ok()
    };
    let most = |what: &str, wanted: u64, limit: Option<u64>| {
        let limit = limit.filter(|limit| wanted > *limit)?;
        Some(format!(
            "{wanted} {what} are more than the {limit} that {location} allows; ask for less in the plan"
        ))
    };
    let disks = node.disks.iter().map(|disk| u64::from(disk.size_gb)).max().unwrap_or_default();
    most("CPUs", node.cpu.count.into(), limit("MAX_CPU_COUNT"))
        .or_else(|| most("MB of memory", u64::from(node.memory_gb) * 1024, limit("MAX_MEMORY_MB")))
        .or_else(|| most("GB of one disk", disks, limit("MAX_DISK_SIZE_GB")))
}
