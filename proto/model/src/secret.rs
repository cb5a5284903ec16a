//! Text that must not be printed.

use std::fmt;

/// A secret in memory. `Debug` hides it, there is no `Display`, no `Serialize`; the text is reached only
/// through [`Secret::reveal`], so that every use can be found by that word.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Never pass the result to a log, an argument list or a file in the clear.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
