//! Enrolment over a store that fails or hangs when told to.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fleet_model::{Clock, ManualClock, NodeName, SystemClock};
use fleet_proto::{
    refusal::RefusalKind,
    v1::{self, enrolment_server::Enrolment as _, task_spec::Kind},
};
use fleet_store::{Expected, Key, MemoryStore, Store, StoreError, Versioned, Watch};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::{
    ca::{Ca, Serial},
    revoke::{Revoked, Why},
    service::{EnrolError, Enrolment, EnrolmentService},
    sha256_hex,
    token::{self, TOKEN_LIFE},
};
use crate::{
    permit::inbox::Inbox,
    records::{EnrolmentRecord, Records, keys},
    sealing::Sealing,
    session::{dispatch::Dispatch, registry::Registry, stream::Desk},
};

/// What happens to writes of enrolments.
#[derive(Clone, Debug, Default, PartialEq)]
enum Trouble {
    #[default]
    None,
    Fail,
    Hang,
}

#[derive(Debug)]
struct Renewal {
    enrolment: Arc<Enrolment>,
    node: NodeName,
    serial: Serial,
    csr: Vec<u8>,
}

#[derive(Debug)]
struct Scripted {
    inner: MemoryStore,
    trouble: Mutex<Trouble>,
    reached: Notify,
    go_on: Notify,
    /// A renewal that comes in just before the enrolment is deleted.
    meanwhile: Mutex<Option<Renewal>>,
}

#[async_trait]
impl Store for Scripted {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        self.inner.get(key).await
    }
    async fn put(&self, key: &Key, value: Bytes, expected: Expected) -> Result<u64, StoreError> {
        let trouble = self.trouble.lock().expect("no panic").clone();
        if key.as_str().starts_with("enrolment/") {
            match trouble {
                Trouble::None => {}
                Trouble::Fail => return Err(StoreError::Closed),
                Trouble::Hang => {
                    self.reached.notify_one();
                    self.go_on.notified().await;
                }
            }
        }
        self.inner.put(key, value, expected).await
    }
    async fn delete(&self, key: &Key, expected: Expected) -> Result<(), StoreError> {
        let meanwhile =
            self.meanwhile.lock().expect("no panic").take_if(|_| key.as_str().starts_with("enrolment/"));
        if let Some(Renewal { enrolment, node, serial, csr }) = meanwhile {
            enrolment.renew(&node, &serial, &csr).await.expect("renews");
        }
        self.inner.delete(key, expected).await
    }
    async fn list(&self, prefix: &Key) -> Result<Vec<(Key, Versioned)>, StoreError> {
        self.inner.list(prefix).await
    }
    async fn watch(&self, prefix: &Key) -> Result<Watch, StoreError> {
        self.inner.watch(prefix).await
    }
    fn clock(&self) -> &dyn Clock {
        self.inner.clock()
    }
}

struct Fixture {
    store: Arc<Scripted>,
    records: Records,
    revoked: Revoked,
    clock: Arc<ManualClock>,
    desk: Arc<Desk>,
    enrolment: Arc<Enrolment>,
    node: NodeName,
    _dir: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let store = Arc::new(Scripted {
        inner: MemoryStore::new(clock.clone()),
        trouble: Mutex::default(),
        reached: Notify::new(),
        go_on: Notify::new(),
        meanwhile: Mutex::default(),
    });
    let records = Records::new(store.clone());
    let sealing = Sealing::open(dir.path()).expect("a key");
    let fleet = "Reference".parse().expect("a name");
    let ca = Arc::new(Ca::open(&fleet, &records, &sealing, clock.now()).await.expect("an authority"));
    let (registry, dispatch, permits) = (Registry::new(clock.clone()), Dispatch::default(), Inbox::default());
    let desk =
        Arc::new(Desk { registry, dispatch, permits, rollouts: Default::default(), clock: clock.clone() });
    let revoked = Revoked::default();
    let enrolment = Arc::new(Enrolment::new(
        records.clone(),
        ca,
        revoked.clone(),
        crate::tls::peer::Connections::default(),
        desk.clone(),
        TaskTracker::new(),
    ));
    let node = "web-1".parse().expect("a name");
    Fixture { store, records, revoked, clock, desk, enrolment, node, _dir: dir }
}

impl Fixture {
    fn trouble(&self, trouble: Trouble) {
        *self.store.trouble.lock().expect("no panic") = trouble;
    }

    async fn token(&self) -> String {
        let token = token::issue(&self.records, &self.node, self.clock.now(), TOKEN_LIFE).await;
        token.expect("issued").text.reveal().to_owned()
    }

