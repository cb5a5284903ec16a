use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Image, NetworkDomain, NewNic, Server};
use crate::{Id, Operation, Secret};

/// Makes a server; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployServer {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Image to make it from.
    pub image_id: Id<Image>,
    /// Whether to power it on as well.
    #[serde(default)]
    pub start: bool,
    /// Root's first password.
    pub administrator_password: Option<Secret>,
    /// CPUs; the image's if absent.
    pub cpu: Option<CpuRequest>,
    /// Memory in GiB; the image's if absent.
    pub memory_gb: Option<u32>,
    /// Its network.
    pub network_info: NetworkRequest,
    /// First name server.
    pub primary_dns: Option<String>,
    /// Second name server.
    pub secondary_dns: Option<String>,
    /// Gateway other than the VLAN's.
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// Speeds of the image's disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk: Vec<DiskRequest>,
}

/// CPUs asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CpuRequest {
    /// How many.
    pub count: Option<u32>,
    /// `STANDARD` if absent.
    pub speed: Option<String>,
    /// Cores per socket.
    pub cores_per_socket: Option<u32>,
}

/// Network asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRequest {
    /// The network domain.
    pub network_domain_id: Id<NetworkDomain>,
    /// First card.
    pub primary_nic: NewNic,
    /// More cards.
    #[serde(default)]
    pub additional_nic: Vec<NewNic>,
}

/// Speed of one of the image's disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskRequest {
    /// Which.
    pub scsi_id: u8,
    /// Its speed.
    pub speed: Option<String>,
}

/// Changes CPUs or memory; absent members stay; asynchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReconfigureServer {
    /// Which.
    pub id: Id<Server>,
    /// New memory in GiB.
    pub memory_gb: Option<u32>,
    /// New number of CPUs.
    pub cpu_count: Option<u32>,
    /// New speed.
    pub cpu_speed: Option<String>,
    /// New cores per socket.
    pub cores_per_socket: Option<u32>,
}

/// Changes name or description; absent members stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditServerMetadata {
    /// Which.
    pub id: Id<Server>,
    /// New name.
    pub name: Option<String>,
    /// New description.
    pub description: Option<String>,
}

impl Operation for DeployServer {
    const PATH: &'static str = "server/deployServer";
}

impl Operation for ReconfigureServer {
    const PATH: &'static str = "server/reconfigureServer";
}

impl Operation for EditServerMetadata {
    const PATH: &'static str = "server/editServerMetadata";
}
