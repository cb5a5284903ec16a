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

mod plans;

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

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The controller dies of it.
    Killed,
    /// It fails, and the controller goes on.
    Lost,
    /// Whoever asked goes away while it is under way, and the controller goes on.
    Cut,
}

/// A whole rollout; a controller that fails is followed by another, or goes on by itself. Says how many writes there were.
async fn whole(failing: i64, after: bool, end: End) -> i64 {
    let world = World::new(failing, after);
    let mut core = world.core("one");
    let killed = end == End::Killed;
    world.store.hangs.store(end == End::Cut, Ordering::SeqCst);
    let mut troubles = 0;
    let started = world.unless_cut(core.start("ops", "0.2.0", POLICY)).await;
    if started.is_none_or(|started| started.is_err()) {
        troubles += 1;
        if killed {
            core = world.core("another");
            world.clock.advance(LEASE);
        }
        core.lead().await.expect("free");
        if core.newest().is_none() {
            core.start("ops", "0.2.0", POLICY).await.expect("now it does");
        }
    }
    for _ in 0..200 {
        if core.newest().is_some_and(|kept| kept.rollout.standing() == Standing::Finished) {
            break;
        }
        if world.unless_cut(world.round(&mut core)).await.is_none_or(|done| done.is_err()) {
            troubles += 1;
            if killed {
                // Gone as it is, with its lease: another waits for that.
                core = world.core("another");
                world.clock.advance(LEASE);
            } else {
                // What is in hand counts only from here on.
                core.lead().await.expect("free");
            }
        }
    }
    let what = format!("write {failing}, after {after}, {end:?}");
    assert_eq!(troubles, i32::from(failing < i64::MAX), "{what}");
    let rollout = &core.newest().expect("one").rollout;
    assert_eq!(outcomes(rollout), [Some(Outcome::Updated); NODES.len()], "{what}: {rollout:?}");
    assert_eq!(world.agents.trials(), vec![vec![NEW.to_owned()]; NODES.len()], "{what}: nobody tried twice");
    world.replays(&core).await;
    failing - world.store.left.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_controller_killed_at_any_write_is_followed_by_another() {
    let writes = whole(i64::MAX, false, End::Lost).await;
    assert!(writes > 15, "{writes} writes");
    for write in 1..=writes {
        for after in [false, true] {
            whole(write, after, End::Killed).await;
        }
    }
}

#[tokio::test]
async fn a_lost_answer_of_any_write_is_found_out() {
    let writes = whole(i64::MAX, false, End::Lost).await;
    for write in 1..=writes {
        for after in [false, true] {
            whole(write, after, End::Lost).await;
        }
    }
}

#[tokio::test]
async fn whoever_goes_away_in_the_middle_of_any_write_leaves_nothing_half_done() {
    let writes = whole(i64::MAX, false, End::Lost).await;
    for write in 1..=writes {
        for after in [false, true] {
            whole(write, after, End::Cut).await;
        }
    }
}

#[tokio::test]
async fn of_two_controllers_one_drives_and_the_other_follows() {
    let world = World::new(i64::MAX, false);
    let (mut one, mut two) = (world.core("one"), world.core("two"));
    one.start("ops", "0.2.0", POLICY).await.expect("starts");
    let elsewhere = two.start("ops", "0.3.0", POLICY).await.expect_err("somebody drives");
    assert!(matches!(&elsewhere, Trouble::Elsewhere { by, .. } if by == "one"), "{elsewhere}");
    assert_eq!(two.stored().await.expect("may look").rollouts.len(), 1);
    for _ in 0..3 {
        world.round(&mut one).await.expect("goes on");
        assert!(two.tick().await.is_err());
    }
    // The first one is stopped for a while, and does not know.
    world.clock.advance(LEASE);
    two.tick().await.expect("takes over");
    for _ in 0..4 {
        world.round(&mut two).await.expect("goes on");
    }
    let mut stale = one;
    let late = stale.take(Event::Halt { by: "ops".to_owned(), reason: "late".to_owned() }).await;
    assert!(matches!(&late, Err(Trouble::Record(error)) if error.is_conflict()), "{late:?}");
    assert!(matches!(stale.lead().await, Err(Trouble::Elsewhere { .. })));
    world.until(&mut two, Standing::Finished).await;
    assert_eq!(world.agents.trials(), vec![vec![NEW.to_owned()]; NODES.len()]);
    world.replays(&two).await;
    two.resign().await;
    stale.lead().await.expect("it was given back");
}

#[tokio::test]
async fn the_next_rollout_takes_the_place_of_the_last_and_undo_goes_back() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    let refused = core.start("ops", "0.3.0", POLICY).await.expect_err("one is under way").to_string();
    assert!(refused.contains("rollout 1 of release 0.2.0 is under way"), "{refused}");
    world.until(&mut core, Standing::Finished).await;
    core.start("ops", "newest", POLICY).await.expect("by its digits");
    world.until(&mut core, Standing::Finished).await;
    let orders: Vec<u64> =
        core.newest().expect("one").rollout.nodes.values().map(|node| node.order).collect();
    assert!(orders.iter().all(|order| *order > 4), "numbers rise over all rollouts: {orders:?}");
    let stored = core.stored().await.expect("reads");
    assert!(super::core::superseded(&stored.rollouts[&1].rollout));
    core.act("1", Event::Undo).await.expect_err("another took its place");
    core.act("2", Event::Undo).await.expect("goes back");
    world.until(&mut core, Standing::Finished).await;
    let running: Vec<String> =
        world.agents.all().values().map(|agent| agent.standing.running_sha256.clone()).collect();
    assert_eq!(running, vec![NEW; NODES.len()]);
    world.replays(&core).await;
}

