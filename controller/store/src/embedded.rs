//! The store on local disk: SQLite in one file, one writer thread, any number of readers.
//!
//! The writer gathers whatever changes wait into one transaction, because the price of durability is the
//! flush, not the row: a thousand enrolments at once cost a few flushes instead of a thousand.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fleet_model::Clock;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{Change, Expected, Key, MAX_VALUE, Store, StoreError, Versioned, Watch, watch::BACKLOG};

/// Changes that may wait for the writer; beyond it callers wait their turn.
const QUEUE: usize = 1024;
/// Most changes in one transaction, so that nobody waits long for a neighbour's work.
const BATCH: usize = 256;
/// Idle read connections kept open.
const READERS: usize = 4;
/// How long SQLite waits for its own short locks (checkpoints); other processes are kept out by the file lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Format of the file; a newer one is refused, not guessed at.
const FORMAT: i64 = 1;

/// Everything in one SQLite file. The process that has it open holds a lock beside it.
#[derive(Debug)]
pub struct EmbeddedStore {
    path: PathBuf,
    /// `None` only while closing.
    writer: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
    changes: broadcast::Sender<Change>,
    clock: Arc<dyn Clock>,
    /// Released by the kernel when the process dies, however it dies.
    _lock: File,
}

impl EmbeddedStore {
    /// Opens the store in the file `path`, making it if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process (or another handle) has it open; [`StoreError::Open`] if the
    /// file cannot be opened or was written by a newer version.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let connection = connect(path).and_then(prepare).map_err(|source| failed_open(path, source))?;
        let changes = broadcast::Sender::new(BACKLOG);
        let (sender, requests) = mpsc::channel(QUEUE);
        let mut writer = Writer { connection, changes: changes.clone() };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(requests))
            .map_err(|source| failed_open(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            writer: Some(sender),
            thread: Some(thread),
            readers: Arc::new(Readers { path: path.to_owned(), idle: Mutex::default() }),
            changes,
            clock,
            _lock: lock,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn change(&self, key: &Key, kind: Kind, expected: Expected) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { key: key.clone(), kind, expected, reply };
        let writer = self.writer.as_ref().ok_or(StoreError::Closed)?;
        writer.send(request).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = self.readers.clone();
        tokio::task::spawn_blocking(move || {
            let connection = readers.take()?;
            let found = query(&connection)?;
            readers.give_back(connection);
            Ok(found)
        })
        .await
        .map_err(|_| StoreError::Closed)?
        .map_err(|source: rusqlite::Error| backend(operation, source))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // Closing the channel ends the thread once what waits is written; joining it keeps the lock until then.
        self.writer = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        let key = key.clone();
        self.read("read", move |connection| {
            let mut query = connection.prepare_cached("SELECT value, version FROM entry WHERE key = ?1")?;
            query.query_row([key.as_str()], |row| versioned(row, 0)).optional()
        })
        .await
    }

    async fn put(&self, key: &Key, value: Bytes, expected: Expected) -> Result<u64, StoreError> {
        if value.len() > MAX_VALUE {
            return Err(StoreError::TooLarge { key: key.clone(), size: value.len() });
        }
        self.change(key, Kind::Put(value), expected).await
    }

    async fn delete(&self, key: &Key, expected: Expected) -> Result<(), StoreError> {
        self.change(key, Kind::Delete, expected).await.map(|_| ())
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<(Key, Versioned)>, StoreError> {
        // `0` is the byte after `/`: the range is exactly what lies below the prefix.
        let (from, to) = (format!("{prefix}/"), format!("{prefix}0"));
        let rows = self
            .read("list", move |connection| {
                let mut query = connection.prepare_cached(
                    "SELECT key, value, version FROM entry WHERE key >= ?1 AND key < ?2 ORDER BY key",
                )?;
                query
                    .query_map([&from, &to], |row| Ok((row.get::<_, String>(0)?, versioned(row, 1)?)))?
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        rows.into_iter()
            .map(|(key, entry)| Ok((Key::new(&key).map_err(|source| backend("list", source))?, entry)))
            .collect()
    }

    async fn watch(&self, prefix: &Key) -> Result<Watch, StoreError> {
        Ok(Watch::new(prefix.clone(), self.changes.subscribe()))
    }

    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
}

/// A change on its way to the writer.
#[derive(Debug)]
struct Request {
    key: Key,
    kind: Kind,
    expected: Expected,
    reply: oneshot::Sender<Result<u64, StoreError>>,
}

#[derive(Debug)]
enum Kind {
    Put(Bytes),
    Delete,
}

struct Writer {
    connection: Connection,
    changes: broadcast::Sender<Change>,
}

impl Writer {
    fn run(&mut self, mut requests: mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        while let Some(first) = requests.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH {
                match requests.try_recv() {
                    Ok(request) => batch.push(request),
                    Err(_) => break,
                }
            }
            self.write(&mut batch);
        }
    }

    /// Writes the batch in one transaction and answers everybody; empties it.
    fn write(&mut self, batch: &mut Vec<Request>) {
        match self.transact(batch) {
            Ok(results) => {
                for (request, result) in batch.drain(..).zip(results) {
                    if let Ok(version) = result
                        && let Some(change) = as_change(request.key, request.kind, version)
                    {
                        self.changes.send(change).ok();
                    }
                    // Whoever asked may have gone; the change stands.
                    request.reply.send(result.map(Option::unwrap_or_default)).ok();
                }
            }
            Err(error) => {
                // Nothing of the batch was written: everybody hears why.
                tracing::error!(%error, changes = batch.len(), "store: transaction failed");
                let text = error.to_string();
                for request in batch.drain(..) {
                    request.reply.send(Err(backend("write", text.clone()))).ok();
                }
            }
        }
    }

    /// One result per request: the version it got, `None` if there was nothing to delete.
    fn transact(&mut self, batch: &[Request]) -> rusqlite::Result<Vec<Result<Option<u64>, StoreError>>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut revision = number(&transaction, "revision")?.unwrap_or(0);
        let before = revision;
        let mut results = Vec::with_capacity(batch.len());
        for request in batch {
            let held = held(&transaction, &request.key)?;
            if !request.expected.allows(held) {
                results.push(Err(StoreError::Conflict { key: request.key.clone(), held }));
                continue;
            }
            match &request.kind {
                Kind::Put(value) => {
                    revision += 1;
                    transaction
                        .prepare_cached(
                            "INSERT INTO entry (key, value, version) VALUES (?1, ?2, ?3)
                             ON CONFLICT (key) DO UPDATE SET value = ?2, version = ?3",
                        )?
                        .execute(params![request.key.as_str(), &value[..], revision])?;
                    results.push(Ok(Some(unsigned(revision))));
                }
                Kind::Delete if held.is_none() => results.push(Ok(None)),
                Kind::Delete => {
                    revision += 1;
                    transaction
                        .prepare_cached("DELETE FROM entry WHERE key = ?1")?
                        .execute([request.key.as_str()])?;
                    results.push(Ok(Some(unsigned(revision))));
                }
            }
        }
        if revision != before {
            set_number(&transaction, "revision", revision)?;
        }
        transaction.commit()?;
        Ok(results)
    }
}

fn as_change(key: Key, kind: Kind, version: Option<u64>) -> Option<Change> {
    let version = version?;
    Some(match kind {
        Kind::Put(value) => Change::Put(key, Versioned { value, version }),
        Kind::Delete => Change::Deleted(key, version),
    })
}

/// Read connections, opened on demand; some stay open between reads.
#[derive(Debug)]
struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(connection) => Ok(connection),
            None => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(&self.path, flags)?;
                connection.busy_timeout(BUSY_TIMEOUT)?;
                Ok(connection)
            }
        }
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < READERS {
            idle.push(connection);
        }
    }
}