    fn request(&self, token: &str, key: &KeyPair) -> v1::EnrolRequest {
        let hello = v1::Hello {
            protocol_min: 1,
            protocol_max: 1,
            node_time_ms: self.clock.now().as_millis(),
            agent_version: fleet_proto::VERSION.to_owned(),
            ..v1::Hello::default()
        };
        v1::EnrolRequest { token: token.to_owned(), csr: csr(key), hello: Some(hello) }
    }

    async fn enrol(&self, token: &str, key: &KeyPair) -> Result<v1::Credentials, EnrolError> {
        self.enrolment.enrol(&self.request(token, key)).await
    }

    async fn record(&self) -> Option<EnrolmentRecord> {
        let held = self.records.get(&keys::enrolment(&self.node)).await.expect("reads");
        held.map(|held| held.value)
    }

    async fn certificates(&self) -> Vec<Serial> {
        let record = self.record().await.expect("enrolled");
        record.certificates.iter().map(|issued| Serial::from_hex(&issued.serial).expect("hex")).collect()
    }

    /// The refusal an enrolment meets.
    async fn refusal(&self, token: &str, key: &KeyPair) -> RefusalKind {
        match self.enrol(token, key).await {
            Err(EnrolError::Refused { refusal, .. }) => refusal.kind(),
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).expect("a request").der().to_vec()
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

#[tokio::test]
async fn a_used_token_does_not_bring_an_old_key_back() {
    let fixture = fixture().await;
    let (old, new) = (key(), key());
    let (first, second) = (fixture.token().await, fixture.token().await);
    fixture.enrol(&first, &old).await.expect("enrols");
    fixture.enrol(&first, &old).await.expect("its answer was lost");
    fixture.clock.advance(Duration::from_secs(60));
    fixture.enrol(&second, &new).await.expect("another machine takes over");
    assert_eq!(fixture.refusal(&first, &old).await, RefusalKind::RefusalUsed);
    let record = fixture.record().await.expect("enrolled");
    assert_eq!(record.key, sha256_hex(&new.subject_public_key_info()));

    // Nor one that was renewed away.
    let renewed = key();
    let serial = fixture.certificates().await[0];
    fixture.enrolment.renew(&fixture.node, &serial, &csr(&renewed)).await.expect("renews");
    assert_eq!(fixture.refusal(&second, &new).await, RefusalKind::RefusalUsed);
}

#[tokio::test]
async fn old_certificates_are_withdrawn_before_a_new_key_is_entered() {
    let fixture = fixture().await;
    let (old, new) = (key(), key());
    let (first, second) = (fixture.token().await, fixture.token().await);
    fixture.enrol(&first, &old).await.expect("enrols");
    let certificates = fixture.certificates().await;
    fixture.clock.advance(Duration::from_secs(60));
    fixture.trouble(Trouble::Fail);
    fixture.enrol(&second, &new).await.expect_err("the store failed");
    assert!(certificates.iter().all(|serial| fixture.revoked.contains(serial)), "withdrawn already");
    let hash = sha256_hex(&new.subject_public_key_info());
    let known = fixture.records.get::<NodeName>(&keys::known_key(&hash)).await.expect("reads");
    assert_eq!(known.map(|held| held.value), Some(fixture.node.clone()), "known already");
    fixture.trouble(Trouble::None);
    fixture.enrol(&second, &new).await.expect("asks again, and is entered");
    assert_eq!(fixture.record().await.expect("enrolled").key, hash);
}

#[tokio::test]
async fn a_request_that_hangs_up_cuts_nothing() {
    let fixture = fixture().await;
    let service = EnrolmentService::new(fixture.enrolment.clone(), Arc::default());
    let (token, key) = (fixture.token().await, key());
    fixture.trouble(Trouble::Hang);
    {
        let asking = service.enrol(tonic::Request::new(fixture.request(&token, &key)));
        // Cancel safe or not: dropping it half-way is the point.
        tokio::select! {
            _ = asking => panic!("the store hangs"),
            () = fixture.store.reached.notified() => {}
        }
    }
    fixture.store.go_on.notify_one();
    let entered = async {
        while fixture.record().await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), entered).await.expect("entered all the same");
}

#[tokio::test]
async fn retiring_withdraws_all_there_is_and_frees_the_name() {
    let fixture = fixture().await;
    let (old, new) = (key(), key());
    let token = fixture.token().await;
    fixture.enrol(&token, &old).await.expect("enrols");
    let kind = Some(Kind::Certificate(v1::CertificateTask { names: vec!["web-1".to_owned()] }));
    let tasks = vec![v1::TaskSpec { kind, ..v1::TaskSpec::default() }];
    let desired = Arc::new(v1::Desired { generation: 1, tasks, ..v1::Desired::default() });
    fixture.desk.registry.set_desired(&fixture.node, desired);
    let serial = fixture.certificates().await[0];
    fixture.enrolment.certify(&fixture.node, &serial, &csr(&key())).await.expect("certified");
    let service = Serial::from_hex(&fixture.record().await.expect("enrolled").services[0].serial);

    fixture.enrolment.retire(&fixture.node).await.expect("retires");
    fixture.enrolment.retire(&fixture.node).await.expect("again is fine");
    let why = Some(Why::Retired(fixture.node.clone()));
    assert_eq!(fixture.revoked.why(&serial), why);
    assert_eq!(fixture.revoked.why(&service.expect("hex")), why, "its services\u{2019} too");
    assert!(fixture.enrolment.certify(&fixture.node, &serial, &csr(&old)).await.is_err());
    let fresh = fixture.token().await;
    for token in [&token, &fresh, &String::new()] {
        assert_eq!(fixture.refusal(token, &old).await, RefusalKind::RefusalRetired, "for ever");
    }
    fixture.enrol(&fresh, &new).await.expect("the name is free, and the token was not used up");
}

#[tokio::test]
async fn renewing_again_and_again_leaves_no_more_than_the_newest() {
    let fixture = fixture().await;
    let mut own = key();
    fixture.enrol(&fixture.token().await, &own).await.expect("enrols");
    let mut serials = fixture.certificates().await;
    let mut refused = 0;
    for _ in 0..40 {
        let next = key();
        let newest = *serials.last().expect("one");
        match fixture.enrolment.renew(&fixture.node, &newest, &csr(&next)).await {
            Ok(_) => {
                own = next;
                serials.push(*fixture.certificates().await.last().expect("one"));
            }
            Err(EnrolError::Contended) => {
                refused += 1;
                fixture.clock.advance(Duration::from_secs(61));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 10, "beyond the limit it is a matter of minutes: {refused}");
    let held = fixture.certificates().await;
    assert_eq!(held, serials[serials.len() - 8..]);
    for serial in &serials {
        assert_eq!(fixture.revoked.contains(serial), !held.contains(serial));
    }
    let hash = sha256_hex(&own.subject_public_key_info());
    let known = fixture.records.store().list(&Key::new("key").expect("a key")).await.expect("lists");
    assert_eq!(known.len(), 1, "{known:?}");
    assert_eq!(known[0].0, keys::known_key(&hash));
    // A day later all of them have run out, and are forgotten when the next is withdrawn.
    fixture.clock.advance(Duration::from_secs(25 * 3600));
    fixture.revoked.prune(&fixture.records, fixture.clock.now()).await.expect("prunes");
    assert!(!serials.iter().any(|serial| fixture.revoked.contains(serial)));
    let left = fixture.records.store().list(&keys::revocations()).await.expect("lists");
    assert_eq!(left.len(), 0);
}

#[tokio::test]
async fn only_what_ran_out_counts_as_a_return() {
    let fixture = fixture().await;
    let own = key();
    fixture.enrol(&fixture.token().await, &own).await.expect("enrols");
    for _ in 0..20 {
        fixture.enrol("", &own).await.expect("its answer was lost");
    }
    let record = fixture.record().await.expect("enrolled");
    assert_eq!((record.returns, record.certificates.len()), (0, 1));
    fixture.clock.advance(Duration::from_secs(25 * 3600));
    fixture.enrol("", &own).await.expect("returns");
    assert_eq!(fixture.record().await.expect("enrolled").returns, 1);
}

#[tokio::test]
async fn what_is_renewed_while_its_node_is_removed_is_withdrawn_too() {
    let fixture = fixture().await;
    let own = key();
    fixture.enrol(&fixture.token().await, &own).await.expect("enrols");
    let serial = fixture.certificates().await[0];
    let (enrolment, node) = (fixture.enrolment.clone(), fixture.node.clone());
    let renewal = Renewal { enrolment, node, serial, csr: csr(&key()) };
    *fixture.store.meanwhile.lock().expect("no panic") = Some(renewal);
    fixture.enrolment.remove(&fixture.node, "the fleet was taken down").await.expect("removes");
    assert!(fixture.record().await.is_none());
    let left = fixture.records.store().list(&Key::new("key").expect("a key")).await.expect("lists");
    assert_eq!(left.len(), 0, "nobody returns: {left:?}");
    assert_eq!(fixture.records.store().list(&keys::revocations()).await.expect("lists").len(), 2);
}
