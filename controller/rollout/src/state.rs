//! What is known about a rollout: stored as it is, read by everybody, changed by the engine alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use fleet_model::{NodeName, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    event::{Health, Reason},
    member::Member,
    policy::{Limits, Policy, Problem, draw},
    target::Target,
};

/// Newest version of the stored form. It rises when an older program could not read, or would misread, what is stored.
pub const SCHEMA: u32 = 2;
/// Version in which rollouts of releases are stored: older programs can go on with those.
const RELEASES: u32 = 1;
/// Newest rules by which an event changes a rollout. They rise when the same event comes to something else, so that a
/// log gives what it gave.
const RULES: u32 = 1;

/// Time during which a controller was there to listen, since the rollout was made.
///
/// Deadlines count this, not the time of day: hours without a controller, and clocks that jump, are nobody's failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What a rollout is to bring, to whom and how. Fixed once drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Name of the rollout.
    pub id: String,
    /// What it brings.
    #[serde(rename = "release")]
    pub target: Target,
    /// What nodes have before it; without it there is nothing to undo to.
    pub previous: Option<Target>,
    /// How.
    pub policy: Policy,
    /// How many members of a database cluster its replicas can spare; one where it is not said.
    pub spare: BTreeMap<String, usize>,
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Version of its stored form; one above [`SCHEMA`] is refused when it is read.
    #[serde(deserialize_with = "known_schema")]
    pub schema: u32,
    /// Whether nodes are watched to the end of their bake. Not in what was stored before there was such a rule: a log of
    /// then says of nobody that it is well, and comes to what it came to.
    #[serde(default)]
    pub watched: bool,
    /// The rules it was drawn under, and goes on under: none in what was stored before they were counted.
    #[serde(default, skip_serializing_if = "is_none")]
    pub rules: u32,
    /// What is wanted.
    pub spec: Spec,
    /// Number of the newest entry of the log that is in here.
    pub seq: u64,
    /// Time of day of the newest event.
    pub clock: Timestamp,
    /// Time listened so far.
    pub moment: Moment,
    /// Where it stands, halted or not.
    pub phase: Phase,
    /// Why nothing new starts, if it is halted.
    pub halt: Option<Halt>,
    /// Who stopped the line, if it is stopped.
    pub line: Option<Line>,
    /// Index of the present wave.
    pub wave: usize,
    /// How many nodes were drawn for each wave.
    pub sizes: Vec<usize>,
    /// Number of the newest order given to a node.
    pub order: u64,
    /// Seconds ahead of UTC of every zone that was told.
    pub offsets: BTreeMap<String, i32>,
    /// Members of database clusters that are out of service and have no part in this.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub beside: BTreeMap<String, BTreeSet<NodeName>>,
    /// Everybody.
    pub nodes: BTreeMap<NodeName, Node>,
}

fn known_schema<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        known @ RELEASES..=SCHEMA => Ok(known),
        other => Err(D::Error::custom(format!(
            "this rollout is stored in form {other}, this program reads forms up to {SCHEMA}; let the newer controller go on with it"
        ))),
    }
}

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Drawn, not started.
    Draft,
    /// Nodes of the present wave change.
    Running,
    /// All of the present wave are done and watched.
    Baking {
        /// Since when.
        since: Moment,
    },
    /// Whoever was touched goes back.
    Undoing,
    /// Over; who was away still catches up, unless another rollout took over.
    Finished {
        /// How.
        finish: Finish,
    },
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// Everybody was asked; nodes' outcomes say how it went.
    Done,
    /// Whoever was touched was sent back.
    Undone,
    /// Another rollout took over.
    Superseded,
}

/// One word for where it stands, for people and exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words of the table in the crate's text")]
pub enum Standing {
    Draft,
    Running,
    Baking,
    Halted,
    Undoing,
    Finished,
}

/// Why nothing new starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// In one line.
    pub reason: String,
    /// Which nodes it is about.
    pub nodes: Vec<NodeName>,
    /// When, by the clock.
    pub at: Timestamp,
}

