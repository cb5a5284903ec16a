//! One rollout moves at a time, of whichever kind, and whatever stopped the other.

use super::*;

const HALT: fn() -> Event = || Event::Halt { by: "ops".to_owned(), reason: "a doubt".to_owned() };

#[track_caller]
fn refuses<T>(said: Result<T, Trouble>, by: &str) {
    let Err(refused) = said else { panic!("{by} is under way") };
    assert!(refused.told().contains(&format!("{by} is under way")), "{}", refused.told());
}

/// What only waits for the line moves once that is clear.
#[tokio::test]
async fn a_release_that_waits_for_the_line_is_under_way_all_the_same() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    controller.core.start("ops", "0.2.0", POLICY).await.expect("starts");
    controller.core.stop_line("ops", "a doubt").await.expect("stops");
    refuses(outside.up(&mut controller, plan(&NODES, "new")).await, "rollout 1 of release 0.2.0");
    controller.core.clear_line("ops").await.expect("clears");
    refuses(outside.up(&mut controller, plan(&NODES, "new")).await, "rollout 1 of release 0.2.0");
    assert_eq!(outside.works(), vec![vec!["old".to_owned()]; NODES.len()]);
}

#[tokio::test]
async fn a_halted_release_goes_on_or_back_only_when_the_plan_is_through() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    controller.core.start("ops", "0.2.0", POLICY).await.expect("starts");
    controller.core.act("1", HALT()).await.expect("halts");
    outside.up(&mut controller, plan(&NODES, "new")).await.expect("starts").expect("a rollout");
    let plan = "rollout 2 of plan web.yaml";
    refuses(controller.core.act("1", Event::Resume { retry: false }).await, plan);
    refuses(controller.core.act("1", Event::Undo).await, plan);
    controller.core.stop_line("ops", "a doubt").await.expect("stops");
    refuses(controller.core.act("1", Event::Resume { retry: false }).await, plan);
    controller.core.clear_line("ops").await.expect("clears");
    // Either may always be stopped, and then the other goes on.
    controller.core.act("2", HALT()).await.expect("halts");
    controller.core.act("1", Event::Resume { retry: false }).await.expect("goes on");
    refuses(controller.core.act("2", Event::Resume { retry: false }).await, "rollout 1 of release 0.2.0");
    controller.core.act("1", HALT()).await.expect("halts");
    controller.core.act("2", Event::Resume { retry: false }).await.expect("goes on");
    outside.until(&mut controller, Standing::Finished).await;
    controller.core.act("1", Event::Resume { retry: false }).await.expect("goes on");
}
