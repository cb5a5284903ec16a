//! One connection between two servers: questions both ways, feeds, presence.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    ServerId,
    message::{Frame, Hello, Request, Response},
};
use crate::{server::Server, table::replica::RowChange};

/// How often a link says that it is alive.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Silence after which the other end counts as gone; the real server's heartbeat timeout.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Largest frame: a whole copy of a table must fit.
const FRAME_MAX: u32 = 256 << 20;
/// Frames waiting to be written; a peer that is further behind is slow, and callers wait.
const WAITING_FRAMES: usize = 1024;
/// Batches a feed may be behind before it is ended.
const WAITING_BATCHES: usize = 4096;

/// Anything a link can run over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connected server.
pub struct Peer {
    /// Who it said it is.
    pub hello: Hello,
    /// Who opened the link.
    pub dialer: ServerId,
    /// Seconds since 1970 at which it was opened.
    pub since: f64,
    /// Ends the link.
    pub gone: CancellationToken,
    out: mpsc::Sender<Frame>,
    next: AtomicU64,
    answers: Mutex<HashMap<u64, oneshot::Sender<Response>>>,
    feeds: Mutex<HashMap<u64, mpsc::Sender<Vec<RowChange>>>>,
    served: Mutex<HashMap<u64, CancellationToken>>,
}

/// A question got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// There is no link to that server; it never heard the question.
    #[error("not connected")]
    NotConnected,
    /// The link ended, or time passed: it may have done what was asked.
    #[error("no answer")]
    Lost,
}

