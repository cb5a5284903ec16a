//! Why a rollout cannot be changed, and what operators hear of it.

use fleet_model::Timestamp;
use fleet_proto::refusal::{Refusal, RefusalKind};
use fleet_rollout::{Refused, policy::Problem};
use fleet_store::StoreError;
use tonic::Status;

use crate::records::RecordError;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Not at this point of the rollout.
    #[error("{0}")]
    Refused(Refused),
    /// The policy or the fleet does not allow it; every problem.
    #[error("this rollout cannot be drawn: {}", list(.0))]
    Problems(Vec<Problem>),
    /// A request that makes no sense.
    #[error("{what}")]
    Request {
        /// What is wrong with it.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// Another controller drives this fleet's rollouts.
    #[error("another controller, {by}, drives the rollouts of this fleet until {until}")]
    Elsewhere {
        /// Which.
        by: String,
        /// Until when at most, unless it goes on.
        until: Timestamp,
    },
    /// The store failed, or somebody else wrote meanwhile.
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Trouble {
    /// Cause and next step in one line.
    pub fn told(&self) -> String {
        match self {
            Self::Request { what, hint } => format!("{what}; {hint}"),
            other => fleet_model::chain(other),
        }
    }

    /// A request that makes no sense.
    pub fn request(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Request { what: what.into(), hint: hint.into() }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}

impl From<Trouble> for Status {
    fn from(trouble: Trouble) -> Self {
        let what = trouble.to_string();
        let (kind, hint) = match trouble {
            Trouble::Refused(Refused::NotNow { .. } | Refused::NotChanged(_) | Refused::NothingBefore) => {
                (RefusalKind::RefusalBadRequest, "`fleetctl rollout status` shows how it stands".to_owned())
            }
            Trouble::Refused(Refused::UnknownNode(_)) => {
                (RefusalKind::RefusalUnknown, "`fleetctl rollout status` lists its nodes".to_owned())
            }
            Trouble::Problems(_) => (
                RefusalKind::RefusalBadRequest,
                "put that right and start again; nothing was touched".to_owned(),
            ),
            Trouble::Request { hint, .. } => (RefusalKind::RefusalBadRequest, hint),
            Trouble::Elsewhere { .. } => {
                (RefusalKind::RefusalBusy, "ask that one, or try again after that time".to_owned())
            }
            Trouble::Record(error) => {
                let why = fleet_model::chain(&error);
                tracing::error!(error = why, "rollout not read or written");
                return Status::internal(format!(
                    "the rollout could not be read or written, and may or may not have changed: {why}; \
                     `fleetctl rollout status` says how it stands"
                ));
            }
        };
        Refusal::new(kind, what, hint).into()
    }
}
