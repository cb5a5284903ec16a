//! Firewall rules, and the address and port lists they name.

use std::collections::BTreeSet;

use fleet_mcp::{
    Id,
    types::{
        Action, Address, AddressRange, CreateFirewallRule, CreateIpAddressList, CreatePortList, Datacenter,
        EditFirewallRule, EditIpAddressList, EditPortList, Endpoint, FirewallRule, IpAddressList, IpVersion,
        ListRef, Placement, Placing, PortList, PortRange, Protocol, State as Phase,
    },
};

use super::{Context, Done, Refused, State, Work, uuid};

type Changed = Result<(Done, Vec<Work>), Refused>;

/// Longest name of a rule.
const MAX_NAME: usize = 75;
/// Rules every network domain starts with, in their order: name, IP version, port.
const DEFAULT_RULES: [(&str, IpVersion, Option<u16>); 5] = [
    ("CCDEFAULT.BlockOutboundMailIPv4", IpVersion::V4, Some(25)),
    ("CCDEFAULT.BlockOutboundMailIPv4Secure", IpVersion::V4, Some(587)),
    ("CCDEFAULT.BlockOutboundMailIPv6", IpVersion::V6, Some(25)),
    ("CCDEFAULT.BlockOutboundMailIPv6Secure", IpVersion::V6, Some(587)),
    ("CCDEFAULT.DenyExternalInboundIPv6", IpVersion::V6, None),
];

impl State {
    pub(crate) fn add_default_rules(
        &mut self,
        domain: &str,
        datacenter: &Id<Datacenter>,
        cx: &mut Context<'_>,
    ) {
        for (name, ip_version, port) in &DEFAULT_RULES {
            let destination = port.map_or_else(Endpoint::any, |port| Endpoint::any().ports(port, port));
            self.rules.push(FirewallRule {
                id: Id::new(uuid(cx.rng)),
                datacenter_id: datacenter.clone(),
                rule_type: Some("DEFAULT_RULE".to_owned()),
                network_domain_id: Id::from(domain),
                name: (*name).to_owned(),
                action: Action::Drop,
                ip_version: ip_version.clone(),
                protocol: if port.is_some() { Protocol::Tcp } else { Protocol::Ip },
                source: Endpoint::any(),
                destination,
                enabled: true,
                state: Some(Phase::Normal),
            });
        }
    }

    pub(crate) fn create_rule(&mut self, request: &CreateFirewallRule, cx: &mut Context<'_>) -> Changed {
        let domain = request.network_domain_id.as_str();
        let datacenter_id = self.live_domain(domain)?;
        check_rule_name(&request.name)?;
        let own = self.rules.iter().filter(|rule| rule.network_domain_id.as_str() == domain);
        if own.clone().any(|rule| cx.choices.same_rule_name(&rule.name, &request.name)) {
            return Err(Refused::name_taken("firewall rule", &request.name));
        }
        if own.count() >= cx.quotas.rules {
            return Err(Refused::limit("firewall rules per network domain", cx.quotas.rules));
        }
        check_words(&request.action, &request.ip_version, &request.protocol)?;
        let source = self.endpoint(domain, &request.source, &request.ip_version, &request.protocol)?;
        let destination =
            self.endpoint(domain, &request.destination, &request.ip_version, &request.protocol)?;
        let id = uuid(cx.rng);
        let rule = FirewallRule {
            id: Id::new(id.clone()),
            datacenter_id,
            rule_type: Some("CLIENT_RULE".to_owned()),
            network_domain_id: request.network_domain_id.clone(),
            name: request.name.clone(),
            action: request.action.clone(),
            ip_version: request.ip_version.clone(),
            protocol: request.protocol.clone(),
            source,
            destination,
            enabled: request.enabled,
            state: Some(Phase::Normal),
        };
        let index = self.place(domain, request.placement.as_ref())?;
        self.rules.insert(index, rule);
        let done = Done::at_once(format!("Firewall Rule '{}' has been created.", request.name));
        Ok(self.filtered(done.info("firewallRuleId", id), domain))
    }

