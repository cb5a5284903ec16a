//! Accept, shake hands, serve.
//!
//! One task per connection does all three. What protects the controller: a bounded number of handshakes under
//! way, a bounded number of connections that wait for theirs, a deadline on each, a bounded number of connections,
//! and small HTTP/2 windows, so that a peer who sends without pause to a stalled handler costs kilobytes.
//!
//! Connections are accepted before their handshake has its turn: when ten thousand agents come back at once the
//! kernel's queue would overflow, and whoever it drops tries again a second later at the earliest.

use std::{pin::Pin, sync::Arc, time::Duration};

use fleet_model::FleetName;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::Service,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{Backlog, listen},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    peer::{Connections, Peer},
    stream::Guarded,
};

/// A handshake takes milliseconds; whoever needs longer than this is not shaking hands.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once: enough to keep every core busy, few enough to keep each one short.
pub const HANDSHAKES: usize = 512;
/// How long a connection may wait for its turn to shake hands: an agent gives up after about as long.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections accepted and waiting for their turn, through all listeners: each costs a descriptor and a task of
/// about a kilobyte. The kernel's queue is for those beyond.
pub const WAITING: usize = 16_384;
/// Connections the kernel holds for us while we are busy.
const BACKLOG: i32 = 4096;
/// Pause after an accept error such as "too many open files", which going on at once would only repeat.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may take to finish what they are at when the controller stops.
const DRAIN: Duration = Duration::from_secs(3);
/// Flow-control window per stream and connection: the smallest HTTP/2 starts with. Larger ones only let a
/// stalled handler pile up more.
const WINDOW: u32 = 65_535;
/// Streams per connection: an agent needs two.
const STREAMS: u32 = 32;
/// Header bytes per request.
const HEADERS: u32 = 8 * 1024;
/// Finds dead peers: the interval between pings, and how long one may stay unanswered.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// What is served to a connection.
pub trait Door: Clone + Send + Sync + 'static {
    /// Answers one request of `peer`; `None` on a listener that asks for no certificate.
    fn call(
        &self,
        peer: Option<&Arc<Peer>>,
        request: Request<Incoming>,
    ) -> futures::future::BoxFuture<'static, Response<tonic::body::Body>>;
}

/// A listener's settings.
#[derive(Clone)]
pub struct Listen<D> {
    /// The fleet whose names certificates carry.
    pub fleet: FleetName,
    /// TLS.
    pub acceptor: TlsAcceptor,
    /// What is behind it.
    pub door: D,
    /// Handshakes under way; shared between listeners.
    pub handshakes: Arc<Semaphore>,
    /// Connections that wait for their handshake, or are at it; shared between listeners.
    pub waiting: Arc<Semaphore>,
    /// Connections open at once through this door.
    pub open: Arc<Semaphore>,
    /// Longest life of a connection, if it has one.
    pub max_age: Option<Duration>,
    /// Where connections with a certificate are entered.
    pub connections: Connections,
    /// Owns the tasks.
    pub tasks: TaskTracker,
    /// Ends everything.
    pub stop: CancellationToken,
}

impl<D: Door> Listen<D> {
    /// Accepts until told to stop.
    pub async fn run(self, listener: TcpListener) {
        // Listening again on a listening socket only changes the length of its queue.
        if let Err(error) = Backlog::new(BACKLOG).and_then(|backlog| listen(&listener, backlog)) {
            tracing::warn!(%error, "listen: the kernel keeps its shorter queue");
        }
        let shared = Arc::new(self);
        // Without the runtime's budget, which after a few connections would send this to the back of a queue of
        // handshakes: the kernel's queue is emptied whenever its turn comes.
        tokio::task::unconstrained(shared.accept_all(listener)).await;
    }

