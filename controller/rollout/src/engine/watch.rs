//! What is held against nodes that have the target, for as long as their wave is watched: that they do worse than before,
//! that a gate no longer passes, that nothing is heard of them in the end.

use std::collections::BTreeSet;

use fleet_model::NodeName;

use super::Turn;
use crate::{
    effect::Effect,
    event::{Health, Kind, Reason},
    policy::{Gate, When},
    state::{Answer, Asked, Moment, Node, Rollout, State},
    target::Target,
};

/// So many answers in a row that a gate does not pass, of a node that has passed it. One alone may be a restart of what
/// is looked at; with it the wave is watched until the next answer.
const NOES: u64 = 2;

impl Turn<'_> {
    /// Takes in how a node is.
    pub(super) fn fares(&mut self, name: &NodeName, health: &Health) {
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        let (before, crashed) = (node.failed_before.clone(), node.crashed_before);
        if node.touched && before.is_none() {
            node.failed_before = Some(health.failing.keys().cloned().collect());
        }
        if matches!(node.state, State::Proving | State::Committed) {
            // A count that began anew is counted from there.
            node.crashed_before = match (crashed, health.crashes) {
                (Some(before), Some(now)) => Some(before.min(now)),
                (before, now) => before.or(now),
            };
        }
        let known = |known: &Health| known.fails_as(health) && known.crashes == health.crashes;
        if !node.health.as_ref().is_some_and(known) {
            node.health = Some(health.clone());
            self.changed = true;
        }
        self.changed |= before != node.failed_before || crashed != node.crashed_before;
    }

    /// These are well, after the time for which they are watched.
    pub(super) fn well(&mut self, nodes: &BTreeSet<NodeName>) {
        if self.rollout.bake_over().is_none() {
            return;
        }
        let moment = self.rollout.moment;
        let awaited: Vec<NodeName> =
            self.rollout.awaited().into_iter().filter(|name| nodes.contains(*name)).cloned().collect();
        for name in awaited {
            self.rollout.nodes.get_mut(&name).expect("just listed").well = Some(moment);
            self.changed = true;
        }
    }

    /// Nodes that do worse with the target than before it failed, and go back.
    pub(super) fn worse(&mut self) {
        let rollout = &*self.rollout;
        if !rollout.watched {
            return;
        }
        let watched =
            rollout.nodes.iter().filter(|(_, node)| rollout.watches(node) || node.state == State::Proving);
        let found: Vec<(NodeName, Reason)> =
            watched.filter_map(|(name, node)| Some((name.clone(), worse(rollout, node)?))).collect();
        for (name, reason) in found {
            self.fail_and_return(&name, reason);
        }
    }

    /// Takes in what a gate answers that a node has passed.
    pub(super) fn still(&mut self, name: &NodeName, gate: &str, answer: Answer) {
        let (moment, over) = (self.rollout.moment, self.rollout.bake_over());
        let asked = self.rollout.nodes.get_mut(name).and_then(|node| node.gates.get_mut(gate));
        let Some(asked) = asked else { return };
        if answer.passed && asked.passed() && over.is_none_or(|over| asked.passed_since(over)) {
            // As before: thousands say that now and then, and it need not be stored each time.
            return;
        }
        asked.noes = if answer.passed { 0 } else { asked.noes + 1 };
        asked.heard = Some(moment);
        asked.answer = Some(answer);
        self.changed = true;
    }

    /// Asks gates of nodes that have passed them: now and then, and once more when the time is over.
    pub(super) fn ask_the_watched(&mut self) {
        let over = self.rollout.bake_over();
        let again = self.rollout.spec.policy.deadlines.ask_again;
        let (before, moment) = (self.before, self.rollout.moment);
        for name in self.names(|node| node.connected && self.rollout.watches(node)) {
            let Rollout { spec, nodes, .. } = &mut *self.rollout;
            let node = nodes.get_mut(&name).expect("just listed");
            // Reckoned from the times alone: nothing is to be stored for it.
            let turns = |at: Moment| at.since(node.since).as_millis() / again.as_millis().max(1);
            let due = turns(moment) > turns(before);
            for gate in spec.policy.gates.iter().filter(|gate| gate.when == When::After) {
                let asked = node.gates.get(&gate.name);
                let last = over.is_some_and(|over| asked.is_none_or(|asked| asked.at < over));
                if last {
                    let asked = asked.cloned().unwrap_or_else(|| Asked::at(moment));
                    node.gates.insert(gate.name.clone(), Asked { at: moment, ..asked });
                    self.changed = true;
                }
                if last || due {
                    self.effects.push(Effect::Ask { node: name.clone(), gate: gate.name.clone() });
                }
            }
        }
    }

    /// Whether everybody who is watched has been heard to be well, and to pass its gates, after the time for that. True
    /// where nobody is.
    pub(super) fn all_well(&self, over: Moment) -> bool {
        let rollout = &*self.rollout;
        let gates: Vec<&Gate> = after(rollout).collect();
        rollout.nodes.values().filter(|node| rollout.watches(node)).all(|node| {
            node.well.is_some_and(|well| well >= over)
                && gates
                    .iter()
                    .all(|gate| node.gates.get(&gate.name).is_some_and(|asked| asked.passed_since(over)))
        })
    }

    /// What has the target and does not work is a reason to go back, though the node says that it is done. That is a
    /// change like any other: many fail at once when what they all need is gone, and they are told one after the other.
    pub(super) fn fail_and_return(&mut self, name: &NodeName, reason: Reason) {
        self.fail(name, reason);
        if self.rollout.spec.previous.is_some() && !self.rollout.goes_back() {
            self.rollout.nodes.get_mut(name).expect("just judged").returns = true;
            if !self.rollout.is_of_now() {
                self.tell_to_return(name);
            }
        }
    }
}

