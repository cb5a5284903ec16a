//! Replacing a node: another server, another identity, the same name.

use std::{sync::Arc, time::Duration};

use fleet_controller::records::{ObservedRecord, Records, ReplacingRecord, TokenRecord, keys};
use fleet_model::{Clock, SystemClock};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{
        self, ApplyRequest, Finished, HaltRequest, NodeState, RepairRequest, ReplaceRequest, Until,
        enrolment_client::EnrolmentClient, progress::What,
    },
};
use fleet_store::{EmbeddedStore, Expected};
use rcgen::KeyPair;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use crate::{
    harness::{DEADLINE, Fixture, csr, hello, kind, node, start_with},
    runs::{PLAN, apply, document, finish, fresh, status, up},
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

/// As a power cut leaves it: marked, its server still there.
async fn mark(dir: &tempfile::TempDir, name: &str) {
    let store = EmbeddedStore::open(&dir.path().join("store.db"), Arc::new(SystemClock)).expect("opens");
    let record = ReplacingRecord { since: SystemClock.now() };
    let key = keys::replacing(&node(name));
    Records::new(Arc::new(store)).put(&key, &record, Expected::Absent).await.expect("written");
}

async fn preview(fixture: &Fixture, consent: &[&str]) -> Vec<v1::PlannedStep> {
    let replace = consent.iter().map(ToString::to_string).collect();
    let request = v1::PreviewRequest { plan: Some(document(PLAN)), replace };
    fixture.operator_client().preview(request).await.expect("looks").into_inner().steps
}

async fn up_replacing(fixture: &Fixture, consent: &[&str]) -> Streaming<v1::Progress> {
    let replace = consent.iter().map(ToString::to_string).collect();
    let request = ApplyRequest { plan: Some(document(PLAN)), until: Until::Ready.into(), replace };
    fixture.operator_client().apply(request).await.expect("starts").into_inner()
}

#[tokio::test]
async fn a_server_that_nothing_could_follow_stays() {
    for machines in [false, true] {
        nothing_could_follow(machines).await;
    }
}

async fn nothing_could_follow(machines: bool) {
    let world = World::new();
    world.script(|script| script.machines = machines);
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    let why = "EU7 has no image whose name contains `BeOS`; there are: Debian 12";
    world.script(|script| script.unmakeable.extend([("two", why)]));
    // The other one of this order stays too: half of what was asked for is not what was asked for.
    let finished = finish(up_replacing(&fixture, &["one", "two"]).await).await.1;
    assert!(!finished.ok && finished.changing_calls == 0, "{finished:?}");
    let refused = format!("node `two` keeps its server, since none could take its place: {why}");
    assert_eq!(finished.problems, [refused]);
    assert_eq!((world.servers(), world.keys("one").len(), world.keys("two").len()), (3, 1, 1));
    // Nothing was marked: the next `up` has nothing to finish.
    let finished = up(&fixture).await;
    assert!(finished.ok && finished.changing_calls == 0, "{finished:?}");
    world.script(|script| script.unmakeable.clear());
    assert!(replaced(&fixture, "two").await.ok);
}

#[tokio::test]
async fn a_replacement_that_was_cut_is_finished_with_consent_only() {
    for machines in [false, true] {
        cut_and_finished(machines).await;
    }
}

async fn cut_and_finished(machines: bool) {
    let world = World::new();
    world.script(|script| script.machines = machines);
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    let dir = fixture.stop().await;
    mark(&dir, "two").await;
    let fixture = start_with(dir, &world).await;
    let steps = preview(&fixture, &[]).await;
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert!(steps[0].verb() == v1::StepVerb::StepReplace && steps[0].name == "two" && steps[0].wants_consent);
    assert!(steps[0].detail.contains("begun and not finished"), "{steps:?}");
    assert!(!preview(&fixture, &["two"]).await[0].wants_consent);

    let finished = up(&fixture).await;
    assert!(!finished.ok && finished.changing_calls == 0, "{finished:?}");
    assert!(finished.problems[0].contains("`fleetctl up --replace two`"), "{finished:?}");
    assert_eq!((world.servers(), world.keys("two").len()), (3, 1), "nothing is destroyed");

    // Cut again, between the destruction and the new server: there is nothing left to consent to.
    world.close_gate();
    world.open_gate(1);
    let mut stream = up_replacing(&fixture, &["two"]).await;
    loop {
        let progress = timeout(DEADLINE, stream.message()).await.expect("tells").expect("goes on");
        match progress.expect("not the end").what {
            Some(What::Step(step)) if step.verb() == v1::StepVerb::StepCreate => break,
            _ => {}
        }
    }
    assert_eq!(world.servers(), 2);
    let dir = fixture.stop().await;
    mark(&dir, "two").await;
    let fixture = start_with(dir, &world).await;
    let steps = preview(&fixture, &[]).await;
    assert!(steps.len() == 1 && steps[0].verb() == v1::StepVerb::StepCreate, "{steps:?}");

    world.open_gate(1);
    let finished = up(&fixture).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(finished.changing_calls, 1, "nothing is destroyed twice");
    // The others too: agents of this world do not outlive their controller.
    assert!(world.pushes()[3..].contains(&node("two")));
    assert!(is_retired(&fixture, &world.keys("two")[0]).await);
    assert_eq!(preview(&fixture, &[]).await.len(), 0);
    fixture.stop().await;
}

#[tokio::test]
async fn a_replacement_stopped_before_anything_was_destroyed_never_was() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    world.close_gate();
    let stream = replace(&fixture, "two").await.expect("starts");
    fixture.operator_client().halt(HaltRequest {}).await.expect("halts");
    let finished = finish(stream).await.1;
    assert!(!finished.ok && finished.changing_calls == 0, "{finished:?}");
    assert_eq!(preview(&fixture, &[]).await.len(), 0, "nothing is left to be finished");
    world.open_gate(3);
    assert!(up(&fixture).await.ok);
    assert_eq!((world.servers(), world.keys("two").len()), (3, 1), "left alone");
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
    assert_eq!(fixture.desk.registry.sessions(), 3);

    world.script(|script| script.cloud_fails = None);
    assert_eq!(preview(&fixture, &[]).await.len(), 0);
    let finished = up(&fixture).await;
    assert!(finished.ok && finished.changing_calls == 0, "{finished:?}");
    assert!(!is_retired(&fixture, &world.keys("one")[0]).await, "nothing was begun");
    fixture.stop().await;
}

