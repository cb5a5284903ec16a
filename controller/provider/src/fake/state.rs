//! What the cloud in memory holds, and how changes change it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use fleet_mcp::{
    Id, McpError,
    types::{
        AddDisk, Address, CreateFirewallRule, CreateIpAddressList, CreateNatRule, Datacenter,
        DeployNetworkDomain, DeployServer, DeployVlan, EditFirewallRule, EditIpAddressList, Endpoint,
        FirewallRule, Image, IpAddressList, ListRef, NatRule, NetworkDomain, PublicIpBlock,
        ReservedPublicIpv4Address, Server, State as Life, Vlan,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::refusal;
use crate::{cloud::Change, graph::DENY_IPV6};

/// What the cloud in memory holds.
#[derive(Debug, Default)]
pub struct State {
    /// Network domains.
    pub domains: BTreeMap<Id<NetworkDomain>, NetworkDomain>,
    /// VLANs.
    pub vlans: BTreeMap<Id<Vlan>, Vlan>,
    /// Servers.
    pub servers: BTreeMap<Id<Server>, Server>,
    /// Blocks of public addresses.
    pub blocks: BTreeMap<Id<PublicIpBlock>, PublicIpBlock>,
    /// Address translations.
    pub nats: BTreeMap<Id<NatRule>, NatRule>,
    /// Firewall rules.
    pub rules: BTreeMap<Id<FirewallRule>, FirewallRule>,
    /// Lists of addresses.
    pub lists: BTreeMap<Id<IpAddressList>, IpAddressList>,
    /// Guests do not shut down when asked.
    pub without_tools: bool,
    /// The most CPUs of a server.
    pub most_cpus: Option<u32>,
    /// Images the customer made.
    pub customer_images: Vec<Image>,
    /// How often servers of a name fail to be made before they succeed.
    pub failing: BTreeMap<String, u32>,
    /// How long servers are missing from lists once they were asked for.
    pub unlisted: Duration,
    /// When servers were asked for.
    asked: BTreeMap<Id<Server>, Instant>,
    /// Public addresses in use by something else than translations.
    pub reserved: Vec<Ipv4Addr>,
    looks: u32,
    takes: Duration,
    next: u32,
    /// Looks left until something under way is settled, and the moment before which it is not, by id.
    under_way: BTreeMap<String, (u32, Instant)>,
}

type Answer = Result<Option<String>, McpError>;

/// The images of a data centre.
pub fn images(datacenter: &str) -> Vec<Image> {
    let image = |name: &str| {
        shape(json!({"id": format!("{datacenter}-{name}"), "datacenterId": datacenter, "name": name}))
    };
    vec![image("CentOS 7 64-bit 2 CPU"), image("Debian 12 64-bit 1 CPU")]
}

/// An entity from its JSON, so that members the tests do not care for can be left out.
fn shape<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the shape of version 2.4")
}

impl State {
    pub(super) fn new(looks: u32) -> Self {
        Self { looks, ..Self::default() }
    }

    pub(super) fn slow(takes: Duration) -> Self {
        Self { takes, ..Self::default() }
    }

    /// Servers of a network domain.
    pub fn servers_in(&self, domain: &Id<NetworkDomain>) -> impl Iterator<Item = &Server> {
        let domain = domain.clone();
        self.servers.values().filter(move |server| {
            server.network_info.as_ref().is_some_and(|info| info.network_domain_id == domain)
        })
    }

    /// Lists of addresses of a network domain.
    pub(super) fn lists_in(&self, domain: &Id<NetworkDomain>) -> impl Iterator<Item = &IpAddressList> {
        let domain = domain.clone();
        self.lists.values().filter(move |list| list.network_domain_id.as_ref() == Some(&domain))
    }

    pub(super) fn reserved_in(&self, domain: &Id<NetworkDomain>) -> Vec<ReservedPublicIpv4Address> {
        let nats =
            self.nats.values().filter(|nat| nat.network_domain_id == *domain).map(|nat| nat.external_ip);
        nats.chain(self.reserved.iter().copied()).map(|value| shape(json!({"value": value}))).collect()
    }

    /// One look at a thing under way; true once it is settled.
    fn tick(&mut self, id: &str) -> bool {
        match self.under_way.get_mut(id) {
            None => true,
            Some((0, until)) => {
                let settled = *until <= Instant::now();
                if settled {
                    self.under_way.remove(id);
                }
                settled
            }
            Some((left, _)) => {
                *left -= 1;
                false
            }
        }
    }

