//! A store that forgets: for tests, and the yardstick the embedded one is held against.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use fleet_model::Clock;
use tokio::sync::broadcast;

use crate::{Change, Expected, Key, MAX_VALUE, Store, StoreError, Versioned, Watch, watch::BACKLOG};

/// Everything in memory.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    changes: broadcast::Sender<Change>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Versioned>,
    revision: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::default(), changes: broadcast::Sender::new(BACKLOG), clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        Ok(self.state().entries.get(key).cloned())
    }

    async fn put(&self, key: &Key, value: Bytes, expected: Expected) -> Result<u64, StoreError> {
        if value.len() > MAX_VALUE {
            return Err(StoreError::TooLarge { key: key.clone(), size: value.len() });
        }
        let mut state = self.state();
        let held = state.entries.get(key).map(|entry| entry.version);
        if !expected.allows(held) {
            return Err(StoreError::Conflict { key: key.clone(), held });
        }
        state.revision += 1;
        let entry = Versioned { value, version: state.revision };
        state.entries.insert(key.clone(), entry.clone());
        // Sent under the lock, so that watchers see changes in the order they took effect; no watcher is fine.
        self.changes.send(Change::Put(key.clone(), entry)).ok();
        Ok(state.revision)
    }

    async fn delete(&self, key: &Key, expected: Expected) -> Result<(), StoreError> {
        let mut state = self.state();
        let held = state.entries.get(key).map(|entry| entry.version);
        if !expected.allows(held) {
            return Err(StoreError::Conflict { key: key.clone(), held });
        }
        if state.entries.remove(key).is_some() {
            state.revision += 1;
            self.changes.send(Change::Deleted(key.clone(), state.revision)).ok();
        }
        Ok(())
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<(Key, Versioned)>, StoreError> {
        let state = self.state();
        let found = state
            .entries
            .range((Bound::Excluded(prefix), Bound::Unbounded))
            // `a-b` sorts between `a` and `a/b`, so the scan may pass strangers before it is done.
            .take_while(|(key, _)| key.as_str().starts_with(prefix.as_str()))
            .filter(|(key, _)| key.is_below(prefix))
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        Ok(found)
    }

    async fn watch(&self, prefix: &Key) -> Result<Watch, StoreError> {
        Ok(Watch::new(prefix.clone(), self.changes.subscribe()))
    }

    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn conforms() {
        crate::conformance::run(async |clock| Arc::new(MemoryStore::new(clock)) as Arc<dyn Store>).await;
    }
}
