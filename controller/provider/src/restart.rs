//! Leave to restart servers that others rely on.

use std::fmt;

use async_trait::async_trait;
use fleet_model::NodeName;

/// Held while the server of a member is down: the next one goes once it is dropped.
pub type Turn = Box<dyn Send>;

/// Asked before a server that is on goes down for a while, and it comes back by itself.
#[async_trait]
pub trait Leave: fmt::Debug + Send + Sync {
    /// Waits until the database can do without it; at once and with no turn if it is no member of one.
    ///
    /// # Errors
    /// It cannot for now: cause and next step.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    async fn to_restart(&self, node: &NodeName) -> Result<Option<Turn>, String>;
}

/// For who has nobody to ask.
#[derive(Debug)]
pub(crate) struct Granted;

#[async_trait]
impl Leave for Granted {
    async fn to_restart(&self, _: &NodeName) -> Result<Option<Turn>, String> {
        Ok(None)
    }
}