    pub(super) fn datacenters(&self) -> Vec<Datacenter> {
        let most = self.most_cpus.unwrap_or(32);
        let centre = |at| {
            shape(json!({"id": format!("EU{at}"), "hypervisor": {"property": [
                {"name": "MAX_CPU_COUNT", "value": most.to_string()}]}}))
        };
        (0..10).map(centre).collect()
    }

    pub(super) fn look_domains(&mut self) -> Vec<NetworkDomain> {
        let ids: Vec<_> = self.domains.keys().cloned().collect();
        ids.iter().filter_map(|id| self.look_domain(id)).collect()
    }

    pub(super) fn look_vlans(&mut self) -> Vec<Vlan> {
        let ids: Vec<_> = self.vlans.keys().cloned().collect();
        ids.iter().filter_map(|id| self.look_vlan(id)).collect()
    }

    pub(super) fn look_servers(&mut self) -> Vec<Server> {
        let ids: Vec<_> = self.servers.keys().filter(|id| self.is_listed(id)).cloned().collect();
        ids.iter().filter_map(|id| self.look_server(id)).collect()
    }

    pub(super) fn is_listed(&self, id: &Id<Server>) -> bool {
        self.asked.get(id).is_none_or(|asked| asked.elapsed() >= self.unlisted)
    }

    pub(super) fn look_domain(&mut self, id: &Id<NetworkDomain>) -> Option<NetworkDomain> {
        if self.tick(id.as_str()) {
            let domain = self.domains.get_mut(id)?;
            match domain.state {
                Life::PendingDelete => {
                    self.domains.remove(id);
                    self.rules.retain(|_, rule| rule.network_domain_id != *id);
                    return None;
                }
                Life::PendingAdd | Life::PendingChange => domain.state = Life::Normal,
                _ => {}
            }
        }
        self.domains.get(id).cloned()
    }

    pub(super) fn look_vlan(&mut self, id: &Id<Vlan>) -> Option<Vlan> {
        if self.tick(id.as_str()) {
            let vlan = self.vlans.get_mut(id)?;
            match vlan.state {
                Life::PendingDelete => {
                    self.vlans.remove(id);
                    return None;
                }
                Life::PendingAdd | Life::PendingChange => vlan.state = Life::Normal,
                _ => {}
            }
        }
        self.vlans.get(id).cloned()
    }

    pub(super) fn look_server(&mut self, id: &Id<Server>) -> Option<Server> {
        if self.tick(id.as_str()) {
            let server = self.servers.get_mut(id)?;
            match server.state {
                Life::PendingDelete | Life::PendingClean => {
                    self.servers.remove(id);
                    return None;
                }
                Life::PendingAdd => {
                    let failing = self.failing.get_mut(&server.name).filter(|left| **left > 0);
                    server.state = if failing.is_some() { Life::FailedAdd } else { Life::Normal };
                    server.deployed = failing.is_none();
                    failing.into_iter().for_each(|left| *left -= 1);
                }
                Life::PendingChange => server.state = Life::Normal,
                _ => {}
            }
        }
        self.servers.get(id).cloned()
    }

