//! Who gets a permit: pure.

use std::collections::{BTreeMap, BTreeSet};

use fleet_model::{NodeName, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Ask, Permit};

/// A permit that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What.
    pub permit: Permit,
    /// By whom.
    pub node: NodeName,
    /// Under which enrolment: the same name with another identity is another machine.
    #[serde(default)]
    pub enrolment: String,
    /// Until when, unless asked for again.
    pub until: Timestamp,
}

/// A cluster that was founded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founded {
    /// Who was permitted to.
    pub node: NodeName,
    /// Under which enrolment: the same node with another identity has another disk.
    pub enrolment: String,
    /// Nodes that may hold its data: whoever was permitted to found or join it and has not been destroyed since.
    pub members: BTreeSet<NodeName>,
}

/// What is decided on a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Grant,
    /// Yes, as before: it has it for long enough, until then.
    Held(Timestamp),
    /// Not now: what is waited for.
    Wait(String),
    /// Not ever, as things are: why.
    Refuse(String),
}

/// What the policy looks at besides its own table.
pub trait Sight {
    /// The first of the task's needs that is not met, in words.
    fn unmet(&self, node: &NodeName, task: &str) -> Option<String>;
    /// A node other than this one that should be there and is silent.
    fn absent(&self, but: &NodeName) -> Option<NodeName>;
    /// The node's present enrolment, if that is known.
    fn enrolment(&self, node: &NodeName) -> Option<String>;
    /// Why the member's server of this cluster cannot be relied on while another one is away, in words: it has not
    /// converged in the member's present generation. One that waits for a permit itself stands still, and is none to
    /// wait for: two would wait for each other. For `permit`: whoever restarts a server asks the cluster itself who is
    /// in it, so that a member without a session is then none to wait for.
    fn unsteady(&self, member: &NodeName, instance: &str, permit: &Permit) -> Option<String>;
}

/// What is held and what was founded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    held: BTreeMap<Permit, Held>,
    founded: BTreeMap<String, Founded>,
}

/// What a grant changes; written down before it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease.
    pub held: Held,
    /// The cluster it is about, if that changes.
    pub founded: Option<(String, Founded)>,
}

impl Table {
    /// What was written down.
    pub fn new(held: Vec<Held>, founded: BTreeMap<String, Founded>) -> Self {
        Self { held: held.into_iter().map(|held| (held.permit.clone(), held)).collect(), founded }
    }

    /// Who holds a permit at `now`.
    pub fn holder(&self, permit: &Permit, now: Timestamp) -> Option<&Held> {
        self.held.get(permit).filter(|held| now < held.until)
    }

    /// Everything that is held, or was until it ran out.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// Decides on a question of `node`.
    pub fn decide(&self, node: &NodeName, ask: &Ask, sight: &dyn Sight, now: Timestamp) -> Decision {
        let enrolment = sight.enrolment(node);
        // Before anything that is held: a lease outlives what it was given for.
        if let Permit::Found(instance) = &ask.permit
            && let Some(no) = self.founded_by_another(instance, node, enrolment.as_deref())
        {
            return no;
        }
        if let Some(held) = self.holder(&ask.permit, now) {
            if held.node == *node && enrolment.as_ref() == Some(&held.enrolment) {
                // Whatever else is the case by now: taking it back would stop nothing that was begun.
                let enough = held.until.since(now) > ask.permit.life() / 2;
                return if enough { Decision::Held(held.until) } else { Decision::Grant };
            }
            return Decision::Wait(has(held, node));
        }
        if let Some(held) = self.in_the_way(node, &ask.permit, now) {
            return Decision::Wait(has(held, node));
        }
        // A member's server only restarts. It must not wait for a seed that may itself wait for the members: so it is
        // after everybody's certificate ran out, and those who have new ones find each other only by restarting.
        if !self.is_rejoin(node, &ask.permit)
            && let Some(unmet) = sight.unmet(node, &ask.task)
        {
            return Decision::Wait(unmet);
        }
        if ask.permit == Permit::Reboot
            && let Some(absent) = sight.absent(node)
        {
            return Decision::Wait(format!("node `{absent}` is silent; no other restarts until it is back"));
        }
        let others = self.relied_on(node, &ask.permit);
        if let Some(why) =
            others.into_iter().find_map(|(instance, member)| sight.unsteady(member, instance, &ask.permit))
        {
            return Decision::Wait(why);
        }
        Decision::Grant
    }

    /// Why `node` may not begin this cluster, if it may not: somebody else did, or somebody else may hold its data.
    fn founded_by_another(
        &self,
        instance: &str,
        node: &NodeName,
        enrolment: Option<&str>,
    ) -> Option<Decision> {
        let Some(enrolment) = enrolment else {
            return Some(Decision::Wait(format!(
                "the enrolment of node `{node}`, of which there is no record: without it nobody could tell later who \
                 founded the cluster; `fleetctl up` enrols it anew"
            )));
        };
        let founded = self.founded.get(instance)?;
        let others: Vec<&str> =
            founded.members.iter().filter(|member| *member != node).map(NodeName::as_str).collect();
        if !others.is_empty() {
            return Some(Decision::Refuse(format!(
                "the cluster `{instance}` was founded already, by node `{}`, and {} may hold its data; it has to be \
                 joined",
                founded.node,
                others.join(", ")
            )));
        }
        if founded.node == *node && founded.enrolment.is_empty() {
            return Some(Decision::Wait(format!(
                "the record of who founded the cluster `{instance}` to name an enrolment; it names node `{node}` \
                 alone, and whether that is this machine cannot be told; `fleetctl replace {node}` begins anew"
            )));
        }
        (founded.node != *node || founded.enrolment != enrolment).then(|| {
            Decision::Refuse(format!(
                "the cluster `{instance}` was founded already, by an earlier node `{}`; it has to be joined",
                founded.node
            ))
        })
    }

