//! What a power cut of the controller leaves behind at each step of a permit, and what the next one makes of it.
//!
//! ```text
//! question ─► cluster written ─► lease written ─► answer sent ─► given back ─► lease erased
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Waker,
};

use async_trait::async_trait;
use bytes::Bytes;
use fleet_model::{Clock, ManualClock, NodeName, Timestamp};
use fleet_proto::v1::{
    self, Desired, PermitAnswer, RethinkdbTask, TaskReport, TaskResult, TaskSpec, UpdateTask,
    task_spec::Kind, to_agent,
};
use fleet_store::{EmbeddedStore, Expected, Key, Store, StoreError, Versioned, Watch};

use super::{Ask, Permit, inbox::Inbox, keeper::Keeper, policy::Held};
use crate::{
    records::{EnrolmentRecord, Records, keys},
    session::{dispatch::Dispatch, registry::Live, registry::Registry, stream::Desk},
    tls::peer::Peer,
};

/// A store on disk that is cut off after so many changes: what comes then is lost, as is what was not written yet.
#[derive(Debug)]
struct Cut {
    store: EmbeddedStore,
    left: AtomicUsize,
}

impl Cut {
    fn change(&self) -> Result<(), StoreError> {
        let more = self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        let cut = |_| StoreError::Backend { operation: "write", source: "the power is cut".into() };
        more.map(drop).map_err(cut)
    }
}

#[async_trait]
impl Store for Cut {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        self.store.get(key).await
    }
    async fn put(&self, key: &Key, value: Bytes, expected: Expected) -> Result<u64, StoreError> {
        self.change()?;
        self.store.put(key, value, expected).await
    }
    async fn delete(&self, key: &Key, expected: Expected) -> Result<(), StoreError> {
        self.change()?;
        self.store.delete(key, expected).await
    }
    async fn list(&self, prefix: &Key) -> Result<Vec<(Key, Versioned)>, StoreError> {
        self.store.list(prefix).await
    }
    async fn watch(&self, prefix: &Key) -> Result<Watch, StoreError> {
        self.store.watch(prefix).await
    }
    fn clock(&self) -> &dyn Clock {
        self.store.clock()
    }
}

const SEED: &str = "seed";
/// Changes enough for anything.
const ALL: usize = 1000;

fn node(name: &str) -> NodeName {
    name.parse().expect("a name")
}

fn permit(text: &str) -> Permit {
    text.parse().expect("a permit")
}

/// A folder that outlives controllers, and the time.
struct House {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

/// One controller's life, with three nodes in session whose servers have converged.
struct Life {
    desk: Arc<Desk>,
    keeper: Keeper,
    records: Records,
    lives: Vec<Arc<Live>>,
}

impl House {
    /// Where the nodes have enrolled, and a cluster of all three was founded if `whole`.
    async fn new(whole: bool) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
        let house = Self { dir: tempfile::tempdir().expect("a folder"), clock };
        let life = house.live(ALL).await;
        for name in [SEED, "a", "b"] {
            let record = EnrolmentRecord {
                key: name.to_owned(),
                machine: name.to_owned(),
                since: house.clock.now(),
                certificates: Vec::new(),
                leaf: String::new(),
                returns: 0,
                services: Vec::new(),
                id: format!("id of {name}"),
            };
            let written = life.records.put(&keys::enrolment(&node(name)), &record, Expected::Absent).await;
            written.expect("written");
        }
        if whole {
            for (name, text) in [(SEED, "found/fleet"), ("a", "join/fleet"), ("b", "join/fleet")] {
                assert!(life.ask(name, text).await.expect("answered").granted);
                life.release(name, text).await;
            }
        }
        house
    }

