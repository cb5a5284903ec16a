//! One event after the other: decided by the engine, stored, then done.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use fleet_model::{NodeName, Timestamp};
use fleet_proto::v1::to_agent;
use fleet_rollout::{Effect, Event, Finish, Kind, Phase, Reason, Rollout, State, Step, advance, outstanding};
use fleet_store::{Lease, StoreError};

use super::{
    archive::{Archive, Kept, LineRecord},
    catalogue::Catalogue,
    floor::Floor,
    inbox::News,
    members::Members,
    trouble::Trouble,
    wire, zones,
};
use crate::records::keys;

/// How long a controller that is gone keeps others from driving.
pub const LEASE: Duration = Duration::from_secs(20);
/// Sessions that change at once from which on they are taken in together.
const TOGETHER: usize = 8;

/// Rollouts of one fleet, driven while the lease is held.
#[derive(Debug)]
pub struct Core {
    pub(super) archive: Archive,
    pub(super) floor: Arc<dyn Floor>,
    pub(super) catalogue: Arc<dyn Catalogue>,
    holder: String,
    lease: Option<Lease>,
    /// What is stored; none if it has to be read.
    state: Option<Stored>,
    /// The floor's epoch whose members were taken in.
    epoch: Option<u64>,
    /// Counts changes worth looking at.
    pub(super) changes: u64,
}

/// What is stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub(super) line: Option<LineRecord>,
    pub(super) rollouts: BTreeMap<u64, Kept>,
}

impl Stored {
    pub(super) fn newest(&self) -> Option<(u64, &Kept)> {
        self.rollouts.last_key_value().map(|(id, kept)| (*id, kept))
    }
}

