//! One look at the whole cloud, with as few calls as possible: three lists, or one of an empty cloud, and four more for
//! each network domain that holds something of ours, in parallel.

use std::sync::Arc;

use fleet_mcp::McpError;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    cloud::Cloud,
    journal::Index,
    mark::{Mark, Marked},
    view::{DomainView, View},
};

/// Network domains read at once, with four calls each.
const AT_ONCE: usize = 4;

/// Looks at everything that may concern the fleet.
///
/// # Errors
/// The first call that failed.
///
/// # Cancel safety
/// Only reads; may be dropped at any time.
pub async fn observe(cloud: &Arc<dyn Cloud>, mark: &Mark) -> Result<View, McpError> {
    look(cloud, |held| bears(held, |description| mark.is_ours(description))).await
}

/// Looks at everything that may concern any fleet.
///
/// # Errors
/// The first call that failed.
///
/// # Cancel safety
/// Only reads; may be dropped at any time.
pub async fn observe_fleets(cloud: &Arc<dyn Cloud>) -> Result<View, McpError> {
    look(cloud, |held| bears(held, |description| Marked::read(description).is_some())).await
}

/// Looks at everything that may concern the fleet, also where its mark was taken away from a network domain that the
/// journal knows.
///
/// # Errors
/// The first call that failed.
///
/// # Cancel safety
/// Only reads; may be dropped at any time.
pub async fn observe_known(cloud: &Arc<dyn Cloud>, mark: &Mark, index: &Index) -> Result<View, McpError> {
    let known = |held: &DomainView| index.holds("domain", held.domain.id.as_str());
    look(cloud, |held| known(held) || bears(held, |description| mark.is_ours(description))).await
}

/// Whether a domain, or a network or server in it, bears a mark of this kind.
fn bears(held: &DomainView, marked: impl Fn(Option<&str>) -> bool) -> bool {
    let marked = |description: &Option<String>| marked(description.as_deref());
    marked(&held.domain.description)
        || held.vlans.values().any(|vlan| marked(&vlan.description))
        || held.servers.values().any(|server| marked(&server.description))
}

async fn look(cloud: &Arc<dyn Cloud>, concerns: impl Fn(&DomainView) -> bool) -> Result<View, McpError> {
    let domains = cloud.network_domains().await?;
    // Nothing is outside of a domain.
    let (vlans, servers) = match domains.is_empty() {
        true => Default::default(),
        false => tokio::try_join!(cloud.vlans(), cloud.servers())?,
    };
    let mut view = View::default();
    domains.into_iter().for_each(|domain| view.put_domain(domain));
    vlans.into_iter().for_each(|vlan| view.put_vlan(vlan));
    servers.into_iter().for_each(|server| view.put_server(server));

    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut reads = JoinSet::new();
    for held in view.domains.values().filter(|held| concerns(held)) {
        let (cloud, id, slots) = (Arc::clone(cloud), held.domain.id.clone(), Arc::clone(&slots));
        reads.spawn(async move {
            let _slot = slots.acquire().await.expect("slots are never closed");
            let inside = tokio::try_join!(
                cloud.public_ip_blocks(&id),
                cloud.nat_rules(&id),
                cloud.firewall_rules(&id),
                cloud.address_lists(&id)
            )?;
            Ok::<_, McpError>((id, inside))
        });
    }
    while let Some(read) = reads.join_next().await {
        // The tasks are ours and are not aborted; a panic in one is a panic here.
        let (id, (blocks, nats, rules, lists)) =
            read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        if let Some(held) = view.domains.get_mut(&id) {
            held.blocks.extend(blocks.into_iter().map(|block| (block.id.clone(), block)));
            held.nats.extend(nats.into_iter().map(|nat| (nat.id.clone(), nat)));
            held.rules.extend(rules.into_iter().map(|rule| (rule.id.clone(), rule)));
            held.lists.extend(lists.into_iter().map(|list| (list.id.clone(), list)));
        }
    }
    Ok(view)
}
