//! Between what nodes say on the wire and what the engine knows. Pure.

use std::{collections::BTreeMap, time::Duration};

use fleet_model::NodeName;
use fleet_proto::v1::{self, StandingReason, StandingStep, gate_ask, to_agent};
use fleet_rollout::{
    Event, Health, Kind, Policy, Reason, Rollout, State, Step, Target,
    policy::{Check, Gate},
    state::Node,
};

use super::catalogue::Offerable;

/// Longest detail taken from a node, in characters.
const DETAIL: usize = 500;
/// Starts of a release on trial before it counts as crashed.
const TRIES: u32 = 3;

/// What a node's words mean to `rollout`; none if they say nothing about it.
///
/// A rollout knows two releases: its own, and what nodes ran before, whatever that was on each of them. A node that
/// speaks of how a third one went says by that what it runs, with nothing in hand. `failing` are its tasks that fail.
pub fn report(
    rollout: &Rollout,
    node: &NodeName,
    standing: &v1::Standing,
    failing: BTreeMap<String, String>,
) -> Option<Event> {
    let ours = rollout.spec.target.digest();
    let nominal = |digest: &str| match &rollout.spec.previous {
        Some(previous) if digest != ours => previous.clone(),
        _ => Target::Release(digest.to_owned()),
    };
    let runs = if standing.running_sha256.is_empty() { &standing.release } else { &standing.running_sha256 };
    let detail: String = standing.detail.chars().take(DETAIL).collect();
    let known = rollout.nodes.get(node);
    let back = rollout.goes_back() || known.is_some_and(|node| node.returning);
    let failed = |node: &Node| matches!(node.state, State::Failed | State::RolledBack);
    let reason = || Reason::new(kind(standing.reason()), detail.clone());
    let (target, step) = match standing.step() {
        StandingStep::Unspecified => return None,
        StandingStep::StandingCommitted => (nominal(runs), Step::Committed),
        StandingStep::StandingFetching => (nominal(&standing.release), Step::Fetching),
        StandingStep::StandingTrial => (nominal(&standing.release), Step::Trial),
        StandingStep::StandingBusy => (nominal(&standing.release), Step::Busy { detail }),
        StandingStep::StandingFailed if back || standing.release == ours => {
            (nominal(&standing.release), Step::Failed { reason: reason() })
        }
        StandingStep::StandingRolledBack if back || standing.release == ours => {
            (nominal(&standing.release), Step::RolledBack { reason: reason() })
        }
        // It could not go back, and says so again.
        StandingStep::StandingFailed | StandingStep::StandingRolledBack
            if standing.release.is_empty()
                && known.is_some_and(|node| failed(node) && standing.order >= node.order) =>
        {
            return None;
        }
        StandingStep::StandingFailed | StandingStep::StandingRolledBack => (nominal(runs), Step::Committed),
    };
    let health = Some(Health { failing, crashes: standing.crashes });
    Some(Event::Report { node: node.clone(), order: standing.order, target, step, health })
}

/// Why, in the engine's words.
pub fn kind(reason: StandingReason) -> Kind {
    match reason {
        StandingReason::StandingCrashed => Kind::Crashed,
        StandingReason::StandingNotReady => Kind::NotReady,
        StandingReason::StandingCorrupt => Kind::Corrupt,
        StandingReason::StandingSignature => Kind::Signature,
        StandingReason::StandingDowngrade => Kind::Downgrade,
        StandingReason::StandingKnownBad => Kind::KnownBad,
        StandingReason::StandingDiskFull => Kind::DiskFull,
        StandingReason::StandingOutOfMemory => Kind::OutOfMemory,
        StandingReason::StandingMismatch => Kind::Mismatch,
        StandingReason::StandingOther | StandingReason::Unspecified => Kind::Other,
    }
}

/// What a gate answered.
pub fn answer(node: &NodeName, answer: v1::GateAnswer) -> Event {
    let detail = answer.detail.chars().take(DETAIL).collect();
    Event::Answer { node: node.clone(), gate: answer.gate, passed: answer.passed, detail }
}

/// The order to `node` to take a release.
pub fn offer(
    release: &Offerable,
    node: &NodeName,
    roots: Vec<Vec<u8>>,
    number: u64,
    again: bool,
    policy: &Policy,
) -> to_agent::Message {
    let offer = v1::ReleaseOffer {
        roots,
        manifest: release.manifest.clone(),
        permit: release.permit_for(node).unwrap_or_default().to_vec(),
        again,
        trial: Some(trial(policy)),
    };
    order(number, v1::order::Want::Release(offer))
}

/// A node gives up, goes back and says so before the rollout would count it as overdue; one that finds the controller
/// busy may take as long as the rollout bears with that.
fn trial(policy: &Policy) -> v1::Trial {
    let deadlines = &policy.deadlines;
    v1::Trial {
        ready_ms: ms(deadlines.trial / 2),
        ceiling_ms: ms(deadlines.busy.max(deadlines.trial)),
        tries: TRIES,
    }
}

fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The order to leave a release for the one before.
pub fn back(number: u64, reason: String, leave: &str) -> to_agent::Message {
    order(number, v1::order::Want::Back(v1::Return { reason, leave: leave.to_owned() }))
}

/// Whether a node that says this runs `release`, or is about to.
pub fn has(standing: &v1::Standing, release: &str) -> bool {
    let tries = standing.step() == StandingStep::StandingTrial && standing.release == release;
    standing.running_sha256 == release || tries
}

fn order(number: u64, want: v1::order::Want) -> to_agent::Message {
    to_agent::Message::Order(v1::Order { number, want: Some(want) })
}

