//! The driver on a store that fails where it hurts most, with agents that do as told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fleet_model::{Clock, ManualClock, NodeName, Timestamp};
use fleet_proto::v1::{self, StandingStep, order::Want, to_agent};
use fleet_rollout::{Event, Kind, Member, Outcome, Rollout, Standing, State};
use fleet_store::{Expected, Key, MemoryStore, Store, StoreError, Versioned, Watch};
use tokio::sync::Notify;

use super::{
    Trouble,
    archive::{Archive, Kept},
    catalogue::{Catalogue, Offerable},
    core::{Core, LEASE},
    floor::{Abilities, Broken, Floor, Heard},
    inbox::News,
    members::Members,
    plans::Worked,
};
use crate::{
    reconcile::board::{Change, Turn},
    records::{RecordError, Records},
};

mod course;
mod cuts;
mod kept;
mod plans;
mod watched;

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const OLD: &str = "old";
const NEW: &str = "newnew";
/// Short bakes, so that runs are.
const POLICY: &str = r#"{"canaryBake":"30s","bake":"30s","waves":["50%"]}"#;

fn node(name: &str) -> NodeName {
    name.parse().expect("a name")
}

/// Records whose writes may fail: rollouts, what nodes are to do, and what they should be by that.
const COUNTED: [&str; 3] = ["rollout/head", "work/", "desired/"];

/// A store whose so-many-th write of such a record fails: before it takes effect, or after.
#[derive(Debug)]
struct Failing {
    inner: MemoryStore,
    left: AtomicI64,
    after: AtomicBool,
    /// It never answers, rather: whoever asked goes away meanwhile.
    hangs: AtomicBool,
    hung: Notify,
}

impl Failing {
    fn new(inner: MemoryStore, failing: i64, after: bool) -> Self {
        Self {
            inner,
            left: AtomicI64::new(failing),
            after: AtomicBool::new(after),
            hangs: AtomicBool::default(),
            hung: Notify::new(),
        }
    }

    async fn failed(&self) -> StoreError {
        if self.hangs.load(Ordering::SeqCst) {
            self.hung.notify_one();
            std::future::pending::<()>().await;
        }
        StoreError::Backend { operation: "write", source: "the power went".into() }
    }
}

