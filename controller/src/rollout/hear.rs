//! What nodes say, taken in: when it is news, when somebody takes over, now and then, and at the end of a bake.

use std::collections::{BTreeMap, BTreeSet};

use fleet_model::NodeName;
use fleet_rollout::{Event, Rollout, State, Step, Target, state::Node};

use super::{
    core::Core,
    floor::{Broken, Heard},
    inbox::News,
    plans::{self, Said},
    trouble::Trouble,
    wire,
};

/// Sessions that change at once from which on they are taken in together.
const TOGETHER: usize = 8;

impl Core {
    /// Takes in where everybody says they stand.
    pub(super) async fn hear_all(&mut self) -> Result<(), Trouble> {
        for id in self.driven() {
            for node in self.floor.connected() {
                self.hear(id, &node).await?;
            }
        }
        Ok(())
    }

    /// Takes in where a node says it stands.
    pub(super) async fn hear(&mut self, id: u64, node: &NodeName) -> Result<(), Trouble> {
        let Some(rollout) = self.kept(id).map(|kept| &kept.rollout) else { return Ok(()) };
        match self.said(rollout, node) {
            Some(event) => self.take_into(id, event).await,
            None => Ok(()),
        }
    }

    /// Where a node says it stands and how it is, unless `rollout` knows that.
    pub(super) fn said(&self, rollout: &Rollout, node: &NodeName) -> Option<Event> {
        let event = match &rollout.spec.target {
            Target::Release(_) => {
                let standing = self.floor.standing(node)?;
                let says = wire::report(rollout, node, &standing, BTreeMap::new())?;
                let failing = failing(rollout, node, &says, self.floor.failing(node));
                wire::report(rollout, node, &standing, failing)
            }
            // While another plan comes into force, what nodes say is not about this one.
            Target::Plan(digest) if self.floor.wanted().as_ref() != Some(digest) => None,
            Target::Plan(_) => {
                let crashes = self.floor.standing(node).and_then(|standing| standing.crashes);
                plans::report(rollout, node, &self.floor.worked(node)?, crashes)
            }
        };
        event.filter(|event| !says_nothing(rollout, node, event))
    }

    /// Whether a node says that it has what it was brought, and that all is as well with it as before.
    fn is_well(&self, rollout: &Rollout, node: &NodeName) -> bool {
        match &rollout.spec.target {
            Target::Release(_) => {
                let before = rollout.nodes.get(node).and_then(|known| known.failed_before.clone());
                let before = before.unwrap_or_default();
                let says = self
                    .floor
                    .standing(node)
                    .and_then(|standing| wire::report(rollout, node, &standing, BTreeMap::new()));
                says.is_some_and(|says| has_ours(rollout, &says))
                    && self.floor.failing(node).now.keys().all(|task| before.contains(task))
            }
            Target::Plan(_) => {
                self.floor.worked(node).is_some_and(|worked| worked.wanted && worked.said == Said::Done)
            }
        }
    }

    /// At the end of a bake everybody who is watched has to say something, and that all is well.
    pub(super) async fn call_the_watched(&mut self, id: u64) -> Result<(), Trouble> {
        let Some(rollout) = self.kept(id).map(|kept| &kept.rollout) else { return Ok(()) };
        let mut called: BTreeMap<(u64, NodeName), Option<Heard>> = BTreeMap::new();
        let mut well = BTreeSet::new();
        for node in rollout.awaited() {
            let heard = self.floor.heard(node);
            let key = (id, node.clone());
            let before = self.called.get(&key).copied().unwrap_or_else(|| {
                self.floor.call(node);
                heard
            });
            if heard.is_some() && heard != before && self.is_well(rollout, node) {
                well.insert(node.clone());
            }
            called.insert(key, before);
        }
        self.called.retain(|(of, _), _| *of != id);
        self.called.extend(called);
        match well.is_empty() {
            true => Ok(()),
            false => self.take_into(id, Event::Well { nodes: well }).await,
        }
    }

