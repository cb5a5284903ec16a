//! What the API lists: every resource as the value it shows.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Kind, State, catalogue};
use crate::settings::Quotas;

impl State {
    /// Every server, in order of creation.
    pub fn servers(&self) -> impl Iterator<Item = &fleet_mcp::types::Server> {
        self.servers.iter().map(|server| &server.entity)
    }

    /// Everything of a kind, in order of creation.
    pub(crate) fn items(&self, kind: Kind) -> Vec<Value> {
        match kind {
            // Limits shown are the usual ones; a cloud with other quotas still refuses by its own.
            Kind::Datacenter => values(&catalogue::datacenters(&self.region, &Quotas::default())),
            Kind::OperatingSystem => values(&catalogue::operating_systems()),
            Kind::OsImage => values(&catalogue::images(&self.region)),
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