/// The line is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Who stopped it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A node in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Who it is.
    pub member: Member,
    /// Index of its wave.
    pub wave: usize,
    /// Its place in the drawn order.
    pub place: usize,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// Whether a session is open.
    pub connected: bool,
    /// Since when that is so.
    pub connected_since: Moment,
    /// Since when it says that somebody is busy.
    pub busy: Option<Moment>,
    /// Whether the target was ever offered to it or begun by it.
    pub touched: bool,
    /// Order it was given last.
    pub order: u64,
    /// Newest order it says it has seen, if that is above all of this rollout: the store is older than what it did.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seen: u64,
    /// Whether what it was offered last stands with it, as far as is known: neither done nor failed nor taken back.
    #[serde(default, skip_serializing_if = "is_not")]
    pub ordered: bool,
    /// Whether it said of that order that it tries it.
    #[serde(default, skip_serializing_if = "is_not")]
    pub begun: bool,
    /// Whether that order was taken back, or what it failed with before it switched.
    pub withdrawn: bool,
    /// Whether an operator asked to try once more what failed here.
    pub again: bool,
    /// Whether it was told to go back although the rollout goes forward.
    pub returning: bool,
    /// Whether it failed with the target, and is to be told to go back when it is its turn.
    #[serde(default, skip_serializing_if = "is_not")]
    pub returns: bool,
    /// How often it was offered what it is to run.
    pub attempts: u32,
    /// Why an operator holds it.
    pub hold: Option<String>,
    /// Whether that is because the operator sent it back: an undo asks for no less.
    #[serde(default, skip_serializing_if = "is_not")]
    pub kept_back: bool,
    /// Why it failed, went back or is silent.
    pub reason: Option<Reason>,
    /// Whether an operator resumed knowing of this.
    pub forgiven: bool,
    /// Last answers of its gates.
    pub gates: BTreeMap<String, Asked>,
    /// How it was when it last said that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Tasks that failed already before it was offered the target last, or when it was first heard of after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_before: Option<BTreeSet<String>>,
    /// How often its agent had crashed when it had the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crashed_before: Option<u64>,
    /// When it was heard to be well after the time for which it is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub well: Option<Moment>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_none(rules: &u32) -> bool {
    *rules == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_not(whether: &bool) -> bool {
    !whether
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not touched.
    Pending,
    /// Its turn, not touched: its gates are asked first.
    Held,
    /// It was offered its target and has not said a word about it.
    Offered,
    /// It says that it fetches.
    Fetching,
    /// It says that it tries.
    Trial,
    /// It says that it committed; its gates are asked.
    Proving,
    /// It has the target.
    Committed,
    /// It failed; what it runs is not certain.
    Failed,
    /// It has what it had before.
    RolledBack,
    /// Nothing was heard of it for longer than the deadline.
    Silent,
    /// It was away, or its work was cut, and it waits to be offered the current target.
    CatchingUp,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Held,
        Self::Offered,
        Self::Fetching,
        Self::Trial,
        Self::Proving,
        Self::Committed,
        Self::Failed,
        Self::RolledBack,
        Self::Silent,
        Self::CatchingUp,
    ];

    /// Whether it takes a place among those at work.
    pub fn in_flight(self) -> bool {
        matches!(self, Self::Held | Self::Offered | Self::Fetching | Self::Trial | Self::Proving)
    }

    /// Whether the node runs what it ran, and goes on to change unless what it was offered is taken back.
    pub(crate) fn may_be_taken_back(self) -> bool {
        matches!(self, Self::Offered | Self::Fetching)
    }

    /// Whether it is on its way on the node itself.
    pub(crate) fn at_work(self) -> bool {
        matches!(self, Self::Offered | Self::Fetching | Self::Trial)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Held => "held",
            Self::Offered => "offered",
            Self::Fetching => "fetching",
            Self::Trial => "on trial",
            Self::Proving => "proving",
            Self::Committed => "committed",
            Self::Failed => "failed",
            Self::RolledBack => "rolled back",
            Self::Silent => "silent",
            Self::CatchingUp => "catching up",
        })
    }
}

/// A gate that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// When it was asked last.
    pub at: Moment,
    /// What it answered last.
    pub answer: Option<Answer>,
    /// When it answered that; while a node is watched, a gate that passes as before is not noted each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Moment>,
    /// Answers in a row that it does not pass, of a node that is watched.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub noes: u64,
}

impl Asked {
    pub(crate) fn at(moment: Moment) -> Self {
        Self { at: moment, answer: None, heard: None, noes: 0 }
    }

