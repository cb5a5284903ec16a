use serde::{Deserialize, Serialize};

use super::{
    Image, NetworkRequest, Server, Tag, TagById,
    server_request::{CpuRequest, DiskRequest},
};
use crate::{Id, Operation};

/// Makes a customer image of a server; asynchronous; from 2.4 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloneServer {
    /// Of which server.
    pub id: Id<Server>,
    /// The image's name.
    pub image_name: String,
    /// For people.
    pub description: Option<String>,
    /// Cluster of the image.
    pub cluster_id: Option<String>,
    /// Whether servers made from it are customised; yes if absent.
    pub guest_os_customization: Option<bool>,
    /// Tags of the image by the names of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tag: Vec<Tag>,
    /// Tags of the image by the ids of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tag_by_id: Vec<TagById>,
}

/// Makes a server without touching what is on its disks; asynchronous; from 2.4 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployUncustomizedServer {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Image to make it from.
    pub image_id: Id<Image>,
    /// Cluster to make it in.
    pub cluster_id: Option<String>,
    /// Whether to power it on as well.
    #[serde(default)]
    pub start: bool,
    /// CPUs; the image's if absent.
    pub cpu: Option<CpuRequest>,
    /// Memory in GiB; the image's if absent.
    pub memory_gb: Option<u32>,
    /// Its network.
    pub network_info: NetworkRequest,
    /// Speeds of the image's disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<DiskRequest>,
    /// Tags by the names of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tag: Vec<Tag>,
    /// Tags by the ids of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tag_by_id: Vec<TagById>,
}

impl Operation for CloneServer {
    const PATH: &'static str = "server/cloneServer";
}

impl Operation for DeployUncustomizedServer {
    const PATH: &'static str = "server/deployUncustomizedServer";
}
