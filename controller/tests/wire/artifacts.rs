//! Files that plans name: brought by the operator, kept, and given to the agents they are for.

use std::collections::BTreeMap;

use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{
        self, ApplyRequest, ArtifactList, Desired, FetchRequest, FileTask, KeepChunk, PlanDocument, TaskSpec,
        Until, agents_client::AgentsClient, file_task::Content, task_spec::Kind,
    },
};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tonic::Status;

use crate::{
    harness::{Agent, DEADLINE, Fixture, kind, node, start, start_adjusted, start_in, start_with},
    runs::{PLAN, apply, document, finish, fresh, up},
    world::World,
};

const BYTES: usize = 300_000;

fn bytes() -> Vec<u8> {
    (0..BYTES).map(|at| u8::try_from(at % 253).expect("small")).collect()
}

pub fn artifact(name: &str, bytes: &[u8]) -> v1::Artifact {
    let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    v1::Artifact { name: name.to_owned(), sha256, size: bytes.len() as u64 }
}

pub async fn keep(fixture: &Fixture, artifact: &v1::Artifact, bytes: &[u8]) -> Result<(), Status> {
    let first = KeepChunk { artifact: Some(artifact.clone()), data: Vec::new() };
    let rest = bytes.chunks(65_536).map(|data| KeepChunk { artifact: None, data: data.to_vec() });
    let chunks: Vec<_> = std::iter::once(first).chain(rest).collect();
    fixture.operator_client().keep(tokio_stream::iter(chunks)).await.map(drop)
}

async fn missing(fixture: &Fixture, artifact: &v1::Artifact) -> bool {
    let list = ArtifactList { artifacts: vec![artifact.clone()] };
    let reply = fixture.operator_client().missing(list).await.expect("answers").into_inner();
    assert!(reply.artifacts.is_empty() || reply.artifacts == [artifact.clone()]);
    !reply.artifacts.is_empty()
}

