//! Why a release was not taken, in the words of the wire: one reason, one line with the next step.

use std::io;

use fleet_proto::v1::StandingReason;
use fleet_release::Refusal;
use fleet_supervisor::{install, record::Why};
use fleet_task::{TaskError, atomic::AtomicError};

use crate::{StateError, controller::artifacts::Lacking};

/// What came of an order that did not lead where it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) reason: StandingReason,
    pub(super) detail: String,
}

impl Verdict {
    pub(super) fn new(reason: StandingReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// A node that was set up before there were supervisors.
    pub(super) fn unsupervised() -> Self {
        Self::new(
            StandingReason::StandingOther,
            "this node has no supervisor: it was set up before there were releases; run the output of \
             `fleetctl user-data NODE` as root on it, or `fleetctl replace NODE`",
        )
    }

    /// A node that was given no root.
    pub(super) fn untrusting() -> Self {
        Self::new(
            StandingReason::StandingSignature,
            "this node was given no root of releases, so it takes none; run the output of `fleetctl user-data NODE` as \
             root on it, or `fleetctl replace NODE`",
        )
    }

    /// What is wanted is of a newer protocol.
    pub(super) fn unknown() -> Self {
        Self::new(
            StandingReason::StandingMismatch,
            "this agent does not understand the order; update this agent by a release it understands first",
        )
    }
}

impl From<&Refusal> for Verdict {
    fn from(refusal: &Refusal) -> Self {
        let reason = match refusal {
            Refusal::Downgrade { .. }
            | Refusal::PermitForOther { .. }
            | Refusal::PermitForOtherFleet { .. }
            | Refusal::PermitForOthers { .. } => StandingReason::StandingDowngrade,
            Refusal::OtherArtifacts { .. } | Refusal::MoveFirst { .. } => StandingReason::StandingMismatch,
            // Time, and nothing else, is wrong.
            Refusal::Expired { .. } | Refusal::Clock { .. } => StandingReason::StandingOther,
            _ => StandingReason::StandingSignature,
        };
        Self::new(reason, refusal.to_string())
    }
}

impl From<&install::Error> for Verdict {
    fn from(error: &install::Error) -> Self {
        let reason = match error {
            install::Error::FailedBefore { .. } => StandingReason::StandingKnownBad,
            install::Error::Space { .. } => StandingReason::StandingDiskFull,
            install::Error::Disk(error) if full(error) => StandingReason::StandingDiskFull,
            // The packed program is what its digest says: then it was packed wrongly.
            install::Error::Content { .. } | install::Error::Stream(_) => StandingReason::StandingCorrupt,
            _ => StandingReason::StandingOther,
        };
        let next = match reason {
            StandingReason::StandingDiskFull => "; free some space on the node (`df -h`, `apt clean`)",
            StandingReason::StandingCorrupt => "; release it anew",
            _ => "",
        };
        Self::new(reason, format!("{}{next}", fleet_model::chain(error)))
    }
}

impl From<StateError> for Verdict {
    fn from(error: StateError) -> Self {
        let text = fleet_model::chain(&error);
        match &error {
            StateError::Disk { source, .. } if full(source) => Self::new(
                StandingReason::StandingDiskFull,
                format!("{text}; free some space on the node (`df -h`, `apt clean`)"),
            ),
            _ => Self::new(StandingReason::StandingOther, format!("{text}; look at this node's disk")),
        }
    }
}

impl From<Lacking> for Verdict {
    fn from(lacking: Lacking) -> Self {
        let reason = match lacking {
            Lacking::Room(_) => StandingReason::StandingDiskFull,
            Lacking::Damaged(_) => StandingReason::StandingCorrupt,
            Lacking::Later(_) | Lacking::Other(_) => StandingReason::StandingOther,
        };
        let error = TaskError::from(lacking);
        Self::new(reason, format!("{}; {}", fleet_model::chain(&error), error.next_step()))
    }
}

impl From<AtomicError> for Verdict {
    fn from(error: AtomicError) -> Self {
        let reason = match &error {
            AtomicError::NoSpace { .. } => StandingReason::StandingDiskFull,
            _ => StandingReason::StandingOther,
        };
        Self::new(reason, format!("{}; {}", fleet_model::chain(&error), error.next_step()))
    }
}

fn full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What the supervisor saw of a version that failed.
pub(super) fn reason(why: Why) -> StandingReason {
    match why {
        Why::Crashed => StandingReason::StandingCrashed,
        Why::Killed => StandingReason::StandingOutOfMemory,
        Why::Late => StandingReason::StandingNotReady,
        Why::Unsound => StandingReason::StandingCorrupt,
        Why::Returned => StandingReason::StandingKnownBad,
    }
}
