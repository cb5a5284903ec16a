//! The one run of the fleet: belongs to the controller, goes on when nobody listens.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex as Quick, MutexGuard, PoisonError},
};

use fleet_model::{Clock, FleetName, NodeName, Timestamp};
use fleet_proto::v1;
use fleet_store::Expected;
use tokio::sync::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    apply, board, down, expiry,
    given::Given,
    home::Homecoming,
    progress::{Listener, Teller},
    provision::Provisioners,
    replace,
};
use crate::{
    artifacts::Artifacts,
    enrol::service::Enrolment,
    permit::keeper::Keeper,
    records::{FleetRecord, Held, RecordError, Records, RunEnd, RunKind, RunRecord, keys},
    rollout,
};

/// What runs work with.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Whose runs they are.
    pub fleet_name: FleetName,
    /// The way home.
    pub homecoming: Homecoming,
    /// Who is who.
    pub enrolment: Arc<Enrolment>,
    /// The cloud.
    pub provisioners: Arc<dyn Provisioners>,
    /// What only so many nodes may do at a time.
    pub permits: Arc<Keeper>,
    /// What plans bring along.
    pub artifacts: Artifacts,
    /// What changes running nodes.
    pub rollouts: Arc<rollout::Driver>,
}

impl Tools {
    pub(super) fn records(&self) -> &Records {
        &self.homecoming.records
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.homecoming.desk.clock
    }

