use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use fleet_model::ManualClock;
use fleet_task::Outcome;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls_pki_types::CertificateSigningRequestDer;

use super::*;
use crate::tasks::tests::Rig;

/// In 2026; certificates of these tests are good from 1975 to 4096, as rcgen makes them.
const START: Timestamp = Timestamp::from_millis(1_780_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn issuer() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("ca")
}

/// An authority that signs for `names`, for seven days by its own account.
fn authority(rig: &Rig, clock: &Arc<ManualClock>, names: &[&str]) {
    let issuer = issuer();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let clock = clock.clone();
    rig.controller.certifies(move |csr| {
        let der = CertificateSigningRequestDer::from(csr);
        let mut request = CertificateSigningRequestParams::from_der(&der).expect("csr");
        request.params.subject_alt_names =
            CertificateParams::new(names.clone()).expect("names").subject_alt_names;
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = clock.now();
        Ok(v1::ServiceCredentials {
            certificate_chain: vec![request.signed_by(&issuer).expect("sign").der().to_vec()],
            trust_bundle: vec![issuer.der().to_vec()],
            not_after_ms: now.after(7 * DAY).as_millis(),
            renew_at_ms: now.after(DAY * 7 / 2).as_millis(),
        })
    });
}

/// A node without key and certificate.
pub(in crate::tasks) fn made() -> (Rig, Arc<dyn Task>) {
    let bench = Bench::new();
    let task = bench.task(&NAMES);
    (bench.rig, Arc::new(task))
}

struct Bench {
    rig: Rig,
    clock: Arc<ManualClock>,
}

const NAMES: [&str; 2] = ["EU7node1", "2001:db8::1"];

impl Bench {
    fn new() -> Self {
        let bench = Self { rig: Rig::new(&[]), clock: Arc::new(ManualClock::at(START)) };
        fs::create_dir_all(bench.rig.path("/var/lib/fleet-agent")).expect("folder");
        authority(&bench.rig, &bench.clock, &NAMES);
        bench
    }

    async fn made() -> Self {
        let bench = Self::new();
        bench.rig.changed(&bench.task(&NAMES)).await;
        bench
    }

    fn task(&self, names: &[&str]) -> Certificate {
        let names = names.iter().map(ToString::to_string).collect();
        Certificate { clock: self.clock.clone(), ..Certificate::new(TaskId::new("certificate"), names) }
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.rig.path(path)).expect("meta").permissions().mode() & 0o7777
    }
}

#[tokio::test]
async fn made_once_and_private() {
    let bench = Bench::made().await;
    for path in [KEY, CERTIFICATE, CA] {
        assert_eq!(bench.mode(path), 0o600, "{path}");
    }
    assert!(bench.rig.text(KEY).starts_with("-----BEGIN PRIVATE KEY-----"));
    let before = bench.rig.text(CERTIFICATE);
    bench.rig.unchanged(&bench.task(&NAMES)).await;
    bench.rig.unchanged(&bench.task(&[NAMES[1], NAMES[0]])).await;
    assert_eq!(bench.rig.text(CERTIFICATE), before);
}

#[tokio::test]
async fn damage_is_repaired_and_only_what_is_damaged_is_touched() {
    let check = async |damage: fn(&Bench), expected: &str, same_key: bool, same_certificate: bool| {
        let bench = Bench::made().await;
        let (key, certificate) = (bench.rig.text(KEY), bench.rig.text(CERTIFICATE));
        damage(&bench);
        let changes = bench.rig.changed(&bench.task(&NAMES)).await;
        assert!(changes.iter().any(|line| line.contains(expected)), "{expected}: {changes:?}");
        assert_eq!(bench.rig.text(KEY) == key, same_key, "{expected}");
        assert_eq!(bench.rig.text(CERTIFICATE) == certificate, same_certificate, "{expected}");
        bench.rig.unchanged(&bench.task(&NAMES)).await;
    };
    check(|b| fs::remove_file(b.rig.path(KEY)).expect("rm"), "key.pem is missing", false, false).await;
    check(|b| fs::write(b.rig.path(KEY), "x").expect("write"), "key.pem is damaged", false, false).await;
    check(
        |b| fs::write(b.rig.path(KEY), KeyPair::generate().expect("key").serialize_pem()).expect("write"),
        "is not for the key beside it",
        false,
        false,
    )
    .await;
    check(
        |b| fs::set_permissions(b.rig.path(KEY), fs::Permissions::from_mode(0o644)).expect("chmod"),
        "can be read by others",
        true,
        true,
    )
    .await;
    check(|b| fs::remove_file(b.rig.path(CERTIFICATE)).expect("rm"), "cert.pem is missing", true, false)
        .await;
    check(|b| fs::write(b.rig.path(CERTIFICATE), "x").expect("w"), "cert.pem is damaged", true, false).await;
    check(|b| fs::write(b.rig.path(CA), "").expect("write"), "ca.pem is damaged", true, false).await;
    check(
        |b| {
            let text = format!("{}\n", b.rig.text(CA));
            fs::write(b.rig.path(CA), text).expect("write");
        },
        "is not the one the controller gave",
        true,
        false,
    )
    .await;
    check(|b| fs::remove_file(b.rig.path("/journal.json")).expect("rm"), "the controller gave", true, false)
        .await;
}

