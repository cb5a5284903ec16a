use std::fmt;

use serde::{Deserialize, Serialize};

/// A secret that travels in requests: the account's password, a server's first root password.
///
/// `Debug` hides it and there is no `Display`. Serialising it writes the text, because the wire needs it:
/// never serialise a request into a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
