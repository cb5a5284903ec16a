//! What goes over the wire: entities, requests and the envelope, with the names of JSON 2.4.

mod address;
mod address_list;
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
mod vlan;
mod words;

pub use address::{Address, AddressRange, Ipv6, Prefix4, Prefix6};
pub use address_list::{
    CreateIpAddressList, CreatePortList, EditIpAddressList, EditPortList, IpAddressList, ListRef, PortList,
    PortRange,
};
pub use datacenter::{Datacenter, Hypervisor, Maintained, Networking, Property, Speed};
pub use disk::{AddDisk, ChangeDiskSpeed, Disk, ExpandDisk, RemoveDisk, ScsiController};
pub use firewall_rule::{CreateFirewallRule, EditFirewallRule, Endpoint, FirewallRule, IpMatch, Placement};
pub use image::{Cpu, CustomerImage, Guest, Image, OperatingSystem, VmTools};
pub use monitoring::{ChangeServerMonitoringPlan, EnableServerMonitoring, Monitoring};
pub use nat_rule::{CreateNatRule, NatRule};
pub use network_domain::{DeployNetworkDomain, EditNetworkDomain, NetworkDomain};
pub use nic::{AddNic, NetworkInfo, NewNic, Nic, RemoveNic};
pub use page::Page;
pub use public_ip_block::{AddPublicIpBlock, PublicIpBlock};
pub use reserved::ReservedPublicIpv4Address;
pub use response::{NameValue, Response};
pub use server::{Backup, Progress, ProgressStep, Server, Tag, VirtualHardware};
pub use server_request::{
    CpuRequest, DeployServer, DiskRequest, EditServerMetadata, NetworkRequest, ReconfigureServer,
};
pub use vlan::{DeployVlan, EditVlan, NetworkDomainRef, Vlan};
pub use words::{
    Action, DomainType, Gateway, IpVersion, Placing, PowerAction, Protocol, ServicePlan, State, ToolsStatus,
    ToolsVersion,
};

use crate::{Id, Resource};

/// The body of calls that name one resource and nothing else: `startServer`, `deleteVlan`, …
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(bound = "")]
pub struct ById<T: Resource> {
    /// The resource.
    pub id: Id<T>,
}