impl Core {
    /// Over these; `holder` is whom others see driving.
    pub fn new(
        archive: Archive,
        floor: Arc<dyn Floor>,
        catalogue: Arc<dyn Catalogue>,
        holder: impl Into<String>,
    ) -> Self {
        Self {
            archive,
            floor,
            catalogue,
            holder: holder.into(),
            lease: None,
            state: None,
            epoch: None,
            changes: 0,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.archive.records().store().clock().now()
    }

    /// Takes the lease, or keeps it, and goes on from what is stored if it was not in hand.
    ///
    /// # Errors
    /// [`Trouble::Elsewhere`] if somebody else drives.
    pub async fn lead(&mut self) -> Result<(), Trouble> {
        let store = self.archive.records().store().clone();
        let now = self.now();
        if let Some(lease) = self.lease.take_if(|lease| lease.until.since(now) < LEASE * 2 / 3) {
            match store.renew(&lease, LEASE).await {
                Ok(lease) => self.lease = Some(lease),
                Err(StoreError::Lost { .. }) => self.state = None,
                Err(error) => {
                    self.state = None;
                    return Err(error.into());
                }
            }
        }
        if self.lease.is_none() {
            self.state = None;
            self.lease = match store.acquire(&keys::rollout_lease(), &self.holder, LEASE).await {
                Ok(lease) => Some(lease),
                Err(StoreError::Held { by, until, .. }) => return Err(Trouble::Elsewhere { by, until }),
                Err(error) => return Err(error.into()),
            };
        }
        if self.state.is_none() {
            let taken = self.take_over().await;
            if taken.is_err() {
                self.state = None;
            }
            taken?;
        }
        Ok(())
    }

    /// Gives the lease back, so that another controller need not wait for it.
    pub async fn resign(&mut self) {
        self.state = None;
        if let Some(lease) = self.lease.take()
            && let Err(error) = self.archive.records().store().release(lease).await
        {
            tracing::debug!(
                error = fleet_model::chain(&error),
                "lease of rollouts not given back; it runs out"
            );
        }
    }

    /// What is stored, as this controller drives it, or as somebody else left it.
    pub(super) async fn stored(&mut self) -> Result<Stored, Trouble> {
        match self.lead().await {
            Ok(()) => Ok(self.state.clone().unwrap_or_default()),
            Err(Trouble::Elsewhere { .. }) => self.read().await,
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Stored, Trouble> {
        Ok(Stored { line: self.archive.line().await?, rollouts: self.archive.all().await? })
    }

    /// Goes on from what is stored: finishes what was begun, says again what is under way, hears everybody.
    async fn take_over(&mut self) -> Result<(), Trouble> {
        let mut stored = self.read().await?;
        self.archive.tidy(&mut stored.rollouts).await?;
        let line = stored.line.clone();
        let older: Vec<u64> = stored.rollouts.keys().rev().skip(1).copied().collect();
        let newest = stored.newest().map(|(id, _)| id);
        self.state = Some(stored);
        self.changes += 1;
        for id in older {
            // A start that was cut between the new one and this.
            if self.kept(id).is_some_and(|kept| !superseded(&kept.rollout)) {
                self.supersede(id).await?;
            }
        }
        let Some(id) = newest else { return Ok(()) };
        let Some(kept) = self.kept(id) else { return Ok(()) };
        tracing::info!(rollout = id, standing = ?kept.rollout.standing(), "going on with the rollout");
        let effects = outstanding(&kept.rollout);
        let line = match (&line, &kept.rollout.line) {
            (Some(LineRecord { by, reason, .. }), None) => {
                Some(Event::StopLine { by: by.clone(), reason: reason.clone() })
            }
            (None, Some(_)) => Some(Event::ClearLine),
            _ => None,
        };
        // Before anything is said again: a line that was stopped meanwhile takes it back.
        match line {
            Some(event) => self.take(event).await?,
            None => self.perform_all(id, effects).await?,
        }
        self.take(Event::Sessions { connected: self.floor.connected() }).await?;
        self.epoch = None;
        self.look_at_members().await?;
        self.hear_all().await
    }

    /// Takes in where everybody says they stand.
    pub(super) async fn hear_all(&mut self) -> Result<(), Trouble> {
        for node in self.floor.connected() {
            self.hear(&node).await?;
        }
        Ok(())
    }

    /// Takes in where a node says it stands.
    async fn hear(&mut self, node: &NodeName) -> Result<(), Trouble> {
        let Some(standing) = self.floor.standing(node) else { return Ok(()) };
        let Some(rollout) = self.newest().map(|kept| &kept.rollout) else { return Ok(()) };
        match wire::report(rollout, node, &standing) {
            Some(event) if !says_nothing(rollout, node, &event) => self.take(event).await,
            _ => Ok(()),
        }
    }

    /// Takes news of sessions in.
    ///
    /// # Errors
    /// [`Trouble`]; what was not taken in is caught up with by the next [`Core::lead`].
    pub async fn news(&mut self, news: BTreeMap<NodeName, News>) -> Result<(), Trouble> {
        self.lead().await?;
        if self.newest().is_none() {
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
            if news.standing && connected.contains(&node) {
                self.hear(&node).await?;
            }
            for (_, answer) in news.gates {
                let ours = self.newest().is_some_and(|kept| kept.rollout.spec.id == answer.rollout);
                if ours {
                    self.take(wire::answer(&node, answer)).await?;
                }
            }
        }
        Ok(())
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// [`Trouble`]; the next one catches up.
    pub async fn tick(&mut self) -> Result<(), Trouble> {
        self.lead().await?;
        let Some(rollout) = self.newest().map(|kept| &kept.rollout) else { return Ok(()) };
        if superseded(rollout) {
            return Ok(());
        }
        let seconds_ahead = zones::offsets(&rollout.spec.policy, self.now());
        self.look_at_members().await?;
        self.take(Event::Offsets { seconds_ahead }).await?;
        self.take(Event::Tick).await
    }

    /// Takes in who came for good and who went for good.
    async fn look_at_members(&mut self) -> Result<(), Trouble> {
        let epoch = self.floor.epoch();
        if self.epoch == Some(epoch) {
            return Ok(());
        }
        let Members { members, .. } = self.floor.members().await?;
        if let Some(rollout) = self.newest().map(|kept| &kept.rollout).filter(|rollout| !superseded(rollout))
        {
            let present: BTreeSet<&NodeName> = members.iter().map(|member| &member.node).collect();
            let gone = rollout.nodes.keys().filter(|node| !present.contains(node));
            let gone = gone.map(|node| Event::Retired { node: node.clone() });
            let joined = members
                .iter()
                .filter(|member| rollout.nodes.get(&member.node).is_none_or(|node| node.member != **member));
            let joined = joined.map(|member| Event::Joined { member: member.clone() });
            let connected = self.floor.connected();
            let there = |event: &Event| match event {
                Event::Joined { member } if connected.contains(&member.node) => {
                    Some(Event::Connected { node: member.node.clone() })
                }
                _ => None,
            };
            let events: Vec<Event> = gone.chain(joined).collect();
            for event in events {
                let there = there(&event);
                self.take(event).await?;
                if let Some(event) = there {
                    self.take(event).await?;
                }
            }
        }
        self.epoch = Some(epoch);
        Ok(())
    }

    /// Takes an event into the newest rollout, and what follows from it; news of nodes that are not in it say nothing.
    pub(super) async fn take(&mut self, event: Event) -> Result<(), Trouble> {
        let Some(id) = self.state.as_ref().and_then(|state| state.newest()).map(|(id, _)| id) else {
            return Ok(());
        };
        self.take_into(id, event).await
    }

    async fn take_into(&mut self, id: u64, event: Event) -> Result<(), Trouble> {
        let effects = self.decide(id, event).await?;
        self.perform_all(id, effects).await
    }

    pub(super) async fn perform_all(&mut self, id: u64, effects: Vec<Effect>) -> Result<(), Trouble> {
        let mut waiting: VecDeque<Event> = self.perform(id, effects).await.into();
        // Ends: what follows from an offer that cannot be made is that its node failed.
        while let Some(event) = waiting.pop_front() {
            let effects = self.decide(id, event).await?;
            waiting.extend(self.perform(id, effects).await);
        }
        Ok(())
    }

    /// Lets the engine decide, and stores that; on any trouble with the store what is in hand is dropped.
    async fn decide(&mut self, id: u64, event: Event) -> Result<Vec<Effect>, Trouble> {
        let now = self.now();
        let Some(kept) = self.state.as_mut().and_then(|state| state.rollouts.get_mut(&id)) else {
            return Ok(Vec::new());
        };
        if concerns(&event).is_some_and(|node| !kept.rollout.nodes.contains_key(node)) {
            return Ok(Vec::new());
        }
        let mut effects = advance(&mut kept.rollout, event, now).map_err(Trouble::Refused)?;
        if !matches!(effects.first(), Some(Effect::Persist(_))) {
            return Ok(effects);
        }
        let Effect::Persist(entry) = effects.remove(0) else { return Ok(effects) };
        let told = effects.iter().filter_map(|effect| match effect {
            Effect::Announce(notice) => Some(notice.to_string()),
            _ => None,
        });
        let told = told.collect();
        self.changes += 1;
        if let Err(error) = self.archive.append(kept, entry, told).await {
            self.state = None;
            return Err(error.into());
        }
        Ok(effects)
    }

    /// Does what was decided; what could not be done comes back as an event.
    pub(super) async fn perform(&self, id: u64, effects: Vec<Effect>) -> Vec<Event> {
        let Some(rollout) = self.kept(id).map(|kept| &kept.rollout) else { return Vec::new() };
        let mut follow = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist(_) => {}
                Effect::Offer { node, order, back: true, .. } => {
                    self.floor.allow(&node, Vec::new());
                    let told = rollout.nodes.get(&node).and_then(|node| node.reason.as_ref());
                    let why = told.map_or_else(|| format!("rollout {id} is undone"), ToString::to_string);
                    self.floor.tell(&node, wire::back(order, why));
                }
                Effect::Offer { node, release, order, again, .. } => {
                    follow.extend(self.offer(rollout, node, release, order, again));
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
        follow
    }

    /// Offers a release to a node; if that cannot be, the node failed.
    fn offer(
        &self,
        rollout: &Rollout,
        node: NodeName,
        release: String,
        order: u64,
        again: bool,
    ) -> Option<Event> {
        let failed = |node, kind, detail: String| {
            let step = Step::Failed { reason: Reason::new(kind, detail) };
            Some(Event::Report { node, order, release: rollout.spec.release.clone(), step })
        };
        if let Some(can) = self.floor.can(&node).filter(|can| !can.orders) {
            let why = format!(
                "its agent {} takes no orders, so that has to move first: `fleetctl replace {node}` makes the node anew",
                can.version
            );
            return failed(node, Kind::Mismatch, why);
        }
        let Some(offerable) = self.catalogue.get(&release) else {
            return failed(
                node,
                Kind::Other,
                "the controller does not have this release any more".to_owned(),
            );
        };
        self.floor.allow(&node, offerable.packed.clone());
        let order = wire::offer(&offerable, self.catalogue.roots(), order, again, &rollout.spec.policy);
        self.floor.tell(&node, order);
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

    pub(super) fn kept(&self, id: u64) -> Option<&Kept> {
        self.state.as_ref()?.rollouts.get(&id)
    }

    pub(super) fn newest(&self) -> Option<&Kept> {
        self.state.as_ref()?.newest().map(|(_, kept)| kept)
    }

    pub(super) fn state(&self) -> Option<&Stored> {
        self.state.as_ref()
    }

    /// Whether there is a rollout for which news of nodes matter.
    pub(super) fn drives(&self) -> bool {
        self.newest().is_some_and(|kept| !superseded(&kept.rollout))
    }

    pub(super) async fn supersede(&mut self, id: u64) -> Result<(), Trouble> {
        self.take_into(id, Event::Supersede).await
    }

    pub(super) fn state_mut(&mut self) -> Option<&mut Stored> {
        self.state.as_mut()
    }

    /// What is in hand may not be what is stored: read it again before anything else.
    pub(super) fn forget(&mut self) {
        self.state = None;
    }
}

pub(super) fn superseded(rollout: &Rollout) -> bool {
    matches!(rollout.phase, Phase::Finished { finish: Finish::Superseded })
}

/// The node that has to be part of the rollout for an event to say something: not of what an operator says, who is told.
fn concerns(event: &Event) -> Option<&NodeName> {
    match event {
        Event::Connected { node }
        | Event::Lost { node }
        | Event::Retired { node }
        | Event::Report { node, .. }
        | Event::Answer { node, .. } => Some(node),
        _ => None,
    }
}

/// What ten thousand nodes say after a restart, and the engine knows.
fn says_nothing(rollout: &Rollout, node: &NodeName, event: &Event) -> bool {
    let (Some(node), Event::Report { release, step: Step::Committed, .. }) = (rollout.nodes.get(node), event)
    else {
        return false;
    };
    let ours = *release == rollout.spec.release;
    node.connected
        && !node.returning
        && !rollout.goes_back()
        && ((node.state == State::Committed && ours) || (node.state == State::Pending && !ours))
}
