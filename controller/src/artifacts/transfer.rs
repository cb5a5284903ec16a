//! Artifacts on their way out: few at a time, a chunk at a time, no faster than the agent reads.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, SeekFrom},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_model::NodeName;
use fleet_proto::v1;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::{ArtifactError, Artifacts, Digest};

/// Largest chunk, as the protocol says.
pub const CHUNK: usize = 64 * 1024;
/// Transfers at once where nobody says otherwise; more are asked to come back. Enough to fill any line, few enough to
/// keep each one short.
const AT_ONCE: usize = 16;
/// Bytes a second over all transfers where nobody says otherwise: half of what a gigabit carries, so that a rollout
/// leaves room for the sessions beside it.
const RATE: u64 = 64 << 20;
/// Of one node: a second one while the first, whose connection broke, has not been noticed yet.
const OF_ONE_NODE: u32 = 2;
/// Chunks read ahead of the agent.
const AHEAD: usize = 2;
/// An agent that takes no chunk for so long has lost interest; its place is given to another.
const STALLED: Duration = Duration::from_secs(60);
/// Bytes a second that the slowest agent takes on the whole. One slower than that gives its place back and asks for
/// the rest: whoever takes a chunk now and then would have it for days.
const SLOWEST: u64 = 16 * 1024;

/// Chunks of one artifact.
pub type Chunks = ReceiverStream<Result<v1::Chunk, Status>>;

/// How many artifacts are given out at once, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    at_once: usize,
    /// Bytes a second, over all of them.
    rate: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { at_once: AT_ONCE, rate: RATE }
    }
}

impl Limits {
    /// So many bytes a second over all transfers, and no more of them at once than then each gets enough to count as
    /// alive, and no more than usual.
    pub fn of_rate(rate: u64) -> Self {
        let enough = usize::try_from(rate / (2 * SLOWEST)).unwrap_or(usize::MAX);
        Self { at_once: enough.clamp(1, AT_ONCE), rate: rate.max(2 * SLOWEST) }
    }

    /// A quarter of all that, for those who come by another door.
    #[must_use]
    pub fn quarter(self) -> Self {
        Self { at_once: (self.at_once / 4).max(1), rate: (self.rate / 4).max(2 * SLOWEST) }
    }
}

/// When the next bytes may go out, so that all transfers together keep to a rate.
#[derive(Debug)]
struct Pace {
    rate: u64,
    free: Mutex<Instant>,
}

impl Pace {
    /// When `bytes` more may go out; they count from then on.
    fn next(&self, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let at = (*free).max(now);
        let takes = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000) / self.rate.max(1);
        *free = at + Duration::from_micros(takes);
        at
    }
}

/// The transfers under way.
#[derive(Clone, Debug)]
pub struct Transfers {
    artifacts: Artifacts,
    places: Arc<Semaphore>,
    pace: Arc<Pace>,
    nodes: Arc<Mutex<BTreeMap<NodeName, u32>>>,
    tasks: TaskTracker,
}

