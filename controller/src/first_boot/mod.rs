//! A new server's way home: SSH, seed, first boot, enrolment.

pub mod http;
pub mod reports;

use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use fleet_model::{FleetName, NodeName, Secret};
use fleet_provider::bootstrap::{self, AgentArchive, BootStage, BootstrapError, SeedInputs, SshTarget};
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
    /// Compressed once, and again only when the file changes.
    packed: Mutex<Option<(SystemTime, Arc<AgentArchive>)>>,
}

impl OverSsh {
    /// With this agent.
    pub fn new(fleet: FleetName, agent: Option<PathBuf>) -> Self {
        Self { fleet, agent, packed: Mutex::default() }
    }

    async fn archive(&self) -> Result<Arc<AgentArchive>, FirstBootError> {
        let Some(path) = self.agent.clone() else {
            return Err(FirstBootError::lasting(
                "this controller was started without an agent for new nodes; start it with one",
            ));
        };
        let unreadable = |error: &std::io::Error| {
            FirstBootError::lasting(format!(
                "agent {}: {error}; put it back (`cargo xtask build` makes it) and run `fleetctl up` again",
                path.display()
            ))
        };
        let changed = tokio::fs::metadata(&path)
            .await
            .and_then(|metadata| metadata.modified())
            .map_err(|error| unreadable(&error))?;
        let mut packed = self.packed.lock().await;
        if let Some((held, archive)) = &*packed
            && *held == changed
        {
            return Ok(archive.clone());
        }
        let reading = path.clone();
        let archive = tokio::task::spawn_blocking(move || AgentArchive::pack(&std::fs::read(reading)?))
            .await
            .map_err(|_| FirstBootError::lasting("the controller is stopping"))?
            .map_err(|error| unreadable(&error))?;
        let archive = Arc::new(archive);
        *packed = Some((changed, archive.clone()));
        Ok(archive)
    }
}

#[async_trait]
impl FirstBoot for OverSsh {
    async fn document(&self, way: Way<'_>) -> Result<Vec<u8>, FirstBootError> {
        let agent = self.archive().await?;
        Ok(bootstrap::document(&SeedInputs {
            node: way.node,
            fleet: &self.fleet,
            token: way.token,
            enrol_addresses: way.enrol_addresses,
            trust_bundle_pem: way.trust_bundle_pem,
            agent: &agent,
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
