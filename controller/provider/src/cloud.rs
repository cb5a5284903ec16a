//! The small part of the CloudControl API the provider needs: lists, looks, and one door for changes.

use async_trait::async_trait;
use fleet_mcp::{
    Client, Filter, Id, McpError, Operation,
    resource::{Deletable as _, ServerCall},
    types::{
        AddDisk, AddPublicIpBlock, ChangeServerMonitoringPlan, CreateFirewallRule, CreateIpAddressList,
        CreateNatRule, CustomerImage, Datacenter, DeployNetworkDomain, DeployServer, DeployVlan, Disk,
        EditFirewallRule, EditIpAddressList, EnableServerMonitoring, FirewallRule, Image, IpAddressList,
        NatRule, NetworkDomain, PublicIpBlock, ReconfigureServer, ReservedPublicIpv4Address, Server, Vlan,
    },
};

/// What the provider asks of a cloud. Reads may be repeated at will; a change is sent once per call, and whether to
/// send it again is the caller's decision, after a look.
#[async_trait]
pub trait Cloud: Send + Sync {
    /// All network domains.
    async fn network_domains(&self) -> Result<Vec<NetworkDomain>, McpError>;
    /// One network domain.
    async fn network_domain(&self, id: &Id<NetworkDomain>) -> Result<Option<NetworkDomain>, McpError>;
    /// All VLANs.
    async fn vlans(&self) -> Result<Vec<Vlan>, McpError>;
    /// One VLAN.
    async fn vlan(&self, id: &Id<Vlan>) -> Result<Option<Vlan>, McpError>;
    /// All servers.
    async fn servers(&self) -> Result<Vec<Server>, McpError>;
    /// Servers of one network domain.
    async fn servers_in(&self, domain: &Id<NetworkDomain>) -> Result<Vec<Server>, McpError>;
    /// One server.
    async fn server(&self, id: &Id<Server>) -> Result<Option<Server>, McpError>;
    /// The cloud's clock, as it writes dates; `None` if it does not say.
    async fn date(&self) -> Result<Option<String>, McpError>;
    /// All data centres.
    async fn datacenters(&self) -> Result<Vec<Datacenter>, McpError>;
    /// Images of the platform, of all data centres.
    async fn platform_images(&self) -> Result<Vec<Image>, McpError>;
    /// Images the customer made, of all data centres.
    async fn customer_images(&self) -> Result<Vec<Image>, McpError>;
    /// Blocks of public addresses of a network domain.
    async fn public_ip_blocks(&self, domain: &Id<NetworkDomain>) -> Result<Vec<PublicIpBlock>, McpError>;
    /// Public addresses of a network domain that are in use.
    async fn reserved_addresses(
        &self,
        domain: &Id<NetworkDomain>,
    ) -> Result<Vec<ReservedPublicIpv4Address>, McpError>;
    /// Address translations of a network domain.
    async fn nat_rules(&self, domain: &Id<NetworkDomain>) -> Result<Vec<NatRule>, McpError>;
    /// Firewall rules of a network domain.
    async fn firewall_rules(&self, domain: &Id<NetworkDomain>) -> Result<Vec<FirewallRule>, McpError>;
    /// Lists of addresses of a network domain, which its firewall rules may name.
    async fn address_lists(&self, domain: &Id<NetworkDomain>) -> Result<Vec<IpAddressList>, McpError>;
    /// Sends a change and returns once it is accepted; with the id of what is new, if the answer holds one.
    async fn change(&self, change: &Change) -> Result<Option<String>, McpError>;
}

