//! Rollouts of what a plan has its nodes do: who takes part, and what their reports mean. Pure.

use std::collections::BTreeMap;

use fleet_model::NodeName;
use fleet_proto::v1::{self, HealthLevel};
use fleet_rollout::{
    Event, Health, Kind, Member, Phase, Policy, Reason, Rollout, State, Step, Target, policy::Amount,
};
use sha2::{Digest as _, Sha256};

use crate::{
    desired::{Convergence, convergence},
    reconcile::board::Change,
};

/// Longest detail taken from a report, in characters.
const DETAIL: usize = 500;

/// How a node gets on with the work it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// All of it is done, and it is well.
    Done,
    /// Something failed and stays so, or it is not well: which, and why.
    Failed(String),
    /// Not there yet.
    Underway,
}

/// What a node says of the work it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worked {
    /// Whether that is what the plan in force wants.
    pub wanted: bool,
    /// How it gets on.
    pub said: Said,
}

/// What a report means for a node that should be `desired`; none if it is not about that yet.
pub fn said(desired: &v1::Desired, observed: Option<&v1::Observed>) -> Option<Said> {
    let observed = observed.filter(|observed| observed.generation == desired.generation)?;
    Some(match convergence(Some(desired), Some(observed)) {
        Convergence::Failed(why) => Said::Failed(why),
        Convergence::Underway(_) => Said::Underway,
        Convergence::Converged => match &observed.health {
            Some(health) if health.level() == HealthLevel::HealthFailed => {
                Said::Failed(format!("its health failed: {}", health.reasons.join("; ")))
            }
            _ => Said::Done,
        },
    })
}

/// What that means to `rollout`; none if it says nothing about it.
///
/// A node speaks of what it was given last, so what it says is of its newest order. `crashes` are those of its agent.
pub fn report(rollout: &Rollout, node: &NodeName, worked: &Worked, crashes: Option<u64>) -> Option<Event> {
    let known = rollout.nodes.get(node)?;
    let back = rollout.goes_back() || known.returning;
    let target = match worked.wanted {
        true => rollout.spec.target.clone(),
        false => rollout.spec.previous.clone()?,
    };
    let over = matches!(rollout.phase, Phase::Finished { .. });
    let settled =
        matches!(known.state, State::Committed | State::Proving | State::RolledBack | State::Failed);
    let step = match &worked.said {
        Said::Done => Step::Committed,
        // What it had before is none of this rollout's business, unless it was told to go back to it.
        Said::Failed(_) | Said::Underway if !worked.wanted && !back => Step::Committed,
        // It was done once: names and addresses change all the time. What fails again may mend itself.
        Said::Underway if settled => return None,
        Said::Underway => Step::Trial,
        // After the end a node's health is for `status`.
        Said::Failed(_) if over && known.state == State::Committed => return None,
        Said::Failed(why) => {
            Step::Failed { reason: Reason::new(Kind::Work, why.chars().take(DETAIL).collect::<String>()) }
        }
    };
    let health = Some(Health { failing: BTreeMap::new(), crashes });
    Some(Event::Report { node: node.clone(), order: known.order, target, step, health })
}

/// What the work of `change` is known by, and what it takes the place of.
pub fn targets(change: &Change) -> (Target, Target) {
    // Nodes may have come to what they have by different ways; it only has to be told from the target.
    let mut hash = Sha256::new();
    hash.update("before ");
    hash.update(&change.digest);
    let before = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    (Target::Plan(change.digest.clone()), Target::Plan(before))
}

/// Of all members those that take part: whoever has other work than the plan wants, and whoever takes part already and
/// is the same node as then.
pub fn taking_part(members: Vec<Member>, change: &Change, rollout: Option<&Rollout>) -> Vec<Member> {
    let known = |member: &Member| rollout.and_then(|rollout| rollout.nodes.get(&member.node));
    let takes_part = |member: &Member| {
        change.nodes.contains_key(&member.node)
            || known(member).is_some_and(|node| node.member.identity == member.identity)
    };
    members.into_iter().filter(takes_part).collect()
}

/// The plan's policy, as far as it is about those that take part.
pub fn policy(change: &Change, members: &[Member]) -> Policy {
    let mut policy = change.given.plan.rollout.clone();
    policy.canaries.named.retain(|name| members.iter().any(|member| member.node == *name));
    if policy.canaries.named.is_empty() && policy.canaries.drawn.is_zero() {
        policy.canaries.drawn = Amount::Count(1);
    }
    policy
}

