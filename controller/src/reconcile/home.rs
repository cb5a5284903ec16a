//! Brings one node home: first boot if it has no session, then waits until its tasks have converged.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fleet_hosts::{Mark, held::Place};
use fleet_model::{NodeName, Timestamp};
use fleet_proto::v1::{NodeState, Stage};
use fleet_provider::{
    bootstrap::{BootStage, BootstrapError},
    event::Addresses,
    vault::Vault,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{board::Board, progress::Teller};
use crate::{
    desired::{Convergence, convergence},
    enrol::{
        ca::Ca,
        token::{self, TokenHash},
    },
    first_boot::{
        Door, FirstBoot, SSH, Target, Way,
        reports::{FirstBoots, Report},
    },
    records::{FleetRecord, Records, keys},
    session::{registry::View, stream::Desk},
    settings::Timing,
};

/// First boots of one node in one run: the second attempt is for a connection that broke.
const ATTEMPTS: u32 = 2;

/// What bringing nodes home takes.
#[derive(Clone, Debug)]
pub struct Homecoming {
    /// What is known.
    pub board: Arc<Board>,
    /// Who is there.
    pub desk: Arc<Desk>,
    /// The store.
    pub records: Records,
    /// Whom nodes trust.
    pub ca: Arc<Ca>,
    /// Initial passwords.
    pub vault: Arc<crate::vault::SealedVault>,
    /// Seeds and SSH.
    pub first_boot: Arc<dyn FirstBoot>,
    /// What new servers say.
    pub first_boots: Arc<FirstBoots>,
    /// Whose releases nodes take.
    pub releases: Arc<crate::releases::Releases>,
    /// Where nodes enrol.
    pub enrol_addresses: Arc<Vec<String>>,
    /// Deadlines.
    pub timing: Timing,
}

/// What brings a node home.
#[derive(Debug)]
pub struct Seed {
    /// What is carried to its server.
    pub document: Vec<u8>,
    /// The token in it, by its hash.
    pub token: TokenHash,
    /// When that runs out.
    pub expires: Timestamp,
}

/// Why a node is not home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Cause and next step in one line.
    Failed(String),
    /// The run was told to stop.
    Stopped,
}

impl Homecoming {
    /// Brings `node` home and waits until it has converged.
    ///
    /// # Errors
    /// [`Stuck`]; running again continues.
    ///
    /// # Cancel safety
    /// May be dropped at any time; what was begun on the node goes on or is begun anew by the next run.
    pub async fn bring(
        &self,
        node: &NodeName,
        addresses: &Addresses,
        teller: &Teller,
        stop: &CancellationToken,
    ) -> Result<(), Stuck> {
        let work = async {
            if !self.is_back(node, teller).await {
                self.first_boot(node, addresses, teller, stop).await?;
            }
            self.converge(node, teller).await
        };
        // Cancel safe: see above.
        tokio::select! {
            () = stop.cancelled() => Err(Stuck::Stopped),
            done = work => done,
        }
        .inspect_err(|stuck| {
            if let Stuck::Failed(why) = stuck {
                self.stage(node, NodeState::NodeFailed, why, teller);
            }
        })
    }

    /// Whether an enrolled node has a session, or opens one shortly: after a restart of the controller
    /// everybody is on the way back, and nobody needs a new first boot.
    async fn is_back(&self, node: &NodeName, teller: &Teller) -> bool {
        let view = self.view(node);
        if view.connected {
            return true;
        }
        if !view.enrolled {
            return false;
        }
        self.stage(node, NodeState::NodeEnrolled, "waiting for its session", teller);
        let deadline = Instant::now() + self.timing.reconnect;
        self.until(deadline, node, |view| view.connected.then_some(())).await.is_some()
    }

    async fn first_boot(
        &self,
        node: &NodeName,
        addresses: &Addresses,
        teller: &Teller,
        stop: &CancellationToken,
    ) -> Result<(), Stuck> {
        let mut last = String::new();
        for attempt in 1..=ATTEMPTS {
            match self.attempt(node, addresses, teller, stop).await {
                Ok(()) => return Ok(()),
                Err(Attempt::Final(why)) => return Err(Stuck::Failed(why)),
                Err(Attempt::Again(why)) => {
                    tracing::warn!(%node, attempt, why, "first boot failed");
                    last = why;
                }
            }
        }
        Err(Stuck::Failed(last))
    }