async fn fetch(fixture: &Fixture, agent: &Agent, sha256: &str, offset: u64) -> Result<Vec<u8>, Status> {
    let request = FetchRequest { sha256: sha256.to_owned(), offset };
    let mut stream = AgentsClient::new(agent.channel(fixture)).fetch(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.message().await? {
        assert!(!chunk.data.is_empty() && chunk.data.len() <= 65_536, "{}", chunk.data.len());
        bytes.extend(chunk.data);
    }
    Ok(bytes)
}

#[tokio::test]
async fn what_is_brought_reaches_those_it_is_for_and_nobody_else() {
    let (fixture, tokens) = start(&["web-1", "web-2"]).await;
    let (bytes, other) = (bytes(), b"another".to_vec());
    let (page, secret) = (artifact("page", &bytes), artifact("secret", &other));
    assert!(missing(&fixture, &page).await);
    keep(&fixture, &page, &bytes).await.expect("kept");
    keep(&fixture, &page, &[]).await.expect("held already: nothing need be sent");
    keep(&fixture, &secret, &other).await.expect("kept");
    assert!(!missing(&fixture, &page).await);

    let [one, two] =
        [Agent::home(&fixture, &tokens[0], "m1").await, Agent::home(&fixture, &tokens[1], "m2").await];
    let content = Some(Content::Artifact(page.clone()));
    let file = Kind::File(FileTask { path: "/x".to_owned(), content, ..FileTask::default() });
    let tasks = vec![TaskSpec { name: "page".to_owned(), kind: Some(file), ..TaskSpec::default() }];
    let desired = Desired { generation: 1, tasks, ..Desired::default() };
    fixture.desk.registry.set_desired(&node("web-1"), desired.into());
    let got = fetch(&fixture, &one, &page.sha256, 0).await.expect("given");
    assert!(got == bytes, "{} bytes", got.len());
    let rest = fetch(&fixture, &one, &page.sha256, 200_001).await.expect("given");
    assert!(rest == bytes[200_001..], "{} bytes", rest.len());
    assert!(fetch(&fixture, &one, &page.sha256, BYTES as u64).await.expect("given").is_empty());
    let beyond = fetch(&fixture, &one, &page.sha256, BYTES as u64 + 1).await.expect_err("beyond its end");
    assert_eq!(kind(&beyond), RefusalKind::RefusalBadRequest);

    for (agent, sha256) in
        [(&two, &page.sha256), (&one, &secret.sha256), (&one, &"../../store.db".to_owned())]
    {
        let refused = fetch(&fixture, agent, sha256, 0).await.expect_err("not for it");
        assert_eq!(kind(&refused), RefusalKind::RefusalForbidden, "{sha256}");
    }
    let operator = AgentsClient::new(fixture.operator_channel())
        .fetch(FetchRequest { sha256: page.sha256.clone(), offset: 0 })
        .await
        .expect_err("no node");
    assert_eq!(kind(&operator), RefusalKind::RefusalForbidden);
    fixture.stop().await;
}

#[tokio::test]
async fn other_bytes_than_announced_are_refused() {
    let (fixture, _) = start(&[]).await;
    let good = artifact("page", b"hello");
    for (announced, bytes) in [
        (good.clone(), &b"hellO"[..]),
        (good.clone(), &b"hell"[..]),
        (good.clone(), &b"hello!"[..]),
        (v1::Artifact { size: 1 << 40, ..good.clone() }, &b"hello"[..]),
        (v1::Artifact { sha256: "/etc/passwd".to_owned(), ..good.clone() }, &b"hello"[..]),
    ] {
        let refused = keep(&fixture, &announced, bytes).await.expect_err("not what it says");
        assert_eq!(kind(&refused), RefusalKind::RefusalBadRequest, "{announced:?} {bytes:?}");
    }
    let nameless = tokio_stream::iter([KeepChunk::default()]);
    let refused = fixture.operator_client().keep(nameless).await.expect_err("nothing announced");
    assert_eq!(kind(&refused), RefusalKind::RefusalBadRequest);
    assert!(missing(&fixture, &good).await, "nothing was kept");
    fixture.stop().await;
}

fn with_file() -> String {
    format!("{PLAN}defaults:\n  tasks:\n    - file: {{path: /srv/page, source: page.html}}\n")
}

#[tokio::test]
async fn a_plan_without_its_files_starts_nothing() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    let page = artifact("page.html", b"<p>");
    let refused = async |artifacts: &[v1::Artifact]| {
        let plan = PlanDocument { artifacts: artifacts.to_vec(), ..document(&with_file()) };
        let mut client = fixture.operator_client();
        let preview = client
            .preview(v1::PreviewRequest { plan: Some(plan.clone()), ..v1::PreviewRequest::default() })
            .await
            .expect_err("refused");
        let request =
            ApplyRequest { plan: Some(plan), until: Until::Ready.into(), ..ApplyRequest::default() };
        let apply = client.apply(request).await.expect_err("refused");
        assert_eq!(preview.message(), apply.message());
        assert_eq!(kind(&apply), RefusalKind::RefusalBadRequest);
        let refusal = Refusal::from_status(&apply).expect("typed");
        assert!(refusal.hint.contains("`fleetctl up`"), "{}", refusal.hint);
        refusal.message
    };
    let wanted = "the controller does not hold files that the plan names: `page.html`";
    assert_eq!(refused(&[]).await, wanted, "not even described");
    assert_eq!(refused(std::slice::from_ref(&page)).await, wanted, "described, not brought");
    assert_eq!(world.servers(), 0);

    keep(&fixture, &page, b"<p>").await.expect("kept");
    let plan = PlanDocument { artifacts: vec![page.clone()], ..document(&with_file()) };
    let request = ApplyRequest { plan: Some(plan), until: Until::Ready.into(), ..ApplyRequest::default() };
    let stream = fixture.operator_client().apply(request).await.expect("starts").into_inner();
    let (_, finished) = finish(stream).await;
    assert!(finished.ok, "{finished:?}");
    let desired = fixture.desk.registry.desired(&node("one")).expect("something");
    let named: Vec<_> = fleet_controller::artifacts::named::named(&desired).cloned().collect();
    assert_eq!(named, [page]);

    // A restarted controller computes the same from what it kept: nobody gets another generation.
    let generations = |fixture: &Fixture| -> BTreeMap<&str, u64> {
        let of =
            |name: &'static str| fixture.desk.registry.desired(&node(name)).map_or(0, |seen| seen.generation);
        ["one", "two", "three"].map(|name| (name, of(name))).into()
    };
    let before = generations(&fixture);
    let fixture = start_with(fixture.stop().await, &world).await;
    let node_one = v1::ReplaceRequest { node: "one".to_owned() };
    let stream = fixture.operator_client().replace(node_one).await.expect("starts").into_inner();
    let (_, finished) = finish(stream).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(generations(&fixture), before);
    fixture.stop().await;
}

