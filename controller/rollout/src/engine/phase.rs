//! From wave to wave to the end.

use fleet_model::NodeName;

use super::Turn;
use crate::{
    effect::Notice,
    state::{Finish, Node, Phase, State},
};

/// Whether a wave need not wait for this node any longer.
fn settled(node: &Node) -> bool {
    match node.state {
        State::Committed | State::Failed | State::RolledBack | State::Silent => true,
        State::Pending | State::CatchingUp => node.hold.is_some(),
        _ => false,
    }
}

impl Turn<'_> {
    /// Moves on if it is time; says whether it did.
    pub(super) fn move_phase(&mut self) -> bool {
        if !self.going() {
            return false;
        }
        match self.rollout.phase {
            Phase::Running => {
                self.find_canaries();
                if !self.wave_is_settled() || !self.is_proved() {
                    return false;
                }
                self.rollout.phase = Phase::Baking { since: self.rollout.moment };
                self.announce(Notice::WaveBakes { wave: self.rollout.wave + 1 });
                true
            }
            Phase::Baking { .. } => {
                let unwatched = self.rollout.spec.policy.bake_of(self.rollout.wave).is_zero();
                let passed = unwatched || self.rollout.bake_over().is_some_and(|over| self.all_well(over));
                if !passed || !self.wave_is_settled() || !self.canaries_are_there() {
                    return false;
                }
                // What proved the release may have failed since.
                if !self.is_proved() {
                    self.rollout.phase = Phase::Running;
                    self.changed = true;
                    return true;
                }
                if self.rollout.wave + 1 == self.rollout.sizes.len() {
                    self.finish(Finish::Done);
                } else {
                    self.rollout.wave += 1;
                    self.rollout.phase = Phase::Running;
                    let (wave, of) = (self.rollout.wave + 1, self.rollout.sizes.len());
                    self.announce(Notice::WaveBegan { wave, of });
                }
                true
            }
            Phase::Undoing => {
                if !self.rollout.nodes.values().filter(|node| node.touched).all(settled) {
                    return false;
                }
                self.finish(Finish::Undone);
                true
            }
            Phase::Draft | Phase::Finished { .. } => false,
        }
    }

    /// Of the present wave and those before it: whoever caught up is waited for as well.
    fn wave_is_settled(&self) -> bool {
        self.rollout.nodes.values().filter(|node| node.wave <= self.rollout.wave).all(settled)
    }

    /// Who is watched must be there at the end, and have had the time to say how it stands: one that crashed a moment ago
    /// has no session, or says next that it went back. It comes back, or falls silent, which is counted. Later waves are
    /// not held up by who comes and goes: of thousands somebody always does.
    fn canaries_are_there(&self) -> bool {
        let policy = &self.rollout.spec.policy;
        let word = policy.deadlines.ask_again.min(policy.canary_bake);
        let there = |node: &Node| node.connected && self.rollout.moment.since(node.connected_since) >= word;
        let watched = |node: &&Node| node.wave == 0 && node.state == State::Committed;
        self.rollout.wave > 0 || self.rollout.nodes.values().filter(watched).all(there)
    }

    /// The canaries are passed by success, not by absence. Where nobody could go first any more, whoever runs the
    /// release already proves it, and with nobody left to be changed there is nothing to prove.
    fn is_proved(&self) -> bool {
        let any = |is: fn(&Node) -> bool| self.rollout.nodes.values().any(is);
        let waits = |node: &Node| matches!(node.state, State::Pending | State::CatchingUp);
        self.rollout.wave > 0
            || any(|node| node.wave == 0 && node.state == State::Committed)
            || (self.next_canary().is_none() && (any(|node| node.state == State::Committed) || !any(waits)))
    }

    /// Another node goes first in place of a canary that is away or held, and one more does if none is left to prove
    /// the release.
    fn find_canaries(&mut self) {
        if self.rollout.wave > 0 {
            return;
        }
        let absent = |node: &Node| {
            node.wave == 0
                && !node.touched
                && match node.state {
                    State::Silent => true,
                    State::Pending | State::CatchingUp => node.hold.is_some(),
                    _ => false,
                }
        };
        for name in self.names(absent) {
            let Some(other) = self.next_canary() else { break };
            let (wave, place) = (self.rollout.nodes[&other].wave, self.rollout.nodes[&other].place);
            let away = self.rollout.nodes.get_mut(&name).expect("just listed");
            let freed = std::mem::replace(&mut away.place, place);
            away.wave = wave;
            self.promote(&other, freed);
        }
        if self.wave_is_settled()
            && !self.is_proved()
            && let Some(other) = self.next_canary()
        {
            let node = &self.rollout.nodes[&other];
            let (wave, place) = (node.wave, node.place);
            self.rollout.sizes[wave] -= 1;
            self.rollout.sizes[0] += 1;
            self.promote(&other, place);
        }
    }

    fn promote(&mut self, name: &NodeName, place: usize) {
        let node = self.rollout.nodes.get_mut(name).expect("just found");
        node.wave = 0;
        node.place = place;
        self.changed = true;
    }

    fn next_canary(&self) -> Option<NodeName> {
        let fit = |node: &&Node| {
            node.wave > 0
                && node.connected
                && node.hold.is_none()
                && !node.member.seed
                && matches!(node.state, State::Pending | State::CatchingUp)
        };
        self.rollout
            .nodes
            .values()
            .filter(fit)
            .min_by_key(|node| node.place)
            .map(|node| node.member.node.clone())
    }
}
