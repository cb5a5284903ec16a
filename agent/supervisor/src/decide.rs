//! The rules. Pure: no clock, no disk, no process.
//!
//! [`decide`] takes what is remembered and what happened, and gives what to remember and what to do. The caller writes
//! the state down first, then acts; where it cannot write, [`unsaved`] says what to do instead.

use std::time::Duration;

use crate::{
    digest::Digest,
    record::{Ask, Content, FAILED_KEPT, Failed, Request, Slot, State, Trial},
};

/// Crashes after a commit that bring the old slot back.
pub const PROBATION_CRASHES: u32 = 3;
/// A run of this length proves a committed version.
pub const PROBATION: Duration = Duration::from_secs(3600);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// No agent runs, and one should.
    Idle {
        /// The request found.
        request: Option<Request>,
        /// The slots whose program is there: its digest and size.
        found: Found,
    },
    /// The agent is gone.
    Exited {
        /// How, if it was not in order: exit status, signal, or silence.
        crash: Option<String>,
    },
    /// The agent on trial says that it is well.
    Commit {
        /// Which it is.
        digest: Digest,
    },
    /// Time is up for the trial.
    Late {
        /// What was missing.
        reason: String,
    },
    /// The agent has run for [`PROBATION`].
    Proved,
    /// The supervisor was told to stop in order.
    Stopped,
}

/// What the slots really hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Digest and size of the program in slot a.
    pub a: Option<(Digest, u64)>,
    /// Digest and size of the program in slot b.
    pub b: Option<(Digest, u64)>,
}

impl Found {
    /// Whether `slot` holds exactly `content`.
    pub fn holds(&self, slot: Slot, content: Option<&Content>) -> bool {
        let found = match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        };
        content.is_some_and(|content| found == Some((content.digest, content.size)))
    }
}

/// What to do, in this order, after the state is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove the request; it is taken or refused.
    Forget,
    /// Start the agent of this slot.
    Start(Slot),
    /// End the agent that runs.
    End,
    /// Say this in the log.
    Say(String),
    /// Nothing can be started.
    GiveUp(String),
}

/// What follows from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to remember.
    pub state: State,
    /// What to do then.
    pub actions: Vec<Action>,
}

/// What follows from `event`.
pub fn decide(state: &State, event: Event) -> Decision {
    let mut next = Next { state: state.clone(), actions: Vec::new() };
    match event {
        Event::Idle { request, found } => {
            if let Some(request) = request {
                next.take(request, found);
            }
            next.choose(found);
        }
        Event::Exited { crash } => next.exited(crash),
        Event::Commit { digest } => next.commit(digest),
        Event::Late { reason } => {
            if state.trial.is_some() {
                next.fail_trial(&reason);
                next.actions.push(Action::End);
            }
        }
        Event::Proved => {
            if state.trial.is_none() {
                next.state.probation = None;
            }
        }
        Event::Stopped => {
            if let Some(trial) = &mut next.state.trial {
                trial.tries = trial.tries.saturating_sub(1);
            }
        }
    }
    Decision { state: next.state, actions: next.actions }
}

/// What to do when the state of `decision` cannot be written over `state`: nothing uncounted is tried, nothing
/// unrecorded is committed, and the way back is open all the same.
pub fn unsaved(state: &State, decision: Decision, found: Found) -> Decision {
    let starts = decision.actions.iter().any(|action| matches!(action, Action::Start(_)));
    if starts && decision.state.trial.is_some() {
        let mut next = Next { state: state.clone(), actions: Vec::new() };
        next.say(
            "the disk takes no record, so nothing is tried; going on with the slot that served".to_owned(),
        );
        // The request stays, and is looked at again when the agent exits.
        next.start_active(found);
        // Moving to the other slot because the active one is broken is for this run only.
        return Decision { state: state.clone(), actions: next.actions };
    }
    // Moving to the slot on trial because the active one is broken starts something; a commit does not.
    let commits = state.trial.is_some() && decision.state.active != state.active;
    if commits && !starts {
        return Decision { state: state.clone(), actions: Vec::new() };
    }
    // A request is not forgotten before it is known to be taken.
    let actions = decision.actions.into_iter().filter(|action| *action != Action::Forget).collect();
    Decision { state: decision.state, actions }
}

struct Next {
    state: State,
    actions: Vec<Action>,
}

impl Next {
    fn say(&mut self, text: String) {
        self.actions.push(Action::Say(text));
    }

