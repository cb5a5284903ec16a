//! What is ours and wanted no more.

use std::{collections::BTreeSet, net::Ipv4Addr};

use fleet_mcp::types::{FirewallRule, NatRule, PublicIpBlock, Server, State, Vlan};

use super::{Removal, Task, Work};
use crate::{
    event::{Step, Verb},
    graph::{Key, Resource, Want},
    journal::Index,
    mark::{Mark, is_our_rule},
    view::{DomainView, View, private_ipv4, same_name},
};

/// Work that removes what bears our mark and no resource wants; with no resources, everything of ours.
pub(crate) fn leavers(resources: Option<&[Resource]>, view: &View, mark: &Mark, index: &Index) -> Vec<Work> {
    view.domains
        .values()
        .flat_map(|domain| Leaving::new(resources, view, domain, mark, index).works())
        .collect()
}

/// Servers of ours that have a node's name besides the one that is taken for the node's, and may hold something too: a
/// problem each, cause and next step.
pub(super) fn seconds(resources: &[Resource], view: &View, mark: &Mark) -> Vec<String> {
    let nodes = resources.iter().filter_map(|resource| match &resource.want {
        Want::Server { node, .. } => Some((resource, node)),
        _ => None,
    });
    let mut problems = Vec::new();
    for (resource, node) in nodes {
        let held = view.our_domain(mark, &resource.location, &resource.domain);
        let Some((held, chosen)) = held.and_then(|held| Some((held, held.server(mark, node.name.as_str())?)))
        else {
            continue;
        };
        let seconds = held.servers.values().filter(|server| {
            server.name == node.name.as_str()
                && server.id != chosen.id
                && mark.is_ours(server.description.as_deref())
                && !held.is_spare(server)
        });
        problems.extend(seconds.map(|second| {
            format!(
                "a second server named `{}` in {} is this fleet's, {}, and may hold something: {} is taken for the node's, \
                 and neither is removed; look at both at the cloud, delete the one that nobody needs, and run again",
                node.name, resource.location, second.id, chosen.id
            )
        }));
    }
    problems
}

/// What leaves one domain.
struct Leaving<'a> {
    all: bool,
    view: &'a View,
    domain: &'a DomainView,
    mark: &'a Mark,
    index: &'a Index,
    /// What is wanted of this domain.
    wanted: Vec<&'a Resource>,
    /// The domain itself goes.
    ours: bool,
}

impl<'a> Leaving<'a> {
    fn new(
        resources: Option<&'a [Resource]>,
        view: &'a View,
        domain: &'a DomainView,
        mark: &'a Mark,
        index: &'a Index,
    ) -> Self {
        let location = domain.domain.datacenter_id.as_str();
        let wanted: Vec<&Resource> = resources
            .unwrap_or_default()
            .iter()
            .filter(|resource| {
                resource.location == location && same_name(&resource.domain, &domain.domain.name)
            })
            .collect();
        let ours = mark.is_ours(domain.domain.description.as_deref());
        Self { all: wanted.is_empty(), view, domain, mark, index, wanted, ours }
    }

