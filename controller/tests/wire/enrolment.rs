//! Enrolment through real TLS: who gets in, who does not, and what they hear.

use std::time::Duration;

use crate::harness::{Agent, DEADLINE, csr, enrol, hello, kind, node, start, start_in};
use fleet_model::Clock;
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1,
};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

#[tokio::test]
async fn a_token_gives_one_key_a_certificate() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    assert_eq!(agent.credentials.node, "web-1");
    assert_eq!(agent.credentials.session_addresses, [fixture.ready.session[0].to_string()]);
    assert_eq!(agent.credentials.trust_bundle, [fixture.bundle[0].to_vec()]);
    let (_, leaf) = X509Certificate::from_der(&agent.credentials.certificate_chain[0]).expect("parses");
    assert_eq!(leaf.validity().not_after.timestamp() * 1000, agent.credentials.not_after_ms);
    assert!(agent.credentials.renew_at_ms < agent.credentials.not_after_ms);

    // A lost answer: the same key asks again and gets the same certificate, however late.
    fixture.clock.advance(Duration::from_secs(2 * 3600));
    let again = enrol(&fixture, &tokens[0], &agent.key, hello(&fixture, "m1")).await.expect("replayed");
    assert_eq!(again.certificate_chain, agent.credentials.certificate_chain);

    let thief = KeyPair::generate().expect("a key");
    let refused = enrol(&fixture, &tokens[0], &thief, hello(&fixture, "m2")).await.expect_err("used");
    assert_eq!(kind(&refused), RefusalKind::RefusalUsed);
    fixture.stop().await;
}

#[tokio::test]
async fn refusals_are_typed() {
    let (fixture, tokens) = start(&["web-1", "web-2"]).await;
    let key = KeyPair::generate().expect("a key");
    let refused = enrol(&fixture, "nonsense", &key, hello(&fixture, "m")).await.expect_err("unknown");
    assert_eq!(kind(&refused), RefusalKind::RefusalUnknown);

    let mut late = hello(&fixture, "m");
    late.node_time_ms -= 3_600_000;
    let refused = enrol(&fixture, &tokens[0], &key, late).await.expect_err("skewed");
    let refusal = Refusal::from_status(&refused).expect("typed");
    assert_eq!((refusal.kind(), refusal.skew_seconds), (RefusalKind::RefusalClockSkew, -3600));

    let newer = v1::Hello { protocol_min: 9, protocol_max: 9, ..hello(&fixture, "m") };
    let refused = enrol(&fixture, &tokens[0], &key, newer).await.expect_err("too new");
    assert_eq!(kind(&refused), RefusalKind::RefusalVersion);

    let mut damaged = csr(&key);
    damaged.truncate(40);
    let request =
        v1::EnrolRequest { token: tokens[0].clone(), csr: damaged, hello: Some(hello(&fixture, "m")) };
    let refused = fixture.enrolment_client().enrol(request).await.expect_err("no CSR");
    assert_eq!(kind(&refused), RefusalKind::RefusalBadRequest);

    // None of these used the token up.
    enrol(&fixture, &tokens[0], &key, hello(&fixture, "m")).await.expect("still good");

    fixture.clock.advance(Duration::from_secs(3600));
    let refused = enrol(&fixture, &tokens[1], &key, hello(&fixture, "m")).await.expect_err("too late");
    assert_eq!(kind(&refused), RefusalKind::RefusalExpired);
    fixture.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_keys_at_once_one_wins() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let rivals = (0..16).map(|_| async {
        let key = KeyPair::generate().expect("a key");
        enrol(&fixture, &tokens[0], &key, hello(&fixture, "m")).await
    });
    let outcomes = futures::future::join_all(rivals).await;
    let winners = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(winners, 1);
    for refused in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(kind(&refused), RefusalKind::RefusalUsed);
    }
    fixture.stop().await;
}

#[tokio::test]
async fn a_retired_node_is_told_so() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    fixture.enrolment.retire(&node("web-1")).await.expect("retires");
    let refused = enrol(&fixture, &tokens[0], &agent.key, hello(&fixture, "m1")).await.expect_err("retired");
    assert_eq!(kind(&refused), RefusalKind::RefusalRetired);
    let refused = enrol(&fixture, "", &agent.key, hello(&fixture, "m1")).await.expect_err("retired");
    assert_eq!(kind(&refused), RefusalKind::RefusalRetired);
    fixture.stop().await;
}

#[tokio::test]
async fn an_expired_node_returns_with_its_known_key_a_counted_number_of_times() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let away = Duration::from_secs(30 * 24 * 3600);
    for _ in 0..5 {
        fixture.clock.advance(away);
        let back = enrol(&fixture, "", &agent.key, hello(&fixture, "m1")).await.expect("returns");
        assert_eq!(back.node, "web-1");
        assert!(back.not_after_ms > fixture.clock.now().as_millis());
    }
    fixture.clock.advance(away);
    let refused = enrol(&fixture, "", &agent.key, hello(&fixture, "m1")).await.expect_err("too often");
    assert_eq!(kind(&refused), RefusalKind::RefusalExpired);
    let stranger = KeyPair::generate().expect("a key");
    let refused = enrol(&fixture, "", &stranger, hello(&fixture, "m1")).await.expect_err("unknown");
    assert_eq!(kind(&refused), RefusalKind::RefusalUnknown);
    fixture.stop().await;
}

#[tokio::test]
async fn tokens_and_identities_survive_a_restart() {
    let (fixture, tokens) = start(&["web-1", "web-2"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let operator = std::fs::read(fixture.dir.path().join("operator.json")).expect("reads");
    let dir = fixture.stop().await;
    assert!(!dir.path().join("controller.json").exists(), "a stopped controller answers nowhere");

    let (fixture, _) = start_in(dir, &[], |_| {}).await;
    assert_eq!(std::fs::read(fixture.dir.path().join("operator.json")).expect("reads"), operator);
    agent.session(&fixture).await.expect("the certificate is still good");
    Agent::home(&fixture, &tokens[1], "m2").await;
    let thief = KeyPair::generate().expect("a key");
    let refused = enrol(&fixture, &tokens[0], &thief, hello(&fixture, "m")).await.expect_err("used");
    assert_eq!(kind(&refused), RefusalKind::RefusalUsed);
    fixture.stop().await;
}

#[tokio::test]
async fn an_agent_refuses_a_controller_of_another_authority() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let (other, _) = start(&[]).await;
    let bundle: Vec<CertificateDer<'static>> = other.bundle.clone();
    let channel = crate::harness::channel(fixture.ready.enrol[0], &bundle, None);
    let key = KeyPair::generate().expect("a key");
    let request =
        v1::EnrolRequest { token: tokens[0].clone(), csr: csr(&key), hello: Some(hello(&fixture, "m")) };
    let mut client = v1::enrolment_client::EnrolmentClient::new(channel);
    let answer = tokio::time::timeout(DEADLINE, client.enrol(request)).await.expect("answers");
    assert!(answer.is_err(), "the pin does not match");
    // And the token never left the node.
    enrol(&fixture, &tokens[0], &key, hello(&fixture, "m")).await.expect("still good");
    other.stop().await;
    fixture.stop().await;
}

#[tokio::test]
async fn the_enrolment_listener_serves_nothing_else() {
    let (fixture, _) = start(&[]).await;
    let channel = crate::harness::channel(fixture.ready.enrol[0], &fixture.bundle, None);
    let mut agents = v1::agents_client::AgentsClient::new(channel);
    let refused = agents.renew(v1::RenewRequest { csr: vec![] }).await.expect_err("not served");
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    fixture.stop().await;
}
