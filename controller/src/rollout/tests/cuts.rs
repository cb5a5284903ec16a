//! A controller that dies, hears nothing, or is asked by somebody who goes away, at any write; and two of them.

use super::*;

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The controller dies of it.
    Killed,
    /// It fails, and the controller goes on.
    Lost,
    /// Whoever asked goes away while it is under way, and the controller goes on.
    Cut,
}

/// A whole rollout; a controller that fails is followed by another, or goes on by itself. Says how many writes there were.
async fn whole(failing: i64, after: bool, end: End) -> i64 {
    let world = World::new(failing, after);
    let mut core = world.core("one");
    let killed = end == End::Killed;
    world.store.hangs.store(end == End::Cut, Ordering::SeqCst);
    let mut troubles = 0;
    let started = world.unless_cut(core.start("ops", "0.2.0", POLICY)).await;
    if started.is_none_or(|started| started.is_err()) {
        troubles += 1;
        if killed {
            core = world.core("another");
            world.clock.advance(LEASE);
        }
        core.lead().await.expect("free");
        if core.newest().is_none() {
            core.start("ops", "0.2.0", POLICY).await.expect("now it does");
        }
    }
    for _ in 0..200 {
        if core.newest().is_some_and(|kept| kept.rollout.standing() == Standing::Finished) {
            break;
        }
        if world.unless_cut(world.round(&mut core)).await.is_none_or(|done| done.is_err()) {
            troubles += 1;
            if killed {
                // Gone as it is, with its lease: another waits for that.
                core = world.core("another");
                world.clock.advance(LEASE);
            } else {
                // What is in hand counts only from here on.
                core.lead().await.expect("free");
            }
        }
    }
    let what = format!("write {failing}, after {after}, {end:?}");
    assert_eq!(troubles, i32::from(failing < i64::MAX), "{what}");
    let rollout = &core.newest().expect("one").rollout;
    assert_eq!(outcomes(rollout), [Some(Outcome::Updated); NODES.len()], "{what}: {rollout:?}");
    assert_eq!(world.agents.trials(), vec![vec![NEW.to_owned()]; NODES.len()], "{what}: nobody tried twice");
    world.replays(&core).await;
    failing - world.store.left.load(Ordering::SeqCst)
}

/// A whole rollout for each of its writes, before it takes effect and after.
async fn at_every_write(end: End) {
    let writes = whole(i64::MAX, false, End::Lost).await;
    assert!(writes > 15, "{writes} writes");
    for write in 1..=writes {
        for after in [false, true] {
            whole(write, after, end).await;
        }
    }
}

#[tokio::test]
async fn a_controller_killed_at_any_write_is_followed_by_another() {
    at_every_write(End::Killed).await;
}

#[tokio::test]
async fn a_lost_answer_of_any_write_is_found_out() {
    at_every_write(End::Lost).await;
}

#[tokio::test]
async fn whoever_goes_away_in_the_middle_of_any_write_leaves_nothing_half_done() {
    at_every_write(End::Cut).await;
}

#[tokio::test]
async fn of_two_controllers_one_drives_and_the_other_follows() {
    let world = World::new(i64::MAX, false);
    let (mut one, mut two) = (world.core("one"), world.core("two"));
    one.start("ops", "0.2.0", POLICY).await.expect("starts");
    let elsewhere = two.start("ops", "0.3.0", POLICY).await.expect_err("somebody drives");
    assert!(matches!(&elsewhere, Trouble::Elsewhere { by, .. } if by == "one"), "{elsewhere}");
    assert_eq!(two.stored().await.expect("may look").rollouts.len(), 1);
    for _ in 0..3 {
        world.round(&mut one).await.expect("goes on");
        assert!(two.tick().await.is_err());
    }
    // The first one is stopped for a while, and does not know.
    world.clock.advance(LEASE);
    two.tick().await.expect("takes over");
    for _ in 0..4 {
        world.round(&mut two).await.expect("goes on");
    }
    let mut stale = one;
    let late = stale.take(Event::Halt { by: "ops".to_owned(), reason: "late".to_owned() }).await;
    assert!(matches!(&late, Err(Trouble::Record(error)) if error.is_conflict()), "{late:?}");
    assert!(matches!(stale.lead().await, Err(Trouble::Elsewhere { .. })));
    world.until(&mut two, Standing::Finished).await;
    assert_eq!(world.agents.trials(), vec![vec![NEW.to_owned()]; NODES.len()]);
    world.replays(&two).await;
    two.resign().await;
    stale.lead().await.expect("it was given back");
}
