//! "Why not yet?", and what would happen.

use std::fmt;

use fleet_model::NodeName;

use crate::{
    engine::start::{Obstacle, Tally, obstacles, obstacles_back},
    policy::{Limits, When},
    state::{Rollout, State},
};

/// Where a node stands and why it is not further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Which node.
    pub node: NodeName,
    /// Where it stands.
    pub state: State,
    /// Its wave, counted from one.
    pub wave: usize,
    /// What is in its way, if it waits to be started.
    pub obstacles: Vec<Obstacle>,
    /// What is waited for, or what went wrong, in one line each.
    pub notes: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, in wave {}", self.node, self.state, self.wave)?;
        let lines = self.obstacles.iter().map(ToString::to_string).chain(self.notes.iter().cloned());
        lines.into_iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Why `node` is not updated yet; none if it is no node of this rollout.
pub fn explain(rollout: &Rollout, name: &NodeName) -> Option<Explanation> {
    let node = rollout.nodes.get(name)?;
    let waits = matches!(node.state, State::Pending | State::CatchingUp);
    // Who is silent would catch up if it were heard of: the rest is what else is in its way.
    let heard = (node.state == State::Silent).then(|| {
        let mut heard = rollout.clone();
        heard.nodes.entry(name.clone()).and_modify(|node| node.state = State::CatchingUp);
        heard
    });
    let obstacles = match &heard {
        Some(heard) => obstacles(heard, &heard.nodes[name], &Tally::of(heard)),
        None if node.returns => obstacles_back(rollout, node, &Tally::of(rollout)),
        None if waits => obstacles(rollout, node, &Tally::of(rollout)),
        None => Vec::new(),
    };
    let mut notes: Vec<String> = node.reason.iter().map(ToString::to_string).collect();
    let when = match node.state {
        State::Held => Some(When::Before),
        State::Proving => Some(When::After),
        State::Committed if rollout.watches(node) => Some(When::After),
        _ => None,
    };
    for gate in rollout.spec.policy.gates.iter().filter(|gate| Some(gate.when) == when) {
        let said = match node.gates.get(&gate.name).and_then(|asked| asked.answer.as_ref()) {
            Some(answer) if answer.passed => continue,
            Some(answer) => answer.detail.clone(),
            None => "no answer yet".into(),
        };
        notes.push(format!("gate {} waits until {}: {said}", gate.name, gate.check));
    }
    if node.state == State::Silent && node.connected {
        notes.push("it has a session, and catches up once it says where it stands".into());
    }
    if node.withdrawn && node.state.may_be_taken_back() {
        notes.push("its offer was taken back; waiting to hear that it has not begun".into());
    }
    if node.busy.is_some() {
        notes.push("it waits for its own work to pause, or for somebody who is busy, and tries again".into());
    }
    if rollout.awaited().contains(&name) {
        notes.push("it has been watched, and has yet to be heard to be well".into());
    }
    if node.returns {
        notes.push("it is to go back, and waits for its turn".into());
    }
    if node.returning && node.state == State::Failed {
        notes.push("it was told to go back".into());
    }
    Some(Explanation { node: name.clone(), state: node.state, wave: node.wave + 1, obstacles, notes })
}

/// One wave as it would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewedWave {
    /// Counted from one; the first are the canaries.
    pub wave: usize,
    /// Who, in the order in which they start.
    pub nodes: Vec<NodeName>,
    /// Its bounds.
    pub limits: Limits,
    /// For how long it is watched.
    pub bake: std::time::Duration,
}

/// The waves of `rollout`, before or while they happen.
pub fn preview(rollout: &Rollout) -> Vec<PreviewedWave> {
    (0..rollout.sizes.len())
        .map(|wave| {
            let mut nodes: Vec<_> = rollout.nodes.values().filter(|node| node.wave == wave).collect();
            nodes.sort_by_key(|node| node.place);
            PreviewedWave {
                wave: wave + 1,
                nodes: nodes.into_iter().map(|node| node.member.node.clone()).collect(),
                limits: rollout.wave_limits(wave),
                bake: rollout.spec.policy.bake_of(wave),
            }
        })
        .collect()
}
