//! Maintenance windows: hours of the week, in the local time of a location.
//!
//! The engine never looks up a time zone. Its offset comes in as an event and is kept in the state: the tables of
//! zones change several times a year, and two controllers with different tables, or one replaying its log after an
//! upgrade, would otherwise decide differently. Who has the tables implements [`Offsets`].

use fleet_model::Timestamp;
use serde::{Deserialize, Serialize};

const DAY: i64 = 86_400_000;
const MINUTES_PER_DAY: u16 = 1440;

/// Knows how far local time is ahead of UTC.
pub trait Offsets {
    /// Seconds by which `zone` (an IANA name such as `Europe/Brussels`) is ahead of UTC at `at`; none if there is no such zone.
    fn seconds_ahead(&self, zone: &str, at: Timestamp) -> Option<i32>;
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "days explain themselves")]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Weekday {
    const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];

    /// Of a count of days from 1970-01-01, which was a Thursday.
    fn of(days: i64) -> Self {
        Self::ALL[usize::try_from((days + 3).rem_euclid(7)).expect("a remainder of seven")]
    }
}

/// Hours of the week during which nodes may be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// IANA name of the time zone.
    pub zone: String,
    /// On which days it opens.
    pub days: Vec<Weekday>,
    /// Minute of the day at which it opens; written `22:00`.
    #[serde(with = "super::words::hour")]
    pub from: u16,
    /// Minute of the day at which it closes; not after `from` means on the following day.
    #[serde(with = "super::words::hour")]
    pub until: u16,
}

impl Window {
    /// Whether it is open at `at` where local time is `ahead` seconds ahead of UTC.
    pub fn is_open(&self, at: Timestamp, ahead: i32) -> bool {
        let local = at.as_millis().saturating_add(i64::from(ahead) * 1000);
        let today = local.div_euclid(DAY);
        [today - 1, today]
            .into_iter()
            .filter(|day| self.days.contains(&Weekday::of(*day)))
            .any(|day| (self.opens(day)..self.closes(day)).contains(&local))
    }

    /// When it opens next, if the offset stays what it is.
    pub fn next_opening(&self, at: Timestamp, ahead: i32) -> Option<Timestamp> {
        let ahead = i64::from(ahead) * 1000;
        let local = at.as_millis().saturating_add(ahead);
        let today = local.div_euclid(DAY);
        (today..=today + 7)
            .filter(|day| self.days.contains(&Weekday::of(*day)))
            .map(|day| self.opens(day))
            .find(|opens| *opens > local)
            .map(|opens| Timestamp::from_millis(opens - ahead))
    }

    pub(super) fn problem(&self) -> Option<String> {
        if self.days.is_empty() {
            return Some("it opens on no day, so nothing there would ever be updated; name a day".into());
        }
        if self.from >= MINUTES_PER_DAY || self.until > MINUTES_PER_DAY {
            return Some("a day has 1440 minutes; write hours from 00:00 to 24:00".into());
        }
        None
    }

    fn opens(&self, day: i64) -> i64 {
        day * DAY + i64::from(self.from) * 60_000
    }

    fn closes(&self, day: i64) -> i64 {
        let next = i64::from(self.until <= self.from);
        (day + next) * DAY + i64::from(self.until) * 60_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday 2024-01-01 00:00 UTC plus minutes.
    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_millis(1_704_067_200_000 + minutes * 60_000)
    }

    #[test]
    fn opens_and_closes_in_local_time() {
        let night = Window {
            zone: "Europe/Brussels".into(),
            days: vec![Weekday::Monday],
            from: 22 * 60,
            until: 2 * 60,
        };
        let check = |minutes, ahead, open| {
            assert_eq!(night.is_open(at(minutes), ahead), open, "{minutes} min, {ahead} s ahead");
        };
        check(22 * 60 - 1, 0, false);
        check(22 * 60, 0, true);
        check(26 * 60 - 1, 0, true);
        check(26 * 60, 0, false);
        check(21 * 60, 3600, true);
        check(25 * 60, 3600, false);
        check(60, 0, false); // Sunday's night does not count as Monday's.
        check(-120, 3600 * 24, true);
        assert_eq!(night.next_opening(at(0), 3600), Some(at(21 * 60)));
        assert_eq!(night.next_opening(at(21 * 60), 3600), Some(at(21 * 60 + 7 * 1440)));
    }

    #[test]
    fn whole_days_have_no_gap_at_midnight() {
        let always = Window { zone: "UTC".into(), days: Weekday::ALL.to_vec(), from: 0, until: 1440 };
        assert!((0..7 * 1440).all(|minute| always.is_open(at(minute), 0)));
        let wrapped = Window { until: 0, ..always };
        assert!((0..7 * 1440).all(|minute| wrapped.is_open(at(minute), 0)));
    }
}
