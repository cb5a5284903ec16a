//! Whose a machine is: a file on it says so, as descriptions do of what clouds hold.

use fleet_model::{FleetName, NodeName};
use serde::{Deserialize, Serialize};

/// Where it is.
pub const FILE: &str = "/etc/fleet-agent/host.json";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The fleet's name.
    pub fleet: String,
    /// Its id: names repeat, ids do not.
    pub id: String,
    /// The node the machine is.
    pub node: String,
}

impl Mark {
    /// The mark of a fleet's node.
    pub fn new(fleet: &FleetName, id: &str, node: &NodeName) -> Self {
        Self { fleet: fleet.to_string(), id: id.to_owned(), node: node.to_string() }
    }

    /// As the file has it: one line.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("three texts make JSON")
    }
}
