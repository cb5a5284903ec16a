//! One server: what it holds, whom it knows, and how questions reach the server that can answer them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster::{
        ServerId,
        link::{Peer, Unanswered},
        message::{Frame, GREETING, Hello, Lead, Presence, Process, Request, Response},
        metadata::{DatabaseEntry, Metadata, TableEntry, UserEntry},
        tls::ClusterTls,
    },
    disk,
    reql::{ReqlError, Result},
    settings::Settings,
    table::{
        Members, TableConfig,
        lead::{self, Changes, Command, Feed, TableHandle, read_rows, unavailable},
        replica::{Position, Replica, RowChange, Snapshot, Term, Verdict},
        write::Write,
    },
    wire::scram::Password,
};

/// What this program says it is; a page or a query shows it to whoever wonders.
pub const VERSION: &str = "stand-in 2.4.4";
/// How long a query waits for the server that leads its table.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a data directory says of the server that owns it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Made with the directory.
    pub id: ServerId,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
}

/// A running server.
pub struct Server {
    /// Its id.
    pub id: ServerId,
    /// How it was started.
    pub settings: Settings,
    /// TLS between servers.
    pub cluster_tls: Option<ClusterTls>,
    /// Ends everything.
    pub stop: CancellationToken,
    /// Everything that runs.
    pub tasks: TaskTracker,
    directory: PathBuf,
    process: String,
    facts: Process,
    addresses: BTreeSet<String>,
    identity: Mutex<Identity>,
    metadata: Mutex<Metadata>,
    /// The link to each connected server. Locked before `seen` where both are.
    peers: Mutex<BTreeMap<ServerId, Arc<Peer>>>,
    /// What connected servers last said of themselves.
    seen: Mutex<BTreeMap<ServerId, Presence>>,
    /// Version of what this one last said of itself. Locked before all others.
    announced: Mutex<u64>,
    tables: Mutex<BTreeMap<String, Arc<TableHandle>>>,
    leads: Mutex<BTreeMap<String, Lead>>,
    /// Addresses that turned out to be this server's own.
    own: Mutex<BTreeSet<String>>,
    failed: Mutex<BTreeMap<String, String>>,
    changed: watch::Sender<u64>,
}

const METADATA: &str = "metadata";
const IDENTITY: &str = "server.json";
const TABLES: &str = "tables";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a data directory for a new server.
///
/// # Errors
/// The file system refuses.
pub fn create(directory: &Path, identity: &Identity, metadata: &Metadata) -> io::Result<()> {
    std::fs::create_dir_all(directory.join(TABLES))?;
    disk::replace_json(&directory.join(METADATA), metadata)?;
    // Last: its presence says that the directory is whole.
    disk::replace_json(&directory.join(IDENTITY), identity)
}

/// Whether a data directory is there.
pub fn exists(directory: &Path) -> bool {
    directory.join(IDENTITY).is_file()
}

