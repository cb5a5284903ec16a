//! Resources as the state keeps them: what the API shows, plus what only we need.

use fleet_mcp::types::{AssetType, Image, NetworkDomain, Nic, Server, Vlan};
use fleet_model::{Secret, Timestamp};
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::backing::Id;

/// A network domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Domain {
    pub(crate) entity: NetworkDomain,
    pub(crate) pending: Option<Pending>,
    /// Grows with everything the backing has to know of it.
    pub(crate) revision: u64,
    /// Newest revision the backing has realised. Forgotten on restart, so that the filter is looked at again.
    #[serde(skip)]
    pub(crate) applied: u64,
}

/// A VLAN.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Network {
    pub(crate) entity: Vlan,
    /// Its gateway is not ours.
    #[serde(default)]
    pub(crate) detached: bool,
    pub(crate) pending: Option<Pending>,
}

/// A server's disks, kept as an image of the customer's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Copy {
    pub(crate) entity: Image,
    /// The image as the backing knows it.
    pub(crate) image: String,
}

/// Servers that are to stay apart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Affinity {
    pub(crate) id: Id,
    pub(crate) servers: Vec<Id>,
    pub(crate) datacenter: String,
    pub(crate) domain: Id,
    pub(crate) created: String,
    pub(crate) pending: Option<Pending>,
}

/// A tag on something.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mark {
    pub(crate) kind: AssetType,
    pub(crate) asset: Id,
    pub(crate) key: Id,
    pub(crate) value: Option<String>,
}

/// A domain or VLAN being made or deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) delete: bool,
    /// Not settled before this.
    pub(crate) due: Timestamp,
    /// Revision of the domain that settles it.
    pub(crate) revision: u64,
    /// For a domain's deletion: the backing has removed it.
    pub(crate) removed: bool,
}

/// A server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub(crate) entity: Server,
    /// Its image as the backing knows it.
    pub(crate) image: String,
    /// Root's first password; in memory only, and only until the server's files are made.
    #[serde(skip)]
    pub(crate) password: Option<Secret>,
    /// It was asked for without a password.
    #[serde(default)]
    pub(crate) uncustomised: bool,
    /// The backing has its files.
    pub(crate) made: bool,
    pub(crate) pending: Option<Under>,
    /// Said to run, though nothing does: a fault was asked for.
    pub(crate) ghost: bool,
    /// When its last operation ended; an older look at what runs says nothing about it.
    pub(crate) settled: Timestamp,
}

/// The operation a server is under.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Under {
    pub(crate) operation: Operation,
    /// Not settled before this.
    pub(crate) due: Timestamp,
    /// How the backing's part stands.
    pub(crate) part: Part,
}

/// The backing's part of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Part {
    /// Not finished.
    Open,
    /// Finished.
    Done,
    /// Failed, and why.
    Failed(String),
}

impl Record {
    pub(crate) fn id(&self) -> &str {
        self.entity.id.as_str()
    }

    pub(crate) fn domain(&self) -> Option<&str> {
        Some(self.entity.network_info.as_ref()?.network_domain_id.as_str())
    }

    /// Whether one of its cards is in the VLAN.
    pub(crate) fn in_vlan(&self, vlan: &str) -> bool {
        let nics = self.entity.network_info.iter().flat_map(fleet_mcp::types::NetworkInfo::nics);
        nics.filter_map(|nic| nic.vlan_id.as_ref()).any(|id| id.as_str() == vlan)
    }

    /// Ids of its disks that have one.
    pub(crate) fn has_disk(&self, disk: &str) -> bool {
        self.entity.disk.iter().any(|own| own.id.as_ref().is_some_and(|id| id.as_str() == disk))
    }

    /// The card with this id.
    pub(crate) fn nic(&self, nic: &str) -> Option<&Nic> {
        let mut nics = self.entity.network_info.iter().flat_map(fleet_mcp::types::NetworkInfo::nics);
        nics.find(|own| own.id.as_str() == nic)
    }

    /// Whether one of its additional cards has this id.
    pub(crate) fn has_additional_nic(&self, nic: &str) -> bool {
        self.entity
            .network_info
            .as_ref()
            .is_some_and(|network| network.additional_nic.iter().any(|own| own.id.as_str() == nic))
    }
}

impl Network {
    pub(crate) fn id(&self) -> &str {
        self.entity.id.as_str()
    }

    pub(crate) fn domain(&self) -> &str {
        self.entity.network_domain.id.as_str()
    }
}

impl Domain {
    pub(crate) fn id(&self) -> Id {
        self.entity.id.to_string()
    }
}
