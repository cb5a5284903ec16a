//! The one task that owns the state: takes calls, writes the state down, sets the backing to work.
//!
//! A change is answered only after the state with it is on disk, and the backing starts on it only then too:
//! whatever is killed when, the next process knows at least as much as any client. Calls that wait at the
//! same time share one write.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use fleet_model::{Clock, Timestamp, chain};
use rand::rngs::StdRng;
use tokio::{
    sync::{OnceCell, Semaphore, mpsc, oneshot},
    task::{self, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    access::{ServerStatus, Status},
    backing::{Backing, Id},
    durable,
    settings::Settings,
    state::{Answer, Call, Context, Done, Origin, Refused, State, Step, Twist, Work},
};

/// How long a synchronous change waits for the packet filter before it gives up on a good answer.
const FILTER_PATIENCE: Duration = Duration::from_secs(30);
/// Pause before a domain that could not be realised is tried again; doubles up to the ceiling.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_CEILING: Duration = Duration::from_secs(30);
/// Longest sleep: the clock may be set while we sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// What is said of work that panicked.
const DEFECT: &str = "a defect of the local cloud: its log says where";
/// Calls waiting for the driver.
const QUEUE: usize = 256;

/// The answer to a call.
pub(crate) type Outcome = Result<Answer, Refused>;

/// What the driver is asked.
pub(crate) enum Command {
    /// A call of the API.
    Call { call: Call, origin: Origin, twist: Twist, reply: oneshot::Sender<Outcome> },
    /// What there is, for status output.
    Status { reply: oneshot::Sender<Status> },
}

/// What a task of ours came to.
enum Finished {
    Applied { id: Id, revision: u64, result: Result<(), String> },
    Removed { id: Id, result: Result<(), String> },
    Server { id: Id, result: Result<(), String> },
    ImageGone { id: Id, result: Result<(), String> },
    Running { seen: Timestamp, result: Result<Vec<Id>, String> },
    Again { id: Id },
}

/// A synchronous change whose packet filter is not there yet.
struct Waiting {
    domain: Id,
    revision: u64,
    since: Instant,
    done: Done,
    reply: oneshot::Sender<Outcome>,
}

/// Owner of the state.
pub(crate) struct Driver {
    state: State,
    file: PathBuf,
    backing: Arc<dyn Backing>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    rng: StdRng,
    user: String,
    /// The state differs from what is on disk.
    dirty: bool,
    /// Work that may begin once the state is on disk.
    outbox: Vec<Work>,
    /// Answers that may be given once the state is on disk.
    answers: Vec<(oneshot::Sender<Outcome>, Outcome)>,
    waiting: Vec<Waiting>,
    /// Domains with an operation of the backing under way.
    busy_domains: BTreeSet<Id>,
    /// Domains that failed, how often in a row.
    failures: BTreeMap<Id, u32>,
    tasks: JoinSet<Finished>,
    /// What each task comes to if it panics: whatever waits for its end must not wait for ever.
    lost: HashMap<task::Id, Finished>,
    limit: Arc<Semaphore>,
    prepared: Arc<OnceCell<()>>,
    polling: bool,
}

impl Driver {
    pub(crate) fn new(
        state: State,
        file: PathBuf,
        backing: Arc<dyn Backing>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        rng: StdRng,
        user: String,
    ) -> Self {
        let limit = Arc::new(Semaphore::new(settings.parallel.max(1)));
        Self {
            state,
            file,
            backing,
            settings,
            clock,
            rng,
            user,
            dirty: true,
            outbox: Vec::new(),
            answers: Vec::new(),
            waiting: Vec::new(),
            busy_domains: BTreeSet::new(),
            failures: BTreeMap::new(),
            tasks: JoinSet::new(),
            lost: HashMap::new(),
            limit,
            prepared: Arc::new(OnceCell::new()),
            polling: false,
        }
    }

    /// A queue for calls.
    pub(crate) fn queue() -> (mpsc::Sender<Command>, mpsc::Receiver<Command>) {
        mpsc::channel(QUEUE)
    }

    /// Takes up what an earlier process left, given what still runs.
    pub(crate) fn adopt(&mut self, running: &[Id]) {
        let now = self.clock.now();
        self.state.notice_running(running, now);
        self.outbox.extend(self.state.resume());
    }

    /// Works until told to stop, or until nobody can call any more.
    pub(crate) async fn run(mut self, mut calls: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut poll = tokio::time::interval(self.settings.poll.max(Duration::from_millis(10)));
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = self.clock.now();
            self.dirty |= self.state.tick(now);
            self.settle().await;
            let sleep = self.state.next_due(now).unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
            // Every arm is cancel-safe: receiving, joining and ticking lose nothing when dropped.
            tokio::select! {
                () = stop.cancelled() => break,
                command = calls.recv() => {
                    let Some(command) = command else { break };
                    self.command(command);
                    while let Ok(command) = calls.try_recv() {
                        self.command(command);
                    }
                }
                Some(joined) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    if let Some(finished) = self.joined(joined) {
                        self.finished(finished);
                    }
                }
                _ = poll.tick(), if !self.polling => self.look(),
                () = tokio::time::sleep(sleep) => {}
            }
        }
        self.drain().await;
    }

    /// Lets work in hand end, within bounds. What does not end is resumed by the next process.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.settings.drain;
        while let Ok(Some(joined)) = tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
            if let Some(finished) = self.joined(joined) {
                self.finished(finished);
            }
            self.outbox.clear();
        }
        self.tasks.shutdown().await;
        self.dirty |= self.state.tick(self.clock.now());
        if let Err(error) = self.write().await {
            tracing::error!(%error, file = %self.file.display(), "state could not be written");
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Status { reply } => {
                // A caller that went away needs no answer; the same below.
                let _ = reply.send(self.status());
            }
            Command::Call { call, origin, twist, reply } => {
                let mut context = Context {
                    now: self.clock.now(),
                    user: &self.user,
                    region: &origin.region,
                    mentions: &origin.mentions,
                    rng: &mut self.rng,
                    delays: &self.settings.delays,
                    quotas: &self.settings.quotas,
                    choices: &self.settings.choices,
                    twist,
                };
                match self.state.handle(&call, &mut context) {
                    Ok((Answer::Done(done), work)) => {
                        self.dirty = true;
                        self.outbox.extend(work);
                        match done.filter.clone() {
                            Some((domain, revision)) => {
                                let since = Instant::now();
                                self.waiting.push(Waiting { domain, revision, since, done, reply });
                            }
                            None => self.answers.push((reply, Ok(Answer::Done(done)))),
                        }
                    }
                    Ok((answer, _)) => {
                        let _ = reply.send(Ok(answer));
                    }
                    Err(refused) => {
                        let _ = reply.send(Err(refused));
                    }
                }
            }
        }
    }

    /// Writes the state down if need be; then gives answers and begins work.
    async fn settle(&mut self) {
        if self.dirty {
            match self.write().await {
                Ok(()) => self.dirty = false,
                Err(error) => {
                    tracing::error!(%error, file = %self.file.display(), "state could not be written");
                    let refused = || Refused {
                        code: "SYSTEM_ERROR",
                        message: format!("The state of the cloud could not be written: {error}."),
                    };
                    for (reply, _) in self.answers.drain(..) {
                        let _ = reply.send(Err(refused()));
                    }
                    return;
                }
            }
        }
        for work in std::mem::take(&mut self.outbox) {
            self.begin(work);
        }
        for (reply, answer) in self.answers.drain(..) {
            let _ = reply.send(answer);
        }
        self.answer_waiting();
    }

    fn answer_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            if self.state.is_applied(&waiting.domain, waiting.revision) {
                let _ = waiting.reply.send(Ok(Answer::Done(waiting.done)));
            } else if waiting.since.elapsed() > FILTER_PATIENCE {
                let message = "The change is kept, but the network could not be brought up to it yet.";
                let _ = waiting
                    .reply
                    .send(Err(Refused { code: "UNEXPECTED_ERROR", message: message.to_owned() }));
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    async fn write(&self) -> std::io::Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.state)?;
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || durable::replace(&file, &bytes)).await?
    }

    fn begin(&mut self, work: Work) {
        match work {
            Work::Domain(id) | Work::RemoveDomain(id) => self.drive_domain(id),
            Work::RemoveImage(id) => {
                let backing = self.backing.clone();
                let lost = Finished::ImageGone { id: id.clone(), result: Err(DEFECT.to_owned()) };
                self.spawn(lost, async move {
                    let result = backing.remove_image(&id).await.map_err(|error| chain(&error));
                    Finished::ImageGone { id, result }
                });
            }
            Work::Server(id, steps) => {
                let (backing, limit, prepared) =
                    (self.backing.clone(), self.limit.clone(), self.prepared.clone());
                let lost = Finished::Server { id: id.clone(), result: Err(DEFECT.to_owned()) };
                self.spawn(lost, async move {
                    // The semaphore is never closed; were it, running unbounded is better than not at all.
                    let _permit = limit.acquire_owned().await;
                    let result = serve_server(&*backing, &prepared, &id, steps).await;
                    Finished::Server { id, result }
                });
            }
        }
    }

    /// Does what the domain needs, unless something is under way for it: then its end brings us here again.
    fn drive_domain(&mut self, id: Id) {
        if self.busy_domains.contains(&id) {
            return;
        }
        let backing = self.backing.clone();
        if self.state.is_leaving(&id) {
            self.busy_domains.insert(id.clone());
            let lost = Finished::Removed { id: id.clone(), result: Err(DEFECT.to_owned()) };
            self.spawn(lost, async move {
                let result = backing.remove_domain(&id).await.map_err(|error| chain(&error));
                Finished::Removed { id, result }
            });
        } else if self.state.is_behind(&id)
            && let Some((spec, revision)) = self.state.domain_spec(&id)
        {
            self.busy_domains.insert(id.clone());
            let lost = Finished::Applied { id: id.clone(), revision, result: Err(DEFECT.to_owned()) };
            self.spawn(lost, async move {
                let result = backing.apply_domain(&spec).await.map_err(|error| chain(&error));
                Finished::Applied { id, revision, result }
            });
        }
    }

    /// Sets a task to work; `lost` is what it comes to if it panics.
    fn spawn(&mut self, lost: Finished, work: impl Future<Output = Finished> + Send + 'static) {
        let id = self.tasks.spawn(work).id();
        self.lost.insert(id, lost);
    }

    /// What a task came to.
    fn joined(&mut self, joined: Result<(task::Id, Finished), JoinError>) -> Option<Finished> {
        match joined {
            Ok((id, finished)) => {
                self.lost.remove(&id);
                Some(finished)
            }
            Err(error) => {
                tracing::error!(%error, "task of the cloud failed");
                self.lost.remove(&error.id())
            }
        }
    }

    fn finished(&mut self, finished: Finished) {
        let now = self.clock.now();
        match finished {
            Finished::Applied { id, revision, result } => {
                self.busy_domains.remove(&id);
                let failed = result.is_err();
                self.state.domain_done(&id, revision, result, now);
                self.dirty |= failed;
                if failed && !self.state.is_leaving(&id) {
                    let failures = self.failures.entry(id.clone()).or_default();
                    *failures += 1;
                    let pause = RETRY_FIRST.saturating_mul(1 << (*failures - 1).min(5)).min(RETRY_CEILING);
                    self.spawn(Finished::Again { id: id.clone() }, async move {
                        tokio::time::sleep(pause).await;
                        Finished::Again { id }
                    });
                } else {
                    self.failures.remove(&id);
                    self.drive_domain(id);
                }
            }
            Finished::Removed { id, result } => {
                self.busy_domains.remove(&id);
                self.failures.remove(&id);
                self.state.domain_removed(&id, result);
                self.dirty = true;
            }
            Finished::Server { id, result } => {
                self.state.server_done(&id, result);
                self.dirty = true;
            }
            Finished::ImageGone { id, result } => {
                // The next process removes what this one could not: it keeps no image that the state lacks.
                if let Err(why) = result {
                    tracing::warn!(
                        image = id,
                        why,
                        "files of an image are left until the cloud starts again"
                    );
                }
            }
            Finished::Again { id } => self.drive_domain(id),
            Finished::Running { seen, result } => {
                self.polling = false;
                match result {
                    Ok(running) => self.dirty |= self.state.notice_running(&running, seen),
                    Err(why) => tracing::warn!(why, "cannot tell which servers run"),
                }
            }
        }
    }

    /// Asks the backing which servers run.
    fn look(&mut self) {
        self.polling = true;
        let (backing, seen) = (self.backing.clone(), self.clock.now());
        let lost = Finished::Running { seen, result: Err(DEFECT.to_owned()) };
        self.spawn(lost, async move {
            let result = backing.running().await.map_err(|error| chain(&error));
            Finished::Running { seen, result }
        });
    }

    fn status(&self) -> Status {
        let row = |server: &fleet_mcp::types::Server| {
            let nic = server.network_info.as_ref().map(|network| &network.primary_nic);
            ServerStatus {
                id: server.id.to_string(),
                name: server.name.clone(),
                datacenter: server.datacenter_id.to_string(),
                state: server.state.to_string(),
                started: server.started,
                failure: server.progress.as_ref().and_then(|progress| progress.failure_reason.clone()),
                private_ipv4: nic.and_then(|nic| nic.private_ipv4).map(|address| address.to_string()),
                ipv6: nic.and_then(|nic| nic.ipv6).map(|address| address.0.to_string()),
                console: self.backing.console(server.id.as_str()),
            }
        };
        Status {
            backing: self.backing.kind().to_owned(),
            pid: std::process::id(),
            network_domains: self.state.domains.len(),
            servers: self.state.servers().map(row).collect(),
        }
    }
}

/// Takes the steps for one server, one after the other.
async fn serve_server(
    backing: &dyn Backing,
    prepared: &OnceCell<()>,
    id: &str,
    steps: Vec<Step>,
) -> Result<(), String> {
    for step in steps {
        let result = match step {
            Step::Apply(spec) => {
                // Usually done before we serve; a failure is tried again with the next server.
                let prepare =
                    || async { backing.prepare(&|line| tracing::info!(line, "preparing machines")).await };
                match prepared.get_or_try_init(prepare).await {
                    Ok(()) => backing.apply_server(&spec).await,
                    Err(error) => Err(error),
                }
            }
            Step::Start(spec) => backing.start(&spec).await,
            Step::Stop(how) => backing.stop(id, how).await,
            Step::Reset => backing.reset(id).await,
            Step::Clone(spec, image) => backing.clone_server(&spec, &image).await,
            Step::Remove => backing.remove_server(id).await,
        };
        result.map_err(|error| chain(&error))?;
    }
    Ok(())
}
