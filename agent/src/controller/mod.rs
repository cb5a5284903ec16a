//! The controller as tasks see it: permits, artifacts and certificates over whatever session there is.
//!
//! Tasks live longer than sessions. The link puts the client of the session it holds on a [`Line`] and takes it off
//! again; nobody waits for anybody else longer than a deadline.

pub(crate) mod artifacts;
mod giver;
mod permits;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1,
};
use fleet_task::{AWAY, Controller, Permission, TaskError, TaskId};
use tokio::sync::watch;
use tonic::{Code, Status};

pub(crate) use giver::Giver;
pub(crate) use permits::Permits;

/// How long the controller may take to sign a certificate.
const ANSWER: Duration = Duration::from_secs(20);

/// Whom the controller is reached by, if it is.
pub(crate) type Line = Option<Giver>;

/// The controller at the other end of the line.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    permits: Arc<Permits>,
    line: watch::Receiver<Line>,
    artifacts: PathBuf,
}

impl Remote {
    pub(crate) fn new(permits: Arc<Permits>, line: watch::Receiver<Line>, artifacts: PathBuf) -> Self {
        Self { permits, line, artifacts }
    }
}

#[async_trait]
impl Controller for Remote {
    fn is_connected(&self) -> bool {
        self.line.borrow().is_some()
    }

    fn permit(&self, permit: &str, task: &TaskId) -> Permission {
        match self.permits.want(permit, task.as_str()) {
            Permission::Waiting(_) if !self.is_connected() => Permission::Waiting(AWAY.into()),
            permission => permission,
        }
    }

    fn release(&self, permit: &str) {
        self.permits.release(permit);
    }

    async fn artifact(&self, artifact: &v1::Artifact) -> Result<PathBuf, TaskError> {
        Ok(artifacts::obtain(&self.artifacts, artifact, self.line.clone()).await?)
    }

    async fn certify(&self, csr: Vec<u8>) -> Result<v1::ServiceCredentials, TaskError> {
        let line = self.line.borrow().clone();
        let Some(Giver::Session(mut client)) = line else { return Err(TaskError::NotYet(AWAY.into())) };
        match tokio::time::timeout(ANSWER, client.certify(v1::CertifyRequest { csr })).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refused("certify the node's services", &status)),
            Err(_) => Err(TaskError::NotYet(format!(
                "the controller, which did not answer within {} s",
                ANSWER.as_secs()
            ))),
        }
    }
}

/// What a status means to a task: a session that went away or a busy controller is waited for.
fn refused(what: &str, status: &Status) -> TaskError {
    match Refusal::from_status(status) {
        Some(refusal) if refusal.kind() == RefusalKind::RefusalBusy => {
            TaskError::NotYet("the controller, which is busy".into())
        }
        Some(refusal) => TaskError::Refused {
            why: format!("the controller does not {what}: {}", refusal.message),
            next: refusal.hint,
        },
        None if matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown) => {
            TaskError::NotYet(AWAY.into())
        }
        None => TaskError::Refused {
            why: format!("the controller does not {what}: {}", status.message()),
            next: "look at the controller's log; the task is tried again by itself".into(),
        },
    }
}
