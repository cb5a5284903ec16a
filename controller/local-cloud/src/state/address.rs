//! Public address blocks, translations and reserved private addresses.

use std::net::Ipv4Addr;

use fleet_mcp::{
    Id,
    types::{AddPublicIpBlock, CreateNatRule, NatRule, PublicIpBlock, ReserveAddress, State as Phase},
};

use super::{Context, Done, Refused, Reserved, State, Work, network, uuid};

type Changed = Result<(Done, Vec<Work>), Refused>;

/// Addresses per block, always.
const BLOCK: u32 = 2;
/// First address of the public network that may be part of a block; .1 is the host's.
const FIRST_PUBLIC: u32 = 2;
/// Last address of the public network in use; source addresses are taken from here downwards.
const LAST_PUBLIC: u32 = 254;

impl State {
    /// The highest public address that nothing uses.
    pub(crate) fn free_snat(&self) -> Result<Ipv4Addr, Refused> {
        let base = u32::from(self.public);
        let mut free = (FIRST_PUBLIC..=LAST_PUBLIC).rev().map(|host| Ipv4Addr::from(base + host));
        free.find(|address| !self.public_taken(*address))
            .ok_or_else(|| Refused::new("OUT_OF_RESOURCES", "No public IPv4 address is left."))
    }

    fn public_taken(&self, address: Ipv4Addr) -> bool {
        self.domains.iter().any(|domain| domain.entity.snat_ipv4_address == Some(address))
            || self.blocks.iter().any(|block| block.addresses().any(|own| own == address))
    }

    pub(crate) fn add_block(&mut self, request: &AddPublicIpBlock, cx: &mut Context<'_>) -> Changed {
        let domain_id = request.network_domain_id.as_str();
        let datacenter = self.live_domain(domain_id)?;
        let servers = self.servers.iter().filter(|server| server.domain() == Some(domain_id)).count();
        let own = self.blocks.iter().filter(|block| block.network_domain_id.as_str() == domain_id);
        let held: usize = own.map(|block| block.size as usize).sum();
        // One block is always to be had, so that addresses can be ordered before the first server.
        let allowed = (servers * cx.quotas.public_per_server).max(BLOCK as usize);
        if held + BLOCK as usize > allowed {
            let what = format!("public IPv4 addresses for {servers} servers");
            return Err(Refused::limit(&what, allowed));
        }
        let base = u32::from(self.public);
        let mut places = (FIRST_PUBLIC..LAST_PUBLIC).step_by(BLOCK as usize);
        let free =
            |host: &u32| (0..BLOCK).all(|index| !self.public_taken(Ipv4Addr::from(base + *host + index)));
        let place = places.find(free);
        let place = place.ok_or_else(|| Refused::new("OUT_OF_RESOURCES", "No public IPv4 block is left."))?;
        let id = uuid(cx.rng);
        self.blocks.push(PublicIpBlock {
            id: Id::new(id.clone()),
            datacenter_id: datacenter,
            network_domain_id: request.network_domain_id.clone(),
            base_ip: Ipv4Addr::from(base + place),
            size: BLOCK,
            create_time: Some(cx.now.to_string()),
            state: Some(Phase::Normal),
        });
        Ok((Done::at_once("Public IPv4 block has been added.").info("ipBlockId", id), Vec::new()))
    }

    pub(crate) fn remove_block(&mut self, id: &str) -> Changed {
        let index = self.blocks.iter().position(|block| block.id.as_str() == id);
        let index = index.ok_or_else(|| Refused::not_found("Public IPv4 block", id))?;
        let block = &self.blocks[index];
        if self.nats.iter().any(|nat| block.addresses().any(|address| address == nat.external_ip)) {
            let message = format!("An address of public IPv4 block {id} is used by a NAT rule.");
            return Err(Refused::new("HAS_DEPENDENCY", message));
        }
        self.blocks.remove(index);
        Ok((Done::at_once(format!("Public IPv4 block {id} has been removed.")), Vec::new()))
    }

