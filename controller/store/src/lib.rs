//! Versioned values, conditional writes, prefix watch, leases.
//!
//! Start with [`Store`], the one trait the rest of the controller knows; [`EmbeddedStore`] keeps everything in
//! one file on local disk, [`MemoryStore`] is for tests and throw-away fleets. Both pass [`conformance`], so
//! that nothing above can tell which is in use. Values are bytes: what they mean is their writer's business.

mod embedded;
mod error;
mod key;
mod lease;
mod memory;
mod watch;

pub mod conformance;

pub use embedded::EmbeddedStore;
pub use error::StoreError;
pub use key::{Key, KeyError};
pub use lease::Lease;
pub use memory::MemoryStore;
pub use watch::{Change, Watch};

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use fleet_model::Clock;

/// Longest value accepted, in bytes. A plan document is some kilobytes; anything near this is a mistake, and
/// other backends (etcd) refuse little more.
pub const MAX_VALUE: usize = 1024 * 1024;

/// A value and the version it got when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// What was written.
    pub value: Bytes,
    /// Number of the change that wrote it: grows over the whole store with every change, so that a key deleted
    /// and made anew never shows an old version again.
    pub version: u64,
}

/// What must hold for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The key holds nothing.
    Absent,
    /// The key holds exactly this version.
    Version(u64),
    /// Whatever is there.
    Any,
}

impl Expected {
    /// Whether a key holding `held` (its version, if it holds anything) meets the expectation.
    pub const fn allows(self, held: Option<u64>) -> bool {
        match (self, held) {
            (Self::Any, _) | (Self::Absent, None) => true,
            (Self::Version(wanted), Some(held)) => wanted == held,
            (Self::Absent, Some(_)) | (Self::Version(_), None) => false,
        }
    }
}

/// Versioned values behind checked keys.
///
/// A change is durable once its call has returned. A call whose future is dropped may still take effect: it
/// was handed over; read again before deciding.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// What `key` holds.
    ///
    /// # Errors
    /// [`StoreError`] if the backend fails.
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError>;

    /// Writes `value` if `expected` still holds, and returns its version.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if `expected` does not hold, [`StoreError::TooLarge`] above [`MAX_VALUE`], and
    /// whatever the backend fails with.
    async fn put(&self, key: &Key, value: Bytes, expected: Expected) -> Result<u64, StoreError>;

    /// Deletes `key` if `expected` still holds. Deleting nothing is fine unless a version was expected.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if `expected` does not hold, and whatever the backend fails with.
    async fn delete(&self, key: &Key, expected: Expected) -> Result<(), StoreError>;

    /// Everything below `prefix` (`journal` lists `journal/…`, neither `journal` itself nor `journals/…`),
    /// sorted by key.
    ///
    /// # Errors
    /// [`StoreError`] if the backend fails.
    async fn list(&self, prefix: &Key) -> Result<Vec<(Key, Versioned)>, StoreError>;

    /// Every change below `prefix` from now on. To miss nothing: watch first, then list.
    ///
    /// # Errors
    /// [`StoreError`] if the backend fails.
    async fn watch(&self, prefix: &Key) -> Result<Watch, StoreError>;

    /// The clock leases run by.
    fn clock(&self) -> &dyn Clock;

    /// Takes the lease `key` for `ttl` in the name of `holder`. A lease that ran out, or that the same holder
    /// has, is taken over.
    ///
    /// # Errors
    /// [`StoreError::Held`] if somebody else has it, and whatever the backend fails with.
    async fn acquire(&self, key: &Key, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        lease::acquire(self, key, holder, ttl).await
    }

    /// Extends `lease` to `ttl` from now.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if somebody took it over meanwhile, and whatever the backend fails with.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Lease, StoreError> {
        lease::renew(self, lease, ttl).await
    }

    /// Gives `lease` back. Fine if it was lost.
    ///
    /// # Errors
    /// [`StoreError`] if the backend fails.
    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        lease::release(self, lease).await
    }
}
