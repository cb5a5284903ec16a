//! Sessions through real TLS: who may open one, which one wins, and how they end.

use std::{sync::Arc, time::Duration};

use crate::harness::{Agent, DEADLINE, Session, csr, enrol, hello, kind, node, start};
use fleet_controller::session::dispatch::Answers;
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{self, agents_client::AgentsClient, command, from_agent, to_agent},
};
use fleet_release::Version;
use rcgen::KeyPair;
use tokio::{io::AsyncReadExt, time};

fn desired(generation: u64) -> Arc<v1::Desired> {
    Arc::new(v1::Desired { generation, ..v1::Desired::default() })
}

#[tokio::test]
async fn a_session_is_greeted_told_and_heard() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let name = node("web-1");
    fixture.desk.registry.set_desired(&name, desired(3));
    let mut session = agent.session(&fixture).await.expect("opens");
    assert_eq!(session.welcome.heartbeat_ms, 10_000);
    assert_eq!(session.welcome.protocol, 1);
    match session.next().await.expect("open") {
        Some(to_agent::Message::Desired(desired)) => assert_eq!(desired.generation, 3),
        other => panic!("expected desired state, got {other:?}"),
    }
    fixture.desk.registry.set_desired(&name, desired(4));
    match session.next().await.expect("open") {
        Some(to_agent::Message::Desired(desired)) => assert_eq!(desired.generation, 4),
        other => panic!("expected desired state, got {other:?}"),
    }

    session.say(from_agent::Message::Facts(v1::Facts { cpus: 2, ..v1::Facts::default() })).await;
    session
        .say(from_agent::Message::Observed(v1::Observed { generation: 4, ..v1::Observed::default() }))
        .await;
    let view = || fixture.desk.registry.view(&name);
    fixture.until("facts and results", || view().observed.is_some_and(|seen| seen.generation == 4)).await;
    assert_eq!(view().facts.expect("taken").cpus, 2);
    assert!(view().connected);

    drop(session);
    fixture.until("the session to end", || !view().session).await;
    assert!(view().observed.is_some(), "what was last seen stays");
    fixture.stop().await;
}

#[tokio::test]
async fn an_agent_that_holds_the_generation_is_not_told_again() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    fixture.desk.registry.set_desired(&node("web-1"), desired(3));
    let greeting = v1::Hello { generation: 3, ..hello(&fixture, "m1") };
    let mut session = agent.session_with(&fixture, greeting).await.expect("opens");
    fixture.desk.registry.set_desired(&node("web-1"), desired(5));
    match session.next().await.expect("open") {
        Some(to_agent::Message::Desired(desired)) => assert_eq!(desired.generation, 5),
        other => panic!("expected generation 5 first, got {other:?}"),
    }
    fixture.stop().await;
}

#[tokio::test]
async fn what_was_seen_survives_a_restart() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let session = agent.session(&fixture).await.expect("opens");
    session
        .say(from_agent::Message::Observed(v1::Observed { generation: 7, ..v1::Observed::default() }))
        .await;
    let name = node("web-1");
    let seen = |fixture: &crate::harness::Fixture| fixture.desk.registry.view(&name);
    fixture.until("results", || seen(&fixture).observed.is_some()).await;
    let last_seen = seen(&fixture).last_seen;
    let dir = fixture.stop().await;

    let (fixture, _) = crate::harness::start_in(dir, &[], |_| {}).await;
    let view = seen(&fixture);
    assert_eq!(view.observed.expect("kept").generation, 7);
    assert_eq!(view.agent_version, fleet_proto::VERSION);
    assert_eq!(view.last_seen, last_seen);
    assert!(!view.session);
    fixture.stop().await;
}

#[tokio::test]
async fn newest_wins_on_one_machine() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let first = agent.session(&fixture).await.expect("opens");
    let second = agent.session(&fixture).await.expect("opens too");
    assert_eq!(first.end().await.expect("replaced").code(), tonic::Code::Aborted);
    second.say(from_agent::Message::Facts(v1::Facts { cpus: 4, ..v1::Facts::default() })).await;
    let view = || fixture.desk.registry.view(&node("web-1"));
    fixture.until("the newer session to speak", || view().facts.is_some()).await;
    assert_eq!(fixture.desk.registry.sessions(), 1);
    fixture.stop().await;
}

#[tokio::test]
async fn a_clone_is_refused_and_the_node_at_work_stays() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let mut session = agent.session(&fixture).await.expect("opens");
    let refused = agent.session_with(&fixture, hello(&fixture, "m2")).await.err().expect("a clone");
    assert_eq!(kind(&refused), RefusalKind::RefusalClone);
    fixture.desk.registry.set_desired(&node("web-1"), desired(1));
    assert!(matches!(session.next().await, Ok(Some(to_agent::Message::Desired(_)))), "still at work");

    // Once the first machine has been silent for long, the other one is not a clone but a replacement.
    fixture.clock.advance(Duration::from_secs(120));
    agent.session_with(&fixture, hello(&fixture, "m2")).await.expect("takes over");
    fixture.stop().await;
}

