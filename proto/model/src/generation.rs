//! The number that only grows with desired state.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of a node's desired state. Zero means "nothing desired yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Accepts `offered` unless it is older than this; equal is welcome, a repeated offer changes nothing.
    ///
    /// # Errors
    /// [`Stale`] if `offered` is older.
    pub fn accept(self, offered: Self) -> Result<Self, Stale> {
        if offered < self { Err(Stale { offered, held: self }) } else { Ok(offered) }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An offer of desired state older than the one held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {offered} is older than {held}, which this node already holds")]
pub struct Stale {
    /// What was offered.
    pub offered: Generation,
    /// What is held.
    pub held: Generation,
}