fn after(rollout: &Rollout) -> impl Iterator<Item = &Gate> {
    rollout.spec.policy.gates.iter().filter(|gate| gate.when == When::After)
}

/// In what a node does worse than before it had the target.
fn worse(rollout: &Rollout, node: &Node) -> Option<Reason> {
    let health = node.health.as_ref()?;
    if let (Some(before), Some(now)) = (node.crashed_before, health.crashes)
        && now > before
    {
        let times = if now - before == 1 { "once".to_owned() } else { format!("{} times", now - before) };
        return Some(Reason::new(Kind::Crashed, format!("{times} since it was updated")));
    }
    // Of what a plan brings the node itself says when it fails.
    let before = node.failed_before.as_ref().filter(|_| matches!(rollout.spec.target, Target::Release(_)))?;
    let (task, why) = health.failing.iter().find(|(task, _)| !before.contains(*task))?;
    Some(Reason::new(Kind::Work, format!("task `{task}`, which did not before: {why}")))
}

/// What becomes of a watched node of which too little is heard, and why.
pub(super) enum Unheard {
    /// A gate it passed no longer does.
    Gate(Reason),
    /// A gate is not answered.
    Silent(Reason),
    /// It does not get well.
    Unwell,
}

/// Whether too little is heard of a watched node.
pub(super) fn unheard(rollout: &Rollout, node: &Node) -> Option<Unheard> {
    // Who is away is silent before long, or comes back and says how it is.
    if !node.connected {
        return None;
    }
    let over = rollout.bake_over();
    for gate in after(rollout) {
        let Some(asked) = node.gates.get(&gate.name) else { continue };
        let failing = asked.answer.as_ref().filter(|answer| !answer.passed);
        // One no, and nothing more for as long as the gate has to pass at first. Who was away is asked again first.
        let long = |since: Moment| rollout.moment.since(since.max(node.connected_since)) >= gate.deadline;
        let late =
            over.is_some_and(|over| asked.heard.is_none_or(|heard| heard < over) && long(asked.at.max(over)));
        match failing {
            Some(answer) if asked.noes >= NOES || asked.heard.is_some_and(long) => {
                return Some(Unheard::Gate(gate_reason(gate, When::After, &answer.detail)));
            }
            None if late => {
                let why = format!("gate {} is not answered any more", gate.name);
                return Some(Unheard::Silent(Reason::new(Kind::Away, why)));
            }
            _ => {}
        }
    }
    let deadlines = &rollout.spec.policy.deadlines;
    let over = over.filter(|over| node.well.is_none_or(|well| well < *over))?;
    let back = rollout.moment.since(node.connected_since);
    let late = rollout.moment.since(over) >= deadlines.trial && back >= deadlines.trial;
    late.then_some(Unheard::Unwell)
}

/// That a gate does not pass.
pub(super) fn gate_reason(gate: &Gate, when: When, detail: &str) -> Reason {
    let kind = if when == When::Before { Kind::GateBefore } else { Kind::GateAfter };
    Reason::new(kind, format!("{} ({}): {detail}", gate.name, gate.check))
}