/// Why a transfer does not begin.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Too many are under way.
    #[error("too many transfers are under way")]
    Busy,
    /// There is not that much of it.
    #[error("the artifact has {size} bytes, and was asked for from byte {offset} on")]
    Offset {
        /// What was asked for.
        offset: u64,
        /// How much there is.
        size: u64,
    },
    /// It cannot be had.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl Transfers {
    /// Transfers of these artifacts within these limits; their tasks belong to `tasks`.
    pub fn new(artifacts: Artifacts, limits: Limits, tasks: TaskTracker) -> Self {
        let Limits { at_once, rate } = limits;
        let pace = Arc::new(Pace { rate, free: Mutex::new(Instant::now()) });
        Self { artifacts, places: Arc::new(Semaphore::new(at_once)), pace, nodes: Arc::default(), tasks }
    }

    /// The bytes of an artifact from `offset` on. Whether `node` may have it is the caller's to say.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn begin(
        &self,
        node: &NodeName,
        digest: &Digest,
        offset: u64,
    ) -> Result<Chunks, TransferError> {
        let place = self.place(node).ok_or(TransferError::Busy)?;
        let path = self.artifacts.path(digest);
        let failed = |source: std::io::Error| match source.kind() {
            ErrorKind::NotFound => ArtifactError::Unknown(digest.clone()),
            _ => ArtifactError::File { path: path.clone(), source },
        };
        let mut file = File::open(&path).await.map_err(failed)?;
        let size = file.metadata().await.map_err(failed)?.len();
        if offset > size {
            return Err(TransferError::Offset { offset, size });
        }
        file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (node, digest, pace) = (node.clone(), digest.clone(), self.pace.clone());
        let allowed = STALLED + Duration::from_secs((size - offset) / SLOWEST);
        self.tasks.spawn(async move {
            let ended = match timeout(allowed, send(file, &sender, &pace)).await {
                Ok(ended) => ended,
                Err(_) => {
                    let status = Status::unavailable("this takes too long; ask for the rest");
                    // Best effort: without it the agent sees an end before the last byte, which means the same.
                    sender.try_send(Err(status)).ok();
                    Ended::Slow
                }
            };
            tracing::debug!(%node, %digest, offset, ?ended, "transfer ended");
            drop(place);
        });
        Ok(ReceiverStream::new(receiver))
    }

    fn place(&self, node: &NodeName) -> Option<Place> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        let mut nodes = self.nodes();
        let held = nodes.entry(node.clone()).or_default();
        if *held >= OF_ONE_NODE {
            return None;
        }
        *held += 1;
        Some(Place { transfers: self.clone(), node: node.clone(), _permit: permit })
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeName, u32>> {
        // No critical section can leave the counts half changed.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a transfer ended.
#[derive(Debug)]
enum Ended {
    Complete,
    Left,
    Stalled,
    Slow,
    Failed,
}

async fn send(mut file: File, sender: &mpsc::Sender<Result<v1::Chunk, Status>>, pace: &Pace) -> Ended {
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        // Up to a whole chunk: a read may come back with less.
        while data.len() < CHUNK {
            let room = u64::try_from(CHUNK - data.len()).unwrap_or(0);
            match (&mut file).take(room).read_buf(&mut data).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "artifact unreadable");
                    let status =
                        Status::internal("the controller cannot read this artifact; its log says why");
                    timeout(STALLED, sender.send(Err(status))).await.ok();
                    return Ended::Failed;
                }
            }
        }
        if data.is_empty() {
            return Ended::Complete;
        }
        tokio::select! {
            () = sleep_until(pace.next(data.len())) => {}
            // Its place is free at once.
            () = sender.closed() => return Ended::Left,
        }
        match timeout(STALLED, sender.send(Ok(v1::Chunk { data }))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ended::Left,
            Err(_) => return Ended::Stalled,
        }
    }
}