    pub(crate) fn edit_rule(&mut self, request: &EditFirewallRule) -> Changed {
        let id = request.id.as_str();
        let index = self.rule_index(id)?;
        let mut rule = self.rules[index].clone();
        let domain = rule.network_domain_id.to_string();
        let shape = request.action.is_some()
            || request.protocol.is_some()
            || request.source.is_some()
            || request.destination.is_some()
            || request.placement.is_some();
        if rule.is_default() && shape {
            let message = format!("Default rule '{}' can only be enabled or disabled.", rule.name);
            return Err(Refused::new("OPERATION_NOT_SUPPORTED", message));
        }
        rule.action = request.action.clone().unwrap_or(rule.action);
        rule.protocol = request.protocol.clone().unwrap_or(rule.protocol);
        check_words(&rule.action, &rule.ip_version, &rule.protocol)?;
        if let Some(source) = &request.source {
            rule.source = self.endpoint(&domain, source, &rule.ip_version, &rule.protocol)?;
        }
        if let Some(destination) = &request.destination {
            rule.destination = self.endpoint(&domain, destination, &rule.ip_version, &rule.protocol)?;
        }
        rule.enabled = request.enabled.unwrap_or(rule.enabled);
        let name = rule.name.clone();
        if let Some(placement) = &request.placement {
            if placement.relative_to_rule.as_deref().is_some_and(|other| other.eq_ignore_ascii_case(&name)) {
                return Err(Refused::invalid("A rule cannot be placed beside itself."));
            }
            let old = self.rules.remove(index);
            match self.place(&domain, Some(placement)) {
                Ok(place) => self.rules.insert(place, rule),
                Err(refused) => {
                    self.rules.insert(index, old);
                    return Err(refused);
                }
            }
        } else {
            self.rules[index] = rule;
        }
        Ok(self.filtered(Done::at_once(format!("Firewall Rule '{name}' has been edited.")), &domain))
    }

    pub(crate) fn delete_rule(&mut self, id: &str) -> Changed {
        let index = self.rule_index(id)?;
        if self.rules[index].is_default() {
            return Err(Refused::new("OPERATION_NOT_SUPPORTED", "A default rule cannot be deleted."));
        }
        let domain = self.rules.remove(index).network_domain_id;
        Ok(self.filtered(Done::at_once(format!("Firewall Rule {id} has been deleted.")), domain.as_str()))
    }

    fn rule_index(&self, id: &str) -> Result<usize, Refused> {
        let index = self.rules.iter().position(|rule| rule.id.as_str() == id);
        index.ok_or_else(|| Refused::not_found("Firewall rule", id))
    }

    /// Where in the list a rule goes.
    fn place(&self, domain: &str, placement: Option<&Placement>) -> Result<usize, Refused> {
        let own = |rule: &FirewallRule| rule.network_domain_id.as_str() == domain;
        let first = || self.rules.iter().position(own).unwrap_or(self.rules.len());
        let last = || self.rules.iter().rposition(own).map_or(self.rules.len(), |index| index + 1);
        let beside = |name: Option<&String>| {
            let name = name.ok_or_else(|| Refused::invalid("relativeToRule is missing."))?;
            let found = self.rules.iter().position(|rule| own(rule) && rule.name.eq_ignore_ascii_case(name));
            found.ok_or_else(|| Refused::not_found("Firewall rule", name))
        };
        match placement {
            None => Ok(last()),
            Some(placement) => match &placement.position {
                Placing::First => Ok(first()),
                Placing::Last => Ok(last()),
                Placing::Before => beside(placement.relative_to_rule.as_ref()),
                Placing::After => beside(placement.relative_to_rule.as_ref()).map(|index| index + 1),
                Placing::Other(word) => Err(Refused::invalid(format!("Position '{word}' is not known."))),
            },
        }
    }

