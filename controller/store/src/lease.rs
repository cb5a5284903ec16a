//! Leases: time-limited claims, written as ordinary values so that every backend has them alike.

use std::time::Duration;

use bytes::Bytes;
use fleet_model::Timestamp;

use crate::{Expected, Key, Store, StoreError, Versioned};

/// A claim that lapses unless renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is claimed.
    pub key: Key,
    /// By whom.
    pub holder: String,
    /// Until when.
    pub until: Timestamp,
    version: u64,
}

pub(crate) async fn acquire<S: Store + ?Sized>(
    store: &S,
    key: &Key,
    holder: &str,
    ttl: Duration,
) -> Result<Lease, StoreError> {
    let now = store.clock().now();
    let expected = match store.get(key).await? {
        None => Expected::Absent,
        Some(held) => match decode(&held) {
            Some((until, by)) if until > now && by != holder => {
                return Err(StoreError::Held { key: key.clone(), by, until });
            }
            // Lapsed, ours, or unreadable: taken over, but only from exactly what was seen.
            _ => Expected::Version(held.version),
        },
    };
    match write(store, key, holder, now.after(ttl), expected).await {
        Err(StoreError::Conflict { .. }) => {
            // Somebody was faster. Whoever it was has it now, and at most that is said.
            let (by, until) = match store.get(key).await? {
                Some(held) => decode(&held).map_or_else(|| ("another".to_owned(), now), |(at, by)| (by, at)),
                None => ("another".to_owned(), now),
            };
            Err(StoreError::Held { key: key.clone(), by, until })
        }
        other => other,
    }
}

pub(crate) async fn renew<S: Store + ?Sized>(
    store: &S,
    lease: &Lease,
    ttl: Duration,
) -> Result<Lease, StoreError> {
    let until = store.clock().now().after(ttl);
    match write(store, &lease.key, &lease.holder, until, Expected::Version(lease.version)).await {
        Err(StoreError::Conflict { .. }) => Err(StoreError::Lost { key: lease.key.clone() }),
        other => other,
    }
}

pub(crate) async fn release<S: Store + ?Sized>(store: &S, lease: Lease) -> Result<(), StoreError> {
    match store.delete(&lease.key, Expected::Version(lease.version)).await {
        Err(StoreError::Conflict { .. }) => Ok(()),
        other => other,
    }
}

async fn write<S: Store + ?Sized>(
    store: &S,
    key: &Key,
    holder: &str,
    until: Timestamp,
    expected: Expected,
) -> Result<Lease, StoreError> {
    let value = Bytes::from(format!("{} {holder}", until.as_millis()));
    let version = store.put(key, value, expected).await?;
    Ok(Lease { key: key.clone(), holder: holder.to_owned(), until, version })
}

fn decode(held: &Versioned) -> Option<(Timestamp, String)> {
    let (until, holder) = std::str::from_utf8(&held.value).ok()?.split_once(' ')?;
    Some((Timestamp::from_millis(until.parse().ok()?), holder.to_owned()))
}
