use serde::{Deserialize, Serialize};

use super::{
    Cpu, Datacenter, Disk, Guest, Image, Monitoring, NetworkInfo, PowerAction, ScsiController, State,
    ToolsStatus, ToolsVersion,
};
use crate::{
    Id, Resource,
    resource::{Deletable, Stateful},
};

/// A server, in the shape of version 2.4; newer disk shapes are read as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// Its id.
    pub id: Id<Self>,
    /// Where it is.
    pub datacenter_id: Id<Datacenter>,
    /// Its name; need not be unique.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// What runs inside.
    pub guest: Option<Guest>,
    /// CPUs.
    pub cpu: Cpu,
    /// Memory in GiB.
    pub memory_gb: u32,
    /// Disks; see [`Server::disks`].
    #[serde(default)]
    pub disk: Vec<Disk>,
    /// Disks in the shape of 2.5 and later; see [`Server::disks`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scsi_controller: Vec<ScsiController>,
    /// Its network; absent on MCP 1.0.
    pub network_info: Option<NetworkInfo>,
    /// Its backup.
    pub backup: Option<Backup>,
    /// Its monitoring.
    pub monitoring: Option<Monitoring>,
    /// Licensed software.
    #[serde(default)]
    pub software_label: Vec<String>,
    /// Image it was made from.
    pub source_image_id: Option<Id<Image>>,
    /// When it was made.
    pub create_time: Option<String>,
    /// Whether it was made completely.
    #[serde(default)]
    pub deployed: bool,
    /// Whether it is powered on.
    #[serde(default)]
    pub started: bool,
    /// Where it is in its life.
    pub state: State,
    /// What is under way or has failed; absent when idle.
    pub progress: Option<Progress>,
    /// Virtual hardware.
    pub virtual_hardware: Option<VirtualHardware>,
    /// Its tags.
    #[serde(default)]
    pub tag: Vec<Tag>,
}

impl Server {
    /// All disks by SCSI id, whichever shape the service used.
    pub fn disks(&self) -> Vec<&Disk> {
        let controllers = self.scsi_controller.iter().flat_map(|controller| &controller.disk);
        let mut disks: Vec<&Disk> = self.disk.iter().chain(controllers).collect();
        disks.sort_by_key(|disk| disk.scsi_id);
        disks
    }

    /// Whether the guest tools could be updated.
    pub fn tools_outdated(&self) -> bool {
        let tools = self.guest.as_ref().and_then(|guest| guest.vm_tools.as_ref());
        tools.and_then(|tools| tools.version_status.as_ref()) == Some(&ToolsVersion::NeedUpgrade)
    }

    /// Whether the guest tools say they run.
    pub fn tools_running(&self) -> bool {
        let tools = self.guest.as_ref().and_then(|guest| guest.vm_tools.as_ref());
        tools.and_then(|tools| tools.running_status.as_ref()) == Some(&ToolsStatus::Running)
    }
}

/// What a resource is busy with, or why it failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is being done.
    pub action: PowerAction,
    /// Since when.
    pub request_time: Option<String>,
    /// Who asked.
    pub user_name: Option<String>,
    /// Steps in all.
    pub number_of_steps: Option<u32>,
    /// Last news.
    pub update_time: Option<String>,
    /// Present step.
    pub step: Option<ProgressStep>,
    /// Why it failed.
    pub failure_reason: Option<String>,
}

/// A step of what is being done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressStep {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub number: Option<u32>,
    /// How far it is.
    pub percent_complete: Option<u32>,
}

/// Backup of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Its id.
    pub asset_id: Option<String>,
    /// Its plan.
    pub service_plan: Option<String>,
    /// Where it is in its life.
    pub state: Option<State>,
}

/// Virtual hardware of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualHardware {
    /// `vmx-10`.
    pub version: Option<String>,
    /// Newest there is.
    pub up_to_date: Option<bool>,
}

/// A tag on a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tag {
    /// Its key.
    pub tag_key_name: Option<String>,
    /// Its value.
    pub value: Option<String>,
}

/// A tag named by its key's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagById {
    /// Its key.
    pub tag_key_id: Option<String>,
    /// Its value.
    pub value: Option<String>,
}

impl Resource for Server {
    const KIND: &'static str = "server";
    const ROOT: &'static str = "servers";
    const ITEM: &'static str = "server";
    const PATH: &'static str = "server/server";
}

impl Stateful for Server {
    fn state(&self) -> &State {
        &self.state
    }
    fn failure(&self) -> Option<&str> {
        self.progress.as_ref()?.failure_reason.as_deref()
    }
}

impl Deletable for Server {
    const DELETE: &'static str = "server/deleteServer";
}
