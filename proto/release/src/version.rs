//! Versions of releases.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Three numbers; ordered by the first that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// What breaks.
    pub major: u32,
    /// What is added; controller and agent may differ by one.
    pub minor: u32,
    /// What is mended.
    pub patch: u32,
}

impl Version {
    /// Whether controller and agent of these versions work together: one minor version apart at most, in either order.
    ///
    /// The first of a new major follows whatever was last before it, which nobody can know here.
    pub fn gets_along(self, other: Self) -> bool {
        let (older, newer) = (self.min(other), self.max(other));
        match newer.major.abs_diff(older.major) {
            0 => newer.minor - older.minor <= 1,
            1 => newer.minor == 0,
            _ => false,
        }
    }

    /// The oldest counterpart that a release of this version gets along with.
    #[must_use]
    pub fn oldest_counterpart(self) -> Self {
        match (self.major, self.minor) {
            (0, 0) => Self { major: 0, minor: 0, patch: 0 },
            (major, 0) => Self { major: major - 1, minor: 0, patch: 0 },
            (major, minor) => Self { major, minor: minor - 1, patch: 0 },
        }
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a version such as 1.2.3");
        let mut parts = text.split('.').map(|part| part.parse().map_err(|_| wrong()));
        let mut next = || parts.next().ok_or_else(wrong)?;
        let version = Self { major: next()?, minor: next()?, patch: next()? };
        // One form only: neither a fourth part nor `01`, `+1`.
        if version.to_string() == text { Ok(version) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Version {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_apart_in_either_order() {
        let check = |a: &str, b: &str, fine: bool| {
            let [a, b] = [a, b].map(|text| text.parse::<Version>().expect("fine"));
            assert_eq!((a.gets_along(b), b.gets_along(a)), (fine, fine), "{a} {b}");
            assert_eq!(fine, a.max(b).oldest_counterpart() <= a.min(b), "{a} {b}");
        };
        check("0.1.0", "0.1.9", true);
        check("0.1.9", "0.2.0", true);
        check("0.1.0", "0.3.0", false);
        check("0.9.0", "1.0.0", true);
        check("0.9.0", "1.1.0", false);
        check("1.0.0", "3.0.0", false);
        check("0.0.1", "0.0.9", true);
    }

    #[test]
    fn three_numbers_in_one_form() {
        let version = |text: &str| text.parse::<Version>();
        assert!(version("0.10.0").expect("fine") > version("0.9.9").expect("fine"));
        for wrong in
            ["", "1", "1.2", "1.2.3.4", "01.2.3", "+1.2.3", "1.2.3-rc1", "1..3", "1.2.4294967296", " 1.2.3"]
        {
            assert!(version(wrong).is_err(), "{wrong}");
        }
    }
}
