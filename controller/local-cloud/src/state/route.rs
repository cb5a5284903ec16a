//! Static routes, as state: the router of a domain does not follow them.

use std::net::IpAddr;

use fleet_mcp::{
    Id,
    types::{CreateStaticRoute, RestoreStaticRoutes, State as Phase, StaticRoute},
};

use super::{Context, Done, Refused, State, Work, firewall::check_rule_name, network, uuid};

type Changed = Result<(Done, Vec<Work>), Refused>;

impl State {
    pub(crate) fn create_route(&mut self, request: &CreateStaticRoute, cx: &mut Context<'_>) -> Changed {
        let domain = request.network_domain_id.as_str();
        let datacenter = self.live_domain(domain)?;
        check_rule_name(&request.name)?;
        let own = self.routes.iter().filter(|route| route.network_domain_id == request.network_domain_id);
        if own.clone().any(|route| route.name.eq_ignore_ascii_case(&request.name)) {
            return Err(Refused::name_taken("static route", &request.name));
        }
        let (target, prefix_size, hop) = request.addresses().ok_or_else(|| {
            Refused::invalid(
                "A static route has a network, its prefix size and a next hop of its IP version.",
            )
        })?;
        if !starts_network(target, prefix_size) {
            return Err(Refused::invalid(format!("{target} is not the first address of a /{prefix_size}.")));
        }
        let same = |route: &StaticRoute| {
            route.destination_network_address == request.destination_network_address
                && route.destination_prefix_size == prefix_size
        };
        if own.clone().any(same) {
            return Err(Refused::new(
                "IP_ADDRESS_NOT_UNIQUE",
                format!("There is a route to {target}/{prefix_size}."),
            ));
        }
        if own.count() >= cx.quotas.routes {
            return Err(Refused::limit("static routes per network domain", cx.quotas.routes));
        }
        let mut vlans = self.vlans.iter().filter(|vlan| vlan.domain() == domain);
        if !vlans.any(|vlan| network::holds(vlan, hop)) {
            let message = format!("{hop} is in no VLAN of network domain {domain}.");
            return Err(Refused::new("IP_ADDRESS_OUT_OF_RANGE", message));
        }
        let id = uuid(cx.rng);
        self.routes.push(StaticRoute {
            id: Id::new(id.clone()),
            datacenter_id: Some(datacenter),
            network_domain_id: request.network_domain_id.clone(),
            name: request.name.clone(),
            description: request.description.clone(),
            kind: Some("CLIENT".to_owned()),
            ip_version: request.ip_version.clone(),
            destination_network_address: request.destination_network_address,
            destination_prefix_size: prefix_size,
            next_hop_address: request.next_hop_address,
            state: Some(Phase::Normal),
            create_time: Some(cx.now.to_string()),
        });
        let done = Done::at_once(format!("Static Route '{}' has been created.", request.name));
        Ok((done.info("staticRouteId", id), Vec::new()))
    }

    pub(crate) fn delete_route(&mut self, id: &str) -> Changed {
        let index = self.routes.iter().position(|route| route.id.as_str() == id);
        self.routes.remove(index.ok_or_else(|| Refused::not_found("Static route", id))?);
        Ok((Done::at_once(format!("Static Route (Id:{id}) has been deleted.")), Vec::new()))
    }

    /// Only the platform's own routes stay, of which this one has none.
    pub(crate) fn restore_routes(&mut self, request: &RestoreStaticRoutes) -> Changed {
        self.live_domain(request.network_domain_id.as_str())?;
        self.routes.retain(|route| route.network_domain_id != request.network_domain_id);
        Ok((Done::at_once("Static Routes have been restored."), Vec::new()))
    }
}

/// Whether all bits behind the prefix are zero.
fn starts_network(address: IpAddr, prefix_size: u8) -> bool {
    let (bits, length) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32_u32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let hosts = length.saturating_sub(prefix_size.into());
    bits & 1_u128.checked_shl(hosts).map_or(u128::MAX, |size| size - 1) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_start_where_their_prefix_ends() {
        let check = |text: &str, size: u8, want: bool| {
            assert_eq!(starts_network(text.parse().expect("an address"), size), want, "{text}/{size}");
        };
        check("10.0.0.0", 8, true);
        check("10.0.0.1", 32, true);
        check("10.0.0.1", 31, false);
        check("0.0.0.0", 0, true);
        check("10.0.0.0", 0, false);
        check("::", 0, true);
        check("2001:db8::", 32, true);
        check("2001:db8::1", 64, false);
    }
}
