//! What the API lists: every resource as the value it shows.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Context, Kind, State, catalogue};

impl State {
    /// Every server, in order of creation.
    pub fn servers(&self) -> impl Iterator<Item = &fleet_mcp::types::Server> {
        self.servers.iter().map(|server| &server.entity)
    }

    /// Everything of a kind that the region of the call has, in order of creation.
    pub(crate) fn items(&self, kind: Kind, cx: &Context<'_>) -> Vec<Value> {
        let mut items = self.everywhere(kind, cx);
        items.retain(|item| match item["datacenterId"].as_str() {
            Some(datacenter) => catalogue::has_datacenter(cx.region, datacenter),
            // Lists say which network domain they belong to, and not where that is.
            None => item["networkDomainId"].as_str().is_none_or(|domain| self.is_in(cx.region, domain)),
        });
        items
    }

    /// Whether nothing of this id is in another region.
    pub(crate) fn is_in(&self, region: &str, id: &str) -> bool {
        self.datacenter_of(id).is_none_or(|datacenter| catalogue::has_datacenter(region, datacenter))
    }

    /// The data centre of the thing with this id.
    fn datacenter_of(&self, id: &str) -> Option<&str> {
        let domains =
            self.domains.iter().map(|domain| (domain.entity.id.as_str(), &domain.entity.datacenter_id));
        let vlans = self.vlans.iter().map(|vlan| (vlan.entity.id.as_str(), &vlan.entity.datacenter_id));
        let servers = self.servers.iter().map(|server| (server.id(), &server.entity.datacenter_id));
        let blocks = self.blocks.iter().map(|block| (block.id.as_str(), &block.datacenter_id));
        let nats = self.nats.iter().map(|nat| (nat.id.as_str(), &nat.datacenter_id));
        let rules = self.rules.iter().map(|rule| (rule.id.as_str(), &rule.datacenter_id));
        let all = domains.chain(vlans).chain(servers).chain(blocks).chain(nats).chain(rules);
        let found = all.into_iter().find(|(own, _)| *own == id).map(|(_, place)| place.as_str());
        found
            .or_else(|| {
                let lists = self.ip_lists.iter().map(|list| (list.id.as_str(), &list.network_domain_id));
                let lists = lists
                    .chain(self.port_lists.iter().map(|list| (list.id.as_str(), &list.network_domain_id)));
                let (_, domain) = lists.into_iter().find(|(own, _)| *own == id)?;
                self.domain(domain.as_ref()?.as_str()).ok().map(|domain| domain.entity.datacenter_id.as_str())
            })
            .or_else(|| {
                let part = |server: &&super::Record| server.has_disk(id) || server.has_additional_nic(id);
                self.servers.iter().find(part).map(|server| server.entity.datacenter_id.as_str())
            })
    }

    fn everywhere(&self, kind: Kind, cx: &Context<'_>) -> Vec<Value> {
        match kind {
            Kind::Datacenter => values(&catalogue::datacenters(cx.region, cx.quotas)),
            Kind::OperatingSystem => values(&catalogue::operating_systems()),
            Kind::OsImage => values(&catalogue::images(cx.region)),
            Kind::NetworkDomain => values(self.domains.iter().map(|domain| &domain.entity)),
            Kind::Vlan => values(self.vlans.iter().map(|vlan| &vlan.entity)),
            Kind::Server => values(self.servers.iter().map(|server| &server.entity)),
            Kind::PublicIpBlock => values(&self.blocks),
            Kind::NatRule => values(&self.nats),
            Kind::FirewallRule => values(&self.rules),
            Kind::IpAddressList => values(&self.ip_lists),
            Kind::PortList => values(&self.port_lists),
            Kind::ReservedPublicIpv4Address => self.public_in_use(),
            Kind::ReservedPrivateIpv4Address => self.private_in_use(),
            Kind::ReservedIpv6Address => self.ipv6_in_use(),
            // Kinds that can be asked for, and of which this cloud has none.
            Kind::CustomerImage | Kind::AntiAffinityRule | Kind::StaticRoute | Kind::TagKey | Kind::Tag => {
                Vec::new()
            }
        }
    }

    /// Public addresses used by translations. Only those in a block of the same domain: a public client
    /// crashes on any other.
    fn public_in_use(&self) -> Vec<Value> {
        let shown = self.nats.iter().filter_map(|nat| {
            let block = self.blocks.iter().find(|block| {
                block.network_domain_id == nat.network_domain_id
                    && block.addresses().any(|address| address == nat.external_ip)
            })?;
            Some(json!({
                "value": nat.external_ip, "datacenterId": nat.datacenter_id, "ipBlockId": block.id,
                "networkDomainId": nat.network_domain_id,
            }))
        });
        shown.collect()
    }

    fn private_in_use(&self) -> Vec<Value> {
        let nics = self.servers.iter().flat_map(|server| {
            let nics = server.entity.network_info.iter().flat_map(fleet_mcp::types::NetworkInfo::nics);
            nics.filter_map(|nic| {
                Some(json!({
                    "value": nic.private_ipv4?, "datacenterId": server.entity.datacenter_id, "vlanId": nic.vlan_id,
                }))
            })
        });
        let kept = self.reserved.iter().map(|reserved| {
            json!({"value": reserved.address, "datacenterId": reserved.datacenter, "vlanId": reserved.vlan})
        });
        nics.chain(kept).collect()
    }

    fn ipv6_in_use(&self) -> Vec<Value> {
        let nics = self.servers.iter().flat_map(|server| {
            let nics = server.entity.network_info.iter().flat_map(fleet_mcp::types::NetworkInfo::nics);
            nics.filter_map(|nic| {
                Some(json!({
                    "ipAddress": nic.ipv6?, "datacenterId": server.entity.datacenter_id, "vlanId": nic.vlan_id,
                }))
            })
        });
        nics.collect()
    }
}

fn values<'a, T: Serialize + 'a>(entities: impl IntoIterator<Item = &'a T>) -> Vec<Value> {
    let encode = |entity| fleet_mcp::liberal::encode(entity).expect("entities have only text keys");
    entities.into_iter().map(encode).collect()
}