    /// A controller whose power is cut after so many changes.
    async fn live(&self, changes: usize) -> Life {
        let store =
            EmbeddedStore::open(&self.dir.path().join("store.db"), self.clock.clone()).expect("opens");
        let records = Records::new(Arc::new(Cut { store, left: AtomicUsize::new(changes) }));
        let desk = Arc::new(Desk {
            rollouts: Default::default(),
            registry: Registry::new(self.clock.clone()),
            dispatch: Dispatch::default(),
            permits: Inbox::default(),
            clock: self.clock.clone(),
        });
        let lives = [SEED, "a", "b"].map(|name| {
            let task = |name: &str, kind| TaskSpec {
                name: name.to_owned(),
                kind: Some(kind),
                ..TaskSpec::default()
            };
            let seed = name == SEED;
            let server = RethinkdbTask { instance: "fleet".to_owned(), seed, ..RethinkdbTask::default() };
            let update = UpdateTask { every_hours: 24, reboot: true };
            let tasks = vec![task("update", Kind::Update(update)), task("db", Kind::Rethinkdb(server))];
            let desired = Desired { generation: 1, tasks, ..Desired::default() };
            desk.registry.set_desired(&node(name), Arc::new(desired));
            desk.registry.set_enrolled(&node(name), true);
            let hello = v1::Hello { generation: 1, ..v1::Hello::default() };
            let peer = Arc::new(Peer::of_node(node(name)));
            let (live, _) = desk.registry.enter(&node(name), &hello, peer).expect("enters");
            let result = TaskResult::Unchanged.into();
            let report = TaskReport { name: "db".to_owned(), result, ..TaskReport::default() };
            let seen = v1::Observed { generation: 1, tasks: vec![report], ..v1::Observed::default() };
            desk.registry.observed(&live, seen);
            live
        });
        let keeper = Keeper::load(records.clone(), desk.clone()).await.expect("loads");
        Life { desk, keeper, records, lives: lives.into() }
    }
}

impl Life {
    async fn ask(&self, name: &str, text: &str) -> Option<PermitAnswer> {
        let task = if text == "reboot" { "update" } else { "db" }.to_owned();
        self.desk.permits.ask(&node(name), Ask { permit: permit(text), task }).expect("room");
        self.turn().await;
        self.told(name)
    }

    async fn release(&self, name: &str, text: &str) {
        self.desk.permits.release(&node(name), permit(text));
        self.turn().await;
    }

    async fn turn(&self) {
        self.keeper.turn(self.desk.permits.take(), true).await;
    }

    /// The latest a node was told about permits.
    fn told(&self, name: &str) -> Option<PermitAnswer> {
        let live = self.lives.iter().find(|live| live.node == node(name)).expect("one of them");
        let mut latest = None;
        while let Some(message) = live.poll_outbox(Waker::noop()) {
            if let Some(to_agent::Message::Permit(answer)) = message.expect("open").message {
                latest = Some(answer);
            }
        }
        latest
    }

    async fn written(&self, text: &str) -> Option<Held> {
        let held = self.records.get::<Held>(&keys::permit(&permit(text))).await.expect("reads");
        held.map(|held| held.value)
    }
}

/// Who asks for what, who would be next, and how many changes giving it makes.
const STEPS: [(&str, &str, &str, bool, usize); 4] = [
    (SEED, "found/fleet", "", false, 2),
    // Nobody was seen to found it: no cluster to keep.
    ("a", "join/fleet", "b", false, 1),
    ("a", "join/fleet", "b", true, 1),
    ("a", "reboot", "b", true, 1),
];

#[tokio::test]
async fn a_permit_is_given_when_it_is_written_down_and_not_before() {
    for (name, text, next, whole, changes) in STEPS {
        for cut in 0..=changes {
            let house = House::new(whole).await;
            let life = house.live(cut).await;
            let answer = life.ask(name, text).await.expect("answered");
            let given = cut == changes;
            assert_eq!(answer.granted, given, "{text} cut after {cut}: {answer:?}");
            let before = life.written(text).await;
            assert_eq!(before.is_some(), given, "{text} cut after {cut}");
            // Cut: whether the answer arrived or not, nobody knows.
            drop(life);

            house.clock.advance(permit(text).life() / 4);
            let life = house.live(ALL).await;
            if given && !next.is_empty() {
                let answer = life.ask(next, text).await.expect("answered");
                assert!(!answer.granted && answer.reason.contains("has the permit"), "{text}: {answer:?}");
            }
            let answer = life.ask(name, text).await.expect("answered");
            assert!(answer.granted, "{text} cut after {cut}: it asks again in its new session: {answer:?}");
            if given {
                assert_eq!(life.written(text).await, before, "it is the same lease, and written once");
            }
        }
    }
}

