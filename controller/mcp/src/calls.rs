//! Typed forms of the calls whose answers carry something, and short forms of the rest.

use crate::{
    Client, Filter, Id, McpError, account,
    resource::{Deletable, ServerCall},
    types::{
        AddDisk, AddNic, AddPublicIpBlock, ById, CreateFirewallRule, CreateNatRule, CustomerImage,
        DeployNetworkDomain, DeployServer, DeployVlan, Disk, EditFirewallRule, EnableServerMonitoring,
        FirewallRule, Image, NatRule, NetworkDomain, Nic, PublicIpBlock, ReconfigureServer, Response, Server,
        ServicePlan, Vlan,
    },
};

/// The id a change returned.
fn new_id<T>(response: &Response, name: &str) -> Result<Id<T>, McpError> {
    let id = response.info(name).filter(|id| !id.is_empty()).map(Id::new);
    id.ok_or_else(|| McpError::Decode {
        operation: response.operation.clone(),
        accepted: true,
        source: format!("no `{name}` in it").into(),
    })
}

impl Client {
    /// Images of the platform, then those of the customer, in the order the service lists them.
    pub async fn images(&self, filter: &Filter) -> Result<Vec<Image>, McpError> {
        let mut images = self.list::<Image>(filter).await?;
        let own = self.list::<CustomerImage>(filter).await?;
        images.extend(own.into_iter().map(|CustomerImage(image)| image));
        Ok(images)
    }

    /// Makes a network domain; poll it until it is normal.
    pub async fn deploy_network_domain(
        &self,
        request: &DeployNetworkDomain,
    ) -> Result<Id<NetworkDomain>, McpError> {
        new_id(&self.change(request).await?, "networkDomainId")
    }

    /// Makes a VLAN; poll it until it is normal.
    pub async fn deploy_vlan(&self, request: &DeployVlan) -> Result<Id<Vlan>, McpError> {
        new_id(&self.change(request).await?, "vlanId")
    }

    /// Makes a server; poll it until it is normal.
    pub async fn deploy_server(&self, request: &DeployServer) -> Result<Id<Server>, McpError> {
        new_id(&self.change(request).await?, "serverId")
    }

    /// Adds a disk; poll the server until it is normal.
    pub async fn add_disk(&self, request: &AddDisk) -> Result<Id<Disk>, McpError> {
        new_id(&self.change(request).await?, "diskId")
    }

    /// Grows a disk, by the 0.9 call that version 2.4 still needs; poll the server until it is normal.
    pub async fn expand_disk(
        &self,
        server: &Id<Server>,
        disk: &Id<Disk>,
        new_size_gb: u32,
    ) -> Result<(), McpError> {
        let detail = format!("server/{server}/disk/{disk}/changeSize");
        self.post_legacy("CHANGE_DISK_SIZE", &detail, account::change_size(new_size_gb)).await
    }

    /// Changes a disk's speed, by the 0.9 call; poll the server until it is normal.
    pub async fn change_disk_speed(
        &self,
        server: &Id<Server>,
        disk: &Id<Disk>,
        speed: &str,
    ) -> Result<(), McpError> {
        let detail = format!("server/{server}/disk/{disk}/changeSpeed");
        self.post_legacy("CHANGE_DISK_SPEED", &detail, account::change_speed(speed)).await
    }

    /// Adds a network card; poll the server until it is normal.
    pub async fn add_nic(&self, request: &AddNic) -> Result<Id<Nic>, McpError> {
        new_id(&self.change(request).await?, "nicId")
    }

    /// Changes CPUs or memory; poll the server until it is normal.
    pub async fn reconfigure_server(&self, request: &ReconfigureServer) -> Result<(), McpError> {
        self.change(request).await.map(drop)
    }

    /// Adds a block of two public addresses.
    pub async fn add_public_ip_block(
        &self,
        domain: &Id<NetworkDomain>,
    ) -> Result<Id<PublicIpBlock>, McpError> {
        let request = AddPublicIpBlock { network_domain_id: domain.clone() };
        new_id(&self.change(&request).await?, "ipBlockId")
    }

    /// Makes an address translation.
    pub async fn create_nat_rule(&self, request: &CreateNatRule) -> Result<Id<NatRule>, McpError> {
        new_id(&self.change(request).await?, "natRuleId")
    }

    /// Makes a firewall rule.
    pub async fn create_firewall_rule(
        &self,
        request: &CreateFirewallRule,
    ) -> Result<Id<FirewallRule>, McpError> {
        new_id(&self.change(request).await?, "firewallRuleId")
    }

    /// Changes a firewall rule.
    pub async fn edit_firewall_rule(&self, request: &EditFirewallRule) -> Result<(), McpError> {
        self.change(request).await.map(drop)
    }

    /// Turns monitoring on; fine if it is on.
    pub async fn enable_monitoring(&self, server: &Id<Server>, plan: ServicePlan) -> Result<(), McpError> {
        let request = EnableServerMonitoring { id: server.clone(), service_plan: plan };
        match self.change(&request).await {
            Ok(_) | Err(McpError::NoChange(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Does to a server what is done by naming it: start, shut down, clean, …
    pub async fn server_call(&self, call: ServerCall, server: &Id<Server>) -> Result<(), McpError> {
        self.post(call.path(), &ById { id: server.clone() }).await.map(drop)
    }

    /// Deletes; most kinds are gone only some time later, so poll until `find` answers `None`.
    pub async fn delete<T: Deletable>(&self, id: &Id<T>) -> Result<(), McpError> {
        self.post(T::DELETE, &ById { id: id.clone() }).await.map(drop)
    }
}
