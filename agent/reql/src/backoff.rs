//! How long to wait before trying again: decorrelated jitter, so that clients of one server that
//! restarts do not come back in step.

use std::time::Duration;

use rand::Rng;

/// Each wait is drawn between the shortest and three times the last.
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    last: Duration,
}

impl Backoff {
    /// Waits between these.
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, last: least }
    }

    /// The next wait.
    pub fn next(&mut self, random: &mut impl Rng) -> Duration {
        let ceiling = self.last.saturating_mul(3).min(self.most).max(self.least);
        self.last = random.random_range(self.least..=ceiling);
        self.last
    }

    /// It worked: the next wait is a first one again.
    pub fn reset(&mut self) {
        self.last = self.least;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    proptest! {
        #[test]
        fn waits_stay_between_their_bounds(seed in any::<u64>(), least in 1u64..500, more in 0u64..60_000) {
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(least + more));
            let mut random = StdRng::seed_from_u64(seed);
            let mut backoff = Backoff::new(least, most);
            let mut last = least;
            for _ in 0..50 {
                let wait = backoff.next(&mut random);
                prop_assert!(wait >= least && wait <= most && wait <= last * 3);
                last = wait;
            }
            backoff.reset();
            prop_assert!(backoff.next(&mut random) <= least * 3);
        }
    }
}
