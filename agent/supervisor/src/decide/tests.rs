use proptest::prelude::*;

use super::*;
use crate::record::Terms;

const TERMS: Terms = Terms { tries: 3, trial_ms: 1000, ceiling_ms: 10_000 };

fn content(name: &str, serial: u64) -> Content {
    Content { digest: Digest::of(name.as_bytes()), size: 1, serial, version: name.to_owned() }
}

fn whole(state: &State) -> Found {
    let of = |content: &Option<Content>| match content {
        Some(content) => Seen::Program(content.digest, content.size),
        None => Seen::Nothing,
    };
    Found { a: of(&state.a), b: of(&state.b) }
}

fn wish(id: &str, again: bool) -> Request {
    let ask = Ask::Try { slot: Slot::B, content: content("new", 2), terms: TERMS, again };
    Request { id: id.to_owned(), ask }
}

/// A node on `old` in slot a, with `new` put into slot b.
fn offered() -> (State, Found) {
    let state = State::new(Slot::A, content("old", 1));
    let mut with_new = state.clone();
    with_new.b = Some(content("new", 2));
    (state, whole(&with_new))
}

fn idle(state: &mut State, request: Option<Request>, found: Found) -> Vec<Action> {
    happen(state, Event::Idle { request, found })
}

fn happen(state: &mut State, event: Event) -> Vec<Action> {
    let decision = decide(state, event);
    *state = decision.state;
    decision.actions
}

fn started(actions: &[Action]) -> Option<Slot> {
    actions.iter().find_map(|action| match action {
        Action::Start(slot) => Some(*slot),
        _ => None,
    })
}

fn ended(how: &str) -> Crash {
    Crash { why: Why::Crashed, how: how.to_owned() }
}

/// What should run crashes.
fn crash(state: &State) -> Event {
    Event::Exited { slot: state.current(), crash: Some(ended("it exited with status 1")) }
}

fn crashes(state: &mut State) {
    let event = crash(state);
    happen(state, event);
}

#[test]
fn a_good_version_is_committed() {
    let (mut state, found) = offered();
    let actions = idle(&mut state, Some(wish("1", false)), found);
    assert_eq!(actions.first(), Some(&Action::Forget));
    assert_eq!(started(&actions), Some(Slot::B));
    assert_eq!(state.trial.as_ref().map(|trial| trial.tries), Some(1), "counted before it starts");
    happen(&mut state, Event::Commit { digest: Digest::of(b"old") });
    assert!(state.trial.is_some(), "only its own digest commits it");
    happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
    assert_eq!((state.active, state.trial.clone(), state.probation), (Slot::B, None, Some(0)));
    happen(&mut state, Event::Proved);
    assert_eq!(state.probation, None);
    let all = whole(&state);
    for _ in 0..10 {
        crashes(&mut state);
        assert_eq!(started(&idle(&mut state, None, all)), Some(Slot::B), "what proved itself stays");
    }
}

#[test]
fn a_version_that_keeps_crashing_is_left_after_its_tries() {
    let (mut state, found) = offered();
    let mut request = Some(wish("1", false));
    for _ in 0..3 {
        assert_eq!(started(&idle(&mut state, request.take(), found)), Some(Slot::B));
        crashes(&mut state);
    }
    assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A));
    let failed = state.failure(Digest::of(b"new")).expect("remembered");
    assert_eq!(failed.reason, "it exited with status 1, after 3 starts");
}

#[test]
fn starts_that_nobody_saw_end_count_too() {
    let (mut state, found) = offered();
    let mut request = Some(wish("1", false));
    for _ in 0..3 {
        // A power cut: what is on disk is all there is.
        assert_eq!(started(&idle(&mut state, request.take(), found)), Some(Slot::B));
    }
    assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A));
    assert!(state.failure(Digest::of(b"new")).is_some());
}

#[test]
fn an_orderly_stop_is_no_try() {
    let (mut state, found) = offered();
    idle(&mut state, Some(wish("1", false)), found);
    for _ in 0..STOPS_FORGIVEN {
        happen(&mut state, Event::Stopped);
        assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::B));
    }
    assert_eq!(state.trial.as_ref().map(|trial| trial.tries), Some(1));
    // But not for ever: a trial that never comes to a verdict ends as well.
    for tries in 2..=TERMS.tries {
        happen(&mut state, Event::Stopped);
        assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::B));
        assert_eq!(state.trial.as_ref().map(|trial| trial.tries), Some(tries));
    }
    happen(&mut state, Event::Stopped);
    assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A));
}