#[tokio::test]
async fn revocation_cuts_live_sessions_and_nothing_brings_them_back() {
    let (fixture, tokens) = start(&["web-1", "web-2"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let other = Agent::home(&fixture, &tokens[1], "m2").await;
    // One client configuration for both connections: a resumed session would skip the certificate.
    let channel = agent.channel(&fixture);
    let session = Session::open(channel.clone(), hello(&fixture, "m1")).await.expect("opens");
    let mut bystander = other.session(&fixture).await.expect("opens");

    fixture.enrolment.remove(&node("web-1"), "a test").await.expect("withdrawn");
    let why = session.end().await.expect("ended with a reason");
    assert_eq!(kind(&why), RefusalKind::RefusalRevoked);
    // The connection is gone, and a new one is refused in the handshake.
    let again = Session::open(channel, hello(&fixture, "m1")).await;
    assert!(again.is_err(), "a withdrawn certificate came back");
    assert!(
        agent.session(&fixture).await.is_err(),
        "a withdrawn certificate came back over a new connection"
    );
    let mut client = AgentsClient::new(agent.channel(&fixture));
    let renewal = client.renew(v1::RenewRequest { csr: csr(&agent.key) });
    assert!(tokio::time::timeout(DEADLINE, renewal).await.expect("answers").is_err());

    fixture.desk.registry.set_desired(&node("web-2"), desired(1));
    assert!(matches!(bystander.next().await, Ok(Some(_))), "others are not touched");
    let dir = fixture.stop().await;
    let (fixture, _) = crate::harness::start_in(dir, &[], |_| {}).await;
    assert!(agent.session(&fixture).await.is_err(), "a withdrawn certificate came back after a restart");
    fixture.stop().await;
}

/// Whatever a client would like: the server gives out nothing to resume with, so every handshake looks at the
/// client's certificate anew.
#[tokio::test]
async fn nothing_is_ever_resumed() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let mut config =
        fleet_proto::tls::client(&fixture.bundle, Some(agent.identity())).expect("a configuration");
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for address in [fixture.ready.session[0], fixture.ready.enrol[0]] {
        for _ in 0..3 {
            let tcp = tokio::net::TcpStream::connect(address).await.expect("connects");
            let name = "controller.reference".try_into().expect("a name");
            let mut stream = connector.connect(name, tcp).await.expect("shakes hands");
            // Tickets come after the handshake, with the first bytes of the server: its HTTP/2 settings.
            let mut bytes = [0; 64];
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut bytes);
            assert_ne!(tokio::time::timeout(DEADLINE, read).await.expect("speaks").expect("reads"), 0);
            let handshake = stream.get_ref().1.handshake_kind();
            assert_eq!(handshake, Some(rustls::HandshakeKind::Full));
        }
    }
    fixture.stop().await;
}

#[tokio::test]
async fn sessions_end_with_their_certificate() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let session = agent.session(&fixture).await.expect("opens");
    fixture.clock.advance(Duration::from_secs(25 * 3600));
    // Broken off in whatever way the transport reports that.
    session.end().await;
    assert!(agent.session(&fixture).await.is_err(), "an expired certificate got in");
    fixture.stop().await;
}

#[tokio::test]
async fn renewal_gives_the_next_certificate() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    fixture.clock.advance(Duration::from_secs(16 * 3600));
    let key = KeyPair::generate().expect("a key");
    let renewed = AgentsClient::new(agent.channel(&fixture))
        .renew(v1::RenewRequest { csr: csr(&key) })
        .await
        .expect("renews")
        .into_inner();
    assert!(renewed.not_after_ms > agent.credentials.not_after_ms);
    let agent = Agent { key, machine: "m1".to_owned(), credentials: renewed };
    agent.session(&fixture).await.expect("the new one is good");
    fixture.stop().await;
}

#[tokio::test]
async fn strangers_do_not_get_past_the_handshake() {
    let (fixture, _) = start(&[]).await;
    let (other, tokens) = start(&["web-1"]).await;
    let foreign = Agent::home(&other, &tokens[0], "m1").await;
    assert!(foreign.session(&fixture).await.is_err(), "signed by another authority");
    let channel = crate::harness::channel(fixture.ready.session[0], &fixture.bundle, None);
    assert!(Session::open(channel, hello(&fixture, "m")).await.is_err(), "no certificate");
    other.stop().await;
    fixture.stop().await;
}

#[tokio::test]
async fn another_protocol_is_refused_with_who_must_move() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let newer = v1::Hello { protocol_min: 2, protocol_max: 5, ..hello(&fixture, "m1") };
    let refused = agent.session_with(&fixture, newer).await.err().expect("too new");
    assert_eq!(kind(&refused), RefusalKind::RefusalVersion);
    fixture.stop().await;
}

