//! Initial passwords of servers: drawn once, stored sealed, forgotten with the server.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use fleet_model::{NodeName, Secret};
use fleet_provider::vault::{Vault, VaultError};
use fleet_store::{Expected, StoreError};

use crate::{
    records::{Records, keys},
    sealing::{Sealing, random},
};

/// Characters of a password: long enough that guessing is hopeless even without mixed punctuation, which some
/// images' password rules and many consoles mangle.
const LENGTH: usize = 24;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The vault over the controller's store.
#[derive(Clone, Debug)]
pub struct SealedVault {
    records: Records,
    sealing: Sealing,
}

impl SealedVault {
    /// Over these records, sealed with this key.
    pub fn new(records: Records, sealing: Sealing) -> Self {
        Self { records, sealing }
    }

    fn open(&self, node: &NodeName, sealed: &[u8]) -> Result<Secret, VaultError> {
        let opened = self.sealing.open_sealed(&purpose(node), sealed).map_err(failed)?;
        Ok(Secret::new(String::from_utf8(opened).map_err(failed)?))
    }
}

#[async_trait]
impl Vault for SealedVault {
    async fn initial_password(&self, node: &NodeName) -> Result<Secret, VaultError> {
        let key = keys::password(node);
        let store = self.records.store();
        if let Some(held) = store.get(&key).await.map_err(failed)? {
            return self.open(node, &held.value);
        }
        let password = draw()?;
        let sealed = self.sealing.seal(&purpose(node), password.reveal().as_bytes()).map_err(failed)?;
        match store.put(&key, Bytes::from(sealed), Expected::Absent).await {
            Ok(_) => Ok(password),
            // Somebody drew one meanwhile; theirs is in the store, so theirs is the password.
            Err(StoreError::Conflict { .. }) => match store.get(&key).await.map_err(failed)? {
                Some(held) => self.open(node, &held.value),
                None => Err(failed(StoreError::Conflict { key, held: None })),
            },
            Err(error) => Err(failed(error)),
        }
    }

    async fn forget(&self, node: &NodeName) -> Result<(), VaultError> {
        self.records.delete(&keys::password(node)).await.map_err(failed)
    }

    async fn keep(&self, nodes: &BTreeSet<NodeName>) -> Result<(), VaultError> {
        for (key, _) in self.records.store().list(&keys::passwords()).await.map_err(failed)? {
            if !nodes.iter().any(|node| keys::password(node) == key) {
                self.records.delete(&key).await.map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn draw() -> Result<Secret, VaultError> {
    let mut password = String::with_capacity(LENGTH);
    while password.len() < LENGTH {
        // Bytes from 248 up are thrown away: 248 is a multiple of 62, so every character is equally likely.
        let fair = random::<32>().map_err(failed)?.into_iter().filter(|byte| *byte < 248);
        password.extend(
            fair.map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]))
                .take(LENGTH - password.len()),
        );
    }
    Ok(Secret::new(password))
}

fn purpose(node: &NodeName) -> String {
    format!("password/{node}")
}

fn failed(source: impl std::error::Error + Send + Sync + 'static) -> VaultError {
    VaultError(Box::new(source))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_model::SystemClock;
    use fleet_store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_password_is_drawn_once_and_stored_sealed() {
        let dir = tempfile::tempdir().expect("a folder");
        let records = Records::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
        let vault = SealedVault::new(records.clone(), Sealing::open(dir.path()).expect("a key"));
        let node: NodeName = "web-1".parse().expect("a name");
        let password = vault.initial_password(&node).await.expect("drawn");
        assert_eq!(password.reveal().len(), LENGTH);
        assert!(password.reveal().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(vault.initial_password(&node).await.expect("kept").reveal(), password.reveal());
        let stored = records.store().get(&keys::password(&node)).await.expect("reads").expect("there");
        assert!(!String::from_utf8_lossy(&stored.value).contains(password.reveal()));
        vault.keep(&BTreeSet::from([node.clone()])).await.expect("kept");
        assert_eq!(vault.initial_password(&node).await.expect("kept").reveal(), password.reveal());
        vault.keep(&BTreeSet::new()).await.expect("forgotten");
        let password = vault.initial_password(&node).await.expect("anew");
        vault.forget(&node).await.expect("forgotten");
        assert_ne!(vault.initial_password(&node).await.expect("anew").reveal(), password.reveal());
    }
}
