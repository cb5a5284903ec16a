//! What is to be done about an event.

use std::fmt;

use fleet_model::NodeName;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Entry, Reason},
    target::Target,
};

/// Something to do, in the order of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Store the state, on condition that the stored one bears the number before, and append this to the log.
    /// Always first; if it fails, nothing that follows may be done, and the state in hand is to be dropped.
    Persist(Entry),
    /// Let `node` want `target`. Doing it twice changes nothing: the order is the same.
    Offer {
        /// Who.
        node: NodeName,
        /// What.
        target: Target,
        /// Number of the order.
        order: u64,
        /// Whether it is a return to what the node had before.
        back: bool,
        /// Whether the node is to try it although it remembers it as bad: an operator asked for it.
        again: bool,
    },
    /// Take back what was offered to `node`, unless it has begun; also where it failed, for it might try again.
    Withdraw {
        /// Who.
        node: NodeName,
        /// Number of this order.
        order: u64,
    },
    /// Have `node` look at a gate.
    Ask {
        /// Who.
        node: NodeName,
        /// Which gate of the policy.
        gate: String,
    },
    /// Remember that a release was bad on a node.
    Remember {
        /// Where.
        node: NodeName,
        /// What.
        release: String,
        /// Why.
        reason: Reason,
    },
    /// Tell people.
    Announce(Notice),
}

/// What people are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A wave began.
    WaveBegan {
        /// Counted from one; the first are the canaries.
        wave: usize,
        /// Of how many.
        of: usize,
    },
    /// A wave is watched.
    WaveBakes {
        /// Counted from one.
        wave: usize,
    },
    /// Nothing new starts.
    Halted {
        /// Why.
        reason: String,
        /// Which nodes it is about.
        nodes: Vec<NodeName>,
    },
    /// It goes on.
    Resumed,
    /// Whoever was touched goes back.
    Undoing,
    /// It is over.
    Finished,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaveBegan { wave: 1, of } => write!(f, "wave 1 of {of} begins: the canaries"),
            Self::WaveBegan { wave, of } => write!(f, "wave {wave} of {of} begins"),
            Self::WaveBakes { wave } => write!(f, "wave {wave} is in place and watched"),
            Self::Halted { reason, nodes } if nodes.is_empty() => write!(f, "halted: {reason}"),
            Self::Halted { reason, nodes } => {
                let names: Vec<_> = nodes.iter().map(NodeName::as_str).collect();
                write!(f, "halted: {reason}: {}", names.join(", "))
            }
            Self::Resumed => f.write_str("goes on"),
            Self::Undoing => f.write_str("whoever was touched goes back"),
            Self::Finished => f.write_str("finished"),
        }
    }
}
