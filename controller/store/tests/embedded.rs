//! The embedded store: conformance, the lock, durability, agreement with the memory store.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use fleet_model::{Clock, SystemClock};
use fleet_store::{EmbeddedStore, Expected, Key, MemoryStore, Store, StoreError, conformance};
use proptest::prelude::*;

fn open(path: &Path) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(path, Arc::new(SystemClock))
}

fn key(path: &str) -> Key {
    Key::new(path).expect("a key")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let dir = tempfile::tempdir().expect("a folder");
    let count = AtomicU32::new(0);
    conformance::run(async |clock: Arc<dyn Clock>| {
        let path = dir.path().join(format!("{}.db", count.fetch_add(1, Ordering::Relaxed)));
        Arc::new(EmbeddedStore::open(&path, clock).expect("opens")) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test]
async fn a_second_holder_is_told_who_is_first() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("store.db");
    let first = open(&path).expect("opens");
    match open(&path) {
        Err(StoreError::Locked { by, .. }) => assert_eq!(by, Some(std::process::id())),
        other => panic!("expected Locked, got {other:?}"),
    }
    drop(first);
    open(&path).expect("free again");
}

#[tokio::test]
async fn values_survive_reopening() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("store.db");
    let store = open(&path).expect("opens");
    let kept = store.put(&key("a"), Bytes::from_static(b"1"), Expected::Absent).await.expect("writes");
    store.put(&key("b"), Bytes::from_static(b"2"), Expected::Absent).await.expect("writes");
    store.delete(&key("b"), Expected::Any).await.expect("deletes");
    drop(store);
    let store = open(&path).expect("opens again");
    let entry = store.get(&key("a")).await.expect("reads").expect("kept");
    assert_eq!((&entry.value[..], entry.version), (&b"1"[..], kept));
    assert_eq!(store.get(&key("b")).await.expect("reads"), None);
    let next = store.put(&key("b"), Bytes::new(), Expected::Absent).await.expect("writes");
    assert!(next > kept + 2, "the count of changes survives too, deletions included");
}

#[tokio::test]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("store.db");
    let store = open(&path).expect("opens");
    store.put(&key("a"), Bytes::from_static(b"1"), Expected::Absent).await.expect("writes");
    for entry in std::fs::read_dir(dir.path()).expect("lists") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("its mode").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is open to others", entry.path().display());
    }
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("store.db");
    drop(open(&path).expect("opens"));
    let raw = rusqlite::Connection::open(&path).expect("a database");
    raw.execute("UPDATE meta SET number = 99 WHERE name = 'format'", []).expect("changes it");
    drop(raw);
    assert!(matches!(open(&path), Err(StoreError::Open { .. })));
}

/// Path of the store for the child of [`acknowledged_writes_survive_a_kill`].
const VICTIM: &str = "FLEET_STORE_TEST_VICTIM";

/// Not a test by itself: the process that gets killed. Prints every acknowledged number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    use std::io::Write;
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let store = open(Path::new(&path)).expect("opens");
    for number in 0_u32.. {
        let value = Bytes::from(number.to_string());
        store.put(&key(&format!("n/{number}")), value, Expected::Absent).await.expect("writes");
        // Straight to the pipe: the test harness would keep what `println!` says to itself.
        writeln!(std::io::stderr(), "acknowledged {number}").expect("the parent listens");
    }
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("store.db");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "victim", "--nocapture"])
        .env(VICTIM, &path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut acknowledged = Vec::new();
    let mut killed = false;
    // Killed in the middle of its work; what it managed to say before dying counts too.
    while let Some(Ok(line)) = lines.next() {
        if let Some(number) = line.strip_prefix("acknowledged ") {
            acknowledged.push(number.to_owned());
        }
        if acknowledged.len() >= 50 && !killed {
            child.kill().expect("dies");
            killed = true;
        }
    }
    child.wait().expect("dead");
    assert!(acknowledged.len() >= 50, "the child worked: {}", acknowledged.len());
    let store = open(&path).expect("opens after the kill; the lock died with its holder");
    for number in &acknowledged {
        let entry = store.get(&key(&format!("n/{number}"))).await.expect("reads");
        assert_eq!(entry.map(|entry| entry.value), Some(Bytes::from(number.clone())), "n/{number}");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u8, Wanted),
    Delete(u8, Wanted),
    Get(u8),
    List(u8),
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Absent,
    Any,
    /// The version the key was last seen to hold.
    Seen,
    Wrong,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let wanted =
        || prop_oneof![Just(Wanted::Absent), Just(Wanted::Any), Just(Wanted::Seen), Just(Wanted::Wrong)];
    let op = prop_oneof![
        (0..6_u8, any::<u8>(), wanted()).prop_map(|(key, value, wanted)| Op::Put(key, value, wanted)),
        (0..6_u8, wanted()).prop_map(|(key, wanted)| Op::Delete(key, wanted)),
        (0..6_u8).prop_map(Op::Get),
        (0..3_u8).prop_map(Op::List),
    ];
    prop::collection::vec(op, 1..60)
}

async fn perform(store: &dyn Store, op: &Op, seen: u64) -> String {
    let key_of = |number: u8| key(["a", "a/x", "a/y", "ab", "b/x", "b/x/z"][usize::from(number)]);
    let expected = |wanted| match wanted {
        Wanted::Absent => Expected::Absent,
        Wanted::Any => Expected::Any,
        Wanted::Seen => Expected::Version(seen),
        Wanted::Wrong => Expected::Version(seen + 1000),
    };
    match op {
        Op::Put(at, value, wanted) => {
            let result = store.put(&key_of(*at), Bytes::from(vec![*value]), expected(*wanted)).await;
            format!("{result:?}")
        }
        Op::Delete(at, wanted) => format!("{:?}", store.delete(&key_of(*at), expected(*wanted)).await),
        Op::Get(at) => format!("{:?}", store.get(&key_of(*at)).await),
        Op::List(at) => format!("{:?}", store.list(&key(["a", "b", "b/x"][usize::from(*at)])).await),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn memory_and_disk_agree(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("a folder");
            let disk = open(&dir.path().join("store.db")).expect("opens");
            let memory = MemoryStore::new(Arc::new(SystemClock));
            for op in &ops {
                let seen = match op {
                    Op::Put(at, ..) | Op::Delete(at, _) => {
                        let at = key(["a", "a/x", "a/y", "ab", "b/x", "b/x/z"][usize::from(*at)]);
                        memory.get(&at).await.expect("reads").map_or(0, |entry| entry.version)
                    }
                    _ => 0,
                };
                let (left, right) = (perform(&memory, op, seen).await, perform(&disk, op, seen).await);
                assert_eq!(left, right, "{op:?}");
            }
        });
    }
}
