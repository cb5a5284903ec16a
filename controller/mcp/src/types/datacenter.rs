use serde::{Deserialize, Serialize};

use crate::{Id, Resource};

/// A data centre.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Datacenter {
    /// `EU7`.
    pub id: Id<Self>,
    /// `MCP 1.0` or `MCP 2.0`.
    #[serde(rename = "type")]
    pub generation: Option<String>,
    /// `Netherlands - Amsterdam`.
    pub display_name: Option<String>,
    /// City.
    pub city: Option<String>,
    /// Country, two letters.
    pub country: Option<String>,
    /// Address of its VPN.
    pub vpn_url: Option<String>,
    /// Host for image uploads.
    pub ftps_host: Option<String>,
    /// Its networking.
    pub networking: Option<Networking>,
    /// Its hypervisors and their limits.
    pub hypervisor: Option<Hypervisor>,
    /// Whether monitoring is in maintenance.
    pub monitoring: Option<Maintained>,
}

/// Networking of a data centre.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Networking {
    /// `2` for MCP 2.0.
    #[serde(rename = "type")]
    pub generation: Option<String>,
    /// `NORMAL` unless in maintenance.
    pub maintenance_status: Option<String>,
    /// Limits and the like.
    #[serde(default)]
    pub property: Vec<Property>,
}

/// Hypervisors of a data centre.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hypervisor {
    /// `VMWARE`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `NORMAL` unless in maintenance.
    pub maintenance_status: Option<String>,
    /// Disk speeds on offer.
    #[serde(default)]
    pub disk_speed: Vec<Speed>,
    /// CPU speeds on offer.
    #[serde(default)]
    pub cpu_speed: Vec<Speed>,
    /// Limits: `MAX_CPU_COUNT`, `MAX_DISK_SIZE_GB`, …
    #[serde(default)]
    pub property: Vec<Property>,
}

/// A speed of disks or CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Speed {
    /// `STANDARD`, `HIGHPERFORMANCE`, `ECONOMY`.
    pub id: String,
    /// Taken when none is named.
    pub default: Option<bool>,
    /// Can be had.
    pub available: Option<bool>,
    /// For people.
    pub display_name: Option<String>,
    /// Short form.
    pub abbreviation: Option<String>,
    /// For people.
    pub description: Option<String>,
}

/// A named value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Something that may be in maintenance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Maintained {
    /// `NORMAL` unless in maintenance.
    pub maintenance_status: Option<String>,
}

/// A region of the service: one API host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GeographicRegion {
    /// `europe`.
    pub id: Id<Self>,
    /// Whether it is the organisation's own.
    #[serde(default)]
    pub is_home: bool,
    /// `Europe`.
    pub name: String,
    /// Host of its API.
    pub cloud_api_host: Option<String>,
    /// Address of its console.
    pub cloud_ui_url: Option<String>,
    /// Address of its monitoring.
    pub monitoring_url: Option<String>,
    /// Host for image uploads.
    pub ftps_host: Option<String>,
    /// `Europe/Amsterdam`.
    pub time_zone: Option<String>,
    /// `ENABLED`, `NOT_ENABLED`.
    pub state: Option<String>,
}

impl Resource for GeographicRegion {
    const KIND: &'static str = "geographic region";
    const ROOT: &'static str = "geographicRegions";
    const ITEM: &'static str = "geographicRegion";
    const PATH: &'static str = "infrastructure/geographicRegion";
}

impl Resource for Datacenter {
    const KIND: &'static str = "data centre";
    const ROOT: &'static str = "datacenters";
    const ITEM: &'static str = "datacenter";
    const PATH: &'static str = "infrastructure/datacenter";
}
