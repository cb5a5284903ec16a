//! What every backend must do; a backend's tests call [`run`] with a way to open an empty store.
//!
//! Failures panic with what was expected: this is a test suite that happens to live in the library, so that
//! backends in other crates can be held against it too.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fleet_model::{Clock, ManualClock, Timestamp};

use crate::{Change, Expected, Key, MAX_VALUE, Store, StoreError};

/// How long a change may take to reach a watcher before the suite calls it lost.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs the whole suite; `open` gives a new, empty store each time.
///
/// # Panics
/// If the backend does not conform.
pub async fn run(open: impl AsyncFn(Arc<dyn Clock>) -> Arc<dyn Store>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
    values(&*open(clock.clone()).await).await;
    conditions(&*open(clock.clone()).await).await;
    lists(&*open(clock.clone()).await).await;
    limits(&*open(clock.clone()).await).await;
    one_of_many_wins(open(clock.clone()).await).await;
    watches(&*open(clock.clone()).await).await;
    laggards_are_told(&*open(clock.clone()).await).await;
    leases(&*open(clock.clone()).await, &clock).await;
}

fn key(path: &str) -> Key {
    Key::new(path).expect("the suite's keys are paths")
}

async fn put(store: &dyn Store, path: &str, value: &str, expected: Expected) -> Result<u64, StoreError> {
    store.put(&key(path), Bytes::copy_from_slice(value.as_bytes()), expected).await
}

async fn text(store: &dyn Store, path: &str) -> Option<String> {
    let entry = store.get(&key(path)).await.expect("reading works")?;
    Some(String::from_utf8(entry.value.to_vec()).expect("the suite writes text"))
}

async fn values(store: &dyn Store) {
    assert_eq!(store.get(&key("a/b")).await.expect("reading works"), None, "a new store is empty");
    let first = put(store, "a/b", "one", Expected::Any).await.expect("writing works");
    let second = put(store, "a/c", "", Expected::Any).await.expect("an empty value is a value");
    assert!(second > first, "versions grow over the whole store");
    assert_eq!(text(store, "a/b").await.as_deref(), Some("one"));
    assert_eq!(text(store, "a/c").await.as_deref(), Some(""));
    let third = put(store, "a/b", "two", Expected::Any).await.expect("overwriting works");
    let entry = store.get(&key("a/b")).await.expect("reading works").expect("it is there");
    assert_eq!((entry.version, &entry.value[..]), (third, &b"two"[..]));
    store.delete(&key("a/b"), Expected::Any).await.expect("deleting works");
    assert_eq!(text(store, "a/b").await, None, "deleted means gone");
    store.delete(&key("a/b"), Expected::Any).await.expect("deleting nothing is fine");
    let again = put(store, "a/b", "three", Expected::Absent).await.expect("a deleted key is absent");
    assert!(again > third, "a key made anew never shows an old version");
}

async fn conditions(store: &dyn Store) {
    let missing = put(store, "k", "v", Expected::Version(1)).await;
    assert!(matches!(missing, Err(StoreError::Conflict { held: None, .. })), "{missing:?}");
    let version = put(store, "k", "v1", Expected::Absent).await.expect("absent holds");
    let taken = put(store, "k", "v2", Expected::Absent).await;
    assert!(
        matches!(taken, Err(StoreError::Conflict { held: Some(held), .. }) if held == version),
        "{taken:?}"
    );
    let next = put(store, "k", "v3", Expected::Version(version)).await.expect("the version holds");
    let stale = put(store, "k", "v4", Expected::Version(version)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { held: Some(held), .. }) if held == next), "{stale:?}");
    assert_eq!(text(store, "k").await.as_deref(), Some("v3"), "refused writes leave no trace");

    let stale = store.delete(&key("k"), Expected::Version(version)).await;
    assert!(stale.is_err_and(|error| error.is_conflict()), "a stale delete is refused");
    let absent = store.delete(&key("k"), Expected::Absent).await;
    assert!(absent.is_err_and(|error| error.is_conflict()), "it is not absent");
    store.delete(&key("k"), Expected::Version(next)).await.expect("the version holds");
    let gone = store.delete(&key("k"), Expected::Version(next)).await;
    assert!(gone.is_err_and(|error| error.is_conflict()), "a version was expected and nothing is there");
}

async fn lists(store: &dyn Store) {
    for path in ["n/b", "n/a", "n/a/x", "n-1/z", "n", "n0", "m/a"] {
        put(store, path, path, Expected::Any).await.expect("writing works");
    }
    let below = async |prefix: &str| -> Vec<String> {
        let found = store.list(&key(prefix)).await.expect("listing works");
        found.into_iter().map(|(key, _)| key.to_string()).collect()
    };
    assert_eq!(below("n").await, ["n/a", "n/a/x", "n/b"], "exactly what lies below, sorted");
    assert_eq!(below("n/a").await, ["n/a/x"]);
    assert!(below("nothing").await.is_empty());
    let found = store.list(&key("m")).await.expect("listing works");
    assert_eq!(found[0].1, store.get(&key("m/a")).await.expect("reading works").expect("there"));
}