/// The plan with a database on node `three`; no node has a server of it that could be in trouble.
fn with_database() -> String {
    PLAN.replace(
        "three, image: Debian 12, internet: [22]}",
        "three, image: Debian 12, internet: [22], tasks: [{rethinkdb: {seed: three}}, {database: {name: d, table: t, replicas: 1}}]}",
    )
}

#[tokio::test]
async fn a_replacement_ends_when_the_database_has_nothing_left_to_say() {
    let mut world = World::new();
    world.timing.converge = Duration::from_secs(6);
    let fixture = start_with(fresh(), &world).await;
    let plan = with_database();
    let finished = finish(apply(&fixture, &plan, Until::Ready).await).await.1;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(world.looks(), []);
    let (told, finished) = finish(replace(&fixture, "one").await.expect("starts")).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(world.looks(), [node("three")], "its last look was before");
    assert!(told.iter().any(|what| matches!(what, What::Node(progress)
        if progress.node == "three" && progress.detail.contains("looks for what was lost"))));

    // It does not come to an end in time.
    world.script(|script| {
        script.unsettled.insert("three", 1000);
    });
    let (told, finished) = finish(replace(&fixture, "one").await.expect("starts")).await;
    assert!(!finished.ok, "{finished:?}");
    let problem = &finished.problems[0];
    assert!(problem.starts_with("node `three`: its database is not settled within 6 s"), "{problem}");
    assert!(problem.contains("not in the cluster: one"), "{problem}");
    assert!(told.iter().any(|what| matches!(what, What::Node(progress)
        if progress.node == "three" && progress.detail == "task `database`: not in the cluster: one")));

    // And while it has not, no machine is taken away that may hold the last copy.
    for waits in [false, true] {
        world.script(|script| script.waits = waits);
        let refused = replace(&fixture, "two").await.expect_err("unsettled");
        let refusal = Refusal::from_status(&refused).expect("typed");
        assert_eq!(refusal.kind(), RefusalKind::RefusalBadRequest);
        assert!(
            refusal.message.contains("on node `three`, task `database`: not in the cluster"),
            "{refusal:?}"
        );
        assert!(refusal.hint.contains("silent"), "{refusal:?}");
    }
    assert!(world.keys("two").len() == 1, "left alone");
    // One that is away holds nothing anybody can reach.
    fixture.desk.registry.live(&node("two")).expect("there").end(Status::aborted("a test"));
    fixture.until("it to go", || fixture.desk.registry.sessions() == 2).await;
    world.script(|script| script.unsettled.clear());
    assert!(replaced(&fixture, "two").await.ok);
    assert_eq!(world.keys("two").len(), 2);
    fixture.stop().await;
}

#[tokio::test]
async fn nobody_who_left_comes_back_and_nothing_late_of_it_stays() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    let request = v1::UserDataRequest { node: "three".to_owned() };
    fixture.operator_client().user_data(request).await.expect("a token");
    let smaller = PLAN.lines().filter(|line| !line.contains("name: three")).collect::<Vec<_>>().join("\n");
    let finished = finish(apply(&fixture, &smaller, Until::Ready).await).await.1;
    assert!(finished.ok, "{finished:?}");
    assert!(is_retired(&fixture, &world.keys("three")[0]).await);
    let dir = fixture.stop().await;
    let store = EmbeddedStore::open(&dir.path().join("store.db"), Arc::new(SystemClock)).expect("opens");
    let records = Records::new(Arc::new(store));
    let tokens = records.list::<TokenRecord>(&keys::tokens()).await.expect("lists");
    assert!(tokens.iter().all(|(_, token)| token.node != node("three")), "{tokens:?}");
    // Written behind its back, as a session that ends late does.
    records.put_message(&keys::observed(&node("three")), &ObservedRecord::default()).await.expect("written");
    drop(records);
    let fixture = start_with(dir, &world).await;
    assert!(finish(apply(&fixture, &smaller, Until::Ready).await).await.1.ok);
    let dir = fixture.stop().await;
    let store = EmbeddedStore::open(&dir.path().join("store.db"), Arc::new(SystemClock)).expect("opens");
    let observed = Records::new(Arc::new(store)).list_messages::<ObservedRecord>(&keys::observeds()).await;
    assert_eq!(observed.expect("lists").len(), 2);
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
