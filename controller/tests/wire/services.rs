//! Certificates for the services of nodes: what they say, and which doors they do not open.

use std::{sync::Arc, time::Duration};

use fleet_model::Clock;
use fleet_proto::{
    refusal::RefusalKind,
    tls::IdentitySlot,
    v1::{
        CertificateTask, CertifyRequest, Desired, PingRequest, ServiceCredentials, TaskSpec,
        agents_client::AgentsClient, operator_client::OperatorClient, task_spec::Kind,
    },
};
use rcgen::KeyPair;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::Status;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::harness::{Agent, Fixture, Session, channel, csr, hello, kind, node, start, start_in};

fn certified(names: &[&str]) -> Arc<Desired> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let kind = Some(Kind::Certificate(CertificateTask { names }));
    let tasks = vec![TaskSpec { name: "certificate".to_owned(), kind, ..TaskSpec::default() }];
    Arc::new(Desired { generation: 1, tasks, ..Desired::default() })
}

async fn certify(fixture: &Fixture, agent: &Agent, csr: Vec<u8>) -> Result<ServiceCredentials, Status> {
    let request = CertifyRequest { csr };
    Ok(AgentsClient::new(agent.channel(fixture)).certify(request).await?.into_inner())
}

#[tokio::test]
async fn services_are_certified_for_what_the_controller_knows_them_by() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let key = KeyPair::generate().expect("a key");
    let refused = certify(&fixture, &agent, csr(&key)).await.expect_err("nothing asks for one");
    assert_eq!(kind(&refused), RefusalKind::RefusalForbidden);

    fixture.desk.registry.set_desired(&node("web-1"), certified(&["web-1", "web-1.Reference", "fd00::1"]));
    let mut damaged = csr(&key);
    *damaged.last_mut().expect("not empty") ^= 1;
    let refused = certify(&fixture, &agent, damaged).await.expect_err("not proved");
    assert_eq!(kind(&refused), RefusalKind::RefusalBadRequest);

    let given = certify(&fixture, &agent, csr(&key)).await.expect("certified");
    let [trusted] = given.trust_bundle.as_slice() else { panic!("{} authorities", given.trust_bundle.len()) };
    assert_ne!(trusted, &fixture.bundle[0].to_vec(), "it is not who vouches for agents and operators");
    let (_, leaf) = X509Certificate::from_der(&given.certificate_chain[0]).expect("parses");
    let text = format!("{:?}", leaf.subject_alternative_name().expect("one").expect("there").value);
    for name in ["spiffe://Reference/service/web-1", "\"web-1\"", "web-1.Reference"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    let day = 24 * 3600 * 1000;
    let now = fixture.clock.now().as_millis();
    assert_eq!((given.not_after_ms - now + 1000) / day, 7);
    let renewal = (given.renew_at_ms - now) / day;
    assert_eq!(renewal, 3, "at about half");
    fixture.stop().await;
}

#[tokio::test]
async fn a_service_gets_through_no_door_of_the_controller() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    fixture.desk.registry.set_desired(&node("web-1"), certified(&["web-1"]));
    let key = KeyPair::generate().expect("a key");
    let given = certify(&fixture, &agent, csr(&key)).await.expect("certified");
    let chain = given.certificate_chain.iter().map(|der| der.clone().into()).collect();
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let identity = Arc::new(IdentitySlot::new(chain, der).expect("they belong together"));
    let service = || channel(fixture.ready.session[0], &fixture.bundle, Some(identity.clone()));
    assert!(Session::open(service(), hello(&fixture, "m1")).await.is_err(), "as an agent");
    assert!(OperatorClient::new(service()).ping(PingRequest {}).await.is_err(), "as an operator");
    let again = AgentsClient::new(service()).certify(CertifyRequest { csr: csr(&key) }).await;
    assert!(again.is_err(), "for another certificate");
    agent.session(&fixture).await.expect("its node still does");
    fixture.stop().await;
}

#[tokio::test]
async fn a_retired_node_gets_none() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    fixture.desk.registry.set_desired(&node("web-1"), certified(&["web-1"]));
    let key = KeyPair::generate().expect("a key");
    certify(&fixture, &agent, csr(&key)).await.expect("certified");
    // A connection from before as well.
    let open = agent.channel(&fixture);
    fixture.enrolment.retire(&node("web-1")).await.expect("retires");
    let request = CertifyRequest { csr: csr(&key) };
    AgentsClient::new(open).certify(request).await.expect_err("retired, on an old connection");
    certify(&fixture, &agent, csr(&key)).await.expect_err("retired");
    fixture.stop().await;
}

#[tokio::test]
async fn a_node_that_takes_the_controllers_name_gets_no_certificate_for_it() {
    let (fixture, tokens) = start(&["controller"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    let desired = certified(&["controller", "controller.Reference"]);
    fixture.desk.registry.set_desired(&node("controller"), desired);
    let key = KeyPair::generate().expect("a key");
    assert!(certify(&fixture, &agent, csr(&key)).await.is_err());
    fixture.stop().await;
}

#[tokio::test]
async fn a_node_is_given_only_so_many_and_a_restart_does_not_forget() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    fixture.desk.registry.set_desired(&node("web-1"), certified(&["web-1"]));
    let key = KeyPair::generate().expect("a key");
    for _ in 0..64 {
        certify(&fixture, &agent, csr(&key)).await.expect("certified");
    }
    let dir = fixture.stop().await;
    let (fixture, _) = start_in(dir, &[], |_| {}).await;
    fixture.desk.registry.set_desired(&node("web-1"), certified(&["web-1"]));
    let refused = certify(&fixture, &agent, csr(&key)).await.expect_err("too many");
    assert_eq!(kind(&refused), RefusalKind::RefusalForbidden);
    fixture.stop().await;
}

#[tokio::test]
async fn certificates_of_services_outlive_those_of_their_node() {
    let (fixture, tokens) = start(&["web-1"]).await;
    let agent = Agent::home(&fixture, &tokens[0], "m1").await;
    fixture.desk.registry.set_desired(&node("web-1"), certified(&["web-1"]));
    let key = KeyPair::generate().expect("a key");
    let given = certify(&fixture, &agent, csr(&key)).await.expect("certified");
    let node_life = agent.credentials.not_after_ms - fixture.clock.now().as_millis();
    assert!(given.not_after_ms - fixture.clock.now().as_millis() > node_life * 6);
    assert!(Duration::from_millis(node_life.unsigned_abs()) < Duration::from_secs(2 * 24 * 3600));
    fixture.stop().await;
}
