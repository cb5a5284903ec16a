//! The `Operator` service: everything a person or the dashboard asks of a controller.

mod artifacts;
mod preview;
mod status;
mod stream;

use std::{sync::Arc, time::Duration};

use fleet_model::{FleetName, NodeName};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{self, command, operator_server::Operator},
};
use tonic::{Request, Response, Status};

pub use status::fleet_status;
pub use stream::{ProgressStream, StatusStream};

use self::artifacts::Shelf;
use crate::{
    artifacts::Artifacts,
    authority::operator,
    reconcile::{
        board::Board,
        driver::{Driver, Order, StartError},
        given::Given,
        settle,
    },
    rollout,
    session::stream::Desk,
};

/// Longest wait for answers to a question asked of everybody.
const NOOP_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a node to take up a repair.
const REPAIR: Duration = Duration::from_secs(15);

/// What operators may ask.
#[derive(Clone, Debug)]
pub struct OperatorService {
    fleet: FleetName,
    driver: Arc<Driver>,
    shelf: Arc<Shelf>,
}

impl OperatorService {
    /// Serves `fleet`; `todo` is the todo application's program, or why there is none.
    pub fn new(
        fleet: FleetName,
        driver: Arc<Driver>,
        artifacts: Artifacts,
        todo: Result<v1::Artifact, String>,
    ) -> Self {
        Self { fleet, driver, shelf: Arc::new(Shelf::new(artifacts, todo)) }
    }

    fn board(&self) -> &Arc<Board> {
        &self.driver.tools().homecoming.board
    }

    fn rollouts(&self) -> &rollout::Driver {
        &self.driver.tools().rollouts
    }

    fn desk(&self) -> &Arc<Desk> {
        &self.driver.tools().homecoming.desk
    }

    async fn given(&self, document: Option<v1::PlanDocument>) -> Result<Given, Status> {
        let document = document.ok_or_else(|| {
            bad_request("the request holds no plan", "use a command line of this controller's version")
        })?;
        let mut given =
            Given::read(document.into()).map_err(|error| bad_request(error.to_string(), error.hint()))?;
        given.record.todo = self.shelf.todo(&given.plan);
        if given.plan.fleet != self.fleet {
            return Err(bad_request(
                format!(
                    "this controller serves fleet `{}`, the plan is for `{}`",
                    self.fleet, given.plan.fleet
                ),
                "each fleet has its own controller; `fleetctl up` starts it",
            ));
        }
        let fleet = self.driver.tools().fleet().await.map_err(|error| internal(&error))?;
        given.fits(&fleet.value).map_err(|error| bad_request(error.to_string(), error.hint()))?;
        self.shelf.complete(&given.plan, &given.record).await?;
        rollout::known_zones(&given.plan.rollout, self.desk().clock.now())?;
        Ok(given)
    }

