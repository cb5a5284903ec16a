//! One connection: a socket, its writer, its reader, and a pulse that finds a silent one out.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::DropGuard, task::TaskTracker};

use crate::{Cursor, ReqlError, Term, frame, handshake, routes::Routes};

/// `Query.QueryType.SERVER_INFO` of the public `ql2.proto`, as a whole query.
const SERVER_INFO: &[u8] = b"[5]";
/// `run` collects a sequence into one value; nobody needs a longer one at once.
const MOST_ROWS: usize = 100_000;

/// How to connect, and how long to wait.
#[derive(Clone)]
pub struct Options {
    /// The user; `admin` exists on every server.
    pub user: String,
    /// Its password; a new server has an empty one.
    pub password: String,
    /// Limit for dialling and the handshake together.
    pub connect: Duration,
    /// Limit for a query that sets none of its own.
    pub deadline: Duration,
    /// The server is asked for a sign of life when it owes answers and was silent for so long.
    pub pulse: Duration,
    /// Queries and feeds at once; later ones wait, under their own deadline.
    pub most_queries: usize,
    /// Largest query that is sent.
    pub most_query_bytes: usize,
    /// Largest answer that is read; a longer one ends the connection.
    pub most_answer_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user: "admin".into(),
            password: String::new(),
            connect: Duration::from_secs(10),
            deadline: Duration::from_secs(20),
            pulse: Duration::from_secs(15),
            most_queries: 256,
            most_query_bytes: 4 << 20,
            most_answer_bytes: 64 << 20,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the password.
        f.debug_struct("Options")
            .field("user", &self.user)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServerInfo {
    /// Its UUID.
    pub id: String,
    /// Its name; proxies have none.
    pub name: Option<String>,
    /// Whether it holds no data.
    #[serde(default)]
    pub proxy: bool,
}

/// An open connection. Clones share it; it closes when the last clone and the last cursor are gone.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    routes: Arc<Routes>,
    slots: Arc<Semaphore>,
    options: Options,
    server_version: String,
    tasks: TaskTracker,
    /// Ends the tasks with the last clone.
    _guard: DropGuard,
}

impl Connection {
    /// Dials, and speaks the handshake.
    ///
    /// # Errors
    /// When nobody listens there, it takes too long, or the server refuses user or password.
    pub async fn open(address: SocketAddr, options: &Options) -> Result<Self, ReqlError> {
        let until = Instant::now() + options.connect;
        let dialled =
            timeout_at(until, TcpStream::connect(address)).await.map_err(|_| late(options.connect))?;
        let refused = |source| ReqlError::Connect { address, source: Arc::new(source) };
        let stream = dialled.map_err(refused)?;
        // Small frames that somebody waits for.
        stream.set_nodelay(true).map_err(refused)?;
        let (reader, writer) = stream.into_split();
        Self::begin(reader, writer, options, until).await
    }

