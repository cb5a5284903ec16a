//! What a run does, decided once from what was seen: previews show it, runs do it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use fleet_model::NodeName;
use fleet_plan::ResolvedPlan;

use super::replace;
use crate::{
    diff::{self, Diff, Removal, Task, Work},
    event::{Step, Verb},
    graph::resources,
    journal::Index,
    mark::Mark,
    settled::Settled,
    view::View,
};

/// What would be done, and what cannot be.
#[derive(Clone, Debug, Default)]
pub struct Preview {
    /// In the order they are shown.
    pub steps: Vec<Step>,
    /// One line each, cause and next step.
    pub problems: Vec<String>,
    /// Servers that have to be made anew, each with the reason; not done without consent.
    pub replacements: Vec<Step>,
    /// Nodes to be replaced whose successors could not be made, and why: their servers must not go.
    pub unmakeable: BTreeMap<NodeName, String>,
}

/// What is to be done: servers that make room for their successors, then everything else.
#[derive(Debug)]
pub(super) struct Decision {
    /// Destroys the servers of nodes that are replaced.
    pub(super) first: Vec<Work>,
    /// Everything else, decided as if that were done.
    pub(super) then: Diff,
    /// What will be there once `first` is done.
    after: View,
}

/// Decides; `replace` names the nodes whose servers may go.
pub(super) fn decide(
    plan: &ResolvedPlan,
    view: &View,
    mark: &Mark,
    (index, settled): (&Index, &Settled),
    replace: &BTreeSet<NodeName>,
) -> Decision {
    let resources = resources(plan);
    let (mut after, mut settled) = (view.clone(), settled.clone());
    let mut first = Vec::new();
    for node in replace {
        let works = replace::works(plan, node, view, mark, index);
        works.iter().for_each(|work| forget(&mut after, &work.task));
        first.extend(works);
    }
    // What comes back anew with them is no change of others.
    resources
        .iter()
        .filter(|resource| replace.iter().any(|node| replace::belongs(resource, node)))
        .for_each(|resource| settled.forget(resource));
    let then = diff::diff(&resources, &after, mark, index, &settled);
    Decision { first, then, after }
}

/// The view once something is gone.
fn forget(view: &mut View, task: &Task) {
    match task {
        Task::Remove(Removal::Server(id, _)) => {
            view.domains.values_mut().for_each(|held| drop(held.servers.remove(id)));
        }
        Task::Remove(Removal::Nat(_, id)) => {
            view.domains.values_mut().for_each(|held| drop(held.nats.remove(id)));
        }
        _ => {}
    }
}

impl Decision {
    /// What it looks like: a server that goes and comes back under its name is one replacement.
    pub(super) fn preview(self, mark: &Mark) -> Preview {
        let Self { first, then, after } = self;
        let mut steps = diff::steps(&then, &after, mark);
        let mut shown = Vec::new();
        for work in first {
            let same = |step: &&mut Step| {
                step.verb == Verb::Create
                    && (step.kind, &step.name, &step.location)
                        == (work.step.kind, &work.step.name, &work.step.location)
            };
            match steps.iter_mut().find(same) {
                Some(step) if step.kind == "server" => {
                    step.verb = Verb::Replace;
                    "destroyed with its disks, and made anew".clone_into(&mut step.detail);
                }
                _ => shown.push(work.step),
            }
        }
        shown.extend(steps);
        Preview {
            steps: shown,
            problems: then.problems,
            replacements: then.replacements,
            unmakeable: BTreeMap::new(),
        }
    }
}