    async fn attempt(
        &self,
        node: &NodeName,
        addresses: &Addresses,
        teller: &Teller,
        stop: &CancellationToken,
    ) -> Result<(), Attempt> {
        self.stage(node, NodeState::NodeBooting, "waiting for SSH", teller);
        let before = self.view(node);
        let Seed { document, token, .. } = self.seed(node).await.map_err(Attempt::Final)?;
        let mut reports = self.first_boots.expect(&token);
        let door = self.door(node, addresses).await.map_err(Attempt::Final)?;
        let target = Target { node: node.clone(), door, boot_deadline: self.timing.boot };
        let (events, mut stages) = mpsc::channel(64);
        let push = self.first_boot.push(target, &document, &events, stop);
        let watching = async {
            while let Some(stage) = stages.recv().await {
                let (state, detail) = told(&stage);
                self.stage(node, state, &detail, teller);
            }
            // The push says when it is over.
            std::future::pending::<()>().await;
        };
        let home = self.arrival(node, &before);
        // Cancel safe: a node that is home needs no more pushing; a report of failure ends a push whose
        // connection would only time out.
        tokio::select! {
            pushed = push => match pushed {
                Ok(()) => {}
                Err(error) => {
                    // It may have come home although the connection broke.
                    let moment = Instant::now() + Duration::from_secs(2);
                    if self.until(moment, node, |view| arrived(&before, view)).await.is_none() {
                        return Err(if error.broken { Attempt::Again(error.why) } else { Attempt::Final(error.why) });
                    }
                }
            },
            () = watching => {}
            () = home => return Ok(()),
            line = failure(&mut reports) => return Err(failed(line)),
        }
        self.stage(node, NodeState::NodeFirstBoot, "agent started, waiting for it to enrol", teller);
        self.await_session(node, &before, &mut reports, teller).await
    }

    /// How the node's server is entered; else cause and next step.
    async fn door(&self, node: &NodeName, addresses: &Addresses) -> Result<Door, String> {
        let plan = self.board.plan();
        let taken = plan.as_ref().and_then(|plan| Place::of(plan.node(node)?.node));
        let Some(place) = taken else {
            let password = self.vault.initial_password(node).await;
            let password =
                password.map_err(|error| format!("initial password: {}", fleet_model::chain(&error)))?;
            return Ok(Door::New { addresses: reachable(addresses), password });
        };
        let fleet = self.records.get::<FleetRecord>(&keys::fleet()).await;
        let fleet = fleet.map_err(|error| fleet_model::chain(&error))?.ok_or("the fleet has no record")?;
        let name = &plan.as_ref().ok_or("the fleet has no plan")?.fleet;
        Ok(Door::Taken { place, mark: Mark::new(name, &fleet.value.id, node) })
    }

    /// The agent runs on the node; now it has to find here.
    async fn await_session(
        &self,
        node: &NodeName,
        before: &View,
        reports: &mut tokio::sync::watch::Receiver<Option<Report>>,
        teller: &Teller,
    ) -> Result<(), Attempt> {
        let deadline = Instant::now() + self.timing.first_boot;
        let mut refused = String::new();
        let mut changed = self.desk.registry.watch();
        loop {
            let view = self.view(node);
            if arrived(before, &view).is_some() {
                return Ok(());
            }
            if view.enrolled && !before.enrolled {
                self.stage(
                    node,
                    NodeState::NodeEnrolled,
                    "has a certificate, waiting for its session",
                    teller,
                );
            }
            match reports.borrow_and_update().clone() {
                Some(Report::Failed(line)) => {
                    return Err(failed(line));
                }
                Some(Report::Refused(why)) => {
                    self.stage(node, NodeState::NodeFirstBoot, &why, teller);
                    refused = why;
                }
                Some(Report::Reached(_)) | None => {}
            }
            let news = async {
                // Cancel safe: both only wait for a newer value.
                tokio::select! {
                    _ = changed.changed() => {}
                    reported = reports.changed() => if reported.is_err() { std::future::pending().await },
                }
            };
            if timeout_at(deadline, news).await.is_err() {
                let cause = if refused.is_empty() {
                    format!(
                        "the agent was started but did not come home within {} s; from the node {} must be \
                         reachable; see `journalctl -u fleet-agent` there",
                        self.timing.first_boot.as_secs(),
                        self.enrol_addresses.join(" or "),
                    )
                } else {
                    format!("the agent was not let in: {refused}")
                };
                return Err(Attempt::Final(format!("{cause}; then run `fleetctl up` again")));
            }
        }
    }

    /// Waits until the node reports every task of its current generation as done.
    ///
    /// # Errors
    /// [`Stuck::Failed`] with the task that is in the way.
    pub async fn converge(&self, node: &NodeName, teller: &Teller) -> Result<(), Stuck> {
        let deadline = Instant::now() + self.timing.converge;
        let mut failing: Option<(Instant, String)> = None;
        let mut changed = self.desk.registry.watch();
        loop {
            changed.borrow_and_update();
            let view = self.view(node);
            let why = if view.connected {
                match convergence(view.desired.as_deref(), view.observed.as_deref()) {
                    Convergence::Converged => {
                        self.stage(node, NodeState::NodeReady, "", teller);
                        return Ok(());
                    }
                    Convergence::Failed(why) => {
                        failing.get_or_insert_with(|| (Instant::now(), String::new())).1.clone_from(&why);
                        why
                    }
                    Convergence::Underway(why) => {
                        failing = None;
                        why
                    }
                }
            } else {
                "session lost, waiting for it".to_owned()
            };
            self.stage(node, NodeState::NodeConverging, &why, teller);
            let patience =
                failing.as_ref().map_or(deadline, |(since, _)| deadline.min(*since + self.timing.failed));
            if timeout_at(patience, changed.changed()).await.is_err() {
                return Err(Stuck::Failed(match failing {
                    Some((_, why)) => why,
                    None => format!(
                        "not converged within {} s: {why}; `fleetctl status {node}` shows its tasks",
                        self.timing.converge.as_secs()
                    ),
                }));
            }
        }
    }

