//! What a controller is told by whoever starts it.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use fleet_model::{FleetName, Secret};

use crate::{artifacts::Limits, enrol::token::TOKEN_LIFE};

/// A controller's settings; sockets, clock and stop signal are handed over separately.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The fleet.
    pub fleet: FleetName,
    /// Folder of all its state.
    pub dir: PathBuf,
    /// Addresses under which agents reach this controller, best first.
    pub advertise: Vec<IpAddr>,
    /// How to reach the cloud.
    pub cloud: Arc<dyn CloudAccessSource>,
    /// The static agent for new nodes; without it nodes cannot be brought home.
    pub agent: Option<PathBuf>,
    /// The static supervisor that starts it there.
    pub supervisor: Option<PathBuf>,
    /// The todo application's static program; without it no plan may have a `todo` task.
    pub todo: Option<PathBuf>,
    /// Deadlines.
    pub timing: Timing,
    /// Sessions at once; more are asked to come back.
    pub max_sessions: u64,
    /// How many artifacts are given out at once, and how fast.
    pub transfers: Limits,
}

impl Settings {
    /// Settings with every default.
    pub fn new(fleet: FleetName, dir: PathBuf, cloud: Arc<dyn CloudAccessSource>) -> Self {
        Self {
            fleet,
            dir,
            advertise: Vec::new(),
            cloud,
            agent: None,
            supervisor: None,
            todo: None,
            timing: Timing::default(),
            max_sessions: 20_000,
            transfers: Limits::default(),
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From a started server to an SSH connection; generous, for software emulation.
    pub boot: Duration,
    /// From the seed's arrival to the enrolment.
    pub first_boot: Duration,
    /// From the enrolment to converged tasks.
    pub converge: Duration,
    /// How long a failed task may stay failed before its node counts as failed: the agent tries again by itself.
    pub failed: Duration,
    /// Of an enrolment token.
    pub token: Duration,
    /// How long an enrolled node without a session may take to come back before it gets a new first boot.
    pub reconnect: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            boot: Duration::from_secs(600),
            first_boot: Duration::from_secs(600),
            converge: Duration::from_secs(900),
            failed: Duration::from_secs(45),
            token: TOKEN_LIFE,
            reconnect: Duration::from_secs(45),
        }
    }
}

/// How to reach a cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudAccess {
    /// Base URL without a path.
    pub endpoint: String,
    /// PEM of the authority to trust besides the public ones; the local cloud has its own.
    pub ca_pem: Option<Vec<u8>>,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// There is no way to reach the cloud.
#[derive(Debug, thiserror::Error)]
#[error("{what}; {next_step}")]
pub struct CloudAccessError {
    /// What is missing.
    pub what: String,
    /// What to do about it.
    pub next_step: String,
}

/// Where access to the cloud comes from; asked anew for each run, because a local cloud may have been
/// restarted meanwhile and credentials changed.
pub trait CloudAccessSource: Send + Sync + fmt::Debug {
    /// Access to the cloud this plan names.
    ///
    /// # Errors
    /// [`CloudAccessError`] if there is none.
    fn access(&self, cloud: &fleet_plan::resolved::Cloud) -> Result<CloudAccess, CloudAccessError>;
}
