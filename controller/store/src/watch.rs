//! Changes as they happen, bounded: a watcher that falls behind is told to list again.

use tokio::sync::broadcast::{self, error::RecvError};

use crate::{Key, Versioned};

/// Changes kept for watchers that are behind. Beyond it a watcher has to list again, which costs it one read;
/// an unbounded backlog would cost the whole process its memory.
pub(crate) const BACKLOG: usize = 1024;

/// One change, or the news that some were missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key holds this now.
    Put(Key, Versioned),
    /// The key holds nothing any more; the number is the change's, as a version's is.
    Deleted(Key, u64),
    /// Changes were missed: list again. Watching goes on.
    Lagged,
}

/// A stream of changes below one key.
#[derive(Debug)]
pub struct Watch {
    prefix: Key,
    changes: broadcast::Receiver<Change>,
}

impl Watch {
    pub(crate) fn new(prefix: Key, changes: broadcast::Receiver<Change>) -> Self {
        Self { prefix, changes }
    }

    /// The next change, in the order they took effect; `None` once the store is closed.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            match self.changes.recv().await {
                Ok(change) if self.concerns(&change) => return Some(change),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Some(Change::Lagged),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn concerns(&self, change: &Change) -> bool {
        match change {
            Change::Put(key, _) | Change::Deleted(key, _) => key.is_below(&self.prefix),
            Change::Lagged => true,
        }
    }
}
