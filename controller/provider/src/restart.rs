//! Leave to restart servers that others rely on.

use std::fmt;

use async_trait::async_trait;
use fleet_model::NodeName;

/// Asked before the server of a member of a database goes down for a while, and it comes back by itself.
#[async_trait]
pub trait Leave: fmt::Debug + Send + Sync {
    /// Waits until the database can do without it.
    ///
    /// # Errors
    /// It cannot for now: cause and next step.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    async fn to_restart(&self, node: &NodeName) -> Result<(), String>;
}

/// For who has nobody to ask.
#[derive(Debug)]
pub(crate) struct Granted;

#[async_trait]
impl Leave for Granted {
    async fn to_restart(&self, _: &NodeName) -> Result<(), String> {
        Ok(())
    }
}
