//! Who may join the cluster, tried on the very wire its servers meet on.

use std::{
    fs,
    io::{self, Read as _},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use fleet_tests::{Login, Sandbox, Tunnel};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value;

use crate::nodes::{FLEET, NODES, Ways, node};

/// The node from which it is tried, and the one whose server is asked.
const FROM: &str = "EU6rethink01";
const TO: &str = "EU8rethink01";
/// How long a server may take to greet, or to refuse.
const ANSWER: Duration = Duration::from_secs(60);

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// From within the private network: a server greets who shows a certificate of this fleet's services, and nobody else,
/// be it of the fleet's own.
pub fn is_kept_out_of_the_cluster(sandbox: &Sandbox, ways: &Ways, status: &Value) {
    let login = ways.login(FROM);
    let address = node(status, TO)["ipv6"].as_str().expect("ipv6");
    let server = login.tunnel_to(&format!("[{address}]:29015"));
    let mut fleet = RootCertStore::empty();
    let read = |name: &str| file(&login, &format!("service/{name}.pem"));
    for certificate in certificates(&read("ca")) {
        fleet.add(certificate).expect("an authority");
    }
    for (whose, identity, greeted) in [
        ("none", None, false),
        ("a self-made one", Some(self_made()), false),
        ("the agent's", Some(agent(&login)), false),
        ("the operator's", Some(operator(sandbox)), false),
        ("the services' own", Some(identity(&read("cert"), &read("key"))), true),
    ] {
        match greeting(&server, &fleet, identity) {
            Ok(heard) => assert!(greeted == (heard > 0), "{TO} greeted {whose} with {heard} bytes"),
            Err(why) if greeted => panic!("{TO} refused {whose}: {why}"),
            // Silence is no refusal.
            Err(why) => assert_ne!(why.kind(), io::ErrorKind::WouldBlock, "{TO} says nothing to {whose}"),
        }
    }
}

/// The operator's own way in.
pub fn while_the_operator_gets_in_by_name(sandbox: &Sandbox) {
    for name in NODES {
        sandbox.run(&["ssh", name, "--", "true"]).expect(0);
    }
    sandbox.run(&["ssh", FROM, "--", "exit 7"]).expect(7);
}

/// Shakes hands, and hears how much the server says first.
fn greeting(server: &Tunnel, fleet: &RootCertStore, identity: Option<Identity>) -> io::Result<usize> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(fleet.clone());
    let config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a pair"),
        None => builder.with_no_client_auth(),
    };
    // That the server, too, is of this fleet is checked on the way.
    let name = ServerName::try_from(TO).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let plain = TcpStream::connect(server.address())?;
    plain.set_read_timeout(Some(ANSWER))?;
    StreamOwned::new(connection, plain).read(&mut [0; 64])
}

/// What anybody can make: all the right words, and nobody's signature.
fn self_made() -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![FROM.to_owned()]).expect("a name");
    let uri = format!("spiffe://{FLEET}/service/{FROM}").try_into().expect("a URI");
    params.subject_alt_names.push(rcgen::SanType::URI(uri));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).expect("signed").der().clone();
    (vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8"))
}

/// What the node's agent shows the controller.
fn agent(login: &Login) -> Identity {
    let held: Value = serde_json::from_slice(&file(login, "credentials.json")).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let leaf = text(&held["current"]["certificate_chain"][0]);
    let leaf = format!("-----BEGIN CERTIFICATE-----\n{leaf}\n-----END CERTIFICATE-----\n");
    identity(leaf.as_bytes(), &file(login, &text(&held["current"]["key_file"])))
}

/// What the operator shows the controller.
fn operator(sandbox: &Sandbox) -> Identity {
    let file = sandbox.home().join("fleets").join(FLEET).join("operator.json");
    let held: Value = serde_json::from_slice(&fs::read(file).expect("there")).expect("JSON");
    let text = |name: &str| held[name].as_str().expect("text").to_owned();
    identity(text("cert").as_bytes(), text("key").as_bytes())
}

fn identity(certificate: &[u8], key: &[u8]) -> Identity {
    (certificates(certificate), PrivateKeyDer::from_pem_slice(key).expect("a key"))
}

/// One of the files of the agent, which root alone may read.
fn file(login: &Login, name: &str) -> Vec<u8> {
    let read = login.run(&format!("sudo -n cat /var/lib/fleet-agent/{name}"));
    assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
    read.stdout
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().expect("certificates")
}
