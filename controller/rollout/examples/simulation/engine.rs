//! The engine as a strategy, with a controller that may die at any step.

use std::collections::{BTreeMap, BTreeSet};

use fleet_model::{NodeName, Timestamp};
use fleet_rollout::{
    Effect, Event, Kind, Member, Policy, Reason, Rollout, Spec, Standing, Step, advance, outstanding,
};

use crate::fleet::{Seen, Strategy, Time, Want, Word};

/// What the two kinds of rollouts bring, and what was before.
pub const RELEASE: [&str; 2] = ["sha256:new", "sha256:old"];
pub const PLAN: [&str; 2] = ["plan:new", "plan:old"];

/// At which step the controller dies, and whether before or after the state is stored.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub step: u64,
    pub stored: bool,
}

pub struct Engine {
    pub rollout: Rollout,
    names: Vec<NodeName>,
    indices: BTreeMap<NodeName, usize>,
    sessions: Vec<bool>,
    /// Identities that two hosts bear now, as the door knows them.
    cloned: Vec<bool>,
    death: Option<Death>,
    /// Steps that stored something, so far.
    pub steps: u64,
    /// Whether its death happened.
    pub died: bool,
}

impl Engine {
    pub fn new(count: usize, policy: Policy, id: &str, [new, old]: [&str; 2]) -> Self {
        let names: Vec<NodeName> = (0..count).map(|i| format!("n{i}").parse().expect("a name")).collect();
        let members = names.iter().cloned().map(Member::new).collect();
        let spec = Spec {
            id: id.into(),
            target: new.into(),
            previous: Some(old.into()),
            policy,
            spare: BTreeMap::new(),
        };
        let mut rollout = Rollout::draft(spec, members, Timestamp::from_millis(0)).expect("a sound policy");
        // Sessions of the first second come in before it is started.
        let start = advance(&mut rollout, Event::Start, Timestamp::from_millis(0));
        assert!(matches!(start.as_deref(), Ok([Effect::Persist(_), ..])));
        let indices = names.iter().cloned().enumerate().map(|(i, name)| (name, i)).collect();
        Self {
            rollout,
            sessions: vec![false; count],
            cloned: vec![false; count],
            names,
            indices,
            death: None,
            steps: 0,
            died: false,
        }
    }

    pub fn dying(mut self, death: Death) -> Self {
        self.death = Some(death);
        self
    }

    fn event(&mut self, seen: &Seen) -> Event {
        let name = |i: usize| self.names[i].clone();
        match *seen {
            Seen::Tick => Event::Tick,
            Seen::Session(i, open) => {
                self.sessions[i] = open;
                if open { Event::Connected { node: name(i) } } else { Event::Lost { node: name(i) } }
            }
            Seen::Clone(i, there) => {
                self.cloned[i] = there;
                self.hold(i)
            }
            Seen::Said(i, order, word) => {
                let spec = &self.rollout.spec;
                let (new, old) = (spec.target.clone(), spec.previous.clone().expect("there is one"));
                let (target, step) = match word {
                    Word::Old => (old, Step::Committed),
                    Word::New => (new, Step::Committed),
                    Word::Fetching => (new, Step::Fetching),
                    Word::Busy => (new, Step::Busy { detail: "429".into() }),
                    Word::Trial => (new, Step::Trial),
                    Word::Returned => (new, Step::RolledBack { reason: Reason::new(Kind::Crashed, "") }),
                };
                Event::Report { node: name(i), order, target, step, health: None }
            }
        }
    }

    fn hold(&self, i: usize) -> Event {
        let node = self.names[i].clone();
        match self.cloned[i] {
            true => Event::Hold { node, reason: "two hosts bear its identity".into() },
            false => Event::Release { node },
        }
    }

    fn wants(&self, effects: &[Effect]) -> Vec<Want> {
        effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Offer { node, order, .. } => Some(Want::Update(self.indices[node], *order)),
                Effect::Withdraw { node, order } => Some(Want::Withdraw(self.indices[node], *order)),
                _ => None,
            })
            .collect()
    }

    fn take(&mut self, event: Event, now: Timestamp) -> Vec<Want> {
        let near = self.death.is_some_and(|death| !self.died && death.step == self.steps + 1);
        let before = near.then(|| serde_json::to_string(&self.rollout).expect("plain data"));
        let effects = advance(&mut self.rollout, event, now).expect("a lawful event");
        if matches!(effects.first(), Some(Effect::Persist(_))) {
            self.steps += 1;
            if let Some(death) = self.death.filter(|death| death.step == self.steps && !self.died) {
                let after = serde_json::to_string(&self.rollout).expect("plain data");
                let stored = if death.stored { after } else { before.expect("kept while death is near") };
                return self.take_over(&stored, now);
            }
        }
        self.wants(&effects)
    }

    /// Another controller reads what is stored, says again what that implies, and hears from everybody.
    fn take_over(&mut self, stored: &str, now: Timestamp) -> Vec<Want> {
        self.died = true;
        self.rollout = serde_json::from_str(stored).expect("the stored form");
        let mut wants = self.wants(&outstanding(&self.rollout));
        let connected = self
            .names
            .iter()
            .zip(&self.sessions)
            .filter(|(_, open)| **open)
            .map(|(name, _)| name.clone())
            .collect();
        let effects = advance(&mut self.rollout, Event::Sessions { connected }, now).expect("always lawful");
        wants.extend(self.wants(&effects));
        // Said once only, and perhaps to the one that died: what the door knows is said again.
        for i in 0..self.names.len() {
            let event = self.hold(i);
            let effects = advance(&mut self.rollout, event, now).expect("always lawful");
            wants.extend(self.wants(&effects));
        }
        wants.push(Want::Reconnect);
        wants
    }
}

impl Strategy for Engine {
    fn see(&mut self, seen: &Seen, now: Time) -> Vec<Want> {
        // The identity's newcomer is in quarantine: its words do not come this far.
        if let Seen::Said(i, ..) = seen
            && self.rollout.nodes[&self.names[*i]].hold.is_some()
        {
            return Vec::new();
        }
        let event = self.event(seen);
        let now = Timestamp::from_millis(i64::try_from(now * 1000).expect("a short simulation"));
        let mut wants = self.take(event, now);
        if matches!(seen, Seen::Tick) {
            // Whoever has a session answers within the tick.
            let there = |name: &&NodeName| self.sessions[self.indices[*name]];
            let nodes: BTreeSet<NodeName> =
                self.rollout.awaited().into_iter().filter(there).cloned().collect();
            if !nodes.is_empty() {
                wants.extend(self.take(Event::Well { nodes }, now));
            }
        }
        wants
    }

    fn halted(&self) -> bool {
        self.rollout.standing() == Standing::Halted
    }

    fn finished(&self) -> bool {
        self.rollout.standing() == Standing::Finished
    }
}