    /// Checks one end of a rule, and turns the ids of lists into what answers show.
    fn endpoint(
        &self,
        domain: &str,
        asked: &Endpoint,
        version: &IpVersion,
        protocol: &Protocol,
    ) -> Result<Endpoint, Refused> {
        let list = asked.ip_address_list_id.as_ref().or(asked.ip_address_list.as_ref().map(|list| &list.id));
        let ports = asked.port_list_id.as_ref().or(asked.port_list.as_ref().map(|list| &list.id));
        if asked.ip.is_some() == list.is_some() {
            return Err(Refused::invalid("Exactly one of ip and ipAddressListId is needed."));
        }
        if (asked.port.is_some() || ports.is_some()) && !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            return Err(Refused::invalid("Only TCP and UDP rules have ports."));
        }
        if asked.port.is_some() && ports.is_some() {
            return Err(Refused::invalid("At most one of port and portListId is allowed."));
        }
        if let Some(ip) = &asked.ip {
            let longest = match (ip.address, version) {
                (Address::Any, _) => 0,
                (Address::Ip(std::net::IpAddr::V4(_)), IpVersion::V4) => 32,
                (Address::Ip(std::net::IpAddr::V6(_)), IpVersion::V6) => 128,
                (address, version) => {
                    return Err(Refused::invalid(format!("{address} is not an {version} address.")));
                }
            };
            if ip.prefix_size.is_some_and(|size| size > longest) {
                return Err(Refused::invalid("prefixSize is too large."));
            }
        }
        check_ports(asked.port.as_slice())?;
        let ip_address_list = list.map(|id| self.ip_list(domain, id).map(reference)).transpose()?;
        let port_list = ports.map(|id| self.port_list(domain, id)).transpose()?;
        Ok(Endpoint {
            ip: asked.ip.clone(),
            ip_address_list_id: None,
            ip_address_list,
            port: asked.port,
            port_list_id: None,
            port_list: port_list.map(|list| ListRef { id: list.id.clone(), name: Some(list.name.clone()) }),
        })
    }

    fn ip_list(&self, domain: &str, id: &Id<IpAddressList>) -> Result<&IpAddressList, Refused> {
        let own = |list: &&IpAddressList| list.id == *id && belongs(list.network_domain_id.as_ref(), domain);
        self.ip_lists.iter().find(own).ok_or_else(|| Refused::not_found("IP address list", id.as_str()))
    }

    fn port_list(&self, domain: &str, id: &Id<PortList>) -> Result<&PortList, Refused> {
        let own = |list: &&PortList| list.id == *id && belongs(list.network_domain_id.as_ref(), domain);
        self.port_lists.iter().find(own).ok_or_else(|| Refused::not_found("Port list", id.as_str()))
    }

    /// Whether the list is, or includes at whatever depth, the one of this id. Lists never include themselves, so
    /// this ends.
    fn reaches(&self, list: &IpAddressList, id: &Id<IpAddressList>) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![&list.id];
        while let Some(own) = next.pop() {
            if own == id {
                return true;
            }
            if seen.insert(own.as_str()) {
                let children = self.ip_lists.iter().filter(|list| list.id == *own);
                next.extend(children.flat_map(|list| &list.child_ip_address_list).map(|child| &child.id));
            }
        }
        false
    }

    /// The same for port lists.
    fn port_reaches(&self, list: &PortList, id: &Id<PortList>) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![&list.id];
        while let Some(own) = next.pop() {
            if own == id {
                return true;
            }
            if seen.insert(own.as_str()) {
                let children = self.port_lists.iter().filter(|list| list.id == *own);
                next.extend(children.flat_map(|list| &list.child_port_list).map(|child| &child.id));
            }
        }
        false
    }

    pub(crate) fn create_ip_list(&mut self, request: &CreateIpAddressList, cx: &mut Context<'_>) -> Changed {
        let domain = request.network_domain_id.as_str();
        self.live_domain(domain)?;
        check_rule_name(&request.name)?;
        let own = |list: &&IpAddressList| belongs(list.network_domain_id.as_ref(), domain);
        if self.ip_lists.iter().filter(own).any(|list| list.name.eq_ignore_ascii_case(&request.name)) {
            return Err(Refused::name_taken("IP address list", &request.name));
        }
        if self.ip_lists.iter().filter(own).count() >= cx.quotas.lists {
            return Err(Refused::limit("IP address lists per network domain", cx.quotas.lists));
        }
        let version = Some(&request.ip_version);
        check_words(&Action::Drop, &request.ip_version, &Protocol::Ip)?;
        check_ranges(&request.ip_address, version)?;
        if request.ip_address.is_empty() && request.child_ip_address_list_id.is_empty() {
            return Err(Refused::invalid("A list has at least one address or list in it."));
        }
        let child = |id| {
            let list = self.ip_list(domain, id)?;
            same_version(list, version)?;
            Ok(reference(list))
        };
        let children = request.child_ip_address_list_id.iter().map(child).collect::<Result<_, Refused>>()?;
        let id = uuid(cx.rng);
        self.ip_lists.push(IpAddressList {
            id: Id::new(id.clone()),
            name: request.name.clone(),
            description: request.description.clone(),
            ip_version: Some(request.ip_version.clone()),
            ip_address: request.ip_address.clone(),
            child_ip_address_list: children,
            state: Some(Phase::Normal),
            create_time: Some(cx.now.to_string()),
            network_domain_id: Some(request.network_domain_id.clone()),
        });
        Ok((Done::at_once("IP address list has been created.").info("ipAddressListId", id), Vec::new()))
    }

    pub(crate) fn edit_ip_list(&mut self, request: &EditIpAddressList) -> Changed {
        let id = request.id.as_str();
        let index = self.ip_lists.iter().position(|list| list.id == request.id);
        let index = index.ok_or_else(|| Refused::not_found("IP address list", id))?;
        let domain = self.ip_lists[index].network_domain_id.as_ref().map(Id::to_string).unwrap_or_default();
        let version = self.ip_lists[index].ip_version.clone();
        check_ranges(request.ip_address.as_deref().unwrap_or_default(), version.as_ref())?;
        let child = |child: &Id<IpAddressList>| {
            let list = self.ip_list(&domain, child)?;
            if self.reaches(list, &request.id) {
                return Err(Refused::invalid("A list cannot include itself."));
            }
            same_version(list, version.as_ref())?;
            Ok(reference(list))
        };
        let children = request.child_ip_address_list_id.as_ref();
        let children =
            children.map(|ids| ids.iter().map(child).collect::<Result<Vec<_>, _>>()).transpose()?;
        let list = &mut self.ip_lists[index];
        let addresses = request.ip_address.as_ref().unwrap_or(&list.ip_address);
        if addresses.is_empty() && children.as_ref().unwrap_or(&list.child_ip_address_list).is_empty() {
            return Err(Refused::invalid("A list has at least one address or list in it."));
        }
        list.ip_address = addresses.clone();
        list.child_ip_address_list =
            children.unwrap_or_else(|| std::mem::take(&mut list.child_ip_address_list));
        list.description = described(request.description.as_ref(), list.description.take());
        Ok(self.filtered(Done::at_once("IP address list has been edited."), &domain))
    }

    pub(crate) fn delete_ip_list(&mut self, id: &str) -> Changed {
        let index = self.ip_lists.iter().position(|list| list.id.as_str() == id);
        let index = index.ok_or_else(|| Refused::not_found("IP address list", id))?;
        let names = |end: &Endpoint| end.ip_address_list.as_ref().is_some_and(|list| list.id.as_str() == id);
        let used = self.rules.iter().any(|rule| names(&rule.source) || names(&rule.destination));
        let mut others = self.ip_lists.iter().flat_map(|list| &list.child_ip_address_list);
        if used || others.any(|child| child.id.as_str() == id) {
            return Err(Refused::new("HAS_DEPENDENCY", format!("IP address list {id} is in use.")));
        }
        self.ip_lists.remove(index);
        Ok((Done::at_once("IP address list has been deleted."), Vec::new()))
    }

    pub(crate) fn create_port_list(&mut self, request: &CreatePortList, cx: &mut Context<'_>) -> Changed {
        let domain = request.network_domain_id.as_str();
        self.live_domain(domain)?;
        check_rule_name(&request.name)?;
        let own = |list: &&PortList| belongs(list.network_domain_id.as_ref(), domain);
        if self.port_lists.iter().filter(own).any(|list| list.name.eq_ignore_ascii_case(&request.name)) {
            return Err(Refused::name_taken("port list", &request.name));
        }
        if self.port_lists.iter().filter(own).count() >= cx.quotas.lists {
            return Err(Refused::limit("port lists per network domain", cx.quotas.lists));
        }
        check_ports(&request.port)?;
        if request.port.is_empty() && request.child_port_list_id.is_empty() {
            return Err(Refused::invalid("A list has at least one port or list in it."));
        }
        let child = |id| {
            let list = self.port_list(domain, id)?;
            Ok(ListRef { id: list.id.clone(), name: Some(list.name.clone()) })
        };
        let children = request.child_port_list_id.iter().map(child).collect::<Result<_, Refused>>()?;
        let id = uuid(cx.rng);
        self.port_lists.push(PortList {
            id: Id::new(id.clone()),
            name: request.name.clone(),
            description: request.description.clone(),
            port: request.port.clone(),
            child_port_list: children,
            state: Some(Phase::Normal),
            create_time: Some(cx.now.to_string()),
            network_domain_id: Some(request.network_domain_id.clone()),
        });
        Ok((Done::at_once("Port list has been created.").info("portListId", id), Vec::new()))
    }

    pub(crate) fn edit_port_list(&mut self, request: &EditPortList) -> Changed {
        let index = self.port_lists.iter().position(|list| list.id == request.id);
        let index = index.ok_or_else(|| Refused::not_found("Port list", request.id.as_str()))?;
        let domain = self.port_lists[index].network_domain_id.as_ref().map(Id::to_string).unwrap_or_default();
        check_ports(request.port.as_deref().unwrap_or_default())?;
        let child = |id: &Id<PortList>| {
            let list = self.port_list(&domain, id)?;
            if self.port_reaches(list, &request.id) {
                return Err(Refused::invalid("A list cannot include itself."));
            }
            Ok(ListRef { id: list.id.clone(), name: Some(list.name.clone()) })
        };
        let children = request.child_port_list_id.as_ref();
        let children =
            children.map(|ids| ids.iter().map(child).collect::<Result<Vec<_>, _>>()).transpose()?;
        let list = &mut self.port_lists[index];
        let ports = request.port.as_ref().unwrap_or(&list.port);
        if ports.is_empty() && children.as_ref().unwrap_or(&list.child_port_list).is_empty() {
            return Err(Refused::invalid("A list has at least one port or list in it."));
        }
        list.port = ports.clone();
        list.child_port_list = children.unwrap_or_else(|| std::mem::take(&mut list.child_port_list));
        list.description = described(request.description.as_ref(), list.description.take());
        Ok(self.filtered(Done::at_once("Port list has been edited."), &domain))
    }

    pub(crate) fn delete_port_list(&mut self, id: &str) -> Changed {
        let index = self.port_lists.iter().position(|list| list.id.as_str() == id);
        let index = index.ok_or_else(|| Refused::not_found("Port list", id))?;
        let names = |end: &Endpoint| end.port_list.as_ref().is_some_and(|list| list.id.as_str() == id);
        let used = self.rules.iter().any(|rule| names(&rule.source) || names(&rule.destination));
        let mut others = self.port_lists.iter().flat_map(|list| &list.child_port_list);
        if used || others.any(|child| child.id.as_str() == id) {
            return Err(Refused::new("HAS_DEPENDENCY", format!("Port list {id} is in use.")));
        }
        self.port_lists.remove(index);
        Ok((Done::at_once("Port list has been deleted."), Vec::new()))
    }
}

