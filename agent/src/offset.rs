//! This node's clock against the controller's.

use std::time::Duration;

use fleet_model::{Clock, Timestamp};
use tokio::time::Instant;

/// The controller's clock as last heard, carried forward by the node's steady one. When the node's wall
/// clock is set right in the middle of a session the offset shrinks at once, without another exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControllerTime {
    heard: Timestamp,
    at: Instant,
    /// How far `heard` may be wrong either way: half the round trip, which is seconds on a starved machine.
    uncertain: Duration,
}

impl ControllerTime {
    /// The controller said `heard` in answer to something asked at `asked`: half the round trip ago.
    pub(crate) fn heard(heard: i64, asked: Instant) -> Self {
        let now = Instant::now();
        let uncertain = now.saturating_duration_since(asked) / 2;
        Self { heard: Timestamp::from_millis(heard).after(uncertain), at: now, uncertain }
    }

    /// What the controller's clock shows now.
    pub(crate) fn now(self) -> Timestamp {
        self.heard.after(self.at.elapsed())
    }

    /// Node's clock minus the controller's, in milliseconds: the least that explains what was measured, so that a slow
    /// exchange never passes for a wrong clock.
    pub(crate) fn offset_ms(self, clock: &dyn Clock) -> i64 {
        let measured = clock.now().as_millis().saturating_sub(self.now().as_millis());
        let uncertain = i64::try_from(self.uncertain.as_millis()).unwrap_or(i64::MAX);
        measured.signum() * measured.saturating_abs().saturating_sub(uncertain).max(0)
    }
}

#[cfg(test)]
mod tests {
    use fleet_model::ManualClock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_right_is_seen_at_once() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000_000));
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(20)).await;
        let controller = ControllerTime::heard(1_060_000, asked);
        assert_eq!(controller.offset_ms(&clock), -60_000);
        tokio::time::advance(Duration::from_secs(5)).await;
        clock.advance(Duration::from_secs(65));
        assert_eq!(controller.offset_ms(&clock), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_exchange_is_no_wrong_clock() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000_000));
        let asked = Instant::now();
        tokio::time::advance(Duration::from_secs(10)).await;
        clock.advance(Duration::from_secs(10));
        // Said at the very start or the very end of the round trip: both agree with a clock that is right.
        for said in [1_000_000, 1_010_000] {
            assert_eq!(ControllerTime::heard(said, asked).offset_ms(&clock), 0, "{said}");
        }
        assert_eq!(ControllerTime::heard(980_000, asked).offset_ms(&clock), 20_000);
    }
}
