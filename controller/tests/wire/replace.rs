//! Replacing a node: another server, another identity, the same name.

use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{
        self, Finished, NodeState, RepairRequest, ReplaceRequest, Until, enrolment_client::EnrolmentClient,
        progress::What,
    },
};
use rcgen::KeyPair;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::{
    harness::{DEADLINE, Fixture, csr, hello, kind, node, start_with},
    runs::{PLAN, apply, finish, fresh, status, up},
    world::World,
};

async fn replace(fixture: &Fixture, name: &str) -> Result<Streaming<v1::Progress>, Status> {
    let request = ReplaceRequest { node: name.to_owned() };
    Ok(fixture.operator_client().replace(request).await?.into_inner())
}

async fn replaced(fixture: &Fixture, name: &str) -> Finished {
    finish(replace(fixture, name).await.expect("starts")).await.1
}

/// Whether a key is told that it was retired, when it comes back the way agents do.
async fn is_retired(fixture: &Fixture, key: &KeyPair) -> bool {
    let hello = hello(fixture, "one");
    let request = v1::EnrolRequest { token: String::new(), csr: csr(key), hello: Some(hello) };
    let mut client: EnrolmentClient<_> = fixture.enrolment_client();
    match client.enrol(request).await {
        Ok(_) => false,
        Err(refused) => kind(&refused) == RefusalKind::RefusalRetired,
    }
}

#[tokio::test]
async fn a_replaced_node_is_another_one_of_the_same_name() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    let (told, finished) = finish(replace(&fixture, "one").await.expect("starts")).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(finished.changing_calls, 2, "one server less, one more");
    let states: Vec<_> = told
        .iter()
        .filter_map(|what| match what {
            What::Node(progress) if progress.node == "one" => Some(progress.state()),
            _ => None,
        })
        .collect();
    for wanted in [NodeState::NodeGone, NodeState::NodeBooting, NodeState::NodeReady] {
        assert!(states.contains(&wanted), "{wanted:?} in {states:?}");
    }
    assert_eq!(world.pushes()[3..], [node("one")], "the others were left alone");
    let keys = world.keys("one");
    assert_eq!(keys.len(), 2);
    assert!(is_retired(&fixture, &keys[0]).await, "the old identity never comes back");
    assert!(!is_retired(&fixture, &keys[1]).await, "the new one is another");
    assert!(status(&fixture).await.nodes.iter().all(|node| node.state() == NodeState::NodeReady));

    // Whatever happens to the controller.
    let fixture = start_with(fixture.stop().await, &world).await;
    assert!(is_retired(&fixture, &keys[0]).await);
    let again = replaced(&fixture, "one").await;
    assert!(again.ok, "{again:?}");
    let keys = world.keys("one");
    assert!(is_retired(&fixture, &keys[0]).await && is_retired(&fixture, &keys[1]).await);
    fixture.stop().await;
}

#[tokio::test]
async fn a_fleet_that_is_only_provisioned_stays_so() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(finish(apply(&fixture, PLAN, Until::Provisioned).await).await.1.ok);
    let finished = replaced(&fixture, "two").await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!((finished.changing_calls, world.pushes().len()), (2, 0));
    fixture.stop().await;
}

