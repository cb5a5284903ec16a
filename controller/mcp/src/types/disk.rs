use serde::{Deserialize, Serialize};

use super::{Server, State};
use crate::{Id, Operation};

/// A disk of a server or image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Its id.
    pub id: Option<Id<Self>>,
    /// Place on the bus; 0 is the system disk.
    pub scsi_id: u8,
    /// Size in GiB.
    pub size_gb: u32,
    /// `STANDARD`, `HIGHPERFORMANCE`, `ECONOMY`.
    pub speed: Option<String>,
    /// Where it is in its life; servers only.
    pub state: Option<State>,
}

/// A disk controller; what newer versions show in place of the list of disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScsiController {
    /// Its id.
    pub id: Option<String>,
    /// `LSI_LOGIC_PARALLEL`.
    pub adapter_type: Option<String>,
    /// Number of the bus.
    pub bus_number: Option<u8>,
    /// Disks on it.
    #[serde(default)]
    pub disk: Vec<Disk>,
}

/// Adds a disk; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddDisk {
    /// To which server.
    #[serde(alias = "serverId")]
    pub id: Id<Server>,
    /// Size in GiB.
    pub size_gb: u32,
    /// `STANDARD` if absent.
    pub speed: Option<String>,
    /// The next free one if absent.
    pub scsi_id: Option<u8>,
}

/// Removes a disk; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveDisk {
    /// Which.
    pub id: Id<Disk>,
}

/// Grows a disk; asynchronous; from 2.5 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpandDisk {
    /// Which.
    pub id: Id<Disk>,
    /// New size in GiB.
    pub new_size_gb: u32,
}

/// Changes a disk's speed; asynchronous; from 2.7 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeDiskSpeed {
    /// Which.
    pub id: Id<Disk>,
    /// New speed.
    pub speed: String,
}

impl Operation for AddDisk {
    const PATH: &'static str = "server/addDisk";
}

impl Operation for RemoveDisk {
    const PATH: &'static str = "server/removeDisk";
}

impl Operation for ExpandDisk {
    const PATH: &'static str = "server/expandDisk";
}

impl Operation for ChangeDiskSpeed {
    const PATH: &'static str = "server/changeDiskSpeed";
}
