//! What nodes say: the only source of where they stand.

use fleet_model::NodeName;

use super::Turn;
use crate::{
    effect::Effect,
    event::{Health, Kind, Reason, Step},
    policy::When,
    state::{Phase, State},
    target::Target,
};

impl Turn<'_> {
    pub(super) fn report(
        &mut self,
        name: &NodeName,
        order: u64,
        target: &Target,
        step: &Step,
        health: Option<&Health>,
    ) {
        if !self.rollout.nodes[name].connected {
            self.session(name, true);
        }
        self.has_seen(name, order);
        self.says(name, order, target, step);
        if let Some(health) = health {
            self.fares(name, health);
        }
    }

    /// Takes in that a node has seen orders above all that are known here: the store was restored from an older copy. What
    /// it is to do now bears a number that it refuses, so it is told once more under one that it takes.
    fn has_seen(&mut self, name: &NodeName, order: u64) {
        let (known, moment) = (self.rollout.order, self.rollout.moment);
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        if order <= known || order <= node.order || order <= node.seen {
            return;
        }
        node.seen = order;
        self.changed = true;
        if node.state.at_work() || (node.state == State::Failed && (node.returning || node.withdrawn)) {
            node.since = moment;
            self.next_order(name);
            self.remind(name);
        }
    }

    fn says(&mut self, name: &NodeName, order: u64, target: &Target, step: &Step) {
        let ours = *target == self.rollout.spec.target;
        if *step == Step::Committed && !ours {
            self.has_it_not(name);
        }
        let node = &self.rollout.nodes[name];
        let back = self.rollout.goes_back();
        let previous = self.rollout.spec.previous.as_ref() == Some(target);
        let current = order >= node.order;
        // Who is to go back has the target all the while, and says so.
        let (state, returning) = (node.state, node.returning || node.returns);
        match step {
            // Words about an order before say nothing about the present one.
            Step::Busy { .. } if !current && self.rollout.watched => {}
            Step::Busy { .. } => {
                let moment = self.rollout.moment;
                let node = self.rollout.nodes.get_mut(name).expect("admitted");
                if node.state.at_work() && node.busy.is_none() {
                    node.busy = Some(moment);
                    self.changed = true;
                }
            }
            Step::Fetching => self.on_its_way(name, State::Fetching, ours, previous),
            Step::Trial => self.on_its_way(name, State::Trial, ours, previous),
            Step::Committed if back || returning => match () {
                () if previous && state != State::RolledBack => {
                    // What drove it back stays worth knowing.
                    let reason = node.reason.clone();
                    self.put(name, State::RolledBack, reason);
                }
                () if previous || returning => {}
                // A node that returned takes up the release again, or was away when everybody was sent back.
                () if ours && matches!(state, State::RolledBack | State::Pending | State::Silent) => {
                    self.touch(name);
                    self.put(name, State::CatchingUp, None);
                }
                () if ours && current && matches!(state, State::Fetching | State::Trial) => self.cut(name),
                () if ours && self.rollout.may_go_on(node) => self.idle(name),
                () => {}
            },
            Step::Committed if ours => {
                self.touch(name);
                if !matches!(state, State::Committed | State::Proving) {
                    self.committed(name);
                }
            }
            Step::Committed => match state {
                State::Committed | State::Proving => {
                    self.went_back(name, Reason::new(Kind::OtherRelease, target.digest()));
                }
                State::Offered | State::Fetching | State::Silent | State::CatchingUp
                    if node.withdrawn && current =>
                {
                    self.untouched(name);
                }
                State::Fetching | State::Trial if current => self.cut(name),
                State::CatchingUp if current && self.rollout.may_go_on(node) => self.idle(name),
                // Its session was open all the time: this word is its return.
                State::Silent if current && self.rollout.is_of_now() => {
                    let reason = node.reason.clone();
                    self.put(name, State::CatchingUp, reason);
                    self.idle(name);
                }
                _ => {}
            },
            Step::Failed { .. } | Step::RolledBack { .. } if !current => {}
            Step::Failed { reason } if node.returning => self.cannot_return(name, reason),
            Step::Failed { reason } => {
                let about_target = if back { previous } else { ours };
                let news = state != State::Failed && (back || state != State::RolledBack);
                if about_target && news {
                    self.fail(name, reason.clone());
                }
            }
            Step::RolledBack { reason } if back && previous => {
                if state != State::Failed {
                    self.fail(name, reason.clone());
                }
            }
            Step::RolledBack { reason } if ours => {
                if state != State::RolledBack {
                    self.went_back(name, reason.clone());
                }
            }
            Step::RolledBack { .. } => {}
        }
    }

    fn on_its_way(&mut self, name: &NodeName, to: State, ours: bool, previous: bool) {
        if ours {
            self.touch(name);
        }
        if !ours || !self.rollout.spec.target.is_plan() {
            self.has_it_not(name);
        }
        let back = self.rollout.goes_back();
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        if back && ours && matches!(node.state, State::Pending | State::RolledBack) {
            // It takes up the release while everybody is sent back: so is it.
            self.put(name, State::CatchingUp, None);
            return;
        }
        if node.returning || node.returns || !(if back { previous } else { ours }) {
            return;
        }
        if node.busy.take().is_some() {
            self.changed = true;
        }
        if node.state != to {
            let unheard = matches!(node.state, State::Silent | State::CatchingUp);
            self.put(name, to, None);
            let node = self.rollout.nodes.get_mut(name).expect("admitted");
            (node.ordered, node.begun) = (true, to == State::Trial);
            // It did not hear that this was taken back, and is to be told once more.
            node.withdrawn &= !unheard;
        }
        // It goes on with what it was offered before: nobody switches while nothing is to start.
        if to == State::Fetching && !back && !self.going() {
            self.withdraw(name);
        }
    }

    fn touch(&mut self, name: &NodeName) {
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        if !node.touched {
            node.touched = true;
            self.changed = true;
        }
    }

    fn committed(&mut self, name: &NodeName) {
        // What its agent suffered until now is not held against what it has from here on; but who had it already, and was
        // away for long, may have crashed of it.
        if !self.rollout.is_of_now() {
            self.rollout.nodes.get_mut(name).expect("admitted").crashed_before = None;
        }
        if self.has_gates(When::After) {
            self.put(name, State::Proving, None);
            self.ask(name, When::After);
            return;
        }
        self.put(name, State::Committed, None);
        self.watch_anew(name);
    }

    /// A node that comes late into a wave that is watched is watched as long as the others.
    pub(super) fn watch_anew(&mut self, name: &NodeName) {
        let wave = self.rollout.nodes[name].wave;
        if wave == self.rollout.wave && matches!(self.rollout.phase, Phase::Baking { .. }) {
            self.rollout.phase = Phase::Baking { since: self.rollout.moment };
        }
    }

    /// Its offer was taken back before it began.
    fn untouched(&mut self, name: &NodeName) {
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        node.attempts = node.attempts.saturating_sub(1);
        let first = node.attempts == 0 && !node.again;
        node.touched = !first;
        (node.ordered, node.begun, node.withdrawn) = (false, false, false);
        self.put(name, if first { State::Pending } else { State::CatchingUp }, None);
    }

    /// It had begun, and now runs what it ran and has nothing in hand: power was cut, or somebody killed it.
    fn cut(&mut self, name: &NodeName) {
        let attempts = self.rollout.nodes[name].attempts;
        if attempts >= self.rollout.spec.policy.attempts {
            self.fail(name, Reason::new(Kind::Interrupted, format!("{attempts} times")));
        } else {
            self.put(name, State::CatchingUp, Some(Reason::new(Kind::Interrupted, String::new())));
            let node = self.rollout.nodes.get_mut(name).expect("admitted");
            (node.ordered, node.begun, node.withdrawn) = (false, false, false);
        }
    }

    /// It has something else, so that its crashes are counted anew once it has the target.
    fn has_it_not(&mut self, name: &NodeName) {
        let of_now = self.rollout.is_of_now();
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        if of_now && node.crashed_before.take().is_some() {
            self.changed = true;
        }
    }

    /// It is back, and has nothing in hand.
    fn idle(&mut self, name: &NodeName) {
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        (node.ordered, node.begun) = (false, false);
        self.changed = true;
    }

    pub(super) fn fail(&mut self, name: &NodeName, reason: Reason) {
        self.remember(name, &reason);
        self.put(name, State::Failed, Some(reason));
    }

    /// It was told to go back, and cannot: it says why, and a person has to look.
    fn cannot_return(&mut self, name: &NodeName, why: &Reason) {
        let node = self.rollout.nodes.get_mut(name).expect("admitted");
        let told = node.reason.clone().unwrap_or_else(|| why.clone());
        node.reason = Some(Reason::new(told.kind, format!("{}; it cannot go back: {why}", told.detail)));
        node.returning = false;
        self.changed = true;
    }

    fn went_back(&mut self, name: &NodeName, reason: Reason) {
        let sent = self.rollout.nodes[name].reason.clone().filter(|reason| reason.kind == Kind::SentBack);
        if let Some(sent) = sent {
            // It does as it was told; that is no failure of anything.
            self.put(name, State::RolledBack, Some(sent));
            return;
        }
        self.remember(name, &reason);
        self.put(name, State::RolledBack, Some(reason));
        self.has_it_not(name);
        self.rollout.nodes.get_mut(name).expect("admitted").returning = false;
    }

    fn remember(&mut self, name: &NodeName, reason: &Reason) {
        // Work is not remembered: another plan is another work, and what failed may be the node.
        if let Target::Release(release) = &self.rollout.spec.target
            && reason.kind.blames_the_release()
            && !self.rollout.goes_back()
        {
            let release = release.clone();
            self.effects.push(Effect::Remember { node: name.clone(), release, reason: reason.clone() });
        }
    }
}
