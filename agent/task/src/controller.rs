//! What a task can ask of the controller, through the agent's session.

use std::{fmt, path::PathBuf};

use async_trait::async_trait;
use fleet_proto::v1;

use crate::{TaskError, TaskId};

/// Answer to the wish for a permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It is held.
    Held,
    /// Not yet: what is waited for. The task is looked at again as soon as it is given.
    Waiting(String),
}

/// The controller, as tasks see it. It may be out of reach: what needs it waits then, all else goes on.
#[async_trait]
pub trait Controller: Send + Sync + fmt::Debug {
    /// Whether there is a session. Without one, permits, artifacts and certificates are not to be had.
    fn is_connected(&self) -> bool;

    /// Whether `permit` is held; if not, it is asked for on behalf of `task`.
    fn permit(&self, permit: &str, task: &TaskId) -> Permission;

    /// Gives a permit back; nothing happens if it is not held.
    fn release(&self, permit: &str);

    /// A complete copy of the artifact in the agent's own folder, its digest checked; fetched if it is not there,
    /// continued where an earlier attempt was cut.
    ///
    /// # Errors
    /// [`TaskError::NotYet`] without a session; [`TaskError::Refused`] with a next step: unknown artifact, no room on
    /// the disk, bytes that are not what they should be.
    ///
    /// # Cancel safety
    /// Dropping the future keeps what has come so far for the next attempt.
    async fn artifact(&self, artifact: &v1::Artifact) -> Result<PathBuf, TaskError>;

    /// A certificate for the services of this node, for the key of this CSR (PKCS#10, DER).
    ///
    /// # Errors
    /// [`TaskError::NotYet`] without a session, [`TaskError::Refused`].
    async fn certify(&self, csr: Vec<u8>) -> Result<v1::ServiceCredentials, TaskError>;
}

/// No controller at all: rehearsals and `--once` without a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoController;

/// What waits for a session without which it cannot be done.
pub const AWAY: &str = "a session with the controller";

fn away() -> TaskError {
    TaskError::NotYet(AWAY.into())
}

#[async_trait]
impl Controller for NoController {
    fn is_connected(&self) -> bool {
        false
    }

    fn permit(&self, _permit: &str, _task: &TaskId) -> Permission {
        Permission::Waiting(AWAY.into())
    }

    fn release(&self, _permit: &str) {}

    async fn artifact(&self, _artifact: &v1::Artifact) -> Result<PathBuf, TaskError> {
        Err(away())
    }

    async fn certify(&self, _csr: Vec<u8>) -> Result<v1::ServiceCredentials, TaskError> {
        Err(away())
    }
}
