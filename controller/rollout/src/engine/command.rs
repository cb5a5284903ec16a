//! What operators say, and time zones.

use super::{Refused, Turn};
use crate::{
    effect::Notice,
    event::Event,
    state::{Finish, Halt, Line, Phase, Rollout, Standing, State},
};

/// Whether `event` makes sense where `rollout` stands.
pub(super) fn admit(rollout: &Rollout, event: &Event) -> Result<(), Refused> {
    let standing = rollout.standing();
    let not = |asked, hint| Err(Refused::NotNow { asked, standing, hint });
    let over = matches!(rollout.phase, Phase::Finished { finish: Finish::Superseded });
    match event {
        Event::Start if rollout.phase != Phase::Draft => {
            not("start", "see how it stands, or resume it if it is halted")
        }
        Event::Halt { .. } if rollout.phase == Phase::Draft => {
            not("halt", "nothing happens before it is started")
        }
        Event::Halt { .. } if over => not("halt", "halt the rollout that took over"),
        Event::Resume { .. } if rollout.halt.is_none() && rollout.line.is_some() => {
            not("resume", "the line is stopped: clear the line instead")
        }
        Event::Resume { .. } if rollout.halt.is_none() || over => {
            not("resume", "only a halted one can go on")
        }
        Event::Undo if rollout.phase == Phase::Draft => not("undo", "nothing was touched yet"),
        Event::Undo if rollout.goes_back() => not("undo", "it goes back already; resume it if it is halted"),
        Event::Undo if over => not("undo", "undo the rollout that took over"),
        Event::Undo if rollout.spec.previous.is_none() => Err(Refused::NothingBefore),
        Event::Supersede if over => not("supersede", "another rollout took over before"),
        Event::Hold { node, .. }
        | Event::Release { node }
        | Event::SendBack { node, .. }
        | Event::Retired { node }
        | Event::Connected { node }
        | Event::Lost { node }
        | Event::Report { node, .. }
        | Event::Answer { node, .. }
            if !rollout.nodes.contains_key(node) =>
        {
            Err(Refused::UnknownNode(node.clone()))
        }
        Event::SendBack { .. } if over => not("send a node back in", "name it to the rollout that took over"),
        Event::SendBack { .. } if rollout.goes_back() => {
            not("send a node back in", "everybody it touched goes back already")
        }
        Event::SendBack { .. } if rollout.spec.previous.is_none() => Err(Refused::NothingBefore),
        Event::SendBack { node, .. }
            if !rollout.nodes[node].touched || rollout.nodes[node].state == State::RolledBack =>
        {
            Err(Refused::NotChanged(node.clone()))
        }
        _ => Ok(()),
    }
}

impl Turn<'_> {
    pub(super) fn command(&mut self, event: &Event) {
        match event {
            Event::Start => {
                self.rollout.phase = Phase::Running;
                self.announce(Notice::WaveBegan { wave: 1, of: self.rollout.sizes.len() });
            }
            Event::Halt { by, reason } => self.halt(format!("{by} halted it: {reason}"), Vec::new()),
            Event::Resume { retry } => self.resume(*retry),
            Event::Undo => self.undo(),
            Event::StopLine { by, reason } => {
                let line = Line { by: by.clone(), reason: reason.clone() };
                if self.rollout.line.as_ref() != Some(&line) {
                    let reason = format!("{by} stopped the line: {reason}");
                    self.rollout.line = Some(line);
                    self.announce(Notice::Halted { reason, nodes: Vec::new() });
                    self.withdraw_all();
                }
            }
            Event::ClearLine if self.rollout.line.is_some() => {
                self.rollout.line = None;
                self.changed = true;
                if self.rollout.standing() != Standing::Halted {
                    self.announce(Notice::Resumed);
                }
            }
            Event::Supersede => {
                self.withdraw_all();
                self.finish(Finish::Superseded);
            }
            Event::Offsets { seconds_ahead } if self.rollout.offsets != *seconds_ahead => {
                self.rollout.offsets.clone_from(seconds_ahead);
                self.changed = true;
            }
            Event::Beside { out } if self.rollout.beside != *out => {
                self.rollout.beside.clone_from(out);
                self.changed = true;
            }
            // What is said twice, and everything that is no command: `take` sends that elsewhere.
            _ => {}
        }
    }

    /// Starts nothing new from here on.
    pub(super) fn halt(&mut self, reason: String, nodes: Vec<fleet_model::NodeName>) {
        if self.rollout.halt.is_some() {
            return;
        }
        self.rollout.halt =
            Some(Halt { reason: reason.clone(), nodes: nodes.clone(), at: self.rollout.clock });
        self.announce(Notice::Halted { reason, nodes });
        self.withdraw_all();
    }

    fn resume(&mut self, retry: bool) {
        self.rollout.halt = None;
        self.announce(Notice::Resumed);
        let wrong =
            self.names(|node| matches!(node.state, State::Failed | State::RolledBack | State::Silent));
        for name in wrong {
            let back = self.rollout.goes_back();
            let state = self.rollout.nodes[&name].state;
            let again = retry && (state == State::Failed || (state == State::RolledBack && !back));
            if again {
                self.put(&name, State::CatchingUp, None);
                // What it said about the order before no longer counts.
                self.next_order(&name);
            }
            let node = self.rollout.nodes.get_mut(&name).expect("just listed");
            if again {
                node.attempts = 0;
                node.withdrawn = false;
                node.crashed_before = None;
                node.again = true;
                node.returning = false;
            } else {
                node.forgiven = true;
            }
        }
    }

    fn undo(&mut self) {
        self.rollout.halt = None;
        self.rollout.phase = Phase::Undoing;
        self.announce(Notice::Undoing);
        for name in self.names(|node| node.touched) {
            let never_begun = self.rollout.never_begun(&self.rollout.nodes[&name]);
            let node = self.rollout.nodes.get_mut(&name).expect("just listed");
            node.attempts = 0;
            node.again = false;
            if std::mem::take(&mut node.kept_back) {
                node.hold = None;
            }
            match node.state {
                State::RolledBack => {}
                // It has its place in flight and keeps it: the order is turned round. A stopped line forbids even that.
                State::Offered | State::Fetching | State::Trial | State::Proving
                    if self.rollout.line.is_none() =>
                {
                    self.offer(&name);
                }
                // What it was offered is taken back already; its answer says that it has what it had.
                State::Offered | State::Fetching if node.withdrawn => {}
                State::Silent => node.forgiven = true,
                _ => {
                    self.put(&name, State::CatchingUp, None);
                    self.next_order(&name);
                }
            }
            // Its turn to go back may be long in coming, and it is not to begin meanwhile.
            if never_begun {
                self.withdraw(&name);
            }
        }
        for name in
            self.names(|node| !node.touched && node.state != State::Pending && node.state != State::Silent)
        {
            self.put(&name, State::Pending, None);
        }
    }

    pub(super) fn finish(&mut self, finish: Finish) {
        self.rollout.phase = Phase::Finished { finish };
        self.announce(Notice::Finished);
    }
}
