//! The rules. Pure: no clock, no disk, no process.
//!
//! [`decide`] takes what is remembered and what happened, and gives what to remember and what to do. The caller writes
//! the state down first, then acts; where it cannot write, [`unsaved`] says what to do instead.

use std::time::Duration;

use crate::{
    digest::Digest,
    record::{Ask, Content, FAILED_KEPT, Failed, Request, Slot, State, Trial, Why},
};

/// Ends after a commit that bring the old slot back where something else may have brought them about: memory that
/// others took, a machine too slow for a sign of life. A crash of its own making brings it back at once: whoever watches
/// canaries for little longer than they live must not see them come up again.
pub const PROBATION_CRASHES: u32 = 3;
/// A run of this length proves a committed version.
pub const PROBATION: Duration = Duration::from_secs(600);
/// Orderly stops in one trial that give the start back: enough for the reboots of an evening, and an end to a node that
/// is stopped each time before its trial could say anything.
pub const STOPS_FORGIVEN: u32 = 8;

/// What is said of a slot that rotted, or was never whole.
const UNSOUND: &str = "the program in its slot is not what its digest says";

/// What is said of a trial that nothing but the controller was missing to.
const UNHEARD: &str = "it was well until the ceiling of its trial, and found no controller";

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
        /// The slot it ran from.
        slot: Slot,
        /// How, if it was not in order: exit status, signal, or silence.
        crash: Option<Crash>,
    },
    /// The system did not let the agent start: no verdict on the agent.
    Unstarted {
        /// The slot it would have run from.
        slot: Slot,
        /// What the system lacks.
        why: String,
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
    /// The trial has come to its ceiling, and the agent's last word was that it is well and the controller not to be
    /// had: no verdict on the agent, which may be asked for again.
    Ceiling,
    /// The agent has run for [`PROBATION`].
    Proved,
    /// The supervisor was told to stop in order.
    Stopped,
}

/// An end that was not in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Which kind.
    pub why: Why,
    /// What was seen, in words.
    pub how: String,
}

/// What a slot really holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// No program.
    #[default]
    Nothing,
    /// It cannot be read just now. Trouble of the disk or of memory is no verdict on a program.
    Unreadable,
    /// A program of this digest and size.
    Program(Digest, u64),
}

/// What the slots really hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In slot a.
    pub a: Seen,
    /// In slot b.
    pub b: Seen,
}

impl Found {
    /// In `slot`.
    pub fn of(&self, slot: Slot) -> Seen {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }

    /// Whether `slot` holds exactly `content`.
    pub fn holds(&self, slot: Slot, content: Option<&Content>) -> bool {
        content.is_some_and(|content| self.of(slot) == Seen::Program(content.digest, content.size))
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
        Event::Exited { slot, crash } if slot == state.current() => next.exited(crash),
        // Whatever ran in place of a slot that could not be read proves nothing about that slot.
        Event::Exited { .. } => (),
        Event::Unstarted { slot, why } => {
            if state.trial.is_some() && slot == state.current() {
                next.abandon(&why);
            }
        }
        Event::Commit { digest } => next.commit(digest),
        Event::Late { reason } => {
            if state.trial.is_some() {
                next.fail_trial(Why::Late, &reason);
                next.actions.push(Action::End);
            }
        }
        Event::Ceiling => {
            if state.trial.is_some() {
                next.abandon(UNHEARD);
                next.actions.push(Action::End);
            }
        }
        Event::Proved => {
            if state.trial.is_none() {
                next.state.probation = None;
            }
        }
        Event::Stopped => {
            if let Some(trial) = &mut next.state.trial
                && trial.stops < STOPS_FORGIVEN
            {
                trial.stops += 1;
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
                if found.of(slot) == Seen::Unreadable {
                    let text = format!("{} is not tried: its slot cannot be read", content.version);
                    return self.say(text);
                }
                if !found.holds(slot, Some(&content)) {
                    // What the slot held before is gone as well.
                    *self.state.content_mut(slot) = None;
                    return self.remember(&content, Why::Unsound, UNSOUND);
                }
                self.say(format!("{} goes on trial in slot {slot}", content.version));
                *self.state.content_mut(slot) = Some(content);
                self.state.trial = Some(Trial { tries: 0, stops: 0, terms });
                self.state.untried = false;
                self.state.probation = None;
            }
            Ask::Return { reason } => {
                let there = self.state.content(idle).and_then(|there| self.state.failure(there.digest));
                if let Some(failed) = there {
                    let text =
                        format!("cannot go back to {}: it failed here: {}", failed.version, failed.reason);
                    self.say(text);
                } else if self.state.untried {
                    self.say(format!("cannot go back: what slot {idle} holds never served here"));
                } else if found.holds(idle, self.state.content(idle)) {
                    self.go_back(Why::Returned, &format!("sent back: {reason}"));
                    // It served before; whether it still can is to be seen.
                    self.state.probation = Some(0);
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
            if found.of(idle) == Seen::Unreadable {
                self.abandon("its slot cannot be read");
            } else if !found.holds(idle, self.state.content(idle)) {
                self.fail_trial(Why::Unsound, UNSOUND);
            } else if trial.tries >= trial.terms.tries {
                let text = format!("{} starts without a commit", trial.tries);
                self.fail_trial(Why::Crashed, &text);
            }
        }
        if let Some(trial) = &mut self.state.trial {
            trial.tries += 1;
            return self.actions.push(Action::Start(idle));
        }
        self.start_active(found);
    }

    fn start_active(&mut self, found: Found) {
        let (active, idle) = (self.state.active, self.state.active.other());
        if !found.holds(active, self.state.content(active)) {
            let unreadable = found.of(active) == Seen::Unreadable;
            if !found.holds(idle, self.state.content(idle)) {
                let text = match unreadable || found.of(idle) == Seen::Unreadable {
                    true => "no slot can be read; look at the disk and the memory of this node",
                    false => {
                        "neither slot holds a sound agent; put one there with `fleet-supervisor adopt FILE VERSION`"
                    }
                };
                return self.actions.push(Action::GiveUp(text.to_owned()));
            }
            if unreadable {
                // For this run only: at the next start it may be readable again.
                self.say(format!("slot {active} cannot be read; slot {idle} runs in its place"));
                return self.actions.push(Action::Start(idle));
            }
            self.go_back(Why::Unsound, UNSOUND);
        }
        self.actions.push(Action::Start(self.state.active));
    }

    fn exited(&mut self, crash: Option<Crash>) {
        if let Some(trial) = &self.state.trial {
            if trial.tries >= trial.terms.tries {
                let unsaid = || Crash { why: Why::Late, how: "it exited without a commit".to_owned() };
                let Crash { why, how } = crash.unwrap_or_else(unsaid);
                let text = format!("{how}, after {} starts", trial.tries);
                self.fail_trial(why, &text);
            }
        } else if let (Some(before), Some(Crash { why, how })) = (self.state.probation, crash) {
            let crashes = before + 1;
            self.state.probation = Some(crashes);
            let Some(idle) = self.state.content(self.state.active.other()) else { return };
            // What was left because somebody wished so did not fail: where that wish cannot be met, it serves again.
            let (way_back, since) = match self.state.failure(idle.digest) {
                None => (true, "its commit"),
                Some(failed) => (failed.why == Why::Returned, "it was gone back to"),
            };
            if way_back && (why == Why::Crashed || crashes >= PROBATION_CRASHES) {
                let times = if crashes > 1 { format!(" {crashes} times") } else { String::new() };
                self.go_back(why, &format!("{how},{times} after {since}"));
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

    fn fail_trial(&mut self, why: Why, reason: &str) {
        self.state.trial = None;
        if let Some(content) = self.state.content(self.state.active.other()).cloned() {
            self.remember(&content, why, reason);
        }
    }

    /// Ends the trial with no verdict: it may be asked for again.
    fn abandon(&mut self, why: &str) {
        self.state.trial = None;
        self.state.untried = true;
        let version = self.state.content(self.state.active.other()).map_or("?", |content| &content.version);
        let text = format!("{version} is not tried any further, which says nothing about it: {why}");
        self.say(text);
    }

    /// Leaves the active slot for the other one.
    fn go_back(&mut self, why: Why, reason: &str) {
        if let Some(content) = self.state.content(self.state.active).cloned() {
            self.remember(&content, why, reason);
        }
        self.state.active = self.state.active.other();
        if let Some(serves) = self.state.content(self.state.active).map(|content| content.digest) {
            // Sent back once, it serves again: that wish is spent.
            self.state.failed.retain(|failed| failed.digest != serves || failed.why != Why::Returned);
        }
        self.state.trial = None;
        self.state.untried = false;
        self.state.probation = None;
    }

    fn remember(&mut self, content: &Content, why: Why, reason: &str) {
        let Content { digest, version, .. } = content.clone();
        self.say(format!("{version} failed: {reason}"));
        self.state.failed.retain(|failed| failed.digest != digest);
        if self.state.failed.len() >= FAILED_KEPT {
            self.state.failed.remove(0);
        }
        self.state.failed.push(Failed { digest, version, why, reason: reason.to_owned() });
    }
}

#[cfg(test)]
mod tests;