    /// A seed with a fresh token.
    ///
    /// # Errors
    /// Cause and next step.
    pub async fn seed(&self, node: &NodeName) -> Result<Seed, String> {
        let now = self.desk.clock.now();
        let token = token::issue(&self.records, node, now, self.timing.token)
            .await
            .map_err(|error| format!("enrolment token: {}", fleet_model::chain(&error)))?;
        let roots = self.releases.roots();
        let root = roots.last().map(|root| String::from_utf8_lossy(root));
        let way = Way {
            node,
            token: &token.text,
            enrol_addresses: &self.enrol_addresses,
            trust_bundle_pem: &self.ca.bundle_pem(),
            release_root: root.as_deref(),
        };
        let document = self.first_boot.document(way).await.map_err(|error| error.why)?;
        Ok(Seed { document, token: token.hash, expires: token.expires })
    }

    async fn arrival(&self, node: &NodeName, before: &View) {
        let mut changed = self.desk.registry.watch();
        while arrived(before, &self.view(node)).is_none() {
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn until<T>(
        &self,
        deadline: Instant,
        node: &NodeName,
        done: impl Fn(&View) -> Option<T>,
    ) -> Option<T> {
        let mut changed = self.desk.registry.watch();
        let looking = async {
            loop {
                if let Some(found) = done(&self.view(node)) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        timeout_at(deadline, looking).await.ok().flatten()
    }

    fn view(&self, node: &NodeName) -> View {
        self.desk.registry.view(node)
    }

    fn stage(&self, node: &NodeName, state: NodeState, detail: &str, teller: &Teller) {
        if self.board.set_stage(node, state, detail) {
            teller.node(node, state, detail);
        }
    }
}

/// How an attempt failed.
enum Attempt {
    /// Worth another one.
    Again(String),
    /// Nothing another attempt would change.
    Final(String),
}

/// The node's own script gave up; it says so in the same words however that came to us.
fn failed(line: String) -> Attempt {
    Attempt::Final(BootstrapError::Failed(line).to_string())
}

/// Whether the node has a session it did not have before.
fn arrived(before: &View, now: &View) -> Option<()> {
    (now.connected && (!before.connected || now.last_heard > before.last_heard)).then_some(())
}

/// The failing line, once one is reported; pending otherwise.
async fn failure(reports: &mut tokio::sync::watch::Receiver<Option<Report>>) -> String {
    loop {
        if let Some(Report::Failed(line)) = &*reports.borrow_and_update() {
            return line.clone();
        }
        if reports.changed().await.is_err() {
            // Nobody reports any more: the other ways to notice remain.
            std::future::pending::<()>().await;
        }
    }
}

/// Where a new server answers SSH: its public address. Private ones cannot be reached from here.
fn reachable(addresses: &Addresses) -> Vec<SocketAddr> {
    addresses.public_ipv4.map(|address| SocketAddr::new(address.into(), SSH)).into_iter().collect()
}

fn told(stage: &BootStage) -> (NodeState, String) {
    match stage {
        BootStage::Reaching(why) if why.is_empty() => (NodeState::NodeBooting, "waiting for SSH".to_owned()),
        BootStage::Reaching(why) => (NodeState::NodeBooting, format!("waiting for SSH: {why}")),
        BootStage::Connected => (NodeState::NodeSeeding, "logged in".to_owned()),
        BootStage::SeedWritten => (NodeState::NodeSeeding, "seed written".to_owned()),
        BootStage::Line(line) => (NodeState::NodeFirstBoot, line.clone()),
        BootStage::SeedRead => (NodeState::NodeFirstBoot, stage_words(Stage::SeedRead)),
        BootStage::AgentUnpacked => (NodeState::NodeFirstBoot, stage_words(Stage::AgentUnpacked)),
        BootStage::AgentStarted => (NodeState::NodeFirstBoot, stage_words(Stage::AgentStarted)),
    }
}

fn stage_words(stage: Stage) -> String {
    match stage {
        Stage::SeedRead => "seed read",
        Stage::AgentUnpacked => "agent unpacked",
        Stage::AgentStarted => "agent started",
        Stage::Failed | Stage::Unspecified => "",
    }
    .to_owned()
}
