//! A new agent for everybody, and back again, while people use the application.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fleet_reql::{Connection, db};
use fleet_tests::{Sandbox, Tunnel, eventually, program};
use reqwest::{Client, StatusCode};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time};

use crate::{
    database,
    nodes::{NODES, Ways, node, status},
};

/// How often everybody is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take: machines without KVM share two cores with all the rest.
const ANSWER: Duration = Duration::from_secs(10);
/// How many nodes have to answer, whenever they are asked.
const LEAST: usize = 4;
/// Quick, and one node at a time.
const POLICY: [&str; 6] = ["rollout", "start", "--set", "canaryBake=5s", "--set", "bake=5s"];

/// Rolls a release out and back. Every second each node is asked for the list; one after the other takes a todo into
/// the table and out of it again, and its database is asked whether the table may be read and written.
pub fn reaches_everybody_unnoticed(sandbox: &Sandbox, ways: &Ways, queries: &tokio::runtime::Runtime) {
    let before = versions(sandbox);
    let version = release(sandbox, &before);
    let over = Arc::new(AtomicBool::new(false));
    let tunnels = NODES.map(|name| ways.login(name).tunnel(28015));
    let prober = queries.spawn(probe(queries.block_on(asked(ways, &tunnels)), over.clone()));
    let wait = |wanted: &str| {
        sandbox.run(&["rollout", "watch"]).expect(0);
        eventually(&format!("everybody runs {wanted} and is ready"), Duration::from_secs(180), || {
            let status = status(sandbox);
            let ready = NODES.iter().all(|name| node(&status, name)["state"] == "ready");
            (ready && running(sandbox).values().all(|runs| runs == wanted)).then_some(())
        });
    };
    let start: Vec<&str> = POLICY.iter().copied().chain([&*version]).collect();
    sandbox.run(&start).expect(0);
    wait(&version);
    sandbox.run(&["rollout", "undo"]).expect(0);
    wait(&before);
    over.store(true, Ordering::Relaxed);
    let seconds = queries.block_on(prober).expect("the prober ends");
    told(&seconds);
}

/// What came of one second.
#[derive(Debug, Default)]
struct Second {
    /// Who did not answer, and what was heard instead.
    silent: Vec<String>,
    /// Why nothing could be written, if so.
    unwritten: Option<String>,
    /// What the database said of a table that cannot be read and written, if so.
    away: Option<String>,
    slowest: Duration,
}

fn told(seconds: &[Second]) {
    let most = seconds.iter().map(|second| second.silent.len()).max().unwrap_or(0);
    let slowest = seconds.iter().map(|second| second.slowest).max().unwrap_or_default();
    let unwritten: Vec<&Second> = seconds.iter().filter(|second| second.unwritten.is_some()).collect();
    let away: Vec<&Second> = seconds.iter().filter(|second| second.away.is_some()).collect();
    eprintln!(
        "a release went to {} nodes and back: asked in {} seconds, at least {} answered in each; the table took \
         {} of {} writes, and was ready for them in {}; the slowest answer took {} ms",
        NODES.len(),
        seconds.len(),
        NODES.len() - most,
        seconds.len() - unwritten.len(),
        seconds.len(),
        seconds.len() - away.len(),
        slowest.as_millis(),
    );
    let few: Vec<&Second> =
        seconds.iter().filter(|second| NODES.len() - second.silent.len() < LEAST).collect();
    assert!(few.is_empty(), "fewer than {LEAST} answered: {few:#?}");
    assert!(unwritten.is_empty(), "nothing could be written: {unwritten:#?}");
    assert!(away.is_empty(), "the table was away: {away:#?}");
    assert!(seconds.len() >= 10, "only {} seconds were looked at", seconds.len());
}

/// The version that all of them run.
fn versions(sandbox: &Sandbox) -> String {
    let status = status(sandbox);
    let all: Vec<&str> =
        NODES.iter().filter_map(|name| node(&status, name)["agent_version"].as_str()).collect();
    assert!(all.iter().all(|one| *one == all[0]) && all.len() == NODES.len(), "{all:?}");
    all[0].to_owned()
}

/// What each node says that it runs.
fn running(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let document = sandbox.run(&["rollout", "status", "--output", "json"]).expect(0).json();
    let nodes = document["rollout"]["nodes"].as_array().expect("nodes");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    nodes.iter().map(|node| (text(&node["name"]), text(&node["runs"]))).collect()
}

