//! What operators ask besides runs, and who may ask it.

use std::time::Duration;

use fleet_proto::{
    refusal::RefusalKind,
    v1::{
        self, ApplyRequest, NodeState, NoopRequest, PingRequest, StatusRequest, Until, UserDataRequest,
        agents_client::AgentsClient, operator_client::OperatorClient, progress::What,
    },
};
use rcgen::KeyPair;
use tokio::time::timeout;

use crate::{
    harness::{Agent, DEADLINE, Fixture, channel, csr, enrol, hello, kind, start, start_with},
    runs::{PLAN, document},
    world::World,
};

fn everything() -> StatusRequest {
    StatusRequest { node: String::new() }
}

/// A fleet that is up.
async fn up(world: &World) -> Fixture {
    let fixture = start_with(tempfile::tempdir().expect("a folder"), world).await;
    let request =
        ApplyRequest { plan: Some(document(PLAN)), until: Until::Ready.into(), ..ApplyRequest::default() };
    let mut stream = fixture.operator_client().apply(request).await.expect("starts").into_inner();
    let whole = async {
        loop {
            let progress = stream.message().await.expect("goes on").expect("an end");
            if let Some(What::Finished(finished)) = progress.what {
                break finished;
            }
        }
    };
    let finished = timeout(DEADLINE, whole).await.expect("ends");
    assert!(finished.ok, "{finished:?}");
    fixture
}

#[tokio::test]
async fn ping_says_who_is_there() {
    let (fixture, _) = start(&[]).await;
    let reply = fixture.operator_client().ping(PingRequest {}).await.expect("answers").into_inner();
    assert_eq!((reply.fleet.as_str(), reply.pid), ("Reference", std::process::id()));
    let file = fleet_controller::home::announced(fixture.dir.path()).expect("reads").expect("announced");
    assert_eq!((file.session, file.enrol_port), (fixture.ready.session[0], fixture.ready.enrol[0].port()));
    fixture.stop().await;
}

#[tokio::test]
async fn nodes_are_not_operators_and_operators_are_not_nodes() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let mut as_operator = OperatorClient::new(agent.channel(&fixture));
    let refused = as_operator.ping(PingRequest {}).await.expect_err("a node");
    assert_eq!(kind(&refused), RefusalKind::RefusalForbidden);
    let refused = as_operator.down(v1::DownRequest {}).await.expect_err("a node");
    assert_eq!(kind(&refused), RefusalKind::RefusalForbidden);
    let mut as_node = AgentsClient::new(fixture.operator_channel());
    let refused = as_node.renew(v1::RenewRequest { csr: csr(&agent.key) }).await.expect_err("an operator");
    assert_eq!(kind(&refused), RefusalKind::RefusalForbidden);
    let anonymous = channel(fixture.ready.session[0], &fixture.bundle, None);
    assert!(OperatorClient::new(anonymous).ping(PingRequest {}).await.is_err(), "nobody");
    fixture.stop().await;
}

#[tokio::test]
async fn preview_does_nothing() {
    let world = World::new();
    let fixture = start_with(tempfile::tempdir().expect("a folder"), &world).await;
    let request = v1::PreviewRequest { plan: Some(document(PLAN)), ..v1::PreviewRequest::default() };
    let reply = fixture.operator_client().preview(request).await.expect("answers").into_inner();
    let steps: Vec<_> = reply.steps.iter().map(|step| (step.verb(), step.name.as_str())).collect();
    let create = v1::StepVerb::StepCreate;
    assert_eq!(steps, [(create, "one"), (create, "two"), (create, "three")]);
    assert_eq!(world.servers(), 0);
    let status = fixture.operator_client().status(everything()).await.expect("answers").into_inner();
    assert!(status.nodes.is_empty(), "a preview is no plan");
    fixture.stop().await;
}