async fn limits(store: &dyn Store) {
    let full = Bytes::from(vec![7; MAX_VALUE]);
    store.put(&key("big"), full.clone(), Expected::Any).await.expect("the limit itself is fine");
    assert_eq!(store.get(&key("big")).await.expect("reading works").expect("there").value, full);
    let over = store.put(&key("big"), Bytes::from(vec![7; MAX_VALUE + 1]), Expected::Any).await;
    assert!(matches!(over, Err(StoreError::TooLarge { .. })), "{over:?}");
}

async fn one_of_many_wins(store: Arc<dyn Store>) {
    let mut rivals = tokio::task::JoinSet::new();
    for rival in 0..32 {
        let store = store.clone();
        rivals
            .spawn(async move { put(&*store, "prize", &rival.to_string(), Expected::Absent).await.is_ok() });
    }
    let winners = rivals.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1, "exactly one of many conditional writes wins");
}

async fn watches(store: &dyn Store) {
    put(store, "w/old", "before", Expected::Any).await.expect("writing works");
    let mut watch = store.watch(&key("w")).await.expect("watching works");
    let first = put(store, "w/a", "1", Expected::Any).await.expect("writing works");
    put(store, "elsewhere", "x", Expected::Any).await.expect("writing works");
    put(store, "w/a", "refused", Expected::Absent).await.expect_err("it is there");
    store.delete(&key("w/none"), Expected::Any).await.expect("deleting nothing is fine");
    store.delete(&key("w/a"), Expected::Any).await.expect("deleting works");
    let last = put(store, "w/b", "2", Expected::Any).await.expect("writing works");
    match next(&mut watch).await {
        Change::Put(at, entry) => assert_eq!((at, entry.version), (key("w/a"), first)),
        other => panic!("expected w/a, got {other:?}"),
    }
    match next(&mut watch).await {
        Change::Deleted(at, version) => {
            assert_eq!(at, key("w/a"));
            assert!(first < version && version < last, "a deletion has its place among the versions");
        }
        other => panic!("expected the deletion of w/a, got {other:?}"),
    }
    match next(&mut watch).await {
        Change::Put(at, entry) => assert_eq!((at, &entry.value[..]), (key("w/b"), &b"2"[..])),
        other => panic!("expected w/b, got {other:?}"),
    }
}

async fn next(watch: &mut crate::Watch) -> Change {
    let change = tokio::time::timeout(DEADLINE, watch.next()).await;
    change.expect("the change reaches the watcher").expect("the store is open")
}

async fn laggards_are_told(store: &dyn Store) {
    let mut watch = store.watch(&key("lag")).await.expect("watching works");
    for round in 0..=crate::watch::BACKLOG {
        put(store, "lag/k", &round.to_string(), Expected::Any).await.expect("writing works");
    }
    assert_eq!(next(&mut watch).await, Change::Lagged, "a watcher that missed changes hears so first");
    assert!(matches!(next(&mut watch).await, Change::Put(..)), "and goes on watching");
}

async fn leases(store: &dyn Store, clock: &ManualClock) {
    let name = key("lease/run");
    let ttl = Duration::from_secs(10);
    let lease = store.acquire(&name, "one", ttl).await.expect("a free lease is given");
    assert_eq!(lease.until, clock.now().after(ttl));
    let refused = store.acquire(&name, "two", ttl).await;
    assert!(matches!(refused, Err(StoreError::Held { ref by, .. }) if by == "one"), "{refused:?}");
    clock.advance(Duration::from_secs(9));
    let lease = store.renew(&lease, ttl).await.expect("the holder renews");
    clock.advance(Duration::from_secs(9));
    assert!(store.acquire(&name, "two", ttl).await.is_err(), "renewed means held");
    clock.advance(Duration::from_secs(1));
    let taken = store.acquire(&name, "two", ttl).await.expect("a lapsed lease is given away");
    let lost = store.renew(&lease, ttl).await;
    assert!(matches!(lost, Err(StoreError::Lost { .. })), "{lost:?}");
    store.release(lease).await.expect("releasing what was lost is fine");
    assert!(store.acquire(&name, "one", ttl).await.is_err(), "and takes nothing from the new holder");
    store.release(taken).await.expect("releasing works");
    let again = store.acquire(&name, "one", ttl).await.expect("released means free");
    store.acquire(&name, "one", ttl).await.expect("the same holder may take it again");
    assert!(store.renew(&again, ttl).await.is_err(), "and the older claim is void");
}
