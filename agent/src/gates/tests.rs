use std::sync::Mutex;

use async_trait::async_trait;
use fleet_proto::tls;
use fleet_task::{CommandError, Journal, Output, Runner};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tasks::rethinkdb::cluster::{Layout, fake::FakeCluster};

/// Systemd with one unit that runs, and two programs.
#[derive(Debug)]
struct Programs;

#[async_trait]
impl Runner for Programs {
    async fn output(&self, command: &Command) -> Result<Output, CommandError> {
        let fails =
            |code, words: &str| Output { code: Some(code), stderr: words.into(), ..Output::default() };
        Ok(match command.to_string().as_str() {
            "true" => Output::ok("one\nall is well\n"),
            "false" => fails(3, "it is\nnot well\n"),
            text if text.ends_with("fine.service") => Output::ok("ActiveState=active\nSubState=running\n"),
            _ => Output::ok("ActiveState=failed\nSubState=failed\n"),
        })
    }
}

struct Bench {
    root: tempfile::TempDir,
    gates: Gates,
}

fn bench() -> Bench {
    let root = tempfile::tempdir().expect("folder");
    let journal = Arc::new(Journal::open(root.path().join("journal")).expect("journal"));
    let gates = Gates::new(Node::new(root.path(), Arc::new(Programs), journal));
    Bench { root, gates }
}

impl Bench {
    async fn check(&self, check: Check, passed: bool, detail: &str) {
        let asked = v1::GateAsk { gate: "g".into(), rollout: "r".into(), check: Some(check.clone()) };
        let answer = self.gates.answer(asked).await;
        assert_eq!((answer.gate.as_str(), answer.rollout.as_str()), ("g", "r"));
        assert_eq!(answer.passed, passed, "{check:?}: {}", answer.detail);
        assert!(answer.detail.contains(detail) && answer.detail.lines().count() == 1, "{}", answer.detail);
    }
}

fn command(args: &[&str]) -> Check {
    Check::Command(v1::CommandCheck { args: args.iter().map(ToString::to_string).collect() })
}

#[tokio::test]
async fn units_and_commands() {
    let bench = bench();
    bench.check(Check::UnitActive("fine.service".into()), true, "fine.service is active, running").await;
    bench.check(Check::UnitActive("broken.service".into()), false, "broken.service is failed").await;
    bench.check(command(&["true"]), true, "`true` ended with status 0: all is well").await;
    bench.check(command(&["false"]), false, "`false` ended with status 3: not well").await;
    bench.check(command(&[]), false, "the command is empty").await;
}

#[tokio::test]
async fn a_check_of_a_newer_controller_does_not_pass() {
    let answer = bench().gates.answer(v1::GateAsk::default()).await;
    assert!(!answer.passed && answer.detail.contains("update the agent"), "{}", answer.detail);
}

#[tokio::test]
async fn ports_and_urls() {
    let bench = bench();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    bench.check(Check::PortAnswers(port.into()), true, "answers").await;
    bench.check(Check::PortAnswers(0), false, "0 is not a port").await;
    bench.check(Check::PortAnswers(70_000), false, "70000 is not a port").await;
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let mut asked = [0; 1024];
            if plain.read(&mut asked).await.is_ok_and(|n| n > 0) {
                plain.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("answer");
            }
        }
    });
    let http = |url: String, status| Check::Http(v1::HttpCheck { url, status });
    let url = format!("http://127.0.0.1:{port}/x");
    bench.check(http(url.clone(), 204), true, "answers 204").await;
    bench.check(http(url, 200), false, "answers 204, not 200").await;
    bench.check(http("gopher://a".into(), 200), false, "is not a URL").await;
    bench.check(http(format!("https://127.0.0.1:{port}/"), 200), false, "").await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("address").port();
    bench.check(Check::PortAnswers(nobody.into()), false, "refused").await;
    bench.check(http(format!("http://127.0.0.1:{nobody}/"), 200), false, "refused").await;
}

/// The application as far as a round trip goes: remembers one todo, and may garble it.
async fn todo(mut stream: impl AsyncRead + AsyncWrite + Unpin, held: &Mutex<Option<String>>, garbles: bool) {
    let (mut text, mut piece) = (String::new(), [0; 1024]);
    let whole = |text: &str| match text.split_once("\r\n\r\n") {
        Some((head, body)) => !head.starts_with("POST") || body.ends_with('}'),
        None => false,
    };
    while !whole(&text) {
        let n = stream.read(&mut piece).await.expect("request");
        text += std::str::from_utf8(&piece[..n]).expect("text");
    }
    let answer = match text.split(' ').next() {
        Some("POST") => {
            let body: serde_json::Value =
                serde_json::from_str(text.split_once("\r\n\r\n").expect("body").1).expect("json");
            let todo = json!({ "id": "a-1", "text": body["text"] }).to_string();
            *held.lock().expect("fine") = Some(todo.clone());
            format!("HTTP/1.0 201 Created\r\n\r\n{todo}")
        }
        Some("GET") if garbles => "HTTP/1.0 200 OK\r\n\r\n{\"id\":\"a-1\",\"text\":\"x\"}".to_owned(),
        Some("GET") => {
            format!("HTTP/1.0 200 OK\r\n\r\n{}", held.lock().expect("fine").clone().expect("written"))
        }
        _ => {
            *held.lock().expect("fine") = None;
            "HTTP/1.0 204 No Content\r\n\r\n".to_owned()
        }
    };
    stream.write_all(answer.as_bytes()).await.expect("answer");
}

#[tokio::test]
async fn a_todo_comes_back_as_it_went_and_leaves_nothing() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("ca");
    for garbles in [false, true] {
        let bench = bench();
        let place = bench.root.path().join(CA.trim_start_matches('/'));
        std::fs::create_dir_all(place.parent().expect("folder")).expect("folder");
        std::fs::write(place, ca.pem()).expect("ca");
        let key = KeyPair::generate().expect("key");
        let leaf =
            CertificateParams::new(vec!["n1".into()]).expect("name").signed_by(&key, &ca).expect("sign");
        let config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .expect("certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let held = Arc::new(Mutex::new(None));
        let serving = held.clone();
        let server = tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            for _ in 0..3 {
                let (plain, _) = listener.accept().await.expect("accept");
                todo(acceptor.accept(plain).await.expect("tls"), &serving, garbles).await;
            }
        });
        let detail = if garbles { "another todo was read" } else { "made its round trip" };
        bench.check(Check::TodoRoundTrip(port.into()), !garbles, detail).await;
        server.await.expect("written, read, taken away");
        assert_eq!(*held.lock().expect("fine"), None);
    }
}

#[tokio::test]
async fn a_table_is_ready_when_every_replica_is() {
    let asked = v1::TableCheck { database: "todo".into(), table: "tasks".into() };
    let cluster = FakeCluster::default();
    let check = async |passed: bool, wanted: &str| {
        let seen = table(&cluster, &asked).await;
        assert_eq!(seen.is_ok(), passed, "{seen:?}");
        let detail = seen.unwrap_or_else(|why| why);
        assert!(detail.contains(wanted), "{detail}");
    };
    check(false, "refused").await;
    cluster.set(&[("a", "EU6")]);
    check(false, "there is no table todo.tasks").await;
    let held = |ready| Layout { ready, ..Layout::default() };
    let set = |ready| cluster.state().tables.insert(("todo".into(), "tasks".into()), held(ready));
    set(false);
    check(false, "todo.tasks is not ready").await;
    set(true);
    check(true, "todo.tasks is ready").await;
}
