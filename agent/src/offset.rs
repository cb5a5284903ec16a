//! This node's clock against the controller's.

use fleet_model::{Clock, Timestamp};
use tokio::time::Instant;

/// The controller's clock as last heard, carried forward by the node's steady one. When the node's wall
/// clock is set right in the middle of a session the offset shrinks at once, without another exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControllerTime {
    heard: Timestamp,
    at: Instant,
}

impl ControllerTime {
    /// The controller said `heard` in answer to something asked at `asked`: half the round trip ago.
    pub(crate) fn heard(heard: i64, asked: Instant) -> Self {
        let now = Instant::now();
        let heard = Timestamp::from_millis(heard).after(now.saturating_duration_since(asked) / 2);
        Self { heard, at: now }
    }

    /// What the controller's clock shows now.
    pub(crate) fn now(self) -> Timestamp {
        self.heard.after(self.at.elapsed())
    }

    /// Node's clock minus the controller's, in milliseconds.
    pub(crate) fn offset_ms(self, clock: &dyn Clock) -> i64 {
        clock.now().as_millis().saturating_sub(self.now().as_millis())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleet_model::ManualClock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_right_is_seen_at_once() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000_000));
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(20)).await;
        let controller = ControllerTime::heard(1_060_000, asked);
        assert_eq!(controller.offset_ms(&clock), -60_010);
        tokio::time::advance(Duration::from_secs(5)).await;
        clock.advance(Duration::from_secs(65));
        assert_eq!(controller.offset_ms(&clock), -10);
    }
}
