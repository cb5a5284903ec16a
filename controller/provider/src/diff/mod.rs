//! Desired against observed, giving work. Pure.
//!
//! A resource whose name is taken by something without our mark is a problem: it is never adopted, changed or
//! deleted, and what needs it is left out.

mod leave;
mod make;

use std::collections::{BTreeMap, BTreeSet};

use fleet_mcp::{
    Id,
    types::{FirewallRule, IpAddressList, NatRule, NetworkDomain, PublicIpBlock, Server, Vlan},
};
use fleet_model::NodeName;

use crate::{
    event::{Step, Verb},
    graph::{Key, Resource, Want, predecessors},
    journal::Index,
    mark::Mark,
    settled::Settled,
    view::{View, same_name},
};

pub(crate) use leave::leavers;
pub(crate) use make::{free_addresses, has_size, is_idle, service_plan, shown};

/// One piece of work.
#[derive(Clone, Debug)]
pub struct Work {
    /// Its name within the run.
    pub key: Key,
    /// What must be done before it. Only work of the same run is named.
    pub needs: Vec<Key>,
    /// How it is shown.
    pub step: Step,
    /// Whether it is only waiting for something under way; not shown by a preview.
    pub quiet: bool,
    /// What is to be done.
    pub task: Task,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Task {
    /// The resource must be as wanted.
    Make(Box<Resource>),
    /// It must go.
    Remove(Removal),
    /// It is there; the journal takes it in as this kind with this id.
    Adopt(&'static str, String),
    /// Tell that the node is complete.
    Tell(NodeName),
}

/// What must go.
#[derive(Clone, Debug)]
pub enum Removal {
    /// A translation.
    Nat(Id<NetworkDomain>, Id<NatRule>),
    /// A firewall rule.
    Rule(Id<NetworkDomain>, Id<FirewallRule>),
    /// A list of networks.
    List(Id<NetworkDomain>, Id<IpAddressList>),
    /// A server's power.
    Power(Id<Server>),
    /// A server; and the vault's entry for it, if the name is that of no other server.
    Server(Id<Server>, Option<NodeName>),
    /// A block of public addresses.
    Block(Id<NetworkDomain>, Id<PublicIpBlock>),
    /// A VLAN.
    Vlan(Id<Vlan>),
    /// A network domain.
    Domain(Id<NetworkDomain>),
}

/// What is to be done in all.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    /// The work, by key.
    pub works: Vec<Work>,
    /// What cannot be done, one line each: cause and next step.
    pub problems: Vec<String>,
    /// Servers that would have to be made anew, which is not done without consent.
    pub replacements: Vec<Step>,
    /// What is not as wanted even once the work is done.
    pub(crate) open: BTreeSet<Key>,
}

/// What a resource needs.
enum Verdict {
    /// Nothing.
    Fine,
    /// Waiting for something under way.
    Settle(String),
    /// This.
    Do(Verb, String),
    /// Making it anew, for this reason.
    Replace(String),
    /// It cannot be had, and neither can what needs it.
    Blocked(String),
}

/// Compares `resources` with what was observed. With `index`, what left the plan is found and removed; by what was
/// `settled`, what others changed is told apart from what the plan changed.
pub fn diff(resources: &[Resource], view: &View, mark: &Mark, index: &Index, settled: &Settled) -> Diff {
    let mut problems = Vec::new();
    let mut todo = BTreeMap::new();
    let (mut replacements, mut adoptions) = (Vec::new(), BTreeMap::new());
    let mut blocked = BTreeSet::new();
    for resource in resources {
        problems.extend(make::remark(resource, view, mark));
        match make::verdict(resource, view, mark, settled) {
            Verdict::Fine => {
                let known = make::known_as(resource, view, mark);
                if let Some((kind, id)) = known.filter(|(kind, id)| !index.holds(kind, id)) {
                    adoptions.insert(resource.key.clone(), (kind, id));
                }
            }
            Verdict::Replace(reason) => {
                replacements.push((resource.key.clone(), make::step(resource, Verb::Replace, reason)));
            }
            Verdict::Settle(detail) => {
                todo.insert(resource.key.clone(), (resource, Verb::Change, detail, true));
            }
            Verdict::Do(verb, detail) => {
                todo.insert(resource.key.clone(), (resource, verb, detail, false));
            }
            Verdict::Blocked(problem) => {
                problems.push(problem);
                blocked.insert(resource.key.clone());
            }
        }
    }
    block_dependants(resources, &mut blocked);
    let mut works: Vec<Work> = resources
        .iter()
        .filter(|resource| !blocked.contains(&resource.key))
        .filter_map(|resource| {
            let (step, quiet, task) = match (&resource.want, todo.get(&resource.key)) {
                (Want::Ready(node), _) => {
                    (make::step(resource, Verb::Change, String::new()), true, Task::Tell(node.clone()))
                }
                (_, Some((_, verb, detail, quiet))) => (
                    make::step(resource, *verb, detail.clone()),
                    *quiet,
                    Task::Make(Box::new((*resource).clone())),
                ),
                (_, None) => {
                    let (kind, id) = adoptions.remove(&resource.key)?;
                    let detail = "there already with our mark, and taken into the journal".to_owned();
                    (make::step(resource, Verb::Adopt, detail), false, Task::Adopt(kind, id))
                }
            };
            let outside = !quiet && step.verb != Verb::Adopt && settled.holds(resource);
            let step = Step { outside, ..step };
            Some(Work { key: resource.key.clone(), needs: resource.needs.clone(), step, quiet, task })
        })
        .collect();
    let mut leaving = leavers(Some(resources), view, mark, index);
    problems.extend(leave::seconds(resources, view, mark));
    for Work { step, .. } in &mut leaving {
        let named =
            matches!(step.kind, "server" | "vlan" | "network domain" | "firewall rule" | "address list");
        if named && !is_second(step, resources) && settled.never_held(step.kind, &step.location, &step.name) {
            step.outside = true;
            "not in the plan, and never was".clone_into(&mut step.detail);
        }
    }
    make::after_leavers(&mut works, &leaving, view);
    after_successors(&works, &mut leaving, resources);
    works.extend(leaving);
    let keys: BTreeSet<Key> = works.iter().map(|work| work.key.clone()).collect();
    for work in &mut works {
        work.needs.retain(|need| keys.contains(need));
    }
    let open = blocked.into_iter().chain(replacements.iter().map(|(key, _)| key.clone())).collect();
    let replacements = replacements.into_iter().map(|(_, step)| step).collect();
    Diff { works, problems, replacements, open }
}

/// Whether what leaves has the name of what stays.
fn is_second(step: &Step, resources: &[Resource]) -> bool {
    let mut here = resources.iter().filter(|resource| resource.location == step.location);
    here.any(|resource| make::shown(resource) == (step.kind, step.name.clone()))
}

/// A rule that goes waits for the one that is made in its place.
fn after_successors(works: &[Work], leaving: &mut [Work], resources: &[Resource]) {
    for work in works {
        let Task::Make(resource) = &work.task else { continue };
        let names = predecessors(resource, resources);
        for leaver in leaving.iter_mut().filter(|leaver| {
            matches!(leaver.task, Task::Remove(Removal::Rule(..)))
                && leaver.step.location == resource.location
        }) {
            if names.iter().any(|name| same_name(name, &leaver.step.name)) {
                leaver.needs.push(work.key.clone());
            }
        }
    }
}

fn block_dependants(resources: &[Resource], blocked: &mut BTreeSet<Key>) {
    // As many rounds as the longest chain of needs: domain, vlan, server, nat, rule, ready.
    loop {
        let more: Vec<Key> = resources
            .iter()
            .filter(|resource| !blocked.contains(&resource.key))
            .filter(|resource| resource.needs.iter().any(|need| blocked.contains(need)))
            .map(|resource| resource.key.clone())
            .collect();
        if more.is_empty() {
            return;
        }
        blocked.extend(more);
    }
}

/// What a preview shows: what would be done, and the blocks of addresses that doing it will take.
pub fn steps(diff: &Diff, view: &View, mark: &Mark) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut counted = BTreeSet::new();
    for work in diff.works.iter().filter(|work| !work.quiet) {
        if let Task::Make(nat) = &work.task
            && let Resource { location, domain, want: Want::Nat(_), .. } = nat.as_ref()
            && counted.insert(location.clone())
        {
            let here = |other: &&Work| other.step.location == *location;
            let made = |other: &&Work| matches!(&other.task, Task::Make(other) if matches!(other.want, Want::Nat(_)));
            let gone = |other: &&Work| matches!(&other.task, Task::Remove(Removal::Nat(..)));
            let missing = diff.works.iter().filter(here).filter(made).count();
            let freed = diff.works.iter().filter(here).filter(gone).count();
            steps.extend(make::blocks_needed(location, domain, missing, freed, view, mark));
        }
        steps.push(work.step.clone());
    }
    steps
}

#[cfg(test)]
mod tests;
