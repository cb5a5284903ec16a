//! How often agents speak: the more there are, the more seldom each.

use std::time::Duration;

/// Heartbeats of a small fleet.
const HEARTBEAT_MIN: Duration = Duration::from_secs(10);
/// Heartbeats of the largest: silence must still be noticed within two minutes.
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);
/// Agents up to which the shortest interval is used, and from which the longest.
const SMALL: usize = 1_000;
const LARGE: usize = 10_000;
/// Heartbeats that may be missed before a node counts as silent.
const MISSED: u32 = 3;
/// Facts are larger than heartbeats and change slowly.
const FACTS_PER_HEARTBEAT: u32 = 3;

/// What an agent is told about its pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Mean time between heartbeats.
    pub heartbeat: Duration,
    /// Mean time between facts.
    pub facts: Duration,
}

impl Pace {
    /// For an agent that joins `sessions` others.
    pub fn among(sessions: usize) -> Self {
        let span = HEARTBEAT_MAX - HEARTBEAT_MIN;
        let share = sessions.clamp(SMALL, LARGE) - SMALL;
        let heartbeat = HEARTBEAT_MIN + span.mul_f64(share as f64 / (LARGE - SMALL) as f64);
        Self { heartbeat, facts: heartbeat * FACTS_PER_HEARTBEAT }
    }

    /// How long an agent may say nothing before it counts as silent; it jitters its heartbeats by a quarter.
    pub fn silence(&self) -> Duration {
        self.heartbeat.mul_f64(1.25) * MISSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_fleets_speak_less_often() {
        let check = |sessions, secs| {
            assert_eq!(Pace::among(sessions).heartbeat, Duration::from_secs(secs), "{sessions}");
        };
        check(0, 10);
        check(1_000, 10);
        check(5_500, 20);
        check(10_000, 30);
        check(1_000_000, 30);
        assert_eq!(Pace::among(1).silence(), Duration::from_millis(37_500));
    }
}
