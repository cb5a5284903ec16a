//! Enrolment tokens: random, single-use, bound to one node, known to the store only by their hash.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fleet_model::{NodeName, Secret, Timestamp};
use fleet_store::Expected;

use super::sha256_hex;
use crate::{
    records::{RecordError, Records, TokenRecord, keys},
    sealing::{SealingError, random},
};

/// How long a token is of use unless said otherwise: a first boot under software emulation takes minutes.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// Longest text looked at: ours have 43 characters.
const MAX_LEN: usize = 128;

/// Why a token could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No randomness.
    #[error(transparent)]
    Random(#[from] SealingError),
    /// The store failed.
    #[error("store token")]
    Record(#[from] RecordError),
}

/// A fresh token; the only copy of its text.
#[derive(Clone, Debug)]
pub struct Token {
    /// The text that goes into the seed.
    pub text: Secret,
    /// What it is known by.
    pub hash: TokenHash,
    /// When it stops being of use.
    pub expires: Timestamp,
}

/// The hash a token is stored under.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenHash(String);

impl TokenHash {
    /// Of the text an agent sent; `None` if it cannot be a token.
    pub fn of(text: &str) -> Option<Self> {
        let plausible = !text.is_empty() && text.len() <= MAX_LEN;
        plausible.then(|| Self(sha256_hex(text.as_bytes())))
    }

    /// Hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({}…)", &self.0[..8])
    }
}

/// Issues a token for `node`, good for `life`.
///
/// # Errors
/// [`TokenError`] if it cannot be drawn or stored.
pub async fn issue(
    records: &Records,
    node: &NodeName,
    now: Timestamp,
    life: Duration,
) -> Result<Token, TokenError> {
    let text = URL_SAFE_NO_PAD.encode(random::<32>()?);
    let expires = now.after(life);
    let record = TokenRecord { node: node.clone(), expires, used_by: None, used_at: None };
    let hash = TokenHash(sha256_hex(text.as_bytes()));
    records.put(&keys::token(hash.as_str()), &record, Expected::Absent).await?;
    Ok(Token { text: Secret::new(text), hash, expires })
}

/// Deletes tokens that ran out, or all those of one node.
///
/// # Errors
/// [`RecordError`] if the store fails.
pub async fn prune(
    records: &Records,
    now: Timestamp,
    whose: impl Fn(&NodeName) -> bool,
) -> Result<usize, RecordError> {
    let mut deleted = 0;
    for (hash, token) in records.list::<TokenRecord>(&keys::tokens()).await? {
        if token.expires <= now || whose(&token.node) {
            records.delete(&keys::token(&hash)).await?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_model::SystemClock;
    use fleet_store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn the_store_never_sees_the_text() {
        let records = Records::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
        let node: NodeName = "web-1".parse().expect("a name");
        let now = Timestamp::from_millis(1000);
        let token = issue(&records, &node, now, TOKEN_LIFE).await.expect("issued");
        let all = records.store().list(&keys::tokens()).await.expect("lists");
        assert_eq!(all.len(), 1);
        assert!(!format!("{all:?}").contains(token.text.reveal()));
        let hash = TokenHash::of(token.text.reveal()).expect("plausible");
        assert_eq!(all[0].0, keys::token(hash.as_str()));
        assert_eq!(token.expires, now.after(TOKEN_LIFE));
    }

    #[tokio::test]
    async fn pruning_takes_what_ran_out_and_what_is_named() {
        let records = Records::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
        let [a, b]: [NodeName; 2] = ["a", "b"].map(|name| name.parse().expect("a name"));
        let now = Timestamp::from_millis(0);
        issue(&records, &a, now, Duration::from_secs(1)).await.expect("issued");
        issue(&records, &a, now, TOKEN_LIFE).await.expect("issued");
        issue(&records, &b, now, TOKEN_LIFE).await.expect("issued");
        let later = now.after(Duration::from_secs(2));
        assert_eq!(prune(&records, later, |_| false).await.expect("prunes"), 1);
        assert_eq!(prune(&records, later, |node| *node == b).await.expect("prunes"), 1);
        let left = records.list::<TokenRecord>(&keys::tokens()).await.expect("lists");
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].1.node, a);
    }

    #[test]
    fn nonsense_is_no_token() {
        assert!(TokenHash::of("").is_none());
        assert!(TokenHash::of(&"x".repeat(129)).is_none());
        assert!(TokenHash::of("x").is_some());
    }
}
