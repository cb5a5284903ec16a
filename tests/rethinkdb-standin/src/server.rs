//! One server: what it holds, whom it knows, and how questions reach the server that can answer them.

mod knowledge;
mod members;
mod questions;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use questions::TableFeed;

use crate::{
    cluster::{
        ServerId,
        link::Peer,
        message::{Lead, Presence, Process},
        metadata::{Metadata, TableEntry, UserEntry},
        tls::ClusterTls,
    },
    disk,
    settings::Settings,
    table::{
        lead::{self, TableHandle},
        replica::Replica,
    },
    wire::scram::Password,
};

/// What this program says it is; a page or a query shows it to whoever wonders.
pub const VERSION: &str = "stand-in 2.4.4";

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
                disk::replace_json(&directory.join(METADATA), &metadata)?;
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
        server.open_tables()?;
        Ok(server)
    }

    fn open_tables(self: &Arc<Self>) -> io::Result<()> {
        let metadata = self.metadata();
        for entry in std::fs::read_dir(self.directory.join(TABLES))? {
            let folder = entry?.path();
            if !Replica::exists(&folder) {
                self.log(&format!("Removing {}: its making or removal was cut short", folder.display()));
                Replica::remove(&folder)?;
                continue;
            }
            // Anything else that is wrong is for a person to look at: nothing is removed, and nothing started.
            let replica = Replica::open(&folder)?;
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
