//! Leave to go back.

use std::collections::BTreeSet;

use fleet_model::{FleetName, NodeName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    document::Body,
    key::unhex,
    refusal::{Kind, Refusal},
};

/// Lets these nodes, and no other, take an older release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permit {
    /// SHA-256 of the signed manifest it is for.
    pub manifest: String,
    /// Whose nodes: names of nodes are those of others elsewhere.
    pub fleet: FleetName,
    /// Who may.
    pub nodes: BTreeSet<NodeName>,
    /// Why; one line.
    pub reason: String,
    /// When it was made.
    pub created: Timestamp,
    /// Until when it may be used.
    pub expires: Timestamp,
}

impl Permit {
    /// Whether it says anything about nodes of this fleet.
    ///
    /// # Errors
    /// It is another fleet's.
    pub fn for_fleet(&self, here: &FleetName) -> Result<(), Refusal> {
        if self.fleet == *here {
            return Ok(());
        }
        Err(Refusal::PermitForOtherFleet { fleet: self.fleet.clone(), here: here.clone() })
    }
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
