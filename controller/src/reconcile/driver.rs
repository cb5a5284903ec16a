//! The one run of the fleet: belongs to the controller, goes on when nobody listens.

use std::sync::Arc;

use fleet_model::Clock;
use fleet_plan::ResolvedPlan;
use fleet_proto::v1;
use fleet_store::Expected;
use tokio::sync::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    apply, board, down,
    home::Homecoming,
    progress::{Listener, Teller},
    provision::Provisioners,
};
use crate::{
    enrol::service::Enrolment,
    records::{FleetRecord, Held, PlanRecord, RecordError, Records, RunEnd, RunKind, RunRecord, keys},
};

/// What runs work with.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The way home.
    pub homecoming: Homecoming,
    /// Who is who.
    pub enrolment: Arc<Enrolment>,
    /// The cloud.
    pub provisioners: Arc<dyn Provisioners>,
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
            let record = FleetRecord { id, created: self.clock().now(), plan: None, cloud: None };
            match self.records().put(&keys::fleet(), &record, Expected::Absent).await {
                // Somebody was faster: theirs is the fleet.
                Err(error) if error.is_conflict() => {}
                other => drop(other?),
            }
        }
    }
}

/// A plan that was read without problems.
#[derive(Clone, Debug)]
pub struct Given {
    /// As the operator gave it.
    pub record: PlanRecord,
    /// What it means.
    pub plan: Arc<ResolvedPlan>,
}

/// What to run.
#[derive(Clone, Debug)]
pub enum Order {
    /// Towards a plan.
    Apply {
        /// The plan.
        given: Given,
        /// How far.
        until: v1::Until,
    },
    /// To nothing.
    Down,
}

impl Order {
    const fn kind(&self) -> RunKind {
        match self {
            Self::Apply { .. } => RunKind::Apply,
            Self::Down => RunKind::Down,
        }
    }
}

/// Starts runs, one at a time.
#[derive(Debug)]
pub struct Driver {
    tools: Tools,
    /// The run under way, if its task has not ended.
    running: Mutex<Option<Running>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Driver {
    /// A driver whose runs belong to `tasks` and end with `stop`.
    pub fn new(tools: Tools, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { tools, running: Mutex::default(), tasks, stop }
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
        let record = self.begin(order.kind()).await?;
        let (teller, listener) = Teller::new(self.tools.clock().clone());
        // Stopped with the controller, or alone.
        let stop = self.stop.child_token();
        let run =
            Run { tools: self.tools.clone(), record, teller, stop: stop.clone(), whole: self.stop.clone() };
        let task = self.tasks.spawn(run.perform(order));
        *running = Some(Running { stop, task });
        Ok(listener)
    }

    /// Tells the run under way to finish its steps in hand and start no more; says whether there was one.
    pub async fn halt(&self) -> bool {
        let running = self.running.lock().await;
        match &*running {
            Some(run) if !run.task.is_finished() => {
                run.stop.cancel();
                true
            }
            _ => false,
        }
    }

    async fn begin(&self, kind: RunKind) -> Result<RunRecord, RecordError> {
        let last = self.tools.records().get::<RunRecord>(&keys::run()).await?;
        let number = last.map_or(0, |held| held.value.number) + 1;
        let record = RunRecord { number, kind, started: self.tools.clock().now(), end: None };
        self.tools.records().put(&keys::run(), &record, Expected::Any).await?;
        Ok(record)
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
        };
        tracing::info!(run = number, kind = word, "run started");
        board.set_activity(format!("run {number} ({word}) is under way"));
        let started = tokio::time::Instant::now();
        let teller = Arc::new(self.teller);
        let finished = match order {
            Order::Apply { given, until } => apply::run(&self.tools, given, until, &teller, &self.stop).await,
            Order::Down => down::run(&self.tools, &teller, &self.stop).await,
        };
        let finished = match finished {
            Ok(finished) => finished,
            Err(error) => {
                let why = format!("{}; see the controller's log, then run again", crate::chain(&error));
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
                tracing::error!(error = %crate::chain(&error), "end of run not written");
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
