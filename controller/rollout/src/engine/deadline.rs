//! What becomes of nodes with which nothing happens.

use fleet_model::NodeName;

use super::{
    Turn,
    watch::{Unheard, gate_reason, unheard},
};
use crate::{
    event::{Kind, Reason},
    policy::When,
    state::{Node, Phase, State},
};

/// A node at work that comes and goes is set aside after this many times its deadline, however often it returned.
const PATIENCE: u32 = 4;

enum Verdict {
    Silent(Reason),
    Overdue,
    Unwell,
    GateFailed(Reason),
    Untouched,
}

impl Turn<'_> {
    pub(super) fn deadlines(&mut self) {
        if self.rollout.phase == Phase::Draft {
            return;
        }
        let nodes = self.rollout.nodes.iter();
        let verdicts: Vec<(NodeName, Verdict)> =
            nodes.filter_map(|(name, node)| Some((name.clone(), self.verdict(node)?))).collect();
        for (name, verdict) in verdicts {
            match verdict {
                Verdict::Silent(reason) => self.put(&name, State::Silent, Some(reason)),
                Verdict::Untouched => self.put(&name, State::Pending, None),
                Verdict::Overdue => {
                    let state = self.rollout.nodes[&name].state;
                    self.fail(&name, Reason::new(Kind::Overdue, format!("still {state}")));
                }
                Verdict::Unwell => {
                    let why = "it has it, and was not heard to be well with it when it had been watched";
                    self.fail_and_return(&name, Reason::new(Kind::Overdue, why));
                }
                Verdict::GateFailed(reason) if reason.kind == Kind::GateBefore => self.fail(&name, reason),
                Verdict::GateFailed(reason) => self.fail_and_return(&name, reason),
            }
        }
    }

    fn verdict(&self, node: &Node) -> Option<Verdict> {
        let rollout = &*self.rollout;
        let deadlines = &rollout.spec.policy.deadlines;
        let over = matches!(rollout.phase, Phase::Finished { .. });
        let away = !node.connected && rollout.moment.since(node.connected_since) >= deadlines.silent;
        if away {
            let due = match node.state {
                State::Held if !node.touched => return Some(Verdict::Untouched),
                State::Pending => !over && !rollout.goes_back() && node.wave <= rollout.wave,
                State::Committed => !over && !rollout.goes_back(),
                State::CatchingUp => true,
                state => state.in_flight(),
            };
            return due.then(|| Verdict::Silent(Reason::new(Kind::Away, String::new())));
        }
        if matches!(node.state, State::Held | State::Proving) {
            return self.gate_verdict(node);
        }
        if rollout.watches(node) {
            return unheard(rollout, node).map(|unheard| match unheard {
                Unheard::Gate(reason) => Verdict::GateFailed(reason),
                Unheard::Silent(reason) => Verdict::Silent(reason),
                Unheard::Unwell => Verdict::Unwell,
            });
        }
        let limit = match node.state {
            State::Offered | State::Fetching if node.withdrawn => deadlines.answer,
            State::Offered => deadlines.answer,
            State::Fetching => deadlines.fetch,
            State::Trial => deadlines.trial,
            _ => return None,
        };
        let passed = rollout.moment.since(node.since);
        if let Some(busy) = node.busy {
            let long = rollout.moment.since(busy) >= deadlines.busy;
            return long.then(|| Verdict::Silent(Reason::new(Kind::Busy, String::new())));
        }
        if passed < limit {
            return None;
        }
        // While it is away nothing is held against it; once back it has time to say how it stands.
        if !node.connected || rollout.moment.since(node.connected_since) < deadlines.answer {
            return (passed >= limit * PATIENCE)
                .then(|| Verdict::Silent(Reason::new(Kind::Away, "it comes and goes".to_owned())));
        }
        match node.state {
            // It never said a word about it: that is no failure of the release.
            _ if node.withdrawn => Some(Verdict::Silent(Reason::new(
                Kind::Away,
                "it has a session, but did not say that it took back what it was offered".to_owned(),
            ))),
            State::Offered => Some(Verdict::Silent(Reason::new(
                Kind::Away,
                "it has a session, but never answered".to_owned(),
            ))),
            _ => Some(Verdict::Overdue),
        }
    }

    fn gate_verdict(&self, node: &Node) -> Option<Verdict> {
        let rollout = &*self.rollout;
        let when = if node.state == State::Held { When::Before } else { When::After };
        let passed = rollout.moment.since(node.since);
        let mut late =
            rollout.spec.policy.gates.iter().filter(|gate| gate.when == when && passed >= gate.deadline);
        let (gate, answer) =
            late.find_map(|gate| match node.gates.get(&gate.name).and_then(|a| a.answer.as_ref()) {
                Some(answer) if answer.passed => None,
                answer => Some((gate, answer)),
            })?;
        match answer {
            Some(answer) => Some(Verdict::GateFailed(gate_reason(gate, when, &answer.detail))),
            None if !node.connected
                && passed < gate.deadline + rollout.spec.policy.deadlines.silent * PATIENCE =>
            {
                None
            }
            None => Some(Verdict::Silent(Reason::new(
                Kind::Away,
                format!("gate {} was never answered", gate.name),
            ))),
        }
    }
}
