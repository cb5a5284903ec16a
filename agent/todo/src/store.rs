//! Where todos are written. A trait, so that the interface can be tested without a database.

use async_trait::async_trait;

use crate::todo::{Patch, Todo, TodoId};

/// Why a todo could not be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It certainly did not happen.
    #[error("the database is away")]
    Away,
    /// It may have happened; whoever asks again with the same id does no harm.
    #[error("the database did not say whether it was done")]
    Uncertain,
}

/// What became of a new todo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is in the list.
    New,
    /// One of this id was there before.
    Before(Todo),
}

/// The table of todos.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Adds one.
    async fn create(&self, todo: &Todo) -> Result<Created, StoreError>;
    /// Reads one.
    async fn get(&self, id: TodoId) -> Result<Option<Todo>, StoreError>;
    /// Changes one; none if it is not there.
    async fn change(&self, id: TodoId, patch: &Patch) -> Result<Option<Todo>, StoreError>;
    /// Removes one; says whether it was there.
    async fn remove(&self, id: TodoId) -> Result<bool, StoreError>;
    /// Marks every todo; says how many were marked otherwise.
    async fn mark_all(&self, completed: bool) -> Result<u64, StoreError>;
    /// Removes those done; says how many.
    async fn clear_completed(&self) -> Result<u64, StoreError>;
}
