//! Who may take a member of a database away for a while.

use std::time::Duration;

use fleet_controller::reconcile::restart::whole;
use fleet_plan::ResolvedPlan;
use fleet_proto::v1::{Recheck, Until, command};
use tonic::Status;

use crate::{
    harness::{DEADLINE, node, start_with},
    runs::{PLAN, apply, finish, fresh},
    world::World,
};

/// Two members; what lays out the replicas is on one of them.
fn plan() -> String {
    let member = "image: Debian 12, internet: [22], tasks: [{rethinkdb: {seed: three}}";
    PLAN.replace("{name: three, image: Debian 12, internet: [22]}", &format!("{{name: three, {member}, {{database: {{name: d, table: t, replicas: 1}}}}]}}\n          - {{name: four, {member}]}}"))
}

fn resolved() -> ResolvedPlan {
    fleet_plan::load("plan.yaml", &plan(), &Default::default()).unwrap_or_else(|why| panic!("{why}")).plan
}

#[tokio::test]
async fn a_member_goes_only_while_the_others_are_whole() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(finish(apply(&fixture, &plan(), Until::Ready).await).await.1.ok);
    let (plan, desk) = (resolved(), &fixture.desk);
    assert_eq!(whole(desk, &plan, &node("four"), DEADLINE).await, Ok(()));
    assert_eq!(world.looks(), [node("three")], "what was said before is not believed");
    assert_eq!(whole(desk, &plan, &node("three"), DEADLINE).await, Ok(()));
    let mut looks = world.looks().split_off(1);
    looks.sort();
    assert_eq!(looks, [node("four"), node("three")]);

    // The replicas are on their way.
    world.script(|script| {
        script.waits = true;
        script.unsettled.insert("three", 1);
    });
    let (four, before) = (node("four"), world.looks().len());
    let later = async {
        while world.looks().len() == before {
            tokio::task::yield_now().await;
        }
        let live = desk.registry.live(&node("three")).expect("there");
        desk.dispatch.ask(vec![live], command::What::Recheck(Recheck {}), DEADLINE).await
    };
    let (let_go, _) = tokio::join!(whole(desk, &plan, &four, DEADLINE), later);
    assert_eq!((let_go, world.looks().len()), (Ok(()), before + 2), "not by the first look");

    // One does not come back.
    desk.registry.live(&node("three")).expect("there").end(Status::aborted("a test"));
    fixture.until("it to go", || desk.registry.sessions() == 3).await;
    let why =
        whole(desk, &plan, &node("four"), Duration::from_secs(1)).await.expect_err("half of it is away");
    assert!(why.contains("waited 1 s for node `three`, which has no session"), "{why}");
    fixture.stop().await;
}

#[tokio::test]
async fn servers_that_never_ran_an_agent_hold_no_database() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(finish(apply(&fixture, &plan(), Until::Provisioned).await).await.1.ok);
    assert_eq!(whole(&fixture.desk, &resolved(), &node("four"), Duration::ZERO).await, Ok(()));
    fixture.stop().await;
}