    async fn start(&self, order: Order) -> Result<Response<ProgressStream>, Status> {
        let listener = self.driver.start(order).await.map_err(|error| internal(&error))?;
        Ok(Response::new(ProgressStream::new(listener)))
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    type ApplyStream = ProgressStream;
    type DownStream = ProgressStream;
    type WatchStream = StatusStream;
    type ReplaceStream = ProgressStream;

    async fn ping(&self, request: Request<v1::PingRequest>) -> Result<Response<v1::PingReply>, Status> {
        operator(&request)?;
        Ok(Response::new(v1::PingReply {
            controller_version: fleet_proto::VERSION.to_owned(),
            fleet: self.fleet.to_string(),
            controller_time_ms: self.desk().clock.now().as_millis(),
            pid: std::process::id(),
        }))
    }

    async fn preview(
        &self,
        request: Request<v1::PreviewRequest>,
    ) -> Result<Response<v1::PreviewReply>, Status> {
        operator(&request)?;
        self.preview_of(request.into_inner()).await.map(Response::new)
    }

    async fn orphans(
        &self,
        request: Request<v1::OrphansRequest>,
    ) -> Result<Response<v1::OrphansReply>, Status> {
        operator(&request)?;
        self.orphans_now().await.map(Response::new)
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<ProgressStream>, Status> {
        let who = operator(&request)?;
        let request = request.into_inner();
        let until = request.until();
        let given = self.given(request.plan).await?;
        let replace = preview::consent(&given.plan, &request.replace)?;
        replace.iter().try_for_each(|node| self.may_lose_its_disks(&given, node))?;
        if settle::several_hold_copies(&given.plan, self.desk(), &replace) {
            return Err(bad_request(
                "several nodes that may hold copies of a database are not replaced in one run",
                "one at a time: `fleetctl up PLAN --replace NODE`; each waits until the database is whole again",
            ));
        }
        tracing::info!(operator = %who, plan = given.record.file, ?replace, "apply");
        if until == v1::Until::Ready && !self.board().change_by(given.clone()).nodes.is_empty() {
            // Before anything is touched.
            self.rollouts().turn().await.no_release_under_way()?;
        }
        self.start(Order::Apply { by: who, given, until, replace }).await
    }

    async fn down(&self, request: Request<v1::DownRequest>) -> Result<Response<ProgressStream>, Status> {
        let who = operator(&request)?;
        tracing::info!(operator = who, "down");
        self.start(Order::Down).await
    }

    async fn halt(&self, request: Request<v1::HaltRequest>) -> Result<Response<v1::HaltReply>, Status> {
        let who = operator(&request)?;
        let was_running = self.driver.halt();
        tracing::info!(operator = who, was_running, "halt");
        Ok(Response::new(v1::HaltReply { was_running }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::FleetStatus>, Status> {
        operator(&request)?;
        let node = self.one_node(&request.into_inner().node)?;
        Ok(Response::new(fleet_status(&self.fleet, self.board(), self.desk(), node.as_ref())))
    }

    async fn watch(&self, request: Request<v1::StatusRequest>) -> Result<Response<StatusStream>, Status> {
        operator(&request)?;
        let node = self.one_node(&request.into_inner().node)?;
        Ok(Response::new(StatusStream::new(
            self.fleet.clone(),
            self.board().clone(),
            self.desk().clone(),
            node,
        )))
    }

    async fn information(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::InformationReply>, Status> {
        operator(&request)?;
        let node = self.one_node(&request.into_inner().node)?;
        let Some(plan) = self.board().plan() else { return Err(no_plan()) };
        let addresses = self.board().all_addresses();
        let lookup = |name: &NodeName| {
            addresses.get(name).map(|known| fleet_plan::NodeValues {
                public: known.public_ipv4,
                private: known.private_ipv4,
                ipv6: known.ipv6,
            })
        };
        let nodes = plan
            .nodes()
            .filter(|placed| node.as_ref().is_none_or(|node| *node == placed.node.name))
            .map(|placed| v1::NodeInformation {
                node: placed.node.name.to_string(),
                text: placed.node.information.render(Some(&placed.node.name), &lookup),
            });
        Ok(Response::new(v1::InformationReply {
            nodes: nodes.collect(),
            plan: plan.information.render(None, &lookup),
        }))
    }

    async fn user_data(
        &self,
        request: Request<v1::UserDataRequest>,
    ) -> Result<Response<v1::UserDataReply>, Status> {
        let who = operator(&request)?;
        let Some(node) = self.one_node(&request.into_inner().node)? else {
            return Err(bad_request("user-data is for one node", "name the node"));
        };
        tracing::info!(operator = who, %node, "user-data");
        let seed = self.driver.tools().homecoming.seed(&node).await.map_err(Status::failed_precondition)?;
        let token_expires_ms = seed.expires.as_millis();
        Ok(Response::new(v1::UserDataReply { document: seed.document, token_expires_ms }))
    }

    async fn missing(
        &self,
        request: Request<v1::ArtifactList>,
    ) -> Result<Response<v1::ArtifactList>, Status> {
        operator(&request)?;
        let artifacts = self.shelf.missing(request.into_inner().artifacts).await?;
        Ok(Response::new(v1::ArtifactList { artifacts }))
    }

    async fn keep(
        &self,
        request: Request<tonic::Streaming<v1::KeepChunk>>,
    ) -> Result<Response<v1::KeepReply>, Status> {
        operator(&request)?;
        self.shelf.keep(request.into_inner()).await?;
        Ok(Response::new(v1::KeepReply {}))
    }

    async fn replace(
        &self,
        request: Request<v1::ReplaceRequest>,
    ) -> Result<Response<ProgressStream>, Status> {
        let who = operator(&request)?;
        let Some(node) = self.one_node(&request.into_inner().node)? else {
            return Err(bad_request("a replacement is of one node", "name the node"));
        };
        let Some(given) = self.board().given() else { return Err(no_plan()) };
        // It may have been kept by an earlier controller; said before anything is destroyed.
        self.shelf.complete(&given.plan, &given.record).await?;
        self.may_lose_its_disks(&given, &node)?;
        tracing::info!(operator = who, %node, "replace");
        match self.driver.start_alone(Order::Replace { given, node }).await {
            Ok(listener) => Ok(Response::new(ProgressStream::new(listener))),
            Err(StartError::Record(error)) => Err(internal(&error)),
            Err(StartError::Busy) => Err(Refusal::new(
                RefusalKind::RefusalBusy,
                format!("nothing is replaced meanwhile: {}", self.board().activity()),
                "wait for its end, or stop it with Ctrl-C where it runs; then replace the node",
            )
            .into()),
        }
    }

    async fn repair(&self, request: Request<v1::RepairRequest>) -> Result<Response<v1::RepairReply>, Status> {
        let who = operator(&request)?;
        let v1::RepairRequest { node, task } = request.into_inner();
        let Some(node) = self.one_node(&node)? else {
            return Err(bad_request("a repair is of one node", "name the node"));
        };
        self.repair_node(&node, task).await?;
        tracing::info!(operator = who, %node, "repair");
        Ok(Response::new(v1::RepairReply {}))
    }

    async fn noop(&self, request: Request<v1::NoopRequest>) -> Result<Response<v1::NoopReply>, Status> {
        operator(&request)?;
        let timeout = Duration::from_millis(request.into_inner().timeout_ms.into()).min(NOOP_MAX);
        let desk = self.desk();
        let lives = desk.registry.lives();
        let answers = desk.dispatch.ask(lives, command::What::Noop(v1::Noop {}), timeout).await;
        Ok(Response::new(v1::NoopReply {
            answered: u32::try_from(answers.answered).unwrap_or(u32::MAX),
            silent: answers.silent.iter().map(ToString::to_string).collect(),
            took_us: u64::try_from(answers.took.as_micros()).unwrap_or(u64::MAX),
        }))
    }
}

impl OperatorService {
    /// Refuses to take a machine away while a database is not settled: what it holds may be the last copy.
    fn may_lose_its_disks(&self, given: &Given, node: &NodeName) -> Result<(), Status> {
        let Some(why) = settle::in_the_way(&given.plan, self.desk(), node) else { return Ok(()) };
        Err(bad_request(
            format!(
                "node `{node}` is not replaced now, since the last copy of something may be on it: {why}"
            ),
            "wait until `fleetctl status` shows nothing of that any more; a node that is silent, or whose own \
             database server is in trouble, may be replaced at any time",
        ))
    }

    /// Has a node repair a task, or all; it has taken that up when this returns.
    async fn repair_node(&self, node: &NodeName, task: String) -> Result<(), Status> {
        let desk = self.desk();
        let desired = desk.registry.desired(node);
        let tasks = desired.iter().flat_map(|desired| &desired.tasks).map(|task| task.name.as_str());
        let tasks: Vec<&str> = tasks.collect();
        if !task.is_empty() && !tasks.contains(&task.as_str()) {
            return Err(Refusal::new(
                RefusalKind::RefusalUnknown,
                format!("node `{node}` has no task `{task}`"),
                format!("its tasks are {}", tasks.join(", ")),
            )
            .into());
        }
        let Some(live) = desk.registry.live(node) else { return Err(away(node)) };
        let what = command::What::Repair(v1::Repair { task });
        let answers = desk.dispatch.ask(vec![live], what, REPAIR).await;
        match answers.failed.into_iter().next() {
            Some((_, why)) => Err(bad_request(
                format!("node `{node}` could not take that up: {why}"),
                format!("`fleetctl status {node}` shows its tasks"),
            )),
            None if answers.answered == 0 => Err(away(node)),
            None => Ok(()),
        }
    }

    /// The node a request names, if it names one; it must be in the plan.
    fn one_node(&self, name: &str) -> Result<Option<NodeName>, Status> {
        if name.is_empty() {
            return Ok(None);
        }
        let Some(plan) = self.board().plan() else { return Err(no_plan()) };
        let node = name.parse::<NodeName>().ok().filter(|node| plan.node(node).is_some());
        node.map(Some).ok_or_else(|| {
            let known: Vec<_> = plan.nodes().map(|placed| placed.node.name.to_string()).collect();
            Refusal::new(
                RefusalKind::RefusalUnknown,
                format!("no node `{name}` in this fleet"),
                format!("its nodes are {}", known.join(", ")),
            )
            .into()
        })
    }
}

fn away(node: &NodeName) -> Status {
    Refusal::new(
        RefusalKind::RefusalUnknown,
        format!("node `{node}` does not answer"),
        format!("`fleetctl status {node}` says since when; see its console, or replace it"),
    )
    .into()
}

fn no_plan() -> Status {
    Refusal::new(RefusalKind::RefusalUnknown, "this fleet has no plan", "`fleetctl up PLAN` gives it one")
        .into()
}

fn bad_request(message: impl Into<String>, hint: impl Into<String>) -> Status {
    Refusal::new(RefusalKind::RefusalBadRequest, message, hint).into()
}

/// Logged where it is handled; the operator hears the cause, since it is theirs to mend.
fn internal(error: &dyn std::error::Error) -> Status {
    let why = fleet_model::chain(error);
    tracing::error!(error = why, "operator's call failed");
    Status::internal(why)
}