    /// Speaks the handshake over a stream that is there already.
    ///
    /// # Errors
    /// When the handshake fails or takes too long.
    pub async fn over<S>(stream: S, options: &Options) -> Result<Self, ReqlError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(stream);
        Self::begin(reader, writer, options, Instant::now() + options.connect).await
    }

    async fn begin<R, W>(
        reader: R,
        mut writer: W,
        options: &Options,
        until: Instant,
    ) -> Result<Self, ReqlError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let mut reader = BufReader::new(reader);
        let shaken = handshake::shake(&mut reader, &mut writer, &options.user, &options.password);
        let server_version = timeout_at(until, shaken).await.map_err(|_| late(options.connect))??;
        let routes = Routes::new();
        let tasks = TaskTracker::new();
        tasks.spawn(write(writer, routes.clone()));
        tasks.spawn(read(reader, routes.clone(), options.most_answer_bytes));
        let guard = routes.ended.clone().drop_guard();
        let slots = Arc::new(Semaphore::new(options.most_queries));
        tasks.spawn(pulse(routes.clone(), options.pulse));
        tasks.close();
        let options = options.clone();
        Ok(Self(Arc::new(Inner { routes, slots, options, server_version, tasks, _guard: guard })))
    }

    /// Runs a query and waits for its whole answer, under the usual deadline. A sequence comes as an array.
    ///
    /// # Errors
    /// See [`ReqlError`]; after a write, ask it whether it [may have happened](ReqlError::may_have_happened).
    ///
    /// # Cancel safety
    /// Dropping the future stops the query at the server; one that was not sent yet never is.
    pub async fn run<T: DeserializeOwned>(&self, query: impl Into<Term>) -> Result<T, ReqlError> {
        self.run_within(query, self.0.options.deadline).await
    }

    /// As [`run`](Self::run), with a deadline of its own.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub async fn run_within<T>(&self, query: impl Into<Term>, after: Duration) -> Result<T, ReqlError>
    where
        T: DeserializeOwned,
    {
        let until = Instant::now() + after;
        let mut cursor = self.send(&query.into().to_query(), until, after).await?;
        let collected = timeout_at(until, cursor.collect(MOST_ROWS)).await;
        let value = collected.unwrap_or_else(|_| Err(ReqlError::Timeout { after, sent: cursor.sent() }))?;
        serde_json::from_value(value).map_err(ReqlError::decode)
    }

    /// Begins a query whose rows are taken one by one; for change feeds, which have no end.
    ///
    /// # Errors
    /// As for [`run`](Self::run). The deadline is for the first answer.
    pub async fn cursor<T: DeserializeOwned>(&self, query: impl Into<Term>) -> Result<Cursor<T>, ReqlError> {
        let after = self.0.options.deadline;
        let until = Instant::now() + after;
        let mut cursor = self.send(&query.into().to_query(), until, after).await?;
        match timeout_at(until, cursor.fill()).await {
            Ok(filled) => filled.map(|()| cursor.typed()),
            Err(_) => Err(ReqlError::Timeout { after, sent: cursor.sent() }),
        }
    }

    /// Which server this is.
    ///
    /// # Errors
    /// As for [`run`](Self::run).
    pub async fn server_info(&self) -> Result<ServerInfo, ReqlError> {
        let after = self.0.options.deadline;
        let until = Instant::now() + after;
        let mut cursor = self.send(SERVER_INFO, until, after).await?;
        let collected = timeout_at(until, cursor.collect(1)).await;
        let value = collected.unwrap_or_else(|_| Err(ReqlError::Timeout { after, sent: cursor.sent() }))?;
        serde_json::from_value(value).map_err(ReqlError::decode)
    }

    async fn send(&self, query: &[u8], until: Instant, after: Duration) -> Result<Cursor<()>, ReqlError> {
        let limit = self.0.options.most_query_bytes;
        if query.len() > limit {
            return Err(ReqlError::TooLarge { bytes: query.len(), limit });
        }
        let slot = timeout_at(until, self.0.slots.clone().acquire_owned()).await;
        let slot = slot.map_err(|_| ReqlError::Timeout { after, sent: false })?;
        let slot = slot.expect("these slots are never closed");
        Ok(Cursor::new(self.clone(), self.0.routes.start(query, slot)?))
    }

    /// The version the server gave in the handshake.
    pub fn server_version(&self) -> &str {
        &self.0.server_version
    }

    /// Whether queries can still be sent.
    pub fn is_open(&self) -> bool {
        self.0.routes.reason().is_none()
    }

    /// Waits until the connection has ended, and says why.
    pub async fn ended(&self) -> Arc<str> {
        self.0.routes.ended.cancelled().await;
        self.0.routes.reason().unwrap_or_else(|| "closed".into())
    }

    /// Ends the connection and waits until its tasks are gone and its socket is closed.
    pub async fn close(&self) {
        self.0.routes.end("closed by us");
        self.0.tasks.wait().await;
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

fn late(after: Duration) -> ReqlError {
    ReqlError::Timeout { after, sent: false }
}

/// Writes what is in the outbox. Nothing but the end of the connection cuts a frame short.
async fn write(mut to: impl AsyncWrite + Unpin, routes: Arc<Routes>) {
    let work = async {
        loop {
            while let Some(bytes) = routes.next_frame() {
                to.write_all(&bytes).await?;
            }
            to.flush().await?;
            routes.filled.notified().await;
        }
    };
    // Cut short only when everything ends: half a frame on a closed socket harms nobody.
    let result: Result<(), std::io::Error> = tokio::select! {
        result = work => result,
        () = routes.ended.cancelled() => Ok(()),
    };
    routes.end(&result.map_or_else(|error| error.to_string(), |()| "closed by us".into()));
    // The peer may be gone already.
    let _ = to.shutdown().await;
}

/// Gives every answer to whoever waits for it.
async fn read(mut from: impl AsyncRead + Unpin, routes: Arc<Routes>, limit: usize) {
    let work = async {
        loop {
            match frame::read(&mut from, limit).await {
                Ok((token, json)) => routes.deliver(token, &json),
                Err(error) => return error.to_string(),
            }
        }
    };
    let reason = tokio::select! {
        reason = work => reason,
        () = routes.ended.cancelled() => "closed by us".into(),
    };
    routes.end(&reason);
}

/// A feed may rightly be silent for hours; a server must not be. Asks one that owes answers for a sign
/// of life, and ends the connection of one that gives none.
async fn pulse(routes: Arc<Routes>, every: Duration) {
    let mut heard = None;
    let slot = Arc::new(Semaphore::new(1));
    let work = async {
        loop {
            tokio::time::sleep(every).await;
            let (now, waiting) = routes.pulse();
            let silent = heard.replace(now) == Some(now);
            if !(silent && waiting) {
                continue;
            }
            let Ok(permit) = slot.clone().acquire_owned().await else { return };
            let Ok(mut ticket) = routes.start(SERVER_INFO, permit) else { return };
            // Any answer will do, so may be an error.
            if tokio::time::timeout(every, ticket.answer.recv()).await.is_err() {
                routes.end("the server gives no sign of life");
                return;
            }
        }
    };
    tokio::select! {
        () = work => (),
        () = routes.ended.cancelled() => (),
    }
}
