//! Bounds as numbers or shares.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of nodes, or a share of them; written `3` or `10%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many in a hundred.
    Percent(u8),
}

impl Amount {
    /// As a size or a bound on work: rounded down, since a bound is a promise; but never nobody at all unless
    /// nobody was asked for, since a share of a small wave must not stop it for good.
    pub fn at_most(&self, of: usize) -> usize {
        match *self {
            Self::Count(count) => count as usize,
            Self::Percent(0) => 0,
            Self::Percent(share) => (of * usize::from(share) / 100).max(1),
        }
    }

    /// As a threshold: how many are too many. Never zero: nothing wrong is never too much.
    pub fn threshold(&self, of: usize) -> usize {
        match *self {
            Self::Count(count) => (count as usize).max(1),
            Self::Percent(share) => (of * usize::from(share)).div_ceil(100).max(1),
        }
    }

    /// Whether it asks for nobody.
    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => to.serialize_u32(*count),
            Self::Percent(share) => to.collect_str(&format_args!("{share}%")),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl de::Visitor<'_> for Reader {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of nodes such as 3, or a share of them such as 10%")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Amount, E> {
                let small = u32::try_from(count);
                small.map(Amount::Count).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(count), &self))
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Amount, E> {
                let small = u32::try_from(count);
                small.map(Amount::Count).map_err(|_| E::invalid_value(de::Unexpected::Signed(count), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                let share = text.strip_suffix('%').map(str::trim_end);
                let amount = match share {
                    Some(share) => share.parse().ok().filter(|share| *share <= 100).map(Amount::Percent),
                    None => text.parse().ok().map(Amount::Count),
                };
                amount.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Reader)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Percent(share) => write!(f, "{share} %"),
        }
    }
}

/// Bounds on one wave, or on the whole rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Budgets {
    /// At most so many between offer and outcome.
    pub in_flight: Amount,
    /// At most so many out of service through this rollout: on trial, failed and not back, silent since the offer.
    pub unavailable: Amount,
    /// So many that failed or went back by themselves halt the rollout.
    pub failed: Amount,
    /// So many that fell silent after the offer halt the rollout.
    pub silent: Amount,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            in_flight: Amount::Percent(20),
            unavailable: Amount::Percent(25),
            failed: Amount::Percent(5),
            silent: Amount::Percent(10),
        }
    }
}

impl Budgets {
    /// What these mean for so many nodes.
    pub fn limits(&self, of: usize) -> Limits {
        Limits {
            in_flight: self.in_flight.at_most(of),
            unavailable: self.unavailable.at_most(of),
            failed: self.failed.threshold(of),
            silent: self.silent.threshold(of),
        }
    }

    pub(super) fn amounts(&self) -> impl Iterator<Item = &Amount> {
        [&self.in_flight, &self.unavailable, &self.failed, &self.silent].into_iter()
    }
}

/// Budgets for a given number of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// At most so many in flight.
    pub in_flight: usize,
    /// At most so many unavailable.
    pub unavailable: usize,
    /// So many failed halt.
    pub failed: usize,
    /// So many silent halt.
    pub silent: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_numbers() {
        let check = |amount: Amount, of, at_most, threshold| {
            assert_eq!((amount.at_most(of), amount.threshold(of)), (at_most, threshold), "{amount} of {of}");
        };
        check(Amount::Count(3), 2, 3, 3);
        check(Amount::Count(0), 9, 0, 1);
        check(Amount::Percent(0), 9, 0, 1);
        check(Amount::Percent(20), 5, 1, 1);
        check(Amount::Percent(20), 3, 1, 1);
        check(Amount::Percent(33), 10, 3, 4);
        check(Amount::Percent(5), 1000, 50, 50);
        check(Amount::Percent(100), 7, 7, 7);
        check(Amount::Percent(50), 0, 1, 1);
    }
}