/// The question to a gate.
pub fn ask(gate: &Gate, rollout: &str, todo_port: u16) -> to_agent::Message {
    let check = match gate.check.clone() {
        Check::UnitActive { unit } => gate_ask::Check::UnitActive(unit),
        Check::PortAnswers { port } => gate_ask::Check::PortAnswers(port.into()),
        Check::HttpStatus { url, status } => {
            gate_ask::Check::Http(v1::HttpCheck { url, status: status.into() })
        }
        Check::TableReady { database, table } => {
            gate_ask::Check::TableReady(v1::TableCheck { database, table })
        }
        Check::TodoRoundTrip => gate_ask::Check::TodoRoundTrip(todo_port.into()),
        Check::Command { argv } => gate_ask::Check::Command(v1::CommandCheck { args: argv }),
    };
    let ask = v1::GateAsk { gate: gate.name.clone(), rollout: rollout.to_owned(), check: Some(check) };
    to_agent::Message::Gate(ask)
}

#[cfg(test)]
mod tests {
    use fleet_model::Timestamp;
    use fleet_rollout::{Member, Spec, advance};

    use super::*;

    fn node() -> NodeName {
        "a".parse().expect("a name")
    }

    fn rollout() -> Rollout {
        let spec = Spec {
            id: "1".to_owned(),
            target: Target::Release("new".to_owned()),
            previous: Some(Target::Release("old".to_owned())),
            policy: Policy::default(),
            spare: BTreeMap::new(),
        };
        Rollout::draft(spec, vec![Member::new(node())], Timestamp::default()).expect("sound")
    }

    fn said(step: StandingStep, release: &str, running: &str) -> v1::Standing {
        v1::Standing {
            order: 7,
            release: release.to_owned(),
            step: step.into(),
            reason: StandingReason::StandingCrashed.into(),
            detail: "why".to_owned(),
            running_sha256: running.to_owned(),
            ..v1::Standing::default()
        }
    }

    #[test]
    fn words_about_a_third_release_say_what_runs() {
        use StandingStep::{
            StandingBusy as Busy, StandingCommitted as Committed, StandingFailed as Failed,
            StandingFetching as Fetching, StandingRolledBack as RolledBack,
        };
        let forward = rollout();
        let mut undoing = rollout();
        advance(&mut undoing, Event::Start, Timestamp::default()).expect("lawful");
        advance(&mut undoing, Event::Undo, Timestamp::default()).expect("lawful");
        let check = |rollout: &Rollout, standing: v1::Standing, release: &str, step: &str| {
            let event = report(rollout, &node(), &standing, BTreeMap::new());
            let Some(Event::Report { order: 7, target: meant, step: taken, .. }) = event else {
                panic!("{event:?}")
            };
            let taken = format!("{taken:?}");
            assert!(meant.digest() == release && taken.starts_with(step), "{standing:?}: {meant} {taken}");
        };
        check(&forward, said(Committed, "new", "new"), "new", "Committed");
        check(&forward, said(Committed, "old", "old"), "old", "Committed");
        check(&forward, said(Committed, "other", "other"), "old", "Committed");
        check(&forward, said(Fetching, "new", "old"), "new", "Fetching");
        check(&forward, said(Busy, "new", "old"), "new", "Busy");
        check(&forward, said(Failed, "new", "old"), "new", "Failed");
        check(&forward, said(RolledBack, "new", "other"), "new", "RolledBack");
        check(&forward, said(RolledBack, "third", "other"), "old", "Committed");
        check(&forward, said(Failed, "third", "new"), "new", "Committed");
        check(&undoing, said(RolledBack, "other", "new"), "old", "RolledBack");
        check(&undoing, said(Failed, "other", "new"), "old", "Failed");
        let newer = report(&forward, &node(), &v1::Standing::default(), BTreeMap::new());
        assert_eq!(newer, None, "from a newer agent");
    }

    #[test]
    fn a_node_that_cannot_go_back_says_nothing_new_by_saying_so_again() {
        let mut rollout = rollout();
        let mut take = |event: Event| advance(&mut rollout, event, Timestamp::default()).expect("lawful");
        let said_so =
            |rollout: &Rollout, standing: &v1::Standing| report(rollout, &node(), standing, BTreeMap::new());
        take(Event::Start);
        take(Event::Connected { node: node() });
        let health = None;
        let target = Target::Release("new".to_owned());
        take(Event::Report { node: node(), order: 1, target, step: Step::Committed, health });
        take(Event::SendBack { node: node(), by: "me".to_owned() });
        let standing = v1::Standing {
            order: rollout.nodes[&node()].order,
            ..said(StandingStep::StandingFailed, "", "new")
        };
        let event = said_so(&rollout, &standing).expect("it is news");
        advance(&mut rollout, event, Timestamp::default()).expect("lawful");
        assert!(!rollout.nodes[&node()].returning, "it cannot");
        assert_eq!(said_so(&rollout, &standing), None);
        assert_eq!(rollout.nodes[&node()].state, State::Failed);
        // Of an order before, it would not speak of going back.
        assert!(said_so(&rollout, &v1::Standing { order: 0, ..standing }).is_some());
    }

    #[test]
    fn a_trial_ends_on_the_node_before_it_does_here() {
        let policy = Policy::default();
        let trial = trial(&policy);
        assert!(u128::from(trial.ready_ms) < policy.deadlines.trial.as_millis());
        assert!(trial.ready_ms < trial.ceiling_ms && trial.tries > 1);
    }
}