#[tokio::test]
async fn lacking_the_todo_program_matters_only_to_plans_that_need_it() {
    let world = World::new();
    let fixture = start_with(fresh(), &world).await;
    let tasks = "defaults:\n  tasks:\n    - rethinkdb: {seed: one}\n    - todo: {}\n";
    let plan = format!("{PLAN}{tasks}");
    let request =
        ApplyRequest { plan: Some(document(&plan)), until: Until::Ready.into(), ..ApplyRequest::default() };
    let refused = fixture.operator_client().apply(request).await.expect_err("refused");
    let refusal = Refusal::from_status(&refused).expect("typed");
    assert!(refusal.message.contains("no program for it"), "{}", refusal.message);
    assert!(refusal.hint.contains("--todo"), "{}", refusal.hint);
    assert_eq!(world.servers(), 0, "said before anything is touched");
    assert!(up(&fixture).await.ok, "others do not need it");
    let dir = fixture.stop().await;

    let program = dir.path().join("fleet-todo");
    std::fs::write(&program, b"a program").expect("writes");
    let fixture = start_adjusted(dir, &world, |settings| settings.todo = Some(program)).await;
    let (_, finished) = finish(apply(&fixture, &plan, Until::Ready).await).await;
    assert!(finished.ok, "{finished:?}");
    let desired = fixture.desk.registry.desired(&node("two")).expect("something");
    let named: Vec<_> = fleet_controller::artifacts::named::named(&desired).collect();
    assert_eq!(named, [&artifact("fleet-todo", b"a program")]);
    fixture.stop().await;
}

#[tokio::test]
async fn another_build_of_the_controller_changes_no_node_by_itself() {
    let world = World::new();
    let dir = fresh();
    let program = dir.path().join("fleet-todo");
    let brings = |bytes: &'static [u8]| {
        let program = program.clone();
        move |settings: &mut fleet_controller::settings::Settings| {
            std::fs::write(&program, bytes).expect("writes");
            settings.todo = Some(program);
        }
    };
    let held = |fixture: &Fixture| {
        let desired = fixture.desk.registry.desired(&node("two")).expect("something");
        let named = fleet_controller::artifacts::named::named(&desired).cloned().collect::<Vec<_>>();
        (desired.generation, named)
    };
    let plan = format!(
        "{PLAN}rollout: {{bake: 0s}}\ndefaults:\n  tasks:\n    - rethinkdb: {{seed: one}}\n    - todo: {{}}\n"
    );
    let fixture = start_adjusted(dir, &world, brings(b"a program")).await;
    let (_, finished) = finish(apply(&fixture, &plan, Until::Ready).await).await;
    assert!(finished.ok, "{finished:?}");
    let before = held(&fixture);

    // Started anew with another program: a replaced node gets the one that the others have.
    let fixture = start_adjusted(fixture.stop().await, &world, brings(b"another one")).await;
    let node_one = v1::ReplaceRequest { node: "one".to_owned() };
    let stream = fixture.operator_client().replace(node_one).await.expect("starts").into_inner();
    let (_, finished) = finish(stream).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(held(&fixture), before);

    // `up` is what brings it, to one node after the other.
    let (_, finished) = finish(apply(&fixture, &plan, Until::Ready).await).await;
    assert!(finished.ok, "{finished:?}");
    assert_eq!(held(&fixture).1, [artifact("fleet-todo", b"another one")]);
    fixture.stop().await;
}

#[tokio::test]
async fn what_no_plan_names_goes_without_an_up() {
    let (fixture, _) = start(&[]).await;
    let page = artifact("page", b"hello");
    keep(&fixture, &page, b"hello").await.expect("kept");
    let dir = fixture.stop().await;
    let file = dir.path().join("artifacts").join(&page.sha256);
    let old = std::time::SystemTime::now() - fleet_controller::artifacts::GRACE * 2;
    std::fs::File::options().write(true).open(&file).expect("kept").set_modified(old).expect("stamps");
    let (fixture, _) = start_in(dir, &[], |_| {}).await;
    let swept = async {
        while file.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, swept).await.expect("swept at the start");
    fixture.stop().await;
}