#[test]
fn what_the_system_lacks_ends_a_trial_with_no_verdict() {
    let check = |troubled: &dyn Fn(&mut State, Found) -> Vec<Action>| {
        let (mut state, found) = offered();
        idle(&mut state, Some(wish("1", false)), found);
        let actions = troubled(&mut state, found);
        assert_eq!((state.trial.clone(), state.failed.clone()), (None, Vec::new()), "{actions:?}");
        assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A));
        // Asked for again, it has all its tries.
        assert_eq!(started(&idle(&mut state, Some(wish("2", false)), found)), Some(Slot::B));
        assert_eq!(state.trial.map(|trial| trial.tries), Some(1));
    };
    let unstarted = |slot| Event::Unstarted { slot, why: "no memory".to_owned() };
    check(&|state, _| happen(state, unstarted(Slot::B)));
    check(&|state, found| {
        let actions = idle(state, None, Found { b: Seen::Unreadable, ..found });
        assert_eq!(started(&actions), Some(Slot::A));
        actions
    });
    check(&|state, _| {
        let actions = happen(state, Event::Ceiling);
        assert_eq!(actions.last(), Some(&Action::End));
        happen(state, Event::Commit { digest: Digest::of(b"new") });
        assert_eq!(state.active, Slot::A, "too late is too late");
        actions
    });
    // The agent that served has no trial to end.
    let (mut state, found) = offered();
    happen(&mut state, unstarted(Slot::A));
    assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A));
    // Nor is a request acted upon that cannot be looked at.
    let unreadable = Found { b: Seen::Unreadable, ..found };
    assert_eq!(started(&idle(&mut state, Some(wish("1", false)), unreadable)), Some(Slot::A));
    assert_eq!(state.failed, []);
}

#[test]
fn a_slot_that_cannot_be_read_is_stood_in_for_and_keeps_its_place() {
    let (mut state, found) = offered();
    idle(&mut state, Some(wish("1", false)), found);
    happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
    let before = state.clone();
    for _ in 0..5 {
        let actions = idle(&mut state, None, Found { b: Seen::Unreadable, ..found });
        assert_eq!(started(&actions), Some(Slot::A));
        // Crashes of the one that stands in are not those of the one on probation.
        happen(&mut state, Event::Exited { slot: Slot::A, crash: Some(ended("x")) });
    }
    assert_eq!(state, before);
    assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::B));
    let none = Found { a: Seen::Unreadable, b: Seen::Unreadable };
    assert!(matches!(idle(&mut state, None, none).last(), Some(Action::GiveUp(why)) if why.contains("disk")));
}

#[test]
fn time_is_up() {
    let (mut state, found) = offered();
    idle(&mut state, Some(wish("1", false)), found);
    let actions = happen(&mut state, Event::Late { reason: "it was not ready in time".to_owned() });
    assert_eq!(actions.last(), Some(&Action::End));
    assert_eq!(state.trial, None);
    happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
    assert_eq!(state.active, Slot::A, "too late is too late");
    assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A));
}

#[test]
fn a_failed_version_comes_again_only_when_asked_for() {
    let (mut state, found) = offered();
    idle(&mut state, Some(wish("1", false)), found);
    happen(&mut state, Event::Late { reason: "x".to_owned() });
    assert_eq!(started(&idle(&mut state, Some(wish("2", false)), found)), Some(Slot::A));
    assert_eq!(started(&idle(&mut state, Some(wish("3", true)), found)), Some(Slot::B));
    happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
    assert_eq!(state.failure(Digest::of(b"new")), None, "it did in the end");
}

#[test]
fn a_request_is_taken_once() {
    let (mut state, found) = offered();
    idle(&mut state, Some(wish("1", true)), found);
    happen(&mut state, Event::Late { reason: "x".to_owned() });
    let actions = idle(&mut state, Some(wish("1", true)), found);
    assert_eq!((actions.first(), started(&actions)), (Some(&Action::Forget), Some(Slot::A)));
}

#[test]
fn crashes_on_probation_bring_the_old_one_back() {
    // What may be the node's fault is borne with twice.
    for (why, borne) in
        [(Why::Crashed, 0), (Why::Killed, PROBATION_CRASHES - 1), (Why::Late, PROBATION_CRASHES - 1)]
    {
        let (mut state, found) = offered();
        idle(&mut state, Some(wish("1", false)), found);
        happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
        let end = || Event::Exited { slot: Slot::B, crash: Some(Crash { why, how: "so".to_owned() }) };
        for _ in 0..borne {
            happen(&mut state, end());
            happen(&mut state, Event::Exited { slot: Slot::B, crash: None });
            assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::B), "{why:?}");
        }
        happen(&mut state, end());
        assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A), "{why:?}");
        assert_eq!(state.failure(Digest::of(b"new")).map(|failed| failed.why), Some(why));
        // And it stays there: there is no way back to what failed.
        for _ in 0..10 {
            crashes(&mut state);
            assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A), "{why:?}");
        }
    }
}

