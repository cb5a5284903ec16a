//! Names of fleets and nodes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest name we accept: a DNS label (RFC 1035, section 2.3.4), since both become parts of host names.
const MAX_LEN: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name may not be empty")]
    Empty,
    /// Longer than a DNS label.
    #[error("`{0}` has more than {MAX_LEN} characters")]
    TooLong(String),
    /// A character that host names do not have, or a hyphen at an end.
    #[error("`{0}` may hold only letters, digits and inner hyphens")]
    Characters(String),
}

fn checked(text: &str) -> Result<&str, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_LEN {
        return Err(NameError::TooLong(text.to_owned()));
    }
    let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !letters || text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Characters(text.to_owned()));
    }
    Ok(text)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                checked(text).map(|text| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// Name of a fleet: the trust domain of its identities and the mark on its cloud resources.
    FleetName
}
name! {
    /// Name of a node, unique in its fleet; also its host name.
    NodeName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_labels() {
        let check = |text: &str, fine: bool| assert_eq!(text.parse::<NodeName>().is_ok(), fine, "{text:?}");
        check("EU7rethinkSeed", true);
        check("a", true);
        check(&"x".repeat(63), true);
        check(&"x".repeat(64), false);
        check("", false);
        check("-a", false);
        check("a-", false);
        check("a_b", false);
        check("a.b", false);
        check("../etc", false);
    }
}
