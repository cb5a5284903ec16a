//! Looking for everybody: whoever waits for something of a kind shares one look with all who wait for that kind.
//!
//! Who is due first waits for those who are due soon after, then looks for all of them: with one call each while that
//! is cheaper, else with one list. The others take what that look saw, if it began when they were due.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use fleet_mcp::{
    Id, McpError,
    resource::Stateful,
    types::{NetworkDomain, Server, Vlan},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::Run;
use crate::{cloud::Cloud, diff::is_idle, view::View};

/// What a page of a list holds: the service's maximum.
const PAGE: usize = 250;

/// What is waited for.
#[async_trait]
pub(super) trait Kind: Stateful + Clone {
    /// The journal's word for it.
    const WORD: &'static str;
    /// Its id.
    fn id(&self) -> &Id<Self>;
    /// Whether nothing is under way.
    fn is_idle(&self) -> bool {
        self.state().is_normal()
    }
    /// All there are.
    async fn all(cloud: &dyn Cloud) -> Result<Vec<Self>, McpError>;
    /// One of them.
    async fn one(cloud: &dyn Cloud, id: &Id<Self>) -> Result<Option<Self>, McpError>;
    /// Where looks at it are shared.
    fn looks(run: &Run) -> &Looks<Self>;
    /// The view takes note of it.
    fn put(self, view: &mut View);
    /// The view takes note that it is gone.
    fn remove(view: &mut View, id: &Id<Self>);
}

#[async_trait]
impl Kind for NetworkDomain {
    const WORD: &'static str = "domain";
    fn id(&self) -> &Id<Self> {
        &self.id
    }
    async fn all(cloud: &dyn Cloud) -> Result<Vec<Self>, McpError> {
        cloud.network_domains().await
    }
    async fn one(cloud: &dyn Cloud, id: &Id<Self>) -> Result<Option<Self>, McpError> {
        cloud.network_domain(id).await
    }
    fn looks(run: &Run) -> &Looks<Self> {
        &run.domains
    }
    fn put(self, view: &mut View) {
        view.put_domain(self);
    }
    fn remove(view: &mut View, id: &Id<Self>) {
        view.domains.remove(id);
    }
}

#[async_trait]
impl Kind for Vlan {
    const WORD: &'static str = "vlan";
    fn id(&self) -> &Id<Self> {
        &self.id
    }
    async fn all(cloud: &dyn Cloud) -> Result<Vec<Self>, McpError> {
        cloud.vlans().await
    }
    async fn one(cloud: &dyn Cloud, id: &Id<Self>) -> Result<Option<Self>, McpError> {
        cloud.vlan(id).await
    }
    fn looks(run: &Run) -> &Looks<Self> {
        &run.vlans
    }
    fn put(self, view: &mut View) {
        view.put_vlan(self);
    }
    fn remove(view: &mut View, id: &Id<Self>) {
        view.domains.values_mut().for_each(|held| drop(held.vlans.remove(id)));
    }
}

#[async_trait]
impl Kind for Server {
    const WORD: &'static str = "server";
    fn id(&self) -> &Id<Self> {
        &self.id
    }
    fn is_idle(&self) -> bool {
        is_idle(self)
    }
    async fn all(cloud: &dyn Cloud) -> Result<Vec<Self>, McpError> {
        cloud.servers().await
    }
    async fn one(cloud: &dyn Cloud, id: &Id<Self>) -> Result<Option<Self>, McpError> {
        cloud.server(id).await
    }
    fn looks(run: &Run) -> &Looks<Self> {
        &run.servers
    }
    fn put(self, view: &mut View) {
        view.put_server(self);
    }
    fn remove(view: &mut View, id: &Id<Self>) {
        view.domains.values_mut().for_each(|held| drop(held.servers.remove(id)));
    }
}

