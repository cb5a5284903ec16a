//! Why a release is not kept, and what to do about it.

use std::collections::BTreeSet;

use fleet_model::chain;
use fleet_proto::refusal::{Refusal, RefusalKind};
use fleet_release::{KeyId, Version};
use tonic::Status;

use crate::{artifacts::ArtifactError, records::RecordError};

/// Why a release, or a chain of roots, is not kept. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The documents do not hold.
    #[error(transparent)]
    Refused(#[from] fleet_release::Refusal),
    /// Nobody's releases are taken yet, and no chain came along.
    #[error("this controller trusts nobody's releases yet, and no root came along")]
    Nobody,
    /// The chain is not the one trusted here.
    #[error("this controller trusts another releaser: its root {number} is by {held}, yours by {offered}")]
    OtherReleaser {
        /// Where they part.
        number: usize,
        /// Who signed ours.
        held: String,
        /// Who signed theirs.
        offered: String,
    },
    /// It has no agent.
    #[error("release {0} holds no `fleet-agent`: it cannot be told from others")]
    NoAgent(Version),
    /// Its agent is another release's.
    #[error("release {version} has the very agent of release {has}")]
    SameAgent {
        /// The one offered.
        version: Version,
        /// The one kept.
        has: Version,
    },
    /// No version at all.
    #[error("`{0}` is no version")]
    NoVersion(String),
    /// No such release is kept.
    #[error("no release {version} is kept here, {}", only(has))]
    Unkept {
        /// The one asked for.
        version: Version,
        /// Those that are.
        has: BTreeSet<Version>,
    },
    /// Somebody needs it.
    #[error("release {version} is needed: {}", by.join("; "))]
    Needed {
        /// The one to be removed.
        version: Version,
        /// Who, and what for.
        by: Vec<String>,
    },
    /// Artifacts it names were not brought.
    #[error("artifacts of release {version} are not here: {}", names.join(", "))]
    Missing {
        /// The one offered.
        version: Version,
        /// Of the artifacts.
        names: Vec<String>,
    },
    /// An artifact is not what the manifest says.
    #[error("`{name}` is not what the manifest says: {why}")]
    Differs {
        /// Of the artifact.
        name: String,
        /// In which way.
        why: String,
    },
    /// An artifact cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The store failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Others change releases all the time.
    #[error("another controller changes releases at this moment")]
    Busy,
    /// The controller is about to end.
    #[error("the controller is stopping")]
    Stopping,
}

impl ReleaseError {
    pub(super) fn other(number: usize, held: &[u8], offered: &[u8]) -> Self {
        Self::OtherReleaser { number, held: signers(held), offered: signers(offered) }
    }

    fn hint(&self) -> &'static str {
        use fleet_release::Refusal as R;
        match self {
            Self::Unkept { .. } | Self::NoVersion(_) => "`fleetctl release list` shows them",
            Self::Needed { .. } => {
                "roll another release out first; a node that is gone for good goes from the plan"
            }

            Self::Refused(R::UnknownKey { .. } | R::TooFewSignatures { .. } | R::RootOrder { .. }) => {
                "sign it with the keys that the newest root names: `fleetctl release create`, then publish that"
            }
            Self::Refused(R::Malformed { .. } | R::WrongSignature { .. } | R::ChainStart { .. }) => {
                "make it anew with `fleetctl release create`"
            }
            Self::Refused(R::Expired { .. }) => {
                "an expired manifest is signed afresh with `fleetctl release create`, an expired root is \
                 followed by `fleetctl release rotate root`"
            }
            Self::Refused(R::Clock { .. }) => "compare both clocks with `date -u`",
            Self::Refused(R::Downgrade { .. }) => {
                "`fleetctl release permit DIR --nodes A,B --reason \"…\"` signs leave to go back, then publish again"
            }
            Self::Refused(R::OtherArtifacts { .. }) | Self::SameAgent { .. } => {
                "build it under a version of its own: FLEET_VERSION=1.2.3 cargo xtask dist"
            }
            Self::Refused(R::PermitForOther { .. } | R::PermitForOthers { .. }) => {
                "sign a permit for this very release: `fleetctl release permit`"
            }
            Self::Refused(R::PermitForOtherFleet { .. }) => {
                "sign one for this fleet: `fleetctl release permit` with its name in --fleet"
            }
            Self::Refused(R::MoveFirst { .. }) => {
                "install the newer fleetctl where the controller runs, and restart it"
            }
            Self::Nobody => {
                "publish from where the release keys are: `fleetctl release publish` brings their root"
            }
            Self::OtherReleaser { .. } => {
                "publish from the home whose release keys this fleet was brought up with, or bring the fleet up anew"
            }
            Self::NoAgent(_) => "make it anew with `fleetctl release create --agent FILE`",
            Self::Missing { .. } | Self::Differs { .. } => {
                "`fleetctl release publish DIR` brings them along; make DIR anew with `fleetctl release create`"
            }
            Self::Artifact(_) | Self::Record(_) | Self::Busy | Self::Stopping => "run the command again",
        }
    }
}

fn only(has: &BTreeSet<Version>) -> String {
    if has.is_empty() {
        return "nor any other".to_owned();
    }
    format!("only {}", has.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

fn signers(root: &[u8]) -> String {
    let signed = fleet_release::Signed::decode(fleet_release::Kind::Root, root);
    let ids: Vec<KeyId> = signed.iter().flat_map(fleet_release::Signed::signers).collect();
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

impl From<ReleaseError> for Status {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Artifact(error) => error.into(),
            ReleaseError::Record(error) => {
                let why = chain(&error);
                tracing::error!(error = why, "releases not changed");
                Self::internal(why)
            }
            ReleaseError::Stopping => Self::unavailable(error.to_string()),
            ReleaseError::Busy => crate::session::service::busy(),
            ReleaseError::Refused(fleet_release::Refusal::MoveFirst { .. }) => {
                Refusal::new(RefusalKind::RefusalVersion, error.to_string(), error.hint()).into()
            }
            _ => Refusal::new(RefusalKind::RefusalBadRequest, error.to_string(), error.hint()).into(),
        }
    }
}
