//! One driver: many queries at a time, each by its token.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;

use super::handshake;
use crate::{
    reql::{
        ReqlError,
        error::Class,
        eval::Evaluator,
        feed::{self, Answer, Cursor},
        term::Term,
    },
    server::Server,
};

/// Largest query, as with the real server.
const QUERY_MAX: u32 = 64 << 20;
/// Responses waiting to be written.
const WAITING: usize = 256;
/// How long a TLS handshake may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

const START: u64 = 1;
const CONTINUE: u64 = 2;
const STOP: u64 = 3;
const NOREPLY_WAIT: u64 = 4;
const SERVER_INFO: u64 = 5;

/// Accepts drivers until the server stops.
pub async fn accept(server: Arc<Server>, listener: TcpListener, tls: Option<Arc<ServerConfig>>) {
    loop {
        let accepted = tokio::select! {
            () = server.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            continue;
        };
        let (asked, tls) = (Arc::clone(&server), tls.clone());
        server.tasks.spawn(async move {
            let served = tokio::select! {
                () = asked.stop.cancelled() => return,
                served = serve(&asked, stream, tls) => served,
            };
            if let Err(why) = served.map_err(|why| why.to_string()) {
                asked.log(&format!("Driver {from}: {why}"));
            }
        });
    }
}