/// Everybody has NEW, with OLD beside it, when the next release comes to the canary: what becomes of an undo then.
async fn undone_before_the_switch(change: impl Fn(&mut Agent)) -> World {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Finished).await;
    for name in NODES {
        world.agents.with(name, &change);
    }
    core.start("ops", "0.3.0", POLICY).await.expect("starts");
    world.round(&mut core).await.expect("goes on");
    let node = core.newest().and_then(|kept| kept.rollout.nodes.values().find(|node| node.touched).cloned());
    assert!(node.is_some_and(|node| node.state != State::Trial), "before the switch");
    core.act("", Event::Undo).await.expect("goes back");
    world.until(&mut core, Standing::Finished).await;
    let rollout = &core.newest().expect("one").rollout;
    assert!(outcomes(rollout).iter().all(|one| one != &Some(Outcome::Failed)), "{rollout:?}");
    world.replays(&core).await;
    world
}

/// How an agent differs.
type Differ = fn(&mut Agent);

#[tokio::test]
async fn an_undo_moves_nobody_who_never_switched() {
    let changes: [(&str, Differ); 4] = [
        ("fetching", |_| ()),
        ("failed", |agent| agent.refuses = true),
        ("fetching, of an older version", |agent| agent.leaves = false),
        ("failed, of an older version", |agent| (agent.refuses, agent.leaves) = (true, false)),
    ];
    for (name, change) in changes {
        let world = undone_before_the_switch(change).await;
        for (node, agent) in world.agents.all().iter() {
            assert_eq!(agent.standing.running_sha256, NEW, "{name}: {node}");
            assert_eq!(agent.trials, [NEW], "{name}: {node}");
        }
    }
}

#[tokio::test]
async fn a_first_rollout_that_failed_before_the_switch_is_undone() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.refuses = true);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Halted).await;
    core.act("", Event::Undo).await.expect("goes back");
    world.until(&mut core, Standing::Finished).await;
    assert!(world.agents.all().values().all(|agent| agent.standing.running_sha256 == OLD));
}

