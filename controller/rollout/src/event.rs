//! What can happen to a rollout.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use fleet_model::{NodeName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{member::Member, state::Moment, target::Target};

/// Something that happened. Operators' words first, then what is learned of nodes, then time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An operator starts it.
    Start,
    /// An operator halts it.
    Halt {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// An operator lets it go on, knowing what went wrong so far.
    Resume {
        /// Whether nodes that failed are offered the target once more.
        retry: bool,
    },
    /// An operator sends back whoever was touched.
    Undo,
    /// The line is stopped, for every rollout.
    StopLine {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// The line is cleared.
    ClearLine,
    /// An operator, or a doubt about its identity, keeps a node out.
    Hold {
        /// Which.
        node: NodeName,
        /// Why.
        reason: String,
    },
    /// A node is let in again.
    Release {
        /// Which.
        node: NodeName,
    },
    /// An operator sends one node back to what it ran before, and keeps it there. It counts against no budget.
    SendBack {
        /// Which.
        node: NodeName,
        /// Who.
        by: String,
    },
    /// Another rollout takes over.
    Supersede,
    /// A node enrolled.
    Joined {
        /// Who.
        member: Member,
    },
    /// A node was retired.
    Retired {
        /// Who.
        node: NodeName,
    },
    /// Everybody who has a session; said by a controller that takes over.
    Sessions {
        /// Who.
        connected: BTreeSet<NodeName>,
    },
    /// A session opened.
    Connected {
        /// Whose.
        node: NodeName,
    },
    /// A session ended or lapsed.
    Lost {
        /// Whose.
        node: NodeName,
    },
    /// A node says where it stands.
    Report {
        /// Which.
        node: NodeName,
        /// Newest order it has seen; zero if it remembers none.
        order: u64,
        /// What it speaks of.
        #[serde(rename = "release")]
        target: Target,
        /// What about it.
        step: Step,
        /// How it is, as far as that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health: Option<Health>,
    },
    /// Who was heard of, and says that all is well, since the time is over for which the present wave is watched. Said
    /// of those in [`Rollout::awaited`](crate::Rollout::awaited).
    Well {
        /// Who.
        nodes: BTreeSet<NodeName>,
    },
    /// A gate answered.
    Answer {
        /// Where.
        node: NodeName,
        /// Which.
        gate: String,
        /// Whether it passes.
        passed: bool,
        /// What was seen.
        detail: String,
    },
    /// Offsets of time zones, for maintenance windows.
    Offsets {
        /// Seconds ahead of UTC by zone.
        seconds_ahead: BTreeMap<String, i32>,
    },
    /// Members of database clusters that are out of service and have no part in this rollout: nobody here waits for
    /// them, but their replicas are missing all the same.
    Beside {
        /// Who, by cluster.
        out: BTreeMap<String, BTreeSet<NodeName>>,
    },
    /// Time passed.
    Tick,
}

/// What a node says about a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It has it, and nothing is on its way.
    Committed,
    /// It fetches it.
    Fetching,
    /// It tries it.
    Trial,
    /// Somebody is busy or away and it waits; no sign of a bad release.
    Busy {
        /// Who and how.
        detail: String,
    },
    /// It could not take it.
    Failed {
        /// Why.
        reason: Reason,
    },
    /// It tried it and went back by itself.
    RolledBack {
        /// Why.
        reason: Reason,
    },
}

/// How a node is, beside where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Tasks that failed and stayed so, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failing: BTreeMap<String, String>,
    /// How often its agent ended otherwise than in order while the machine ran on, since ever; none if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crashes: Option<u64>,
}

impl Health {
    /// Whether the same tasks fail; why may be told in other words each time.
    pub fn fails_as(&self, other: &Self) -> bool {
        self.failing.keys().eq(other.failing.keys())
    }
}

/// Why a node has not what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Which kind.
    pub kind: Kind,
    /// In one line.
    pub detail: String,
}

impl Reason {
    /// A reason.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() { self.kind.fmt(f) } else { write!(f, "{}: {}", self.kind, self.detail) }
    }
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "their Display explains them")]
pub enum Kind {
    Crashed,
    NotReady,
    Corrupt,
    Signature,
    Downgrade,
    KnownBad,
    DiskFull,
    OutOfMemory,
    Mismatch,
    Overdue,
    Interrupted,
    GateBefore,
    GateAfter,
    OtherRelease,
    Away,
    Busy,
    SentBack,
    Work,
    Other,
}

impl Kind {
    /// Whether the node went on running what it ran, since nothing was switched yet.
    pub fn before_the_switch(self) -> bool {
        matches!(
            self,
            Self::Corrupt
                | Self::Signature
                | Self::Downgrade
                | Self::KnownBad
                | Self::DiskFull
                | Self::Mismatch
                | Self::GateBefore
        )
    }

    /// Whether it speaks against the release rather than against the node or the way.
    pub fn blames_the_release(self) -> bool {
        matches!(self, Self::Crashed | Self::NotReady | Self::OutOfMemory | Self::GateAfter | Self::Work)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crashed => "it crashed",
            Self::NotReady => "it was not ready in time",
            Self::Corrupt => "the artifact is corrupt",
            Self::Signature => "the signature is wrong",
            Self::Downgrade => "a downgrade without a permit",
            Self::KnownBad => "it failed here before",
            Self::DiskFull => "the disk is full",
            Self::OutOfMemory => "it needs more memory than there is",
            Self::Mismatch => "versions do not match",
            Self::Overdue => "the deadline passed",
            Self::Interrupted => "its work was cut too often",
            Self::GateBefore => "a gate before it did not pass",
            Self::GateAfter => "a gate after it did not pass",
            Self::OtherRelease => "it runs another release",
            Self::Away => "nothing was heard",
            Self::Busy => "somebody was busy for too long",
            Self::SentBack => "an operator sent it back",
            Self::Work => "its work failed",
            Self::Other => "it failed",
        })
    }
}

/// An event as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number; the state that includes it bears the same.
    pub seq: u64,
    /// When, by the clock.
    pub at: Timestamp,
    /// When, in time listened.
    pub moment: Moment,
    /// What.
    pub event: Event,
}