#[async_trait]
impl Store for Failing {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &Key, value: Bytes, expected: Expected) -> Result<u64, StoreError> {
        let counted = COUNTED.iter().any(|prefix| key.as_str().starts_with(prefix));
        let fails = counted && self.left.fetch_sub(1, Ordering::SeqCst) == 1;
        if fails && !self.after.load(Ordering::SeqCst) {
            return Err(self.failed().await);
        }
        let version = self.inner.put(key, value, expected).await?;
        if fails { Err(self.failed().await) } else { Ok(version) }
    }

    async fn delete(&self, key: &Key, expected: Expected) -> Result<(), StoreError> {
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

#[derive(Debug)]
struct Shelf;

impl Catalogue for Shelf {
    fn list(&self) -> Vec<Offerable> {
        ["0.2.0", "0.3.0"]
            .iter()
            .zip([NEW, "newest"])
            .map(|(version, release)| Offerable {
                release: release.to_owned(),
                version: (*version).to_owned(),
                packed: vec![format!("packed-{release}")],
                ..Offerable::default()
            })
            .collect()
    }

    fn get(&self, release: &str) -> Option<Offerable> {
        self.list().into_iter().find(|known| known.release == release)
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        vec![b"root".to_vec()]
    }
}

/// An agent that does as told, a step at a time.
#[derive(Debug)]
struct Agent {
    connected: bool,
    orders: bool,
    /// Knows what it is to leave when it is sent back.
    leaves: bool,
    /// Does not do as told, but says that it failed.
    refuses: bool,
    standing: v1::Standing,
    told: Vec<to_agent::Message>,
    allowed: Vec<String>,
    /// Releases it began to try.
    trials: Vec<String>,
    /// Tasks that fail, and have for long.
    failing: Vec<&'static str>,
    /// Tasks that fail as of late.
    lately: Vec<&'static str>,
    /// Its session stays open, and nothing comes from it any more.
    dead: bool,
    /// How often it said anything.
    words: i64,
    /// What is new since it was last asked.
    news: News,
}

#[derive(Debug, Default)]
struct Agents {
    all: Mutex<BTreeMap<NodeName, Agent>>,
    /// The next look at who there is fails.
    unread: AtomicBool,
}

impl Agents {
    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeName, Agent>> {
        self.all.lock().expect("no panic")
    }

    fn with(&self, name: &str, change: impl FnOnce(&mut Agent)) {
        change(self.all().get_mut(&node(name)).expect("an agent"));
    }

    fn connect(&self, name: &str, connected: bool) {
        self.with(name, |agent| {
            agent.connected = connected;
            agent.news.session = true;
            agent.news.standing = connected;
        });
    }

    /// Everybody goes a step further with what is under way.
    fn step(&self) -> BTreeMap<NodeName, News> {
        let mut all = self.all();
        for agent in all.values_mut().filter(|agent| agent.connected && !agent.dead) {
            agent.step();
        }
        let news = all.iter_mut().map(|(node, agent)| (node.clone(), std::mem::take(&mut agent.news)));
        news.filter(|(_, news)| *news != News::default()).collect()
    }

    fn trials(&self) -> Vec<Vec<String>> {
        self.all().values().map(|agent| agent.trials.clone()).collect()
    }
}

impl Agent {
    fn step(&mut self) {
        // A heartbeat, if nothing else.
        self.words += 1;
        let before = self.standing.clone();
        for message in std::mem::take(&mut self.told) {
            match message {
                to_agent::Message::Order(order) if order.number > self.standing.order => {
                    self.standing.order = order.number;
                    let wanted = match order.want.expect("something") {
                        Want::Release(offer) => String::from_utf8(offer.manifest).expect("its name"),
                        Want::Back(back) if self.leaves && back.leave != self.standing.running_sha256 => {
                            self.standing.running_sha256.clone()
                        }
                        Want::Back(_) => self.standing.other_sha256.clone(),
                    };
                    if wanted == self.standing.running_sha256 {
                        self.standing.release = wanted;
                        self.standing.set_step(StandingStep::StandingCommitted);
                    } else if self.refuses {
                        self.standing.release = wanted;
                        self.standing.set_step(StandingStep::StandingFailed);
                    } else {
                        self.standing.release = wanted;
                        self.standing.set_step(StandingStep::StandingFetching);
                    }
                }
                to_agent::Message::Withdraw(withdraw) => {
                    self.standing.order = self.standing.order.max(withdraw.number);
                    if self.standing.step() != StandingStep::StandingTrial {
                        self.standing.release.clone_from(&self.standing.running_sha256);
                        self.standing.set_step(StandingStep::StandingCommitted);
                    }
                }
                _ => {}
            }
            self.news.standing = true;
        }
        let busy =
            matches!(self.standing.step(), StandingStep::StandingFetching | StandingStep::StandingTrial);
        // Words come first, and what they begin takes time.
        if busy && (self.standing.step, &self.standing.release) == (before.step, &before.release) {
            if self.standing.step() == StandingStep::StandingFetching {
                self.trials.push(self.standing.release.clone());
                self.standing.set_step(StandingStep::StandingTrial);
            } else {
                let before =
                    std::mem::replace(&mut self.standing.running_sha256, self.standing.release.clone());
                self.standing.other_sha256 = before;
                self.standing.set_step(StandingStep::StandingCommitted);
            }
            self.news.standing = true;
        }
    }
}

#[async_trait]
impl Floor for Agents {
    fn connected(&self) -> BTreeSet<NodeName> {
        self.all().iter().filter(|(_, agent)| agent.connected).map(|(node, _)| node.clone()).collect()
    }

    fn standing(&self, node: &NodeName) -> Option<Arc<v1::Standing>> {
        let all = self.all();
        all.get(node).filter(|agent| agent.connected).map(|agent| Arc::new(agent.standing.clone()))
    }

    fn can(&self, node: &NodeName) -> Option<Abilities> {
        let all = self.all();
        let agent = all.get(node).filter(|agent| agent.connected)?;
        let (orders, gates, leaves) = (agent.orders, agent.orders, agent.leaves);
        Some(Abilities { orders, gates, leaves, version: "0.1.0".to_owned() })
    }

    fn tell(&self, node: &NodeName, message: to_agent::Message) {
        if let Some(agent) = self.all().get_mut(node).filter(|agent| agent.connected) {
            agent.told.push(message);
        }
    }

    fn allow(&self, node: &NodeName, digests: Vec<String>) {
        if let Some(agent) = self.all().get_mut(node) {
            agent.allowed = digests;
        }
    }

    fn todo_port(&self, _: &NodeName) -> u16 {
        5000
    }

    fn epoch(&self) -> u64 {
        self.all().len() as u64
    }

    fn change(&self) -> Option<Change> {
        None
    }

    fn wanted(&self) -> Option<String> {
        None
    }

    fn worked(&self, _: &NodeName) -> Option<Worked> {
        None
    }

    fn failing(&self, node: &NodeName) -> Broken {
        let all = self.all();
        let Some(agent) = all.get(node) else { return Broken::default() };
        let why = |task: &&str| ((*task).to_owned(), "why".to_owned());
        let now = agent.failing.iter().chain(&agent.lately).map(why).collect();
        Broken { now, lasting: agent.failing.iter().map(why).collect() }
    }

    fn heard(&self, node: &NodeName) -> Option<Heard> {
        let all = self.all();
        let agent = all.get(node).filter(|agent| agent.connected)?;
        Some(Heard { session: 1, at: Timestamp::from_millis(agent.words) })
    }

    fn call(&self, _: &NodeName) {}

    fn generations(&self, _: &NodeName) -> (u64, u64) {
        (0, 0)
    }

    async fn give(&self, node: &NodeName, _: Turn) -> Result<bool, RecordError> {
        panic!("no plan is rolled out, and {node} is given work")
    }

    async fn members(&self) -> Result<Members, RecordError> {
        if self.unread.swap(false, Ordering::SeqCst) {
            let source = "the store is busy".into();
            return Err(StoreError::Backend { operation: "list", source }.into());
        }
        let members = self.all().keys().cloned().map(Member::new).collect();
        Ok(Members { members, spare: BTreeMap::new() })
    }
}

struct World {
    clock: Arc<ManualClock>,
    store: Arc<Failing>,
    agents: Arc<Agents>,
}

impl World {
    /// The so-many-th write of a rollout fails.
    fn new(failing: i64, after: bool) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let inner = MemoryStore::new(clock.clone());
        let store = Arc::new(Failing::new(inner, failing, after));
        let agents = Agents::default();
        for name in NODES {
            let standing = v1::Standing {
                release: OLD.to_owned(),
                step: StandingStep::StandingCommitted.into(),
                running_sha256: OLD.to_owned(),
                ..v1::Standing::default()
            };
            let agent = Agent {
                connected: true,
                orders: true,
                leaves: true,
                refuses: false,
                standing,
                told: Vec::new(),
                allowed: Vec::new(),
                trials: Vec::new(),
                failing: Vec::new(),
                lately: Vec::new(),
                dead: false,
                words: 0,
                news: News::default(),
            };
            agents.all().insert(node(name), agent);
        }
        Self { clock, store, agents: Arc::new(agents) }
    }

    fn core(&self, holder: &str) -> Core {
        // What an order brings is told by the name of its release: nobody verifies anything here.
        let archive = Archive::new(Records::new(self.store.clone()));
        Core::new(archive, self.agents.clone(), Arc::new(Named(Shelf)), holder)
    }

    /// What comes of this; none if it is dropped because the store does not answer.
    async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.store.hung.notified() => None,
        }
    }

    async fn round(&self, core: &mut Core) -> Result<(), Trouble> {
        self.clock.advance(Duration::from_secs(10));
        let news = self.agents.step();
        core.news(news).await?;
        core.tick().await
    }

    /// Until it stands so.
    async fn until(&self, core: &mut Core, wanted: Standing) {
        for _ in 0..200 {
            if core.newest().is_some_and(|kept| kept.rollout.standing() == wanted) {
                return;
            }
            self.round(core).await.expect("goes on");
        }
        panic!("not {wanted:?}: {:?}", core.newest().map(|kept| &kept.rollout));
    }

    /// What is stored comes to what is in hand.
    async fn replays(&self, core: &Core) {
        let stored = Archive::new(Records::new(self.store.clone())).all().await.expect("reads");
        let (_, kept) = stored.last_key_value().expect("one");
        let held = core.newest().expect("one");
        let mut again = kept.rollout.clone();
        (again.clock, again.moment) = (held.rollout.clock, held.rollout.moment);
        assert_eq!(again, held.rollout);
    }
}

/// Says which release an offer is of.
#[derive(Debug)]
struct Named(Shelf);

impl Catalogue for Named {
    fn list(&self) -> Vec<Offerable> {
        let named =
            |release: Offerable| Offerable { manifest: release.release.clone().into_bytes(), ..release };
        self.0.list().into_iter().map(named).collect()
    }

    fn get(&self, release: &str) -> Option<Offerable> {
        self.list().into_iter().find(|known| known.release == release)
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        self.0.roots()
    }
}

impl Core {
    fn newest(&self) -> Option<&Kept> {
        self.state()?.newest().map(|(_, kept)| kept)
    }
}

fn outcomes(rollout: &Rollout) -> Vec<Option<Outcome>> {
    rollout.nodes.keys().map(|node| rollout.outcome(node)).collect()
}
