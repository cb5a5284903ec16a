//! Network domains and VLANs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fleet_mcp::{
    Id,
    types::{
        DeployNetworkDomain, DeployVlan, EditNetworkDomain, EditVlan, ExpandVlan, Gateway, Ipv6,
        NetworkDomain, NetworkDomainRef, PowerAction, Prefix4, Prefix6, Progress, State as Phase, Vlan,
    },
};
use fleet_model::Timestamp;

use super::{
    Context, Domain, Done, Network, Refused, State, Work, catalogue, deploy::check_name, record::Pending,
    uuid,
};

type Changed = Result<(Done, Vec<Work>), Refused>;

/// IPv6 networks of VLANs: `fd66:6c65:DC:N::/64`, where DC is the data centre's number and N counts VLANs of
/// the whole region. Unique local addresses (RFC 4193): they can never be anyone else's.
const IPV6_PREFIX: [u16; 2] = [0xfd66, 0x6c65];

impl State {
    pub(crate) fn deploy_domain(&mut self, request: &DeployNetworkDomain, cx: &mut Context<'_>) -> Changed {
        check_name(&request.name)?;
        let datacenter = request.datacenter_id.as_str();
        if !catalogue::has_datacenter(cx.region, datacenter) {
            return Err(Refused::not_found("Data center", datacenter));
        }
        let here = self.domains.iter().filter(|domain| domain.entity.datacenter_id.as_str() == datacenter);
        if here.clone().any(|domain| domain.entity.name.eq_ignore_ascii_case(&request.name)) {
            return Err(Refused::name_taken("network domain", &request.name));
        }
        if here.count() >= cx.quotas.domains {
            return Err(Refused::limit("network domains per data center", cx.quotas.domains));
        }
        let snat = self.free_snat()?;
        let id = uuid(cx.rng);
        let entity = NetworkDomain {
            id: Id::new(id.clone()),
            datacenter_id: request.datacenter_id.clone(),
            name: request.name.clone(),
            description: request.description.clone(),
            plan: Some(request.plan.clone()),
            snat_ipv4_address: Some(snat),
            outside_transit_vlan_ipv4_subnet: None,
            create_time: Some(cx.now.to_string()),
            state: Phase::PendingAdd,
            progress: None,
        };
        let due = cx.now.after(cx.delays.of("DEPLOY_NETWORK_DOMAIN"));
        let pending = Pending { delete: false, due, revision: 1, removed: false };
        self.domains.push(Domain { entity, pending: Some(pending), revision: 1, applied: 0 });
        self.add_default_rules(&id, &request.datacenter_id, cx);
        let message = format!("Request to deploy Network Domain '{}' accepted.", request.name);
        Ok((Done::accepted(message).info("networkDomainId", id.clone()), vec![Work::Domain(id)]))
    }

    pub(crate) fn edit_domain(&mut self, request: &EditNetworkDomain) -> Changed {
        let id = request.id.as_str();
        let datacenter = self.domain(id)?.entity.datacenter_id.clone();
        if let Some(name) = &request.name {
            check_name(name)?;
            let taken = |domain: &Domain| {
                domain.entity.id.as_str() != id
                    && domain.entity.datacenter_id == datacenter
                    && domain.entity.name.eq_ignore_ascii_case(name)
            };
            if self.domains.iter().any(taken) {
                return Err(Refused::name_taken("network domain", name));
            }
            for vlan in self.vlans.iter_mut().filter(|vlan| vlan.domain() == id) {
                vlan.entity.network_domain.name = Some(name.clone());
            }
        }
        let entity = &mut self.domain_mut(id)?.entity;
        entity.name = request.name.clone().unwrap_or_else(|| entity.name.clone());
        entity.description = request.description.clone().or(entity.description.take());
        entity.plan = request.plan.clone().or(entity.plan.take());
        Ok((Done::at_once(format!("Network Domain {id} has been edited.")), Vec::new()))
    }