    pub(crate) fn create_nat(&mut self, request: &CreateNatRule, cx: &mut Context<'_>) -> Changed {
        let domain_id = request.network_domain_id.as_str();
        let datacenter = self.live_domain(domain_id)?;
        let internal = request.internal_ip;
        let mut vlans = self.vlans.iter().filter(|vlan| vlan.domain() == domain_id);
        if !vlans.any(|vlan| network::contains(vlan, internal)) {
            let message = format!("{internal} is in no VLAN of network domain {domain_id}.");
            return Err(Refused::new("IP_ADDRESS_OUT_OF_RANGE", message));
        }
        let used = |address: Ipv4Addr| self.nats.iter().any(|nat| nat.external_ip == address);
        let blocks = self.blocks.iter().filter(|block| block.network_domain_id.as_str() == domain_id);
        let mut own = blocks.flat_map(PublicIpBlock::addresses);
        let external = match request.external_ip {
            None => own.find(|address| !used(*address)).ok_or_else(|| {
                Refused::new("NO_IP_ADDRESS_AVAILABLE", "No public IPv4 address is free; add a block.")
            })?,
            Some(address) if !own.any(|own| own == address) => {
                let message = format!("{address} is not a public address of network domain {domain_id}.");
                return Err(Refused::new("IP_ADDRESS_OUT_OF_RANGE", message));
            }
            Some(address) if used(address) => {
                return Err(Refused::new("IP_ADDRESS_NOT_UNIQUE", format!("{address} is in use.")));
            }
            Some(address) => address,
        };
        let same = |nat: &NatRule| nat.network_domain_id.as_str() == domain_id && nat.internal_ip == internal;
        if self.nats.iter().any(same) {
            let message = format!("{internal} is translated already.");
            return Err(Refused::new("IP_ADDRESS_NOT_UNIQUE", message));
        }
        let id = uuid(cx.rng);
        self.nats.push(NatRule {
            id: Id::new(id.clone()),
            datacenter_id: datacenter,
            network_domain_id: request.network_domain_id.clone(),
            internal_ip: internal,
            external_ip: external,
            external_ip_addressability: Some("PUBLIC_IP_BLOCK".to_owned()),
            create_time: Some(cx.now.to_string()),
            state: Some(Phase::Normal),
        });
        let done = Done::at_once(format!("NAT rule with external IP address '{external}' has been created."));
        Ok(self.filtered(done.info("natRuleId", id), domain_id))
    }

    pub(crate) fn delete_nat(&mut self, id: &str) -> Changed {
        let index = self.nats.iter().position(|nat| nat.id.as_str() == id);
        let index = index.ok_or_else(|| Refused::not_found("NAT rule", id))?;
        let domain = self.nats.remove(index).network_domain_id;
        Ok(self.filtered(Done::at_once(format!("NAT rule {id} has been deleted.")), domain.as_str()))
    }

    /// Keeps an address free. It may be in use already: it is then kept when that use ends.
    pub(crate) fn reserve(&mut self, request: &ReserveAddress) -> Changed {
        let (vlan, address) = (request.vlan_id.as_str(), request.ip_address);
        let network = self.network(vlan)?;
        if !network::holds(network, address) {
            return Err(Refused::new("IP_ADDRESS_OUT_OF_RANGE", format!("{address} is not in VLAN {vlan}.")));
        }
        if self.reserved.iter().any(|reserved| reserved.vlan == vlan && reserved.address == address) {
            return Err(Refused::new("IP_ADDRESS_NOT_UNIQUE", format!("{address} is reserved already.")));
        }
        let datacenter = network.entity.datacenter_id.to_string();
        let description = request.description.clone();
        self.reserved.push(Reserved { vlan: vlan.to_owned(), datacenter, address, description });
        Ok((Done::at_once(format!("{address} has been reserved.")), Vec::new()))
    }

    pub(crate) fn unreserve(&mut self, request: &ReserveAddress) -> Changed {
        let (vlan, address) = (request.vlan_id.as_str(), request.ip_address);
        let before = self.reserved.len();
        self.reserved.retain(|reserved| reserved.vlan != vlan || reserved.address != address);
        if self.reserved.len() == before {
            return Err(Refused::not_found("Reserved address", &address.to_string()));
        }
        Ok((Done::at_once(format!("{address} is no longer reserved.")), Vec::new()))
    }

    /// A domain that is not being deleted; its data centre.
    pub(crate) fn live_domain(&self, id: &str) -> Result<Id<fleet_mcp::types::Datacenter>, Refused> {
        let domain = self.domain(id)?;
        match domain.entity.state {
            // Public clients never retry these calls, so a domain in the making is no obstacle.
            Phase::PendingDelete => Err(Refused::not_found("Network domain", id)),
            _ => Ok(domain.entity.datacenter_id.clone()),
        }
    }

    /// A synchronous change that the packet filter has to follow before it is answered.
    pub(crate) fn filtered(&mut self, mut done: Done, domain: &str) -> (Done, Vec<Work>) {
        let revision = self.bump(domain);
        done.filter = Some((domain.to_owned(), revision));
        (done, vec![Work::Domain(domain.to_owned())])
    }
}