#[tokio::test]
async fn a_stopped_line_is_honoured_by_those_that_come_later() {
    let world = World::new(i64::MAX, false);
    world.agents.connect("d", false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    for _ in 0..2 {
        world.round(&mut core).await.expect("goes on");
    }
    core.stop_line("ops", "a doubt").await.expect("stops");
    let refused = core.start("ops", "0.3.0", POLICY).await.expect_err("stopped").to_string();
    assert!(refused.contains("the line is stopped by ops: a doubt"), "{refused}");
    // Another controller on the same store knows, and so does whoever comes back.
    drop(core);
    world.clock.advance(LEASE);
    let mut core = world.core("another");
    world.agents.connect("d", true);
    for _ in 0..60 {
        world.round(&mut core).await.expect("goes on");
    }
    assert_eq!(core.newest().expect("one").rollout.standing(), Standing::Halted);
    assert!(
        world.agents.all()[&node("d")].trials.is_empty() && world.agents.all()[&node("d")].told.is_empty()
    );
    let was = core.clear_line("ops").await.expect("clears").expect("it was stopped");
    assert_eq!((was.by.as_str(), was.reason.as_str()), ("ops", "a doubt"));
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
}

#[tokio::test]
async fn an_agent_that_takes_no_orders_fails_and_says_who_moves_first() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.orders = false);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Halted).await;
    let rollout = &core.newest().expect("one").rollout;
    let failed: Vec<_> = rollout.nodes.values().filter(|node| node.state == State::Failed).collect();
    assert_eq!(failed.len(), 1, "the canary alone");
    let reason = failed[0].reason.as_ref().expect("why");
    assert_eq!(reason.kind, Kind::Mismatch);
    assert!(reason.detail.contains("its agent 0.1.0 takes no orders, so that has to move first"), "{reason}");
}

#[tokio::test]
async fn only_what_an_order_names_may_be_fetched_and_a_failure_is_halted_and_retried() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.refuses = true);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    let allowed = |world: &World| {
        let all = world.agents.all();
        all.values().filter(|agent| agent.allowed == [format!("packed-{NEW}")]).count()
    };
    assert_eq!(allowed(&world), 1, "the canary alone");
    world.until(&mut core, Standing::Halted).await;
    assert_eq!(allowed(&world), 1);
    for name in NODES {
        world.agents.with(name, |agent| agent.refuses = false);
    }
    core.act("", Event::Resume { retry: true }).await.expect("goes on");
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
}

#[tokio::test]
async fn nodes_come_and_go_for_good_meanwhile() {
    let world = World::new(i64::MAX, false);
    world.agents.connect("c", false);
    world.agents.connect("d", false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    let mut agent = world.agents.all().remove(&node("d")).expect("an agent");
    world.round(&mut core).await.expect("goes on");
    assert!(!core.newest().expect("one").rollout.nodes.contains_key(&node("d")));
    agent.connected = true;
    world.agents.all().insert(node("e"), agent);
    world.until(&mut core, Standing::Finished).await;
    let rollout = &core.newest().expect("one").rollout;
    assert_eq!(rollout.outcome(&node("e")), Some(Outcome::Updated));
    assert_eq!(rollout.outcome(&node("c")), Some(Outcome::Silent));
    // Off all the while, it catches up when it returns.
    world.agents.connect("c", true);
    for _ in 0..6 {
        world.round(&mut core).await.expect("goes on");
    }
    assert_eq!(core.newest().expect("one").rollout.outcome(&node("c")), Some(Outcome::Updated));
    // And one is sent back for good.
    let (_, connected) = core.send_back("ops", &node("a")).await.expect("goes back");
    assert!(connected);
    for _ in 0..6 {
        world.round(&mut core).await.expect("goes on");
    }
    assert_eq!(world.agents.all()[&node("a")].standing.running_sha256, OLD);
    assert_eq!(core.newest().expect("one").rollout.standing(), Standing::Finished);
    let refused = core.send_back("ops", &node("e")).await;
    assert!(refused.is_ok(), "{refused:?}");
}

/// The canary of a rollout that has just been committed there.
async fn canary(world: &World, core: &mut Core) -> NodeName {
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(core, Standing::Baking).await;
    let nodes = &core.newest().expect("one").rollout.nodes;
    nodes.values().find(|node| node.wave == 0).expect("one").member.node.clone()
}

#[tokio::test]
async fn news_that_meet_a_store_that_cannot_be_read_are_caught_up_with() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    let canary = canary(&world, &mut core).await;
    world.agents.connect(canary.as_str(), false);
    // Somebody went for good, so that it is read who there is.
    let other = NODES.into_iter().find(|name| *name != canary.as_str()).expect("another");
    world.agents.all().remove(&node(other));
    world.agents.unread.store(true, Ordering::SeqCst);
    core.news(world.agents.step()).await.expect_err("the store is busy");
    core.lead().await.expect("goes on");
    assert!(!core.newest().expect("one").rollout.nodes[&canary].connected, "its session ended meanwhile");
}

