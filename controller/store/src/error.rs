//! What a store may answer instead of a value.

use std::path::PathBuf;

use fleet_model::Timestamp;

use crate::Key;

/// A store could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key does not hold what the caller expected; read again and decide anew.
    #[error("`{key}` was changed meanwhile")]
    Conflict {
        /// The key.
        key: Key,
        /// Version it holds, if it holds anything.
        held: Option<u64>,
    },
    /// Another process has this store open.
    #[error("the store {} is in use by {}", path.display(), holder(*.by))]
    Locked {
        /// The store's file.
        path: PathBuf,
        /// Process that holds it, if it says.
        by: Option<u32>,
    },
    /// Somebody else has this lease.
    #[error("`{key}` is held by {by} until {until}")]
    Held {
        /// The lease.
        key: Key,
        /// Who has it.
        by: String,
        /// When it lapses unless renewed.
        until: Timestamp,
    },
    /// The lease was taken over by somebody else, or released.
    #[error("the lease `{key}` was lost")]
    Lost {
        /// The lease.
        key: Key,
    },
    /// More bytes than [`MAX_VALUE`](crate::MAX_VALUE).
    #[error("{size} bytes are too many for `{key}`")]
    TooLarge {
        /// The key.
        key: Key,
        /// Bytes offered.
        size: usize,
    },
    /// The store could not be opened.
    #[error("open the store {}", path.display())]
    Open {
        /// The store's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The backend failed; nothing of this call took effect.
    #[error("{operation} in the store")]
    Backend {
        /// What was under way: `read`, `write`, `list`.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether reading again and deciding anew can succeed.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