    fn works(&self) -> Vec<Work> {
        let reason = if self.all { "its network domain goes" } else { "not in the plan any more" };
        let mut works = Vec::new();
        let servers: Vec<&Server> = self.servers();
        let internal: BTreeSet<_> = servers.iter().filter_map(|server| private_ipv4(server)).collect();
        let mut freed = Vec::new();
        for nat in self.domain.nats.values() {
            let owner =
                self.domain.servers.values().find(|server| private_ipv4(server) == Some(nat.internal_ip));
            let goes = internal.contains(&nat.internal_ip)
                || match owner {
                    Some(server) => self.is_ours(server) && !self.wants_nat(server),
                    None => self.index.holds("nat", nat.id.as_str()) || (self.all && self.ours),
                };
            if goes {
                freed.push(nat.external_ip);
                let removal = Removal::Nat(self.domain.domain.id.clone(), nat.id.clone());
                let name = format!("{} to {}", nat.external_ip, nat.internal_ip);
                works.push(self.work(
                    Key::NatGone(nat.id.to_string()),
                    vec![],
                    "nat rule",
                    name,
                    reason,
                    removal,
                ));
            }
        }
        if self.ours {
            for rule in self.domain.rules.values() {
                let wanted = |resource: &&Resource| matches!(&resource.want, Want::Rule(name, _) if same_name(name, &rule.name));
                if !rule.is_default() && is_our_rule(&rule.name) && !self.wanted.iter().any(wanted) {
                    let removal = Removal::Rule(self.domain.domain.id.clone(), rule.id.clone());
                    let key = Key::RuleGone(rule.id.to_string());
                    works.push(self.work(key, vec![], "firewall rule", rule.name.clone(), reason, removal));
                }
            }
            works.extend(self.list_works(reason));
        }
        let gone = |nat: &&NatRule| freed.contains(&nat.external_ip);
        let nats: Vec<&NatRule> = self.domain.nats.values().filter(gone).collect();
        for server in &servers {
            match self.wants(server) {
                true => {
                    let second = format!("a second server named `{}`, with nothing on it", server.name);
                    works.extend(self.server_works(server, &nats, &second));
                }
                false => works.extend(self.server_works(server, &nats, reason)),
            }
        }
        works.extend(self.block_works(&freed, &nats, reason));
        works.extend(self.vlan_works(&servers, reason));
        if self.ours && self.all {
            let needs = works.iter().map(|work| work.key.clone()).collect();
            let key = Key::DomainGone(self.domain.domain.id.to_string());
            let removal = Removal::Domain(self.domain.domain.id.clone());
            let name = self.domain.domain.name.clone();
            works.push(self.work(key, needs, "network domain", name, "not in the plan any more", removal));
        }
        works
    }

