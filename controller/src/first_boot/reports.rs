//! What new servers say of their first boot, before they have an identity.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fleet_model::{NodeName, Timestamp};
use fleet_proto::v1::Stage;
use tokio::sync::watch;

/// The latest word from a first boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How far it is.
    pub stage: Stage,
    /// Empty unless something failed: the failing line.
    pub failure: String,
    /// The node's clock minus ours, in milliseconds.
    pub clock_ahead_ms: i64,
}

/// Reports of every first boot somebody waits for.
#[derive(Debug, Default)]
pub struct FirstBoots(Mutex<HashMap<NodeName, watch::Sender<Option<Report>>>>);

impl FirstBoots {
    /// Waits for reports of a new attempt: what earlier ones said is forgotten.
    pub fn expect(&self, node: &NodeName) -> watch::Receiver<Option<Report>> {
        let mut waiting = self.waiting();
        // Those nobody waits for any more go.
        waiting.retain(|_, sender| sender.receiver_count() > 0);
        let (sender, receiver) = watch::channel(None);
        waiting.insert(node.clone(), sender);
        receiver
    }

    /// Takes a report; dropped if nobody waits for it.
    pub fn reported(&self, node: &NodeName, stage: Stage, failure: String, node_ms: i64, now: Timestamp) {
        tracing::info!(%node, stage = stage.as_str_name(), failure, "first boot");
        let clock_ahead_ms = node_ms.saturating_sub(now.as_millis());
        if let Some(sender) = self.waiting().get(node) {
            sender.send_replace(Some(Report { stage, failure, clock_ahead_ms }));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<NodeName, watch::Sender<Option<Report>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
