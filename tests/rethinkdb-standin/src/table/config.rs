//! What a table is and who holds it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::ServerId;

/// A set of servers.
pub type Members = BTreeSet<ServerId>;

/// Configuration of a table; part of its replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableConfig {
    /// The table's id.
    pub id: String,
    /// Id of its database.
    pub db: String,
    /// Its name.
    pub name: String,
    /// Its primary key.
    pub primary_key: String,
    /// The replica that leads when it can.
    pub primary: ServerId,
    /// All replicas, the primary included.
    pub replicas: Members,
    /// Replicas of the configuration that is being left: until that is done, both majorities are needed.
    pub leaving: Option<Members>,
    /// Names of the replicas when the configuration was made; they outlive the servers.
    pub names: BTreeMap<ServerId, String>,
    /// `majority` or `single`; always treated as `majority`.
    pub write_acks: String,
    /// `hard` or `soft`; always treated as `hard`.
    pub durability: String,
}

impl TableConfig {
    /// Every server that takes part.
    pub fn members(&self) -> Members {
        self.replicas.iter().chain(self.leaving.iter().flatten()).cloned().collect()
    }

    /// Who should lead: the primary, then the others, then those on their way out.
    pub fn order(&self) -> Vec<ServerId> {
        let mut order = vec![self.primary.clone()];
        for server in self.replicas.iter().chain(self.leaving.iter().flatten()) {
            if !order.contains(server) {
                order.push(server.clone());
            }
        }
        order
    }

    /// Whether these servers are enough to decide anything.
    pub fn is_quorum(&self, present: &Members) -> bool {
        let majority = |of: &Members| of.intersection(present).count() * 2 > of.len();
        majority(&self.replicas) && self.leaving.as_ref().is_none_or(majority)
    }

    /// Name of a replica as it was when the configuration was made.
    pub fn name_of(&self, server: &ServerId) -> &str {
        self.names.get(server).map_or("__disconnected_server__", String::as_str)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config(replicas: &[&str]) -> TableConfig {
        TableConfig {
            id: "table".into(),
            db: "db".into(),
            name: "t".into(),
            primary_key: "id".into(),
            primary: replicas[0].into(),
            replicas: replicas.iter().map(|name| (*name).into()).collect(),
            leaving: None,
            names: replicas.iter().map(|name| ((*name).into(), format!("name-{name}"))).collect(),
            write_acks: "majority".into(),
            durability: "hard".into(),
        }
    }

    fn set(names: &[&str]) -> Members {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn majorities() {
        let cases = [
            (config(&["a"]), None, set(&["a"]), true),
            (config(&["a", "b"]), None, set(&["a"]), false),
            (config(&["a", "b", "c"]), None, set(&["a", "c"]), true),
            (config(&["a", "b", "c"]), None, set(&["a", "x", "y"]), false),
            (config(&["d", "e"]), Some(set(&["a", "b", "c"])), set(&["d", "e", "a"]), false),
            (config(&["d", "e"]), Some(set(&["a", "b", "c"])), set(&["d", "e", "a", "b"]), true),
            (config(&["d", "e"]), Some(set(&["a", "b", "c"])), set(&["a", "b", "c"]), false),
        ];
        for (mut config, leaving, present, expected) in cases {
            config.leaving = leaving;
            assert_eq!(config.is_quorum(&present), expected, "{config:?} with {present:?}");
        }
    }

    #[test]
    fn the_primary_comes_first_and_nobody_twice() {
        let mut config = config(&["c", "a", "b"]);
        config.leaving = Some(set(&["b", "d"]));
        assert_eq!(config.order(), ["c", "a", "b", "d"]);
    }
}