async fn serve(server: &Arc<Server>, stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        Some(config) => {
            let stream = timeout(PATIENCE, TlsAcceptor::from(config).accept(stream)).await??;
            converse(server, stream).await
        }
        None => converse(server, stream).await,
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(server: &Arc<Server>, mut stream: S) -> io::Result<()> {
    let users = server.metadata().users;
    let password_of = |user: &str| users.get(user).map(|entry| entry.password.clone());
    match handshake::greet(&mut stream, password_of).await {
        Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        other => other?,
    }
    let (mut from, mut to) = tokio::io::split(stream);
    let (responses, mut waiting) = mpsc::channel::<(u64, Value)>(WAITING);
    let connection =
        Arc::new(Connection { server: Arc::clone(server), cursors: Mutex::default(), responses });
    let write = async move {
        while let Some((token, response)) = waiting.recv().await {
            let text = serde_json::to_vec(&response)?;
            let length = u32::try_from(text.len()).map_err(io::Error::other)?;
            let mut frame = token.to_le_bytes().to_vec();
            frame.extend_from_slice(&length.to_le_bytes());
            frame.extend_from_slice(&text);
            to.write_all(&frame).await?;
            to.flush().await?;
        }
        Ok(())
    };
    let mut queries = JoinSet::new();
    let read = async {
        loop {
            let token = match from.read_u64_le().await {
                Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                token => token?,
            };
            let length = from.read_u32_le().await?;
            if length > QUERY_MAX {
                return Err(io::Error::other(format!("a query of {length} bytes")));
            }
            let mut text = vec![0; length as usize];
            from.read_exact(&mut text).await?;
            while queries.try_join_next().is_some() {}
            connection.handle(token, &text, &mut queries).await;
        }
    };
    // Whichever ends first, the driver is gone; its queries go with it.
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}

struct Connection {
    server: Arc<Server>,
    cursors: Mutex<HashMap<u64, Arc<Open>>>,
    responses: mpsc::Sender<(u64, Value)>,
}

/// A cursor between its batches.
struct Open {
    cursor: tokio::sync::Mutex<Cursor>,
    stopped: CancellationToken,
}

fn success(kind: u8, rows: Vec<Value>) -> Value {
    json!({ "t": kind, "r": rows })
}

fn not_in_cache(token: u64) -> Value {
    ReqlError::client(Class::QueryLogic, format!("Token {token} not in stream cache.")).response()
}

impl Connection {
    /// Starts the work on a query and returns; `NOREPLY_WAIT` waits for all before it.
    async fn handle(self: &Arc<Self>, token: u64, text: &[u8], queries: &mut JoinSet<()>) {
        let Ok(Value::Array(parts)) = serde_json::from_slice(text) else {
            let message = "Client is buggy (failed to deserialize query).";
            return self.send(token, ReqlError::client(Class::ResourceLimit, message).response()).await;
        };
        match parts.first().and_then(Value::as_u64) {
            Some(START) => {
                let connection = Arc::clone(self);
                queries.spawn(async move { connection.start(token, parts).await });
            }
            Some(CONTINUE) => {
                let connection = Arc::clone(self);
                queries.spawn(async move { connection.proceed(token).await });
            }
            Some(STOP) => {
                let open = self.cursors().remove(&token);
                let response = match open {
                    Some(open) => {
                        open.stopped.cancel();
                        // The batch under way answers first.
                        drop(open.cursor.lock().await);
                        sequence(Vec::new(), Vec::new(), true)
                    }
                    None => not_in_cache(token),
                };
                self.send(token, response).await;
            }
            Some(NOREPLY_WAIT) => {
                // Feeds never end; all other queries before this one do.
                let connection = Arc::clone(self);
                connection.wait_for_queries(queries).await;
                self.send(token, success(4, Vec::new())).await;
            }
            Some(SERVER_INFO) => {
                let presence = self.server.presence();
                let info = json!({ "id": presence.id, "name": presence.name, "proxy": false });
                self.send(token, success(5, vec![info])).await;
            }
            other => {
                let kind = other.map_or_else(|| "none".into(), |kind| kind.to_string());
                let message = format!("Server could not parse query: Unrecognized QueryType: {kind}.");
                self.send(token, ReqlError::client(Class::QueryLogic, message).response()).await;
            }
        }
    }

    async fn wait_for_queries(&self, queries: &mut JoinSet<()>) {
        let waiting_for_changes =
            || self.cursors().values().filter(|open| open.cursor.try_lock().is_err()).count();
        while queries.len() > waiting_for_changes() {
            queries.join_next().await;
        }
    }

    fn cursors(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Open>>> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, token: u64, response: Value) {
        // The driver may be gone.
        let _ = self.responses.send((token, response)).await;
    }

    async fn start(self: Arc<Self>, token: u64, parts: Vec<Value>) {
        let empty = Map::new();
        let options = parts.get(2).and_then(Value::as_object).unwrap_or(&empty);
        let noreply = options.get("noreply") == Some(&Value::Bool(true));
        let answer = match parts.get(1) {
            Some(query) => self.evaluate(query, options).await,
            None => Err(ReqlError::client(Class::QueryLogic, "Server could not parse query: no term.")),
        };
        match answer {
            _ if noreply => {}
            Err(why) => self.send(token, why.response()).await,
            Ok(Answer::Atom(value)) => self.send(token, success(1, vec![value])).await,
            Ok(Answer::Cursor(cursor)) => {
                let open =
                    Open { cursor: tokio::sync::Mutex::new(*cursor), stopped: CancellationToken::new() };
                let taken = self.cursors().insert(token, Arc::new(open)).is_some();
                if taken {
                    let message = format!("ERROR: duplicate token {token}");
                    return self.send(token, ReqlError::client(Class::QueryLogic, message).response()).await;
                }
                self.batch(token, true).await;
            }
        }
    }

    async fn evaluate(&self, query: &Value, options: &Map<String, Value>) -> Result<Answer, ReqlError> {
        let term = Term::parse(query)?;
        let database = options.get("db").map(Term::parse).transpose()?;
        let evaluator = Evaluator::new(Arc::clone(&self.server), database);
        let value = evaluator.run(&term).await?;
        let batch = match options.get("max_batch_rows").and_then(Value::as_f64) {
            Some(rows) if rows >= 1.0 => rows as usize,
            _ => feed::BATCH,
        };
        feed::open(evaluator, value, batch).await
    }

    async fn proceed(self: Arc<Self>, token: u64) {
        self.batch(token, false).await;
    }

    /// Sends the next batch of a cursor; a feed's first one does not wait.
    async fn batch(&self, token: u64, first: bool) {
        let Some(open) = self.cursors().get(&token).cloned() else {
            return self.send(token, not_in_cache(token)).await;
        };
        let mut cursor = open.cursor.lock().await;
        let notes = cursor.notes();
        let batch = tokio::select! {
            () = open.stopped.cancelled() => return self.send(token, sequence(Vec::new(), Vec::new(), true)).await,
            batch = cursor.batch(first) => batch,
        };
        let (response, over) = match batch {
            Ok((rows, over)) => (sequence(rows, notes, over), over),
            Err(why) => (why.response(), true),
        };
        if over {
            self.cursors().remove(&token);
        }
        self.send(token, response).await;
    }
}

fn sequence(rows: Vec<Value>, notes: Vec<u8>, over: bool) -> Value {
    json!({ "t": if over { 2 } else { 3 }, "r": rows, "n": notes })
}