#[tokio::test]
async fn a_replacement_cut_half_way_is_finished_by_up() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    world.close_gate();
    // Cut before the server was destroyed.
    let mut stream = replace(&fixture, "two").await.expect("starts");
    loop {
        let progress = timeout(DEADLINE, stream.message()).await.expect("tells").expect("goes on");
        if matches!(progress.expect("not the end").what, Some(What::Step(_))) {
            break;
        }
    }
    let dir = fixture.stop().await;
    let fixture = start_with(dir, &world).await;
    let seen = status(&fixture).await;
    assert_eq!(seen.activity, "run 2 (replace) was cut; `fleetctl up` finishes it");

    // Again, cut between the destruction and the new server.
    world.open_gate(1);
    let mut stream = apply(&fixture, PLAN, Until::Ready).await;
    loop {
        let progress = timeout(DEADLINE, stream.message()).await.expect("tells").expect("goes on");
        match progress.expect("not the end").what {
            Some(What::Step(step)) if step.verb() == v1::StepVerb::StepCreate => break,
            _ => {}
        }
    }
    assert_eq!(world.servers(), 2);
    let dir = fixture.stop().await;
    let fixture = start_with(dir, &world).await;

    world.open_gate(1);
    let finished = up(&fixture).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(finished.changing_calls, 1, "nothing is destroyed twice");
    // The others too: agents of this world do not outlive their controller.
    assert!(world.pushes()[3..].contains(&node("two")));
    assert!(is_retired(&fixture, &world.keys("two")[0]).await);
    fixture.stop().await;
}

#[tokio::test]
async fn a_cloud_that_says_no_leaves_the_node_as_it_is() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    world.script(|script| script.cloud_fails = Some("credentials were refused; correct them"));
    let finished = replaced(&fixture, "one").await;
    assert!(!finished.ok);
    assert_eq!(finished.problems, ["credentials were refused; correct them"]);
    assert!(!is_retired(&fixture, &world.keys("one")[0]).await, "it is still at work");
    assert_eq!(fixture.desk.registry.sessions(), 3);

    world.script(|script| script.cloud_fails = None);
    let finished = up(&fixture).await;
    assert!(finished.ok, "{finished:?}");
    assert!(is_retired(&fixture, &world.keys("one")[0]).await, "what was begun is finished");
    fixture.stop().await;
}

#[tokio::test]
async fn what_is_not_there_and_what_is_under_way_is_not_replaced() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    let refused = replace(&fixture, "one").await.expect_err("no plan");
    assert_eq!(kind(&refused), RefusalKind::RefusalUnknown);
    assert!(up(&fixture).await.ok);
    let refused = replace(&fixture, "four").await.expect_err("no such node");
    let refusal = Refusal::from_status(&refused).expect("typed");
    assert_eq!(refusal.kind(), RefusalKind::RefusalUnknown);
    assert!(refusal.hint.contains("one, two, three"), "{}", refusal.hint);
    assert_eq!(kind(&replace(&fixture, "").await.expect_err("no name")), RefusalKind::RefusalBadRequest);

    world.close_gate();
    let under_way = replace(&fixture, "one").await.expect("starts");
    let refused = replace(&fixture, "two").await.expect_err("busy");
    assert_eq!(kind(&refused), RefusalKind::RefusalBusy);
    assert!(refused.message().contains("run 2 (replace) is under way"), "{}", refused.message());
    world.open_gate(2);
    assert!(finish(under_way).await.1.ok);
    assert!(world.keys("two").len() == 1, "left alone");
    fixture.stop().await;
}

#[tokio::test]
async fn repairs_reach_their_node() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    let repair = async |node: &str, task: &str| {
        let request = RepairRequest { node: node.to_owned(), task: task.to_owned() };
        fixture.operator_client().repair(request).await
    };
    repair("one", "").await.expect("taken up");
    repair("one", "hosts").await.expect("taken up");
    let refused = repair("one", "dishes").await.expect_err("no such task");
    let refusal = Refusal::from_status(&refused).expect("typed");
    assert!(refusal.hint.contains("hostname, hosts, root-volume"), "{}", refusal.hint);
    world.script(|script| {
        script.repair_fails.insert("two", "another repair is under way");
    });
    let refused = repair("two", "").await.expect_err("it says no");
    assert!(refused.message().contains("another repair is under way"), "{}", refused.message());
    fixture.desk.registry.live(&node("three")).expect("there").end(Status::aborted("a test"));
    fixture.until("it to go", || fixture.desk.registry.sessions() == 2).await;
    let refused = repair("three", "").await.expect_err("not there");
    assert!(refused.message().contains("does not answer"), "{}", refused.message());
    fixture.stop().await;
}
