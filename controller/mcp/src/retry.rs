//! The one retry policy: when a failed call is sent again, and after how long.
//!
//! Reads are repeated whenever that may help. Changes are repeated only when the service said that it was busy or took
//! no more calls: after any other failure the change may have had its effect, and only the caller can look.
//!
//! A service that says how long it wants to be left alone is left alone so long, or the caller is told.

use std::time::Duration;

use rand::Rng;

use crate::McpError;

/// How often and how fast calls are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Longest first pause.
    pub first: Duration,
    /// Longest pause ever.
    pub ceiling: Duration,
    /// Attempts of a read on a service in trouble, and of any call that was one too many, the first included.
    pub attempts: u32,
    /// Longest time the service may ask to be left alone; asked for more, the caller has to decide.
    pub patience: Duration,
    /// How long in all a busy resource is asked again.
    pub busy_for: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            ceiling: Duration::from_secs(5),
            attempts: 6,
            patience: Duration::from_secs(30),
            // Deploying a server on the real platform takes minutes, and keeps it busy that long.
            busy_for: Duration::from_secs(600),
        }
    }
}

/// Whether a call changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only reads.
    Read,
    /// It changes something.
    Change,
}

impl Retry {
    /// How long to pause before sending the call again; `None` gives the error to the caller.
    ///
    /// `attempt` counts the attempts made so far, `elapsed` is the time since the first.
    pub fn pause(
        &self,
        kind: Kind,
        error: &McpError,
        attempt: u32,
        elapsed: Duration,
        rng: &mut impl Rng,
    ) -> Option<Duration> {
        let again = match error {
            McpError::Busy(_) => elapsed < self.busy_for,
            McpError::Throttled(_) => attempt < self.attempts,
            error => kind == Kind::Read && error.is_retryable() && attempt < self.attempts,
        };
        let asked = error.retry_after().unwrap_or_default();
        // Jitter on top: whoever was turned away together should not come back together.
        (again && asked <= self.patience).then(|| asked + self.backoff(attempt, rng))
    }

    /// Full jitter: anything up to a bound that doubles with each attempt. Never quite zero, so that a
    /// run of small draws does not become a burst.
    fn backoff(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        let bound = self.first.saturating_mul(1_u32 << attempt.saturating_sub(1).min(16)).min(self.ceiling);
        let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(rng.random_range(bound_us / 10..=bound_us))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::error::Refusal;

    fn refusal() -> Refusal {
        Refusal {
            operation: "X".into(),
            code: "C".into(),
            message: String::new(),
            request_id: None,
            retry_after: None,
        }
    }

    #[test]
    fn changes_are_repeated_only_when_busy() {
        let retry = Retry::default();
        let mut rng = StdRng::seed_from_u64(1);
        let mut check = |kind, error: McpError, attempt, elapsed_s, again: bool| {
            let pause = retry.pause(kind, &error, attempt, Duration::from_secs(elapsed_s), &mut rng);
            assert_eq!(pause.is_some(), again, "{kind:?} {error:?} {attempt} {elapsed_s}");
        };
        let lost = || McpError::Transport { operation: "X".into(), sent: true, source: "reset".into() };
        let unreachable = || McpError::Transport { operation: "X".into(), sent: false, source: "no".into() };
        check(Kind::Change, McpError::Busy(refusal()), 40, 599, true);
        check(Kind::Change, McpError::Busy(refusal()), 1, 600, false);
        check(Kind::Change, McpError::Transient(refusal()), 1, 0, false);
        check(Kind::Change, lost(), 1, 0, false);
        check(Kind::Change, unreachable(), 1, 0, false);
        check(Kind::Read, McpError::Transient(refusal()), 1, 0, true);
        check(Kind::Read, McpError::Transient(refusal()), 6, 0, false);
        check(Kind::Read, lost(), 5, 0, true);
        check(Kind::Read, McpError::NotFound(refusal()), 1, 0, false);
        check(Kind::Read, McpError::Unauthorized { operation: "X".into() }, 1, 0, false);
        for kind in [Kind::Read, Kind::Change] {
            check(kind, McpError::Throttled(refusal()), 5, 0, true);
            check(kind, McpError::Throttled(refusal()), 6, 0, false);
        }
    }

    #[test]
    fn who_asks_to_be_left_alone_is() {
        let retry = Retry::default();
        let mut rng = StdRng::seed_from_u64(1);
        let mut check = |asked: u64, again: bool| {
            let refusal = Refusal { retry_after: Some(Duration::from_secs(asked)), ..refusal() };
            for error in [McpError::Throttled(refusal.clone()), McpError::Transient(refusal)] {
                let pause = retry.pause(Kind::Read, &error, 1, Duration::ZERO, &mut rng);
                assert_eq!(pause.is_some(), again, "{error}");
                assert!(pause.is_none_or(|pause| pause > Duration::from_secs(asked)), "{pause:?}: {error}");
            }
        };
        check(0, true);
        check(30, true);
        check(31, false);
    }

    proptest! {
        #[test]
        fn pauses_stay_below_the_ceiling(attempt in 1_u32..2000, seed: u64) {
            let retry = Retry::default();
            let pause = retry.backoff(attempt, &mut StdRng::seed_from_u64(seed));
            prop_assert!(pause <= retry.ceiling);
            prop_assert!(pause > Duration::ZERO);
        }
    }
}
