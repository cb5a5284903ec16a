//! One event after the other: decided by the engine, stored, then done (`perform`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use fleet_model::{NodeName, Timestamp};
use fleet_rollout::{Effect, Event, Finish, Member, Phase, Rollout, Standing, Target, advance, outstanding};
use fleet_store::{Lease, StoreError};

use super::{
    archive::{Archive, Kept, LineRecord},
    catalogue::Catalogue,
    floor::{Floor, Heard},
    hear::matters,
    members::{Members, beside},
    plans,
    trouble::Trouble,
    zones,
};
use crate::records::keys;

/// How long a controller that is gone keeps others from driving.
pub const LEASE: Duration = Duration::from_secs(20);

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
    /// Whether what is in hand is ahead of what is stored, or that of what is done. Still set when the next one begins
    /// if whoever asked for it went away meanwhile, and took its work along.
    midway: bool,
    /// The floor's epoch whose members were taken in.
    epoch: Option<u64>,
    /// Everybody, as of that epoch.
    members: Vec<Member>,
    /// Who was asked to say something at the end of a bake, and what had been heard of them by then.
    pub(super) called: BTreeMap<(u64, NodeName), Option<Heard>>,
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

    /// The rollout that people mean who name none: one that is not over, or the newest; and so on for the others.
    pub(super) fn in_mind(&self) -> Vec<&Kept> {
        let mut all: Vec<(u64, &Kept)> = self.rollouts.iter().map(|(id, kept)| (*id, kept)).collect();
        let rank = |kept: &Kept| match kept.rollout.standing() {
            Standing::Finished if superseded(&kept.rollout) => 0,
            Standing::Finished => 1,
            _ => 2,
        };
        all.sort_by_key(|(id, kept)| std::cmp::Reverse((rank(kept), *id)));
        all.into_iter().map(|(_, kept)| kept).collect()
    }

    /// The rollout that is named, or the one that is meant where none is: the one rule for whatever asks or acts.
    ///
    /// # Errors
    /// [`Trouble::Request`] if none bears that name.
    pub(super) fn chosen(&self, named: &str) -> Result<Option<&Kept>, Trouble> {
        if named.is_empty() {
            return Ok(self.in_mind().first().copied());
        }
        let found = named.parse().ok().and_then(|number: u64| self.rollouts.get(&number));
        found.map(Some).ok_or_else(|| {
            let named: String = named.chars().take(80).collect();
            Trouble::request(format!("there is no rollout {named}"), "`fleetctl rollout list` shows them")
        })
    }

    /// The newest rollout of plans, or of releases.
    pub(super) fn newest_of(&self, plans: bool) -> Option<(u64, &Kept)> {
        let mut newest_first = self.rollouts.iter().rev();
        let found = newest_first.find(|(_, kept)| kept.rollout.spec.target.is_plan() == plans);
        found.map(|(id, kept)| (*id, kept))
    }

    /// Rollouts for which news of nodes matter: of each kind the newest, unless something took its place.
    pub(super) fn driven(&self) -> Vec<u64> {
        let newest = [self.newest_of(false), self.newest_of(true)].into_iter().flatten();
        newest.filter(|(_, kept)| !superseded(&kept.rollout)).map(|(id, _)| id).collect()
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
            midway: false,
            epoch: None,
            members: Vec::new(),
            called: BTreeMap::new(),
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
        if std::mem::take(&mut self.midway) {
            self.state = None;
        }
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
            let before = self.begin();
            let taken = self.take_over().await;
            self.end(before);
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

    /// One rollout as it is now, whoever drives it.
    ///
    /// # Errors
    /// [`Trouble`] if the store failed.
    pub async fn see(&mut self, id: u64) -> Result<Option<Kept>, Trouble> {
        Ok(self.stored().await?.rollouts.remove(&id))
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
        let driven = stored.driven();
        let older =
            stored.rollouts.iter().filter(|(id, kept)| !driven.contains(id) && !superseded(&kept.rollout));
        let older: Vec<u64> = older.map(|(id, _)| *id).collect();
        self.state = Some(stored);
        self.changes += 1;
        for id in older {
            // A start that was cut between the new one and this.
            self.supersede(id).await?;
        }
        self.leave_what_is_planned_no_more().await?;
        for id in self.driven() {
            self.go_on(id, line.as_ref()).await?;
        }
        if self.driven().is_empty() {
            return Ok(());
        }
        self.epoch = None;
        self.look_at_members().await?;
        self.hear_all().await
    }

    /// A plan in force other than the one that is rolled out takes its place: nobody gets what is planned no more.
    pub(super) async fn leave_what_is_planned_no_more(&mut self) -> Result<(), Trouble> {
        let Some(wanted) = self.floor.wanted() else { return Ok(()) };
        let plans = self.state.as_ref().and_then(|state| state.newest_of(true));
        let stale = plans
            .filter(|(_, kept)| !superseded(&kept.rollout) && kept.rollout.spec.target.digest() != wanted);
        match stale.map(|(id, _)| id) {
            Some(id) => self.supersede(id).await,
            None => Ok(()),
        }
    }

    /// Says again what is under way, and hears who is there.
    async fn go_on(&mut self, id: u64, line: Option<&LineRecord>) -> Result<(), Trouble> {
        let Some(kept) = self.kept(id) else { return Ok(()) };
        tracing::info!(rollout = id, standing = ?kept.rollout.standing(), "going on with the rollout");
        let effects = outstanding(&kept.rollout);
        let line = match (line, &kept.rollout.line) {
            (Some(LineRecord { by, reason, .. }), None) => {
                Some(Event::StopLine { by: by.clone(), reason: reason.clone() })
            }
            (None, Some(_)) => Some(Event::ClearLine),
            _ => None,
        };
        // Before anything is said again: a line that was stopped meanwhile takes it back.
        match line {
            Some(event) => self.take_into(id, event).await?,
            None => self.perform_all(id, effects).await?,
        }
        self.take_into(id, Event::Sessions { connected: self.floor.connected() }).await
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// [`Trouble`]; the next one catches up.
    pub async fn tick(&mut self) -> Result<(), Trouble> {
        self.lead().await?;
        let driven = self.driven();
        self.called.retain(|(id, _), _| driven.contains(id));
        if driven.is_empty() {
            return Ok(());
        }
        self.look_at_members().await?;
        for id in driven {
            let Some(rollout) = self.kept(id).map(|kept| &kept.rollout) else { continue };
            let seconds_ahead = zones::offsets(&rollout.spec.policy, self.now());
            // What failed a while ago counts by now, and says nothing new.
            let matter = rollout.nodes.values().filter(|node| moves(rollout) && matters(rollout, node));
            let heard: Vec<NodeName> = matter.map(|node| node.member.node.clone()).collect();
            let out = beside(&self.members, rollout, &self.floor.connected());
            self.take_into(id, Event::Offsets { seconds_ahead }).await?;
            self.take_into(id, Event::Beside { out }).await?;
            for node in heard {
                self.hear(id, &node).await?;
            }
            self.take_into(id, Event::Tick).await?;
            self.call_the_watched(id).await?;
        }
        Ok(())
    }

    /// Whether a rollout is under way: time matters more then.
    pub(super) fn moves(&self) -> bool {
        self.driven().into_iter().filter_map(|id| self.kept(id)).any(|kept| moves(&kept.rollout))
    }

    /// Takes in who came for good and who went for good.
    pub(super) async fn look_at_members(&mut self) -> Result<(), Trouble> {
        let epoch = self.floor.epoch();
        if self.epoch == Some(epoch) {
            return Ok(());
        }
        let Members { members, .. } = self.floor.members().await?;
        for id in self.driven() {
            let Some(rollout) = self.kept(id).map(|kept| &kept.rollout) else { continue };
            let members = match (&rollout.spec.target, self.floor.change()) {
                (Target::Release(_), _) => members.clone(),
                (Target::Plan(digest), Some(change)) if change.digest == *digest => {
                    plans::taking_part(members.clone(), &change, Some(rollout))
                }
                // Its place is about to be taken.
                (Target::Plan(_), _) => continue,
            };
            let present: BTreeSet<&NodeName> = members.iter().map(|member| &member.node).collect();
            let gone = rollout.nodes.keys().filter(|node| !present.contains(node));
            let gone = gone.map(|node| Event::Retired { node: node.clone() });
            // Whoever was made anew is somebody else; whoever only got other work is not.
            let joined = members.iter().filter(|member| {
                rollout.nodes.get(&member.node).is_none_or(|node| node.member.identity != member.identity)
            });
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
                self.take_into(id, event).await?;
                if let Some(event) = there {
                    self.take_into(id, event).await?;
                }
            }
        }
        (self.epoch, self.members) = (Some(epoch), members);
        Ok(())
    }

    /// Takes an event into every rollout that is driven, and what follows from it; news of nodes that are not in one say
    /// nothing to it.
    pub(super) async fn take(&mut self, event: Event) -> Result<(), Trouble> {
        for id in self.driven() {
            self.take_into(id, event.clone()).await?;
        }
        Ok(())
    }

    pub(super) async fn take_into(&mut self, id: u64, event: Event) -> Result<(), Trouble> {
        let before = self.begin();
        let done = match self.decide(id, event).await {
            Ok(effects) => self.perform_all(id, effects).await,
            Err(trouble) => Err(trouble),
        };
        self.end(before);
        done
    }

    /// From here on what is in hand counts for nothing, until [`end`](Self::end) is given what this returns.
    pub(super) fn begin(&mut self) -> bool {
        std::mem::replace(&mut self.midway, true)
    }

    pub(super) fn end(&mut self, before: bool) {
        self.midway = before;
    }

    pub(super) async fn perform_all(&mut self, id: u64, effects: Vec<Effect>) -> Result<(), Trouble> {
        let mut waiting: VecDeque<Event> = self.perform(id, effects).await?.into();
        // Ends: what follows from an offer that cannot be made is that its node failed.
        while let Some(event) = waiting.pop_front() {
            let effects = self.decide(id, event).await?;
            waiting.extend(self.perform(id, effects).await?);
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

    pub(super) fn kept(&self, id: u64) -> Option<&Kept> {
        self.state.as_ref()?.rollouts.get(&id)
    }

    pub(super) fn state(&self) -> Option<&Stored> {
        self.state.as_ref()
    }

    /// Whether there is a rollout for which news of nodes matter.
    pub(super) fn drives(&self) -> bool {
        !self.driven().is_empty()
    }

    /// Rollouts for which news of nodes matter.
    pub(super) fn driven(&self) -> Vec<u64> {
        self.state.as_ref().map(Stored::driven).unwrap_or_default()
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

/// Whether it is under way, and nobody stopped it.
fn moves(rollout: &Rollout) -> bool {
    matches!(rollout.standing(), Standing::Running | Standing::Baking | Standing::Undoing)
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
