//! Where an order stands, read from the supervisor's record and its request. Pure.

use fleet_proto::v1::StandingReason;
use fleet_supervisor::{
    digest::Digest,
    record::{Request, State},
};

use super::words::{Verdict, reason};

/// How often one order is asked of the supervisor: a trial that ended with no verdict is worth another one, for what the
/// machine lacked may be there then.
pub(super) const ATTEMPTS: u32 = 3;

/// Where an order stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has led where it should, now or once.
    Done,
    /// It is asked of the supervisor, or what it names is being tried.
    Trial,
    /// What it names was tried, and the version before it came back.
    Back(Verdict),
    /// It is to be asked of the supervisor for the nth time.
    Due(u32),
    /// It is not to be done.
    Not(Verdict),
}

/// What the supervisor knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) state: &'a State,
    /// Waits to be taken.
    pub(super) request: Option<&'a Request>,
}

/// Names the nth request of an order.
pub(super) fn id(order: u64, attempt: u32) -> String {
    format!("order-{order}-{attempt}")
}

/// Which request of `order` this is; zero if it is of something else.
fn attempt(id: &str, order: u64) -> u32 {
    let parts = id.strip_prefix("order-").and_then(|rest| rest.split_once('-'));
    let attempt = parts.filter(|(number, _)| number.parse() == Ok(order)).and_then(|(_, n)| n.parse().ok());
    attempt.unwrap_or(0)
}

impl Known<'_> {
    /// The request of `order` that was taken last; zero if none was.
    fn taken(&self, order: u64) -> u32 {
        self.state.taken.as_deref().map_or(0, |id| attempt(id, order))
    }

    fn waits(&self, order: u64) -> bool {
        let fresh = self.request.filter(|request| self.state.taken.as_ref() != Some(&request.id));
        fresh.is_some_and(|request| attempt(&request.id, order) > 0)
    }

    /// Of the order to take `target`.
    pub(super) fn release(&self, order: u64, target: Digest, again: bool, done: bool) -> Progress {
        let State { active, trial, .. } = self.state;
        let holds = |slot| self.state.content(slot).is_some_and(|content| content.digest == target);
        if self.waits(order) || (trial.is_some() && holds(active.other())) {
            return Progress::Trial;
        }
        if holds(*active) {
            return Progress::Done;
        }
        let taken = self.taken(order);
        if let Some(failed) = self.state.failure(target) {
            let verdict = |reason| Verdict::new(reason, format!("{}: {}", failed.version, failed.reason));
            if taken > 0 || done {
                return Progress::Back(verdict(reason(failed.why)));
            }
            if !again {
                let Verdict { reason, detail } = verdict(StandingReason::StandingKnownBad);
                return Progress::Not(Verdict::new(
                    reason,
                    format!("{detail}; release another, or order it again"),
                ));
            }
        }
        match taken {
            _ if done => Progress::Done,
            ATTEMPTS.. => Progress::Not(Verdict::new(
                StandingReason::StandingOther,
                "its trial ended with no verdict each time; look at `journalctl -u fleet-agent` on the node",
            )),
            _ => Progress::Due(taken + 1),
        }
    }

    /// Of the order to go back, away from `leave`.
    pub(super) fn back(&self, order: u64, leave: &str, done: bool) -> Progress {
        let State { active, trial, .. } = self.state;
        let holds =
            |slot| self.state.content(slot).is_some_and(|content| content.digest.to_string() == leave);
        // What is tried and to be left is left once that is over, unless it went by itself.
        if self.waits(order) || (trial.is_some() && holds(active.other()) && !done) {
            return Progress::Trial;
        }
        if !holds(*active) {
            return Progress::Done;
        }
        let taken = self.taken(order);
        // What it went back to failed as well, and made room again.
        let there = self.state.content(active.other()).and_then(|there| self.state.failure(there.digest));
        if let Some(failed) = there.filter(|_| done || taken > 0) {
            return Progress::Not(Verdict::new(
                reason(failed.why),
                format!("{} failed here: {}; release another", failed.version, failed.reason),
            ));
        }
        // What was done is done, whatever the supervisor still knows of it.
        if done {
            return Progress::Done;
        }
        if taken == 0 {
            return Progress::Due(1);
        }
        Progress::Not(Verdict::new(
            StandingReason::StandingOther,
            "the supervisor did not go back; look at `journalctl -u fleet-agent` on the node",
        ))
    }
}

#[cfg(test)]
mod tests {
    use fleet_supervisor::record::{Ask, Content, Failed, Slot, Terms, Trial, Why};

    use super::*;

    fn content(name: &str) -> Content {
        Content { digest: Digest::of(name.as_bytes()), size: 1, serial: 1, version: name.into() }
    }

    /// A node on `old`, with `new` in the other slot.
    fn node() -> State {
        let mut state = State::new(Slot::A, content("old"));
        state.b = Some(content("new"));
        state
    }

    fn trial() -> Option<Trial> {
        Some(Trial { tries: 1, stops: 0, terms: Terms::default() })
    }

    fn failed(why: Why) -> Failed {
        Failed { digest: Digest::of(b"new"), version: "new".into(), why, reason: "so".into() }
    }

    fn not(reason: StandingReason, detail: &str) -> Progress {
        Progress::Not(Verdict::new(reason, detail))
    }