    async fn accept_all(self: &Arc<Self>, listener: TcpListener) {
        let shared = self;
        loop {
            // Cancel safe: permits not used are given back, accept loses no connection.
            let accepted = tokio::select! {
                () = shared.stop.cancelled() => return,
                accepted = shared.accept(&listener) => accepted,
            };
            match accepted {
                Some((stream, permits)) => {
                    let serving = shared.clone();
                    shared.tasks.spawn(async move { serving.connection(stream, permits).await });
                }
                None => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, Permits)> {
        // Neither semaphore is ever closed.
        let open = self.open.clone().acquire_owned().await.ok()?;
        let waiting = self.waiting.clone().acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((stream, _)) => Some((stream, Permits { open, waiting })),
            Err(error) => {
                tracing::warn!(%error, "accept failed; going on");
                None
            }
        }
    }

    async fn connection(&self, stream: TcpStream, permits: Permits) {
        stream.set_nodelay(true).ok();
        // Boxed, and its outcome too: a task is as large as its largest moment, and this one has to be small for
        // as long as the session lasts.
        let handshake = Box::pin(self.shake(stream));
        // Cancel safe: the handshake is dropped with its connection.
        let shaken = tokio::select! {
            () = self.stop.cancelled() => return,
            shaken = handshake => shaken,
        };
        drop(permits.waiting);
        let Some(stream) = shaken else { return };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = match certificate.map(|certificate| Peer::read(&self.fleet, certificate)).transpose() {
            Ok(peer) => peer.map(Arc::new),
            // The verifier has read it before, so this cannot happen; if it does, nobody gets in.
            Err(error) => return tracing::warn!(%error, "verified certificate is unreadable"),
        };
        let _presence = peer.clone().map(|peer| self.connections.enter(peer));
        self.serve(stream, peer).await;
        drop(permits.open);
    }

    async fn shake(&self, stream: TcpStream) -> Option<Box<TlsStream<TcpStream>>> {
        // Whoever says nothing waits outside: places are for those who shake hands. Looked at rather than asked of
        // the runtime, which takes a new socket to be readable until it is tried.
        if !matches!(timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut [0])).await, Ok(Ok(1))) {
            tracing::debug!("connection that said nothing dropped");
            return None;
        }
        // First come, first served; never closed.
        let Ok(turn) = timeout(TURN_TIMEOUT, self.handshakes.acquire()).await else {
            tracing::debug!("too many handshakes; connection dropped");
            return None;
        };
        let _turn = turn.ok()?;
        match timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            Ok(Err(error)) => tracing::debug!(%error, "handshake refused"),
            Err(_) => tracing::debug!("handshake took too long"),
        }
        None
    }

    async fn serve(&self, stream: Box<TlsStream<TcpStream>>, peer: Option<Arc<Peer>>) {
        let serving = Serving { door: self.door.clone(), peer: peer.clone() };
        // Agents and operators ask for HTTP/2 in the handshake; a first-boot reporter asks for nothing.
        let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(Guarded::new(stream, peer));
        let aged = async {
            match self.max_age {
                Some(age) => tokio::time::sleep(age).await,
                None => std::future::pending().await,
            }
        };
        let ended = if speaks_h2 {
            let connection = http2::Builder::new(Tracked(self.tasks.clone()))
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(HEADERS)
                .header_table_size(0)
                .keep_alive_interval(PING.0)
                .keep_alive_timeout(PING.1)
                .serve_connection(io, serving);
            drain(Box::pin(connection), http2::Connection::graceful_shutdown, aged, &self.stop).await
        } else {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .max_buf_size(HEADERS as usize)
                .serve_connection(io, serving);
            drain(Box::pin(connection), http1::Connection::graceful_shutdown, aged, &self.stop).await
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// Drives a connection to its end; once it is too old, or all is to stop, it may finish what it is at.
async fn drain<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<Box<C>>,
    shut: fn(Pin<&mut C>),
    aged: impl Future<Output = ()>,
    stop: &CancellationToken,
) -> hyper::Result<()> {
    // Cancel safe: the connection is pinned outside and polled on below.
    tokio::select! {
        ended = &mut connection => return ended,
        () = aged => {}
        () = stop.cancelled() => {}
    }
    shut(connection.as_mut());
    timeout(DRAIN, connection).await.unwrap_or(Ok(()))
}

struct Permits {
    open: OwnedSemaphorePermit,
    waiting: OwnedSemaphorePermit,
}

/// Streams run as tasks that the controller owns.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

struct Serving<D> {
    door: D,
    peer: Option<Arc<Peer>>,
}

impl<D: Door> Service<Request<Incoming>> for Serving<D> {
    type Response = Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = futures::future::Map<
        futures::future::BoxFuture<'static, Self::Response>,
        fn(Self::Response) -> Result<Self::Response, Self::Error>,
    >;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        use futures::FutureExt;
        self.door.call(self.peer.as_ref(), request).map(Ok)
    }
}

/// Raises the soft limit on open files to the hard one: every agent costs a descriptor.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "open files: the limit stays as it was");
    }
}
