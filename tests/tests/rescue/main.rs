//! The door for agents that no other lets in: a real controller, a real agent, and whoever sits between.

mod world;

use std::{fs, sync::Arc, time::Duration};

use fleet_agent::identity::{Holdings, Key};
use fleet_model::{Clock as _, ManualClock, SystemClock};
use fleet_proto::{
    rescue::{AskReply, FetchRequest},
    v1::{ClearLineRequest, EnrolRequest, Hello, RolloutActKind, StopLineRequest},
};
use fleet_supervisor::{digest::Digest, record::Slot};
use world::{NODE, VERSION, World, program, until};

/// A protocol that no controller of this tree speaks.
const OTHER: (u32, u32) = (77, 77);

fn speaking(world: &World, protocol: (u32, u32)) -> fleet_agent::Settings {
    fleet_agent::Settings { protocol, ..world.node.settings() }
}

/// Runs the agent until it has asked and is through with the answer, and goes on as it was.
async fn asks_in_vain(world: &World) {
    let (asked, closed) = (world.relay.asked(), world.relay.closed());
    let agent = world.node.start(speaking(world, OTHER));
    until("it asks", || world.relay.asked() > asked).await;
    until("it is through", || world.relay.closed() > closed || world.relay.fetched() > 0).await;
    agent.stop().await;
}