#[tokio::test]
async fn a_cluster_half_written_down_is_founded_by_nobody_else() {
    let house = House::new(false).await;
    let life = house.live(1).await;
    assert!(!life.ask(SEED, "found/fleet").await.expect("answered").granted);
    drop(life);
    let life = house.live(ALL).await;
    let key = keys::enrolment(&node(SEED));
    let mut other = life.records.get::<EnrolmentRecord>(&key).await.expect("reads").expect("written").value;
    other.id = "another machine".to_owned();
    life.records.put(&key, &other, Expected::Any).await.expect("written");
    let answer = life.ask(SEED, "found/fleet").await.expect("answered");
    assert!(!answer.granted && answer.reason.contains("was founded already"), "{answer:?}");
    // Once its machine is destroyed, there is nothing to keep.
    life.keeper.forget(&node(SEED)).await.expect("forgets");
    assert!(life.ask(SEED, "found/fleet").await.expect("answered").granted);
}

#[tokio::test]
async fn a_release_that_is_lost_costs_the_rest_of_the_lease() {
    for (name, text, next, whole, changes) in STEPS.into_iter().filter(|(_, _, next, _, _)| !next.is_empty())
    {
        // Lost on its way, or taken and the lease not erased.
        for heard in [false, true] {
            let house = House::new(whole).await;
            let life = house.live(changes).await;
            assert!(life.ask(name, text).await.expect("answered").granted);
            if heard {
                life.release(name, text).await;
            }
            drop(life);
            let life = house.live(ALL).await;
            assert!(!life.ask(next, text).await.expect("answered").granted, "{text}: it may be at work");
            house.clock.advance(permit(text).life());
            // Everybody is heard of meanwhile.
            life.lives.iter().for_each(|live| live.heard());
            life.turn().await;
            let answer = life.told(next).expect("told by itself");
            assert!(answer.granted, "{text}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_member_without_a_session_keeps_machines_up_and_no_server_from_restarting() {
    let house = House::new(true).await;
    let life = house.live(ALL).await;
    let away = life.lives.iter().find(|live| live.node == node("b")).expect("one of them");
    life.desk.registry.leave(away);
    let answer = life.ask("a", "join/fleet").await.expect("answered");
    assert!(answer.granted, "its certificate runs out, and who is there the cluster knows: {answer:?}");
    life.release("a", "join/fleet").await;
    let answer = life.ask("a", "reboot").await.expect("answered");
    assert!(!answer.granted && answer.reason.contains("`b`"), "{answer:?}");
    // One that is there and has not converged is waited for all the same.
    let seed = life.lives.iter().find(|live| live.node == node(SEED)).expect("one of them");
    let result = TaskResult::Failed.into();
    let report = TaskReport { name: "db".to_owned(), result, ..TaskReport::default() };
    let seen = v1::Observed { generation: 1, tasks: vec![report], ..v1::Observed::default() };
    life.desk.registry.observed(seed, seen);
    let answer = life.ask("a", "join/fleet").await.expect("answered");
    assert!(!answer.granted && answer.reason.contains(SEED), "{answer:?}");
}

#[tokio::test]
async fn a_release_said_again_counts() {
    for (name, text, next, whole, changes) in STEPS.into_iter().filter(|(_, _, next, _, _)| !next.is_empty())
    {
        let house = House::new(whole).await;
        let life = house.live(changes).await;
        assert!(life.ask(name, text).await.expect("answered").granted);
        life.release(name, text).await;
        drop(life);
        let life = house.live(ALL).await;
        assert!(!life.ask(next, text).await.expect("answered").granted);
        life.release(name, text).await;
        assert!(life.told(next).expect("told by itself").granted, "{text}");
        assert!(life.written(text).await.is_some_and(|held| held.node == node(next)), "{text}");
    }
}
