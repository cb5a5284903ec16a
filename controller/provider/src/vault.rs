//! Where the initial passwords of servers live.

use std::collections::BTreeSet;

use async_trait::async_trait;
use fleet_model::{NodeName, Secret};

/// The vault could not answer.
#[derive(Debug, thiserror::Error)]
#[error("vault of initial passwords")]
pub struct VaultError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Initial root passwords, drawn at random per server, sealed at rest by the implementation.
#[async_trait]
pub trait Vault: Send + Sync {
    /// The password of this node's server; drawn and stored durably on first use, before the server is made.
    async fn initial_password(&self, node: &NodeName) -> Result<Secret, VaultError>;

    /// Forgets it: the server is gone.
    async fn forget(&self, node: &NodeName) -> Result<(), VaultError>;

    /// Forgets all but these: a run that was killed may not have come to forget what it removed.
    async fn keep(&self, nodes: &BTreeSet<NodeName>) -> Result<(), VaultError>;
}

/// The vault of a fleet whose state is lost: it has forgotten everything, and draws nothing.
#[derive(Clone, Copy, Debug)]
pub struct LostVault;

#[async_trait]
impl Vault for LostVault {
    async fn initial_password(&self, _: &NodeName) -> Result<Secret, VaultError> {
        Err(VaultError("the fleet's state is lost".into()))
    }
    async fn forget(&self, _: &NodeName) -> Result<(), VaultError> {
        Ok(())
    }
    async fn keep(&self, _: &BTreeSet<NodeName>) -> Result<(), VaultError> {
        Ok(())
    }
}
