//! What is heard of nodes once they have a release, and from before.

use super::*;

/// The canary of a rollout that has just been committed there.
async fn canary(world: &World, core: &mut Core) -> NodeName {
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(core, Standing::Baking).await;
    let nodes = &core.newest().expect("one").rollout.nodes;
    nodes.values().find(|node| node.wave == 0).expect("one").member.node.clone()
}

#[tokio::test]
async fn news_that_meet_a_store_that_cannot_be_read_are_caught_up_with() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    let canary = canary(&world, &mut core).await;
    world.agents.connect(canary.as_str(), false);
    // Somebody went for good, so that it is read who there is.
    let other = NODES.into_iter().find(|name| *name != canary.as_str()).expect("another");
    world.agents.all().remove(&node(other));
    world.agents.unread.store(true, Ordering::SeqCst);
    core.news(world.agents.step()).await.expect_err("the store is busy");
    core.lead().await.expect("goes on");
    assert!(!core.newest().expect("one").rollout.nodes[&canary].connected, "its session ended meanwhile");
}

#[tokio::test]
async fn a_task_that_fails_only_under_the_new_agent_stops_it_and_sends_the_node_back() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.failing = vec!["old trouble"]);
    }
    let mut core = world.core("one");
    let canary = canary(&world, &mut core).await;
    world.agents.with(canary.as_str(), |agent| agent.failing.push("todo"));
    world.until(&mut core, Standing::Halted).await;
    let reason = core.newest().expect("one").rollout.nodes[&canary].reason.clone().expect("why");
    assert_eq!(reason.kind, Kind::Work, "{reason}");
    assert!(reason.detail.contains("task `todo`, which did not before: why"), "{reason}");
    for _ in 0..4 {
        world.round(&mut core).await.expect("goes on");
    }
    assert_eq!(world.agents.all()[&canary].standing.running_sha256, OLD);
    // What failed before is no reason to stop.
    for name in NODES {
        world.agents.with(name, |agent| agent.failing = vec!["old trouble"]);
    }
    core.act("", Event::Resume { retry: true }).await.expect("goes on");
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
}

/// The controller has just begun: what has failed for weeks has failed for a moment as far as it knows.
#[tokio::test]
async fn what_failed_before_is_not_blamed_on_the_release_when_it_has_failed_for_long() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.lately = vec!["old trouble"]);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    // Whoever changes restarts what others look at, for a moment.
    for name in NODES {
        world.agents.with(name, |agent| agent.lately.push("todo"));
    }
    world.until(&mut core, Standing::Baking).await;
    for name in NODES {
        world.agents.with(name, |agent| {
            agent.lately.clear();
            agent.failing = vec!["old trouble"];
        });
    }
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
    world.replays(&core).await;
}

/// A later release failed there, or its agent is of a version that does not say what runs.
#[tokio::test]
async fn whoever_has_the_release_already_is_well_with_it_whatever_it_speaks_of() {
    let world = World::new(i64::MAX, false);
    world.agents.with("a", |agent| {
        agent.standing.running_sha256 = NEW.to_owned();
        agent.standing.release = "newest".to_owned();
        agent.standing.set_step(StandingStep::StandingFailed);
    });
    world.agents.with("b", |agent| {
        agent.standing.running_sha256.clear();
        agent.standing.release = NEW.to_owned();
    });
    let mut core = world.core("one");
    let policy = r#"{"canaries":{"named":["c"],"drawn":0},"canaryBake":"30s","bake":"30s","waves":[]}"#;
    core.start("ops", "0.2.0", policy).await.expect("starts");
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
    let tried = [vec![], vec![], vec![NEW.to_owned()], vec![NEW.to_owned()]];
    assert_eq!(world.agents.trials(), tried, "nobody is brought what it has");
}

