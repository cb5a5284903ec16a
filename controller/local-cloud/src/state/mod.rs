//! The pure life-cycle machine behind the API.
//!
//! [`State::handle`] answers a call and says what work the backing has to do; [`State::tick`] and the
//! `…_done` methods move operations on. No I/O, no clock, no randomness of its own: the driver hands in time
//! and a random number generator. An operation ends when both its delay has passed and its work is done.

mod address;
mod affinity;
mod call;
mod catalogue;
mod delete;
mod deploy;
mod firewall;
mod image;
mod list;
mod network;
mod nic;
mod operation;
mod power;
mod query;
mod record;
mod reshape;
mod route;
mod spec;
mod tag;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use fleet_model::Timestamp;
use rand::RngCore;
use serde::{Deserialize, Serialize};

pub use call::{Answer, Call, Change, Done, Kind, Origin, Refused};
pub use operation::Operation;
pub use record::{Affinity, Copy, Domain, Mark, Network, Record};
pub(crate) use reshape::{controller_id, is_about_controllers};

use crate::{
    backing::{Id, ServerSpec, Stop},
    settings::{Choices, Delays, Quotas},
};
use fleet_mcp::types::{FirewallRule, IpAddressList, NatRule, PortList, PublicIpBlock, StaticRoute, TagKey};

/// Everything the cloud holds. Serialises to `state.json`; passwords are not part of that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The one organisation.
    pub organisation: String,
    /// First address of the public /24.
    pub(crate) public: Ipv4Addr,
    pub(crate) domains: Vec<Domain>,
    pub(crate) vlans: Vec<Network>,
    pub(crate) servers: Vec<Record>,
    pub(crate) blocks: Vec<PublicIpBlock>,
    pub(crate) nats: Vec<NatRule>,
    /// All domains' rules; the order within a domain is the order of evaluation.
    pub(crate) rules: Vec<FirewallRule>,
    pub(crate) ip_lists: Vec<IpAddressList>,
    pub(crate) port_lists: Vec<PortList>,
    pub(crate) reserved: Vec<Reserved>,
    // Absent in what earlier clouds wrote down.
    #[serde(default)]
    pub(crate) copies: Vec<Copy>,
    #[serde(default)]
    pub(crate) affinities: Vec<Affinity>,
    #[serde(default)]
    pub(crate) tag_keys: Vec<TagKey>,
    #[serde(default)]
    pub(crate) marks: Vec<Mark>,
    #[serde(default)]
    pub(crate) routes: Vec<StaticRoute>,
    /// Numbers given out so far; never reused, so that a late packet for an old owner reaches nobody.
    pub(crate) given: Given,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) macs: u32,
    pub(crate) networks: u16,
    pub(crate) monitors: u32,
}

/// A private address kept free by the customer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reserved {
    pub(crate) vlan: Id,
    pub(crate) datacenter: String,
    pub(crate) address: IpAddr,
    #[serde(default)]
    pub(crate) description: Option<String>,
}

/// What a call may lean on besides the state.
pub struct Context<'a> {
    /// The present moment.
    pub now: Timestamp,
    /// Who calls.
    pub user: &'a str,
    /// In which region: the API of a region knows nothing of the others.
    pub region: &'a str,
    /// Ids the call names.
    pub mentions: &'a [Id],
    /// Where ids and addresses come from.
    pub rng: &'a mut dyn RngCore,
    /// How long operations take at least.
    pub delays: &'a Delays,
    /// Where the platform says no.
    pub quotas: &'a Quotas,
    /// What the documents of the platform leave open.
    pub choices: &'a Choices,
    /// What goes wrong on request.
    pub twist: Twist,
}

/// Faults that live in the state rather than on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Twist {
    /// A server being made ends `FAILED_ADD`.
    pub fail_deploy: bool,
    /// A server being started is said to run, but nothing does.
    pub never_boots: bool,
}

/// Work for the backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Make the domain match [`State::domain_spec`].
    Domain(Id),
    /// Remove the domain.
    RemoveDomain(Id),
    /// Take these steps for a server, one after the other.
    Server(Id, Vec<Step>),
    /// Remove an image of the customer's.
    RemoveImage(Id),
}

