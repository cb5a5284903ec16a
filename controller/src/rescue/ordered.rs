//! Whether a rollout has a node take its release now. Pure.

use std::collections::BTreeSet;

use fleet_model::NodeName;
use fleet_rollout::{Finish, Obstacle, Phase, Rollout, State, explain, state::Node};

/// Number of the order by which `name` is to take the release of `rollout`, though it has no session; none if it is not.
///
/// For a node that waits, the engine's own rules say whether it would be its turn: the only thing in its way may be that
/// it has no session, or that members of its cluster have none, for changing an agent takes no database down, and members
/// that only this door lets in would wait for each other for ever. `others` were told here that it is their turn: they
/// are in flight, though the engine has not heard of that, and leave so many places fewer.
pub(super) fn ordered(rollout: &Rollout, name: &NodeName, others: &BTreeSet<NodeName>) -> Option<u64> {
    let node = rollout.nodes.get(name)?;
    let under_way = match rollout.phase {
        Phase::Running | Phase::Baking { .. } | Phase::Finished { finish: Finish::Done } => true,
        Phase::Draft | Phase::Undoing | Phase::Finished { .. } => false,
    };
    let stopped = rollout.halt.is_some() || rollout.line.is_some();
    if !under_way || stopped || node.hold.is_some() || node.returning || node.withdrawn {
        return None;
    }
    let in_turn = |rollout: &Rollout| {
        let absent = |obstacle: &Obstacle| matches!(obstacle, Obstacle::NoSession | Obstacle::Cluster { .. });
        let told = explain(rollout, name)?.obstacles.iter().all(absent);
        // Above all that were given and seen; the engine's next one is above this.
        told.then(|| rollout.order.max(node.order).max(node.seen.saturating_add(1)))
    };
    let at_the_door = || {
        let mut counted = rollout.clone();
        for other in others.iter().filter(|other| *other != name) {
            if let Some(other) = counted.nodes.get_mut(other).filter(|other| waits(other)) {
                other.state = State::Offered;
            }
        }
        counted
    };
    match node.state {
        // What it was ordered before its session was lost stands.
        State::Offered | State::Fetching | State::Trial | State::Proving | State::Committed => {
            Some(node.order)
        }
        // Most are told no at once; only who could have its turn is worth counting for.
        State::Pending | State::CatchingUp => in_turn(rollout).and_then(|_| in_turn(&at_the_door())),
        State::Silent => {
            // It would catch up if it came back, and here it is.
            let mut back = at_the_door();
            back.nodes.get_mut(name)?.state = State::CatchingUp;
            in_turn(&back)
        }
        State::Held | State::Failed | State::RolledBack => None,
    }
}