    fn take(&mut self, request: Request, found: Found) {
        self.actions.push(Action::Forget);
        if self.state.taken.as_ref() == Some(&request.id) {
            return;
        }
        self.state.taken = Some(request.id);
        let idle = self.state.active.other();
        match request.ask {
            _ if self.state.trial.is_some() => {
                self.say("a request is refused: a trial is under way".to_owned())
            }
            Ask::Try { slot, content, .. } if slot != idle => {
                self.say(format!("{} is refused: slot {slot} is in use", content.version));
            }
            Ask::Try { slot, content, terms, again } => {
                if let Some(failed) = self.state.failure(content.digest)
                    && !again
                {
                    let text = format!("{} is refused: it failed here: {}", content.version, failed.reason);
                    return self.say(text);
                }
                if !found.holds(slot, Some(&content)) {
                    // What the slot held before is gone as well.
                    *self.state.content_mut(slot) = None;
                    return self.remember(&content, "the program in its slot is not what its digest says");
                }
                self.say(format!("{} goes on trial in slot {slot}", content.version));
                *self.state.content_mut(slot) = Some(content);
                self.state.trial = Some(Trial { tries: 0, terms });
                self.state.probation = None;
            }
            Ask::Return { reason } => {
                if found.holds(idle, self.state.content(idle)) {
                    self.go_back(&format!("sent back: {reason}"));
                } else {
                    self.say(format!("cannot go back: slot {idle} holds no sound agent"));
                }
            }
        }
    }

    /// Starts what should run.
    fn choose(&mut self, found: Found) {
        let idle = self.state.active.other();
        if let Some(trial) = &self.state.trial {
            if !found.holds(idle, self.state.content(idle)) {
                self.fail_trial("the program in its slot is not what its digest says");
            } else if trial.tries >= trial.terms.tries {
                let text = format!("{} starts without a commit", trial.tries);
                self.fail_trial(&text);
            }
        }
        if let Some(trial) = &mut self.state.trial {
            trial.tries += 1;
            return self.actions.push(Action::Start(idle));
        }
        self.start_active(found);
    }

    fn start_active(&mut self, found: Found) {
        let idle = self.state.active.other();
        if !found.holds(self.state.active, self.state.content(self.state.active)) {
            if !found.holds(idle, self.state.content(idle)) {
                let text = "neither slot holds a sound agent; put one there with `fleet-supervisor adopt FILE VERSION`";
                return self.actions.push(Action::GiveUp(text.to_owned()));
            }
            self.go_back("the program in its slot is not what its digest says");
        }
        self.actions.push(Action::Start(self.state.active));
    }

    fn exited(&mut self, crash: Option<String>) {
        if let Some(trial) = &self.state.trial {
            if trial.tries >= trial.terms.tries {
                let how = crash.unwrap_or_else(|| "it exited without a commit".to_owned());
                self.fail_trial(&format!("{how}, after {} starts", trial.tries));
            }
        } else if let (Some(before), Some(how)) = (self.state.probation, crash) {
            let crashes = before + 1;
            self.state.probation = Some(crashes);
            let idle = self.state.content(self.state.active.other());
            let way_back = idle.is_some_and(|content| self.state.failure(content.digest).is_none());
            if crashes >= PROBATION_CRASHES && way_back {
                self.go_back(&format!("{how}, {crashes} times after its commit"));
            }
        }
    }

    fn commit(&mut self, digest: Digest) {
        let idle = self.state.active.other();
        let tried = self.state.content(idle).is_some_and(|content| content.digest == digest);
        if self.state.trial.is_none() || !tried {
            return;
        }
        self.state.trial = None;
        self.state.active = idle;
        self.state.probation = Some(0);
        self.state.failed.retain(|failed| failed.digest != digest);
        self.say(format!("slot {idle} is committed"));
    }

    fn fail_trial(&mut self, reason: &str) {
        self.state.trial = None;
        if let Some(content) = self.state.content(self.state.active.other()).cloned() {
            self.remember(&content, reason);
        }
    }

    /// Leaves the active slot for the other one.
    fn go_back(&mut self, reason: &str) {
        if let Some(content) = self.state.content(self.state.active).cloned() {
            self.remember(&content, reason);
        }
        self.state.active = self.state.active.other();
        self.state.trial = None;
        self.state.probation = None;
    }

    fn remember(&mut self, content: &Content, reason: &str) {
        let Content { digest, version, .. } = content.clone();
        self.say(format!("{version} failed: {reason}"));
        self.state.failed.retain(|failed| failed.digest != digest);
        if self.state.failed.len() >= FAILED_KEPT {
            self.state.failed.remove(0);
        }
        self.state.failed.push(Failed { digest, version, reason: reason.to_owned() });
    }
}

#[cfg(test)]
mod tests;