/// Shared looks at one kind.
#[derive(Debug)]
pub(super) struct Looks<T: Kind> {
    waiting: Mutex<BTreeMap<u64, (Id<T>, Instant)>>,
    number: AtomicU64,
    /// How many there are, when they were last counted.
    count: AtomicUsize,
    /// One looks at a time.
    turn: tokio::sync::Mutex<()>,
    seen: watch::Sender<Arc<Seen<T>>>,
}

/// What a look saw.
#[derive(Debug)]
struct Seen<T> {
    began: Instant,
    found: HashMap<String, Option<T>>,
    /// It was a list: what is not in it is gone, or hidden by a page that moved.
    whole: bool,
}

/// Somebody waits, until this is dropped.
struct Waiting<'a, T: Kind>(&'a Looks<T>, u64);

impl<T: Kind> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

impl<T: Kind> Looks<T> {
    /// Nobody waits; there are `count` of the kind.
    pub(super) fn new(count: usize) -> Self {
        let nothing = Seen { began: Instant::now(), found: HashMap::new(), whole: false };
        Self {
            waiting: Mutex::default(),
            number: AtomicU64::new(0),
            count: AtomicUsize::new(count),
            turn: tokio::sync::Mutex::default(),
            seen: watch::Sender::new(Arc::new(nothing)),
        }
    }

    /// What there is of `id`, seen by a look that began at `due` or, for company, until `latest`; and when that was.
    ///
    /// # Cancel safety
    /// May be dropped at any time: somebody else looks then.
    pub(super) async fn at(
        &self,
        run: &Run,
        id: &Id<T>,
        due: Instant,
        latest: Instant,
    ) -> Result<(Instant, Option<T>), McpError> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(number, (id.clone(), due));
        let _waiting = Waiting(self, number);
        let mut news = self.seen.subscribe();
        loop {
            let seen = Arc::clone(&news.borrow_and_update());
            if seen.began >= due {
                match seen.found.get(id.as_str()) {
                    Some(found) => return Ok((seen.began, found.clone())),
                    // Pages move while things go: only a look at the thing itself says that it is gone.
                    None if seen.whole => {
                        return Ok((seen.began, run.read(|| T::one(&*run.cloud, id)).await?));
                    }
                    None => {}
                }
            }
            let together = self.together(due, latest);
            // Cancel safe, both of them.
            tokio::select! {
                () = sleep_until(together) => {}
                _ = news.changed() => continue,
            }
            let _turn = self.turn.lock().await;
            // Somebody may have looked, or come to wait, while it was another's turn.
            if !news.has_changed().unwrap_or(false) && self.together(due, latest) <= Instant::now() {
                self.seen.send_replace(Arc::new(self.look(run).await?));
            }
        }
    }

    /// Looks for everybody who is due.
    async fn look(&self, run: &Run) -> Result<Seen<T>, McpError> {
        let began = Instant::now();
        let mut due: Vec<Id<T>> =
            self.waiting().values().filter(|(_, due)| *due <= began).map(|(id, _)| id.clone()).collect();
        due.sort();
        due.dedup();
        let pages = self.count.load(Ordering::Relaxed).max(1).div_ceil(PAGE);
        if due.len() <= pages {
            let each = due.iter().map(|id| async move {
                let found = run.read(|| T::one(&*run.cloud, id)).await?;
                Ok::<_, McpError>((id.to_string(), found))
            });
            let found = futures::future::try_join_all(each).await?.into_iter().collect();
            return Ok(Seen { began, found, whole: false });
        }
        let all = run.read(|| T::all(&*run.cloud)).await?;
        self.count.store(all.len(), Ordering::Relaxed);
        let found = all.into_iter().map(|found| (found.id().to_string(), Some(found))).collect();
        Ok(Seen { began, found, whole: true })
    }

    /// When the last of those is due who are due by `latest`.
    fn together(&self, due: Instant, latest: Instant) -> Instant {
        let waiting = self.waiting();
        waiting
            .values()
            .map(|(_, due)| *due)
            .filter(|other| *other <= latest)
            .max()
            .map_or(due, |last| last.max(due))
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, (Id<T>, Instant)>> {
        // Every critical section leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