/// Nodes that have not what the plan wants, and will not have it by `rollout` any more: they went back.
pub fn left_behind<'a>(rollout: &Rollout, nodes: &'a BTreeMap<NodeName, Vec<String>>) -> Vec<&'a NodeName> {
    let comes = |node: &&NodeName| {
        rollout.nodes.get(*node).is_some_and(|known| {
            matches!(known.state, State::Pending | State::Silent | State::CatchingUp)
                || known.state.in_flight()
        })
    };
    nodes.keys().filter(|node| rollout.goes_back() || !comes(node)).collect()
}

#[cfg(test)]
mod tests {
    use fleet_model::Timestamp;
    use fleet_rollout::{Spec, advance};

    use super::*;

    fn node() -> NodeName {
        "a".parse().expect("a name")
    }

    fn started() -> Rollout {
        let spec = Spec {
            id: "1".to_owned(),
            target: Target::Plan("new".to_owned()),
            previous: Some(Target::Plan("old".to_owned())),
            policy: Policy { canary_bake: Default::default(), ..Policy::of_plans() },
            spare: BTreeMap::new(),
        };
        let mut rollout =
            Rollout::draft(spec, vec![Member::new(node())], Timestamp::default()).expect("sound");
        take(&mut rollout, Event::Start);
        rollout
    }

    fn take(rollout: &mut Rollout, event: Event) {
        advance(rollout, event, Timestamp::default()).expect("lawful");
    }

    #[test]
    fn a_report_is_of_its_generation_and_health_counts() {
        let desired = v1::Desired { generation: 3, ..v1::Desired::default() };
        let observed = |generation, level: HealthLevel| v1::Observed {
            generation,
            health: Some(v1::Health { level: level.into(), reasons: vec!["no disk".to_owned()] }),
            ..v1::Observed::default()
        };
        let check = |seen: Option<v1::Observed>, wanted: Option<Said>| {
            assert_eq!(said(&desired, seen.as_ref()), wanted, "{seen:?}");
        };
        check(None, None);
        check(Some(observed(2, HealthLevel::HealthOk)), None);
        check(Some(observed(3, HealthLevel::HealthOk)), Some(Said::Done));
        check(Some(observed(3, HealthLevel::HealthDegraded)), Some(Said::Done));
        check(
            Some(observed(3, HealthLevel::HealthFailed)),
            Some(Said::Failed("its health failed: no disk".to_owned())),
        );
    }

    #[test]
    fn what_a_node_says_of_its_work() {
        use State::{CatchingUp, Committed, Failed, Offered, Pending, RolledBack, Trial};
        let failed = || Said::Failed("task `x` failed: why".to_owned());
        let check = |back: bool, state: State, wanted: bool, said: Said, step: Option<(&str, &str)>| {
            let mut rollout = started();
            if back {
                take(&mut rollout, Event::Connected { node: node() });
                take(&mut rollout, Event::Undo);
            }
            rollout.nodes.get_mut(&node()).expect("known").state = state;
            let event = report(&rollout, &node(), &Worked { wanted, said: said.clone() }, None);
            let told = event.map(|event| match event {
                Event::Report { target, step, .. } => (target.digest().to_owned(), format!("{step:?}")),
                other => panic!("{other:?}"),
            });
            let fits = match (&told, step) {
                (Some((target, told)), Some((of, step))) => target == of && told.starts_with(step),
                (told, step) => told.is_none() && step.is_none(),
            };
            assert!(fits, "{back} {state:?} {wanted} {said:?}: {told:?}");
        };
        check(false, Offered, true, Said::Underway, Some(("new", "Trial")));
        check(false, Trial, true, Said::Done, Some(("new", "Committed")));
        check(false, Trial, true, failed(), Some(("new", "Failed")));
        check(false, Committed, true, failed(), Some(("new", "Failed")));
        check(false, Committed, true, Said::Underway, None);
        check(false, Failed, true, Said::Underway, None);
        check(false, Pending, false, failed(), Some(("old", "Committed")));
        check(false, Offered, false, Said::Underway, Some(("old", "Committed")));
        check(true, CatchingUp, false, Said::Underway, Some(("old", "Trial")));
        check(true, Trial, false, Said::Done, Some(("old", "Committed")));
        check(true, Trial, false, failed(), Some(("old", "Failed")));
        check(true, RolledBack, false, Said::Underway, None);
    }
}
