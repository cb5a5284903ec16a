//! What the API lists: every resource as the value it shows.

use std::net::IpAddr;

use fleet_mcp::types::{Address, Nic};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Context, Kind, Network, Reserved, State, catalogue};

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
        let images = self.copies.iter().map(|copy| (copy.entity.id.as_str(), &copy.entity.datacenter_id));
        let routes =
            self.routes.iter().filter_map(|route| Some((route.id.as_str(), route.datacenter_id.as_ref()?)));
        let all = domains.chain(vlans).chain(servers).chain(blocks).chain(nats).chain(rules);
        let all = all.chain(images).chain(routes);
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
                let part = |server: &&super::Record| server.has_disk(id) || server.nic(id).is_some();
                self.servers.iter().find(part).map(|server| server.entity.datacenter_id.as_str())
            })
    }

    fn everywhere(&self, kind: Kind, cx: &Context<'_>) -> Vec<Value> {
        match kind {
            Kind::Datacenter => values(&catalogue::datacenters(cx.region, cx.quotas)),
            Kind::OperatingSystem => values(&catalogue::operating_systems()),
            Kind::OsImage => values(&catalogue::images(cx.region)),
            Kind::NetworkDomain => values(self.domains.iter().map(|domain| &domain.entity)),
            Kind::Vlan => self.vlans.iter().map(shown_vlan).collect(),
            Kind::Server => {
                let shown = self.servers.iter().map(|server| {
                    let tag = self.tags_of(server.id());
                    fleet_mcp::types::Server { tag, ..server.entity.clone() }
                });
                values(&shown.collect::<Vec<_>>())
            }
            Kind::GeographicRegion => values(&catalogue::regions(cx.region)),
            Kind::CustomerImage => values(self.copies.iter().map(|copy| &copy.entity)),
            Kind::AntiAffinityRule => self.affinities(),
            Kind::StaticRoute => values(&self.routes),
            Kind::TagKey => values(&self.tag_keys),
            Kind::Tag => self.tags(),
            Kind::PublicIpBlock => values(&self.blocks),
            Kind::NatRule => values(&self.nats),
            Kind::FirewallRule => values(&self.rules),
            Kind::IpAddressList => values(&self.ip_lists),
            Kind::PortList => values(&self.port_lists),
            Kind::ReservedPublicIpv4Address => self.public_in_use(),
            Kind::ReservedPrivateIpv4Address => self.private_in_use(),
            Kind::ReservedIpv6Address => self.ipv6_in_use(),
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
        let cards =
            self.cards().filter_map(|(place, nic)| in_use(nic.private_ipv4.map(IpAddr::V4)?, place, nic));
        let kept = self.reserved.iter().filter(|reserved| reserved.address.is_ipv4());
        cards.chain(kept.map(kept_free)).collect()
    }

    fn ipv6_in_use(&self) -> Vec<Value> {
        let cards = self
            .cards()
            .filter_map(|(place, nic)| in_use(nic.ipv6.map(|own| IpAddr::V6(own.0))?, place, nic));
        let kept = self.reserved.iter().filter(|reserved| reserved.address.is_ipv6());
        cards.chain(kept.map(kept_free)).collect()
    }

    /// Every network card, and its data centre.
    fn cards(&self) -> impl Iterator<Item = (&str, &Nic)> {
        self.servers.iter().flat_map(|server| {
            let cards = server.entity.network_info.iter().flat_map(fleet_mcp::types::NetworkInfo::nics);
            cards.map(|card| (server.entity.datacenter_id.as_str(), card))
        })
    }
}

fn in_use(address: IpAddr, datacenter: &str, card: &Nic) -> Option<Value> {
    let vlan = card.vlan_id.as_ref()?;
    Some(json!({
        "ipAddress": Address::Ip(address), "datacenterId": datacenter, "vlanId": vlan, "exclusive": true,
    }))
}

fn kept_free(reserved: &Reserved) -> Value {
    let mut shown = json!({
        "ipAddress": Address::Ip(reserved.address), "datacenterId": reserved.datacenter, "vlanId": reserved.vlan,
        "exclusive": false,
    });
    if let Some(description) = &reserved.description {
        shown["description"] = json!(description);
    }
    shown
}

/// A VLAN with what only newer versions show.
fn shown_vlan(vlan: &Network) -> Value {
    let mut shown = values(std::iter::once(&vlan.entity)).remove(0);
    if vlan.detached {
        shown["detachedVlan"] = json!({"ipv4GatewayAddress": vlan.entity.ipv4_gateway_address});
    } else {
        shown["attachedVlan"] = json!({"gatewayAddressing": vlan.entity.gateway_addressing});
    }
    shown
}

fn values<'a, T: Serialize + 'a>(entities: impl IntoIterator<Item = &'a T>) -> Vec<Value> {
    let encode = |entity| fleet_mcp::liberal::encode(entity).expect("entities have only text keys");
    entities.into_iter().map(encode).collect()
}
