//! What is remembered of releases.

use fleet_model::Timestamp;
use fleet_release::Accepted;
use serde::{Deserialize, Serialize};

/// Whom releases are taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustRecord {
    /// Signed roots, the first one first; documents are text.
    pub roots: Vec<String>,
    /// The highest release ever kept here.
    pub highest: Option<Accepted>,
}

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// Signed.
    pub manifest: String,
    /// Signed; leave to go back to it.
    pub permit: Option<String>,
    /// When it was kept.
    pub published: Timestamp,
    /// Which operator brought it.
    pub by: String,
}
