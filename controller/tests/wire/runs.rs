//! Runs from a plan to nodes that are home, and back, in a world that does as told.

use std::{collections::HashMap, time::Duration};

use fleet_controller::session::registry::Registry;
use fleet_model::Clock;
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{
        self, ApplyRequest, DownRequest, Finished, HaltRequest, NodeState, PlanDocument, StatusRequest,
        Until, progress::What,
    },
};
use tokio::time::timeout;
use tonic::Streaming;

use crate::{
    harness::{DEADLINE, Fixture, kind, node, start_with},
    world::World,
};

pub const PLAN: &str = "\
fleet: Reference
cloud: local
information: see {{ EU7::one.public }}
locations:
  - id: EU7
    domain: Front
    networks:
      - name: Front
        subnet: 10.10.0.0/24
        nodes:
          - {name: one, image: Debian 12, internet: [22], information: \"ssh root@{{ node.public }}\"}
          - {name: two, image: Debian 12, internet: [22], information: \"one is at {{ EU7::one.ipv6 }}\"}
          - {name: three, image: Debian 12, internet: [22]}
";

pub fn document(text: &str) -> PlanDocument {
    PlanDocument {
        file: "plan.yaml".to_owned(),
        text: text.to_owned(),
        parameters: HashMap::new(),
        ..PlanDocument::default()
    }
}

pub async fn apply(fixture: &Fixture, text: &str, until: Until) -> Streaming<v1::Progress> {
    let request = ApplyRequest { plan: Some(document(text)), until: until.into(), ..ApplyRequest::default() };
    fixture.operator_client().apply(request).await.expect("starts").into_inner()
}

/// Everything told until the end, and the end.
pub async fn finish(mut stream: Streaming<v1::Progress>) -> (Vec<What>, Finished) {
    let mut told = Vec::new();
    let whole = async {
        while let Some(progress) = stream.message().await.expect("goes on") {
            match progress.what.expect("something") {
                What::Finished(finished) => return finished,
                what => told.push(what),
            }
        }
        panic!("the run ended without an end: {told:?}")
    };
    let finished = timeout(DEADLINE, whole).await.expect("ends");
    (told, finished)
}

pub async fn up(fixture: &Fixture) -> Finished {
    finish(apply(fixture, PLAN, Until::Ready).await).await.1
}

pub async fn down(fixture: &Fixture) -> Finished {
    let stream = fixture.operator_client().down(DownRequest {}).await.expect("starts").into_inner();
    finish(stream).await.1
}

pub async fn status(fixture: &Fixture) -> v1::FleetStatus {
    let request = StatusRequest { node: String::new() };
    fixture.operator_client().status(request).await.expect("answers").into_inner()
}

pub fn fresh() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn states(finished: &Finished) -> Vec<(&str, NodeState)> {
    finished.nodes.iter().map(|node| (node.node.as_str(), node.state())).collect()
}

const ALL_READY: [(&str, NodeState); 3] =
    [("one", NodeState::NodeReady), ("two", NodeState::NodeReady), ("three", NodeState::NodeReady)];

#[tokio::test]
async fn up_brings_everybody_home_and_again_does_nothing() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    let (told, finished) = finish(apply(&fixture, PLAN, Until::Ready).await).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(states(&finished), ALL_READY);
    assert_eq!(finished.changing_calls, 3);
    let of_one: Vec<_> = told
        .iter()
        .filter_map(|what| match what {
            What::Node(progress) if progress.node == "one" => Some(progress.state()),
            _ => None,
        })
        .collect();
    for wanted in [NodeState::NodeCreating, NodeState::NodeBooting, NodeState::NodeReady] {
        assert!(of_one.contains(&wanted), "{wanted:?} in {of_one:?}");
    }

    let status = status(&fixture).await;
    assert_eq!(status.activity, "");
    for node in &status.nodes {
        assert_eq!((node.state(), node.connected), (NodeState::NodeReady, true), "{node:?}");
        assert_eq!(node.generation_desired, node.generation_observed);
        assert_eq!(node.tasks.len(), 3);
        assert!(node.public_ipv4.starts_with("198.51.100."), "{node:?}");
    }

    let (told, again) = finish(apply(&fixture, PLAN, Until::Ready).await).await;
    assert!(again.ok, "{again:?}");
    assert_eq!((again.changing_calls, states(&again)), (0, ALL_READY.to_vec()));
    assert_eq!(world.pushes().len(), 3, "nobody got a second first boot");
    for what in &told {
        if let What::Node(progress) = what {
            let there = [NodeState::NodeProvisioned, NodeState::NodeReady].contains(&progress.state());
            assert!(there, "its server is found, and it is ready: {told:?}");
        }
    }
    let generations = |status: &v1::FleetStatus| -> Vec<u64> {
        status.nodes.iter().map(|node| node.generation_desired).collect()
    };
    assert_eq!(generations(&self::status(&fixture).await), generations(&status), "nothing else is desired");
    fixture.stop().await;
}

#[tokio::test]
async fn a_run_goes_on_when_nobody_listens() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    world.close_gate();
    drop(apply(&fixture, PLAN, Until::Ready).await);
    world.open_gate(3);
    let home = |name: &str| fixture.desk.registry.view(&node(name)).observed.is_some();
    fixture.until("everybody", || ["one", "two", "three"].into_iter().all(home)).await;
    fixture.stop().await;
}