/// A transfer's place among those under way.
struct Place {
    transfers: Transfers,
    node: NodeName,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut nodes = self.transfers.nodes();
        if let Some(held) = nodes.get_mut(&self.node) {
            *held -= 1;
            if *held == 0 {
                nodes.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fleet_model::SystemClock;
    use futures::StreamExt;

    use super::*;

    struct Fixture {
        transfers: Transfers,
        digest: Digest,
        bytes: Vec<u8>,
        _dir: tempfile::TempDir,
    }

    fn fixture(size: usize) -> Fixture {
        let dir = tempfile::tempdir().expect("a folder");
        let artifacts = Artifacts::open(&dir.path().join("a"), Arc::new(SystemClock)).expect("opens");
        let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let file = dir.path().join("x");
        std::fs::write(&file, &bytes).expect("writes");
        let digest = artifacts.adopt(&file, "x").expect("kept").sha256.parse().expect("a digest");
        Fixture {
            transfers: Transfers::new(artifacts, Limits::default(), TaskTracker::new()),
            digest,
            bytes,
            _dir: dir,
        }
    }

    fn node(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    #[tokio::test]
    async fn all_from_the_offset_on_in_chunks() {
        let size = 3 * CHUNK + 17;
        let Fixture { transfers, digest, bytes, _dir } = fixture(size);
        for offset in [0, 1, CHUNK, size - 1, size] {
            let from = u64::try_from(offset).expect("small");
            let mut chunks = transfers.begin(&node("a"), &digest, from).await.expect("begins");
            let mut got = Vec::new();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.expect("read").data;
                assert!(!chunk.is_empty() && chunk.len() <= CHUNK);
                got.extend(chunk);
            }
            assert!(got == bytes[offset..], "from {offset}");
        }
        let beyond = u64::try_from(size).expect("small") + 1;
        let refused = transfers.begin(&node("a"), &digest, beyond).await.expect_err("beyond its end");
        assert!(matches!(refused, TransferError::Offset { .. }), "{refused}");
        let unknown = "00".repeat(32).parse().expect("a digest");
        let refused = transfers.begin(&node("a"), &unknown, 0).await.expect_err("not here");
        assert!(matches!(refused, TransferError::Artifact(ArtifactError::Unknown(_))), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_little_now_and_then_gives_the_place_back() {
        let size = 64 * CHUNK;
        let Fixture { transfers, digest, bytes, _dir } = fixture(size);
        let mut chunks = transfers.begin(&node("a"), &digest, 0).await.expect("begins");
        let (mut got, mut waited) = (0, Duration::ZERO);
        // Never so long that it would count as gone.
        let pause = STALLED * 2 / 3;
        while let Some(Ok(chunk)) = chunks.next().await {
            got += chunk.data.len();
            tokio::time::sleep(pause).await;
            waited += pause;
        }
        assert!(got < size, "cut before its end");
        let most = STALLED + Duration::from_secs(size as u64 / SLOWEST) + pause * 4;
        assert!(waited < most, "{waited:?}");
        // The rest is there for the asking; at a pace of its own, that is time enough.
        let mut rest = transfers.begin(&node("a"), &digest, got as u64).await.expect("its place is free");
        let mut came = Vec::new();
        while let Some(chunk) = rest.next().await {
            came.extend(chunk.expect("in time").data);
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        assert!(came == bytes[got..]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_keep_to_the_rate() {
        let size = 32 * CHUNK;
        let Fixture { transfers, digest, bytes, _dir } = fixture(size);
        let rate = 4 * u64::try_from(CHUNK).expect("small");
        let transfers = Transfers::new(transfers.artifacts, Limits::of_rate(rate), TaskTracker::new());
        let began = Instant::now();
        let read = |name: &str| {
            let (transfers, digest, node) = (transfers.clone(), digest.clone(), node(name));
            async move {
                let mut chunks = transfers.begin(&node, &digest, 0).await.expect("a place");
                let mut got = Vec::new();
                while let Some(chunk) = chunks.next().await {
                    got.extend(chunk.expect("in time").data);
                }
                got
            }
        };
        let (a, b) = tokio::join!(read("a"), read("b"));
        assert!(a == bytes && b == bytes);
        // Time passes only where somebody waits for it: 64 chunks, four a second, the first at once.
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(15_500) && took <= Duration::from_secs(17), "{took:?}");
    }

    #[test]
    fn a_low_rate_means_fewer_at_once() {
        let check = |rate: u64, at_once: usize| {
            let limits = Limits::of_rate(rate);
            assert_eq!(limits.at_once, at_once, "{rate}");
            assert!(limits.rate / limits.at_once as u64 >= 2 * SLOWEST && limits.rate >= rate);
        };
        check(0, 1);
        check(64 << 10, 2);
        check(1 << 20, AT_ONCE);
        check(1 << 30, AT_ONCE);
        assert_eq!(Limits::default().quarter().at_once, AT_ONCE / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_few_and_come_back() {
        let Fixture { transfers, digest, _dir, .. } = fixture(8 * CHUNK);
        let mut open = Vec::new();
        for number in 0..AT_ONCE {
            let node = node(&format!("n{}", number / 2));
            open.push(transfers.begin(&node, &digest, 0).await.expect("a place"));
        }
        let busy = |outcome: Result<Chunks, TransferError>| matches!(outcome, Err(TransferError::Busy));
        assert!(busy(transfers.begin(&node("late"), &digest, 0).await));
        // One goes away; its place is free, but not for a node that has two.
        drop(open.pop());
        transfers.tasks.close();
        while transfers.places.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(busy(transfers.begin(&node("n0"), &digest, 0).await));
        open.push(transfers.begin(&node("late"), &digest, 0).await.expect("a place"));
        // Nobody reads: after a while all places are free again.
        transfers.tasks.wait().await;
        assert_eq!(transfers.places.available_permits(), AT_ONCE);
        assert!(transfers.nodes().is_empty());
    }
}
