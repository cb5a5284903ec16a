//! When to look at what is under way: first once it usually is done, then ever more rarely. What is usual is learned
//! within a run, from the operations before. Pure.

use std::{collections::HashMap, time::Duration};

use super::Pace;

/// Longest wait before the first look at an operation that only others vouch for: how long one takes says little of
/// another.
const BORROWED: Duration = Duration::from_secs(10);

/// How long operations take, as far as this run knows.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// By the operation's name.
    own: HashMap<&'static str, Usual>,
    /// For operations not seen yet.
    any: Option<Usual>,
}

/// When an operation is first looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usual {
    after: Duration,
    /// A look shortly before found it under way: it is not done long before.
    close: bool,
}

/// Looks at one operation, by the time since it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rhythm {
    next: Duration,
    step: Duration,
    longest: Duration,
}

impl Timing {
    /// When to look at an operation.
    pub(super) fn rhythm(&self, operation: &'static str, pace: &Pace) -> Rhythm {
        let borrowed = self
            .any
            .map(|any| Usual { after: any.after.min(BORROWED), close: any.close && any.after <= BORROWED });
        let known = self.own.get(operation).copied().or(borrowed);
        let Usual { after, close } = known.unwrap_or(Usual { after: pace.first, close: false });
        Rhythm { next: after, step: if close { after / 10 } else { after / 2 }, longest: pace.longest }
    }

    /// Takes note of an operation that was found done `after` it was accepted, and whether a look before `missed` it.
    pub(super) fn learn(&mut self, operation: &'static str, after: Duration, missed: bool) {
        // Done at the first look: perhaps long before, so the next is looked at sooner.
        let usual = if missed { after } else { after / 2 };
        let usual = Usual { after: usual, close: missed };
        self.own.insert(operation, usual);
        if missed || self.any.is_none_or(|any| after < any.after) {
            self.any = Some(usual);
        }
    }
}

impl Rhythm {
    /// Looks now, then like at something nothing is known of.
    pub(super) fn now(pace: &Pace) -> Self {
        Self { next: Duration::ZERO, step: pace.first, longest: pace.longest }
    }

    /// When to look next.
    pub(super) const fn next(&self) -> Duration {
        self.next
    }

    /// How much later is as good, if others are looked at then.
    pub(super) fn slack(&self) -> Duration {
        (self.next / 10).min(self.longest)
    }

    /// Takes note of a look that found it under way.
    pub(super) fn missed(&mut self, looked: Duration) {
        self.next = self.next.max(looked) + self.step;
        self.step = self.step.saturating_mul(3).checked_div(2).unwrap_or(self.longest).min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace { first: Duration::from_millis(300), longest: Duration::from_secs(5), ..Pace::default() }
    }

    /// Looks at an operation that takes `takes`, in milliseconds; what came of it is learned.
    fn looks(timing: &mut Timing, operation: &'static str, takes: u64) -> Vec<u128> {
        let mut rhythm = timing.rhythm(operation, &pace());
        let mut looks = Vec::new();
        loop {
            looks.push(rhythm.next().as_millis());
            if rhythm.next() >= Duration::from_millis(takes) {
                timing.learn(operation, rhythm.next(), looks.len() > 1);
                return looks;
            }
            let looked = rhythm.next();
            rhythm.missed(looked);
        }
    }

    #[test]
    fn the_first_operation_is_felt_for_and_the_others_are_looked_at_once() {
        let mut timing = Timing::default();
        assert_eq!(looks(&mut timing, "domain", 5000), [300, 450, 675, 1012, 1518, 2278, 3417, 5125]);
        for other in ["vlan", "server", "disk", "start"] {
            assert_eq!(looks(&mut timing, other, 5000), [5125], "{other}");
        }
        assert_eq!(looks(&mut timing, "domain", 5000), [5125]);
    }

    #[test]
    fn what_is_slower_than_usual_is_looked_at_again_soon() {
        let mut timing = Timing::default();
        looks(&mut timing, "domain", 5000);
        assert_eq!(looks(&mut timing, "domain", 5500), [5125, 5638]);
        assert_eq!(looks(&mut timing, "domain", 5500), [5638]);
    }

    #[test]
    fn fast_operations_are_looked_at_ever_sooner() {
        let mut timing = Timing::default();
        let first: Vec<_> = (0..4).map(|_| looks(&mut timing, "vlan", 1)).collect();
        assert_eq!(first, [[300], [150], [75], [37]]);
        // Others profit.
        assert_eq!(looks(&mut timing, "server", 1), [37]);
    }

    #[test]
    fn what_others_take_is_believed_for_seconds_not_for_minutes() {
        let mut timing = Timing::default();
        looks(&mut timing, "server", 600_000);
        assert_eq!(looks(&mut timing, "start", 1000), [10_000]);
        assert_eq!(looks(&mut timing, "start", 1000), [5000]);
        assert_eq!(looks(&mut timing, "start", 1000), [2500]);
    }

    #[test]
    fn no_pause_is_longer_than_the_longest() {
        let mut timing = Timing::default();
        let looks = looks(&mut timing, "server", 600_000);
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] <= 5000), "{looks:?}");
    }
}