#[tokio::test]
async fn a_failed_first_boot_gives_its_line_and_the_next_run_does_only_that() {
    let world = World::new();
    world.script(|script| {
        script.boot_fails.insert("two", "E: Unable to locate package foo");
        script.breaks.insert("three", 1);
    });
    let fixture = start_with(fresh(), &world).await;
    let finished = up(&fixture).await;
    assert!(!finished.ok);
    assert_eq!(finished.problems, ["node `two`: E: Unable to locate package foo"]);
    let [one, two, three] = &finished.nodes[..] else { panic!("three nodes") };
    assert_eq!((one.state(), three.state()), (NodeState::NodeReady, NodeState::NodeReady));
    assert_eq!(
        (two.state(), two.reason.as_str()),
        (NodeState::NodeFailed, "E: Unable to locate package foo")
    );
    let seen = status(&fixture).await;
    assert_eq!(seen.activity, "run 1 (up) did not succeed: node `two`: E: Unable to locate package foo");
    assert_eq!(seen.nodes[1].state(), NodeState::NodeFailed);
    assert_eq!(world.pushes().iter().filter(|pushed| **pushed == node("three")).count(), 2, "it broke once");

    world.script(|script| script.boot_fails.clear());
    let before = world.pushes().len();
    let again = up(&fixture).await;
    assert!(again.ok, "{again:?}");
    assert_eq!(world.pushes()[before..], [node("two")]);
    fixture.stop().await;
}

#[tokio::test]
async fn a_failing_task_is_the_reason() {
    let world = World::new();
    world.script(|script| {
        script.task_fails.insert("one", "root-volume");
    });
    let fixture = start_with(fresh(), &world).await;
    let finished = up(&fixture).await;
    assert_eq!(finished.problems, ["node `one`: task `root-volume` failed: no space left on device"]);
    assert_eq!(status(&fixture).await.nodes[0].state(), NodeState::NodeFailed);
    fixture.stop().await;
}

#[tokio::test]
async fn a_wrong_clock_is_reported_as_such() {
    let mut world = World::new();
    world.timing.first_boot = Duration::from_secs(2);
    world.script(|script| {
        script.clock_ms.insert("one", -7_200_000);
    });
    let fixture = start_with(fresh(), &world).await;
    let finished = up(&fixture).await;
    assert_eq!(finished.problems.len(), 1, "{finished:?}");
    let problem = &finished.problems[0];
    assert!(problem.starts_with("node `one`: the agent was not let in: the node's clock is 7"), "{problem}");
    assert!(problem.contains("s behind the controller's"), "{problem}");
    fixture.stop().await;
}

#[tokio::test]
async fn a_cloud_that_says_no_is_the_reason() {
    let world = World::new();
    world.script(|script| script.cloud_fails = Some("credentials were refused; correct them"));
    let fixture = start_with(fresh(), &world).await;
    let finished = up(&fixture).await;
    assert!(!finished.ok);
    assert_eq!(finished.problems, ["credentials were refused; correct them"]);
    assert!(finished.nodes.iter().all(|node| node.state() == NodeState::NodePlanned), "{finished:?}");
    fixture.stop().await;
}