#[tokio::test]
async fn a_controller_of_before_can_read_every_log() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    while core.newest().is_some_and(|kept| kept.rollout.standing() != Standing::Finished) {
        world.round(&mut core).await.expect("goes on");
        let stored = Archive::new(Records::new(world.store.clone())).all().await.expect("reads");
        let mut logged = stored.values().flat_map(|kept| &kept.head.log);
        assert!(!logged.any(|entry| matches!(entry.event, Event::Well { .. })));
    }
    assert!(core.newest().expect("one").rollout.nodes.values().all(|node| node.well.is_some()));
}

#[tokio::test]
async fn the_next_rollout_knows_what_numbers_nodes_have_seen() {
    let world = World::new(i64::MAX, false);
    world.agents.with("d", |agent| agent.standing.order = 500);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Finished).await;
    let seen = core.newest().expect("one").rollout.nodes[&node("d")].order;
    assert!(seen > 500, "{seen}");
    world.agents.connect("d", false);
    core.start("ops", "0.3.0", POLICY).await.expect("starts");
    let nodes = &core.newest().expect("one").rollout.nodes;
    assert_eq!((nodes[&node("d")].seen, nodes[&node("c")].seen), (seen, 0));
}

#[tokio::test]
async fn an_agent_that_crashes_while_it_is_watched_stops_it() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.standing.crashes = Some(5));
    }
    let mut core = world.core("one");
    let canary = canary(&world, &mut core).await;
    world.round(&mut core).await.expect("goes on");
    world.agents.with(canary.as_str(), |agent| {
        agent.standing.crashes = Some(6);
        agent.news.standing = true;
    });
    world.until(&mut core, Standing::Halted).await;
    let reason = core.newest().expect("one").rollout.nodes[&canary].reason.clone().expect("why");
    assert_eq!(reason.kind, Kind::Crashed, "{reason}");
}

#[tokio::test]
async fn a_canary_of_which_nothing_more_is_heard_passes_no_bake() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    let canary = canary(&world, &mut core).await;
    world.agents.with(canary.as_str(), |agent| agent.dead = true);
    world.until(&mut core, Standing::Halted).await;
    let rollout = &core.newest().expect("one").rollout;
    assert_eq!((rollout.wave, rollout.nodes[&canary].state), (0, State::Failed), "{rollout:?}");
    assert!(rollout.nodes.values().all(|node| !node.touched || node.wave == 0));
}

#[tokio::test]
async fn a_store_that_is_older_than_what_nodes_did_reaches_them_all_the_same() {
    let world = World::new(i64::MAX, false);
    for (place, name) in NODES.into_iter().enumerate() {
        world.agents.with(name, |agent| agent.standing.order = 500 + place as u64);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Finished).await;
    let rollout = &core.newest().expect("one").rollout;
    assert_eq!(outcomes(rollout), [Some(Outcome::Updated); NODES.len()], "{rollout:?}");
    assert!(rollout.order < 100, "the numbers of one node are not those of others");
    core.act("", Event::Undo).await.expect("goes back");
    world.until(&mut core, Standing::Finished).await;
    assert!(world.agents.all().values().all(|agent| agent.standing.running_sha256 == OLD));
}

#[tokio::test]
async fn every_mistake_of_a_start_is_said() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    for (release, policy, wanted) in [
        ("9.9.9", "", "no release `9.9.9` is kept here"),
        ("new", "", "no release `new` is kept here"),
        ("newn", "{", "no release"),
        ("0.2.0", "{\"bakes\":1}", "unknown field `bakes`"),
        ("0.2.0", "{\"bake\":\"soon\"}", "a duration such as 90s"),
        ("0.2.0", "{\"waves\":[0]}", "a wave of nobody is no wave"),
        (
            "0.2.0",
            "{\"windows\":{\"EU6\":{\"zone\":\"Europe/Atlantis\",\"days\":[\"monday\"],\"from\":\"01:00\",\"until\":\"02:00\"}}}",
            "no time zone `Europe/Atlantis`",
        ),
    ] {
        let refused = core.start("ops", release, policy).await.expect_err(wanted).to_string();
        assert!(refused.contains(wanted), "{refused}");
    }
    assert!(core.stored().await.expect("reads").rollouts.is_empty());
    core.act("", Event::Undo).await.expect_err("there is none");
}