/// The same agent by another digest and version.
fn release(sandbox: &Sandbox, before: &str) -> String {
    let (minor, _) = before.rsplit_once('.').expect("a version has three parts");
    let version = format!("{minor}.1000");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("fleet-agent");
    let mut agent = fs::read(program("fleet-agent")).expect("the agent");
    writeln!(agent, "\nanother release").expect("memory");
    fs::write(&file, agent).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("allowed");
    let [agent, out] = [file, dir.path().join("release")].map(|path| path.display().to_string());
    sandbox.run(&["release", "create", "--agent", &agent, "--version", &version, "--out", &out]).expect(0);
    sandbox.run(&["release", "publish", &out]).expect(0);
    version
}

/// A node, and how it is asked.
#[derive(Clone)]
struct Asked {
    name: &'static str,
    /// Trusts nobody but the fleet.
    application: Client,
    database: Connection,
}

async fn asked(ways: &Ways, tunnels: &[Tunnel]) -> Vec<Asked> {
    let ca = ways.login(NODES[0]).run("sudo -n cat /var/lib/fleet-agent/service/ca.pem").stdout;
    let mut trust = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&ca) {
        trust.add(certificate.expect("a certificate")).expect("an authority");
    }
    let tls = rustls::ClientConfig::builder_with_provider(fleet_proto::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(trust)
        .with_no_client_auth();
    let mut asked = Vec::new();
    for (name, tunnel) in NODES.into_iter().zip(tunnels) {
        let address = SocketAddr::new(ways.login(name).address.parse().expect("an address"), 5000);
        let application = Client::builder()
            .tls_backend_preconfigured(tls.clone())
            .resolve(&name.to_lowercase(), address)
            .timeout(ANSWER)
            .build()
            .expect("a client");
        asked.push(Asked { name, application, database: database::ask(tunnel.address()).await });
    }
    asked
}

/// Asks everybody each second, however long answers to earlier questions take.
async fn probe(nodes: Vec<Asked>, over: Arc<AtomicBool>) -> Vec<Second> {
    let mut clock = time::interval(EVERY);
    let mut questions = JoinSet::new();
    let mut second = 0;
    while !over.load(Ordering::Relaxed) {
        clock.tick().await;
        questions.spawn(ask(nodes.clone(), second));
        second += 1;
    }
    questions.join_all().await
}

async fn ask(nodes: Vec<Asked>, number: usize) -> Second {
    let started = time::Instant::now();
    let mut second = Second::default();
    let one = &nodes[number % nodes.len()];
    let reads = nodes.iter().map(|Asked { name, application, .. }| async move {
        let url = format!("https://{name}:5000/api/todos");
        match application.get(url).send().await {
            Ok(reply) if reply.status() == StatusCode::OK => None,
            Ok(reply) => Some(format!("{name}: {}", reply.status())),
            Err(why) => Some(format!("{name}: {why:?}")),
        }
    });
    let (reads, written, ready) =
        futures::join!(futures::future::join_all(reads), write(one, number), ready(one));
    second.silent = reads.into_iter().flatten().collect();
    second.unwritten = written.err();
    second.away = ready.err();
    second.slowest = started.elapsed();
    second
}

/// A todo into the table, and out of it again.
async fn write(Asked { name, application, .. }: &Asked, number: usize) -> Result<(), String> {
    let url = format!("https://{name}:5000/api/todos");
    let seen = |reply: reqwest::Response| format!("{name}: {}", reply.status());
    let text = json!({ "text": format!("second {number}") }).to_string();
    let request = application.post(&url).header("content-type", "application/json").body(text);
    let made = request.send().await.map_err(|why| format!("{name}: {why:?}"))?;
    if made.status() != StatusCode::CREATED {
        return Err(seen(made));
    }
    let place = made.headers().get("location").and_then(|place| place.to_str().ok()).unwrap_or_default();
    let removed = application.delete(format!("https://{name}:5000{place}")).send().await;
    let removed = removed.map_err(|why| format!("{name}: {why:?}"))?;
    if removed.status().is_success() { Ok(()) } else { Err(seen(removed)) }
}

/// Whether the table may be read and written, by the word of a node's own database.
async fn ready(Asked { name, database, .. }: &Asked) -> Result<(), String> {
    let status = db("todo").table("tasks").status();
    let found: Value = database.run_within(status, ANSWER).await.map_err(|why| format!("{name}: {why}"))?;
    let is = |what: &str| found["status"][what] == json!(true);
    if is("ready_for_reads") && is("ready_for_writes") { Ok(()) } else { Err(format!("{name}: {found}")) }
}
