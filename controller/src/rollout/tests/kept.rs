//! What is kept of rollouts, for how long, and how large it may become.

use fleet_rollout::{Entry, Policy, Spec, Target, advance};

use super::*;
use crate::rollout::archive::{Head, KEPT};

const MOST_STORED: usize = 256 * 1024;

fn head() -> Head {
    Head {
        version: "1".to_owned(),
        previous_version: String::new(),
        by: "ops".to_owned(),
        started: Timestamp::default(),
        snapshot: Default::default(),
        log: Vec::new(),
        notices: Vec::new(),
    }
}

fn drawn(id: usize, target: Target, members: impl IntoIterator<Item = NodeName>) -> Rollout {
    let spec = Spec {
        id: id.to_string(),
        target,
        previous: Some(Target::Plan("before".to_owned())),
        policy: Policy::default(),
        spare: BTreeMap::new(),
    };
    Rollout::draft(spec, members.into_iter().map(Member::new).collect(), Timestamp::default()).expect("sound")
}

/// However many plans came since: those that come back catch up with it.
#[tokio::test]
async fn the_newest_release_outlives_any_number_of_plans() {
    let world = World::new(i64::MAX, false);
    let archive = Archive::new(Records::new(world.store.clone()));
    let mut all = vec![drawn(1, Target::Release(NEW.to_owned()), [node("a")])];
    for id in 2..=2 * KEPT {
        let mut plan = drawn(id, Target::Plan(format!("plan {id}")), [node("a")]);
        if id < 2 * KEPT {
            advance(&mut plan, Event::Supersede, Timestamp::default()).expect("lawful");
        }
        all.push(plan);
    }
    for rollout in all {
        archive.create(head(), rollout).await.expect("kept");
    }
    let mut core = world.core("one");
    core.lead().await.expect("goes on");
    assert_eq!(core.driven(), [1, 2 * KEPT as u64]);
    let kept: Vec<u64> = archive.all().await.expect("reads").into_keys().collect();
    let newest = (2 * KEPT as u64 + 2 - KEPT as u64..).take(KEPT - 1);
    assert_eq!(kept, std::iter::once(1).chain(newest).collect::<Vec<_>>());
}

#[tokio::test]
async fn however_many_are_named_what_is_stored_stays_small() {
    let world = World::new(i64::MAX, false);
    let archive = Archive::new(Records::new(world.store.clone()));
    let names: Vec<NodeName> =
        (0..20_000).map(|number| node(&format!("a-long-name-of-a-node-{number}"))).collect();
    let text = names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
    let mut kept =
        archive.create(head(), drawn(1, Target::Release(NEW.to_owned()), names)).await.expect("kept");
    for _ in 0..30 {
        let (seq, at, moment) = (kept.rollout.seq, kept.rollout.clock, kept.rollout.moment);
        let entry = Entry { seq, at, moment, event: Event::Tick };
        archive.append(&mut kept, entry, vec![format!("halted: {text}")]).await.expect("stored");
    }
    let told = &kept.head.notices.last().expect("told").text;
    assert!(
        told.starts_with("halted: a-long-name-of-a-node-0, ") && told.ends_with("has all of it)"),
        "{told}"
    );
    let stored = serde_json::to_vec(&kept.head).expect("JSON").len();
    assert!(stored < MOST_STORED, "{stored} bytes");
}