    /// VLANs and public addresses stand in the way; firewall rules and lists go with the domain.
    pub(crate) fn delete_domain(&mut self, id: &str, cx: &mut Context<'_>) -> Changed {
        let domain = self.domain(id)?;
        if domain.pending.is_some() {
            return Err(Refused::busy("Network domain", id, domain.entity.state.as_str()));
        }
        let uses =
            |what: &str| Refused::new("HAS_DEPENDENCY", format!("Network domain {id} still has {what}."));
        if self.vlans.iter().any(|vlan| vlan.domain() == id) {
            return Err(uses("VLANs"));
        }
        if self.blocks.iter().any(|block| block.network_domain_id.as_str() == id) {
            return Err(uses("public IPv4 blocks"));
        }
        let due = cx.now.after(cx.delays.of("DELETE_NETWORK_DOMAIN"));
        let domain = self.domain_mut(id)?;
        domain.entity.state = Phase::PendingDelete;
        domain.pending = Some(Pending { delete: true, due, revision: 0, removed: false });
        let message = format!("Request to delete Network Domain {id} accepted.");
        Ok((Done::accepted(message), vec![Work::RemoveDomain(id.to_owned())]))
    }

    /// Makes a VLAN. One with a `detached` gateway is not routed by its network domain: only servers are told of
    /// that gateway.
    pub(crate) fn deploy_vlan(
        &mut self,
        request: &DeployVlan,
        detached: Option<Ipv4Addr>,
        cx: &mut Context<'_>,
    ) -> Changed {
        check_name(&request.name)?;
        let domain_id = request.network_domain_id.as_str();
        let domain = self.domain(domain_id)?;
        if !domain.entity.state.is_normal() {
            return Err(Refused::busy("Network domain", domain_id, domain.entity.state.as_str()));
        }
        let (datacenter, domain_name) = (domain.entity.datacenter_id.clone(), domain.entity.name.clone());
        let prefix_size = request.private_ipv4_prefix_size.unwrap_or(24);
        if !(16..=28).contains(&prefix_size) {
            return Err(Refused::invalid("privateIpv4PrefixSize must be 16 to 28."));
        }
        let range = Prefix4 { address: request.private_ipv4_base_address, prefix_size };
        if !range.address.is_private() {
            return Err(Refused::invalid(format!("{} is not private (RFC 1918).", range.address)));
        }
        if u32::from(range.address) & (size(range) - 1) != 0 {
            let message = format!("{} is not the first address of a /{prefix_size}.", range.address);
            return Err(Refused::invalid(message));
        }
        let here = self.vlans.iter().filter(|vlan| vlan.domain() == domain_id);
        if here.clone().any(|vlan| vlan.entity.name.eq_ignore_ascii_case(&request.name)) {
            return Err(Refused::name_taken("VLAN", &request.name));
        }
        if let Some(other) = here.clone().find(|vlan| overlap(vlan.entity.private_ipv4_range, range)) {
            let message =
                format!("{}/{prefix_size} overlaps with VLAN '{}'.", range.address, other.entity.name);
            return Err(Refused::new("IP_ADDRESS_NOT_UNIQUE", message));
        }
        if here.count() >= cx.quotas.vlans {
            return Err(Refused::limit("VLANs per network domain", cx.quotas.vlans));
        }
        let Some(number) = self.given.networks.checked_add(1) else {
            return Err(Refused::new("OUT_OF_RESOURCES", "No IPv6 network is left."));
        };
        self.given.networks = number;
        let gateway = request.gateway_addressing.clone().unwrap_or(Gateway::Low);
        let first = u32::from(range.address);
        let ipv4_gateway = match gateway {
            Gateway::High => Ipv4Addr::from(first + size(range) - 2),
            _ => Ipv4Addr::from(first + 1),
        };
        if let Some(outside) = detached.filter(|gateway| u32::from(*gateway) & !(size(range) - 1) != first) {
            let message = format!("{outside} is not in {}/{prefix_size}.", range.address);
            return Err(Refused::new("IP_ADDRESS_OUT_OF_RANGE", message));
        }
        let [a, b] = IPV6_PREFIX;
        let place = catalogue::datacenter_number(datacenter.as_str());
        let id = uuid(cx.rng);
        let entity = Vlan {
            id: Id::new(id.clone()),
            datacenter_id: datacenter,
            network_domain: NetworkDomainRef { id: Id::from(domain_id), name: Some(domain_name) },
            name: request.name.clone(),
            description: request.description.clone(),
            private_ipv4_range: range,
            gateway_addressing: Some(gateway),
            ipv4_gateway_address: Some(detached.unwrap_or(ipv4_gateway)),
            ipv6_range: Some(Prefix6 {
                address: Ipv6(Ipv6Addr::new(a, b, place, number, 0, 0, 0, 0)),
                prefix_size: 64,
            }),
            ipv6_gateway_address: Some(Ipv6(Ipv6Addr::new(a, b, place, number, 0, 0, 0, 1))),
            create_time: Some(cx.now.to_string()),
            state: Phase::PendingAdd,
            progress: None,
        };
        let revision = self.bump(domain_id);
        let due = cx.now.after(cx.delays.of("DEPLOY_VLAN"));
        let pending = Pending { delete: false, due, revision, removed: false };
        self.vlans.push(Network { entity, detached: detached.is_some(), pending: Some(pending) });
        let message = format!("Request to deploy VLAN '{}' accepted.", request.name);
        Ok((Done::accepted(message).info("vlanId", id), vec![Work::Domain(domain_id.to_owned())]))
    }