    /// The fleet's record; made on first use, when its id is drawn.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails.
    pub async fn fleet(&self) -> Result<Held<FleetRecord>, RecordError> {
        loop {
            if let Some(held) = self.records().get::<FleetRecord>(&keys::fleet()).await? {
                return Ok(held);
            }
            let id = uuid::Uuid::new_v4().to_string();
            let created = self.clock().now();
            let record = FleetRecord { id, created, plan: None, cloud: None, provision_only: false };
            match self.records().put(&keys::fleet(), &record, Expected::Absent).await {
                // Somebody was faster: theirs is the fleet.
                Err(error) if error.is_conflict() => {}
                other => drop(other?),
            }
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub enum Order {
    /// Towards a plan.
    Apply {
        /// Who wants it.
        by: String,
        /// The plan.
        given: Given,
        /// How far.
        until: v1::Until,
        /// Nodes whose servers are destroyed and made anew.
        replace: BTreeSet<NodeName>,
    },
    /// To nothing.
    Down,
    /// To nothing, because the fleet's end has come.
    Expire {
        /// The end.
        end: Timestamp,
    },
    /// Towards the plan in force, with another server for this node.
    Replace {
        /// The plan.
        given: Given,
        /// The node.
        node: NodeName,
    },
}

impl Order {
    const fn kind(&self) -> RunKind {
        match self {
            Self::Apply { .. } => RunKind::Apply,
            Self::Down | Self::Expire { .. } => RunKind::Down,
            Self::Replace { .. } => RunKind::Replace,
        }
    }
}

/// A run could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another one is under way.
    #[error("another run is under way")]
    Busy,
}

/// Starts runs, one at a time.
#[derive(Debug)]
pub struct Driver {
    tools: Tools,
    /// The run under way, if its task has not ended. Held while the one before it is waited for.
    running: Mutex<Option<Running>>,
    /// What halting needs: apart, so that it never waits.
    halting: Quick<Halting>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Halting {
    /// The latest run, and whether it has ended.
    run: Option<(CancellationToken, tokio::task::AbortHandle)>,
    /// Runs about to start.
    starting: usize,
    /// Counts halts: a run that was about to start when one came starts halted.
    halts: u64,
}

impl Driver {
    /// A driver whose runs belong to `tasks` and end with `stop`.
    pub fn new(tools: Tools, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { tools, running: Mutex::default(), halting: Quick::default(), tasks, stop }
    }

    /// What runs work with.
    pub const fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Starts a run, once the one under way has finished its steps in hand.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; then nothing was started.
    ///
    /// # Cancel safety
    /// Dropping the future before it returns leaves the earlier run stopping, or stopped and none started.
    pub async fn start(&self, order: Order) -> Result<Listener, RecordError> {
        let starting = Starting::new(self);
        let mut running = self.running.lock().await;
        // Left in its place until it has ended: whoever asked may go away meanwhile, and the next must wait for it
        // just the same.
        if let Some(earlier) = running.as_mut() {
            earlier.stop.cancel();
            if let Err(error) = (&mut earlier.task).await {
                tracing::error!(%error, "the earlier run ended badly");
            }
            *running = None;
        }
        self.launch(&mut running, order, &starting).await
    }

    /// Starts a run if none is under way.
    ///
    /// # Errors
    /// [`StartError`]; then nothing was started.
    pub async fn start_alone(&self, order: Order) -> Result<Listener, StartError> {
        let starting = Starting::new(self);
        // Locked means that somebody is just starting one.
        let mut running = self.running.try_lock().map_err(|_| StartError::Busy)?;
        if running.as_ref().is_some_and(|run| !run.task.is_finished()) {
            return Err(StartError::Busy);
        }
        Ok(self.launch(&mut running, order, &starting).await?)
    }

    async fn launch(
        &self,
        running: &mut Option<Running>,
        order: Order,
        starting: &Starting<'_>,
    ) -> Result<Listener, RecordError> {
        let record = self.begin(order.kind()).await?;
        let (teller, listener) = Teller::new(self.tools.clock().clone());
        // Stopped with the controller, or alone.
        let stop = self.stop.child_token();
        let run =
            Run { tools: self.tools.clone(), record, teller, stop: stop.clone(), whole: self.stop.clone() };
        let mut halting = self.halting();
        if halting.halts != starting.halts {
            stop.cancel();
        }
        let task = self.tasks.spawn(run.perform(order));
        halting.run = Some((stop.clone(), task.abort_handle()));
        drop(halting);
        *running = Some(Running { stop, task });
        Ok(listener)
    }

    /// Tells the run under way, and any about to start, to finish its steps in hand and start no more; says whether
    /// there was one. Never waits.
    pub fn halt(&self) -> bool {
        let mut halting = self.halting();
        halting.halts += 1;
        let under_way = halting.run.as_ref().filter(|(_, task)| !task.is_finished());
        if let Some((stop, _)) = under_way {
            stop.cancel();
        }
        under_way.is_some() || halting.starting > 0
    }

    /// Whether a run is under way, or about to be.
    pub fn is_running(&self) -> bool {
        let halting = self.halting();
        halting.starting > 0 || halting.run.as_ref().is_some_and(|(_, task)| !task.is_finished())
    }

    fn halting(&self) -> MutexGuard<'_, Halting> {
        // No critical section can leave it half changed.
        self.halting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(&self, kind: RunKind) -> Result<RunRecord, RecordError> {
        let last = self.tools.records().get::<RunRecord>(&keys::run()).await?;
        let number = last.map_or(0, |held| held.value.number) + 1;
        let record = RunRecord { number, kind, started: self.tools.clock().now(), end: None };
        self.tools.records().put(&keys::run(), &record, Expected::Any).await?;
        Ok(record)
    }
}

/// A run about to start, so that a halt finds it.
struct Starting<'a> {
    driver: &'a Driver,
    /// Halts before it.
    halts: u64,
}

impl<'a> Starting<'a> {
    fn new(driver: &'a Driver) -> Self {
        let mut halting = driver.halting();
        halting.starting += 1;
        Self { driver, halts: halting.halts }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.driver.halting().starting -= 1;
    }
}

/// One run.
struct Run {
    tools: Tools,
    record: RunRecord,
    teller: Teller,
    stop: CancellationToken,
    /// Cancelled when the whole controller stops: then the run is cut, not ended.
    whole: CancellationToken,
}

impl Run {
    async fn perform(mut self, order: Order) {
        let board = self.tools.homecoming.board.clone();
        let number = self.record.number;
        let word = match order.kind() {
            RunKind::Apply => "up",
            RunKind::Down => "down",
            RunKind::Replace => "replace",
        };
        tracing::info!(run = number, kind = word, "run started");
        board.set_activity(format!("run {number} ({word}) is under way"));
        let started = tokio::time::Instant::now();
        let teller = Arc::new(self.teller);
        let finished = match order {
            Order::Apply { by, given, until, replace } => {
                let wish = apply::Wish { given, until, consented: replace, rolls: Some(by) };
                apply::ordered(&self.tools, wish, &teller, &self.stop).await
            }
            Order::Down => down::run(&self.tools, &teller, &self.stop).await,
            Order::Expire { end } => expiry::run(&self.tools, end, &teller, &self.stop).await,
            Order::Replace { given, node } => {
                replace::run(&self.tools, given, node, &teller, &self.stop).await
            }
        };
        let finished = match finished {
            Ok(finished) => finished,
            Err(error) => {
                let why = format!("{}; see the controller's log, then run again", fleet_model::chain(&error));
                v1::Finished { problems: vec![why], ..v1::Finished::default() }
            }
        };
        let finished = v1::Finished {
            took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..finished
        };
        tracing::info!(run = number, ok = finished.ok, problems = ?finished.problems, "run ended");
        if !self.whole.is_cancelled() {
            self.record.end = Some(RunEnd {
                at: self.tools.clock().now(),
                ok: finished.ok,
                problems: finished.problems.clone(),
            });
            let written = self.tools.records().put(&keys::run(), &self.record, Expected::Any).await;
            if let Err(error) = written {
                tracing::error!(error = %fleet_model::chain(&error), "end of run not written");
            }
        }
        board.set_activity(board::activity(&self.record));
        match Arc::try_unwrap(teller) {
            Ok(teller) => teller.finish(finished),
            // Every task of a run is awaited before it ends, so nobody else can still be telling.
            Err(_) => tracing::error!("a task outlived its run"),
        }
    }
}
