use std::sync::Arc;

use fleet_model::SystemClock;
use fleet_store::MemoryStore;
use rand::{SeedableRng, rngs::StdRng};
use rcgen::CertificateParams;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{PrivatePkcs8KeyDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;

async fn ca() -> (Ca, Records, Sealing, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let sealing = Sealing::open(dir.path()).expect("a key");
    let records = Records::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
    let fleet = "Reference".parse().expect("a name");
    let ca = Ca::open(&fleet, &records, &sealing, NOW).await.expect("an authority");
    (ca, records, sealing, dir)
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_123);

fn csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    // A name the node would like to have, which must not get into the certificate.
    params.subject_alt_names = vec![uri("spiffe://Reference/operator/root".to_owned()).expect("a URI")];
    params.serialize_request(key).expect("a request").der().to_vec()
}

#[tokio::test]
async fn the_authority_is_made_once_and_its_key_is_sealed() {
    let (first, records, sealing, _dir) = ca().await;
    let again = Ca::open(first.fleet(), &records, &sealing, NOW).await.expect("the same");
    assert_eq!(first.bundle(), again.bundle());
    let held = records.store().get(&keys::authority()).await.expect("reads").expect("there");
    let record: AuthorityRecord = serde_json::from_slice(&held.value).expect("a record");
    let sealed = STANDARD.decode(record.own.sealed_key).expect("base64");
    let opened = sealing.open_sealed(PURPOSE, &sealed).expect("opens");
    assert!(PrivatePkcs8KeyDer::from(opened.clone()).secret_pkcs8_der().len() > 100);
    assert!(!sealed.windows(16).any(|window| window == &opened[40..56]));
}

#[tokio::test]
async fn only_the_key_is_taken_from_a_request() {
    let (ca, ..) = ca().await;
    let key = KeyPair::generate().expect("a key");
    let requested = RequestedKey::from_csr(&csr(&key)).expect("a request");
    let node = "web-1".parse().expect("a name");
    let leaf = ca.issue_node(&node, &requested, NOW).expect("issued");
    let (_, parsed) = X509Certificate::from_der(&leaf.der).expect("parses");
    let sans = parsed.subject_alternative_name().expect("one").expect("there").value;
    assert!(
        matches!(&sans.general_names[..], [GeneralName::URI("spiffe://Reference/node/web-1")]),
        "{sans:?}"
    );
    assert_eq!(Serial::from_slice(parsed.raw_serial()), Some(leaf.serial));
    assert_eq!(Serial::from_hex(&leaf.serial.to_string()), Some(leaf.serial));
    let usage = parsed.extended_key_usage().expect("one").expect("there").value;
    assert!(usage.client_auth && !usage.server_auth);
    assert!(!parsed.is_ca());
    assert_eq!(parsed.validity().not_after.timestamp(), leaf.not_after.as_secs());
    assert_eq!(parsed.validity().not_before.timestamp(), NOW.as_secs() - 300);
    assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
}