    #[test]
    fn every_place_of_an_order_to_take_a_release() {
        use StandingReason as R;
        let check = |name: &str, edit: &dyn Fn(&mut State), again: bool, done: bool, expected: Progress| {
            let mut state = node();
            edit(&mut state);
            let known = Known { state: &state, request: None };
            assert_eq!(known.release(7, Digest::of(b"new"), again, done), expected, "{name}");
        };
        let back = |reason| Progress::Back(Verdict::new(reason, "new: so"));
        let bad = || not(R::StandingKnownBad, "new: so; release another, or order it again");
        let taken = |id: &'static str| move |state: &mut State| state.taken = Some(id.into());
        check("fresh", &|_| (), false, false, Progress::Due(1));
        check("of another order", &taken("order-6-3"), false, false, Progress::Due(1));
        check("of a longer number", &taken("order-77-3"), false, false, Progress::Due(1));
        check("asked by hand", &taken("123-45"), false, false, Progress::Due(1));
        check("no verdict once", &taken("order-7-1"), false, false, Progress::Due(2));
        let never =
            "its trial ended with no verdict each time; look at `journalctl -u fleet-agent` on the node";
        check("no verdict ever", &taken("order-7-3"), false, false, not(R::StandingOther, never));
        check("on trial", &|state| state.trial = trial(), false, false, Progress::Trial);
        check("committed", &|state| state.active = Slot::B, false, false, Progress::Done);
        check(
            "committed, failed long ago",
            &|state| {
                state.active = Slot::B;
                state.failed.push(failed(Why::Late));
            },
            false,
            false,
            Progress::Done,
        );
        check("known bad", &|state| state.failed.push(failed(Why::Late)), false, false, bad());
        check(
            "known bad, again",
            &|state| state.failed.push(failed(Why::Late)),
            true,
            false,
            Progress::Due(1),
        );
        for (why, reason) in [
            (Why::Crashed, R::StandingCrashed),
            (Why::Killed, R::StandingOutOfMemory),
            (Why::Late, R::StandingNotReady),
            (Why::Unsound, R::StandingCorrupt),
            (Why::Returned, R::StandingKnownBad),
        ] {
            for again in [false, true] {
                let tried = |state: &mut State| {
                    state.taken = Some("order-7-1".into());
                    state.failed.push(failed(why));
                };
                check("rolled back", &tried, again, false, back(reason));
                let done = |state: &mut State| state.failed.push(failed(why));
                check("rolled back after its commit, by hand", &done, again, true, back(reason));
            }
        }
        check("gone since, with no failure", &taken("9-9"), false, true, Progress::Done);
    }

    #[test]
    fn a_request_that_waits_is_a_trial_and_one_that_was_taken_is_none() {
        let mut state = node();
        let request = Request { id: id(7, 1), ask: Ask::Return { reason: "x".into() } };
        let known = |state: &State, order| {
            Known { state, request: Some(&request) }.release(order, Digest::of(b"new"), false, false)
        };
        assert_eq!(known(&state, 7), Progress::Trial);
        assert_eq!(known(&state, 8), Progress::Due(1));
        state.taken = Some(id(7, 1));
        assert_eq!(known(&state, 7), Progress::Due(2));
    }

    #[test]
    fn every_place_of_an_order_to_go_back() {
        let (mut state, old) = (node(), Digest::of(b"old").to_string());
        let known = |state: &State| Known { state, request: None }.back(7, &old, false);
        assert_eq!(known(&state), Progress::Due(1));
        let request = Request { id: id(7, 1), ask: Ask::Return { reason: "x".into() } };
        assert_eq!(Known { state: &state, request: Some(&request) }.back(7, &old, false), Progress::Trial);
        state.taken = Some(id(7, 1));
        assert!(matches!(known(&state), Progress::Not(_)), "it stayed where it was");
        state.active = Slot::B;
        assert_eq!(known(&state), Progress::Done);
    }

    #[test]
    fn what_was_gone_back_to_and_failed_too_is_said() {
        let (mut state, old) = (node(), Digest::of(b"old").to_string());
        state.taken = Some(id(7, 1));
        state.failed.push(failed(Why::Crashed));
        let said = not(StandingReason::StandingCrashed, "new failed here: so; release another");
        for done in [false, true] {
            assert_eq!(Known { state: &state, request: None }.back(7, &old, done), said, "done: {done}");
        }
        // Failed before anybody asked: the supervisor refuses, and says why.
        state.taken = None;
        assert_eq!(Known { state: &state, request: None }.back(7, &old, false), Progress::Due(1));
    }

    #[test]
    fn what_does_not_run_is_not_left() {
        let (mut state, new) = (node(), Digest::of(b"new").to_string());
        let known = |state: &State, done| Known { state, request: None }.back(7, &new, done);
        // It never switched: what it would turn round to is no older program, nor one that nobody tried.
        assert_eq!(known(&state, false), Progress::Done);
        // On trial it is waited for; how that ends says whether there is anything to leave.
        state.trial = trial();
        assert_eq!(known(&state, false), Progress::Trial);
        (state.trial, state.active) = (None, Slot::B);
        assert_eq!(known(&state, false), Progress::Due(1));
        // Done once, it is not done again where the supervisor has lost its record and begun anew.
        assert_eq!((state.taken.as_ref(), known(&state, true)), (None, Progress::Done));
    }
}
