//! The store in a RethinkDB table.

use std::time::Duration;

use async_trait::async_trait;
use fleet_reql::{Client, Conflict, Durability, Insert, ReqlError, ReturnChanges, Table, Term, Written, db};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    store::{Created, Store, StoreError},
    todo::{Patch, Todo, TodoId},
};

/// Somebody waits in front of a page; a database that takes longer is away.
const DEADLINE: Duration = Duration::from_secs(5);

/// Todos in a table that somebody else has made.
pub struct Rethink {
    client: Client,
    table: Table,
}

impl Rethink {
    /// Over a client that may not be connected yet.
    pub fn new(client: Client, database: &str, table: &str) -> Self {
        Self { client, table: db(database).table(table) }
    }

    async fn run<T: DeserializeOwned>(&self, query: impl Into<Term>) -> Result<T, StoreError> {
        // Not waiting for a connection: whoever typed shall hear at once that there is none.
        let Some(connection) = self.client.now() else { return Err(StoreError::Away) };
        connection.run_within(query, DEADLINE).await.map_err(|error| failed(&error))
    }

    async fn write(&self, query: Term) -> Result<Written, StoreError> {
        let written: Written = self.run(query).await?;
        match written.errors {
            0 => Ok(written),
            _ => {
                tracing::warn!(errors = written.errors, "the database did not write every row");
                Err(StoreError::Uncertain)
            }
        }
    }
}

fn failed(error: &ReqlError) -> StoreError {
    // The server's own words may quote a row.
    tracing::warn!(kind = ?error.server_kind(), uncertain = error.may_have_happened(), "a query failed");
    if error.may_have_happened() { StoreError::Uncertain } else { StoreError::Away }
}

/// The row after a write that answers with it.
fn row_after(written: &Written) -> Option<Todo> {
    let row = written.changes.first()?.new_val.clone()?;
    serde_json::from_value(row).ok()
}

#[async_trait]
impl Store for Rethink {
    async fn create(&self, todo: &Todo) -> Result<Created, StoreError> {
        let how = Insert {
            conflict: Some(Conflict::Error),
            durability: Some(Durability::Hard),
            return_changes: Some(ReturnChanges::Always),
        };
        let written: Written = self.run(self.table.insert(todo, how)).await?;
        if written.inserted == 1 {
            return Ok(Created::New);
        }
        // The one error an insert of one row can count is that its key is taken; the row there comes along.
        let before = written.changes.first().and_then(|change| change.old_val.clone());
        match before.map(serde_json::from_value) {
            Some(Ok(before)) => Ok(Created::Before(before)),
            _ => Err(StoreError::Uncertain),
        }
    }

    async fn get(&self, id: TodoId) -> Result<Option<Todo>, StoreError> {
        self.run(self.table.get(id)).await
    }

    async fn change(&self, id: TodoId, patch: &Patch) -> Result<Option<Todo>, StoreError> {
        let query = self.table.get(id).update_returning(patch, ReturnChanges::Always);
        self.write(query).await.map(|written| row_after(&written))
    }

    async fn remove(&self, id: TodoId) -> Result<bool, StoreError> {
        self.write(self.table.get(id).delete()).await.map(|written| written.deleted > 0)
    }

    async fn mark_all(&self, completed: bool) -> Result<u64, StoreError> {
        let others = self.table.all().filter(json!({ "completed": !completed }));
        self.write(others.update(json!({ "completed": completed }))).await.map(|written| written.replaced)
    }

    async fn clear_completed(&self) -> Result<u64, StoreError> {
        let done = self.table.all().filter(json!({ "completed": true }));
        self.write(done.delete()).await.map(|written| written.deleted)
    }
}