    pub(super) fn change(&mut self, change: &Change) -> Answer {
        let call = change.name();
        match change {
            Change::DeployNetworkDomain(request) => self.deploy_domain(call, request),
            Change::DeployVlan(request) => self.deploy_vlan(call, request),
            Change::DeployServer(request) => self.deploy_server(call, request),
            Change::AddDisk(request) => self.add_disk(call, request),
            Change::CreateNatRule(request) => self.create_nat(call, request),
            Change::CreateFirewallRule(request) => self.create_rule(call, request),
            Change::EditFirewallRule(request) => self.edit_rule(call, request),
            Change::CreateAddressList(request) => self.create_list(call, request),
            Change::EditAddressList(request) => self.edit_list(call, request),
            Change::DeleteAddressList(id) => {
                let names = |end: &Endpoint| end.ip_address_list.as_ref().is_some_and(|list| list.id == *id);
                if self.rules.values().any(|rule| names(&rule.source) || names(&rule.destination)) {
                    return Err(McpError::HasDependency(refusal(call, "HAS_DEPENDENCY")));
                }
                self.lists.remove(id).map(|_| None).ok_or_else(|| not_found(call))
            }
            Change::ExpandDisk { server, disk, size_gb } => {
                let held = self.idle(call, server)?;
                held.state = Life::PendingChange;
                let disk = held.disk.iter_mut().find(|held| held.id.as_ref() == Some(disk));
                disk.ok_or_else(|| not_found(call))?.size_gb = *size_gb;
                self.begin(server.as_str())
            }
            Change::StartServer(id) => self.power(call, id, true),
            Change::Reconfigure(request) => {
                let server = self.idle(call, &request.id)?;
                if server.started {
                    return Err(McpError::ServerStarted(refusal(call, "SERVER_STARTED")));
                }
                server.cpu.count = request.cpu_count.unwrap_or(server.cpu.count);
                server.memory_gb = request.memory_gb.unwrap_or(server.memory_gb);
                server.state = Life::PendingChange;
                self.begin(request.id.as_str())
            }
            Change::ShutdownServer(id) if self.without_tools => {
                self.idle(call, id)?;
                Err(McpError::Rejected(refusal(call, "VMWARE_TOOLS_INVALID_STATUS")))
            }
            Change::ShutdownServer(id) => self.power(call, id, false),
            Change::PowerOffServer(id) => self.power(call, id, false),
            Change::DeleteServer(id) => {
                let server = self.idle(call, id)?;
                if server.started {
                    return Err(McpError::ServerStarted(refusal(call, "SERVER_STARTED")));
                }
                server.state = Life::PendingDelete;
                self.begin(id.as_str())
            }
            Change::CleanServer(id) => {
                let server = self.servers.get_mut(id).ok_or_else(|| not_found(call))?;
                if server.state != Life::FailedAdd {
                    return Err(McpError::Rejected(refusal(call, "INVALID_STATUS")));
                }
                server.state = Life::PendingClean;
                self.begin(id.as_str())
            }
            Change::EnableMonitoring(request) => {
                let server = self.idle(call, &request.id)?;
                if server.monitoring.is_some() {
                    return Err(McpError::NoChange(refusal(call, "NO_CHANGE")));
                }
                server.monitoring = Some(shape(json!({"servicePlan": request.service_plan})));
                Ok(None)
            }
            Change::ChangeMonitoring(request) => {
                let server = self.idle(call, &request.id)?;
                server.monitoring = Some(shape(json!({"servicePlan": request.service_plan})));
                Ok(None)
            }
            Change::DisableMonitoring(id) => {
                self.idle(call, id)?.monitoring = None;
                Ok(None)
            }
            Change::AddPublicIpBlock(request) => {
                let domain = self.domain(call, &request.network_domain_id)?.clone();
                let id = self.new_id("block");
                let base = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 51, 100, 0)) + 2 * self.next);
                let block: PublicIpBlock = shape(json!({
                    "id": id, "datacenterId": domain.datacenter_id, "networkDomainId": domain.id, "baseIp": base,
                    "size": 2, "state": "NORMAL"
                }));
                self.blocks.insert(block.id.clone(), block);
                Ok(Some(id))
            }
            Change::RemovePublicIpBlock(id) => {
                let block = self.blocks.get(id).ok_or_else(|| not_found(call))?;
                let used = |nat: &NatRule| block.addresses().any(|address| address == nat.external_ip);
                if self.nats.values().any(used) {
                    return Err(McpError::HasDependency(refusal(call, "HAS_DEPENDENCY")));
                }
                self.blocks.remove(id);
                Ok(None)
            }
            Change::DeleteNatRule(id) => self.nats.remove(id).map(|_| None).ok_or_else(|| not_found(call)),
            Change::DeleteFirewallRule(id) => {
                if self.rules.get(id).ok_or_else(|| not_found(call))?.is_default() {
                    return Err(McpError::Rejected(refusal(call, "OPERATION_NOT_SUPPORTED")));
                }
                self.rules.remove(id);
                Ok(None)
            }
            Change::DeleteVlan(id) => {
                let inside = |server: &Server| {
                    server
                        .network_info
                        .iter()
                        .flat_map(|info| info.nics())
                        .any(|nic| nic.vlan_id.as_ref() == Some(id))
                };
                if self.servers.values().any(inside) {
                    return Err(McpError::HasDependency(refusal(call, "HAS_DEPENDENCY")));
                }
                self.vlans.get_mut(id).ok_or_else(|| not_found(call))?.state = Life::PendingDelete;
                self.begin(id.as_str())
            }
            Change::DeleteNetworkDomain(id) => {
                let vlans = self.vlans.values().any(|vlan| vlan.network_domain.id == *id);
                if vlans
                    || self.lists_in(id).next().is_some()
                    || self.blocks.values().any(|block| block.network_domain_id == *id)
                {
                    return Err(McpError::HasDependency(refusal(call, "HAS_DEPENDENCY")));
                }
                self.domains.get_mut(id).ok_or_else(|| not_found(call))?.state = Life::PendingDelete;
                self.begin(id.as_str())
            }
        }
    }

    fn deploy_domain(&mut self, call: &'static str, request: &DeployNetworkDomain) -> Answer {
        let taken = |held: &NetworkDomain| {
            held.datacenter_id == request.datacenter_id && held.name.eq_ignore_ascii_case(&request.name)
        };
        if self.domains.values().any(taken) {
            return Err(taken_error(call));
        }
        let id = self.new_id("domain");
        let domain: NetworkDomain = shape(json!({
            "id": id, "datacenterId": request.datacenter_id, "name": request.name,
            "description": request.description, "type": request.plan, "state": "PENDING_ADD"
        }));
        let rule_id = self.new_id("rule");
        let rule: FirewallRule = shape(json!({
            "id": rule_id, "datacenterId": request.datacenter_id, "ruleType": "DEFAULT_RULE",
            "networkDomainId": id, "name": DENY_IPV6, "action": "DROP", "ipVersion": "IPV6", "protocol": "IP",
            "source": {"ip": {"address": "ANY"}}, "destination": {"ip": {"address": "ANY"}}, "enabled": true
        }));
        self.rules.insert(rule.id.clone(), rule);
        self.domains.insert(domain.id.clone(), domain);
        self.begin(&id)?;
        Ok(Some(id))
    }

    fn deploy_vlan(&mut self, call: &'static str, request: &DeployVlan) -> Answer {
        let domain = self.domain(call, &request.network_domain_id)?.clone();
        let prefix = request.private_ipv4_prefix_size.unwrap_or(24);
        let taken = |held: &Vlan| {
            held.network_domain.id == domain.id
                && (held.name.eq_ignore_ascii_case(&request.name)
                    || held.private_ipv4_range.address == request.private_ipv4_base_address)
        };
        if self.vlans.values().any(taken) {
            return Err(taken_error(call));
        }
        let id = self.new_id("vlan");
        let range = Ipv6Addr::new(0x2001, 0xdb8, 0, u16::try_from(self.next).unwrap_or(u16::MAX), 0, 0, 0, 0);
        let vlan: Vlan = shape(json!({
            "id": id, "datacenterId": domain.datacenter_id, "networkDomain": {"id": domain.id}, "name": request.name,
            "description": request.description, "state": "PENDING_ADD",
            "privateIpv4Range": {"address": request.private_ipv4_base_address, "prefixSize": prefix},
            "ipv6Range": {"address": range, "prefixSize": 64}
        }));
        self.vlans.insert(vlan.id.clone(), vlan);
        self.begin(&id)?;
        Ok(Some(id))
    }

    fn deploy_server(&mut self, call: &'static str, request: &DeployServer) -> Answer {
        let nic = &request.network_info.primary_nic;
        let vlan =
            nic.vlan_id.as_ref().and_then(|id| self.vlans.get(id)).ok_or_else(|| not_found(call))?.clone();
        let password =
            request.administrator_password.as_ref().is_some_and(|password| !password.reveal().is_empty());
        if !vlan.state.is_normal() || !password {
            return Err(McpError::Rejected(refusal(call, "INVALID_INPUT_DATA")));
        }
        let id = self.new_id("server");
        let host = u32::from(vlan.private_ipv4_range.address) + 7 + self.next % 200;
        let mut ipv6 = vlan.ipv6_range.map(|range| range.address.0.segments()).unwrap_or_default();
        ipv6[7] = u16::try_from(self.next).unwrap_or(u16::MAX);
        let server: Server = shape(json!({
            "id": id, "datacenterId": vlan.datacenter_id, "name": request.name,
            "description": request.description, "state": "PENDING_ADD", "started": request.start, "deployed": false,
            "cpu": {"count": request.cpu.as_ref().and_then(|cpu| cpu.count).unwrap_or(1)},
            "memoryGb": request.memory_gb.unwrap_or(1),
            "disk": [{"id": format!("{id}-0"), "scsiId": 0, "sizeGb": 10, "speed": "STANDARD"}],
            "networkInfo": {"networkDomainId": vlan.network_domain.id, "primaryNic": {
                "id": format!("{id}-nic"), "privateIpv4": Ipv4Addr::from(host), "ipv6": Ipv6Addr::from(ipv6),
                "vlanId": vlan.id, "vlanName": vlan.name}}
        }));
        self.asked.insert(server.id.clone(), Instant::now());
        self.servers.insert(server.id.clone(), server);
        self.begin(&id)?;
        Ok(Some(id))
    }

    fn add_disk(&mut self, call: &'static str, request: &AddDisk) -> Answer {
        let server = self.idle(call, &request.id)?;
        let scsi_id = request.scsi_id.unwrap_or(1);
        if server.disk.iter().any(|disk| disk.scsi_id == scsi_id) {
            return Err(McpError::Rejected(refusal(call, "INVALID_INPUT_DATA")));
        }
        let id = format!("{}-{scsi_id}", request.id);
        server.disk.push(shape(
            json!({"id": id, "scsiId": scsi_id, "sizeGb": request.size_gb, "speed": request.speed}),
        ));
        server.state = Life::PendingChange;
        self.begin(request.id.as_str())?;
        Ok(Some(id))
    }

    fn power(&mut self, call: &'static str, id: &Id<Server>, on: bool) -> Answer {
        let server = self.idle(call, id)?;
        if server.started == on {
            let error = if on { McpError::ServerStarted } else { McpError::ServerStopped };
            return Err(error(refusal(call, if on { "SERVER_STARTED" } else { "SERVER_STOPPED" })));
        }
        server.started = on;
        server.state = Life::PendingChange;
        self.begin(id.as_str())
    }

    fn create_nat(&mut self, call: &'static str, request: &CreateNatRule) -> Answer {
        let domain = self.domain(call, &request.network_domain_id)?.clone();
        let external =
            request.external_ip.ok_or_else(|| McpError::Rejected(refusal(call, "INVALID_INPUT_DATA")))?;
        let mut blocks = self.blocks.values().filter(|block| block.network_domain_id == domain.id);
        if !blocks.any(|block| block.addresses().any(|address| address == external)) {
            return Err(McpError::Rejected(refusal(call, "IP_ADDRESS_OUT_OF_RANGE")));
        }
        let in_domain = |nat: &&NatRule| nat.network_domain_id == domain.id;
        let taken = self.nats.values().any(|nat| nat.external_ip == external)
            || self.nats.values().filter(in_domain).any(|nat| nat.internal_ip == request.internal_ip)
            || self.reserved.contains(&external);
        if taken {
            return Err(taken_error(call));
        }
        let id = self.new_id("nat");
        let nat: NatRule = shape(json!({
            "id": id, "datacenterId": domain.datacenter_id, "networkDomainId": domain.id,
            "internalIp": request.internal_ip, "externalIp": external, "state": "NORMAL"
        }));
        self.nats.insert(nat.id.clone(), nat);
        Ok(Some(id))
    }

    fn create_rule(&mut self, call: &'static str, request: &CreateFirewallRule) -> Answer {
        let domain = self.domain(call, &request.network_domain_id)?.clone();
        let taken = |held: &FirewallRule| {
            held.network_domain_id == domain.id && held.name.eq_ignore_ascii_case(&request.name)
        };
        if self.rules.values().any(taken) {
            return Err(taken_error(call));
        }
        let host = request.destination.ip.as_ref().map(|ip| ip.address);
        if request.name.starts_with("CC") || host == Some(Address::Any) {
            return Err(McpError::Rejected(refusal(call, "INVALID_INPUT_DATA")));
        }
        let (source, destination) =
            (self.answered(call, &request.source)?, self.answered(call, &request.destination)?);
        let id = self.new_id("rule");
        let rule = FirewallRule {
            id: Id::new(&*id),
            datacenter_id: domain.datacenter_id,
            rule_type: Some("CLIENT_RULE".into()),
            network_domain_id: domain.id,
            name: request.name.clone(),
            action: request.action.clone(),
            ip_version: request.ip_version.clone(),
            protocol: request.protocol.clone(),
            source,
            destination,
            enabled: request.enabled,
            state: Some(Life::Normal),
        };
        self.rules.insert(rule.id.clone(), rule);
        Ok(Some(id))
    }

    fn edit_rule(&mut self, call: &'static str, request: &EditFirewallRule) -> Answer {
        let answered = |end: &Option<Endpoint>| end.as_ref().map(|end| self.answered(call, end)).transpose();
        let (source, destination) = (answered(&request.source)?, answered(&request.destination)?);
        let rule = self.rules.get_mut(&request.id).ok_or_else(|| not_found(call))?;
        let EditFirewallRule { protocol, enabled, .. } = request.clone();
        rule.protocol = protocol.unwrap_or_else(|| rule.protocol.clone());
        rule.source = source.unwrap_or_else(|| rule.source.clone());
        rule.destination = destination.unwrap_or_else(|| rule.destination.clone());
        rule.enabled = enabled.unwrap_or(rule.enabled);
        Ok(None)
    }

    /// One end of a rule as answers show it: lists by id and name.
    fn answered(&self, call: &'static str, end: &Endpoint) -> Result<Endpoint, McpError> {
        let Some(id) = &end.ip_address_list_id else { return Ok(end.clone()) };
        let list = self.lists.get(id).ok_or_else(|| not_found(call))?;
        let named = ListRef { id: id.clone(), name: Some(list.name.clone()) };
        Ok(Endpoint { ip_address_list_id: None, ip_address_list: Some(named), ..end.clone() })
    }

    fn create_list(&mut self, call: &'static str, request: &CreateIpAddressList) -> Answer {
        let domain = self.domain(call, &request.network_domain_id)?.id.clone();
        if self.lists_in(&domain).any(|held| held.name.eq_ignore_ascii_case(&request.name)) {
            return Err(taken_error(call));
        }
        if request.ip_address.is_empty() {
            return Err(McpError::Rejected(refusal(call, "INVALID_INPUT_DATA")));
        }
        let id = self.new_id("list");
        let list = IpAddressList {
            id: Id::new(&*id),
            name: request.name.clone(),
            description: request.description.clone(),
            ip_version: Some(request.ip_version.clone()),
            ip_address: request.ip_address.clone(),
            child_ip_address_list: Vec::new(),
            state: Some(Life::Normal),
            create_time: None,
            network_domain_id: Some(domain),
        };
        self.lists.insert(list.id.clone(), list);
        Ok(Some(id))
    }

    /// What is not given is empty afterwards, as a careful client has to expect.
    fn edit_list(&mut self, call: &'static str, request: &EditIpAddressList) -> Answer {
        let list = self.lists.get_mut(&request.id).ok_or_else(|| not_found(call))?;
        list.description.clone_from(&request.description);
        list.ip_address = request.ip_address.clone().unwrap_or_default();
        list.child_ip_address_list.clear();
        Ok(None)
    }

    fn domain(&self, call: &'static str, id: &Id<NetworkDomain>) -> Result<&NetworkDomain, McpError> {
        let domain = self.domains.get(id).ok_or_else(|| not_found(call))?;
        if !domain.state.is_normal() {
            return Err(McpError::Busy(refusal(call, "RESOURCE_BUSY")));
        }
        Ok(domain)
    }

    /// A server that takes an operation.
    fn idle(&mut self, call: &'static str, id: &Id<Server>) -> Result<&mut Server, McpError> {
        let server = self.servers.get_mut(id).ok_or_else(|| not_found(call))?;
        if !server.state.is_normal() {
            return Err(McpError::Busy(refusal(call, "RESOURCE_BUSY")));
        }
        Ok(server)
    }

    fn begin(&mut self, id: &str) -> Answer {
        self.under_way.insert(id.to_owned(), (self.looks, Instant::now() + self.takes));
        Ok(None)
    }

    fn new_id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{:04}", self.next)
    }
}

fn not_found(call: &'static str) -> McpError {
    McpError::NotFound(refusal(call, "RESOURCE_NOT_FOUND"))
}

fn taken_error(call: &'static str) -> McpError {
    McpError::NameNotUnique(refusal(call, "NAME_NOT_UNIQUE"))
}