impl Server {
    /// Reads the data directory and starts leading what it should.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn open(
        settings: Settings,
        facts: Process,
        addresses: BTreeSet<String>,
        cluster_tls: Option<ClusterTls>,
        stop: CancellationToken,
    ) -> io::Result<Arc<Self>> {
        let directory = settings.directory.clone();
        let identity: Identity = disk::read_json(&directory.join(IDENTITY))?;
        let mut metadata: Metadata = disk::read_json(&directory.join(METADATA))?;
        if let Some(password) = &settings.initial_password {
            let admin = metadata.users.entry("admin".into()).or_insert_with(no_password);
            if admin.version == 0 {
                *admin = UserEntry { version: 1, password: Password::new(password) };
            }
        }
        let server = Arc::new(Self {
            id: identity.id.clone(),
            settings,
            cluster_tls,
            stop,
            tasks: TaskTracker::new(),
            process: uuid::Uuid::new_v4().to_string(),
            facts,
            addresses,
            identity: Mutex::new(identity),
            metadata: Mutex::new(metadata),
            peers: Mutex::default(),
            seen: Mutex::default(),
            announced: Mutex::default(),
            tables: Mutex::default(),
            leads: Mutex::default(),
            own: Mutex::default(),
            failed: Mutex::default(),
            changed: watch::Sender::new(0),
            directory,
        });
        server.change_metadata(|_| {});
        server.open_tables()?;
        Ok(server)
    }

    fn open_tables(self: &Arc<Self>) -> io::Result<()> {
        let metadata = self.metadata();
        for entry in std::fs::read_dir(self.directory.join(TABLES))? {
            let folder = entry?.path();
            // A copy whose making or removal was cut short has no snapshot.
            let Ok(replica) = Replica::open(&folder) else {
                self.log(&format!("Removing {}: it is not a whole table", folder.display()));
                Replica::remove(&folder)?;
                continue;
            };
            let state = replica.state();
            let unwanted = match metadata.tables.get(&state.config.id) {
                Some(TableEntry { config: None, .. }) => true,
                Some(entry) => !state.config.members().contains(&self.id) && entry.position >= state.position,
                None => false,
            };
            if unwanted {
                Replica::remove(&folder)?;
            } else {
                self.add_table(folder, replica);
            }
        }
        Ok(())
    }

    fn add_table(self: &Arc<Self>, folder: PathBuf, replica: Replica) {
        let (handle, commands) = TableHandle::new(folder, replica, self.stop.child_token());
        if lock(&self.tables).insert(handle.id.clone(), Arc::clone(&handle)).is_none() {
            self.tasks.spawn(lead::run(Arc::clone(self), handle, commands));
        }
    }

    /// Writes a line for whoever reads the journal.
    pub fn log(&self, line: &str) {
        eprintln!("{line}");
    }

    /// Seconds since 1970.
    pub fn now(&self) -> f64 {
        now()
    }

    /// Wakes at every change of the cluster.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says that something changed.
    pub fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    // --- who is there ---

    /// What this server says first on a link.
    pub fn hello(&self) -> Hello {
        Hello {
            greeting: GREETING.into(),
            id: self.id.clone(),
            process: self.process.clone(),
            addresses: self.addresses.iter().cloned().collect(),
        }
    }

    /// What this server says of itself.
    pub fn presence(&self) -> Presence {
        self.presence_as(0)
    }

    fn presence_as(&self, version: u64) -> Presence {
        let Identity { id, name, tags } = lock(&self.identity).clone();
        let connected = lock(&self.peers).keys().cloned().collect();
        let leads = lock(&self.leads).clone();
        Presence { version, id, name, tags, connected, leads, process: self.facts.clone() }
    }

    /// Takes what a connected server says of itself.
    pub fn hear(&self, from: &Hello, presence: Presence) {
        let peers = lock(&self.peers);
        if peers.get(&from.id).is_none_or(|current| current.hello.process != from.process) {
            return;
        }
        let mut seen = lock(&self.seen);
        if seen.get(&from.id).is_none_or(|known| known.version < presence.version) {
            seen.insert(from.id.clone(), presence);
        }
        drop((seen, peers));
        self.touch();
    }

    /// Every connected server, this one first: what it says of itself, and since when it is connected.
    pub fn presences(&self) -> Vec<(Presence, f64)> {
        let peers = lock(&self.peers).clone();
        let seen = lock(&self.seen).clone();
        let others = seen.into_values().filter_map(|presence| {
            let since = peers.get(&presence.id)?.since;
            Some((presence, since))
        });
        std::iter::once((self.presence(), self.facts.time_started)).chain(others).collect()
    }

    /// Connected servers, this one included.
    pub fn connected(&self) -> Members {
        lock(&self.seen).keys().cloned().chain([self.id.clone()]).collect()
    }

    fn peer(&self, id: &str) -> Option<Arc<Peer>> {
        lock(&self.peers).get(id).cloned()
    }

    fn tell_all(&self, frame: impl Fn() -> Frame) {
        let peers: Vec<Arc<Peer>> = lock(&self.peers).values().cloned().collect();
        for peer in peers {
            peer.tell(frame());
        }
    }

    fn announce(&self) {
        // One at a time, so that what is sent last is what is so.
        let mut version = lock(&self.announced);
        *version += 1;
        let presence = self.presence_as(*version);
        self.tell_all(|| Frame::Presence(Box::new(presence.clone())));
        drop(version);
        self.touch();
    }

    /// Makes a link the one to its server, unless there is a better one.
    pub fn add_peer(&self, peer: &Arc<Peer>) -> bool {
        let id = &peer.hello.id;
        if *id == self.id {
            return false;
        }
        let mut peers = lock(&self.peers);
        if let Some(there) = peers.get(id) {
            // Both ends prefer the link that the smaller id opened; a newer process or link of it wins.
            let preferred = (&self.id).min(id);
            let same_process = there.hello.process == peer.hello.process;
            let better = peer.dialer == *preferred || there.dialer == peer.dialer;
            if same_process && !there.gone.is_cancelled() && !better {
                return false;
            }
            // A link of the same process is left to finish what is under way on it.
            if !same_process {
                there.gone.cancel();
                lock(&self.seen).remove(id);
            }
        }
        peers.insert(id.clone(), Arc::clone(peer));
        drop(peers);
        let addresses: BTreeSet<String> = peer.hello.addresses.iter().cloned().collect();
        self.change_metadata(|metadata| {
            // Another server at the same address has taken the place of one that is no more.
            metadata.addresses.retain(|other, known| other == id || known.is_disjoint(&addresses));
            metadata.addresses.insert(id.clone(), addresses);
        });
        self.log(&format!("Connected to server {id}"));
        self.announce();
        true
    }

    /// Forgets a link that has ended.
    pub fn remove_peer(&self, peer: &Arc<Peer>) {
        let mut peers = lock(&self.peers);
        if peers.get(&peer.hello.id).is_some_and(|there| Arc::ptr_eq(there, peer)) {
            peers.remove(&peer.hello.id);
            lock(&self.seen).remove(&peer.hello.id);
            drop(peers);
            self.log(&format!("Disconnected from server {}", peer.hello.id));
            self.announce();
        }
    }

    /// Addresses of servers that are known but not connected.
    pub fn addresses_to_dial(&self) -> BTreeSet<String> {
        let mut addresses: BTreeSet<String> = self.settings.join.iter().cloned().collect();
        addresses.extend(self.metadata().addresses.into_values().flatten());
        let connected: Vec<Arc<Peer>> = lock(&self.peers).values().cloned().collect();
        for peer in connected {
            for address in &peer.hello.addresses {
                addresses.remove(address);
            }
        }
        for own in self.addresses.iter().chain(lock(&self.own).iter()) {
            addresses.remove(own);
        }
        addresses
    }

    /// An address turned out to be this server's.
    pub fn is_me(&self, address: &str) {
        lock(&self.own).insert(address.into());
    }

    /// A server could not be reached; said once for each reason.
    pub fn dial_failed(&self, address: &str, why: &io::Error) {
        let why = why.to_string();
        if lock(&self.failed).insert(address.into(), why.clone()).as_ref() != Some(&why) {
            self.log(&format!("Cannot reach {address}: {why}"));
        }
    }

    // --- what all servers know ---

    /// What this server knows of the cluster.
    pub fn metadata(&self) -> Metadata {
        lock(&self.metadata).clone()
    }

    /// Changes what the cluster knows; on disk here when this returns, with the others soon.
    pub fn change_metadata(&self, change: impl FnOnce(&mut Metadata)) {
        let mut metadata = lock(&self.metadata);
        let before = metadata.clone();
        change(&mut metadata);
        let after = metadata.clone();
        let path = self.directory.join(METADATA);
        if (before != after || !path.exists())
            && let Err(why) = disk::blocking(|| disk::replace_json(&path, &after))
        {
            self.log(&format!("Cannot write {}: {why}", path.display()));
        }
        drop(metadata);
        if before != after {
            self.tell_all(|| Frame::Gossip(Box::new(after.clone())));
            self.touch();
        }
    }

    /// Takes over what another server knows better.
    pub fn learn(&self, theirs: &Metadata) {
        self.change_metadata(|metadata| {
            metadata.merge(theirs);
        });
        self.drop_unwanted_tables();
    }

    fn drop_unwanted_tables(&self) {
        let metadata = self.metadata();
        let handles: Vec<Arc<TableHandle>> = lock(&self.tables).values().cloned().collect();
        for handle in handles {
            let unwanted = match metadata.tables.get(&handle.id) {
                None => false,
                Some(TableEntry { config: None, .. }) => true,
                Some(TableEntry { config: Some(config), position }) => {
                    !config.members().contains(&self.id)
                        && *position > handle.with(|replica| replica.state().position)
                }
            };
            if unwanted {
                self.remove_table(&handle.id);
            }
        }
    }

    fn remove_table(&self, id: &str) {
        let Some(handle) = lock(&self.tables).remove(id) else { return };
        if let Err(why) = handle.remove() {
            self.log(&format!("Cannot remove table {id}: {why}"));
        }
        self.set_lead(id, None);
    }

    /// Says what a table's configuration is now.
    pub fn publish_table(&self, position: Position, config: TableConfig) {
        self.change_metadata(|metadata| {
            let entry = TableEntry { position, config: Some(config.clone()) };
            let newer = Metadata { tables: [(config.id.clone(), entry)].into(), ..Metadata::default() };
            metadata.merge(&newer);
        });
    }

    /// Makes a database.
    pub fn create_database(&self, name: &str) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        self.change_metadata(|metadata| {
            metadata.databases.insert(id.clone(), DatabaseEntry { version: 1, name: Some(name.into()) });
        });
        id
    }

    /// Drops a table everywhere.
    pub fn drop_table(&self, id: &str) {
        self.change_metadata(|metadata| {
            if let Some(entry) = metadata.tables.get_mut(id) {
                entry.config = None;
            }
        });
        self.drop_unwanted_tables();
    }

    /// Changes name and tags of this server.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn rename(&self, name: String, tags: Vec<String>) -> io::Result<()> {
        let identity = Identity { id: self.id.clone(), name, tags };
        disk::blocking(|| disk::replace_json(&self.directory.join(IDENTITY), &identity))?;
        *lock(&self.identity) = identity;
        self.announce();
        Ok(())
    }

    // --- who leads what ---

    /// This server's part of the terms in which it leads.
    pub fn term_id(&self) -> (u64, u64) {
        uuid::Uuid::parse_str(&self.id).map(|id| id.as_u64_pair()).unwrap_or_default()
    }

    /// Says whether this server leads a table.
    pub fn set_lead(&self, table: &str, lead: Option<Lead>) {
        let mut leads = lock(&self.leads);
        let before = leads.get(table).cloned();
        if before == lead {
            return;
        }
        match lead {
            Some(lead) => leads.insert(table.into(), lead),
            None => leads.remove(table),
        };
        drop(leads);
        self.announce();
    }

    /// The connected server that leads a table in the newest term.
    pub fn leader(&self, table: &str) -> Option<(ServerId, Lead)> {
        let leads = self
            .presences()
            .into_iter()
            .filter_map(|(presence, _)| Some((presence.id, presence.leads.get(table).cloned()?)));
        leads.max_by_key(|(_, lead)| lead.term)
    }

    // --- questions ---

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
                self.drop_table(&config.id);
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

/// Seconds since 1970, to the millisecond as the real server gives it.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1000.0
}

/// The admin as a new cluster has it.
pub fn no_password() -> UserEntry {
    UserEntry { version: 0, password: Password::new("") }
}