#[test]
fn sent_back_by_hand() {
    let (mut state, found) = offered();
    let back = |id: &str| Request { id: id.to_owned(), ask: Ask::Return { reason: "slow".to_owned() } };
    assert_eq!(started(&idle(&mut state, Some(back("0")), found)), Some(Slot::A), "nothing to go back to");
    idle(&mut state, Some(wish("1", false)), found);
    happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
    happen(&mut state, Event::Proved);
    assert_eq!(started(&idle(&mut state, Some(back("2")), found)), Some(Slot::A));
    assert_eq!(
        state.failure(Digest::of(b"new")).map(|failed| failed.reason.as_str()),
        Some("sent back: slow")
    );
    // There is no way back to what failed here.
    let actions = idle(&mut state, Some(back("3")), found);
    assert_eq!((actions.first(), started(&actions)), (Some(&Action::Forget), Some(Slot::A)));
    assert_eq!(state.failure(Digest::of(b"old")), None);
}

#[test]
fn what_was_gone_back_to_and_fails_too_makes_room_again() {
    for (why, borne) in
        [(Why::Crashed, 0), (Why::Killed, PROBATION_CRASHES - 1), (Why::Late, PROBATION_CRASHES - 1)]
    {
        let (mut state, found) = offered();
        idle(&mut state, Some(wish("1", false)), found);
        happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
        happen(&mut state, Event::Proved);
        let back = |id: &str| Request { id: id.to_owned(), ask: Ask::Return { reason: "slow".to_owned() } };
        assert_eq!(started(&idle(&mut state, Some(back("2")), found)), Some(Slot::A));
        let end = || Event::Exited { slot: Slot::A, crash: Some(Crash { why, how: "so".to_owned() }) };
        for _ in 0..borne {
            happen(&mut state, end());
            assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A), "{why:?}");
        }
        happen(&mut state, end());
        assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::B), "{why:?}");
        let failed = state.failure(Digest::of(b"old")).expect("remembered");
        assert_eq!(failed.why, why);
        assert!(failed.reason.ends_with("after it was gone back to"), "{}", failed.reason);
        assert_eq!(state.failure(Digest::of(b"new")), None, "it serves, whatever was wished");
        // Two that fail do not take turns, and nobody is sent to what failed.
        for _ in 0..10 {
            crashes(&mut state);
            assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::B), "{why:?}");
        }
        assert_eq!(started(&idle(&mut state, Some(back("3")), found)), Some(Slot::B), "{why:?}");
    }
    // One that proves itself stays, however it ends later.
    let (mut state, found) = offered();
    idle(&mut state, Some(wish("1", false)), found);
    happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
    let ask = Ask::Return { reason: "slow".to_owned() };
    idle(&mut state, Some(Request { id: "2".to_owned(), ask }), found);
    happen(&mut state, Event::Proved);
    crashes(&mut state);
    assert_eq!(started(&idle(&mut state, None, found)), Some(Slot::A));
}

#[test]
fn nobody_goes_back_to_what_never_served() {
    let back = |id: &str| Request { id: id.to_owned(), ask: Ask::Return { reason: "x".to_owned() } };
    let abandoned =
        |state: &mut State| happen(state, Event::Unstarted { slot: Slot::B, why: "x".to_owned() });
    let (mut state, found) = offered();
    idle(&mut state, Some(wish("1", false)), found);
    abandoned(&mut state);
    assert_eq!(
        started(&idle(&mut state, Some(back("2")), found)),
        Some(Slot::A),
        "a trial without a verdict"
    );
    assert_eq!((state.active, state.failed.clone()), (Slot::A, Vec::new()));
    assert_eq!(State::decode(&state.encode()), Some(state.clone()), "also over a restart");
    // Tried and committed, it is left, and come back to is what served before it.
    assert_eq!(started(&idle(&mut state, Some(wish("3", false)), found)), Some(Slot::B));
    happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
    assert_eq!(started(&idle(&mut state, Some(back("4")), found)), Some(Slot::A));
    assert_eq!(state.probation, Some(0), "whether it still can serve is to be seen");
}

#[test]
fn what_is_not_its_digest_never_starts() {
    let (mut state, found) = offered();
    let torn = Found { b: Seen::Program(Digest::of(b"torn"), 1), ..found };
    assert_eq!(started(&idle(&mut state, Some(wish("1", false)), torn)), Some(Slot::A));
    assert!(state.failure(Digest::of(b"new")).is_some());
    // Rot of the active slot: the other one serves.
    let (mut state, found) = offered();
    idle(&mut state, Some(wish("1", false)), found);
    happen(&mut state, Event::Commit { digest: Digest::of(b"new") });
    assert_eq!(started(&idle(&mut state, None, torn)), Some(Slot::A));
    assert!(matches!(idle(&mut state, None, Found::default()).last(), Some(Action::GiveUp(_))));
}