    /// Whether this is the permit to join a cluster the node was let into before.
    pub fn is_rejoin(&self, node: &NodeName, permit: &Permit) -> bool {
        let Permit::Join(instance) = permit else { return false };
        self.is_member(node, instance)
    }

    fn is_member(&self, node: &NodeName, instance: &str) -> bool {
        self.founded.get(instance).is_some_and(|founded| founded.members.contains(node))
    }

    /// Another node's lease that this one may not be beside: machines of members and servers of members are not away
    /// together. Whoever is no member yet takes nothing away from anybody.
    fn in_the_way(&self, node: &NodeName, permit: &Permit, now: Timestamp) -> Option<&Held> {
        let mut others = self.held.values().filter(|held| held.node != *node && now < held.until);
        match permit {
            Permit::Reboot => others.find(|held| match &held.permit {
                Permit::Join(instance) => self.is_member(node, instance),
                Permit::Reboot | Permit::Found(_) => false,
            }),
            Permit::Join(instance) if self.is_member(node, instance) => {
                others.find(|held| held.permit == Permit::Reboot)
            }
            Permit::Join(_) | Permit::Found(_) => None,
        }
    }

    /// Whose servers have to stand firm while `node` does this: the other members, by cluster. Nobody's, if it is no
    /// member itself.
    pub fn relied_on(&self, node: &NodeName, permit: &Permit) -> Vec<(&str, &NodeName)> {
        let concerned = self.founded.iter().filter(|(instance, founded)| {
            let asked = match permit {
                Permit::Reboot => true,
                Permit::Join(joined) => joined == *instance,
                Permit::Found(_) => false,
            };
            asked && founded.members.contains(node)
        });
        let others = concerned.flat_map(|(instance, founded)| {
            founded
                .members
                .iter()
                .filter(|member| *member != node)
                .map(move |member| (instance.as_str(), member))
        });
        others.collect()
    }

    /// What granting `permit` to `node` changes.
    pub fn grant(&self, node: &NodeName, permit: &Permit, enrolment: &str, now: Timestamp) -> Grant {
        let held = Held {
            permit: permit.clone(),
            node: node.clone(),
            enrolment: enrolment.to_owned(),
            until: now.after(permit.life()),
        };
        let founded = match permit {
            Permit::Reboot => None,
            Permit::Found(instance) => {
                let mut founded = self.founded.get(instance).cloned().unwrap_or_else(|| Founded {
                    node: node.clone(),
                    enrolment: enrolment.to_owned(),
                    members: BTreeSet::new(),
                });
                founded.members.insert(node.clone()).then(|| (instance.clone(), founded))
            }
            // A cluster nobody was seen to found is none of ours to keep a record of.
            Permit::Join(instance) => self.founded.get(instance).and_then(|founded| {
                let mut founded = founded.clone();
                founded.members.insert(node.clone()).then(|| (instance.clone(), founded))
            }),
        };
        Grant { held, founded }
    }

    /// Takes a grant that was written down.
    pub fn take(&mut self, grant: Grant) {
        self.held.insert(grant.held.permit.clone(), grant.held);
        self.founded.extend(grant.founded);
    }

    /// Takes a permit back, if this node has it; says whether it had.
    pub fn release(&mut self, node: &NodeName, permit: &Permit) -> bool {
        let has = self.held.get(permit).is_some_and(|held| held.node == *node);
        if has {
            self.held.remove(permit);
        }
        has
    }

    /// Forgets leases that ran out; says which. One that was given by a clock since set back lasts no longer than any.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Permit> {
        for held in self.held.values_mut() {
            held.until = held.until.min(now.after(held.permit.life()));
        }
        let over: Vec<Permit> =
            self.held.values().filter(|held| held.until <= now).map(|held| held.permit.clone()).collect();
        over.iter().for_each(|permit| drop(self.held.remove(permit)));
        over
    }

    /// A node is destroyed, and all it held with it. Clusters whose data nobody holds any more may be founded
    /// anew; all others live on without it.
    pub fn forget(&mut self, node: &NodeName) -> Forgotten {
        let permits: Vec<Permit> =
            self.held.values().filter(|held| held.node == *node).map(|held| held.permit.clone()).collect();
        permits.iter().for_each(|permit| drop(self.held.remove(permit)));
        let mut forgotten = Forgotten { permits, ..Forgotten::default() };
        for (instance, founded) in &mut self.founded {
            if founded.members.remove(node) {
                forgotten.changed.insert(instance.clone(), founded.clone());
            }
        }
        let lost = |founded: &Founded| founded.members.is_empty();
        forgotten.lost = self.founded.iter().filter(|(_, f)| lost(f)).map(|(name, _)| name.clone()).collect();
        for instance in &forgotten.lost {
            self.founded.remove(instance);
            forgotten.changed.remove(instance);
        }
        forgotten
    }
}

/// Who has it, for whoever waits.
fn has(held: &Held, asks: &NodeName) -> String {
    let Held { permit, node, until, .. } = held;
    let who = if node == asks { "an earlier identity of node" } else { "node" };
    format!("{who} `{node}` has the permit `{permit}` until {until} at most")
}

/// What forgetting a node changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Leases it had.
    pub permits: Vec<Permit>,
    /// Clusters it was a member of.
    pub changed: BTreeMap<String, Founded>,
    /// Clusters nobody holds data of any more.
    pub lost: Vec<String>,
}

#[cfg(test)]
mod tests;
