//! Work done: ready pieces in parallel, calls bounded, a failure stops what needs it and nothing else.

mod act;
mod lists;
mod looks;
mod make;
mod network;
mod remove;
mod server;
mod timing;
mod wait;

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleet_mcp::{
    McpError,
    types::{NetworkDomain, Server, Vlan},
};
use fleet_model::chain;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{looks::Looks, timing::Timing};
use crate::{
    cloud::Cloud,
    diff::{Task, Work},
    event::{Event, Step, StepState},
    graph::Key,
    images::Images,
    journal::{Journal, JournalError},
    mark::Mark,
    restart::Leave,
    vault::Vault,
    view::{DomainView, View},
};

/// How patient a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Calls under way at once.
    pub calls: usize,
    /// Servers restarted at once.
    pub restarts: usize,
    /// First pause, where nothing is known yet of how long something takes; later ones grow to `longest`.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
    /// How long something may take to settle.
    pub settle: Duration,
    /// How long something may be busy before the step fails.
    pub busy: Duration,
    /// How long what was made may be missing from lists.
    pub unlisted: Duration,
    /// Attempts of a change after answers that were lost or that say the cloud is in trouble; some ten seconds.
    pub attempts: u32,
    /// Attempts of a read; the client below has its own patience.
    pub reads: u32,
    /// Attempts to make what fails to be made.
    pub makes: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            calls: 8,
            restarts: 4,
            // What takes time takes seconds; the most impatient of public clients looks every two.
            first: Duration::from_secs(1),
            longest: Duration::from_secs(5),
            // Public clients wait up to half an hour for a server.
            settle: Duration::from_secs(30 * 60),
            busy: Duration::from_secs(10 * 60),
            unlisted: Duration::from_secs(5),
            attempts: 10,
            reads: 3,
            makes: 3,
        }
    }
}

impl Pace {
    /// The pause after this one.
    fn next(&self, pause: Duration) -> Duration {
        pause.saturating_mul(3).checked_div(2).unwrap_or(self.longest).min(self.longest)
    }
}

/// Why a piece of work failed: one line, cause and next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) String);

impl From<McpError> for Failure {
    fn from(error: McpError) -> Self {
        Self(format!("{}; {}", chain(&error), error.hint()))
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self(format!(
            "{}; nothing is changed without the journal: see that the store works and run again",
            chain(&error)
        ))
    }
}

/// What all work of one run shares.
pub(crate) struct Run {
    pub(crate) cloud: Arc<dyn Cloud>,
    pub(crate) journal: Journal,
    pub(crate) vault: Arc<dyn Vault>,
    pub(crate) mark: Mark,
    pub(crate) pace: Pace,
    pub(crate) leave: Arc<dyn Leave>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) stop: CancellationToken,
    pub(crate) changes: AtomicU64,
    view: Mutex<View>,
    calls: Semaphore,
    restarts: Semaphore,
    timing: Mutex<Timing>,
    domains: Looks<NetworkDomain>,
    vlans: Looks<Vlan>,
    servers: Looks<Server>,
    images: Arc<Images>,
    /// Public addresses that came with blocks of this run.
    added: Mutex<BTreeSet<Ipv4Addr>>,
    turns: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Run {
    pub(crate) fn new(
        cloud: Arc<dyn Cloud>,
        journal: Journal,
        vault: Arc<dyn Vault>,
        mark: Mark,
        (pace, images, leave): (Pace, Arc<Images>, Arc<dyn Leave>),
        (events, stop): (mpsc::Sender<Event>, CancellationToken),
        view: View,
    ) -> Self {
        let calls = Semaphore::new(pace.calls.max(1));
        let inside = |count: fn(&DomainView) -> usize| view.domains.values().map(count).sum();
        Self {
            cloud,
            journal,
            vault,
            mark,
            pace,
            leave,
            events,
            stop,
            changes: AtomicU64::new(0),
            calls,
            restarts: Semaphore::new(pace.restarts.max(1)),
            timing: Mutex::default(),
            domains: Looks::new(view.domains.len()),
            vlans: Looks::new(inside(|held| held.vlans.len())),
            servers: Looks::new(inside(|held| held.servers.len())),
            images,
            added: Mutex::default(),
            view: Mutex::new(view),
            turns: Mutex::default(),
        }
    }

    /// What is known of the cloud. Held for moments only, never across a call.
    pub(crate) fn view(&self) -> MutexGuard<'_, View> {
        // Every critical section leaves the view whole, so a poisoned lock is still good.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of how long things take; likewise.
    fn timing(&self) -> MutexGuard<'_, Timing> {
        self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Public addresses that came with blocks of this run; likewise.
    fn added(&self) -> MutexGuard<'_, BTreeSet<Ipv4Addr>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changing calls were sent.
    pub(crate) fn changing_calls(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Tells whoever listens; a run does not depend on being watched.
    pub(crate) async fn tell(&self, event: Event) {
        self.events.send(event).await.ok();
    }

    /// Tells that a step waits, and why.
    pub(crate) async fn waiting(&self, step: &Step, why: impl Into<String>) {
        self.tell(Event::Step(step.clone(), StepState::Waiting(why.into()))).await;
    }

    /// The turn of whatever this names: a server takes one operation at a time, a domain one address at a time.
    pub(crate) async fn turn(&self, of: impl Into<String>) -> OwnedSemaphorePermit {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(of.into()).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        turn.acquire_owned().await.expect("turns are never closed")
    }
}

/// How the work went.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    /// Steps that failed, and why.
    pub(crate) failed: Vec<(Step, String)>,
    /// Pieces of work not begun: what they need failed, or the run was stopped.
    pub(crate) undone: usize,
}