/// The release is in the idle slot, whole, and its trial asked for.
fn received(world: &mut World) {
    let wanted = Digest::of(&program());
    assert_eq!(world.node.asked(), Some((VERSION.to_owned(), wanted)));
    let held = fs::read(world.node.slots.program(Slot::B)).expect("there");
    assert!(held == program(), "as it was released");
    assert!(world.relay.fetched() >= 1, "by the door");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_another_protocol_gets_its_update() {
    let mut world = World::new().await;
    world.start_rollout().await;
    let agent = world.node.start(speaking(&world, OTHER));
    agent.leaves().await;
    received(&mut world);
    assert_eq!(world.relay.asked(), 1, "once was enough");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_certificate_ran_out_gets_its_update() {
    let mut world = World::new().await;
    world.start_rollout().await;
    // Two days later, as far as this node can tell; too far from the controller's time to be let back in.
    let clock = Arc::new(ManualClock::at(SystemClock.now().after(Duration::from_secs(2 * 86_400))));
    let agent = world.node.start(fleet_agent::Settings { clock, ..world.node.settings() });
    agent.leaves().await;
    received(&mut world);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_order_no_release() {
    let world = World::new().await;
    let old = Digest::of(b"the old agent").to_string();
    let new = Digest::of(&program()).to_string();
    assert_eq!(world.ask(NODE, &old).await, AskReply::default(), "nothing is rolled out");
    world.start_rollout().await;
    let ordered = world.until_ordered(true).await;
    assert!(!ordered.manifest.is_empty() && ordered.roots.len() == 1 && ordered.tries > 0);
    assert_eq!(world.ask(NODE, &new).await.order, 0, "it runs that already");
    for stranger in ["n2", "", "no name!"] {
        assert_eq!(world.ask(stranger, &old).await, AskReply::default(), "{stranger}");
    }
    let packed = |ordered: &AskReply| {
        let text = String::from_utf8_lossy(&ordered.manifest).into_owned();
        let rest = text.split("\"packed_sha256\":\"").nth(1).expect("named").to_owned();
        rest[..64].to_owned()
    };
    let fetch = async |node: &str, sha256: String| {
        let request = FetchRequest { node: node.to_owned(), sha256, offset: 0 };
        world.door().fetch(request).await.map(drop).map_err(|status| status.code())
    };
    let sha256 = packed(&ordered);
    assert_eq!(fetch(NODE, sha256.clone()).await, Ok(()));
    let denied = Err(tonic::Code::PermissionDenied);
    assert_eq!(fetch("n2", sha256.clone()).await, denied);
    assert_eq!(fetch(NODE, "00".repeat(32)).await, denied);
    assert_eq!(fetch(NODE, "../operator.json".to_owned()).await, denied);

    // Halted, line stopped, undone: nothing, and nothing to fetch.
    world.act(RolloutActKind::RolloutHalt).await;
    world.until_ordered(false).await;
    assert_eq!(fetch(NODE, sha256.clone()).await, denied);
    asks_in_vain(&world).await;
    assert_eq!(world.relay.fetched(), 0);
    world.act(RolloutActKind::RolloutResume).await;
    world.until_ordered(true).await;
    let stop = StopLineRequest { reason: "a doubt".to_owned() };
    world.rollouts().stop_line(stop).await.expect("stopped");
    world.until_ordered(false).await;
    world.rollouts().clear_line(ClearLineRequest {}).await.expect("cleared");
    world.until_ordered(true).await;
    world.end().await;
}

/// What somebody in between does to an answer.
type Harm = fn(&mut AskReply);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_answer_gives_nothing_and_leaves_no_trace() {
    let harms: [(&str, Harm); 4] = [
        ("a changed manifest", |reply| reply.manifest[200] ^= 1),
        ("a manifest that nobody signed", |reply| {
            let text = String::from_utf8(std::mem::take(&mut reply.manifest)).expect("text");
            let (kind, body) =
                (text.lines().next().expect("a line"), text.split("\n\n").nth(1).expect("a body"));
            reply.manifest = format!("{kind}\n\n{body}").into_bytes();
        }),
        ("a number above all that will ever come", |reply| {
            reply.order = u64::MAX;
            reply.manifest.clear();
        }),
        ("a chain of somebody else's", |reply| {
            let root = reply.roots[0].clone();
            reply.roots = vec![root.iter().map(|byte| byte ^ 1).collect()];
        }),
    ];
    let mut world = World::new().await;
    world.start_rollout().await;
    world.until_ordered(true).await;
    for (what, harm) in harms {
        *world.relay.harm.lock().expect("sound") = Some(harm);
        asks_in_vain(&world).await;
        assert_eq!(world.node.asked(), None, "{what}");
        assert!(!world.node.path("release/order").exists(), "{what}: no order is remembered");
    }
    assert_eq!(world.relay.fetched(), 0);
    // And the same node takes what is good.
    *world.relay.harm.lock().expect("sound") = None;
    world.node.start(speaking(&world, OTHER)).leaves().await;
    received(&mut world);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_came_back_too_often_is_no_longer_let_in_and_still_gets_its_update() {
    let mut world = World::new().await;
    world.start_rollout().await;
    let places = fleet_agent::Places::below(world.node.folder.path().join("root"));
    let mut held = Holdings::load(&places).expect("readable").expect("enrolled");
    let key = Key::open(places.state().join(&held.current.key_file)).expect("sound").expect("there");
    let hello = || Hello {
        agent_version: fleet_agent::VERSION.to_owned(),
        protocol_min: 1,
        protocol_max: 1,
        node_time_ms: world.clock.now().as_millis(),
        ..Hello::default()
    };
    let mut refused = None;
    // A day is longer than its certificate lasts: what has not run out counts as no return.
    for _ in 0..10 {
        world.clock.by(Duration::from_secs(25 * 3600));
        let request = EnrolRequest {
            token: String::new(),
            csr: key.request(NODE).expect("made"),
            hello: Some(hello()),
        };
        refused = world.enrolment().enrol(request).await.err();
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("some time");
    assert!(refused.message().contains("came back with an expired certificate"), "{refused:?}");
    held.current.not_after = SystemClock.now().before(Duration::from_secs(1));
    fs::write(places.credentials(), serde_json::to_vec(&held).expect("JSON")).expect("written");
    let agent = world.node.start(world.node.settings());
    agent.leaves().await;
    received(&mut world);
    world.end().await;
}
