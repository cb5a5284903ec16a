//! How a rollout is to go: who first, how many at once, how much may go wrong, when, and what is looked at.

mod budget;
mod draw;
mod gate;
mod read;
mod window;
pub(crate) mod words;

use std::{collections::BTreeMap, fmt, time::Duration};

use fleet_model::NodeName;
use serde::{Deserialize, Serialize};

pub use budget::{Amount, Budgets, Limits};
pub use draw::{Drawn, draw, lot};
pub use gate::{Check, Gate, When};
pub use window::{Offsets, Weekday, Window};

use crate::member::Member;

/// Everything the operator may decide about a rollout. `Policy::default()` suits a release for a fleet of any size,
/// [`Policy::of_plans`] a changed plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// Who goes first.
    pub canaries: Canaries,
    /// Sizes of the waves after the canaries, of the whole fleet; who is left makes one more wave.
    pub waves: Vec<Amount>,
    /// Who comes earlier among those that are not canaries.
    pub order: Order,
    /// Bounds within the wave of canaries.
    pub canary_budgets: Budgets,
    /// Bounds within every other wave.
    pub wave_budgets: Budgets,
    /// Bounds over the whole rollout.
    pub budgets: Budgets,
    /// How long each step of a node may take.
    pub deadlines: Deadlines,
    /// How long the canaries are watched before the next wave.
    #[serde(with = "words::duration")]
    pub canary_bake: Duration,
    /// How long every other wave is watched.
    #[serde(with = "words::duration")]
    pub bake: Duration,
    /// What is asked of a node before and after it changes.
    pub gates: Vec<Gate>,
    /// When nodes of a location may be started; a location that is not here is always open.
    pub windows: BTreeMap<String, Window>,
    /// How often one node is offered the release when its work is cut, before it counts as failed.
    pub attempts: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            canaries: Canaries::default(),
            waves: vec![Amount::Percent(10), Amount::Percent(30)],
            order: Order::ByLot,
            canary_budgets: Budgets {
                failed: Amount::Count(1),
                silent: Amount::Count(1),
                ..Budgets::default()
            },
            wave_budgets: Budgets::default(),
            budgets: Budgets::default(),
            deadlines: Deadlines::default(),
            canary_bake: Duration::from_secs(600),
            bake: Duration::from_secs(300),
            gates: Vec::new(),
            windows: BTreeMap::new(),
            attempts: 3,
        }
    }
}

/// Who goes first: those named, and as many drawn as are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Canaries {
    /// Always among the first.
    pub named: Vec<NodeName>,
    /// How many more are drawn.
    pub drawn: Amount,
}

impl Default for Canaries {
    fn default() -> Self {
        Self { named: Vec::new(), drawn: Amount::Count(1) }
    }
}

/// Who comes earlier. Within one rank the lot decides, so that it is not always the same nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Order {
    /// The lot alone.
    #[default]
    ByLot,
    /// Locations in this order; those not listed come after.
    ByLocation(Vec<String>),
    /// Values of a label in this order; nodes with another value or none come after.
    ByLabel {
        /// Name of the label.
        label: String,
        /// Its values, first come first.
        values: Vec<String>,
    },
}

/// How long each step may take. Counted in time during which a controller was there to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Deadlines {
    /// From the offer to the first word about it.
    #[serde(with = "words::duration")]
    pub answer: Duration,
    /// Fetching.
    #[serde(with = "words::duration")]
    pub fetch: Duration,
    /// On trial.
    #[serde(with = "words::duration")]
    pub trial: Duration,
    /// In a row during which a node says that somebody is busy.
    #[serde(with = "words::duration")]
    pub busy: Duration,
    /// Without a session, before a node counts as silent.
    #[serde(with = "words::duration")]
    pub silent: Duration,
    /// Between two questions to the same gate.
    #[serde(with = "words::duration")]
    pub ask_again: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(120),
            fetch: Duration::from_secs(900),
            trial: Duration::from_secs(600),
            busy: Duration::from_secs(3600),
            silent: Duration::from_secs(300),
            ask_again: Duration::from_secs(15),
        }
    }
}

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which field.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl Policy {
    /// What is usual where a plan changed: tasks are quicker proved than a release, and somebody sits and waits. But
    /// one task may take minutes without a word.
    pub fn of_plans() -> Self {
        Self {
            waves: vec![Amount::Percent(5), Amount::Percent(25)],
            canary_bake: Duration::from_secs(10),
            bake: Duration::from_secs(5),
            deadlines: Deadlines {
                answer: Duration::from_secs(600),
                trial: Duration::from_secs(900),
                ..Deadlines::default()
            },
            ..Self::default()
        }
    }

    /// Everything that is wrong with this policy for these members.
    pub fn problems(&self, members: &[Member]) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut tell = |field: &str, message: String| found.push(Problem { field: field.into(), message });
        for name in &self.canaries.named {
            match members.iter().find(|member| member.node == *name) {
                None => tell("canaries", format!("`{name}` is no node of this fleet; name one that is")),
                Some(member) if member.seed && members.len() > 1 => {
                    tell("canaries", format!("`{name}` is the seed, which goes last; name another node"));
                }
                Some(_) => {}
            }
        }
        if self.canaries.named.is_empty() && self.canaries.drawn.is_zero() {
            tell("canaries", "nobody would go first; name a node or draw at least one".into());
        }
        let sizes = std::iter::once(("canaries", &self.canaries.drawn))
            .chain(self.waves.iter().map(|wave| ("waves", wave)))
            .chain(
                [
                    ("canary_budgets", &self.canary_budgets),
                    ("wave_budgets", &self.wave_budgets),
                    ("budgets", &self.budgets),
                ]
                .into_iter()
                .flat_map(|(field, budgets)| budgets.amounts().map(move |amount| (field, amount))),
            );
        for (field, amount) in sizes {
            if let Amount::Percent(share @ 101..) = amount {
                tell(field, format!("{share} % is more than everybody; say 100 at most"));
            }
        }
        for (field, budgets) in [
            ("canary_budgets", &self.canary_budgets),
            ("wave_budgets", &self.wave_budgets),
            ("budgets", &self.budgets),
        ] {
            if budgets.in_flight.is_zero() {
                tell(field, "with nobody in flight nobody is ever changed; say inFlight: 1 at least".into());
            }
            if budgets.unavailable.is_zero() {
                let why =
                    "whoever changes may become unavailable, so nobody would; say unavailable: 1 at least";
                tell(field, why.into());
            }
        }
        if self.waves.iter().any(Amount::is_zero) {
            tell("waves", "a wave of nobody is no wave; remove it".into());
        }
        if self.attempts == 0 {
            tell("attempts", "a node that is never offered the release never gets it; say 1 at least".into());
        }
        for gate in &self.gates {
            if self.gates.iter().filter(|other| other.name == gate.name).count() > 1 {
                tell("gates", format!("two gates are named `{}`; rename one", gate.name));
            }
        }
        for (location, window) in &self.windows {
            if let Some(message) = window.problem() {
                tell(&format!("windows.{location}"), message);
            }
        }
        found
    }

    /// Bounds of wave `index`.
    pub(crate) fn budgets_of(&self, index: usize) -> &Budgets {
        if index == 0 { &self.canary_budgets } else { &self.wave_budgets }
    }

    /// Time for which wave `index` is watched.
    pub(crate) fn bake_of(&self, index: usize) -> Duration {
        if index == 0 { self.canary_bake } else { self.bake }
    }
}
