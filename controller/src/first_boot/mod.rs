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
use fleet_model::{FleetName, NodeName, Secret};
use fleet_provider::bootstrap::{self, BootStage, BootstrapError, Packed, SeedInputs, SshTarget};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

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

/// Where a new server is reached.
#[derive(Clone, Debug)]
pub struct Target {
    /// The node.
    pub node: NodeName,
    /// Addresses, tried in turn.
    pub addresses: Vec<SocketAddr>,
    /// Initial password.
    pub password: Secret,
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

    /// Carries the document to a server and runs cloud-init there.
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
    /// Each compressed once, and again only when the file changes.
    packed: Mutex<BTreeMap<PathBuf, (SystemTime, Arc<Packed>)>>,
}

impl OverSsh {
    /// With this agent and what starts it.
    pub fn new(fleet: FleetName, agent: Option<PathBuf>, supervisor: Option<PathBuf>) -> Self {
        Self { fleet, agent, supervisor, packed: Mutex::default() }
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
        let target = SshTarget {
            node: target.node,
            addresses: target.addresses,
            user: USER.to_owned(),
            password: target.password,
            boot_deadline: target.boot_deadline,
        };
        Ok(bootstrap::push(&target, document, events, stop).await?)
    }
}