/// Everything the provider ever changes.
#[derive(Clone, Debug)]
pub enum Change {
    /// Makes a network domain.
    DeployNetworkDomain(DeployNetworkDomain),
    /// Deletes one.
    DeleteNetworkDomain(Id<NetworkDomain>),
    /// Makes a VLAN.
    DeployVlan(DeployVlan),
    /// Deletes one.
    DeleteVlan(Id<Vlan>),
    /// Makes a server.
    DeployServer(Box<DeployServer>),
    /// Powers it on.
    StartServer(Id<Server>),
    /// Changes its CPUs and memory.
    Reconfigure(ReconfigureServer),
    /// Asks its guest to shut down.
    ShutdownServer(Id<Server>),
    /// Pulls its plug.
    PowerOffServer(Id<Server>),
    /// Deletes it.
    DeleteServer(Id<Server>),
    /// Removes what is left of one that could not be made.
    CleanServer(Id<Server>),
    /// Adds a disk.
    AddDisk(AddDisk),
    /// Grows a disk.
    ExpandDisk {
        /// Of which server.
        server: Id<Server>,
        /// Which disk.
        disk: Id<Disk>,
        /// New size in GB.
        size_gb: u32,
    },
    /// Turns monitoring on.
    EnableMonitoring(EnableServerMonitoring),
    /// Changes its plan.
    ChangeMonitoring(ChangeServerMonitoringPlan),
    /// Turns it off.
    DisableMonitoring(Id<Server>),
    /// Adds two public addresses.
    AddPublicIpBlock(AddPublicIpBlock),
    /// Gives them back.
    RemovePublicIpBlock(Id<PublicIpBlock>),
    /// Makes an address translation.
    CreateNatRule(CreateNatRule),
    /// Deletes one.
    DeleteNatRule(Id<NatRule>),
    /// Makes a firewall rule.
    CreateFirewallRule(Box<CreateFirewallRule>),
    /// Changes one.
    EditFirewallRule(Box<EditFirewallRule>),
    /// Deletes one.
    DeleteFirewallRule(Id<FirewallRule>),
    /// Makes a list of addresses.
    CreateAddressList(CreateIpAddressList),
    /// Changes one.
    EditAddressList(EditIpAddressList),
    /// Deletes one.
    DeleteAddressList(Id<IpAddressList>),
}

impl Change {
    /// The call's name, for journal and log: `deployServer`.
    pub fn name(&self) -> &'static str {
        let path = match self {
            Self::DeployNetworkDomain(_) => DeployNetworkDomain::PATH,
            Self::DeleteNetworkDomain(_) => "network/deleteNetworkDomain",
            Self::DeployVlan(_) => DeployVlan::PATH,
            Self::DeleteVlan(_) => "network/deleteVlan",
            Self::DeployServer(_) => DeployServer::PATH,
            Self::StartServer(_) => ServerCall::Start.path(),
            Self::Reconfigure(_) => ReconfigureServer::PATH,
            Self::ShutdownServer(_) => ServerCall::Shutdown.path(),
            Self::PowerOffServer(_) => ServerCall::PowerOff.path(),
            Self::DeleteServer(_) => "server/deleteServer",
            Self::CleanServer(_) => ServerCall::Clean.path(),
            Self::AddDisk(_) => AddDisk::PATH,
            Self::ExpandDisk { .. } => "server/changeDiskSize",
            Self::EnableMonitoring(_) => EnableServerMonitoring::PATH,
            Self::ChangeMonitoring(_) => ChangeServerMonitoringPlan::PATH,
            Self::DisableMonitoring(_) => ServerCall::DisableMonitoring.path(),
            Self::AddPublicIpBlock(_) => AddPublicIpBlock::PATH,
            Self::RemovePublicIpBlock(_) => "network/removePublicIpBlock",
            Self::CreateNatRule(_) => CreateNatRule::PATH,
            Self::DeleteNatRule(_) => "network/deleteNatRule",
            Self::CreateFirewallRule(_) => CreateFirewallRule::PATH,
            Self::EditFirewallRule(_) => EditFirewallRule::PATH,
            Self::DeleteFirewallRule(_) => "network/deleteFirewallRule",
            Self::CreateAddressList(_) => CreateIpAddressList::PATH,
            Self::EditAddressList(_) => EditIpAddressList::PATH,
            Self::DeleteAddressList(_) => IpAddressList::DELETE,
        };
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Whether it makes something that is listed.
    pub(crate) fn is_create(&self) -> bool {
        self.new_id().is_some() && !matches!(self, Self::AddDisk(_))
    }

    /// What an answer calls the id of what is new.
    fn new_id(&self) -> Option<&'static str> {
        Some(match self {
            Self::DeployNetworkDomain(_) => "networkDomainId",
            Self::DeployVlan(_) => "vlanId",
            Self::DeployServer(_) => "serverId",
            Self::AddDisk(_) => "diskId",
            Self::AddPublicIpBlock(_) => "ipBlockId",
            Self::CreateNatRule(_) => "natRuleId",
            Self::CreateFirewallRule(_) => "firewallRuleId",
            Self::CreateAddressList(_) => "ipAddressListId",
            _ => return None,
        })
    }
}