#[tokio::test]
async fn other_names_are_another_certificate_for_the_same_key() {
    let bench = Bench::made().await;
    let key = bench.rig.text(KEY);
    let names = ["EU7node1", "2001:db8::2"];
    authority(&bench.rig, &bench.clock, &names);
    let changes = bench.rig.changed(&bench.task(&names)).await;
    assert!(changes.contains(&"the certificate is not for `2001:db8::2`".to_owned()), "{changes:?}");
    assert_eq!(bench.rig.text(KEY), key);
    // Fewer names, too: the old certificate would still say it is somebody it is no more.
    let changes = bench.rig.changed(&bench.task(&names[..1])).await;
    assert_eq!(changes, ["the certificate was made for EU7node1, 2001:db8::2, to be for EU7node1"]);
}

#[tokio::test]
async fn renewed_in_time_and_without_a_session_not_in_the_way() {
    let bench = Bench::made().await;
    let task = bench.task(&NAMES);
    let before = bench.rig.text(CERTIFICATE);
    bench.rig.controller.away(true);
    bench.clock.advance(4 * DAY);
    bench.rig.unchanged(&task).await;
    bench.clock.advance(2 * DAY);
    let report = bench.rig.run(Arc::new(task.clone())).await;
    assert_eq!(report.outcome, Outcome::Unchanged);
    assert_eq!(report.warnings, ["the certificate runs out in 1 d 0 h, and there is no session"]);
    bench.rig.controller.away(false);
    let changes = bench.rig.changed(&task).await;
    assert!(changes[0].starts_with("the certificate is to be renewed since"), "{changes:?}");
    assert_ne!(bench.rig.text(CERTIFICATE), before);
    bench.rig.unchanged(&task).await;
}

#[tokio::test]
async fn a_renewal_that_is_refused_is_a_warning_until_it_runs_out() {
    let bench = Bench::made().await;
    let task = bench.task(&NAMES);
    bench.rig.controller.certifies(|_| {
        Err(TaskError::Refused { why: "the authority is sealed".into(), next: "unseal it".into() })
    });
    bench.clock.advance(4 * DAY);
    for _ in 0..2 {
        let report = bench.rig.run(Arc::new(task.clone())).await;
        assert!(report.is_converged(), "{report:?}");
        assert!(report.warnings[0].contains("the authority is sealed; next: unseal it"), "{report:?}");
    }
    bench.clock.advance(3 * DAY);
    assert!(bench.rig.failed(&task).await.contains("the authority is sealed"));
    authority(&bench.rig, &bench.clock, &NAMES);
    bench.rig.changed(&task).await;
}

#[tokio::test]
async fn without_a_session_and_without_a_certificate_it_waits() {
    let bench = Bench::new();
    bench.rig.controller.away(true);
    assert_eq!(bench.rig.waits(&bench.task(&NAMES)).await, "a session with the controller");
    let key = bench.rig.text(KEY);
    bench.rig.controller.away(false);
    bench.rig.changed(&bench.task(&NAMES)).await;
    assert_eq!(bench.rig.text(KEY), key, "made once");
}

#[tokio::test]
async fn an_answer_that_does_not_work_is_not_put_in_place() {
    let bench = Bench::made().await;
    let before = bench.rig.text(CERTIFICATE);
    let names = ["EU7node1", "n9"];
    // Still signs for the old names.
    let why = bench.rig.failed(&bench.task(&names)).await;
    assert!(why.contains("cannot be used: the certificate is not for `n9`"), "{why}");
    bench.rig.controller.certifies(|_| Ok(v1::ServiceCredentials::default()));
    let why = bench.rig.failed(&bench.task(&names)).await;
    assert!(why.contains("is damaged"), "{why}");
    assert_eq!(bench.rig.text(CERTIFICATE), before);
}

#[tokio::test]
async fn nonsense_is_refused() {
    let bench = Bench::new();
    for (names, expected) in [(&[][..], "without a name"), (&["a b"], "`a b` is neither")] {
        let why = bench.rig.failed(&bench.task(names)).await;
        assert!(why.contains(expected), "{why}");
    }
    assert!(!bench.rig.path(KEY).exists());
}

#[test]
fn what_ran_out_is_told_from_what_never_was_good() {
    let (issuer, other) = (issuer(), issuer());
    let mut leaf = CertificateParams::new(vec!["EU7node1".to_owned()]).expect("names");
    (leaf.not_before, leaf.not_after) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2026, 1, 8));
    let leaf = leaf.signed_by(&KeyPair::generate().expect("key"), &issuer).expect("sign").pem();
    let check = |certificate: &str, trust: &str, secs: i64, expected: bool| {
        let now = Timestamp::from_millis(secs * 1000);
        assert_eq!(ran_out(certificate.as_bytes(), trust.as_bytes(), now), expected, "{secs}");
    };
    let (fourth, ninth) = (1_767_484_800, 1_767_916_800);
    check(&leaf, &issuer.pem(), fourth, false);
    check(&leaf, &issuer.pem(), ninth, true);
    check(&leaf, &other.pem(), fourth, false);
    for (certificate, trust) in [("", ""), ("x", "y"), (leaf.as_str(), "")] {
        check(certificate, trust, ninth, false);
    }
}