#[tokio::test]
async fn until_provisioned_stops_before_the_first_boot() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    let (_, finished) = finish(apply(&fixture, PLAN, Until::Provisioned).await).await;
    assert!(finished.ok, "{finished:?}");
    assert!(finished.nodes.iter().all(|node| node.state() == NodeState::NodeProvisioned));
    assert!(world.pushes().is_empty());
    fixture.stop().await;
}

#[tokio::test]
async fn halt_stops_and_up_continues() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    let mut client = fixture.operator_client();
    assert!(!client.halt(HaltRequest {}).await.expect("answers").into_inner().was_running);
    world.close_gate();
    world.open_gate(1);
    let mut stream = apply(&fixture, PLAN, Until::Ready).await;
    // Halted once the first server is there and the second is wanted.
    loop {
        let progress = timeout(DEADLINE, stream.message()).await.expect("tells").expect("goes on");
        match progress.expect("not the end").what {
            Some(What::Step(step)) if step.name == "two" => break,
            _ => {}
        }
    }
    assert!(status(&fixture).await.activity.contains("under way"));
    assert!(client.halt(HaltRequest {}).await.expect("answers").into_inner().was_running);
    let (_, finished) = finish(stream).await;
    assert!(!finished.ok);
    assert!(
        finished.problems.iter().any(|problem| problem.starts_with("stopped before the end")),
        "{finished:?}"
    );
    assert_eq!(world.servers(), 1);

    world.open_gate(2);
    let again = up(&fixture).await;
    assert!(again.ok, "{again:?}");
    assert_eq!(world.servers(), 3);
    fixture.stop().await;
}

#[tokio::test]
async fn a_new_run_stops_the_one_under_way_first() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    world.close_gate();
    let first = apply(&fixture, PLAN, Until::Ready).await;
    let second = tokio::spawn({
        let mut client = fixture.operator_client();
        async move {
            let request = ApplyRequest {
                plan: Some(document(PLAN)),
                until: Until::Ready.into(),
                ..ApplyRequest::default()
            };
            client.apply(request).await.expect("starts").into_inner()
        }
    });
    let (_, finished) = finish(first).await;
    assert!(!finished.ok, "the first one was stopped");
    world.open_gate(3);
    let (_, finished) = finish(second.await.expect("no panic")).await;
    assert!(finished.ok, "{finished:?}");
    fixture.stop().await;
}

/// A run that takes its time to stop holds up the next one, but not whoever wants to halt both.
#[tokio::test]
async fn halting_never_waits_and_reaches_a_run_about_to_start() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    world.close_gate();
    world.script(|script| script.stubborn = true);
    let first = apply(&fixture, PLAN, Until::Ready).await;
    // One connection for both, so that halts do not overtake the run.
    let mut client = fixture.operator_client();
    let second = tokio::spawn({
        let mut client = client.clone();
        async move {
            let request = ApplyRequest {
                plan: Some(document(PLAN)),
                until: Until::Ready.into(),
                ..ApplyRequest::default()
            };
            client.apply(request).await.expect("starts").into_inner()
        }
    });
    let halted = timeout(DEADLINE, async {
        let mut halts = 0;
        while !second.is_finished() && halts < 20 {
            assert!(client.halt(HaltRequest {}).await.expect("answers").into_inner().was_running);
            halts += 1;
        }
        halts
    });
    assert_eq!(halted.await.expect("at once, every time"), 20, "the second one cannot have started");
    world.script(|script| script.stubborn = false);
    world.open_gate(3);
    assert!(!finish(first).await.1.ok);
    let (_, finished) = finish(second.await.expect("no panic")).await;
    assert!(
        finished.problems.iter().any(|problem| problem.starts_with("stopped before the end")),
        "{finished:?}"
    );
    assert!(up(&fixture).await.ok);
    fixture.stop().await;
}

