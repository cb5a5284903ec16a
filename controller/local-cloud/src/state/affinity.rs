//! Anti-affinity, as state: this host is the only one there is.

use fleet_mcp::types::{CreateAntiAffinityRule, State as Phase};
use fleet_model::Timestamp;
use serde_json::{Value, json};

use super::{Affinity, Context, Done, Refused, State, Work, power::usable, record::Pending, uuid};

type Changed = Result<(Done, Vec<Work>), Refused>;

/// Servers of one rule.
const SERVERS: usize = 2;

impl State {
    pub(crate) fn create_affinity(
        &mut self,
        request: &CreateAntiAffinityRule,
        cx: &mut Context<'_>,
    ) -> Changed {
        let mut servers: Vec<String> = request.server_id.iter().map(ToString::to_string).collect();
        servers.dedup();
        if servers.len() != SERVERS {
            return Err(Refused::invalid(format!("An Anti-Affinity Rule is between {SERVERS} servers.")));
        }
        let mut domains = Vec::new();
        for id in &servers {
            let record = self.record(id)?;
            usable(record)?;
            domains.push(record.domain().unwrap_or_default().to_owned());
            if let Some(rule) = self.affinities.iter().find(|rule| rule.servers.contains(id)) {
                let message = format!(
                    "Server '{}' (id {id}) is already used in another Anti-Affinity Rule (id {}).",
                    record.entity.name, rule.id
                );
                return Err(Refused::new("CONFIGURATION_NOT_SUPPORTED", message));
            }
        }
        domains.dedup();
        let [domain] = domains.as_slice() else {
            let message = "Servers of an Anti-Affinity Rule are in one network domain.";
            return Err(Refused::new("CONFIGURATION_NOT_SUPPORTED", message));
        };
        let id = uuid(cx.rng);
        self.affinities.push(Affinity {
            id: id.clone(),
            datacenter: self.domain(domain)?.entity.datacenter_id.to_string(),
            domain: domain.clone(),
            servers,
            created: cx.now.to_string(),
            pending: Some(Pending {
                delete: false,
                due: cx.now.after(cx.delays.of("CREATE_ANTI_AFFINITY_RULE")),
                revision: 0,
                removed: false,
            }),
        });
        let message = "Request to Create Anti-Affinity Rule has been accepted.";
        Ok((Done::accepted(message).info("antiAffinityRuleId", id), Vec::new()))
    }

    pub(crate) fn delete_affinity(&mut self, id: &str, cx: &mut Context<'_>) -> Changed {
        let rule = self.affinities.iter_mut().find(|rule| rule.id == id);
        let rule = rule.ok_or_else(|| Refused::not_found("Anti-Affinity Rule", id))?;
        if rule.pending.is_some() {
            return Err(Refused::busy("Anti-Affinity Rule", id, "another operation"));
        }
        let due = cx.now.after(cx.delays.of("DELETE_ANTI_AFFINITY_RULE"));
        rule.pending = Some(Pending { delete: true, due, revision: 0, removed: false });
        Ok((Done::accepted("Request to Delete Anti-Affinity Rule has been accepted."), Vec::new()))
    }

    /// Ends what is due. A rule of a server that is gone goes too.
    pub(crate) fn tick_affinities(&mut self, now: Timestamp) -> bool {
        let mut changed = false;
        let servers: Vec<String> = self.servers.iter().map(|server| server.id().to_owned()).collect();
        self.affinities.retain_mut(|rule| {
            if !rule.servers.iter().all(|id| servers.contains(id)) {
                changed = true;
                return false;
            }
            let Some(pending) = rule.pending.take_if(|pending| pending.due <= now) else { return true };
            changed = true;
            !pending.delete
        });
        changed
    }

    /// All rules as lists show them.
    pub(crate) fn affinities(&self) -> Vec<Value> {
        let shown = self.affinities.iter().map(|rule| {
            let state = match &rule.pending {
                None => Phase::Normal,
                Some(pending) if pending.delete => Phase::PendingDelete,
                Some(_) => Phase::PendingAdd,
            };
            let name = self.domain(&rule.domain).map(|domain| domain.entity.name.clone()).unwrap_or_default();
            let servers = rule.servers.iter().filter_map(|id| self.record(id).ok()).map(|server| {
                let network = server.entity.network_info.as_ref();
                let nic = |nic: &fleet_mcp::types::Nic| {
                    json!({
                        "id": nic.id, "privateIpv4": nic.private_ipv4, "ipv6": nic.ipv6, "vlanId": nic.vlan_id,
                        "vlanName": nic.vlan_name,
                    })
                };
                let more = network.map(|network| network.additional_nic.iter().map(nic).collect::<Vec<_>>());
                let mut shown = json!({
                    "id": server.id(), "name": server.entity.name,
                    "networkingDetails": {"networkInfo": {
                        "networkDomainId": rule.domain, "networkDomainName": name,
                        "primaryNic": network.map(|network| nic(&network.primary_nic)),
                        "additionalNic": more.unwrap_or_default(),
                    }},
                });
                if let Some(description) = &server.entity.description {
                    shown["description"] = json!(description);
                }
                shown
            });
            json!({
                "id": rule.id, "state": state, "created": rule.created, "datacenterId": rule.datacenter,
                "serverSummary": servers.collect::<Vec<_>>(),
            })
        });
        shown.collect()
    }
}
