use std::collections::BTreeMap;

use fleet_model::ManualClock;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A machine opens a session as a node.
    Enter {
        node: u8,
        machine: u8,
    },
    /// The so-many-th session ever opened closes, perhaps for the second time.
    Leave(usize),
    /// The so-many-th session ever opened says something.
    Speak(usize),
    Wait(u16),
    /// Somebody sets the controller's clock.
    Set(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3_u8, 0..3_u8).prop_map(|(node, machine)| Step::Enter { node, machine }),
        any::<usize>().prop_map(Step::Leave),
        any::<usize>().prop_map(Step::Speak),
        (0..60_u16).prop_map(Step::Wait),
        (0..2_000_000_000_000_i64).prop_map(Step::Set),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Whatever comes in whatever order: one session a node at most, the newest of its machine; a clone never
    /// displaces a node at work; what a replaced session says is not heard.
    #[test]
    fn one_session_a_node(steps in steps()) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
        let registry = Registry::new(clock.clone());
        let mut opened: Vec<Arc<Live>> = Vec::new();
        let mut spoken = 0;
        let mut current: BTreeMap<NodeName, usize> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Enter { node, machine } => {
                    let node: NodeName = format!("n{node}").parse().expect("a name");
                    let hello = v1::Hello { machine: machine.to_string(), ..v1::Hello::default() };
                    let peer = Arc::new(Peer::of_node(node.clone()));
                    let held = current.get(&node).map(|&index| opened[index].clone());
                    let cloned = held
                        .as_ref()
                        .is_some_and(|held| held.machine != hello.machine && !held.is_silent());
                    match registry.enter(&node, &hello, peer) {
                        Ok((live, _)) => {
                            prop_assert!(!cloned, "a clone got in");
                            current.insert(node, opened.len());
                            opened.push(live);
                        }
                        Err(refusal) => {
                            prop_assert!(cloned, "refused without cause: {refusal:?}");
                            prop_assert_eq!(refusal.kind(), RefusalKind::RefusalClone);
                        }
                    }
                }
                Step::Leave(which) if !opened.is_empty() => {
                    let index = which % opened.len();
                    registry.leave(&opened[index]);
                    current.retain(|_, held| *held != index);
                }
                Step::Speak(which) if !opened.is_empty() => {
                    let index = which % opened.len();
                    let live = &opened[index];
                    live.heard();
                    spoken += 1;
                    let facts = v1::Facts { cpus: spoken, ..v1::Facts::default() };
                    registry.facts(live, facts);
                    let heard = registry.view(&live.node).facts.map(|facts| facts.cpus);
                    let is_current = current.get(&live.node) == Some(&index);
                    prop_assert_eq!(heard == Some(spoken), is_current);
                }
                Step::Wait(secs) => clock.advance(Duration::from_secs(secs.into())),
                Step::Set(at) => clock.set(Timestamp::from_millis(at)),
                Step::Leave(_) | Step::Speak(_) => {}
            }
            let ids = |lives: Vec<Arc<Live>>| {
                let mut ids: Vec<_> = lives.iter().map(|live| live.id).collect();
                ids.sort_unstable();
                ids
            };
            let expected = current.values().map(|&index| opened[index].clone()).collect();
            prop_assert_eq!(ids(registry.lives()), ids(expected));
            prop_assert_eq!(registry.sessions(), current.len() as u64);
        }
    }
}

#[test]
fn silence_is_what_passes_and_not_what_the_clock_shows() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000_000)));
    let registry = Registry::new(clock.clone());
    let node: NodeName = "web-1".parse().expect("a name");
    let peer = || Arc::new(Peer::of_node(node.clone()));
    let hello = |machine: &str| v1::Hello { machine: machine.to_owned(), ..v1::Hello::default() };
    let (live, pace) = registry.enter(&node, &hello("m1"), peer()).expect("enters");
    registry.set_enrolled(&node, true);
    let nobody: NodeName = "web-2".parse().expect("a name");
    let check = |silent: bool, what: &str| {
        assert_eq!(live.is_silent(), silent, "{what}");
        assert_eq!(registry.silent(), usize::from(silent), "{what}");
        assert_eq!(registry.view(&node).connected, !silent, "{what}");
        assert_eq!(registry.absent(&nobody).is_some(), silent, "{what}");
    };
    check(false, "at first");
    let year = Duration::from_secs(365 * 86_400);
    clock.set(clock.now().after(year));
    check(false, "the clock was set ahead");
    registry.enter(&node, &hello("m2"), peer()).expect_err("a clone, of a node at work");
    live.heard();
    let ahead = live.last_seen();
    clock.set(clock.now().before(year));
    check(false, "and back");
    clock.advance(pace.silence() - Duration::from_millis(1));
    check(false, "a moment before");
    clock.advance(Duration::from_millis(1));
    check(true, "though it was last seen in what is the future now");
    live.heard();
    check(false, "heard of again");
    assert!(live.last_seen() < ahead, "as the clock shows now");
    clock.set(Timestamp::from_millis(0));
    clock.advance(pace.silence());
    check(true, "the clock was set back by decades");
    registry.enter(&node, &hello("m2"), peer()).expect("its successor");
}

#[tokio::test]
async fn who_holds_a_newer_generation_than_the_store_rings() {
    let registry = Registry::new(Arc::new(ManualClock::at(Timestamp::from_millis(0))));
    let node: NodeName = "a".parse().expect("a name");
    registry.remember(node.clone(), ObservedRecord::default());
    assert!(registry.unheard(&node), "what it holds nobody knows");
    registry.set_desired(&node, Arc::new(v1::Desired { generation: 5, ..v1::Desired::default() }));
    let rings = async || tokio::time::timeout(Duration::from_millis(1), registry.ahead()).await.is_ok();
    let enter = |generation| {
        let hello = v1::Hello { generation, ..v1::Hello::default() };
        registry.enter(&node, &hello, Arc::new(Peer::of_node(node.clone()))).expect("let in").0
    };
    let live = enter(5);
    assert!(!registry.unheard(&node) && !rings().await);
    registry.observed(&live, v1::Observed { generation: 6, ..v1::Observed::default() });
    assert!(rings().await);
    enter(7);
    assert!(rings().await);
    assert_eq!(registry.holds(&node), 7);
}