    pub(crate) fn edit_vlan(&mut self, request: &EditVlan) -> Changed {
        let id = request.id.as_str();
        let domain = self.network(id)?.domain().to_owned();
        if let Some(name) = &request.name {
            check_name(name)?;
            let taken = |vlan: &Network| {
                vlan.id() != id && vlan.domain() == domain && vlan.entity.name.eq_ignore_ascii_case(name)
            };
            if self.vlans.iter().any(taken) {
                return Err(Refused::name_taken("VLAN", name));
            }
        }
        let vlan = self.vlans.iter_mut().find(|vlan| vlan.id() == id);
        let entity = &mut vlan.ok_or_else(|| Refused::not_found("VLAN", id))?.entity;
        entity.name = request.name.clone().unwrap_or_else(|| entity.name.clone());
        entity.description = request.description.clone().or(entity.description.take());
        Ok((Done::at_once(format!("VLAN {id} has been edited.")), Vec::new()))
    }

    /// Makes the IPv4 network larger, at its end: its first address and its gateway stay what they are.
    pub(crate) fn expand_vlan(&mut self, request: &ExpandVlan, cx: &mut Context<'_>) -> Changed {
        let id = request.id.as_str();
        let vlan = self.network(id)?;
        if vlan.pending.is_some() {
            return Err(Refused::busy("VLAN", id, vlan.entity.state.as_str()));
        }
        let old = vlan.entity.private_ipv4_range;
        let prefix_size = request.private_ipv4_prefix_size;
        if prefix_size == old.prefix_size {
            return Err(Refused::new("NO_CHANGE", format!("VLAN {id} is a /{prefix_size} already.")));
        }
        if !(16..old.prefix_size).contains(&prefix_size) {
            let message =
                format!("privateIpv4PrefixSize must be 16 to {}.", old.prefix_size.saturating_sub(1));
            return Err(Refused::invalid(message));
        }
        let new = Prefix4 { prefix_size, ..old };
        if u32::from(new.address) & (size(new) - 1) != 0 {
            return Err(Refused::invalid(format!(
                "{} is not the first address of a /{prefix_size}.",
                new.address
            )));
        }
        if vlan.entity.gateway_addressing == Some(Gateway::High) {
            let message = "The gateway of a HIGH VLAN would move; it cannot be expanded.";
            return Err(Refused::new("OPERATION_NOT_SUPPORTED", message));
        }
        let domain = vlan.domain().to_owned();
        let mut others = self.vlans.iter().filter(|other| other.domain() == domain && other.id() != id);
        if let Some(other) = others.find(|other| overlap(other.entity.private_ipv4_range, new)) {
            let message =
                format!("{}/{prefix_size} overlaps with VLAN '{}'.", new.address, other.entity.name);
            return Err(Refused::new("IP_ADDRESS_NOT_UNIQUE", message));
        }
        let revision = self.bump(&domain);
        let due = cx.now.after(cx.delays.of("EXPAND_VLAN"));
        let mut name = String::new();
        if let Some(vlan) = self.vlans.iter_mut().find(|vlan| vlan.id() == id) {
            name.clone_from(&vlan.entity.name);
            vlan.entity.private_ipv4_range = new;
            vlan.entity.state = Phase::PendingChange;
            vlan.pending = Some(Pending { delete: false, due, revision, removed: false });
        }
        let message = format!("Request to expand VLAN '{name}' has been accepted and is being processed.");
        Ok((Done::accepted(message), vec![Work::Domain(domain)]))
    }

