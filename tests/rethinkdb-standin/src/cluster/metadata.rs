//! What every server knows of the cluster, and how two who know different things agree.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ServerId;
use crate::{
    table::{TableConfig, replica::Position},
    wire::scram::Password,
};

/// A database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseEntry {
    /// Grows with each change.
    pub version: u64,
    /// Its name; none once it is dropped.
    pub name: Option<String>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// Position of the record that set the configuration.
    pub position: Position,
    /// The configuration; none once it is dropped.
    pub config: Option<TableConfig>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserEntry {
    /// Grows with each change.
    pub version: u64,
    /// How to check the password.
    pub password: Password,
}

/// Everything all servers share, merged without losing a newer fact.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// By id.
    pub databases: BTreeMap<String, DatabaseEntry>,
    /// By id.
    pub tables: BTreeMap<String, TableEntry>,
    /// By name.
    pub users: BTreeMap<String, UserEntry>,
    /// Where servers were last found; members are remembered over restarts.
    pub addresses: BTreeMap<ServerId, BTreeSet<String>>,
}

impl Metadata {
    /// Takes over what another server knows better. Whether anything changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (id, theirs) in &other.databases {
            match self.databases.get(id) {
                Some(ours)
                    if (ours.name.is_none(), ours.version) >= (theirs.name.is_none(), theirs.version) => {}
                _ => {
                    self.databases.insert(id.clone(), theirs.clone());
                }
            }
        }
        for (id, theirs) in &other.tables {
            match self.tables.get(id) {
                // Dropped stays dropped.
                Some(ours)
                    if (ours.config.is_none(), ours.position)
                        >= (theirs.config.is_none(), theirs.position) => {}
                _ => {
                    self.tables.insert(id.clone(), theirs.clone());
                }
            }
        }
        for (name, theirs) in &other.users {
            match self.users.get(name) {
                Some(ours) if ours >= theirs => {}
                _ => {
                    self.users.insert(name.clone(), theirs.clone());
                }
            }
        }
        for (id, theirs) in &other.addresses {
            self.addresses.entry(id.clone()).or_insert_with(|| theirs.clone());
        }
        *self != before
    }

    /// Databases that exist: id and name.
    pub fn databases(&self) -> impl Iterator<Item = (&String, &String)> {
        self.databases.iter().filter_map(|(id, entry)| Some((id, entry.name.as_ref()?)))
    }

    /// Tables that exist.
    pub fn tables(&self) -> impl Iterator<Item = &TableConfig> {
        self.tables.values().filter_map(|entry| entry.config.as_ref())
    }

    /// A database by name.
    pub fn database(&self, name: &str) -> Option<&String> {
        self.databases().find(|(_, found)| *found == name).map(|(id, _)| id)
    }

    /// A table by database id and name.
    pub fn table(&self, db: &str, name: &str) -> Option<&TableConfig> {
        self.tables().find(|config| config.db == db && config.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{config::tests::config, replica::Term};

    fn table(term: u64, exists: bool) -> Metadata {
        let entry = TableEntry {
            position: Position { term: Term { number: term, leader: (0, 0) }, number: term },
            config: exists.then(|| config(&["a"])),
        };
        Metadata { tables: [("t".to_owned(), entry)].into(), ..Metadata::default() }
    }

    #[test]
    fn merging_gives_the_same_in_any_order_and_twice() {
        let facts = [table(1, true), table(3, true), table(2, false), Metadata::default()];
        for first in &facts {
            for second in &facts {
                let (mut one, mut other) = (first.clone(), second.clone());
                one.merge(second);
                other.merge(first);
                assert_eq!(one, other);
                assert!(!one.merge(second), "a second time changes nothing");
            }
        }
    }

    #[test]
    fn a_dropped_table_does_not_come_back() {
        let mut ours = table(2, false);
        assert!(!ours.merge(&table(9, true)));
        assert_eq!(ours.tables().count(), 0);
    }
}