#[test]
fn nothing_is_tried_that_cannot_be_counted() {
    let (state, found) = offered();
    let decision = decide(&state, Event::Idle { request: Some(wish("1", false)), found });
    let instead = unsaved(&state, decision, found);
    assert_eq!(instead.state, state);
    assert_eq!(started(&instead.actions), Some(Slot::A));
    assert!(!instead.actions.contains(&Action::Forget), "it may be tried when there is room");
}

#[test]
fn nothing_is_committed_that_is_not_written_down() {
    let (mut state, found) = offered();
    idle(&mut state, Some(wish("1", false)), found);
    let decision = decide(&state, Event::Commit { digest: Digest::of(b"new") });
    assert_eq!(unsaved(&state, decision, found), Decision { state: state.clone(), actions: Vec::new() });
    // The way back is open on a full disk too.
    let decision = decide(&state, Event::Late { reason: "x".to_owned() });
    let instead = unsaved(&state, decision, found);
    assert_eq!((instead.state.trial, instead.actions.last()), (None, Some(&Action::End)));
}

fn any_event() -> impl Strategy<Value = Event> {
    let seen = |name: &'static [u8]| {
        let whole = Just(Seen::Program(Digest::of(name), 1));
        prop_oneof![4 => whole, 1 => Just(Seen::Nothing), 1 => Just(Seen::Unreadable)]
    };
    let found = (seen(b"old"), seen(b"new")).prop_map(|(a, b)| Found { a, b });
    let slot = || prop_oneof![Just(Slot::A), Just(Slot::B)];
    let request = (0_u8..4, any::<bool>(), any::<bool>()).prop_map(|(id, back, again)| match back {
        true => Request { id: id.to_string(), ask: Ask::Return { reason: "x".to_owned() } },
        false => wish(&id.to_string(), again),
    });
    prop_oneof![
        4 => (proptest::option::of(request), found)
            .prop_map(|(request, found)| Event::Idle { request, found }),
        3 => (slot(), proptest::option::of("[a-z]{1,5}")).prop_map(|(slot, how)| Event::Exited { slot, crash: how.map(|how| ended(&how)) }),
        1 => slot().prop_map(|slot| Event::Unstarted { slot, why: "x".to_owned() }),
        1 => prop_oneof![Just(Digest::of(b"new")), Just(Digest::of(b"old"))]
            .prop_map(|digest| Event::Commit { digest }),
        1 => Just(Event::Late { reason: "late".to_owned() }),
        1 => Just(Event::Ceiling),
        1 => Just(Event::Proved),
        1 => Just(Event::Stopped),
    ]
}

proptest! {
    /// Whatever happens: only what is whole starts, something starts if anything is whole, a trial starts no more
    /// often than it may, and the record can be written and read.
    #[test]
    fn old_or_new_but_never_neither(
        events in proptest::collection::vec((any_event(), any::<bool>()), 1..60),
    ) {
        let (mut state, _) = offered();
        let mut unstopped = 0;
        for (event, saved) in events {
            let found = match &event {
                Event::Idle { found, .. } => Some(*found),
                _ => None,
            };
            let stopped = event == Event::Stopped;
            let mut decision = decide(&state, event);
            if !saved {
                decision = unsaved(&state, decision, found.unwrap_or_default());
            }
            let start = started(&decision.actions);
            if let Some(found) = found {
                let sound = |slot| found.holds(slot, state.content(slot).or(decision.state.content(slot)));
                match start {
                    Some(slot) => prop_assert!(sound(slot)),
                    None => prop_assert!(!Slot::BOTH.into_iter().any(|slot| found.holds(slot, decision.state.content(slot)))),
                }
            } else {
                prop_assert_eq!(start, None);
            }
            let tried = decision.state.trial.as_ref().map_or(0, |trial| trial.tries);
            prop_assert!(tried <= TERMS.tries);
            // With nothing else that is whole, the one on trial runs also where that cannot be counted.
            let choice = found.is_some_and(|found| found.holds(state.active, state.content(state.active)));
            if choice && start == Some(decision.state.active.other()) && decision.state.trial.is_some() {
                unstopped += 1;
                prop_assert!(tried >= 1, "started uncounted");
            }
            if stopped || decision.state.trial.is_none() {
                unstopped = 0;
            }
            prop_assert!(unstopped <= TERMS.tries, "{} starts of one trial", unstopped);
            prop_assert!(decision.state.failed.len() <= FAILED_KEPT);
            state = decision.state;
            prop_assert_eq!(State::decode(&state.encode()), Some(state.clone()));
        }
    }
}
