//! A node's server goes so that another can take its place: everything around it stays.

use std::{collections::BTreeSet, net::Ipv4Addr};

use fleet_mcp::{Id, types::Server};
use fleet_model::NodeName;
use fleet_plan::ResolvedPlan;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Outcome, Provider, ProviderError, conclude};
use crate::{
    diff::{Removal, Task, Work, leavers},
    event::Event,
    execute::execute,
    graph::{Key, Resource, Rule, Want, resources},
    journal::Index,
    mark::Mark,
    view::{View, private_ipv4},
};

impl Provider {
    /// Destroys the server of one of the plan's nodes with its disks and its translation; networks, rules and
    /// blocks of addresses stay. [`Provider::apply`] makes it anew. Fine if there is none.
    ///
    /// # Errors
    /// The cloud cannot be looked at, or the journal fails, before anything was changed.
    pub async fn destroy_node(
        &self,
        plan: &ResolvedPlan,
        node: &NodeName,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProviderError> {
        let (view, mut index) = self.look().await?;
        self.journal.reconcile(&view, &self.mark, &mut index).await?;
        let mut settled = self.journal.settled().await?;
        let before = settled.clone();
        resources(plan)
            .iter()
            .filter(|resource| belongs(resource, node))
            .for_each(|resource| settled.forget(resource));
        if settled != before {
            self.journal.settle(&settled).await?;
        }
        let works = works(plan, node, &view, &self.mark, &index);
        let run = self.run(events, stop, view);
        let finished = execute(&run, works, stop).await;
        Ok(conclude(&run, Vec::new(), finished, stop))
    }
}

/// What leaving the plan would do to the node's server, and nothing of what it would do besides. Pure.
pub(super) fn works(
    plan: &ResolvedPlan,
    node: &NodeName,
    view: &View,
    mark: &Mark,
    index: &Index,
) -> Vec<Work> {
    let Some(placed) = plan.node(node) else { return Vec::new() };
    let Some(domain) = view.our_domain(mark, &placed.location.id, &placed.location.domain.name) else {
        return Vec::new();
    };
    let servers = domain
        .servers
        .values()
        .filter(|server| server.name == node.as_str() && mark.is_ours(server.description.as_deref()));
    let (ids, internal): (BTreeSet<&Id<Server>>, BTreeSet<Option<Ipv4Addr>>) =
        servers.map(|server| (&server.id, private_ipv4(server))).unzip();
    let translated = |work: &Work| {
        let mut nats = domain.nats.values().filter(|nat| internal.contains(&Some(nat.internal_ip)));
        nats.any(|nat| work.key == Key::NatGone(nat.id.to_string()))
    };
    let others: Vec<Resource> =
        resources(plan).into_iter().filter(|resource| !is_of(&resource.key, node)).collect();
    let mut works: Vec<Work> = leavers(Some(&others), view, mark, index)
        .into_iter()
        .filter(|work| match &work.task {
            Task::Remove(Removal::Power(id) | Removal::Server(id, _)) => ids.contains(id),
            Task::Remove(Removal::Nat(..)) => translated(work),
            _ => false,
        })
        .collect();
    let keys: BTreeSet<Key> = works.iter().map(|work| work.key.clone()).collect();
    for work in &mut works {
        work.needs.retain(|need| keys.contains(need));
        work.step.detail = "another takes its place".to_owned();
    }
    works
}

/// Whether a resource goes with the node's server.
fn is_of(key: &Key, node: &NodeName) -> bool {
    match key {
        Key::Server(of)
        | Key::Size(of)
        | Key::Disk(of, _)
        | Key::Monitoring(of)
        | Key::Power(of)
        | Key::Nat(of)
        | Key::Ready(of) => of == node,
        _ => false,
    }
}

/// Whether a resource is made anew with the node's server: also what lets in by its public address.
pub(super) fn belongs(resource: &Resource, node: &NodeName) -> bool {
    is_of(&resource.key, node) || matches!(&resource.want, Want::Rule(_, Rule::Opening(of, ..)) if of == node)
}
