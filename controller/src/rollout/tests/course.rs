//! The course of rollouts: one after the other, undone, stopped, with nodes that come and go.

use super::*;

#[tokio::test]
async fn the_next_rollout_takes_the_place_of_the_last_and_undo_goes_back() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    let refused = core.start("ops", "0.3.0", POLICY).await.expect_err("one is under way").to_string();
    assert!(refused.contains("rollout 1 of release 0.2.0 is under way"), "{refused}");
    world.until(&mut core, Standing::Finished).await;
    core.start("ops", "newest", POLICY).await.expect("by its digits");
    world.until(&mut core, Standing::Finished).await;
    let orders: Vec<u64> =
        core.newest().expect("one").rollout.nodes.values().map(|node| node.order).collect();
    assert!(orders.iter().all(|order| *order > 4), "numbers rise over all rollouts: {orders:?}");
    let stored = core.stored().await.expect("reads");
    assert!(crate::rollout::core::superseded(&stored.rollouts[&1].rollout));
    core.act("1", Event::Undo).await.expect_err("another took its place");
    core.act("2", Event::Undo).await.expect("goes back");
    world.until(&mut core, Standing::Finished).await;
    let running: Vec<String> =
        world.agents.all().values().map(|agent| agent.standing.running_sha256.clone()).collect();
    assert_eq!(running, vec![NEW; NODES.len()]);
    world.replays(&core).await;
}

/// Everybody has NEW, with OLD beside it, when the next release comes to the canary: what becomes of an undo then.
async fn undone_before_the_switch(change: impl Fn(&mut Agent)) -> World {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Finished).await;
    for name in NODES {
        world.agents.with(name, &change);
    }
    core.start("ops", "0.3.0", POLICY).await.expect("starts");
    world.round(&mut core).await.expect("goes on");
    let node = core.newest().and_then(|kept| kept.rollout.nodes.values().find(|node| node.touched).cloned());
    assert!(node.is_some_and(|node| node.state != State::Trial), "before the switch");
    core.act("", Event::Undo).await.expect("goes back");
    world.until(&mut core, Standing::Finished).await;
    let rollout = &core.newest().expect("one").rollout;
    assert!(outcomes(rollout).iter().all(|one| one != &Some(Outcome::Failed)), "{rollout:?}");
    world.replays(&core).await;
    world
}

/// How an agent differs.
type Differ = fn(&mut Agent);

#[tokio::test]
async fn an_undo_moves_nobody_who_never_switched() {
    let changes: [(&str, Differ); 4] = [
        ("fetching", |_| ()),
        ("failed", |agent| agent.refuses = true),
        ("fetching, of an older version", |agent| agent.leaves = false),
        ("failed, of an older version", |agent| (agent.refuses, agent.leaves) = (true, false)),
    ];
    for (name, change) in changes {
        let world = undone_before_the_switch(change).await;
        for (node, agent) in world.agents.all().iter() {
            assert_eq!(agent.standing.running_sha256, NEW, "{name}: {node}");
            assert_eq!(agent.trials, [NEW], "{name}: {node}");
        }
    }
}

#[tokio::test]
async fn a_first_rollout_that_failed_before_the_switch_is_undone() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.refuses = true);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Halted).await;
    core.act("", Event::Undo).await.expect("goes back");
    world.until(&mut core, Standing::Finished).await;
    assert!(world.agents.all().values().all(|agent| agent.standing.running_sha256 == OLD));
}

#[tokio::test]
async fn a_stopped_line_is_honoured_by_those_that_come_later() {
    let world = World::new(i64::MAX, false);
    world.agents.connect("d", false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    for _ in 0..2 {
        world.round(&mut core).await.expect("goes on");
    }
    core.stop_line("ops", "a doubt").await.expect("stops");
    let refused = core.start("ops", "0.3.0", POLICY).await.expect_err("stopped").to_string();
    assert!(refused.contains("the line is stopped by ops: a doubt"), "{refused}");
    // Another controller on the same store knows, and so does whoever comes back.
    drop(core);
    world.clock.advance(LEASE);
    let mut core = world.core("another");
    world.agents.connect("d", true);
    for _ in 0..60 {
        world.round(&mut core).await.expect("goes on");
    }
    assert_eq!(core.newest().expect("one").rollout.standing(), Standing::Halted);
    assert!(
        world.agents.all()[&node("d")].trials.is_empty() && world.agents.all()[&node("d")].told.is_empty()
    );
    let was = core.clear_line("ops").await.expect("clears").expect("it was stopped");
    assert_eq!((was.by.as_str(), was.reason.as_str()), ("ops", "a doubt"));
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
}

#[tokio::test]
async fn an_agent_that_takes_no_orders_fails_and_says_who_moves_first() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.orders = false);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Halted).await;
    let rollout = &core.newest().expect("one").rollout;
    let failed: Vec<_> = rollout.nodes.values().filter(|node| node.state == State::Failed).collect();
    assert_eq!(failed.len(), 1, "the canary alone");
    let reason = failed[0].reason.as_ref().expect("why");
    assert_eq!(reason.kind, Kind::Mismatch);
    assert!(reason.detail.contains("its agent 0.1.0 takes no orders, so that has to move first"), "{reason}");
}

#[tokio::test]
async fn only_what_an_order_names_may_be_fetched_and_a_failure_is_halted_and_retried() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.refuses = true);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    let allowed = |world: &World| {
        let all = world.agents.all();
        all.values().filter(|agent| agent.allowed == [format!("packed-{NEW}")]).count()
    };
    assert_eq!(allowed(&world), 1, "the canary alone");
    world.until(&mut core, Standing::Halted).await;
    assert_eq!(allowed(&world), 1);
    for name in NODES {
        world.agents.with(name, |agent| agent.refuses = false);
    }
    core.act("", Event::Resume { retry: true }).await.expect("goes on");
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
}

#[tokio::test]
async fn nodes_come_and_go_for_good_meanwhile() {
    let world = World::new(i64::MAX, false);
    world.agents.connect("c", false);
    world.agents.connect("d", false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    let mut agent = world.agents.all().remove(&node("d")).expect("an agent");
    world.round(&mut core).await.expect("goes on");
    assert!(!core.newest().expect("one").rollout.nodes.contains_key(&node("d")));
    agent.connected = true;
    world.agents.all().insert(node("e"), agent);
    world.until(&mut core, Standing::Finished).await;
    let rollout = &core.newest().expect("one").rollout;
    assert_eq!(rollout.outcome(&node("e")), Some(Outcome::Updated));
    assert_eq!(rollout.outcome(&node("c")), Some(Outcome::Silent));
    // Off all the while, it catches up when it returns.
    world.agents.connect("c", true);
    for _ in 0..6 {
        world.round(&mut core).await.expect("goes on");
    }
    assert_eq!(core.newest().expect("one").rollout.outcome(&node("c")), Some(Outcome::Updated));
    // And one is sent back for good.
    let (_, connected) = core.send_back("ops", &node("a")).await.expect("goes back");
    assert!(connected);
    for _ in 0..6 {
        world.round(&mut core).await.expect("goes on");
    }
    assert_eq!(world.agents.all()[&node("a")].standing.running_sha256, OLD);
    assert_eq!(core.newest().expect("one").rollout.standing(), Standing::Finished);
    let refused = core.send_back("ops", &node("e")).await;
    assert!(refused.is_ok(), "{refused:?}");
}