#[tokio::test]
async fn down_removes_everything_and_proves_it() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    world.script(|script| script.left_over = Some("vlans left: front; see what uses them"));
    let finished = down(&fixture).await;
    assert!(!finished.ok);
    assert_eq!(finished.problems, ["vlans left: front; see what uses them"]);
    assert_eq!(status(&fixture).await.nodes.len(), 3, "the fleet is not forgotten before it is gone");

    world.script(|script| script.left_over = None);
    let finished = down(&fixture).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(finished.proof, ["servers: 0"]);
    assert!(finished.nodes.iter().all(|node| node.state() == NodeState::NodeGone), "{finished:?}");
    assert!(status(&fixture).await.nodes.is_empty());
    fixture.until("sessions to end", || fixture.desk.registry.sessions() == 0).await;

    let again = down(&fixture).await;
    assert!(again.ok);
    assert_eq!(again.proof, ["servers: 0"], "proved again");
    let anew = up(&fixture).await;
    assert!(anew.ok, "{anew:?}");
    assert_eq!(world.pushes().len(), 6, "new servers get a first boot of their own");
    fixture.stop().await;
}

#[tokio::test]
async fn a_cut_run_is_not_resumed_but_spoken_of() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    world.close_gate();
    let mut stream = apply(&fixture, PLAN, Until::Ready).await;
    timeout(DEADLINE, stream.message()).await.expect("tells").expect("goes on");
    let dir = fixture.stop().await;

    world.open_gate(3);
    let fixture = start_with(dir, &world).await;
    let seen = status(&fixture).await;
    assert_eq!(seen.activity, "run 1 (up) was cut; `fleetctl up` continues it");
    assert_eq!(seen.nodes.len(), 3, "the plan is known");
    assert_eq!(world.servers(), 0, "nothing was resumed");
    assert!(up(&fixture).await.ok);
    assert_eq!(status(&fixture).await.activity, "");
    fixture.stop().await;
}

#[tokio::test]
async fn no_generation_is_given_twice_though_the_store_is_an_older_copy() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    let one = node("one");
    let registry = &fixture.desk.registry;
    let desired = |registry: &Registry| registry.desired(&one).expect("planned").generation;
    // It comes with a generation that this store never saw; nobody runs anything.
    let newer = desired(registry) + 2;
    let seen = v1::Observed { generation: newer, ..v1::Observed::default() };
    registry.observed(&registry.live(&one).expect("there"), seen);
    fixture.until("a newer one still", || desired(registry) == newer + 1).await;
    let dir = fixture.stop().await;

    // What it holds it has not said yet, and other names and addresses change what it should be.
    let fixture = start_with(dir, &world).await;
    let now = fixture.clock.now().as_secs();
    let more = PLAN.replace(
        "- {name: three,",
        "- {name: four, image: Debian 12, internet: [22]}\n          - {name: three,",
    );
    assert_ne!(more, PLAN);
    assert!(finish(apply(&fixture, &more, Until::Provisioned).await).await.1.ok);
    let given = i64::try_from(desired(&fixture.desk.registry)).expect("seconds");
    assert!(given >= now, "{given}");
    fixture.stop().await;
}

#[tokio::test]
async fn a_node_that_leaves_the_plan_loses_its_identity() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    let smaller: String =
        PLAN.lines().filter(|line| !line.contains("three")).map(|line| format!("{line}\n")).collect();
    let (_, finished) = finish(apply(&fixture, &smaller, Until::Ready).await).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(states(&finished), ALL_READY[..2]);
    fixture.until("its session to end", || fixture.desk.registry.sessions() == 2).await;
    let status = status(&fixture).await;
    assert_eq!(status.nodes.len(), 2);
    assert!(status.nodes.iter().all(|node| node.generation_desired > 1), "the others forget its name");
    fixture.stop().await;
}

#[tokio::test]
async fn who_leaves_loses_its_identity_whatever_fails_elsewhere() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    world.script(|script| script.cloud_lacks = Some("public ip block in EU8: no addresses left"));
    let smaller: String =
        PLAN.lines().filter(|line| !line.contains("three")).map(|line| format!("{line}\n")).collect();
    let (_, finished) = finish(apply(&fixture, &smaller, Until::Ready).await).await;
    assert!(!finished.ok && finished.problems[0].contains("no addresses left"), "{finished:?}");
    fixture.until("its session to end", || fixture.desk.registry.sessions() == 2).await;
    fixture.stop().await;
}

