//! Who takes part in a rollout, as the controller knows them.

use std::collections::BTreeMap;

use fleet_model::NodeName;
use serde::{Deserialize, Serialize};

/// One node as far as a rollout needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub node: NodeName,
    /// What its lot is drawn by: its identity, which a rebuilt node of the same name does not share.
    pub identity: String,
    /// Where it is.
    pub location: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Cluster of the database that it is a member of.
    pub cluster: Option<String>,
    /// Whether it is the seed, which goes last.
    pub seed: bool,
}

impl Member {
    /// A node of which only the name is known.
    pub fn new(node: NodeName) -> Self {
        Self {
            identity: node.to_string(),
            node,
            location: String::new(),
            labels: BTreeMap::new(),
            cluster: None,
            seed: false,
        }
    }
}
