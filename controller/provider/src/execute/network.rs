//! Public addresses, translations and firewall rules.

use std::{collections::BTreeSet, net::Ipv4Addr};

use fleet_mcp::{
    Id, McpError,
    types::{
        Action, AddPublicIpBlock, CreateFirewallRule, CreateNatRule, EditFirewallRule, FirewallRule, NatRule,
        NetworkDomain, PublicIpBlock,
    },
};
use fleet_model::NodeName;

use super::{
    Failure, Run,
    act::{About, Done, Unnamed},
};
use crate::{
    cloud::Change,
    diff::free_addresses,
    event::{Event, Step, StepState, Verb},
    graph::{DENY_IPV6, Resource, Rule},
    rule,
    view::{private_ipv4, same_name},
};

impl Run {
    /// Gives a node a public address: the one it has, else the lowest free one of its domain, else one of a new
    /// block.
    pub(super) async fn make_nat(
        &self,
        step: &Step,
        resource: &Resource,
        node: &NodeName,
    ) -> Result<(), Failure> {
        let domain = self.domain_of(resource)?;
        let internal = {
            let view = self.view();
            let held = view.domains.get(&domain);
            held.and_then(|held| held.server(&self.mark, node.as_str())).and_then(private_ipv4)
        };
        let internal =
            internal.ok_or_else(|| Failure(format!("server `{node}` has no private address; look at it")))?;
        // Two nodes must not choose the same address.
        let _turn = self.turn(domain.as_str()).await;
        let look = || async {
            let all = self.cloud.nat_rules(&domain).await?;
            Ok(all.into_iter().find(|nat| nat.internal_ip == internal))
        };
        for attempt in 0..self.pace.attempts {
            // What was seen at the run's beginning counts at first.
            if attempt > 0 {
                self.refresh_addresses(&domain).await?;
            }
            if self.view().domains.get(&domain).is_some_and(|held| held.nat(internal).is_some()) {
                return Ok(());
            }
            let external = self.free_address(step, &domain, resource).await?;
            let (datacenter_id, before) = {
                let view = self.view();
                let held = view.domains.get(&domain);
                let before = held.map(|held| held.nats.keys().map(ToString::to_string).collect());
                (Id::new(&*resource.location), before.unwrap_or_default())
            };
            let told = |id: String| {
                Some(NatRule {
                    id: Id::new(id),
                    datacenter_id,
                    network_domain_id: domain.clone(),
                    internal_ip: internal,
                    external_ip: external,
                    external_ip_addressability: None,
                    create_time: None,
                    state: None,
                })
            };
            let change = Change::CreateNatRule(CreateNatRule {
                network_domain_id: domain.clone(),
                internal_ip: internal,
                external_ip: Some(external),
            });
            let about = About { domain: Some(domain.to_string()), before };
            let kind = ("nat", (|nat: &NatRule| nat.id.as_str()) as fn(&NatRule) -> &str);
            match self.act_unnamed(step, about, &change, (look, told), kind).await? {
                Unnamed::Made(nat) => {
                    if let Some(held) = self.view().domains.get_mut(&domain) {
                        held.nats.insert(nat.id.clone(), nat);
                    }
                    return Ok(());
                }
                // Others may have taken the address since the run began: look at everything again, once.
                Unnamed::Refused(why) if attempt > 0 => return Err(why),
                Unnamed::Unlisted | Unnamed::Refused(_) => {}
            }
        }
        Err(Failure(
            "no translation came of it; see which addresses are in use at the cloud, and run again".into(),
        ))
    }

    /// Reads blocks and translations of a domain anew.
    async fn refresh_addresses(&self, domain: &Id<NetworkDomain>) -> Result<(), Failure> {
        let blocks = self.read(|| self.cloud.public_ip_blocks(domain)).await?;
        let nats = self.read(|| self.cloud.nat_rules(domain)).await?;
        if let Some(held) = self.view().domains.get_mut(domain) {
            held.blocks = blocks.into_iter().map(|block| (block.id.clone(), block)).collect();
            held.nats = nats.into_iter().map(|nat| (nat.id.clone(), nat)).collect();
        }
        Ok(())
    }

    async fn free_address(
        &self,
        step: &Step,
        domain: &Id<NetworkDomain>,
        resource: &Resource,
    ) -> Result<Ipv4Addr, Failure> {
        let free = || self.view().domains.get(domain).map(free_addresses).unwrap_or_default();
        let (ours, others): (BTreeSet<_>, BTreeSet<_>) =
            free().into_iter().partition(|address| self.added().contains(address));
        if !others.is_empty() {
            // Translations are not the only users of addresses.
            let reserved = self.read(|| self.cloud.reserved_addresses(domain)).await?;
            let unused = others.into_iter().find(|free| !reserved.iter().any(|used| used.value == *free));
            if let Some(unused) = unused {
                return Ok(unused);
            }
        }
        // Nobody else knows the addresses this run has added.
        if let Some(unused) = ours.first() {
            return Ok(*unused);
        }
        let block = Step {
            verb: Verb::Create,
            kind: "public ip block",
            name: resource.domain.clone(),
            location: resource.location.clone(),
            detail: format!("two addresses, one for {}", step.name),
            outside: false,
        };
        self.tell(Event::Step(block.clone(), StepState::Started)).await;
        let added = self.add_block(&block, domain).await;
        let state = match &added {
            Ok(()) => StepState::Done,
            Err(Failure(why)) => StepState::Failed(why.clone()),
        };
        self.tell(Event::Step(block, state)).await;
        added?;
        let unused = free().into_iter().find(|address| self.added().contains(address));
        unused.ok_or_else(|| Failure("the new block's addresses are in use; run again".into()))
    }