#[tokio::test]
async fn information_knows_the_addresses() {
    let world = World::new();
    let fixture = up(&world).await;
    let mut client = fixture.operator_client();
    let reply = client.information(everything()).await.expect("answers").into_inner();
    assert_eq!(reply.plan, "see 198.51.100.1");
    let texts: Vec<_> = reply.nodes.iter().map(|node| node.text.as_str()).collect();
    assert_eq!(texts, ["ssh root@198.51.100.1", "one is at fd00::1", ""]);
    let unknown = StatusRequest { node: "four".to_owned() };
    let refused = client.information(unknown).await.expect_err("no such node");
    assert_eq!(kind(&refused), RefusalKind::RefusalUnknown);
    fixture.stop().await;
}

#[tokio::test]
async fn user_data_carries_a_fresh_token() {
    let world = World::new();
    let fixture = up(&world).await;
    let mut client = fixture.operator_client();
    let mut made = async || {
        let request = UserDataRequest { node: "one".to_owned() };
        client.user_data(request).await.expect("answers").into_inner()
    };
    let (first, second) = (made().await, made().await);
    assert_ne!(first.document, second.document);
    let hour = i64::try_from(Duration::from_secs(3600).as_millis()).expect("small");
    assert_eq!(first.token_expires_ms, fleet_model::Clock::now(&*fixture.clock).as_millis() + hour);
    fixture.stop().await;
}

#[tokio::test]
async fn noop_is_answered_by_all() {
    let world = World::new();
    let fixture = up(&world).await;
    let reply = fixture.operator_client().noop(NoopRequest { timeout_ms: 20_000 }).await.expect("answers");
    let reply = reply.into_inner();
    assert_eq!((reply.answered, reply.silent), (3, vec![]));
    assert!(reply.took_us > 0);
    fixture.stop().await;
}

#[tokio::test]
async fn watch_tells_at_once_and_after_changes() {
    let world = World::new();
    let fixture = up(&world).await;
    let request = StatusRequest { node: "two".to_owned() };
    let mut stream = fixture.operator_client().watch(request).await.expect("starts").into_inner();
    let mut next =
        async || timeout(DEADLINE, stream.message()).await.expect("tells").expect("goes on").expect("more");
    let first = next().await;
    assert_eq!(first.nodes.len(), 1);
    assert_eq!(first.nodes[0].state(), v1::NodeState::NodeReady);
    let live =
        fixture.desk.registry.lives().into_iter().find(|live| live.node.as_str() == "two").expect("there");
    live.end(tonic::Status::aborted("a test"));
    while next().await.nodes[0].connected {}
    fixture.stop().await;
}

#[tokio::test]
async fn a_silent_node_that_was_not_let_in_says_so() {
    let world = World::new();
    let fixture = up(&world).await;
    let request = v1::UserDataRequest { node: "two".to_owned() };
    let document = fixture.operator_client().user_data(request).await.expect("a seed").into_inner().document;
    let document = String::from_utf8(document).expect("text");
    let token = document.lines().next().expect("first the token");
    // Another machine takes its name, and is gone; what comes with the same token is refused.
    let agent = Agent::home(&fixture, token, "m2").await;
    fixture.until("the earlier one to be cut", || fixture.desk.registry.sessions() == 2).await;
    let key = KeyPair::generate().expect("a key");
    enrol(&fixture, token, &key, hello(&fixture, "m3")).await.expect_err("used");
    let two = async || {
        let request = StatusRequest { node: "two".to_owned() };
        let status = fixture.operator_client().status(request).await.expect("answers").into_inner();
        status.nodes.into_iter().next().expect("it is planned")
    };
    let seen = two().await;
    assert_eq!(seen.state(), NodeState::NodeSilent);
    assert!(seen.state_detail.contains("since then its agent was not let in"), "{seen:?}");
    assert!(seen.state_detail.contains("token"), "{seen:?}");
    // Once it is in, that is history.
    let session = agent.session(&fixture).await.expect("opens");
    drop(session);
    fixture.until("it to go", || fixture.desk.registry.sessions() == 2).await;
    let seen = two().await;
    assert!(
        seen.state_detail.starts_with("last heard of") && !seen.state_detail.contains("not let in"),
        "{seen:?}"
    );
    fixture.stop().await;
}