#[tokio::test]
async fn plans_with_problems_start_nothing() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    let mut client = fixture.operator_client();
    let mut refused = async |text: &str| {
        let request = ApplyRequest {
            plan: Some(document(text)),
            until: Until::Ready.into(),
            ..ApplyRequest::default()
        };
        client.apply(request).await.expect_err("refused")
    };
    let status = refused(&PLAN.replace("subnet", "subnut")).await;
    assert_eq!(kind(&status), RefusalKind::RefusalBadRequest);
    assert!(status.message().contains("plan.yaml, line"), "{}", status.message());
    let status = refused(&PLAN.replace("fleet: Reference", "fleet: Other")).await;
    assert!(status.message().contains("this controller serves fleet `Reference`"), "{}", status.message());
    assert_eq!(world.servers(), 0);
    fixture.stop().await;
}

#[tokio::test]
async fn a_fleet_does_not_move_to_another_cloud() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    let elsewhere = PLAN.replace("cloud: local", "cloud: {mcp: {region: dd-eu}}");
    let request = ApplyRequest { plan: Some(document(&elsewhere)), ..ApplyRequest::default() };
    let refused = fixture.operator_client().apply(request).await.expect_err("it would be forgotten");
    let said = Refusal::from_status(&refused).expect("typed");
    assert_eq!(said.kind(), RefusalKind::RefusalBadRequest);
    assert_eq!(said.message, "fleet `Reference` lives in another cloud than the plan says");
    assert_eq!(said.hint, "run `fleetctl down` first, or give the plan another fleet name");
    let request = v1::PreviewRequest { plan: Some(document(&elsewhere)), ..v1::PreviewRequest::default() };
    let refused = fixture.operator_client().preview(request).await.expect_err("nor is it shown");
    assert_eq!(kind(&refused), RefusalKind::RefusalBadRequest);
    assert_eq!(status(&fixture).await.nodes.len(), 3);
    let again = up(&fixture).await;
    assert!(again.ok && again.changing_calls == 0, "{again:?}");
    // Nothing is anywhere any more.
    assert!(down(&fixture).await.ok);
    assert!(finish(apply(&fixture, &elsewhere, Until::Ready).await).await.1.ok);
    let back = ApplyRequest { plan: Some(document(PLAN)), ..ApplyRequest::default() };
    assert!(fixture.operator_client().apply(back).await.is_err(), "it lives there now");
    fixture.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_cuts_no_call_to_the_cloud() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    assert!(up(&fixture).await.ok);
    // What is known of the one that leaves cannot be read any more; the one that comes is under way then.
    let path = fixture.dir.path().join("store.db");
    let disk = rusqlite::Connection::open(path).expect("opens");
    let damage = |with: &str| {
        let line = format!("UPDATE entry SET value = CAST({with} AS BLOB) WHERE key = 'enrolment/three'");
        assert_eq!(disk.execute(&line, []).expect("written"), 1);
    };
    damage("x'00' || value");
    world.close_gate();
    world.script(|script| script.stubborn = true);
    let plan = PLAN.replace("name: three", "name: four");
    let run = apply(&fixture, &plan, Until::Ready).await;
    eventually(|| world.told_to_stop()).await;
    assert_eq!(world.servers(), 2, "the one is gone, the other not there yet");
    world.open_gate(1);
    let finished = finish(run).await.1;
    assert_eq!(world.servers(), 3, "what was begun was waited for");
    let [why] = &finished.problems[..] else { panic!("{finished:?}") };
    assert!(why.contains("enrolment/three") && !finished.ok, "{why}");
    // The next one finds it done.
    damage("substr(value, 2)");
    let finished = finish(apply(&fixture, &plan, Until::Ready).await).await.1;
    assert!(finished.ok && finished.changing_calls == 0, "{finished:?}");
    fixture.stop().await;
}

async fn eventually(mut is: impl FnMut() -> bool) {
    let looking = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, looking).await.expect("it comes");
}
