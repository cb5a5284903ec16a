//! Whether a rollout has a node take its release now. Pure.

use fleet_model::NodeName;
use fleet_rollout::{Finish, Obstacle, Phase, Rollout, State, explain};

/// Number of the order by which `name` is to take the release of `rollout`, though it has no session; none if it is not.
///
/// For a node that waits, the engine's own rules say whether it would be its turn: the only thing in its way may be that
/// it has no session, or that members of its cluster have none, for changing an agent takes no database down, and members
/// that only this door lets in would wait for each other for ever.
pub(super) fn ordered(rollout: &Rollout, name: &NodeName) -> Option<u64> {
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
        // Above all that were given; the engine's next one is above this.
        told.then(|| rollout.order.max(node.order).max(1))
    };
    match node.state {
        // What it was ordered before its session was lost stands.
        State::Offered | State::Fetching | State::Trial | State::Proving | State::Committed => {
            Some(node.order)
        }
        State::Pending | State::CatchingUp => in_turn(rollout),
        State::Silent => {
            // It would catch up if it came back, and here it is.
            let mut back = rollout.clone();
            back.nodes.get_mut(name)?.state = State::CatchingUp;
            in_turn(&back)
        }
        State::Held | State::Failed | State::RolledBack => None,
    }
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
        happens(&mut rollout, Event::Tick);
        assert_eq!(rollout.wave, 1, "{:?}", rollout.phase);
        rollout
    }

    #[test]
    fn never_without_an_order_and_never_against_a_halt() {
        let check = |what: &str, edit: &dyn Fn(&mut Rollout), expected: bool| {
            let mut rollout = second_wave();
            assert!(ordered(&rollout, &name("b")).is_some(), "its turn, were it there");
            edit(&mut rollout);
            assert_eq!(ordered(&rollout, &name("b")).is_some(), expected, "{what}");
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
        assert_eq!(ordered(&early, &name("a")), None, "a draft");
        happens(&mut early, Event::Start);
        assert_eq!(
            (ordered(&early, &name("a")), ordered(&early, &name("b"))),
            (Some(1), None),
            "a later wave"
        );
        happens(&mut early, Event::Lost { node: name("a") });
        assert_eq!(ordered(&early, &name("a")), Some(1), "what was ordered stands");
        let late = second_wave();
        assert_eq!(ordered(&late, &name("a")), Some(1), "done, and said again");
        assert_eq!(ordered(&late, &name("b")), Some(late.order.max(1)));
        assert_eq!(ordered(&late, &name("nobody")), None);
    }
}