/// Takes the lock beside the store and writes our pid into it.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&beside)
        .map_err(|source| failed_open(path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let by = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StoreError::Locked { path: path.to_owned(), by });
        }
        Err(TryLockError::Error(source)) => return Err(failed_open(path, source)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(|source| failed_open(path, source))?;
    Ok(file)
}

fn connect(path: &Path) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    // Made here rather than by SQLite, so that nobody else can ever read it.
    fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Connection::open_with_flags(path, flags)?)
}

fn prepare(connection: Connection) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a commit that was acknowledged survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS entry (
             key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;",
    )?;
    match number(&connection, "format")? {
        None => set_number(&connection, "format", FORMAT)?,
        Some(FORMAT) => {}
        Some(other) => {
            return Err(format!("it has format {other}, this program knows {FORMAT}; use a newer one").into());
        }
    }
    Ok(connection)
}

fn number(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT number FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

fn set_number(connection: &Connection, name: &str, number: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (name, number) VALUES (?1, ?2)")?
        .execute(params![name, number])
        .map(|_| ())
}

fn held(transaction: &Transaction<'_>, key: &Key) -> rusqlite::Result<Option<u64>> {
    transaction
        .prepare_cached("SELECT version FROM entry WHERE key = ?1")?
        .query_row([key.as_str()], |row| row.get::<_, i64>(0))
        .optional()
        .map(|version| version.map(unsigned))
}

fn versioned(row: &Row<'_>, column: usize) -> rusqlite::Result<Versioned> {
    let value = Bytes::from(row.get::<_, Vec<u8>>(column)?);
    Ok(Versioned { value, version: unsigned(row.get(column + 1)?) })
}

/// SQLite's integers are signed; ours count changes from one and never reach the sign.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn failed_open(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Open { path: path.to_owned(), source: source.into() }
}

fn backend(
    operation: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Backend { operation, source: source.into() }
}