/// A new description: absent stays, empty goes.
fn described(new: Option<&String>, old: Option<String>) -> Option<String> {
    match new {
        None => old,
        Some(text) => Some(text.clone()).filter(|text| !text.is_empty()),
    }
}

fn same_version(list: &IpAddressList, version: Option<&IpVersion>) -> Result<(), Refused> {
    if list.ip_version.as_ref() == version {
        return Ok(());
    }
    Err(Refused::invalid(format!("IP address list '{}' is of another IP version.", list.name)))
}

/// Addresses of the list's version; a range ends at its beginning or later, a network starts at its first address.
fn check_ranges(ranges: &[AddressRange], version: Option<&IpVersion>) -> Result<(), Refused> {
    for range in ranges {
        let of_version = |address: &Address| match address {
            Address::Any => false,
            Address::Ip(address) => {
                version.is_none_or(|version| address.is_ipv6() == (*version == IpVersion::V6))
            }
        };
        let longest = if version == Some(&IpVersion::V6) { 128 } else { 32 };
        let good = of_version(&range.begin)
            && range.end.as_ref().is_none_or(|end| of_version(end) && *end >= range.begin)
            && range.prefix_size.is_none_or(|size| size <= longest)
            && !(range.end.is_some() && range.prefix_size.is_some());
        if !good {
            return Err(Refused::invalid(format!(
                "'{}' does not begin an address range of this list.",
                range.begin
            )));
        }
    }
    Ok(())
}

