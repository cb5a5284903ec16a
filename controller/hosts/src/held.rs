//! Which machines are taken, in the store: written before anything is put on one, gone once nothing is there any more.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use fleet_model::NodeName;
use fleet_plan::resolved::{Host, Node};
use fleet_provider::event::Addresses;
use fleet_store::{Expected, Key, KeyError, Store, StoreError};
use serde::{Deserialize, Serialize};

const PREFIX: &str = "hosts";

/// What is known of the machines could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    /// The store failed.
    #[error("which machines are taken")]
    Store(#[from] StoreError),
    /// A name that the store does not take.
    #[error("which machines are taken")]
    Key(#[from] KeyError),
    /// An entry that cannot be understood.
    #[error("what is noted of machine `{0}` cannot be understood; was it written by a newer controller?")]
    Damaged(String, #[source] serde_json::Error),
}

/// A machine and how to get in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where it is, and who it is.
    pub host: Host,
    /// Who may get in, tried in turn: the plan's own task may shut out whoever came in first.
    pub logins: Vec<String>,
}

impl Place {
    /// Where a node of a plan is; `None` if its machine is not there already.
    pub fn of(node: &Node) -> Option<Self> {
        let host = node.host.clone()?;
        let mut logins = vec![host.login.clone()];
        logins.extend(node.login().filter(|login| *login != host.login).map(str::to_owned));
        Some(Self { host, logins })
    }

    /// Whether it is the same machine, as far as its address tells.
    pub fn is_at(&self, other: &Self) -> bool {
        (&self.host.address, self.host.port) == (&other.host.address, other.host.port)
    }
}

/// A machine that is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Where it is.
    pub place: Place,
    /// The plan's word for where that is.
    pub location: String,
    /// Its own id, when it was taken.
    pub machine: String,
    /// Its addresses.
    pub addresses: Addresses,
}

/// The machines of one fleet.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(pub(crate) Arc<dyn Store>);

impl Ledger {
    pub(crate) async fn all(&self) -> Result<BTreeMap<NodeName, Held>, HeldError> {
        let mut all = BTreeMap::new();
        for (key, entry) in self.0.list(&Key::new(PREFIX)?).await? {
            let Ok(node) = key.last().parse() else { continue };
            let held = serde_json::from_slice(&entry.value)
                .map_err(|error| HeldError::Damaged(key.last().to_owned(), error))?;
            all.insert(node, held);
        }
        Ok(all)
    }

    pub(crate) async fn put(&self, node: &NodeName, held: &Held) -> Result<(), HeldError> {
        let json = serde_json::to_vec(held).map_err(|error| HeldError::Damaged(node.to_string(), error))?;
        self.0.put(&key(node)?, Bytes::from(json), Expected::Any).await?;
        Ok(())
    }

    pub(crate) async fn remove(&self, node: &NodeName) -> Result<(), HeldError> {
        Ok(self.0.delete(&key(node)?, Expected::Any).await?)
    }
}

fn key(node: &NodeName) -> Result<Key, KeyError> {
    Key::new(PREFIX)?.join(node)
}
