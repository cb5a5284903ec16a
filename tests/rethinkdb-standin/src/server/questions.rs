//! How questions reach the server that can answer them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{Server, TABLES, lock};
use crate::{
    cluster::{
        link::Unanswered,
        message::{Request, Response},
    },
    disk,
    reql::{ReqlError, Result},
    table::{
        TableConfig,
        lead::{self, Changes, Command, Feed, TableHandle, read_rows, unavailable},
        replica::{Position, Replica, RowChange, Snapshot, Term, Verdict},
        write::Write,
    },
};

/// How long a query waits for the server that leads its table.
const PATIENCE: Duration = Duration::from_secs(10);

impl Server {
    /// Asks a server, this one included.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn ask(
        self: &Arc<Self>,
        id: &str,
        request: Request,
        patience: Duration,
    ) -> std::result::Result<Response, Unanswered> {
        if id == self.id {
            return Ok(Box::pin(self.answer(request)).await);
        }
        match self.peer(id) {
            Some(peer) => peer.ask(request, patience).await,
            None => Err(Unanswered::NotConnected),
        }
    }

    /// Answers a question of another server.
    pub async fn answer(self: &Arc<Self>, request: Request) -> Response {
        match request {
            Request::Prepare { table, term } => match self.handle(&table) {
                Some(handle) => handle.with_foreign(|replica| {
                    Response::Prepared(replica.promise(term), Some(replica.state().position))
                }),
                None => Response::Prepared(Verdict::Accepted, None),
            },
            Request::Fetch { table } => match self.handle(&table) {
                Some(handle) => Response::Copy(Box::new(handle.with(|replica| replica.state().clone()))),
                None => Response::Failed(unavailable("read")),
            },
            Request::Install { term, snapshot } => Response::Verdict(self.install(term, *snapshot)),
            Request::Append { table, term, record } => match self.handle(&table) {
                Some(handle) => {
                    Response::Verdict(handle.with_foreign(|replica| replica.append(term, record)))
                }
                None => Response::Verdict(Verdict::Gap),
            },
            Request::Read { table, key, outdated: true } => match self.handle(&table) {
                Some(handle) => {
                    Response::Rows(handle.with(|replica| read_rows(replica.state(), key.as_deref())))
                }
                None => Response::Failed(ReqlError::failed("Cannot perform read: no replica is available")),
            },
            Request::Read { table, key, outdated: false } => {
                let read = self.command(&table, "read", |reply| Command::Read { key, reply }).await;
                read.map_or_else(Response::Failed, Response::Rows)
            }
            Request::Write { table, write } => {
                let done = self.command(&table, "write", |reply| Command::Write { write, reply }).await;
                done.map_or_else(Response::Failed, Response::Written)
            }
            Request::Reconfigure { config } => {
                let table = config.id.clone();
                let config = *config;
                let done =
                    self.command(&table, "write", |reply| Command::Reconfigure { config, reply }).await;
                done.map_or_else(Response::Failed, |()| Response::Done)
            }
            Request::Rename { name, tags } => match self.rename(name, tags) {
                Ok(()) => Response::Done,
                Err(why) => Response::Failed(ReqlError::failed(why.to_string())),
            },
            Request::Forget { table } => {
                self.remove_table(&table);
                Response::Done
            }
            // Links answer this one themselves, since more than one frame follows.
            Request::Subscribe { .. } => Response::Failed(unavailable("read")),
        }
    }

    fn handle(&self, table: &str) -> Option<Arc<TableHandle>> {
        lock(&self.tables).get(table).cloned()
    }

    fn install(self: &Arc<Self>, term: Term, snapshot: Snapshot) -> Verdict {
        let id = snapshot.config.id.clone();
        if self.metadata().tables.get(&id).is_some_and(|entry| entry.config.is_none()) {
            return Verdict::Failed("the table was dropped".into());
        }
        if let Some(handle) = self.handle(&id) {
            return handle.with_foreign(|replica| replica.install(term, snapshot));
        }
        let folder = self.directory.join(TABLES).join(&id);
        match disk::blocking(|| Replica::create(&folder, snapshot, term)) {
            Ok(replica) => {
                self.add_table(folder, replica);
                Verdict::Accepted
            }
            Err(why) => Verdict::Failed(why.to_string()),
        }
    }

    async fn command<T>(
        &self,
        table: &str,
        what: &str,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let handle = self.handle(table).ok_or_else(|| unavailable(what))?;
        let (reply, answer) = oneshot::channel();
        let asked = async {
            handle.commands.send(command(reply)).await.map_err(|_| unavailable(what))?;
            answer.await.map_err(|_| unavailable(what))?
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
            Err(ReqlError::indeterminate(format!("Cannot perform {what}: lost contact with primary replica")))
        })
    }

    async fn ask_leader(self: &Arc<Self>, table: &str, what: &str, request: Request) -> Result<Response> {
        let (leader, _) = self.leader(table).ok_or_else(|| self.leaderless(table, what))?;
        match self.ask(&leader, request, PATIENCE).await {
            Ok(Response::Failed(why)) => Err(why),
            Ok(response) => Ok(response),
            Err(Unanswered::NotConnected) => Err(unavailable(what)),
            Err(Unanswered::Lost) => {
                let message = format!("Cannot perform {what}: lost contact with primary replica");
                Err(if what == "read" {
                    ReqlError::failed(message)
                } else {
                    ReqlError::indeterminate(message)
                })
            }
        }
    }

    /// Nobody leads a table: the words of a primary that is cut off, or of anybody else.
    fn leaderless(&self, table: &str, what: &str) -> ReqlError {
        let config = self.metadata().tables.remove(table).and_then(|entry| entry.config);
        let cut_off = |config: TableConfig| config.primary == self.id && !config.is_quorum(&self.connected());
        if !config.is_some_and(cut_off) {
            return unavailable(what);
        }
        let hint = match what {
            "read" => {
                "The read was not performed, you can do an outdated read using `read_mode=\"outdated\"`."
            }
            _ => "The write was not performed.",
        };
        ReqlError::failed(format!(
            "Cannot perform {what}: The primary replica isn't connected to a quorum of replicas. {hint}"
        ))
    }

    /// Reads rows of a table, wherever they are.
    ///
    /// # Errors
    /// Nobody can answer for them.
    pub async fn read(
        self: &Arc<Self>,
        table: &str,
        key: Option<String>,
        outdated: bool,
    ) -> Result<Vec<Value>> {
        let table = table.to_owned();
        if outdated {
            return self.read_any(table, key).await;
        }
        let request = Request::Read { table: table.clone(), key, outdated };
        match self.ask_leader(&table, "read", request).await? {
            Response::Rows(rows) => Ok(rows),
            _ => Err(unavailable("read")),
        }
    }

    async fn read_any(self: &Arc<Self>, table: String, key: Option<String>) -> Result<Vec<Value>> {
        let config = self.metadata().tables.remove(&table).and_then(|entry| entry.config);
        let replicas = config.map(|config| config.order()).unwrap_or_default();
        let connected = self.connected();
        for replica in replicas.into_iter().filter(|replica| connected.contains(replica)) {
            let request = Request::Read { table: table.clone(), key: key.clone(), outdated: true };
            if let Ok(Response::Rows(rows)) = self.ask(&replica, request, PATIENCE).await {
                return Ok(rows);
            }
        }
        Err(ReqlError::failed("Cannot perform read: no replica is available"))
    }

    /// Writes rows of a table, wherever they are.
    ///
    /// # Errors
    /// Nobody can take them, or nobody knows whether they were taken.
    pub async fn write(self: &Arc<Self>, table: &str, write: Write) -> Result<Value> {
        let request = Request::Write { table: table.to_owned(), write };
        match self.ask_leader(table, "write", request).await? {
            Response::Written(result) => Ok(result),
            _ => Err(unavailable("write")),
        }
    }

    /// Changes a table's configuration.
    ///
    /// # Errors
    /// Its leader cannot, or nobody knows whether it did.
    pub async fn reconfigure(self: &Arc<Self>, config: TableConfig) -> Result<()> {
        let table = config.id.clone();
        let (leader, _) = self.leader(&table).ok_or_else(lead::unreachable)?;
        match self.ask(&leader, Request::Reconfigure { config: Box::new(config) }, PATIENCE).await {
            Ok(Response::Done) => Ok(()),
            Ok(Response::Failed(why)) => Err(why),
            Ok(_) | Err(Unanswered::NotConnected) => Err(lead::unreachable()),
            Err(Unanswered::Lost) => Err(ReqlError::indeterminate("lost contact")),
        }
    }

    /// Rows and changes of a table that this server leads.
    ///
    /// # Errors
    /// It does not lead it.
    pub async fn subscribe_here(&self, table: &str) -> Result<Feed> {
        self.command(table, "read", |reply| Command::Subscribe { reply }).await
    }

    /// Rows and changes of a table, wherever it is led.
    ///
    /// # Errors
    /// Nobody leads it.
    pub async fn subscribe(self: &Arc<Self>, table: &str) -> Result<(Vec<Value>, TableFeed)> {
        let (leader, _) = self.leader(table).ok_or_else(|| unavailable("read"))?;
        if leader == self.id {
            let (rows, changes) = self.subscribe_here(table).await?;
            return Ok((rows, TableFeed::Here(changes)));
        }
        let peer = self.peer(&leader).ok_or_else(|| unavailable("read"))?;
        match peer.subscribe(Request::Subscribe { table: table.into() }, PATIENCE).await {
            Ok((Response::Rows(rows), changes)) => Ok((rows, TableFeed::There(changes))),
            Ok((Response::Failed(why), _)) => Err(why),
            _ => Err(unavailable("read")),
        }
    }

    /// Makes the copies of a new table and tells the cluster of it.
    ///
    /// # Errors
    /// One of its replicas cannot take it; nothing is left then.
    pub async fn create_table(self: &Arc<Self>, config: TableConfig) -> Result<()> {
        let snapshot =
            Snapshot { position: Position::default(), config: config.clone(), rows: BTreeMap::new() };
        for replica in &config.replicas {
            let request = Request::Install { term: Term::default(), snapshot: Box::new(snapshot.clone()) };
            let answer = self.ask(replica, request, PATIENCE).await;
            // Refused by one that a leader of the new table was quicker to give its copy.
            let there = matches!(answer, Ok(Response::Verdict(Verdict::Accepted | Verdict::Refused { .. })));
            if !there {
                self.publish_table(Position::default(), config.clone());
                self.drop_table(&config.id).map_err(|why| ReqlError::from(&why))?;
                return Err(lead::unreachable());
            }
        }
        self.publish_table(Position::default(), config);
        Ok(())
    }
}

/// Changes of a table, from this server or another.
pub enum TableFeed {
    /// This server leads it.
    Here(broadcast::Receiver<Changes>),
    /// Another does.
    There(mpsc::Receiver<Vec<RowChange>>),
}

impl TableFeed {
    /// The next batch; none once the feed has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<RowChange>> {
        match self {
            Self::Here(changes) => changes.recv().await.ok().map(|batch| batch.to_vec()),
            Self::There(changes) => changes.recv().await,
        }
    }

    /// What is there already, without waiting.
    pub fn ready(&mut self) -> Option<Vec<RowChange>> {
        match self {
            Self::Here(changes) => changes.try_recv().ok().map(|batch| batch.to_vec()),
            Self::There(changes) => changes.try_recv().ok(),
        }
    }
}