    pub(crate) fn passed(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.passed)
    }

    /// Whether it passes, and was seen to at `moment` or after.
    pub(crate) fn passed_since(&self, moment: Moment) -> bool {
        self.passed() && self.heard.is_some_and(|heard| heard >= moment)
    }
}

/// Last answer of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it passes.
    pub passed: bool,
    /// What was seen.
    pub detail: String,
    /// When, by the controller's clock.
    pub at: Timestamp,
}

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has the target.
    Updated,
    /// It failed; a person should look.
    Failed,
    /// It runs what it ran before.
    RolledBack,
    /// Nothing was heard; it catches up when it returns.
    Silent,
    /// It was never offered anything.
    Untouched,
}

impl Node {
    /// How it ended, if the rollout ends now.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.state {
            State::Committed => Outcome::Updated,
            State::Failed => Outcome::Failed,
            State::RolledBack => Outcome::RolledBack,
            State::Silent => Outcome::Silent,
            _ if !self.touched => Outcome::Untouched,
            // A rollout finishes with these only when another takes over; what they run is then its business.
            _ => Outcome::Silent,
        }
    }
}

impl Rollout {
    /// Draws a rollout; nothing happens before it is started.
    ///
    /// # Errors
    /// Everything that is wrong with the policy.
    pub fn draft(spec: Spec, members: Vec<Member>, now: Timestamp) -> Result<Self, Vec<Problem>> {
        let mut problems = spec.policy.problems(&members);
        let mut tell = |field: &str, message: &str| {
            problems.push(Problem { field: field.into(), message: message.into() });
        };
        if members.is_empty() {
            tell("nodes", "there is no node to bring anything to");
        }
        if spec.previous.as_ref() == Some(&spec.target) {
            tell("release", "it is what the nodes run already");
        }
        let mut names: Vec<_> = members.iter().map(|m| &m.node).collect();
        names.sort();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            tell("nodes", "two members bear one name");
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let drawn = draw(&spec.policy, &members, &spec.target.to_string());
        let sizes = drawn.waves.iter().map(Vec::len).collect();
        let mut places: BTreeMap<NodeName, (usize, usize)> = BTreeMap::new();
        for (wave, node) in
            drawn.waves.into_iter().enumerate().flat_map(|(w, n)| n.into_iter().map(move |n| (w, n)))
        {
            places.insert(node, (wave, places.len()));
        }
        let nodes = members
            .into_iter()
            .map(|member| {
                let (wave, place) = places[&member.node];
                (member.node.clone(), Node::new(member, wave, place, Moment::default()))
            })
            .collect();
        Ok(Self {
            schema: if spec.target.is_plan() { SCHEMA } else { RELEASES },
            watched: true,
            rules: RULES,
            spec,
            seq: 0,
            clock: now,
            moment: Moment::default(),
            phase: Phase::Draft,
            halt: None,
            line: None,
            wave: 0,
            sizes,
            order: 0,
            offsets: BTreeMap::new(),
            beside: BTreeMap::new(),
            nodes,
        })
    }

    /// In one word.
    pub fn standing(&self) -> Standing {
        match &self.phase {
            Phase::Draft => Standing::Draft,
            Phase::Finished { finish: Finish::Superseded } => Standing::Finished,
            _ if self.halt.is_some() => Standing::Halted,
            Phase::Finished { .. } => Standing::Finished,
            _ if self.line.is_some() => Standing::Halted,
            Phase::Running => Standing::Running,
            Phase::Baking { .. } => Standing::Baking,
            Phase::Undoing => Standing::Undoing,
        }
    }

    /// How `node` ended; none while the rollout is on its way.
    pub fn outcome(&self, node: &NodeName) -> Option<Outcome> {
        match self.phase {
            Phase::Finished { .. } => self.nodes.get(node).map(Node::outcome),
            _ => None,
        }
    }

    /// Whether nodes are sent back rather than forward.
    pub fn goes_back(&self) -> bool {
        matches!(self.phase, Phase::Undoing | Phase::Finished { finish: Finish::Undone })
    }

    /// What nodes are to have now.
    pub fn target(&self) -> &Target {
        match &self.spec.previous {
            Some(previous) if self.goes_back() => previous,
            _ => &self.spec.target,
        }
    }

