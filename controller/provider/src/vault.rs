//! Where the initial passwords of servers live.

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
}