/// Whether a node waits for its turn, and has no session in which it could be told.
pub(super) fn waits(node: &Node) -> bool {
    !node.connected && matches!(node.state, State::Pending | State::CatchingUp | State::Silent)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fleet_model::Timestamp;
    use fleet_rollout::{Event, Member, Policy, Spec, Step, Target, advance};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    fn target() -> Target {
        Target::Release("new".to_owned())
    }

    /// Three nodes, `a` the canary; only it has a session.
    fn rollout() -> Rollout {
        let text = r#"{"canaries":{"named":["a"],"drawn":0},"canaryBake":"0s","bake":"0s","waves":[]}"#;
        let policy: Policy = serde_json::from_str(text).expect("a policy");
        let previous = Some(Target::Release("old".to_owned()));
        let spec = Spec { id: "1".to_owned(), target: target(), previous, policy, spare: BTreeMap::new() };
        let members = ["a", "b", "c"].map(|text| Member::new(name(text)));
        let mut rollout = Rollout::draft(spec, members.into(), NOW).expect("sound");
        happens(&mut rollout, Event::Connected { node: name("a") });
        rollout
    }

    /// With nobody else at the door.
    fn alone(rollout: &Rollout, node: &str) -> Option<u64> {
        ordered(rollout, &name(node), &BTreeSet::new())
    }

    fn happens(rollout: &mut Rollout, event: Event) {
        advance(rollout, event, NOW).expect("lawful");
    }

    fn says(rollout: &mut Rollout, step: Step) {
        let order = rollout.nodes[&name("a")].order;
        happens(rollout, Event::Report { node: name("a"), order, target: target(), step, health: None });
    }

    /// The canary is done, and everybody else's turn has come.
    fn second_wave() -> Rollout {
        let mut rollout = rollout();
        happens(&mut rollout, Event::Start);
        says(&mut rollout, Step::Trial);
        says(&mut rollout, Step::Committed);
        happens(&mut rollout, Event::Tick);
        happens(&mut rollout, Event::Well { nodes: [name("a")].into() });
        assert_eq!(rollout.wave, 1, "{:?}", rollout.phase);
        rollout
    }

    #[test]
    fn never_without_an_order_and_never_against_a_halt() {
        let check = |what: &str, edit: &dyn Fn(&mut Rollout), expected: bool| {
            let mut rollout = second_wave();
            assert!(alone(&rollout, "b").is_some(), "its turn, were it there");
            edit(&mut rollout);
            assert_eq!(alone(&rollout, "b").is_some(), expected, "{what}");
        };
        let line = || Event::StopLine { by: "me".to_owned(), reason: "a doubt".to_owned() };
        let state = |state: State| {
            move |rollout: &mut Rollout| rollout.nodes.get_mut(&name("b")).expect("there").state = state
        };
        check("as it is", &|_| (), true);
        check(
            "halted",
            &|rollout| happens(rollout, Event::Halt { by: "me".to_owned(), reason: "a doubt".to_owned() }),
            false,
        );
        check("line stopped", &|rollout| happens(rollout, line()), false);
        let cleared = |rollout: &mut Rollout| {
            happens(rollout, line());
            happens(rollout, Event::ClearLine);
        };
        check("line cleared", &cleared, true);
        check("undone", &|rollout| happens(rollout, Event::Undo), false);
        check("superseded", &|rollout| happens(rollout, Event::Supersede), false);
        check(
            "held",
            &|rollout| {
                rollout.nodes.get_mut(&name("b")).expect("there").hold = Some("a doubt".to_owned());
            },
            false,
        );
        check("silent, and back here", &state(State::Silent), true);
        check("catching up", &state(State::CatchingUp), true);
        check("its gates are asked first", &state(State::Held), false);
        check("failed", &state(State::Failed), false);
        check("rolled back", &state(State::RolledBack), false);
    }

    #[test]
    fn in_its_turn_and_above_every_order_before() {
        let mut early = rollout();
        assert_eq!(alone(&early, "a"), None, "a draft");
        happens(&mut early, Event::Start);
        assert_eq!((alone(&early, "a"), alone(&early, "b")), (Some(1), None), "a later wave");
        happens(&mut early, Event::Lost { node: name("a") });
        assert_eq!(alone(&early, "a"), Some(1), "what was ordered stands");
        let late = second_wave();
        assert_eq!(alone(&late, "a"), Some(1), "done, and said again");
        assert_eq!(alone(&late, "b"), Some(late.order.max(1)));
        assert_eq!(alone(&late, "nobody"), None);
    }

    #[test]
    fn whoever_was_told_here_takes_a_place() {
        let told = |names: &[&str]| names.iter().map(|text| name(text)).collect::<BTreeSet<_>>();
        let late = second_wave();
        assert_eq!(late.limits().in_flight, 1);
        assert!(ordered(&late, &name("b"), &told(&["b"])).is_some(), "its own place is kept for it");
        assert_eq!(ordered(&late, &name("c"), &told(&["b"])), None, "one may be in flight");
        assert!(ordered(&late, &name("c"), &told(&["nobody"])).is_some());
        // Whoever has come back since is counted by the engine.
        let mut back = late.clone();
        happens(&mut back, Event::Connected { node: name("b") });
        assert_eq!(back.nodes[&name("b")].state, State::Offered);
        assert_eq!(ordered(&back, &name("c"), &BTreeSet::new()), None);
    }

    #[test]
    fn numbers_are_above_what_the_node_has_seen() {
        let mut late = second_wave();
        late.nodes.get_mut(&name("b")).expect("there").seen = 9000;
        assert_eq!((alone(&late, "b"), alone(&late, "c")), (Some(9001), Some(late.order.max(1))));
    }
}
