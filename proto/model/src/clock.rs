//! Time as a value. Pure code takes a [`Timestamp`]; edges hold a [`Clock`].

use std::{
    fmt,
    sync::{
        LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC.
///
/// Signed, so that a node whose clock says 1969 is a number we can print rather than a panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded towards the past.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment plus `by`; saturates at the ends of time.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This moment minus `by`; saturates at the ends of time.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, the form CloudControl uses: `2016-03-21T07:46:26.000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms_of_day) = (self.0.div_euclid(86_400_000), self.0.rem_euclid(86_400_000));
        let (year, month, day) = civil_from_days(days);
        let (h, m, s) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60, ms_of_day / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", ms_of_day % 1000)
    }
}

/// Proleptic Gregorian date of a day count from 1970-01-01 (the usual era arithmetic: 400-year eras of
/// 146,097 days, years starting in March so that leap days come last).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Where the present moment comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment.
    fn now(&self) -> Timestamp;

    /// Time that has passed since some moment of this process. It goes on evenly however the clock is set, so that what
    /// is measured by it is neither long past nor still to come at once.
    fn passed(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// The host's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let millis = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        Timestamp(millis)
    }
}

/// A clock that stands still until told otherwise; for tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    shows: AtomicI64,
    /// In milliseconds.
    passed: AtomicU64,
}

impl ManualClock {
    /// A clock showing `at`.
    pub fn at(at: Timestamp) -> Self {
        Self { shows: AtomicI64::new(at.0), passed: AtomicU64::new(0) }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.shows.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        self.passed.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Sets the clock, while no time passes.
    pub fn set(&self, at: Timestamp) {
        self.shows.store(at.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.shows.load(Ordering::SeqCst))
    }

    fn passed(&self) -> Duration {
        Duration::from_millis(self.passed.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_the_cloud() {
        let check = |millis, text: &str| assert_eq!(Timestamp::from_millis(millis).to_string(), text);
        check(0, "1970-01-01T00:00:00.000Z");
        check(1_458_546_386_000, "2016-03-21T07:46:26.000Z");
        check(951_782_400_123, "2000-02-29T00:00:00.123Z");
        check(-1, "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn setting_a_clock_lets_no_time_pass() {
        let clock = ManualClock::at(Timestamp::from_millis(5));
        clock.advance(Duration::from_millis(7));
        clock.set(Timestamp::from_millis(1_000_000));
        assert_eq!((clock.now().as_millis(), clock.passed()), (1_000_000, Duration::from_millis(7)));
        clock.set(Timestamp::from_millis(-1));
        assert_eq!((clock.now().as_millis(), clock.passed()), (-1, Duration::from_millis(7)));
        let before = SystemClock.passed();
        assert!(SystemClock.passed() >= before);
    }

    #[test]
    fn durations_never_go_negative() {
        let early = Timestamp::from_millis(10);
        let late = early.after(Duration::from_millis(5));
        assert_eq!(late.since(early), Duration::from_millis(5));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
