use serde::{Deserialize, Serialize};

use super::{Datacenter, Disk, Progress, ScsiController, State, ToolsStatus, ToolsVersion, VirtualHardware};
use crate::{
    Id, Resource,
    resource::{Deletable, Stateful},
};

/// An image of the platform, in one data centre.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Its id; differs from data centre to data centre.
    pub id: Id<Self>,
    /// Where it is.
    pub datacenter_id: Id<Datacenter>,
    /// `Ubuntu 14.04 64-bit 2 CPU`.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// CPUs a server gets when it asks for none.
    pub cpu: Option<Cpu>,
    /// Memory a server gets when it asks for none.
    pub memory_gb: Option<u32>,
    /// Its disks.
    #[serde(default)]
    pub disk: Vec<Disk>,
    /// The same from 2.5 on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scsi_controller: Vec<ScsiController>,
    /// Licensed software in it.
    #[serde(default)]
    pub software_label: Vec<String>,
    /// When it was made.
    pub create_time: Option<String>,
    /// `T-UBUNTU-14-64-2-4-10`; images of the platform only.
    pub os_image_key: Option<String>,
    /// Customer images only.
    pub state: Option<State>,
    /// Its operating system.
    pub guest: Option<Guest>,
    /// Where it comes from; customer images only.
    pub source: Option<ImageSource>,
    /// What is under way or has failed; customer images only.
    pub progress: Option<Progress>,
    /// Virtual hardware of servers made from it; customer images only.
    pub virtual_hardware: Option<VirtualHardware>,
}

/// An image a customer made; the same otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CustomerImage(pub Image);

/// Where a customer image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSource {
    /// `BASE`, `CLONE`, `IMPORT`, `COPY`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it was made of.
    #[serde(default)]
    pub artifact: Vec<Artifact>,
}

/// Something an image was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// `SERVER_ID`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Which.
    pub value: String,
    /// Since when.
    pub date: Option<String>,
}

/// CPUs of a server or image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// How many.
    pub count: u32,
    /// `STANDARD`, `HIGHPERFORMANCE`, `ECONOMY`.
    pub speed: Option<String>,
    /// Cores per socket.
    pub cores_per_socket: Option<u32>,
}

/// What runs inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guest {
    /// Whether the platform sets password and addresses.
    pub os_customization: Option<bool>,
    /// The operating system.
    pub operating_system: Option<OperatingSystem>,
    /// The guest tools.
    pub vm_tools: Option<VmTools>,
}

/// An operating system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatingSystem {
    /// `UBUNTU1464`.
    pub id: String,
    /// `UBUNTU14/64`.
    pub display_name: Option<String>,
    /// `UNIX` or `WINDOWS`.
    pub family: Option<String>,
}

/// Guest tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmTools {
    /// `VMWARE_TOOLS` or `OPEN_VM_TOOLS`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// How old.
    pub version_status: Option<ToolsVersion>,
    /// Whether they run.
    pub running_status: Option<ToolsStatus>,
    /// Their version.
    pub api_version: Option<u32>,
}

impl Resource for Image {
    const KIND: &'static str = "image";
    const ROOT: &'static str = "osImages";
    const ITEM: &'static str = "osImage";
    const PATH: &'static str = "image/osImage";
}

impl Stateful for CustomerImage {
    fn state(&self) -> &State {
        // The service leaves the state of some images out; those are usable.
        self.0.state.as_ref().unwrap_or(&State::Normal)
    }
    fn failure(&self) -> Option<&str> {
        self.0.progress.as_ref()?.failure_reason.as_deref()
    }
}

impl Deletable for CustomerImage {
    const DELETE: &'static str = "image/deleteCustomerImage";
}

impl Resource for CustomerImage {
    const KIND: &'static str = "customer image";
    const ROOT: &'static str = "customerImages";
    const ITEM: &'static str = "customerImage";
    const PATH: &'static str = "image/customerImage";
}
