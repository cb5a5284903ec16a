//! What is learned of nodes by other ways than their own words: sessions, comings and goings, gates' answers.

use fleet_model::NodeName;

use super::{
    Turn,
    start::{Tally, obstacles},
};
use crate::{
    effect::Effect,
    event::{Event, Kind, Reason},
    policy::When,
    state::{Answer, Asked, Node, Phase, State},
};

impl Turn<'_> {
    pub(super) fn node_event(&mut self, event: &Event) {
        match event {
            Event::Sessions { connected } => {
                for name in self.names(|_| true) {
                    self.session(&name, connected.contains(&name));
                }
            }
            Event::Connected { node } => self.session(node, true),
            Event::Lost { node } => self.session(node, false),
            Event::Joined { member } => {
                // A node that is known and joins again was rebuilt: it is somebody else by that name.
                if let Some(known) = self.rollout.nodes.get(&member.node) {
                    if known.member == *member {
                        return;
                    }
                    self.retire(&member.node);
                }
                self.join(member);
            }
            Event::Retired { node } => self.retire(node),
            Event::Hold { node, reason } => self.hold(node, Some(reason)),
            Event::Release { node } => self.hold(node, None),
            Event::SendBack { node, by } => self.send_back(node, by),
            Event::Answer { node, gate, passed, detail } => {
                let answer = Answer { passed: *passed, detail: detail.clone(), at: self.rollout.clock };
                let (moment, watched) =
                    (self.rollout.moment, self.rollout.watches(&self.rollout.nodes[node]));
                if watched {
                    self.still(node, gate, answer);
                    return;
                }
                // An answer to what was not asked, or asked of an earlier attempt, says nothing about this one.
                let older = !self.rollout.watched;
                let node = self.rollout.nodes.get_mut(node).expect("admitted");
                let asks = matches!(node.state, State::Held | State::Proving) || older;
                if let Some(asked) = node.gates.get_mut(gate).filter(|_| asks) {
                    (asked.answer, asked.heard) = (Some(answer), Some(moment));
                    self.changed = true;
                }
            }
            // Everything else is not about sessions, membership or gates; `take` sends it elsewhere.
            _ => {}
        }
    }

    pub(super) fn session(&mut self, name: &NodeName, open: bool) {
        let moment = self.rollout.moment;
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        let newly = node.connected != open;
        if newly {
            node.connected = open;
            node.connected_since = moment;
            self.changed = true;
        }
        if !open {
            return;
        }
        if self.rollout.nodes[name].state == State::Silent {
            let reason = self.rollout.nodes[name].reason.clone();
            self.put(name, State::CatchingUp, reason);
        }
        // The answer to an order, or the order itself, may be what was lost; saying it twice changes nothing.
        self.remind(name);
    }

    fn join(&mut self, member: &crate::Member) {
        let rollout = &mut *self.rollout;
        // A rollout that has not ended takes it in at its end, one that has treats it like a node that was away.
        let over = matches!(rollout.phase, Phase::Finished { .. });
        let wave = rollout.sizes.len() - 1;
        let place = rollout.nodes.values().map(|node| node.place + 1).max().unwrap_or(0);
        let mut node = Node::new(member.clone(), wave, place, rollout.moment);
        if over {
            node.state = State::CatchingUp;
        }
        rollout.sizes[wave] += 1;
        rollout.nodes.insert(member.node.clone(), node);
        self.changed = true;
    }

    fn retire(&mut self, name: &NodeName) {
        if let Some(node) = self.rollout.nodes.remove(name) {
            let size = &mut self.rollout.sizes[node.wave];
            *size = size.saturating_sub(1);
            self.changed = true;
        }
    }

    fn hold(&mut self, name: &NodeName, reason: Option<&String>) {
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        if node.hold.as_ref() != reason {
            node.hold = reason.cloned();
            node.kept_back = false;
            self.changed = true;
        }
        let node = &self.rollout.nodes[name];
        if reason.is_some() && node.state == State::Held {
            self.put(name, State::Pending, None);
        } else if reason.is_some() && (node.state.may_be_taken_back() || self.rollout.never_begun(node)) {
            self.withdraw(name);
        }
    }

    fn send_back(&mut self, name: &NodeName, by: &str) {
        self.put(name, State::Failed, Some(Reason::new(Kind::SentBack, by)));
        self.next_order(name);
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        node.returning = true;
        node.hold = Some(format!("{by} sent it back"));
        node.kept_back = self.rollout.rules > 0;
        self.remind(name);
    }

    /// Asks gates, and moves nodes whose gates all pass.
    pub(super) fn gates(&mut self) {
        for name in self.names(|node| matches!(node.state, State::Held | State::Proving)) {
            let when =
                if self.rollout.nodes[&name].state == State::Held { When::Before } else { When::After };
            if when == When::Before && !self.going() {
                // Nothing was touched: it is asked afresh when the rollout goes on.
                let touched = self.rollout.nodes[&name].touched;
                self.put(&name, if touched { State::CatchingUp } else { State::Pending }, None);
            } else if self.all_pass(&name, when) {
                if when == When::Before {
                    // Minutes may have passed since its turn came: a window closed, another member of its cluster went.
                    let touched = self.rollout.nodes[&name].touched;
                    self.put(&name, if touched { State::CatchingUp } else { State::Pending }, None);
                    let tally = Tally::of(self.rollout);
                    let free = obstacles(self.rollout, &self.rollout.nodes[&name], &tally).is_empty();
                    if free || !self.rollout.watched {
                        self.offer(&name);
                    }
                } else {
                    self.put(&name, State::Committed, None);
                    self.watch_anew(&name);
                }
            } else {
                self.ask(&name, when);
            }
        }
        self.ask_the_watched();
    }

    pub(super) fn has_gates(&self, when: When) -> bool {
        self.rollout.spec.policy.gates.iter().any(|gate| gate.when == when)
    }

    fn all_pass(&self, name: &NodeName, when: When) -> bool {
        let asked = &self.rollout.nodes[name].gates;
        let mut gates = self.rollout.spec.policy.gates.iter().filter(|gate| gate.when == when);
        gates.all(|gate| asked.get(&gate.name).is_some_and(Asked::passed))
    }

    /// Asks each gate that has not passed, now and then.
    pub(super) fn ask(&mut self, name: &NodeName, when: When) {
        let moment = self.rollout.moment;
        let again = self.rollout.spec.policy.deadlines.ask_again;
        let node = self.rollout.nodes.get_mut(name).expect("just listed");
        if !node.connected {
            return;
        }
        for gate in self.rollout.spec.policy.gates.iter().filter(|gate| gate.when == when) {
            let due = node
                .gates
                .get(&gate.name)
                .is_none_or(|asked| !asked.passed() && moment.since(asked.at) >= again);
            if due {
                let asked = node.gates.remove(&gate.name).unwrap_or_else(|| Asked::at(moment));
                node.gates.insert(gate.name.clone(), Asked { at: moment, ..asked });
                self.effects.push(Effect::Ask { node: name.clone(), gate: gate.name.clone() });
                self.changed = true;
            }
        }
    }
}