#[tokio::test]
async fn a_task_that_fails_only_under_the_new_agent_stops_it_and_sends_the_node_back() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.failing = vec!["old trouble"]);
    }
    let mut core = world.core("one");
    let canary = canary(&world, &mut core).await;
    world.agents.with(canary.as_str(), |agent| agent.failing.push("todo"));
    world.until(&mut core, Standing::Halted).await;
    let reason = core.newest().expect("one").rollout.nodes[&canary].reason.clone().expect("why");
    assert_eq!(reason.kind, Kind::Work, "{reason}");
    assert!(reason.detail.contains("task `todo`, which did not before: why"), "{reason}");
    for _ in 0..4 {
        world.round(&mut core).await.expect("goes on");
    }
    assert_eq!(world.agents.all()[&canary].standing.running_sha256, OLD);
    // What failed before is no reason to stop.
    for name in NODES {
        world.agents.with(name, |agent| agent.failing = vec!["old trouble"]);
    }
    core.act("", Event::Resume { retry: true }).await.expect("goes on");
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
}

/// The controller has just begun: what has failed for weeks has failed for a moment as far as it knows.
#[tokio::test]
async fn what_failed_before_is_not_blamed_on_the_release_when_it_has_failed_for_long() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.lately = vec!["old trouble"]);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    // Whoever changes restarts what others look at, for a moment.
    for name in NODES {
        world.agents.with(name, |agent| agent.lately.push("todo"));
    }
    world.until(&mut core, Standing::Baking).await;
    for name in NODES {
        world.agents.with(name, |agent| {
            agent.lately.clear();
            agent.failing = vec!["old trouble"];
        });
    }
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
    world.replays(&core).await;
}

/// A later release failed there, or its agent is of a version that does not say what runs.
#[tokio::test]
async fn whoever_has_the_release_already_is_well_with_it_whatever_it_speaks_of() {
    let world = World::new(i64::MAX, false);
    world.agents.with("a", |agent| {
        agent.standing.running_sha256 = NEW.to_owned();
        agent.standing.release = "newest".to_owned();
        agent.standing.set_step(StandingStep::StandingFailed);
    });
    world.agents.with("b", |agent| {
        agent.standing.running_sha256.clear();
        agent.standing.release = NEW.to_owned();
    });
    let mut core = world.core("one");
    let policy = r#"{"canaries":{"named":["c"],"drawn":0},"canaryBake":"30s","bake":"30s","waves":[]}"#;
    core.start("ops", "0.2.0", policy).await.expect("starts");
    world.until(&mut core, Standing::Finished).await;
    assert_eq!(outcomes(&core.newest().expect("one").rollout), [Some(Outcome::Updated); NODES.len()]);
    let tried = [vec![], vec![], vec![NEW.to_owned()], vec![NEW.to_owned()]];
    assert_eq!(world.agents.trials(), tried, "nobody is brought what it has");
}

#[tokio::test]
async fn a_controller_of_before_can_read_every_log() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    while core.newest().is_some_and(|kept| kept.rollout.standing() != Standing::Finished) {
        world.round(&mut core).await.expect("goes on");
        let stored = Archive::new(Records::new(world.store.clone())).all().await.expect("reads");
        let mut logged = stored.values().flat_map(|kept| &kept.head.log);
        assert!(!logged.any(|entry| matches!(entry.event, Event::Well { .. })));
    }
    assert!(core.newest().expect("one").rollout.nodes.values().all(|node| node.well.is_some()));
}