/// A mutex whose data is whole even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// A peer and the frames it wants written.
    pub fn new(hello: Hello, dialer: ServerId, since: f64) -> (Arc<Self>, mpsc::Receiver<Frame>) {
        let (out, waiting) = mpsc::channel(WAITING_FRAMES);
        let peer = Self {
            hello,
            dialer,
            since,
            gone: CancellationToken::new(),
            out,
            next: AtomicU64::new(1),
            answers: Mutex::default(),
            feeds: Mutex::default(),
            served: Mutex::default(),
        };
        (Arc::new(peer), waiting)
    }

    /// Tells it something that needs no answer; dropped if it is far behind, since a newer one will follow.
    pub fn tell(&self, frame: Frame) {
        if self.out.try_send(frame).is_err() {
            self.gone.cancel();
        }
    }

    /// Asks, and waits for the answer for at most `patience`.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn ask(&self, request: Request, patience: Duration) -> Result<Response, Unanswered> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.answers).insert(id, answer);
        let outcome = timeout(patience, async {
            if self.out.send(Frame::Request(id, Box::new(request))).await.is_err() {
                return Err(Unanswered::NotConnected);
            }
            tokio::select! {
                () = self.gone.cancelled() => Err(Unanswered::Lost),
                answer = answered => answer.map_err(|_| Unanswered::Lost),
            }
        });
        let outcome = outcome.await.unwrap_or(Err(Unanswered::Lost));
        lock(&self.answers).remove(&id);
        outcome
    }

    /// Opens a feed: the answer, and the changes that follow it. Dropping the receiver ends it.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn subscribe(
        self: &Arc<Self>,
        request: Request,
        patience: Duration,
    ) -> Result<(Response, mpsc::Receiver<Vec<RowChange>>), Unanswered> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let (changes, feed) = mpsc::channel(WAITING_BATCHES);
        lock(&self.answers).insert(id, answer);
        lock(&self.feeds).insert(id, changes);
        let outcome = timeout(patience, async {
            if self.out.send(Frame::Request(id, Box::new(request))).await.is_err() {
                return Err(Unanswered::NotConnected);
            }
            tokio::select! {
                () = self.gone.cancelled() => Err(Unanswered::Lost),
                answer = answered => answer.map_err(|_| Unanswered::Lost),
            }
        });
        let outcome = outcome.await.unwrap_or(Err(Unanswered::Lost));
        lock(&self.answers).remove(&id);
        if outcome.is_err() {
            lock(&self.feeds).remove(&id);
        }
        outcome.map(|response| (response, feed))
    }

    /// Runs the link to its end.
    pub async fn run(
        self: Arc<Self>,
        server: Arc<Server>,
        stream: Box<dyn Stream>,
        waiting: mpsc::Receiver<Frame>,
    ) {
        let (reading, writing) = tokio::io::split(stream);
        tokio::select! {
            // Dropping either half-done is fine: the link is over.
            () = self.gone.cancelled() => {}
            () = server.stop.cancelled() => {}
            _ = self.read(&server, reading) => {}
            _ = write(writing, waiting) => {}
        }
        self.gone.cancel();
        lock(&self.answers).clear();
        lock(&self.feeds).clear();
        for feed in lock(&self.served).values() {
            feed.cancel();
        }
    }

    async fn read(
        self: &Arc<Self>,
        server: &Arc<Server>,
        mut from: impl AsyncRead + Unpin,
    ) -> io::Result<()> {
        loop {
            let frame = timeout(SILENCE_MAX, read_frame(&mut from)).await??;
            match frame {
                Frame::Request(id, request) => {
                    let (peer, asked) = (Arc::clone(self), Arc::clone(server));
                    server.tasks.spawn(async move { peer.answer(&asked, id, *request).await });
                }
                Frame::Response(id, response) => {
                    if let Some(answer) = lock(&self.answers).remove(&id) {
                        // Whoever asked may have lost patience.
                        let _ = answer.send(response);
                    }
                }
                Frame::Feed(id, changes) => self.feed(id, changes),
                Frame::FeedEnd(id) => {
                    lock(&self.feeds).remove(&id);
                    if let Some(served) = lock(&self.served).remove(&id) {
                        served.cancel();
                    }
                }
                Frame::Presence(presence) => {
                    server.hear(&self.hello, *presence);
                }
                Frame::Gossip(metadata) => server.learn(&metadata),
                Frame::Ping => {}
            }
        }
    }

    fn feed(&self, id: u64, changes: Vec<RowChange>) {
        let mut feeds = lock(&self.feeds);
        if feeds.get(&id).is_some_and(|feed| feed.try_send(changes).is_err()) {
            feeds.remove(&id);
            drop(feeds);
            self.tell(Frame::FeedEnd(id));
        }
    }

    async fn answer(self: Arc<Self>, server: &Arc<Server>, id: u64, request: Request) {
        let Request::Subscribe { table } = request else {
            let response = server.answer(request).await;
            let _ = self.out.send(Frame::Response(id, response)).await;
            return;
        };
        let (rows, mut changes) = match server.subscribe_here(&table).await {
            Ok(feed) => feed,
            Err(why) => {
                let _ = self.out.send(Frame::Response(id, Response::Failed(why))).await;
                return;
            }
        };
        let ended = CancellationToken::new();
        lock(&self.served).insert(id, ended.clone());
        if self.out.send(Frame::Response(id, Response::Rows(rows))).await.is_err() {
            return;
        }
        loop {
            let changes = tokio::select! {
                () = ended.cancelled() => break,
                changes = changes.recv() => changes,
            };
            // An error is the end: the table is led elsewhere, or the feed is too far behind.
            let Ok(changes) = changes else { break };
            if self.out.send(Frame::Feed(id, changes.to_vec())).await.is_err() {
                break;
            }
        }
        lock(&self.served).remove(&id);
        let _ = self.out.send(Frame::FeedEnd(id)).await;
    }
}

/// Writes what waits, and a ping when nothing does.
async fn write(mut to: impl AsyncWrite + Unpin, mut waiting: mpsc::Receiver<Frame>) -> io::Result<()> {
    loop {
        let frame = match timeout(PING_EVERY, waiting.recv()).await {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => frame,
            Err(_) => Frame::Ping,
        };
        timeout(SILENCE_MAX, write_frame(&mut to, &frame)).await??;
    }
}

/// Writes one value: length, JSON.
///
/// # Errors
/// The connection's.
pub async fn write_frame<T: serde::Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    frame: &T,
) -> io::Result<()> {
    let text = serde_json::to_vec(frame)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= FRAME_MAX);
    let length = length.ok_or_else(|| io::Error::other("a frame is too large"))?;
    to.write_all(&length.to_le_bytes()).await?;
    to.write_all(&text).await?;
    to.flush().await
}

/// Reads one value.
///
/// # Errors
/// The connection's, or the value is not what it should be.
pub async fn read_frame<T: serde::de::DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_MAX {
        return Err(io::Error::other("a frame is too large"));
    }
    let mut text = Vec::new();
    from.take(length.into()).read_to_end(&mut text).await?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}
