//! Who takes part, by plan and enrolments. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fleet_model::NodeName;
use fleet_plan::{
    ResolvedPlan,
    resolved::{Task, Work},
};
use fleet_rollout::{Member, Rollout};

use crate::desired;

/// Port of the todo application where the plan names none.
const TODO_PORT: u16 = 5000;

/// Everybody, and what they owe each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// By name.
    pub members: Vec<Member>,
    /// How many members of a database cluster its replicas can spare.
    pub spare: BTreeMap<String, usize>,
}

/// What each node does now, which may be from an earlier plan.
pub type Works = BTreeMap<NodeName, Arc<desired::Work>>;

/// Every enrolled node, placed by the plan; `enrolled` says by what each enrolment is told from others of the same name.
pub fn members(plan: Option<&ResolvedPlan>, works: &Works, enrolled: &BTreeMap<NodeName, String>) -> Members {
    let members = enrolled.iter().map(|(node, identity)| {
        let mut member = Member::new(node.clone());
        if !identity.is_empty() {
            member.identity.clone_from(identity);
        }
        if let Some(placed) = plan.and_then(|plan| plan.node(node)) {
            member.location.clone_from(&placed.location.id);
            member.labels.clone_from(&placed.node.labels);
            // What runs there counts, not what is yet to.
            if let Some(seed) = works.get(node).and_then(|work| seed(&work.tasks)) {
                member.cluster = Some(seed.to_string());
                member.seed = seed == node;
            }
        }
        member
    });
    let members: Vec<Member> = members.collect();
    let spare = spare(works);
    Members { members, spare }
}

/// Members of the clusters that `rollout` changes which have no part in it and are away: out of service, whatever took
/// them there.
pub fn beside(
    members: &[Member],
    rollout: &Rollout,
    connected: &BTreeSet<NodeName>,
) -> BTreeMap<String, BTreeSet<NodeName>> {
    let changed: BTreeSet<&String> =
        rollout.nodes.values().filter_map(|node| node.member.cluster.as_ref()).collect();
    let away = members
        .iter()
        .filter(|member| !rollout.nodes.contains_key(&member.node) && !connected.contains(&member.node));
    let mut out: BTreeMap<String, BTreeSet<NodeName>> = BTreeMap::new();
    for member in away {
        if let Some(cluster) = member.cluster.as_ref().filter(|cluster| changed.contains(cluster)) {
            out.entry(cluster.clone()).or_default().insert(member.node.clone());
        }
    }
    out
}

/// The seed of the cluster a node is a member of: what the cluster is called by.
fn seed(tasks: &[Task]) -> Option<&NodeName> {
    tasks.iter().find_map(|task| match &task.work {
        Work::Rethinkdb(rethinkdb) => Some(&rethinkdb.seed),
        _ => None,
    })
}

/// With so many members out, every table still has most of its replicas. With one or two replicas that is nobody, and
/// then one goes at a time all the same: an agent changes while the database it looks after goes on.
fn spare(works: &Works) -> BTreeMap<String, usize> {
    let mut spare: BTreeMap<String, usize> = BTreeMap::new();
    for work in works.values() {
        let Some(seed) = seed(&work.tasks) else { continue };
        for task in &work.tasks {
            if let Work::Database(database) = &task.work {
                let replicas = usize::try_from(database.replicas).unwrap_or(usize::MAX);
                let can = (replicas.saturating_sub(1) / 2).max(1);
                spare.entry(seed.to_string()).and_modify(|least| *least = can.min(*least)).or_insert(can);
            }
        }
    }
    spare
}

/// Port of a node's todo application.
pub fn todo_port(plan: Option<&ResolvedPlan>, node: &NodeName) -> u16 {
    let placed = plan.and_then(|plan| plan.node(node));
    let todo = placed.iter().flat_map(|placed| &placed.node.tasks).find_map(|task| match &task.work {
        Work::Todo(todo) => Some(todo.port),
        _ => None,
    });
    todo.unwrap_or(TODO_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> ResolvedPlan {
        let text = include_str!("../../../packaging/plans/rethinkdb.yaml");
        fleet_plan::load("rethinkdb.yaml", text, &BTreeMap::new()).expect("sound").plan
    }

    #[test]
    fn the_reference_fleet_spares_what_its_replicas_can() {
        let plan = plan();
        let enrolled: BTreeMap<NodeName, String> = plan
            .nodes()
            .map(|placed| (placed.node.name.clone(), format!("id of {}", placed.node.name)))
            .collect();
        let works = desired::works(&plan, &desired::Inputs::default()).by_node;
        let found = members(Some(&plan), &works, &enrolled);
        assert_eq!(found.members.len(), 5);
        assert_eq!(found.members.iter().filter(|member| member.seed).count(), 1);
        let cluster = found.members[0].cluster.clone().expect("a member");
        assert!(found.members.iter().all(|member| member.cluster.as_ref() == Some(&cluster)));
        assert!(found.members.iter().all(|member| !member.location.is_empty()));
        assert!(found.members.iter().all(|member| member.identity.starts_with("id of ")));
        assert_eq!(found.spare[&cluster], 1, "of three replicas");
        assert_eq!(todo_port(Some(&plan), &found.members[0].node), 5000);
    }

    #[test]
    fn whoever_is_in_no_plan_takes_part_by_name() {
        let enrolled = BTreeMap::from([("a".parse().expect("a name"), String::new())]);
        let found = members(None, &Works::new(), &enrolled);
        assert_eq!(found.members, [Member::new("a".parse().expect("a name"))]);
        assert!(found.spare.is_empty());
    }
}