    /// Servers of ours that no node has, or that are a second one of a node's name with nothing on it.
    fn servers(&self) -> Vec<&'a Server> {
        let ours = self.domain.servers.values().filter(|server| self.is_ours(server));
        ours.filter(|server| {
            let chosen = self.domain.server(self.mark, &server.name).map(|server| &server.id);
            !self.wants(server) || (chosen != Some(&server.id) && self.domain.is_spare(server))
        })
        .collect()
    }

    /// Whether a node has the server's name.
    fn wants(&self, server: &Server) -> bool {
        self.wanted.iter().any(
            |resource| matches!(&resource.want, Want::Server { node, .. } if node.name.as_str() == server.name),
        )
    }

    fn is_ours(&self, server: &Server) -> bool {
        self.mark.is_ours(server.description.as_deref())
    }

    fn wants_nat(&self, server: &Server) -> bool {
        self.wanted
            .iter()
            .any(|resource| matches!(&resource.want, Want::Nat(node) if node.as_str() == server.name))
    }

    fn server_works(&self, server: &Server, nats: &[&NatRule], reason: &str) -> Vec<Work> {
        let id = server.id.to_string();
        let internal = private_ipv4(server);
        let own = nats.iter().filter(|nat| Some(nat.internal_ip) == internal);
        let mut needs: Vec<Key> = own.map(|nat| Key::NatGone(nat.id.to_string())).collect();
        let mut works = Vec::new();
        if server.started && server.state != State::FailedAdd {
            let key = Key::PowerGone(id.clone());
            let removal = Removal::Power(server.id.clone());
            let mut work = self.work(key.clone(), vec![], "power off", server.name.clone(), "hard", removal);
            work.step.verb = Verb::Change;
            works.push(work);
            needs.push(key);
        }
        // The vault's entry belongs to the name: it stays if another server has it.
        let others = self
            .view
            .domains
            .values()
            .flat_map(|domain| domain.servers.values())
            .any(|other| other.id != server.id && other.name == server.name && self.is_ours(other));
        let forget = if others { None } else { server.name.parse().ok() };
        let removal = Removal::Server(server.id.clone(), forget);
        works.push(self.work(Key::ServerGone(id), needs, "server", server.name.clone(), reason, removal));
        works
    }

    /// Blocks go with their domain; else only such as we made and nothing will use once this run is over.
    fn block_works(&self, freed: &[Ipv4Addr], nats: &[&NatRule], reason: &str) -> Vec<Work> {
        if !self.ours {
            return Vec::new();
        }
        let externals = self.domain.nats.values().map(|nat| nat.external_ip);
        let kept: BTreeSet<Ipv4Addr> = externals.filter(|external| !freed.contains(external)).collect();
        // New translations come after those that go, and take the lowest free addresses.
        let missing: Vec<&Resource> =
            self.wanted.iter().copied().filter(|resource| self.lacks_nat(resource)).collect();
        let all: BTreeSet<Ipv4Addr> =
            self.domain.blocks.values().flat_map(|block| block.addresses()).collect();
        let taken: BTreeSet<Ipv4Addr> = all.difference(&kept).take(missing.len()).copied().collect();
        let unused = |block: &&PublicIpBlock| {
            self.all
                || (self.index.holds("block", block.id.as_str())
                    && !block.addresses().any(|address| kept.contains(&address) || taken.contains(&address)))
        };
        self.domain
            .blocks
            .values()
            .filter(unused)
            .map(|block| {
                let removal = Removal::Block(self.domain.domain.id.clone(), block.id.clone());
                let inside =
                    nats.iter().filter(|nat| block.addresses().any(|address| address == nat.external_ip));
                let gone = inside.map(|nat| Key::NatGone(nat.id.to_string()));
                let needs = gone.chain(missing.iter().map(|resource| resource.key.clone())).collect();
                let key = Key::BlockGone(block.id.to_string());
                let name = format!("{} and {} more", block.base_ip, block.size.saturating_sub(1));
                self.work(key, needs, "public ip block", name, reason, removal)
            })
            .collect()
    }

    /// Lists go once no rule of ours names them.
    fn list_works(&self, reason: &str) -> Vec<Work> {
        let lists = self.domain.lists.values().filter(|list| {
            let wanted = |resource: &&Resource| matches!(&resource.want, Want::List(name, ..) if same_name(name, &list.name));
            self.mark.is_ours(list.description.as_deref()) && !self.wanted.iter().any(wanted)
        });
        lists
            .map(|list| {
                let names = |rule: &&FirewallRule| {
                    let mut ends = [&rule.source, &rule.destination].into_iter();
                    ends.any(|end| end.ip_address_list.as_ref().is_some_and(|held| held.id == list.id))
                };
                let rules = self.domain.rules.values().filter(names);
                let needs = rules.map(|rule| Key::RuleGone(rule.id.to_string())).collect();
                let key = Key::ListGone(list.id.to_string());
                let removal = Removal::List(self.domain.domain.id.clone(), list.id.clone());
                self.work(key, needs, "address list", list.name.clone(), reason, removal)
            })
            .collect()
    }

    /// Whether `resource` is a translation that is yet to be made.
    fn lacks_nat(&self, resource: &Resource) -> bool {
        let Want::Nat(node) = &resource.want else { return false };
        let internal = self.domain.server(self.mark, node.as_str()).and_then(private_ipv4);
        internal.and_then(|internal| self.domain.nat(internal)).is_none()
    }

    fn vlan_works(&self, leaving: &[&Server], reason: &str) -> Vec<Work> {
        let vlans = self.domain.vlans.values().filter(|vlan| {
            let wanted = self.wanted.iter().any(
                |resource| matches!(&resource.want, Want::Vlan { name, .. } if same_name(name, &vlan.name)),
            );
            // A server of ours that stays where it is, although the plan has it elsewhere: it must be replaced first.
            let kept = self.domain.servers.values().any(|server| {
                self.is_ours(server)
                    && !leaving.iter().any(|leaving| leaving.id == server.id)
                    && is_in(server, vlan)
            });
            self.mark.is_ours(vlan.description.as_deref()) && !wanted && !kept
        });
        vlans
            .map(|vlan| {
                let inside = leaving.iter().filter(|server| is_in(server, vlan));
                let needs = inside.map(|server| Key::ServerGone(server.id.to_string())).collect();
                let removal = Removal::Vlan(vlan.id.clone());
                self.work(
                    Key::VlanGone(vlan.id.to_string()),
                    needs,
                    "vlan",
                    vlan.name.clone(),
                    reason,
                    removal,
                )
            })
            .collect()
    }

    fn work(
        &self,
        key: Key,
        needs: Vec<Key>,
        kind: &'static str,
        name: String,
        detail: &str,
        removal: Removal,
    ) -> Work {
        let location = self.domain.domain.datacenter_id.to_string();
        let step =
            Step { verb: Verb::Destroy, kind, name, location, detail: detail.to_owned(), outside: false };
        Work { key, needs, step, quiet: false, task: Task::Remove(removal) }
    }
}

/// Whether a server has a card in a VLAN.
fn is_in(server: &Server, vlan: &Vlan) -> bool {
    let mut nics = server.network_info.iter().flat_map(|info| info.nics());
    nics.any(|nic| nic.vlan_id.as_ref() == Some(&vlan.id))
}
