//! How long to wait before trying again: full jitter, so that a fleet does not come back in step.

use std::time::Duration;

use rand::Rng;

/// First ceiling after a session was lost. A controller that restarts serves again within a tenth of a second to
/// half a second; whoever came too early was refused by the kernel, which costs nobody anything, and waits no
/// longer than twice this before coming again.
const SESSION_FIRST: Duration = Duration::from_millis(300);
/// Highest ceiling between two attempts.
pub(crate) const SESSION_MOST: Duration = Duration::from_secs(30);

/// A growing ceiling below which each wait is drawn.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// How agents pace their sessions.
    pub fn of_sessions() -> Self {
        Self::new(SESSION_FIRST, SESSION_MOST)
    }

    /// Waits below `first` after the first failure, then below twice that, and never above `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The ceiling of the next wait.
    fn ceiling(&self) -> Duration {
        self.first.saturating_mul(1 << self.failures.min(16)).min(self.most)
    }

    /// The next wait.
    pub fn next(&mut self, random: &mut impl Rng) -> Duration {
        let wait = self.ceiling().mul_f64(random.random_range(0.0..=1.0));
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// It worked: the next failure is a first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `mean` give or take a quarter.
pub(crate) fn about(mean: Duration, random: &mut impl Rng) -> Duration {
    mean.mul_f64(random.random_range(0.75..=1.25))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_and_no_further() {
        let mut random = StdRng::seed_from_u64(7);
        let (first, most) = (Duration::from_millis(500), Duration::from_secs(30));
        let mut backoff = Backoff::new(first, most);
        let longest: Vec<Duration> = (0..40)
            .map(|_| {
                let ceiling = backoff.ceiling();
                assert!(backoff.next(&mut random) <= ceiling);
                ceiling
            })
            .collect();
        assert_eq!(longest[..3], [first, first * 2, first * 4]);
        assert_eq!(longest[39], most);
        backoff.reset();
        assert_eq!(backoff.ceiling(), first);
    }

    #[test]
    fn about_is_a_quarter_either_way() {
        let mut random = StdRng::seed_from_u64(7);
        let mean = Duration::from_secs(10);
        for _ in 0..1000 {
            let drawn = about(mean, &mut random);
            assert!(drawn >= mean.mul_f64(0.75) && drawn <= mean.mul_f64(1.25), "{drawn:?}");
        }
    }
}
