//! Why a release is refused.

use std::fmt;

use fleet_model::{FleetName, NodeName, Timestamp};

use crate::{key::KeyId, version::Version};

/// Kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Who may sign what.
    Root,
    /// What is released.
    Manifest,
    /// Who may go back.
    Permit,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Manifest => "manifest",
            Self::Permit => "permit",
        })
    }
}

/// Why a release is refused. What runs goes on running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a document of ours.
    #[error("the {kind} cannot be read: {why}")]
    Malformed {
        /// Which document.
        kind: Kind,
        /// What is wrong with it.
        why: String,
    },
    /// Signed by somebody who has no say.
    #[error(
        "the {kind} is signed by {key}, which has no say here; is a newer root missing, or its key withdrawn?"
    )]
    UnknownKey {
        /// Which document.
        kind: Kind,
        /// Who signed.
        key: KeyId,
    },
    /// A signature that is not one over these bytes.
    #[error("the signature of {key} on the {kind} is wrong: it was changed on its way; fetch it again")]
    WrongSignature {
        /// Which document.
        kind: Kind,
        /// Whose signature.
        key: KeyId,
    },
    /// Not enough signatures.
    #[error("the {kind} has {good} good signatures and needs {needed}; have the others sign it")]
    TooFewSignatures {
        /// Which document.
        kind: Kind,
        /// Good ones.
        good: u32,
        /// How many it takes.
        needed: u32,
    },
    /// A root that is not the next.
    #[error("root {offered} does not follow root {trusted}: an old one played back, or one left out")]
    RootOrder {
        /// Number of the one trusted.
        trusted: u64,
        /// Number of the one offered.
        offered: u64,
    },
    /// A chain that does not begin at its beginning.
    #[error("the chain of roots begins with {first}, not with root 1: hand over the whole chain")]
    ChainStart {
        /// What it begins with.
        first: String,
    },
    /// Past its time.
    #[error(
        "the {kind} expired at {expired}; the releaser has to sign a fresh one, until then nothing is updated"
    )]
    Expired {
        /// Which document.
        kind: Kind,
        /// When.
        expired: Timestamp,
    },
    /// Signed in what this clock calls the future.
    #[error("the {kind} was made at {created} and it is {now} here: set this clock")]
    Clock {
        /// Which document.
        kind: Kind,
        /// When it was made.
        created: Timestamp,
        /// What time it is here.
        now: Timestamp,
    },
    /// Older than what was accepted before.
    #[error(
        "version {offered} is older than {highest}, accepted here before; going back needs a signed permit"
    )]
    Downgrade {
        /// Version offered.
        offered: Version,
        /// Highest version accepted.
        highest: Version,
    },
    /// The same version, other artifacts.
    #[error(
        "version {version} was accepted here with other artifacts; a release never changes, give it another version"
    )]
    OtherArtifacts {
        /// Version offered.
        version: Version,
    },
    /// The permit is for another release.
    #[error("the permit is for another manifest than that of version {offered}")]
    PermitForOther {
        /// Version offered.
        offered: Version,
    },
    /// The permit is for another fleet.
    #[error("the permit is for nodes of fleet `{fleet}`, and this is fleet `{here}`")]
    PermitForOtherFleet {
        /// The one it names.
        fleet: FleetName,
        /// This one.
        here: FleetName,
    },
    /// The permit is for other nodes.
    #[error("the permit does not name {node}")]
    PermitForOthers {
        /// This node.
        node: NodeName,
    },
    /// A counterpart has to move first.
    #[error("{who} {has} is too old for version {offered}, which needs {needs}: update {who} to that first")]
    MoveFirst {
        /// Who has to move: `the controller` or `this agent`.
        who: &'static str,
        /// Its version.
        has: Version,
        /// What it takes.
        needs: Version,
        /// Version offered.
        offered: Version,
    },
}