/// One step for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make disks and files match.
    Apply(ServerSpec),
    /// Power on.
    Start(ServerSpec),
    /// Power off.
    Stop(Stop),
    /// Hard reset.
    Reset,
    /// Copy the disks into an image.
    Clone(ServerSpec, Id),
    /// Power off and delete.
    Remove,
}

impl State {
    /// An empty cloud.
    pub fn new(public: Ipv4Addr, rng: &mut dyn RngCore) -> Self {
        Self {
            organisation: uuid(rng),
            public,
            domains: Vec::new(),
            vlans: Vec::new(),
            servers: Vec::new(),
            blocks: Vec::new(),
            nats: Vec::new(),
            rules: Vec::new(),
            ip_lists: Vec::new(),
            port_lists: Vec::new(),
            reserved: Vec::new(),
            copies: Vec::new(),
            affinities: Vec::new(),
            tag_keys: Vec::new(),
            marks: Vec::new(),
            routes: Vec::new(),
            given: Given::default(),
        }
    }

    /// Answers a call. A refused call changes nothing.
    ///
    /// # Errors
    /// The platform's refusal: a response code and a text.
    pub fn handle(&mut self, call: &Call, cx: &mut Context<'_>) -> Result<(Answer, Vec<Work>), Refused> {
        match call {
            Call::List { kind, query } => {
                query::page(*kind, self.items(*kind, cx), query).map(|page| (page, Vec::new()))
            }
            Call::Get { kind, id } => {
                let found = self.items(*kind, cx).into_iter().find(|item| item["id"] == id.as_str());
                let value = found.ok_or_else(|| Refused::not_found(kind.words(), id))?;
                Ok((Answer::Entity { kind: *kind, value }, Vec::new()))
            }
            Call::Change(change) => {
                if let Some(foreign) = cx.mentions.iter().find(|id| !self.is_in(cx.region, id)) {
                    return Err(Refused::not_found("Resource", foreign));
                }
                let (done, work) = self.change(change, cx)?;
                Ok((Answer::Done(done), work))
            }
        }
    }