#[tokio::test]
async fn services_get_their_names_and_never_the_controllers() {
    let (ca, ..) = ca().await;
    let key = KeyPair::generate().expect("a key");
    let requested = RequestedKey::from_csr(&csr(&key)).expect("a request");
    let node = "Web-1".parse().expect("a name");
    let names = ["Web-1", "Web-1.Reference", "web-1", "10.0.0.7", "fd00::7"].map(str::to_owned);
    let ServiceLeaf { leaf, .. } = ca.issue_service(&node, &names, &requested, NOW).expect("issued");
    let (_, parsed) = X509Certificate::from_der(&leaf.der).expect("parses");
    let sans = &parsed.subject_alternative_name().expect("one").expect("there").value.general_names;
    let texts: Vec<String> = sans
        .iter()
        .map(|name| match name {
            GeneralName::URI(uri) => (*uri).to_owned(),
            GeneralName::DNSName(dns) => (*dns).to_owned(),
            GeneralName::IPAddress(bytes) => format!("{} bytes", bytes.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    let uri = "spiffe://Reference/service/Web-1";
    assert_eq!(texts, [uri, "Web-1", "Web-1.Reference", "web-1", "4 bytes", "16 bytes"]);
    let usage = parsed.extended_key_usage().expect("one").expect("there").value;
    assert!(usage.client_auth && usage.server_auth);
    assert_eq!(leaf.not_after.since(NOW).as_secs().div_ceil(24 * 3600), 7);
    for name in ["controller.reference", "Controller.Reference", "", "a..b", "*.x", "a b", "-é"] {
        let refused = ca.issue_service(&node, &[name.to_owned()], &requested, NOW);
        assert!(matches!(refused, Err(CaError::Name(_))), "{name}");
    }
}

#[tokio::test]
async fn the_authority_may_sign_leaves_and_nothing_below_them() {
    let (ca, ..) = ca().await;
    let bundle = ca.bundle();
    let (_, parsed) = X509Certificate::from_der(&bundle[0]).expect("parses");
    let constraints = parsed.basic_constraints().expect("one").expect("there").value;
    assert!(constraints.ca);
    assert_eq!(constraints.path_len_constraint, Some(0));
    let usage = parsed.key_usage().expect("one").expect("there").value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
}

#[test]
fn a_request_must_be_signed_by_its_own_key() {
    let key = KeyPair::generate().expect("a key");
    let mut damaged = csr(&key);
    *damaged.last_mut().expect("not empty") ^= 1;
    assert!(RequestedKey::from_csr(&damaged).is_err());
    assert!(RequestedKey::from_csr(b"nonsense").is_err());
    let large = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    assert!(RequestedKey::from_csr(&csr(&large)).is_err(), "P-384 is not among the keys we take");
}

#[test]
fn renewals_are_spread() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut check = |life, parts: Range<f64>, wanted: Range<u64>| {
        let mut at = || renew_at(NOW, NOW.after(life), parts.clone(), &mut rng).since(NOW).as_secs() / 3600;
        let hours: Vec<u64> = (0..200).map(|_| at()).collect();
        assert!(hours.iter().all(|hour| wanted.contains(hour)), "{hours:?}");
        assert!(hours.iter().min() < hours.iter().max());
    };
    check(NODE_LIFE, NODE_RENEWAL, 14..18);
    check(SERVICE_LIFE, SERVICE_RENEWAL, 75..93);
}

#[test]
fn a_weekend_without_the_controller_leaves_services_their_certificates() {
    let weekend = Duration::from_secs((6 + 48 + 9) * 3600);
    let left = SERVICE_LIFE.mul_f64(1.0 - SERVICE_RENEWAL.end);
    assert!(left > weekend, "{left:?} are left at the least");
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A fleet as the controllers of before left it: with one authority.
async fn old_fleet(since: Timestamp) -> Ca {
    let (ca, records, sealing, _dir) = ca().await;
    let key = keys::authority();
    let held = records.get::<serde_json::Value>(&key).await.expect("reads").expect("there");
    let mut record = held.value;
    record.as_object_mut().expect("a record").remove("services").expect("there");
    records.put(&key, &record, Expected::Any).await.expect("writes");
    let opened = Ca::open(ca.fleet(), &records, &sealing, since).await.expect("opens");
    assert_eq!(opened.bundle(), ca.bundle(), "agents and operators see no difference");
    let again = Ca::open(ca.fleet(), &records, &sealing, since.after(DAY)).await.expect("opens");
    let (made, kept) = (&opened.services, &again.services);
    assert_eq!(made.authority.certificate, kept.authority.certificate, "made once");
    assert_eq!((made.since, kept.since), (Some(since), Some(since)));
    opened
}

fn requested() -> RequestedKey {
    RequestedKey::new(&KeyPair::generate().expect("a key")).expect("one we take")
}

/// Whether a server that trusts these lets in who shows that, at this moment.
fn lets_in(trust: &[CertificateDer<'static>], leaf: &Leaf, now: Timestamp) -> bool {
    let roots = Arc::new(fleet_proto::tls::roots(trust).expect("authorities"));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, fleet_proto::tls::provider());
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().unsigned_abs()));
    verifier.build().expect("a verifier").verify_client_cert(&leaf.der, &[], at).is_ok()
}

#[tokio::test]
async fn only_services_get_in_where_services_are_trusted() {
    let (ca, ..) = ca().await;
    let node = "web-1".parse().expect("a name");
    let key = requested();
    let ServiceLeaf { leaf, trust } = ca.issue_service(&node, &[], &key, NOW).expect("issued");
    assert!(lets_in(&trust, &leaf, NOW));
    let agent = ca.issue_node(&node, &key, NOW).expect("issued");
    let (operator, _) = ca.issue_operator("root", NOW).expect("issued");
    for other in [&agent, &operator] {
        assert!(lets_in(&ca.bundle(), other, NOW) && !lets_in(&trust, other, NOW));
    }
    assert!(!lets_in(&ca.bundle(), &leaf, NOW), "nor do services get in elsewhere");
}

#[tokio::test]
async fn whoever_is_good_at_the_same_time_trusts_each_other_all_through_the_change() {
    let ca = old_fleet(NOW).await;
    let (node, key) = ("web-1".parse().expect("a name"), requested());
    let before = |at: Timestamp| {
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let sans = vec![ca.id("service", "web-1").expect("a name")];
        let leaf = ca.own.issue(&key.key, sans, &usages, SERVICE_LIFE, at).expect("issued");
        ServiceLeaf { leaf, trust: ca.bundle() }
    };
    // Controllers of before serve until a day after the first of now.
    let old = (0..16).map(|half| NOW.before(DAY * 7).after(DAY / 2 * half)).map(|at| (at, before(at)));
    let new = (0..48).map(|half| NOW.after(DAY / 2 * half));
    let new = new.map(|at| (at, ca.issue_service(&node, &[], &key, at).expect("issued")));
    let all: Vec<_> = old.chain(new).collect();
    let mut met = 0;
    for (one_at, one) in &all {
        for (at, other) in all.iter().filter(|(at, _)| at >= one_at && *at < one.leaf.not_after) {
            assert!(lets_in(&one.trust, &other.leaf, *at), "{one_at} lets {at} in");
            assert!(lets_in(&other.trust, &one.leaf, *at), "{at} lets {one_at} in");
            met += 1;
        }
    }
    assert!(met > 500, "{met}");
    let agent = ca.issue_node(&node, &key, NOW).expect("issued");
    let (_, last) = all.last().expect("some");
    assert!(!lets_in(&last.trust, &agent, NOW), "in the end agents are kept out");
    assert!(lets_in(&all[20].1.trust, &agent, NOW), "which they were not before");
}

#[tokio::test]
async fn two_controllers_that_come_at_once_make_one_authority_each_kind() {
    let (ca, records, sealing, _dir) = ca().await;
    let fleet: FleetName = "Another".parse().expect("a name");
    records.delete(&keys::authority()).await.expect("deletes");
    let open = || Ca::open(&fleet, &records, &sealing, NOW);
    let (one, two) = tokio::join!(open(), open());
    let (one, two) = (one.expect("opens"), two.expect("opens"));
    assert_eq!(one.bundle(), two.bundle());
    assert_eq!(one.services.authority.certificate, two.services.authority.certificate);
    assert_ne!(one.bundle(), ca.bundle());
}