    pub(crate) fn delete_vlan(&mut self, id: &str, cx: &mut Context<'_>) -> Changed {
        let vlan = self.network(id)?;
        if vlan.pending.is_some() {
            return Err(Refused::busy("VLAN", id, vlan.entity.state.as_str()));
        }
        if self.servers.iter().any(|server| server.in_vlan(id)) {
            return Err(Refused::new("HAS_DEPENDENCY", format!("VLAN {id} still has servers.")));
        }
        let domain = vlan.domain().to_owned();
        let revision = self.bump(&domain);
        let due = cx.now.after(cx.delays.of("DELETE_VLAN"));
        self.reserved.retain(|reserved| reserved.vlan != id);
        if let Some(vlan) = self.vlans.iter_mut().find(|vlan| vlan.id() == id) {
            vlan.entity.state = Phase::PendingDelete;
            vlan.entity.progress = None;
            vlan.pending = Some(Pending { delete: true, due, revision, removed: false });
        }
        let message = format!("Request to delete VLAN {id} accepted.");
        Ok((Done::accepted(message), vec![Work::Domain(domain)]))
    }

    /// The backing has realised the domain up to `revision`, or could not.
    pub fn domain_done(&mut self, id: &str, revision: u64, result: Result<(), String>, now: Timestamp) {
        let Ok(domain) = self.domain_mut(id) else { return };
        let Err(why) = result else {
            domain.applied = domain.applied.max(revision);
            return;
        };
        tracing::warn!(domain = id, why, "network domain could not be realised");
        if domain.pending.as_ref().is_some_and(|pending| !pending.delete && pending.revision <= revision) {
            domain.pending = None;
            domain.entity.state = Phase::FailedAdd;
        }
        let waits = |vlan: &&mut Network| {
            vlan.domain() == id
                && vlan
                    .pending
                    .as_ref()
                    .is_some_and(|pending| !pending.delete && pending.revision <= revision)
        };
        for vlan in self.vlans.iter_mut().filter(waits) {
            vlan.pending = None;
            let expanding = vlan.entity.state == Phase::PendingChange;
            vlan.entity.state = if expanding { Phase::FailedChange } else { Phase::FailedAdd };
            let action = if expanding { "EXPAND_VLAN" } else { "DEPLOY_VLAN" };
            vlan.entity.progress = Some(Progress {
                action: PowerAction::Other(action.to_owned()),
                request_time: vlan.entity.create_time.clone(),
                user_name: None,
                number_of_steps: None,
                update_time: Some(now.to_string()),
                step: None,
                failure_reason: Some(why.clone()),
            });
        }
    }

    /// The backing has removed the domain, or could not.
    pub fn domain_removed(&mut self, id: &str, result: Result<(), String>) {
        let Ok(domain) = self.domain_mut(id) else { return };
        let Some(pending) = &mut domain.pending else { return };
        match result {
            Ok(()) => pending.removed = true,
            Err(why) => {
                tracing::warn!(domain = id, why, "network domain could not be removed");
                domain.pending = None;
                domain.entity.state = Phase::FailedDelete;
            }
        }
    }

    /// Whether the backing has something to do for the domain that it has not done.
    pub(crate) fn is_behind(&self, id: &str) -> bool {
        self.domain(id).is_ok_and(|domain| {
            !matches!(domain.entity.state, Phase::FailedAdd | Phase::PendingDelete)
                && domain.applied < domain.revision
        })
    }

    /// Whether the domain waits for the backing to remove it.
    pub(crate) fn is_leaving(&self, id: &str) -> bool {
        let pending = self.domain(id).ok().and_then(|domain| domain.pending.as_ref());
        pending.is_some_and(|pending| pending.delete && !pending.removed)
    }

    /// Whether the backing has realised `revision` of the domain; a domain that is gone needs nothing.
    pub fn is_applied(&self, id: &str, revision: u64) -> bool {
        self.domain(id).map_or(true, |domain| domain.applied >= revision)
    }