    fn change(&mut self, change: &Change, cx: &mut Context<'_>) -> Result<(Done, Vec<Work>), Refused> {
        match change {
            Change::DeployNetworkDomain(request) => self.deploy_domain(request, cx),
            Change::EditNetworkDomain(request) => self.edit_domain(request),
            Change::DeleteNetworkDomain(id) => self.delete_domain(id, cx),
            Change::DeployVlan(request) => self.deploy_vlan(request, None, cx),
            Change::DeployDetachedVlan(request, gateway) => self.deploy_vlan(request, Some(*gateway), cx),
            Change::ExpandVlan(request) => self.expand_vlan(request, cx),
            Change::EditVlan(request) => self.edit_vlan(request),
            Change::DeleteVlan(id) => self.delete_vlan(id, cx),
            Change::DeployServer(request) => self.deploy_server(request, cx),
            Change::DeployUncustomizedServer(request) => self.deploy_uncustomized(request, cx),
            Change::CloneServer(request) => self.clone_server(request, cx),
            Change::DeleteImage(id) => self.delete_image(id),
            Change::EditServerMetadata(request) => self.edit_server(request),
            Change::EditServer(request, resize) => {
                // A refused call changes nothing, so everything that may be refused goes first.
                request.name.as_deref().map(deploy::check_name).transpose()?;
                let resized = resize.as_ref().map(|resize| self.reconfigure(resize, cx)).transpose()?;
                let edited = self.edit_server(request)?;
                Ok(resized.unwrap_or(edited))
            }
            Change::Server(call, id) => self.server_call(*call, id, cx),
            Change::DeleteServer(id) => self.delete_server(id, cx),
            Change::Reconfigure(request) => self.reconfigure(request, cx),
            Change::AddDisk(request) => self.add_disk(request, cx),
            Change::AddDiskTo(controller, request) => self.add_disk_to(controller, request, cx),
            Change::RemoveDisk(request) => self.remove_disk(request.id.as_str(), cx),
            Change::ExpandDisk { server, disk, size_gb } => {
                self.expand_disk(server.as_deref(), disk, *size_gb, cx)
            }
            Change::ChangeDiskSpeed { server, disk, speed } => {
                self.change_disk_speed(server.as_deref(), disk, speed, cx)
            }
            Change::AddNic(request) => self.add_nic(request, cx),
            Change::RemoveNic(request) => self.remove_nic(request.id.as_str(), cx),
            Change::NotifyNicIpChange(request) => self.notify_nic(request, cx),
            Change::ExchangeNicVlans(request) => self.exchange_nics(request, cx),
            Change::ChangeNetworkAdapter(request) => self.change_adapter(request, cx),
            Change::EnableMonitoring(request) => self.enable_monitoring(request),
            Change::ChangeMonitoring(request) => self.change_monitoring(request),
            Change::AddPublicIpBlock(request) => self.add_block(request, cx),
            Change::RemovePublicIpBlock(id) => self.remove_block(id),
            Change::CreateNatRule(request) => self.create_nat(request, cx),
            Change::DeleteNatRule(id) => self.delete_nat(id),
            Change::CreateFirewallRule(request) => self.create_rule(request, cx),
            Change::EditFirewallRule(request) => self.edit_rule(request),
            Change::DeleteFirewallRule(id) => self.delete_rule(id),
            Change::CreateIpAddressList(request) => self.create_ip_list(request, cx),
            Change::EditIpAddressList(request) => self.edit_ip_list(request),
            Change::DeleteIpAddressList(id) => self.delete_ip_list(id),
            Change::CreatePortList(request) => self.create_port_list(request, cx),
            Change::EditPortList(request) => self.edit_port_list(request),
            Change::DeletePortList(id) => self.delete_port_list(id),
            Change::ReserveAddress(request) => self.reserve(request),
            Change::UnreserveAddress(request) => self.unreserve(request),
            Change::CreateAntiAffinityRule(request) => self.create_affinity(request, cx),
            Change::DeleteAntiAffinityRule(id) => self.delete_affinity(id, cx),
            Change::CreateTagKey(request) => self.create_tag_key(request, cx),
            Change::EditTagKey(request) => self.edit_tag_key(request),
            Change::DeleteTagKey(id) => self.delete_tag_key(id),
            Change::ApplyTags(request) => self.apply_tags(request),
            Change::RemoveTags(request) => self.remove_tags(request),
            Change::CreateStaticRoute(request) => self.create_route(request, cx),
            Change::DeleteStaticRoute(id) => self.delete_route(id),
            Change::RestoreStaticRoutes(request) => self.restore_routes(request),
        }
    }

    /// Ends every operation whose delay has passed and whose work is done; says whether there was one.
    pub fn tick(&mut self, now: Timestamp) -> bool {
        // Both, always: one changing must not keep the other waiting.
        let changed = self.tick_networks(now) | self.tick_servers(now) | self.tick_affinities(now);
        if changed {
            self.forget_marks();
        }
        changed
    }

    /// When [`State::tick`] next has something to do, if only time is missing.
    pub fn next_due(&self, now: Timestamp) -> Option<Duration> {
        let networks = self.vlans.iter().filter_map(|vlan| vlan.pending.as_ref()).map(|pending| pending.due);
        let domains =
            self.domains.iter().filter_map(|domain| domain.pending.as_ref()).map(|pending| pending.due);
        let servers =
            self.servers.iter().filter_map(|server| server.pending.as_ref()).map(|pending| pending.due);
        let rules =
            self.affinities.iter().filter_map(|rule| rule.pending.as_ref()).map(|pending| pending.due);
        let due = networks.chain(domains).chain(servers).chain(rules).filter(|due| *due > now).min()?;
        Some(due.since(now))
    }

    /// Work of operations that were under way when the process ended, and of domains whose filter may be
    /// older than the state.
    pub fn resume(&mut self) -> Vec<Work> {
        let mut work = self.resume_networks();
        work.extend(self.resume_servers());
        work
    }
}

/// A new id from the given randomness.
pub(crate) fn uuid(rng: &mut dyn RngCore) -> String {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}
