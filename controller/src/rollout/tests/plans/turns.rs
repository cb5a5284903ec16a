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

/// It is in the way of the others of its cluster, whether or not it has anything to do with what is rolled out.
#[tokio::test]
async fn a_member_that_is_off_counts_for_its_cluster_even_if_it_has_no_part_in_it() {
    let cluster = |work: &str| {
        let nodes = NODES.map(|name| {
            let work = if name == "b" { work } else { "old" };
            format!("{{name: {name}, image: Debian 12, {}}}", does(work))
        });
        given("{tasks: [{rethinkdb: {seed: a}}]}", &nodes)
    };
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    // What founds a database goes to all at once.
    assert_eq!(outside.up(&mut controller, cluster("old")).await.expect("founds"), None);
    outside.machine(&node("c")).away = true;
    outside.round(&mut controller).await.expect("goes on");
    outside.up(&mut controller, cluster("new")).await.expect("starts").expect("a rollout");
    for _ in 0..20 {
        outside.round(&mut controller).await.expect("goes on");
    }
    assert_eq!(controller.rollout().nodes.keys().collect::<Vec<_>>(), [&node("b")]);
    assert_eq!(outside.machine(&node("b")).works, ["old"]);
    outside.machine(&node("c")).away = false;
    outside.until(&mut controller, Standing::Finished).await;
    assert_eq!(outside.machine(&node("b")).works, ["old", "new"]);
}

/// Its work lies ready for it and is sent as soon as it is there, whatever is planned by then.
#[tokio::test]
async fn who_was_away_never_begins_what_another_plan_took_the_place_of() {
    let (mut outside, mut controller) = Outside::new(&NODES).await;
    outside.up(&mut controller, plan(&NODES, "mistaken")).await.expect("starts").expect("a rollout");
    let canary = controller.canary();
    // It is gone before it takes what was sent.
    outside.machine(&canary).away = true;
    controller.desk.registry.leave(&controller.lives.remove(&canary).expect("a session"));
    let gone = BTreeMap::from([(canary.clone(), News { session: true, ..News::default() })]);
    controller.core.news(gone).await.expect("goes on");
    outside.up(&mut controller, plan(&NODES, "right")).await.expect("starts").expect("a rollout");
    outside.machine(&canary).away = false;
    outside.until(&mut controller, Standing::Finished).await;
    assert_eq!(outcomes(controller.rollout()), [Some(Outcome::Updated); NODES.len()]);
    assert_eq!(outside.machine(&canary).works, ["old", "right"]);
}