/// One minor version apart works, in either order; two are refused at both doors, with who moves first.
#[tokio::test]
async fn agents_more_than_one_minor_version_apart_are_refused_at_both_doors() {
    let ours: Version = fleet_proto::VERSION.parse().expect("a version");
    let apart = |by: i64| {
        let minor = i64::from(ours.minor) + by;
        u32::try_from(minor).ok().map(|minor| Version { minor, ..ours }.to_string())
    };
    let (fixture, tokens) = start(&["web-1", "web-2", "web-3"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let hello_of = |version: &str| v1::Hello { agent_version: version.to_owned(), ..hello(&fixture, "m1") };
    for (by, token) in [(-1, &tokens[1]), (1, &tokens[2])] {
        let Some(version) = apart(by) else { continue };
        agent.session_with(&fixture, hello_of(&version)).await.expect("one apart is fine");
        let key = KeyPair::generate().expect("a key");
        enrol(&fixture, token, &key, hello_of(&version)).await.expect("one apart is fine");
    }
    let mut refused = 0;
    for (by, first) in [(-2, "the agent moves first"), (2, "the controller moves first")] {
        let Some(version) = apart(by) else { continue };
        let key = KeyPair::generate().expect("a key");
        let session = agent.session_with(&fixture, hello_of(&version)).await.err().expect("too far");
        let enrolled = enrol(&fixture, &tokens[0], &key, hello_of(&version)).await.expect_err("too far");
        for status in [session, enrolled] {
            let refusal = Refusal::from_status(&status).expect("typed");
            assert_eq!(refusal.kind(), RefusalKind::RefusalVersion, "{refusal:?}");
            let named = refusal.message.contains(&version) && refusal.message.contains(fleet_proto::VERSION);
            assert!(named && refusal.hint.starts_with(first), "{refusal:?}");
            refused += 1;
        }
    }
    assert!(refused >= 2, "in one direction at least there is such a version");
    fixture.stop().await;
}

#[tokio::test]
async fn everybody_is_asked_and_the_silent_are_listed() {
    let (fixture, tokens) = start(&["a", "b", "c"]).await;
    let mut sessions = Vec::new();
    for token in &tokens {
        let agent = Agent::home(&fixture, token, token).await;
        sessions.push(agent.session(&fixture).await.expect("opens"));
    }
    let limit = Duration::from_secs(5);
    let lives = fixture.desk.registry.lives();
    let asking = fixture.desk.dispatch.ask(lives, command::What::Noop(v1::Noop {}), limit);
    let answering = async {
        for (index, session) in sessions.iter_mut().enumerate() {
            let Ok(Some(to_agent::Message::Command(command))) = session.next().await else {
                panic!("no command")
            };
            if index == 1 {
                continue;
            }
            let answer = v1::Answer { id: command.id, error: String::new() };
            // Twice: the second one changes nothing; nor does one in another's name.
            session.say(from_agent::Message::Answer(answer.clone())).await;
            session.say(from_agent::Message::Answer(answer)).await;
            let foreign = v1::Answer { id: command.id ^ 1, error: String::new() };
            session.say(from_agent::Message::Answer(foreign)).await;
            // What comes after them tells that they were heard.
            session.say(from_agent::Message::Facts(v1::Facts { cpus: 2, ..v1::Facts::default() })).await;
        }
        let heard = |name| fixture.desk.registry.view(&node(name)).facts.is_some();
        fixture.until("both answers", || heard("a") && heard("c")).await;
        // Silence uses up the limit, and none of ours.
        time::pause();
    };
    let (answers, ()) = tokio::join!(asking, answering);
    time::resume();
    let Answers { answered, failed, silent, took } = answers;
    assert_eq!(failed, []);
    assert_eq!((answered, silent), (2, vec![node("b")]));
    assert!(took > Duration::ZERO && took < limit, "{took:?}");
    fixture.stop().await;
}

/// More than may shake hands at once, and none of them says anything: others do not wait for them.
#[tokio::test]
async fn silent_connections_hold_nobody_up() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let mut silent = Vec::new();
    for _ in 0..fleet_controller::tls::listen::HANDSHAKES + 50 {
        let connected = tokio::net::TcpStream::connect(fixture.ready.session[0]).await;
        silent.push(connected.expect("the kernel takes it"));
    }
    // Each of them is dropped after ten seconds: the session opens before the first one is.
    let mut byte = [0];
    tokio::select! {
        biased;
        opened = agent.session(&fixture) => drop(opened.expect("opens")),
        _ = silent[0].read(&mut byte) => panic!("one that said nothing was waited for"),
    }
    drop(silent);
    fixture.stop().await;
}
