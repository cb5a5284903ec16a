//! What a run does with the machines of a plan, decided from what is taken. Pure.

use std::collections::{BTreeMap, BTreeSet};

use fleet_model::NodeName;
use fleet_plan::ResolvedPlan;
use fleet_provider::event::{Step, Verb};

use crate::held::{Held, Place};

/// Kind of resource, in words.
pub(crate) const KIND: &str = "host";

/// A node of the plan and where its machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) node: NodeName,
    pub(crate) location: String,
    pub(crate) place: Place,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Machines to take.
    pub(crate) take: Vec<Wanted>,
    /// Machines that are taken and stay so.
    pub(crate) keep: Vec<(Wanted, Held)>,
    /// Nodes whose plan names another machine than the one that is taken.
    pub(crate) moved: Vec<(Wanted, Held)>,
    /// Machines that no node of the plan is any more.
    pub(crate) leave: Vec<(NodeName, Held)>,
    /// Machines that are released and taken anew, or others in their place, because the operator said so.
    pub(crate) again: Vec<(Wanted, Held)>,
}

/// Decides; machines of the nodes in `replace` may be let go.
pub(crate) fn decide(
    plan: &ResolvedPlan,
    held: &BTreeMap<NodeName, Held>,
    replace: &BTreeSet<NodeName>,
) -> Decision {
    let mut decision = Decision::default();
    let mut held = held.clone();
    for placed in plan.nodes() {
        let Some(place) = Place::of(placed.node) else { continue };
        let wanted = Wanted { node: placed.node.name.clone(), location: placed.location.id.clone(), place };
        match held.remove(&wanted.node) {
            None => decision.take.push(wanted),
            Some(held) if replace.contains(&wanted.node) => decision.again.push((wanted, held)),
            Some(held) if held.place.is_at(&wanted.place) => decision.keep.push((wanted, held)),
            Some(held) => decision.moved.push((wanted, held)),
        }
    }
    decision.leave = held.into_iter().collect();
    decision
}

pub(crate) fn step(verb: Verb, node: &NodeName, location: &str, detail: impl Into<String>) -> Step {
    Step {
        verb,
        kind: KIND,
        name: node.to_string(),
        location: location.to_owned(),
        detail: detail.into(),
        outside: false,
    }
}

/// The step that takes a machine.
pub(crate) fn taking(wanted: &Wanted, detail: impl Into<String>) -> Step {
    step(Verb::Adopt, &wanted.node, &wanted.location, detail)
}

/// The step that gives one back.
pub(crate) fn releasing(node: &NodeName, held: &Held) -> Step {
    let detail =
        format!("{} is not in the plan any more: the agent goes, everything else stays", held.place.host);
    step(Verb::Release, node, &held.location, detail)
}

/// The step of a node that is to have another machine.
pub(crate) fn moving((wanted, held): &(Wanted, Held)) -> Step {
    let detail = format!(
        "it is {} and the plan says {}: that one is released, this one taken, and what is on its disks stays there",
        held.place.host, wanted.place.host
    );
    step(Verb::Replace, &wanted.node, &wanted.location, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(nodes: &str) -> ResolvedPlan {
        let text = format!("fleet: f\ncloud: hosts\nlocations:\n  - id: home\n    nodes: [{nodes}]\n");
        fleet_plan::load("p", &text, &BTreeMap::new()).expect("no problems").plan
    }

    fn held(address: &str) -> Held {
        let plan = plan(&format!("{{name: x, address: {address}}}"));
        let place = Place::of(plan.nodes().next().expect("one").node).expect("a machine");
        Held { place, location: "home".into(), machine: String::new(), addresses: Default::default() }
    }

    #[test]
    fn what_is_taken_stays_and_what_leaves_is_released() {
        let plan = plan(
            "{name: a, address: 192.0.2.1}, {name: b, address: 192.0.2.2}, {name: c, address: 192.0.2.3}, {name: d, \
             address: 192.0.2.4, login: other}",
        );
        let name = |name: &str| -> NodeName { name.parse().expect("a name") };
        let there: BTreeMap<NodeName, Held> = [
            (name("b"), held("192.0.2.9")),
            (name("c"), held("192.0.2.3")),
            (name("d"), held("192.0.2.4")),
            (name("e"), held("192.0.2.5")),
        ]
        .into();
        let names = |pairs: &[(Wanted, Held)]| {
            pairs.iter().map(|(wanted, _)| wanted.node.to_string()).collect::<Vec<_>>()
        };
        let decision = decide(&plan, &there, &BTreeSet::new());
        assert_eq!(decision.take.iter().map(|wanted| wanted.node.to_string()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(names(&decision.moved), ["b"]);
        // Another login is no other machine.
        assert_eq!(names(&decision.keep), ["c", "d"]);
        assert_eq!(decision.leave.iter().map(|(node, _)| node.to_string()).collect::<Vec<_>>(), ["e"]);
        assert!(decision.again.is_empty());
        let consented = decide(&plan, &there, &["b", "c"].map(name).into());
        assert_eq!(names(&consented.again), ["b", "c"]);
        assert!(consented.moved.is_empty());
    }
}
