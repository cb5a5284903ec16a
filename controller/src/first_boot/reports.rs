//! What new servers say of their first boot, before they have an identity.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fleet_model::NodeName;
use fleet_proto::v1::Stage;
use tokio::sync::watch;

/// The latest word from a first boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// How far it is.
    Reached(Stage),
    /// It failed: the failing line.
    Failed(String),
    /// The agent wanted to enrol and was refused: why, and what to do.
    Refused(String),
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
    pub fn reported(&self, node: &NodeName, stage: Stage, failure: String) {
        tracing::info!(%node, stage = stage.as_str_name(), failure, "first boot");
        let report = if stage == Stage::Failed { Report::Failed(failure) } else { Report::Reached(stage) };
        self.tell(node, report);
    }

    /// Takes the news that a node was refused when it wanted to enrol.
    pub fn refused(&self, node: &NodeName, why: String) {
        self.tell(node, Report::Refused(why));
    }

    fn tell(&self, node: &NodeName, report: Report) {
        if let Some(sender) = self.waiting().get(node) {
            sender.send_replace(Some(report));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<NodeName, watch::Sender<Option<Report>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
