//! What goes over the wire: entities, requests and the envelope, with the names of JSON 2.4.

mod address;
mod address_list;
mod anti_affinity;
mod clone;
mod datacenter;
mod disk;
mod firewall_rule;
mod image;
mod monitoring;
mod nat_rule;
mod network_domain;
mod nic;
mod page;
mod public_ip_block;
mod reserved;
mod response;
mod server;
mod server_request;
mod static_route;
mod tag;
mod vlan;
mod words;

pub use address::{Address, AddressRange, Ipv6, Prefix4, Prefix6};
pub use address_list::{
    CreateIpAddressList, CreatePortList, EditIpAddressList, EditPortList, IpAddressList, ListRef, PortList,
    PortRange,
};
pub use anti_affinity::{AntiAffinityRule, CreateAntiAffinityRule, NetworkingDetails, ServerSummary};
pub use clone::{CloneServer, DeployUncustomizedServer};
pub use datacenter::{Datacenter, GeographicRegion, Hypervisor, Maintained, Networking, Property, Speed};
pub use disk::{AddDisk, ChangeDiskSpeed, Disk, ExpandDisk, RemoveDisk, ScsiController};
pub use firewall_rule::{CreateFirewallRule, EditFirewallRule, Endpoint, FirewallRule, IpMatch, Placement};
pub use image::{Artifact, Cpu, CustomerImage, Guest, Image, ImageSource, OperatingSystem, VmTools};
pub use monitoring::{ChangeServerMonitoringPlan, EnableServerMonitoring, Monitoring};
pub use nat_rule::{CreateNatRule, NatRule};
pub use network_domain::{DeployNetworkDomain, EditNetworkDomain, NetworkDomain};
pub use nic::{
    AddNic, ChangeNetworkAdapter, ExchangeNicVlans, NetworkInfo, NewNic, Nic, NotifyNicIpChange, RemoveNic,
};
pub use page::Page;
pub use public_ip_block::{AddPublicIpBlock, PublicIpBlock};
pub use reserved::{
    ReserveAddress, ReservedIpv6Address, ReservedPrivateIpv4Address, ReservedPublicIpv4Address,
};
pub use response::{NameValue, Response};
pub use server::{Backup, Progress, ProgressStep, Server, Tag, TagById, VirtualHardware};
pub use server_request::{
    CpuRequest, DeployServer, DiskRequest, EditServerMetadata, NetworkRequest, ReconfigureServer,
};
pub use static_route::{CreateStaticRoute, RestoreStaticRoutes, StaticRoute};
pub use tag::{AppliedTag, ApplyTags, CreateTagKey, EditTagKey, RemoveTags, TagKey};
pub use vlan::{DeployVlan, EditVlan, ExpandVlan, NetworkDomainRef, Vlan};
pub use words::{
    Action, AssetType, DomainType, Gateway, IpVersion, Placing, PowerAction, Protocol, ServicePlan, State,
    ToolsStatus, ToolsVersion,
};

use crate::{Id, Resource};

/// The body of calls that name one resource and nothing else: `startServer`, `deleteVlan`, …
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(bound = "")]
pub struct ById<T: Resource> {
    /// The resource.
    pub id: Id<T>,
}