    /// Takes news of sessions in.
    ///
    /// # Errors
    /// [`Trouble`]; what was not taken in is caught up with by the next [`Core::lead`].
    pub async fn news(&mut self, news: BTreeMap<NodeName, News>) -> Result<(), Trouble> {
        let taken = self.take_news(news).await;
        if taken.is_err() {
            // They are said once: whoever goes on hears everybody afresh, also where the store was only not read.
            self.forget();
        }
        taken
    }

    async fn take_news(&mut self, news: BTreeMap<NodeName, News>) -> Result<(), Trouble> {
        self.lead().await?;
        let driven = self.driven();
        if driven.is_empty() {
            return Ok(());
        }
        self.look_at_members().await?;
        let connected = self.floor.connected();
        let moved: Vec<&NodeName> =
            news.iter().filter(|(_, news)| news.session).map(|(node, _)| node).collect();
        if moved.len() > TOGETHER {
            self.take(Event::Sessions { connected: connected.clone() }).await?;
        } else {
            for node in moved {
                let node = node.clone();
                let event =
                    if connected.contains(&node) { Event::Connected { node } } else { Event::Lost { node } };
                self.take(event).await?;
            }
        }
        for (node, news) in news {
            for &id in driven.iter().filter(|_| connected.contains(&node)) {
                let plans = self.kept(id).is_some_and(|kept| kept.rollout.spec.target.is_plan());
                if if plans { news.observed || news.session } else { news.standing } {
                    self.hear(id, &node).await?;
                }
            }
            for (_, answer) in news.gates {
                let asked = driven.iter().find(|id| id.to_string() == answer.rollout);
                if let Some(id) = asked.copied() {
                    self.take_into(id, wire::answer(&node, answer)).await?;
                }
            }
        }
        Ok(())
    }
}

/// Whether how a node is matters now, though it says nothing new: always under a plan; under a release once it has that,
/// and before its turn, for what fails already then is not the release's fault.
pub(super) fn matters(rollout: &Rollout, node: &Node) -> bool {
    let waits = matches!(node.state, State::Pending | State::Held | State::CatchingUp);
    let has = matches!(node.state, State::Proving | State::Committed);
    rollout.spec.target.is_plan()
        || (waits && node.wave <= rollout.wave + 1)
        || (has && node.wave == rollout.wave)
}

/// Whether it is said that a node has what `rollout` brings.
fn has_ours(rollout: &Rollout, says: &Event) -> bool {
    matches!(says, Event::Report { target, step: Step::Committed, .. } if *target == rollout.spec.target)
}

/// What fails on a node, as far as it says something for or against a release.
///
/// Before, whatever fails counts at once: blamed for that later, a release would be blamed for old trouble. After it only
/// what stays failed does. In the middle it may be either's doing, so what was known before stands.
fn failing(rollout: &Rollout, node: &NodeName, says: &Event, broken: Broken) -> BTreeMap<String, String> {
    let known = rollout.nodes.get(node).filter(|known| known.failed_before.is_some());
    match known {
        Some(known)
            if has_ours(rollout, says) || matches!(known.state, State::Proving | State::Committed) =>
        {
            broken.lasting
        }
        Some(Node {
            state: State::Offered | State::Fetching | State::Trial, health: Some(health), ..
        }) => health.failing.clone(),
        _ => broken.now,
    }
}

/// What ten thousand nodes say after a restart, and the engine knows.
fn says_nothing(rollout: &Rollout, node: &NodeName, event: &Event) -> bool {
    let (Some(node), Event::Report { target, step: Step::Committed, order, health, .. }) =
        (rollout.nodes.get(node), event)
    else {
        return false;
    };
    let ours = *target == rollout.spec.target;
    // Its crashes count from when it has the target.
    let fares = health.as_ref().is_none_or(|health| match &node.health {
        Some(known) => known.fails_as(health) && (!ours || known.crashes == health.crashes),
        None => health.failing.is_empty() && (!ours || health.crashes.is_none()),
    });
    fares
        && *order <= rollout.order.max(node.order).max(node.seen)
        && node.connected
        && !node.returning
        && !rollout.goes_back()
        && match node.state {
            State::Committed | State::Proving => ours,
            State::Pending | State::Held | State::CatchingUp => !ours,
            _ => false,
        }
}