#[async_trait]
impl Cloud for Client {
    async fn network_domains(&self) -> Result<Vec<NetworkDomain>, McpError> {
        self.list(&Filter::all()).await
    }
    async fn network_domain(&self, id: &Id<NetworkDomain>) -> Result<Option<NetworkDomain>, McpError> {
        self.find(id).await
    }
    async fn vlans(&self) -> Result<Vec<Vlan>, McpError> {
        self.list(&Filter::all()).await
    }
    async fn vlan(&self, id: &Id<Vlan>) -> Result<Option<Vlan>, McpError> {
        self.find(id).await
    }
    async fn servers(&self) -> Result<Vec<Server>, McpError> {
        self.list(&Filter::all()).await
    }
    async fn servers_in(&self, domain: &Id<NetworkDomain>) -> Result<Vec<Server>, McpError> {
        self.list(&Filter::in_network_domain(domain)).await
    }
    async fn server(&self, id: &Id<Server>) -> Result<Option<Server>, McpError> {
        self.find(id).await
    }
    async fn date(&self) -> Result<Option<String>, McpError> {
        Client::date(self).await
    }
    async fn datacenters(&self) -> Result<Vec<Datacenter>, McpError> {
        self.list(&Filter::all()).await
    }
    async fn platform_images(&self) -> Result<Vec<Image>, McpError> {
        self.list(&Filter::all()).await
    }
    async fn customer_images(&self) -> Result<Vec<Image>, McpError> {
        let images = self.list::<CustomerImage>(&Filter::all()).await?;
        Ok(images.into_iter().map(|CustomerImage(image)| image).collect())
    }
    async fn public_ip_blocks(&self, domain: &Id<NetworkDomain>) -> Result<Vec<PublicIpBlock>, McpError> {
        self.list(&Filter::in_network_domain(domain)).await
    }
    async fn reserved_addresses(
        &self,
        domain: &Id<NetworkDomain>,
    ) -> Result<Vec<ReservedPublicIpv4Address>, McpError> {
        self.list(&Filter::in_network_domain(domain)).await
    }
    async fn nat_rules(&self, domain: &Id<NetworkDomain>) -> Result<Vec<NatRule>, McpError> {
        self.list(&Filter::in_network_domain(domain)).await
    }
    async fn firewall_rules(&self, domain: &Id<NetworkDomain>) -> Result<Vec<FirewallRule>, McpError> {
        self.list(&Filter::in_network_domain(domain)).await
    }
    async fn address_lists(&self, domain: &Id<NetworkDomain>) -> Result<Vec<IpAddressList>, McpError> {
        self.list(&Filter::in_network_domain(domain)).await
    }

    async fn change(&self, change: &Change) -> Result<Option<String>, McpError> {
        let response = match change {
            Change::DeployNetworkDomain(request) => Client::change(self, request).await?,
            Change::DeployVlan(request) => Client::change(self, request).await?,
            Change::DeployServer(request) => Client::change(self, request.as_ref()).await?,
            Change::AddDisk(request) => Client::change(self, request).await?,
            Change::Reconfigure(request) => Client::change(self, request).await?,
            Change::EnableMonitoring(request) => Client::change(self, request).await?,
            Change::ChangeMonitoring(request) => Client::change(self, request).await?,
            Change::AddPublicIpBlock(request) => Client::change(self, request).await?,
            Change::CreateNatRule(request) => Client::change(self, request).await?,
            Change::CreateFirewallRule(request) => Client::change(self, request.as_ref()).await?,
            Change::EditFirewallRule(request) => Client::change(self, request.as_ref()).await?,
            Change::CreateAddressList(request) => Client::change(self, request).await?,
            Change::EditAddressList(request) => Client::change(self, request).await?,
            Change::StartServer(id) => return none(self.server_call(ServerCall::Start, id).await),
            Change::ShutdownServer(id) => return none(self.server_call(ServerCall::Shutdown, id).await),
            Change::PowerOffServer(id) => return none(self.server_call(ServerCall::PowerOff, id).await),
            Change::CleanServer(id) => return none(self.server_call(ServerCall::Clean, id).await),
            Change::DisableMonitoring(id) => {
                return none(self.server_call(ServerCall::DisableMonitoring, id).await);
            }
            Change::ExpandDisk { server, disk, size_gb } => {
                return none(self.expand_disk(server, disk, *size_gb).await);
            }
            Change::DeleteNetworkDomain(id) => return none(self.delete(id).await),
            Change::DeleteVlan(id) => return none(self.delete(id).await),
            Change::DeleteServer(id) => return none(self.delete(id).await),
            Change::RemovePublicIpBlock(id) => return none(self.delete(id).await),
            Change::DeleteNatRule(id) => return none(self.delete(id).await),
            Change::DeleteFirewallRule(id) => return none(self.delete(id).await),
            Change::DeleteAddressList(id) => return none(self.delete(id).await),
        };
        let id = change.new_id().and_then(|name| response.info(name));
        Ok(id.filter(|id| !id.is_empty()).map(str::to_owned))
    }
}

fn none(result: Result<(), McpError>) -> Result<Option<String>, McpError> {
    result.map(|()| None)
}
