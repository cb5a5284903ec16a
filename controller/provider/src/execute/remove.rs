//! Removing: what is gone already is fine, what is under way is waited for.

use fleet_mcp::{
    Id,
    types::{NetworkDomain, Server, State, Vlan},
};

use super::{
    Failure, Run,
    act::About,
    wait::{Began, Settled},
};
use crate::{cloud::Change, diff::Removal, event::Step};

impl Run {
    /// Removes it, and waits until it is gone.
    pub(super) async fn remove(&self, step: &Step, removal: Removal) -> Result<(), Failure> {
        match removal {
            Removal::Nat(domain, id) => {
                let look = || async {
                    let all = self.cloud.nat_rules(&domain).await?;
                    Ok((!all.iter().any(|nat| nat.id == id)).then_some(()))
                };
                self.act(step, About::default(), &Change::DeleteNatRule(id.clone()), look).await?;
                self.journal.gone("nat", id.as_str()).await?;
                if let Some(held) = self.view().domains.get_mut(&domain) {
                    held.nats.remove(&id);
                }
            }
            Removal::Rule(domain, id) => {
                let look = || async {
                    let all = self.cloud.firewall_rules(&domain).await?;
                    Ok((!all.iter().any(|rule| rule.id == id)).then_some(()))
                };
                self.act(step, About::default(), &Change::DeleteFirewallRule(id.clone()), look).await?;
                if let Some(held) = self.view().domains.get_mut(&domain) {
                    held.rules.remove(&id);
                }
            }
            Removal::List(domain, id) => {
                let look = || async {
                    let all = self.cloud.address_lists(&domain).await?;
                    Ok((!all.iter().any(|list| list.id == id)).then_some(()))
                };
                self.act(step, About::default(), &Change::DeleteAddressList(id.clone()), look).await?;
                self.journal.gone("list", id.as_str()).await?;
                if let Some(held) = self.view().domains.get_mut(&domain) {
                    held.lists.remove(&id);
                }
            }
            Removal::Block(domain, id) => {
                let look = || async {
                    let all = self.cloud.public_ip_blocks(&domain).await?;
                    Ok((!all.iter().any(|block| block.id == id)).then_some(()))
                };
                self.act(step, About::default(), &Change::RemovePublicIpBlock(id.clone()), look).await?;
                self.journal.gone("block", id.as_str()).await?;
                if let Some(held) = self.view().domains.get_mut(&domain) {
                    held.blocks.remove(&id);
                }
            }
            Removal::Power(id) => {
                let _turn = self.turn(step.name.clone()).await;
                self.power_off(step, &id).await?;
            }
            Removal::Server(id, forget) => {
                let _turn = self.turn(step.name.clone()).await;
                let server = match self.seen_idle(&id) {
                    Some(server) => Settled::Normal(server),
                    None => self.settle(step, &id, Began::some_time_ago()).await?,
                };
                match server {
                    Settled::Gone => {}
                    Settled::Failed(server, _) if server.state == State::FailedAdd => {
                        self.clean_server(step, &id).await?;
                    }
                    _ => self.delete_server(step, &id).await?,
                }
                if let Some(node) = forget {
                    self.vault.forget(&node).await.map_err(|error| Failure(fleet_model::chain(&error)))?;
                }
            }
            Removal::Vlan(id) => self.delete_vlan(step, &id).await?,
            Removal::Domain(id) => self.delete_domain(step, &id).await?,
        }
        Ok(())
    }

    async fn delete_server(&self, step: &Step, id: &Id<Server>) -> Result<(), Failure> {
        let look = || self.leaving_server(id);
        let change = Change::DeleteServer(id.clone());
        let done = self.act(step, About::default(), &change, look).await?;
        gone(self.settle(step, id, Began::by(&change, &done)).await?)
    }

    /// Removes what is left of a server that could not be made.
    pub(super) async fn clean_server(&self, step: &Step, id: &Id<Server>) -> Result<(), Failure> {
        let look = || self.leaving_server(id);
        let change = Change::CleanServer(id.clone());
        let done = self.act(step, About::default(), &change, look).await?;
        gone(self.settle(step, id, Began::by(&change, &done)).await?)
    }

    /// Whether a server is gone or on its way.
    async fn leaving_server(&self, id: &Id<Server>) -> Result<Option<()>, fleet_mcp::McpError> {
        let found = self.cloud.server(id).await?;
        Ok(found.is_none_or(|server| is_leaving(&server.state)).then_some(()))
    }

    pub(super) async fn delete_vlan(&self, step: &Step, id: &Id<Vlan>) -> Result<(), Failure> {
        let look = || async {
            let found = self.cloud.vlan(id).await?;
            Ok(found.is_none_or(|vlan| is_leaving(&vlan.state)).then_some(()))
        };
        let change = Change::DeleteVlan(id.clone());
        let done = self.act(step, About::default(), &change, look).await?;
        gone(self.settle(step, id, Began::by(&change, &done)).await?)
    }

    pub(super) async fn delete_domain(&self, step: &Step, id: &Id<NetworkDomain>) -> Result<(), Failure> {
        let look = || async {
            let found = self.cloud.network_domain(id).await?;
            Ok(found.is_none_or(|domain| is_leaving(&domain.state)).then_some(()))
        };
        let change = Change::DeleteNetworkDomain(id.clone());
        let done = self.act(step, About::default(), &change, look).await?;
        gone(self.settle(step, id, Began::by(&change, &done)).await?)
    }
}

fn is_leaving(state: &State) -> bool {
    matches!(state, State::PendingDelete | State::PendingClean)
}

fn gone<T>(settled: Settled<T>) -> Result<(), Failure> {
    match settled {
        Settled::Gone => Ok(()),
        Settled::Normal(_) => {
            Err(Failure("the cloud accepted the deletion, yet it is still there; run again".into()))
        }
        Settled::Failed(_, why) => {
            Err(Failure(format!("{why}; look at it at the cloud, and run again when it can be deleted")))
        }
    }
}
