//! Leave to go back.

use std::collections::BTreeSet;

use fleet_model::{NodeName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{document::Body, key::unhex, refusal::Kind};

/// Lets these nodes, and no other, take an older release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permit {
    /// SHA-256 of the signed manifest it is for.
    pub manifest: String,
    /// Who may.
    pub nodes: BTreeSet<NodeName>,
    /// Why; one line.
    pub reason: String,
    /// When it was made.
    pub created: Timestamp,
    /// Until when it may be used.
    pub expires: Timestamp,
}

impl Body for Permit {
    const KIND: Kind = Kind::Permit;

    fn check(&self) -> Result<(), String> {
        unhex::<32>(&self.manifest).ok_or("it names no manifest by its SHA-256")?;
        if self.nodes.is_empty() {
            return Err("it names no node".to_owned());
        }
        if self.reason.trim().is_empty() || self.reason.chars().any(char::is_control) {
            return Err("it gives no reason of one line".to_owned());
        }
        if self.created >= self.expires {
            return Err("it expires before it is made".to_owned());
        }
        Ok(())
    }
}