    pub(crate) fn tick_networks(&mut self, now: Timestamp) -> bool {
        let mut changed = false;
        let applied: Vec<(String, u64)> =
            self.domains.iter().map(|domain| (domain.id(), domain.applied)).collect();
        self.vlans.retain_mut(|vlan| {
            let reached =
                applied.iter().find(|(id, _)| id == vlan.domain()).map_or(u64::MAX, |(_, reached)| *reached);
            let Some(pending) =
                vlan.pending.take_if(|pending| pending.due <= now && pending.revision <= reached)
            else {
                return true;
            };
            changed = true;
            vlan.entity.state = Phase::Normal;
            !pending.delete
        });
        let mut gone = Vec::new();
        self.domains.retain_mut(|domain| {
            let applied = domain.applied;
            let settled = |pending: &mut Pending| {
                pending.due <= now
                    && if pending.delete { pending.removed } else { pending.revision <= applied }
            };
            let Some(pending) = domain.pending.take_if(settled) else { return true };
            changed = true;
            domain.entity.state = Phase::Normal;
            if pending.delete {
                gone.push(domain.entity.id.clone());
            }
            !pending.delete
        });
        for id in gone {
            self.rules.retain(|rule| rule.network_domain_id != id);
            self.nats.retain(|nat| nat.network_domain_id != id);
            self.ip_lists.retain(|list| list.network_domain_id.as_ref() != Some(&id));
            self.port_lists.retain(|list| list.network_domain_id.as_ref() != Some(&id));
            self.routes.retain(|route| route.network_domain_id != id);
        }
        changed
    }

    pub(crate) fn resume_networks(&self) -> Vec<Work> {
        let work = self.domains.iter().map(|domain| match &domain.pending {
            Some(pending) if pending.delete => Work::RemoveDomain(domain.id()),
            _ => Work::Domain(domain.id()),
        });
        work.collect()
    }

    /// Notes that the backing has to look at the domain again.
    pub(crate) fn bump(&mut self, domain: &str) -> u64 {
        let Ok(domain) = self.domain_mut(domain) else { return 0 };
        domain.revision += 1;
        domain.revision
    }

    pub(crate) fn domain(&self, id: &str) -> Result<&Domain, Refused> {
        let mut domains = self.domains.iter();
        domains
            .find(|domain| domain.entity.id.as_str() == id)
            .ok_or_else(|| Refused::not_found("Network domain", id))
    }

    pub(crate) fn domain_mut(&mut self, id: &str) -> Result<&mut Domain, Refused> {
        let mut domains = self.domains.iter_mut();
        domains
            .find(|domain| domain.entity.id.as_str() == id)
            .ok_or_else(|| Refused::not_found("Network domain", id))
    }

    pub(crate) fn network(&self, id: &str) -> Result<&Network, Refused> {
        self.vlans.iter().find(|vlan| vlan.id() == id).ok_or_else(|| Refused::not_found("VLAN", id))
    }
}

/// Addresses in a network; prefix lengths are 16 to 28.
fn size(range: Prefix4) -> u32 {
    1 << (32 - u32::from(range.prefix_size))
}

fn overlap(a: Prefix4, b: Prefix4) -> bool {
    let (a_first, b_first) = (u32::from(a.address), u32::from(b.address));
    a_first <= b_first + (size(b) - 1) && b_first <= a_first + (size(a) - 1)
}

/// Whether the address is in the VLAN's range.
pub(crate) fn contains(vlan: &Network, address: Ipv4Addr) -> bool {
    let range = vlan.entity.private_ipv4_range;
    u32::from(address) & !(size(range) - 1) == u32::from(range.address)
}

/// Whether the address is in one of the VLAN's two ranges.
pub(crate) fn holds(vlan: &Network, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => contains(vlan, address),
        IpAddr::V6(address) => vlan.entity.ipv6_range.is_some_and(|range| {
            let hosts = 128_u32.saturating_sub(range.prefix_size.into());
            let mask = u128::MAX.checked_shl(hosts).unwrap_or(0);
            address.to_bits() & mask == range.address.0.to_bits() & mask
        }),
    }
}

/// Whether the platform keeps this place of the range for itself: the first three after the network address,
/// or the last three before the broadcast address.
pub(crate) fn is_reserved(vlan: &Network, offset: u32) -> bool {
    let size = size(vlan.entity.private_ipv4_range);
    match vlan.entity.gateway_addressing {
        Some(Gateway::High) => (size - 4..size - 1).contains(&offset),
        _ => (1..=3).contains(&offset),
    }
}