#[tokio::test]
async fn the_next_rollout_knows_what_numbers_nodes_have_seen() {
    let world = World::new(i64::MAX, false);
    world.agents.with("d", |agent| agent.standing.order = 500);
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Finished).await;
    let seen = core.newest().expect("one").rollout.nodes[&node("d")].order;
    assert!(seen > 500, "{seen}");
    world.agents.connect("d", false);
    core.start("ops", "0.3.0", POLICY).await.expect("starts");
    let nodes = &core.newest().expect("one").rollout.nodes;
    assert_eq!((nodes[&node("d")].seen, nodes[&node("c")].seen), (seen, 0));
}

#[tokio::test]
async fn an_agent_that_crashes_while_it_is_watched_stops_it() {
    let world = World::new(i64::MAX, false);
    for name in NODES {
        world.agents.with(name, |agent| agent.standing.crashes = Some(5));
    }
    let mut core = world.core("one");
    let canary = canary(&world, &mut core).await;
    world.round(&mut core).await.expect("goes on");
    world.agents.with(canary.as_str(), |agent| {
        agent.standing.crashes = Some(6);
        agent.news.standing = true;
    });
    world.until(&mut core, Standing::Halted).await;
    let reason = core.newest().expect("one").rollout.nodes[&canary].reason.clone().expect("why");
    assert_eq!(reason.kind, Kind::Crashed, "{reason}");
}

#[tokio::test]
async fn a_canary_of_which_nothing_more_is_heard_passes_no_bake() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    let canary = canary(&world, &mut core).await;
    world.agents.with(canary.as_str(), |agent| agent.dead = true);
    world.until(&mut core, Standing::Halted).await;
    let rollout = &core.newest().expect("one").rollout;
    assert_eq!((rollout.wave, rollout.nodes[&canary].state), (0, State::Failed), "{rollout:?}");
    assert!(rollout.nodes.values().all(|node| !node.touched || node.wave == 0));
}

#[tokio::test]
async fn a_store_that_is_older_than_what_nodes_did_reaches_them_all_the_same() {
    let world = World::new(i64::MAX, false);
    for (place, name) in NODES.into_iter().enumerate() {
        world.agents.with(name, |agent| agent.standing.order = 500 + place as u64);
    }
    let mut core = world.core("one");
    core.start("ops", "0.2.0", POLICY).await.expect("starts");
    world.until(&mut core, Standing::Finished).await;
    let rollout = &core.newest().expect("one").rollout;
    assert_eq!(outcomes(rollout), [Some(Outcome::Updated); NODES.len()], "{rollout:?}");
    assert!(rollout.order < 100, "the numbers of one node are not those of others");
    core.act("", Event::Undo).await.expect("goes back");
    world.until(&mut core, Standing::Finished).await;
    assert!(world.agents.all().values().all(|agent| agent.standing.running_sha256 == OLD));
}

#[tokio::test]
async fn every_mistake_of_a_start_is_said() {
    let world = World::new(i64::MAX, false);
    let mut core = world.core("one");
    for (release, policy, wanted) in [
        ("9.9.9", "", "no release `9.9.9` is kept here"),
        ("new", "", "no release `new` is kept here"),
        ("newn", "{", "no release"),
        ("0.2.0", "{\"bakes\":1}", "unknown field `bakes`"),
        ("0.2.0", "{\"bake\":\"soon\"}", "a duration such as 90s"),
        ("0.2.0", "{\"waves\":[0]}", "a wave of nobody is no wave"),
        (
            "0.2.0",
            "{\"windows\":{\"EU6\":{\"zone\":\"Europe/Atlantis\",\"days\":[\"monday\"],\"from\":\"01:00\",\"until\":\"02:00\"}}}",
            "no time zone `Europe/Atlantis`",
        ),
    ] {
        let refused = core.start("ops", release, policy).await.expect_err(wanted).to_string();
        assert!(refused.contains(wanted), "{refused}");
    }
    assert!(core.stored().await.expect("reads").rollouts.is_empty());
    core.act("", Event::Undo).await.expect_err("there is none");
}