/// Does `works`. Once `stop` is cancelled, what is in hand is finished and nothing more is begun.
pub(crate) async fn execute(run: &Arc<Run>, works: Vec<Work>, stop: &CancellationToken) -> Finished {
    let mut finished = Finished::default();
    let mut missing: HashMap<Key, usize> = HashMap::new();
    let mut dependants: HashMap<Key, Vec<Key>> = HashMap::new();
    let mut ready = Vec::new();
    let mut pending: HashMap<Key, Work> = HashMap::new();
    for work in works {
        for need in &work.needs {
            dependants.entry(need.clone()).or_default().push(work.key.clone());
        }
        missing.insert(work.key.clone(), work.needs.len());
        if work.needs.is_empty() {
            ready.push(work);
        } else {
            pending.insert(work.key.clone(), work);
        }
    }
    let mut in_hand = JoinSet::new();
    let mut steps = HashMap::new();
    loop {
        if stop.is_cancelled() {
            finished.undone += ready.len();
            ready.clear();
        }
        for work in ready.drain(..) {
            let (key, step, run) = (work.key.clone(), work.step.clone(), Arc::clone(run));
            let id = in_hand.spawn(async move { perform(&run, work).await }).id();
            steps.insert(id, (key, step));
        }
        let Some(done) = in_hand.join_next_with_id().await else { break };
        let (id, result) = match done {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(Failure("a defect in this program: the step panicked".into()))),
        };
        let Some((key, step)) = steps.remove(&id) else { continue };
        match result {
            Ok(()) => {
                for dependant in dependants.remove(&key).unwrap_or_default() {
                    let Some(left) = missing.get_mut(&dependant) else { continue };
                    *left -= 1;
                    if *left == 0
                        && let Some(work) = pending.remove(&dependant)
                    {
                        ready.push(work);
                    }
                }
            }
            Err(Failure(why)) => finished.failed.push((step, why)),
        }
    }
    finished.undone += pending.len();
    finished
}

/// One piece of work with its news.
async fn perform(run: &Run, work: Work) -> Result<(), Failure> {
    let Work { step, task, .. } = work;
    let resource = match task {
        Task::Tell(node) => {
            let addresses = run.addresses(&node);
            run.tell(Event::Provisioned(node, addresses)).await;
            return Ok(());
        }
        Task::Adopt(kind, id) => {
            run.tell(Event::Step(step.clone(), StepState::Started)).await;
            run.journal.made(kind, &id).await?;
            run.tell(Event::Step(step, StepState::Done)).await;
            return Ok(());
        }
        Task::Make(resource) => Ok(resource),
        Task::Remove(removal) => Err(removal),
    };
    run.tell(Event::Step(step.clone(), StepState::Started)).await;
    let result = match resource {
        Ok(resource) => run.make(&step, &resource).await,
        Err(removal) => run.remove(&step, removal).await,
    };
    let state = match &result {
        Ok(()) => StepState::Done,
        Err(Failure(why)) => {
            tracing::warn!(kind = step.kind, name = step.name, location = step.location, why, "step failed");
            StepState::Failed(why.clone())
        }
    };
    run.tell(Event::Step(step, state)).await;
    result
}
