//! The database `rethinkdb`: the cluster as tables.

mod change;
mod issues;
pub mod view;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    reql::Result,
    server::Server,
    table::write::{Tally, Write},
};

/// Its name.
pub const DATABASE: &str = "rethinkdb";

/// Its id, the same in every cluster.
pub fn database_id() -> String {
    "b99b9572-8e53-5fef-9a2b-5e6aba3edf1c".into()
}

/// A table of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemTable {
    /// What is wrong.
    CurrentIssues,
    /// Databases.
    DbConfig,
    /// Names and tags of servers.
    ServerConfig,
    /// Connected servers.
    ServerStatus,
    /// Tables and their replicas.
    TableConfig,
    /// How tables are.
    TableStatus,
    /// Users.
    Users,
}

impl SystemTable {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CurrentIssues,
        Self::DbConfig,
        Self::ServerConfig,
        Self::ServerStatus,
        Self::TableConfig,
        Self::TableStatus,
        Self::Users,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::CurrentIssues => "current_issues",
            Self::DbConfig => "db_config",
            Self::ServerConfig => "server_config",
            Self::ServerStatus => "server_status",
            Self::TableConfig => "table_config",
            Self::TableStatus => "table_status",
            Self::Users => "users",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Its id: made from its name.
    pub fn id(self) -> String {
        made_id(&[DATABASE, self.name()])
    }
}

/// An id that depends on these texts alone.
pub fn made_id(of: &[&str]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, of.join("\0").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// Rows of a table as they are now; `by_id` gives ids in place of names.
pub fn rows(server: &Server, table: SystemTable, by_id: bool) -> Vec<Value> {
    match table {
        SystemTable::CurrentIssues => issues::rows(server),
        SystemTable::DbConfig => view::databases(server),
        SystemTable::ServerConfig => view::server_config(server),
        SystemTable::ServerStatus => view::server_status(server, by_id),
        SystemTable::TableConfig => view::table_config(server, by_id),
        SystemTable::TableStatus => view::table_status(server, by_id),
        SystemTable::Users => view::users(server),
    }
}

/// Writes rows of a table where that changes something of the cluster.
///
/// # Errors
/// None of the rows could be looked at; what goes wrong with one row is counted in the result.
pub async fn write(server: &Arc<Server>, table: SystemTable, by_id: bool, write: Write) -> Result<Value> {
    let mut tally = Tally::new(write.returned);
    let before = rows(server, table, by_id);
    for item in &write.items {
        let one = Write { items: vec![item.clone()], ..write.clone() };
        let read = |key: &str| {
            let is_it =
                |row: &&Value| crate::reql::datum::row_key(&row["id"]).is_ok_and(|found| found == key);
            before.iter().find(is_it).cloned()
        };
        let (alone, changes) = one.decide("id", read).await;
        let Some(change) = changes.into_iter().next() else {
            tally.add(alone);
            continue;
        };
        let (old, new) = (change.old.unwrap_or(Value::Null), change.new.unwrap_or(Value::Null));
        match change::apply(server, table, by_id, &old, &new).await {
            Ok(()) => tally.done(&old, &new),
            Err(why) => tally.failed(&old, &why),
        }
    }
    Ok(tally.into_value())
}