fn check_ports(ports: &[PortRange]) -> Result<(), Refused> {
    if ports.iter().any(|port| port.begin == 0 || port.end.is_some_and(|end| end < port.begin)) {
        return Err(Refused::invalid("A port range begins at 1 or more and ends at its beginning or later."));
    }
    Ok(())
}

fn belongs(owner: Option<&Id<fleet_mcp::types::NetworkDomain>>, domain: &str) -> bool {
    owner.is_some_and(|owner| owner.as_str() == domain)
}

fn reference(list: &IpAddressList) -> ListRef<IpAddressList> {
    ListRef { id: list.id.clone(), name: Some(list.name.clone()) }
}

/// Letters, digits, `_` and `.`, starting with a letter or `_`; the platform's own prefixes are its own.
pub(crate) fn check_rule_name(name: &str) -> Result<(), Refused> {
    let starts = name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_');
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.');
    let upper = name.to_ascii_uppercase();
    let own = upper.starts_with("CCDEFAULT.") || upper.starts_with("CCSYSTEM.");
    if !starts || !letters || own || name.len() > MAX_NAME {
        return Err(Refused::invalid(format!("'{name}' is not a valid name.")));
    }
    Ok(())
}

fn check_words(action: &Action, version: &IpVersion, protocol: &Protocol) -> Result<(), Refused> {
    match (action, version, protocol) {
        (Action::Other(word), _, _) => Err(Refused::invalid(format!("Action '{word}' is not known."))),
        (_, IpVersion::Other(word), _) => Err(Refused::invalid(format!("IP version '{word}' is not known."))),
        (_, _, Protocol::Other(word)) => Err(Refused::invalid(format!("Protocol '{word}' is not known."))),
        _ => Ok(()),
    }
}