    /// Adds a block. Blocks have no name: what was there before tells whether one came.
    async fn add_block(&self, step: &Step, domain: &Id<NetworkDomain>) -> Result<(), Failure> {
        let before: Vec<_> = {
            let view = self.view();
            view.domains.get(domain).map(|held| held.blocks.keys().cloned().collect()).unwrap_or_default()
        };
        let look = || async {
            let all = self.cloud.public_ip_blocks(domain).await?;
            Ok(all.into_iter().find(|block| !before.contains(&block.id)))
        };
        let about = About {
            domain: Some(domain.to_string()),
            before: before.iter().map(ToString::to_string).collect(),
        };
        let change = Change::AddPublicIpBlock(AddPublicIpBlock { network_domain_id: domain.clone() });
        let kind = ("block", (|block: &PublicIpBlock| block.id.as_str()) as fn(&PublicIpBlock) -> &str);
        // The answer does not say which addresses they are.
        let found = match self.act_unnamed(step, about, &change, (look, |_| None), kind).await? {
            Unnamed::Made(found) => found,
            Unnamed::Unlisted => {
                return Err(Failure(
                    "the cloud accepted the block, yet does not list it; run again in a while".into(),
                ));
            }
            Unnamed::Refused(why) => return Err(why),
        };
        self.added().extend(found.addresses());
        if let Some(held) = self.view().domains.get_mut(domain) {
            held.blocks.insert(found.id.clone(), found);
        }
        Ok(())
    }

    pub(super) async fn make_rule(
        &self,
        step: &Step,
        resource: &Resource,
        name: &str,
        content: &Rule,
    ) -> Result<(), Failure> {
        let domain = self.domain_of(resource)?;
        let (wanted, held) = {
            let view = self.view();
            let held = view.domains.get(&domain);
            let wanted = held.and_then(|held| rule::wanted(&view, &self.mark, held, name, content));
            (wanted, held.and_then(|held| held.rule(name)).cloned())
        };
        let wanted = wanted.ok_or_else(|| Failure("an address it needs is not known; run again".into()))?;
        match held {
            Some(held) => self.edit_rule(step, &domain, &held, &wanted).await,
            None => {
                let change = Change::CreateFirewallRule(Box::new(wanted.clone()));
                let look = || self.look_rule(&domain, |rule| same_name(&rule.name, name));
                match self.act(step, About::default(), &change, look).await? {
                    // Rules are made at once: nothing to wait for, and the next run's look will tell.
                    Done::Accepted(_) => Ok(()),
                    Done::Found(found) if rule::is_as_wanted(&found, &wanted) => Ok(()),
                    Done::Found(found) => self.edit_rule(step, &domain, &found, &wanted).await,
                }
            }
        }
    }

    async fn edit_rule(
        &self,
        step: &Step,
        domain: &Id<NetworkDomain>,
        held: &FirewallRule,
        wanted: &CreateFirewallRule,
    ) -> Result<(), Failure> {
        if rule::is_as_wanted(held, wanted) {
            return Ok(());
        }
        let change = Change::EditFirewallRule(Box::new(EditFirewallRule {
            id: held.id.clone(),
            action: Some(Action::AcceptDecisively),
            protocol: Some(wanted.protocol.clone()),
            source: Some(wanted.source.clone()),
            destination: Some(wanted.destination.clone()),
            enabled: Some(true),
            placement: None,
        }));
        let look = || self.look_rule(domain, |rule| rule.id == held.id && rule::is_as_wanted(rule, wanted));
        self.act(step, About::default(), &change, look).await.map(drop)
    }

    pub(super) async fn set_deny_ipv6(
        &self,
        step: &Step,
        resource: &Resource,
        on: bool,
    ) -> Result<(), Failure> {
        let domain = self.domain_of(resource)?;
        let seen = || self.view().domains.get(&domain).and_then(|held| held.rule(DENY_IPV6)).cloned();
        let held = match seen() {
            Some(held) => Some(held),
            // It came with the domain, which this run has made.
            None => self.platform_rule(&domain).await?,
        };
        // A platform without that rule has nothing to turn off.
        let Some(held) = held.filter(|held| held.enabled != on) else { return Ok(()) };
        let change = Change::EditFirewallRule(Box::new(EditFirewallRule::enabling(held.id.clone(), on)));
        let look = || self.look_rule(&domain, |rule| rule.id == held.id && rule.enabled == on);
        self.act(step, About::default(), &change, look).await.map(drop)
    }

    /// The platform's own rule, looked for.
    async fn platform_rule(&self, domain: &Id<NetworkDomain>) -> Result<Option<FirewallRule>, McpError> {
        self.read(|| self.look_rule(domain, |rule| same_name(&rule.name, DENY_IPV6))).await
    }

    async fn look_rule(
        &self,
        domain: &Id<NetworkDomain>,
        wanted: impl Fn(&FirewallRule) -> bool,
    ) -> Result<Option<FirewallRule>, McpError> {
        Ok(self.cloud.firewall_rules(domain).await?.into_iter().find(wanted))
    }
}
