//! A connection for a long-running program: opened again whenever it ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{Backoff, Connection, Options, ReqlError, Term};

/// A server that restarts on this host is back within moments.
const LEAST_WAIT: Duration = Duration::from_millis(100);
/// A server that is away for long is still found soon after it came back.
const MOST_WAIT: Duration = Duration::from_secs(5);
/// A connection that held so long was a good one: the waits begin anew.
const HELD: Duration = Duration::from_secs(5);

/// Whether there is a connection.
#[derive(Clone, Debug)]
pub enum Link {
    /// The first attempt is under way.
    Dialling,
    /// There is one.
    Up(Connection),
    /// There is none; this is why.
    Down(ReqlError),
}

/// Keeps one connection open. Clones share it; it closes with the last clone.
///
/// A read is run again on the next connection if the first one ended under it. A write never is, unless
/// it certainly did not leave this process.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: watch::Receiver<Link>,
    deadline: Duration,
    tasks: TaskTracker,
    stop: CancellationToken,
    _guard: DropGuard,
}

impl Client {
    /// Starts dialling; returns at once.
    pub fn start(address: SocketAddr, options: Options) -> Self {
        let (sender, link) = watch::channel(Link::Dialling);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let deadline = options.deadline;
        tasks.spawn(keep(address, options, sender, stop.clone()));
        tasks.close();
        Self(Arc::new(Inner { link, deadline, tasks, _guard: stop.clone().drop_guard(), stop }))
    }

    /// How it stands now, and every change of that.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.0.link.clone()
    }

    /// The connection, if there is one now.
    pub fn now(&self) -> Option<Connection> {
        match &*self.0.link.borrow() {
            Link::Up(connection) if connection.is_open() => Some(connection.clone()),
            _ => None,
        }
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// Why there is none, when there is none in time.
    pub async fn connection(&self, within: Duration) -> Result<Connection, ReqlError> {
        self.connection_by(Instant::now() + within, within).await
    }

    /// Runs a query under the usual deadline, waiting for a connection if need be.
    ///
    /// # Errors
    /// As for [`Connection::run`].
    pub async fn run<T: DeserializeOwned>(&self, query: impl Into<Term>) -> Result<T, ReqlError> {
        self.run_within(query, self.0.deadline).await
    }

    /// As [`run`](Self::run), with a deadline of its own.
    ///
    /// # Errors
    /// As for [`Connection::run`].
    pub async fn run_within<T>(&self, query: impl Into<Term>, after: Duration) -> Result<T, ReqlError>
    where
        T: DeserializeOwned,
    {
        let query = query.into();
        let until = Instant::now() + after;
        loop {
            let connection = self.connection_by(until, after).await?;
            let left = until.saturating_duration_since(Instant::now());
            match connection.run_within(query.clone(), left).await {
                Err(ReqlError::Gone { sent, .. }) if !(sent && query.writes()) => (),
                Err(ReqlError::Timeout { sent, .. }) => return Err(ReqlError::Timeout { after, sent }),
                result => return result,
            }
        }
    }

    async fn connection_by(&self, until: Instant, after: Duration) -> Result<Connection, ReqlError> {
        let mut link = self.0.link.clone();
        let open = |link: &Link| matches!(link, Link::Up(connection) if connection.is_open());
        let found = match timeout_at(until, link.wait_for(open)).await {
            Ok(Ok(link)) => Some(link.clone()),
            _ => None,
        };
        if let Some(Link::Up(connection)) = found {
            return Ok(connection);
        }
        match &*self.0.link.borrow() {
            Link::Down(error) => Err(error.clone()),
            Link::Dialling | Link::Up(_) => Err(ReqlError::Timeout { after, sent: false }),
        }
    }

    /// Ends it and waits until everything is gone.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.wait().await;
    }
}

/// Dials, waits for the end, dials again.
async fn keep(address: SocketAddr, options: Options, link: watch::Sender<Link>, stop: CancellationToken) {
    let mut backoff = Backoff::new(LEAST_WAIT, MOST_WAIT);
    let mut random = StdRng::from_os_rng();
    let work = async {
        loop {
            let why = match Connection::open(address, &options).await {
                Ok(connection) => {
                    let opened = Instant::now();
                    link.send_replace(Link::Up(connection.clone()));
                    let reason = connection.ended().await;
                    if opened.elapsed() >= HELD {
                        backoff.reset();
                    }
                    ReqlError::Gone { reason, sent: false }
                }
                Err(error) => error,
            };
            link.send_replace(Link::Down(why));
            tokio::time::sleep(backoff.next(&mut random)).await;
        }
    };
    // Nothing is lost with the future: the connection is closed below, or was never one.
    tokio::select! {
        () = work => (),
        () = stop.cancelled() => (),
    }
    let last = link.send_replace(Link::Down(ReqlError::Gone { reason: "closed by us".into(), sent: false }));
    if let Link::Up(connection) = last {
        connection.close().await;
    }
}
