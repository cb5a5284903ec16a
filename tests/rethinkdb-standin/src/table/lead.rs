//! Who leads a table.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    TableConfig,
    leader::Leader,
    replica::{Replica, RowChange, Snapshot},
    write::Write,
};
use crate::{
    disk,
    reql::{ReqlError, Result},
    server::Server,
    wire::scram::random,
};

/// Time between looks at who should lead, besides every change of the cluster.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For how long the better candidates are given the chance to lead, each.
const TURN: Duration = Duration::from_secs(3);
/// Commands waiting for the leader.
const WAITING: usize = 256;
/// Changes of one write.
pub type Changes = Arc<Vec<RowChange>>;
/// The rows of a table, then its changes.
pub type Feed = (Vec<Value>, broadcast::Receiver<Changes>);

/// What the leader of a table is asked for.
pub enum Command {
    /// Rows: one by its key, or all.
    Read { key: Option<String>, reply: oneshot::Sender<Result<Vec<Value>>> },
    /// A write.
    Write { write: Write, reply: oneshot::Sender<Result<Value>> },
    /// Another configuration.
    Reconfigure { config: TableConfig, reply: oneshot::Sender<Result<()>> },
    /// Rows and changes.
    Subscribe { reply: oneshot::Sender<Result<Feed>> },
}

/// A table this server has a copy of.
pub struct TableHandle {
    /// Its id.
    pub id: String,
    /// To its leader, should that be this server.
    pub commands: mpsc::Sender<Command>,
    /// Ends the work on it.
    pub stop: CancellationToken,
    folder: PathBuf,
    replica: Mutex<Replica>,
    bumped: watch::Sender<()>,
}

impl TableHandle {
    /// Wraps a copy; the commands are for [`run`].
    pub fn new(
        folder: PathBuf,
        replica: Replica,
        stop: CancellationToken,
    ) -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (commands, waiting) = mpsc::channel(WAITING);
        let id = replica.state().config.id.clone();
        let handle =
            Self { id, commands, stop, folder, replica: Mutex::new(replica), bumped: watch::Sender::new(()) };
        (Arc::new(handle), waiting)
    }

    /// Works on the copy; may take as long as the disk does.
    pub fn with<T>(&self, work: impl FnOnce(&mut Replica) -> T) -> T {
        disk::blocking(|| work(&mut self.replica.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Works on the copy at another leader's wish; the one here looks up afterwards.
    pub fn with_foreign<T>(&self, work: impl FnOnce(&mut Replica) -> T) -> T {
        let done = self.with(work);
        self.bumped.send_replace(());
        done
    }

    /// Removes the copy.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove(&self) -> io::Result<()> {
        self.stop.cancel();
        self.with(|_| Replica::remove(&self.folder))
    }
}

/// Leads the table whenever it is this server's turn.
pub async fn run(server: Arc<Server>, table: Arc<TableHandle>, mut commands: mpsc::Receiver<Command>) {
    let mut changed = server.changes();
    let mut bumped = table.bumped.subscribe();
    let mut leaderless = Instant::now();
    let mut rest = Rest::default();
    loop {
        if server.leader(&table.id).is_some() {
            leaderless = Instant::now();
        }
        let config = table.with(|replica| replica.state().config.clone());
        if rest.is_over() && my_turn(&server, &config, leaderless.elapsed()) {
            if let Some(mut leader) = Leader::campaign(&server, &table).await {
                server.log(&format!("Table {}: leading in term {}.", table.id, leader.term.number));
                leader.serve(&mut commands, &mut changed, &mut bumped).await;
                server.log(&format!("Table {}: no longer leading in term {}.", table.id, leader.term.number));
                server.set_lead(&table.id, None);
                leaderless = Instant::now();
                rest = Rest::default();
            }
            rest.begin();
        }
        tokio::select! {
            () = table.stop.cancelled() => return,
            command = commands.recv() => match command {
                Some(command) => refuse(command),
                None => return,
            },
            _ = changed.changed() => {}
            _ = bumped.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY.min(rest.left())) => {}
        }
    }
}

/// Time between campaigns. Two that campaign at once spoil it for each other; chance tells them apart.
#[derive(Default)]
struct Rest {
    campaigns: u32,
    until: Option<Instant>,
}

impl Rest {
    const SHORTEST: Duration = Duration::from_millis(20);
    const MOST_DOUBLINGS: u32 = 5;

    fn begin(&mut self) {
        let longest = Self::SHORTEST * 2_u32.pow(self.campaigns.min(Self::MOST_DOUBLINGS));
        let [chance] = random::<1>();
        self.until = Some(Instant::now() + longest.mul_f64(f64::from(chance) / 255.0));
        self.campaigns += 1;
    }

    fn left(&self) -> Duration {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        left.filter(|left| !left.is_zero()).unwrap_or(LOOK_EVERY)
    }

    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }
}

/// The first connected replica leads; the others only if it has not managed to for a while.
fn my_turn(server: &Server, config: &TableConfig, leaderless: Duration) -> bool {
    let connected = server.connected();
    if !config.is_quorum(&connected) {
        return false;
    }
    let candidates = config.order().into_iter().filter(|candidate| connected.contains(candidate));
    let place = candidates.into_iter().position(|candidate| candidate == server.id);
    place.is_some_and(|place| leaderless >= TURN * u32::try_from(place).unwrap_or(u32::MAX))
}

fn refuse(command: Command) {
    let read = || unavailable("read");
    // Whoever asked may have gone.
    match command {
        Command::Read { reply, .. } => drop(reply.send(Err(read()))),
        Command::Write { reply, .. } => drop(reply.send(Err(unavailable("write")))),
        Command::Reconfigure { reply, .. } => drop(reply.send(Err(unreachable()))),
        Command::Subscribe { reply } => drop(reply.send(Err(read()))),
    }
}

/// The real server's words for a table nobody leads.
pub fn unavailable(what: &str) -> ReqlError {
    ReqlError::failed(format!("Cannot perform {what}: primary replica for shard [\"\", +inf) not available"))
}

/// A configuration cannot be changed now; the caller says which table.
pub fn unreachable() -> ReqlError {
    ReqlError::failed("unreachable")
}

/// One row or all of a copy.
pub fn read_rows(state: &Snapshot, key: Option<&str>) -> Vec<Value> {
    match key {
        Some(key) => state.rows.get(key).cloned().into_iter().collect(),
        None => {
            // The real server's order is that of hashes: nobody may come to rely on a sorted one.
            let mut rows: Vec<(u64, &Value)> =
                state.rows.iter().map(|(key, row)| (scatter(key), row)).collect();
            rows.sort_by_key(|(place, _)| *place);
            rows.into_iter().map(|(_, row)| row.clone()).collect()
        }
    }
}

/// FNV-1a.
fn scatter(key: &str) -> u64 {
    key.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