    /// How much longer the present wave is watched; none unless it is.
    pub fn bake_left(&self) -> Option<Duration> {
        let Phase::Baking { since } = self.phase else { return None };
        Some(self.spec.policy.bake_of(self.wave).saturating_sub(self.moment.since(since)))
    }

    /// Whether a node has the target and is watched: its wave is the present one.
    pub(crate) fn watches(&self, node: &Node) -> bool {
        self.watched
            && matches!(self.phase, Phase::Running | Phase::Baking { .. })
            && node.wave == self.wave
            && node.state == State::Committed
    }

    /// Since when the time is over for which the present wave is watched; none while it is not, and where nobody is
    /// watched for any.
    pub(crate) fn bake_over(&self) -> Option<Moment> {
        let bake = self.spec.policy.bake_of(self.wave);
        let Phase::Baking { since } = self.phase else { return None };
        let over = since.after(bake);
        (over <= self.moment && !bake.is_zero()).then_some(over)
    }

    /// Who has to be heard of, and to be well, before the present wave has been watched for long enough: a node that died
    /// of what it was brought, or has not got better since, says nothing of that by itself. See [`Event::Well`].
    ///
    /// [`Event::Well`]: crate::Event::Well
    pub fn awaited(&self) -> Vec<&NodeName> {
        let Some(over) = self.bake_over() else { return Vec::new() };
        let awaited = |node: &&Node| self.watches(node) && node.well.is_none_or(|well| well < over);
        self.nodes.values().filter(awaited).map(|node| &node.member.node).collect()
    }

    /// Whether it goes by the rules that hold now.
    pub(crate) fn is_of_now(&self) -> bool {
        self.rules >= RULES
    }

    /// Whether a node was told to go back by itself, and may be about it. Who was to be through with it long ago is
    /// out of service for all that is known, but keeps nobody else from his turn.
    pub(crate) fn turns_back(&self, node: &Node) -> bool {
        let deadlines = &self.spec.policy.deadlines;
        self.is_of_now()
            && node.state == State::Failed
            && node.returning
            && self.moment.since(node.since) < deadlines.answer + deadlines.trial
    }

    /// Whether a node is back and may be in the middle of what it was ordered. Who goes forward says so at once, or has
    /// nothing in hand; who is to go back may try what is to be undone all the while.
    pub(crate) fn may_go_on(&self, node: &Node) -> bool {
        let heard =
            || self.moment.since(node.since.max(node.connected_since)) >= self.spec.policy.deadlines.answer;
        self.is_of_now() && node.state == State::CatchingUp && node.ordered && (self.goes_back() || !heard())
    }

    /// Whether what a node was offered stands with it, though it fell silent before it said that it tries that.
    pub(crate) fn never_begun(&self, node: &Node) -> bool {
        let unheard = matches!(node.state, State::Silent | State::CatchingUp);
        self.is_of_now() && unheard && node.ordered && !node.begun
    }

    /// Bounds of wave `index`.
    pub fn wave_limits(&self, index: usize) -> Limits {
        self.spec.policy.budgets_of(index).limits(self.sizes.get(index).copied().unwrap_or(0))
    }

    /// Bounds of all of it.
    pub fn limits(&self) -> Limits {
        self.spec.policy.budgets.limits(self.nodes.len())
    }

    /// How many are where.
    pub fn counts(&self) -> BTreeMap<State, usize> {
        self.nodes.values().fold(BTreeMap::new(), |mut counts, node| {
            *counts.entry(node.state).or_default() += 1;
            counts
        })
    }
}

impl Node {
    pub(crate) fn new(member: Member, wave: usize, place: usize, now: Moment) -> Self {
        Self {
            member,
            wave,
            place,
            state: State::Pending,
            since: now,
            connected: false,
            connected_since: now,
            busy: None,
            touched: false,
            order: 0,
            seen: 0,
            ordered: false,
            begun: false,
            withdrawn: false,
            again: false,
            returning: false,
            returns: false,
            attempts: 0,
            hold: None,
            kept_back: false,
            reason: None,
            forgiven: false,
            gates: BTreeMap::new(),
            health: None,
            failed_before: None,
            crashed_before: None,
            well: None,
        }
    }
}
