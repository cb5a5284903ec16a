//! A new server's way home: SSH, seed, first boot, enrolment.

pub mod http;
pub mod reports;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use fleet_hosts::{
    Access, Mark,
    held::Place,
    seed::{self, SeedError},
};
use fleet_model::{FleetName, NodeName, Secret};
use fleet_provider::bootstrap::{
    self, BootStage, BootstrapError, Packed, SeedInputs, SshTarget, ssh::FirstKey,
};
use fleet_store::Expected;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::records::{Records, keys};

/// Port of SSH on new servers.
pub const SSH: u16 = 22;
/// User whose initial password the cloud sets.
pub const USER: &str = "root";

/// A first boot could not be made or did not come to its end: cause and next step in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct FirstBootError {
    /// Cause and next step.
    pub why: String,
    /// Whether the connection broke half-way: then another attempt may do.
    pub broken: bool,
}

impl FirstBootError {
    /// A failure another attempt would only repeat.
    pub fn lasting(why: impl Into<String>) -> Self {
        Self { why: why.into(), broken: false }
    }
}

impl From<BootstrapError> for FirstBootError {
    fn from(error: BootstrapError) -> Self {
        Self { why: fleet_model::chain(&error), broken: matches!(error, BootstrapError::Broken(_)) }
    }
}

impl From<SeedError> for FirstBootError {
    fn from(error: SeedError) -> Self {
        match error {
            SeedError::Boot(error) => error.into(),
            closed @ SeedError::Door(_) => Self::lasting(fleet_model::chain(&closed)),
        }
    }
}

/// What a node needs to find home.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// Its token.
    pub token: &'a Secret,
    /// Where it enrols.
    pub enrol_addresses: &'a [String],
    /// What it trusts, PEM.
    pub trust_bundle_pem: &'a str,
    /// The signed root of releases it trusts at first, if there is one yet.
    pub release_root: Option<&'a str>,
}

/// How a server is entered.
#[derive(Clone, Debug)]
pub enum Door {
    /// A new one, by the password it was made with.
    New {
        /// Addresses, tried in turn.
        addresses: Vec<SocketAddr>,
        /// Initial password.
        password: Secret,
    },
    /// A machine that was there already, by one of the operator's keys.
    Taken {
        /// Where it is.
        place: Place,
        /// What says whose it is.
        mark: Mark,
    },
}

/// Where a server is reached.
#[derive(Clone, Debug)]
pub struct Target {
    /// The node.
    pub node: NodeName,
    /// How it is entered.
    pub door: Door,
    /// Longest wait for SSH to answer.
    pub boot_deadline: std::time::Duration,
}

/// First boots as runs see them.
#[async_trait]
pub trait FirstBoot: Send + Sync + fmt::Debug {
    /// The seed document that brings a node home.
    ///
    /// # Errors
    /// [`FirstBootError`] if there is no agent to put into it.
    async fn document(&self, way: Way<'_>) -> Result<Vec<u8>, FirstBootError>;

    /// Carries the document to a server and has it run there.
    ///
    /// # Errors
    /// [`FirstBootError`]; pushing again is safe.
    async fn push(
        &self,
        target: Target,
        document: &[u8],
        events: &mpsc::Sender<BootStage>,
        stop: &CancellationToken,
    ) -> Result<(), FirstBootError>;
}

/// First boots over SSH.
#[derive(Debug)]
pub struct OverSsh {
    fleet: FleetName,
    /// The static agent's binary.
    agent: Option<PathBuf>,
    /// What starts it.
    supervisor: Option<PathBuf>,
    /// The controller's folder, where the operator's SSH is noted.
    dir: PathBuf,
    /// Where first host keys are noted.
    records: Records,
    /// Each compressed once, and again only when the file changes.
    packed: Mutex<BTreeMap<PathBuf, (SystemTime, Arc<Packed>)>>,
}

impl OverSsh {
    /// With this agent and what starts it.
    pub fn new(
        fleet: FleetName,
        agent: Option<PathBuf>,
        supervisor: Option<PathBuf>,
        dir: PathBuf,
        records: Records,
    ) -> Self {
        Self { fleet, agent, supervisor, dir, records, packed: Mutex::default() }
    }

    async fn packed(&self, name: &str, file: Option<&Path>) -> Result<Arc<Packed>, FirstBootError> {
        let Some(path) = file else {
            return Err(FirstBootError::lasting(format!(
                "this controller was started without the {name} for new nodes; start it with one"
            )));
        };
        let unreadable = |error: &std::io::Error| {
            FirstBootError::lasting(format!(
                "{name} {}: {error}; put it back (`cargo xtask build` makes it) and run `fleetctl up` again",
                path.display()
            ))
        };
        let changed = tokio::fs::metadata(path)
            .await
            .and_then(|metadata| metadata.modified())
            .map_err(|error| unreadable(&error))?;
        let mut packed = self.packed.lock().await;
        if let Some((held, program)) = packed.get(path)
            && *held == changed
        {
            return Ok(program.clone());
        }
        let reading = path.to_owned();
        let program = tokio::task::spawn_blocking(move || Packed::pack(&std::fs::read(reading)?))
            .await
            .map_err(|_| FirstBootError::lasting("the controller is stopping"))?
            .map_err(|error| unreadable(&error))?;
        let program = Arc::new(program);
        packed.insert(path.to_owned(), (changed, program.clone()));
        Ok(program)
    }
}

/// By which key a node's server was first seen, in the store: it holds for the next controller, too.
#[derive(Debug)]
struct Noted {
    records: Records,
    node: NodeName,
}

#[async_trait]
impl FirstKey for Noted {
    async fn known(&self) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
        let held = self.records.get::<String>(&keys::host_key(&self.node)).await?;
        Ok(held.map(|held| held.value))
    }

    async fn keep(&self, key: String) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.records.put(&keys::host_key(&self.node), &key, Expected::Any).await?;
        Ok(())
    }
}

#[async_trait]
impl FirstBoot for OverSsh {
    async fn document(&self, way: Way<'_>) -> Result<Vec<u8>, FirstBootError> {
        let agent = self.packed("agent", self.agent.as_deref()).await?;
        let supervisor = self.packed("supervisor", self.supervisor.as_deref()).await?;
        Ok(bootstrap::document(&SeedInputs {
            node: way.node,
            fleet: &self.fleet,
            token: way.token,
            enrol_addresses: way.enrol_addresses,
            trust_bundle_pem: way.trust_bundle_pem,
            agent: &agent,
            supervisor: &supervisor,
            release_root: way.release_root,
        }))
    }

    async fn push(
        &self,
        target: Target,
        document: &[u8],
        events: &mpsc::Sender<BootStage>,
        stop: &CancellationToken,
    ) -> Result<(), FirstBootError> {
        match target.door {
            Door::New { addresses, password } => {
                let user = USER.to_owned();
                let Target { node, boot_deadline, .. } = target;
                let first_key = Arc::new(Noted { records: self.records.clone(), node: node.clone() });
                let target = SshTarget { node, addresses, user, password, first_key, boot_deadline };
                Ok(bootstrap::push(&target, document, events, stop).await?)
            }
            Door::Taken { place, mark } => {
                Ok(seed::push(&place, &mark, &Access::read(&self.dir), document, events, stop).await?)
            }
        }
    }
}
