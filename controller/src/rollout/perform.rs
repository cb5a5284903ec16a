//! What was decided and stored is done: orders to agents, work to nodes, questions to gates.

use std::sync::Arc;

use fleet_model::NodeName;
use fleet_proto::v1::to_agent;
use fleet_rollout::{Effect, Event, Kind, Reason, Rollout, State, Step, Target};

use super::{core::Core, trouble::Trouble, wire};
use crate::reconcile::board::Turn;

impl Core {
    /// Does what was decided; what could not be done comes back as an event.
    ///
    /// # Errors
    /// [`Trouble`] if the store failed: what is in hand is dropped then, and what is stored says what is to be done.
    pub(super) async fn perform(&mut self, id: u64, effects: Vec<Effect>) -> Result<Vec<Event>, Trouble> {
        let done = self.try_perform(id, effects).await;
        if done.is_err() {
            self.forget();
        }
        done
    }

    async fn try_perform(&self, id: u64, effects: Vec<Effect>) -> Result<Vec<Event>, Trouble> {
        let Some(rollout) = self.kept(id).map(|kept| &kept.rollout) else { return Ok(Vec::new()) };
        let plan = rollout.spec.target.is_plan();
        let mut follow = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist(_) => {}
                Effect::Offer { node, order, back, again, .. } if plan => {
                    follow.extend(self.give(id, rollout, node, order, back, again).await?);
                }
                Effect::Withdraw { node, order } if plan => {
                    // It says so itself when it has what it had.
                    self.give(id, rollout, node, order, true, false).await?;
                }
                Effect::Offer { node, target, order, back: true, .. } => {
                    follow.extend(self.return_to(id, rollout, node, target, order));
                }
                Effect::Offer { node, target, order, again, .. } => {
                    follow.extend(self.offer(rollout, node, target.digest(), order, again));
                }
                Effect::Withdraw { node, order } => {
                    self.floor.allow(&node, Vec::new());
                    let withdraw = fleet_proto::v1::Withdraw { number: order };
                    self.floor.tell(&node, to_agent::Message::Withdraw(withdraw));
                }
                Effect::Ask { node, gate } => follow.extend(self.ask(rollout, node, &gate)),
                Effect::Remember { node, release, reason } => {
                    tracing::warn!(%node, release, %reason, "a release was bad on this node");
                    if let Err(error) = self.archive.remember(&node, &release, reason).await {
                        // The node remembers it by itself; this is for the warning at the next start.
                        tracing::warn!(%node, error = fleet_model::chain(&error), "bad release not remembered");
                    }
                }
                Effect::Announce(notice) => tracing::info!(rollout = id, %notice, "rollout"),
            }
        }
        Ok(follow)
    }

    /// Gives a node the work of the plan in force, or what it had; if there is none, the node failed.
    async fn give(
        &self,
        id: u64,
        rollout: &Rollout,
        node: NodeName,
        order: u64,
        back: bool,
        again: bool,
    ) -> Result<Option<Event>, Trouble> {
        if !back && self.floor.wanted().as_deref() != Some(rollout.spec.target.digest()) {
            // Another plan came into force; its rollout is about to take the place of this one. What this one gave and
            // nobody began is taken back all the same, else whoever is away would begin it on its return.
            return Ok(None);
        }
        let unproved = self.unproved(id, &node);
        if self.floor.give(&node, Turn { order, back, again, unproved }).await? {
            return Ok(None);
        }
        let why = if back { "it has nothing to go back to" } else { "the plan has no work for it" };
        let target = rollout.target().clone();
        let step = Step::Failed { reason: Reason::new(Kind::Other, why) };
        Ok(Some(Event::Report { node, order, target, step, health: None }))
    }

    /// Whether a node never did what the rollout of a plan before this one gave it.
    fn unproved(&self, id: u64, node: &NodeName) -> bool {
        let older = self.state().into_iter().flat_map(|state| state.rollouts.range(..id).rev());
        let mut plans = older.map(|(_, kept)| &kept.rollout).filter(|rollout| rollout.spec.target.is_plan());
        plans.find_map(|rollout| rollout.nodes.get(node)).is_some_and(|known| {
            known.touched && !matches!(known.state, State::Committed | State::RolledBack | State::Pending)
        })
    }

    /// Offers a release to a node; if that cannot be, the node failed.
    fn offer(
        &self,
        rollout: &Rollout,
        node: NodeName,
        release: &str,
        order: u64,
        again: bool,
    ) -> Option<Event> {
        let failed = |node, kind, detail: String| {
            let step = Step::Failed { reason: Reason::new(kind, detail) };
            Some(Event::Report { node, order, target: rollout.spec.target.clone(), step, health: None })
        };
        if let Some(can) = self.floor.can(&node).filter(|can| !can.orders) {
            let why = format!(
                "its agent {} takes no orders, so that has to move first: `fleetctl replace {node}` makes the node anew",
                can.version
            );
            return failed(node, Kind::Mismatch, why);
        }
        let Some(offerable) = self.catalogue.get(release) else {
            return failed(
                node,
                Kind::Other,
                "the controller does not have this release any more".to_owned(),
            );
        };
        self.floor.allow(&node, offerable.packed.clone());
        let roots = self.catalogue.roots();
        let order = wire::offer(&offerable, &node, roots, order, again, &rollout.spec.policy);
        self.floor.tell(&node, order);
        None
    }

    /// Has a node leave the rollout's release; one that does not have it is where it should be.
    fn return_to(
        &self,
        id: u64,
        rollout: &Rollout,
        node: NodeName,
        before: Target,
        order: u64,
    ) -> Option<Event> {
        self.floor.allow(&node, Vec::new());
        let leave = rollout.spec.target.digest();
        let can = self.floor.can(&node);
        if can.as_ref().is_some_and(|can| !can.orders) {
            // It was never told to take anything.
            return Some(Event::Report { node, order, target: before, step: Step::Committed, health: None });
        }
        let has = |standing: Arc<fleet_proto::v1::Standing>| wire::has(&standing, leave);
        if can.is_some_and(|can| !can.leaves) && !self.floor.standing(&node).is_some_and(has) {
            // It would turn round whatever it runs. All that can be meant is that it begins nothing more.
            let withdraw = fleet_proto::v1::Withdraw { number: order };
            self.floor.tell(&node, to_agent::Message::Withdraw(withdraw));
            return None;
        }
        let told = rollout.nodes.get(&node).and_then(|node| node.reason.as_ref());
        let why = told.map_or_else(|| format!("rollout {id} is undone"), ToString::to_string);
        self.floor.tell(&node, wire::back(order, why, leave));
        None
    }

    fn ask(&self, rollout: &Rollout, node: NodeName, gate: &str) -> Option<Event> {
        let gate = rollout.spec.policy.gates.iter().find(|known| known.name == gate)?;
        if let Some(can) = self.floor.can(&node).filter(|can| !can.gates) {
            let detail =
                format!("its agent {} answers no gates; leave them out, or update it first", can.version);
            return Some(Event::Answer { node, gate: gate.name.clone(), passed: false, detail });
        }
        self.floor.tell(&node, wire::ask(gate, &rollout.spec.id, self.floor.todo_port(&node)));
        None
    }
}
