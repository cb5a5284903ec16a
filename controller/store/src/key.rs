//! Keys: checked path texts.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest key, in bytes.
const MAX_LEN: usize = 512;

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Empty, or an empty segment: `a//b`, `/a`, `a/`.
    #[error("`{0}` has an empty segment")]
    EmptySegment(String),
    /// Longer than 512 bytes.
    #[error("a key of {0} bytes is too long")]
    TooLong(usize),
    /// A character outside letters, digits and `- _ . : @ =`.
    #[error("`{0}` may hold only letters, digits and `-_.:@=` between its slashes")]
    Characters(String),
}

/// A path such as `node/EU7rethinkSeed/enrolment`: segments of letters, digits and `-_.:@=`, parted by slashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Checks a path.
    ///
    /// # Errors
    /// [`KeyError`] if it is not one.
    pub fn new(path: &str) -> Result<Self, KeyError> {
        if path.len() > MAX_LEN {
            return Err(KeyError::TooLong(path.len()));
        }
        if path.split('/').any(str::is_empty) {
            return Err(KeyError::EmptySegment(path.to_owned()));
        }
        if !path.bytes().all(|byte| byte == b'/' || is_key_byte(byte)) {
            return Err(KeyError::Characters(path.to_owned()));
        }
        Ok(Self(path.into()))
    }

    /// The key one segment (or several, parted by slashes) below this one.
    ///
    /// # Errors
    /// [`KeyError`] if `segment` is not a path, or the whole grows too long.
    pub fn join(&self, segment: impl fmt::Display) -> Result<Self, KeyError> {
        Self::new(&format!("{}/{segment}", self.0))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segment after the last slash.
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Whether this key lies below `prefix`: `a/b` is below `a`, `a` and `ab` are not.
    pub fn is_below(&self, prefix: &Self) -> bool {
        self.0.strip_prefix(&*prefix.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:@=".contains(&byte)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;
    fn from_str(path: &str) -> Result<Self, KeyError> {
        Self::new(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths() {
        let check = |path: &str, fine: bool| assert_eq!(Key::new(path).is_ok(), fine, "{path:?}");
        check("journal", true);
        check("journal/EU7/server:web-1@2", true);
        check("", false);
        check("/journal", false);
        check("journal/", false);
        check("a//b", false);
        check("a b", false);
        check("é", false);
        check(&"k".repeat(512), true);
        check(&"k".repeat(513), false);
    }

    #[test]
    fn below_means_below() {
        let check = |key: &str, prefix: &str, below: bool| {
            let (key, prefix) = (Key::new(key).expect("a key"), Key::new(prefix).expect("a prefix"));
            assert_eq!(key.is_below(&prefix), below, "{key} below {prefix}");
        };
        check("a/b", "a", true);
        check("a/b/c", "a/b", true);
        check("a", "a", false);
        check("ab", "a", false);
        check("ab/c", "a", false);
    }

    #[test]
    fn joining_checks_again() {
        let node = Key::new("node").expect("a key");
        assert_eq!(node.join("web-1").expect("joins").as_str(), "node/web-1");
        assert_eq!(node.join("web-1/enrolment").expect("joins").last(), "enrolment");
        assert!(node.join("web 1").is_err());
        assert!(node.join("").is_err());
    }
}
