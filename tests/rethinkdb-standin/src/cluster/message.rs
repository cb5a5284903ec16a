//! What servers say to each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ServerId, metadata::Metadata};
use crate::{
    reql::ReqlError,
    table::{
        Members, TableConfig,
        replica::{Position, Record, RowChange, Snapshot, Term, Verdict},
        write::Write,
    },
};

/// First words on a link, so that two programs that are not the same notice at once.
pub const GREETING: &str = "fleet rethinkdb stand-in, cluster protocol 1";

/// Who is on the other end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`GREETING`].
    pub greeting: String,
    /// The server.
    pub id: ServerId,
    /// Its process: another one of the same server takes its place.
    pub process: String,
    /// Where others may dial it.
    pub addresses: Vec<String>,
}

/// One frame.
#[derive(Debug, Serialize, Deserialize)]
pub enum Frame {
    /// A question.
    Request(u64, Box<Request>),
    /// Its answer.
    Response(u64, Response),
    /// Changes for a feed that a request opened.
    Feed(u64, Vec<RowChange>),
    /// The end of a feed, told by either side.
    FeedEnd(u64),
    /// What the sender is doing.
    Presence(Box<Presence>),
    /// What the sender knows of the cluster.
    Gossip(Box<Metadata>),
    /// Still there.
    Ping,
}

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Promise a new term.
    Prepare { table: String, term: Term },
    /// Give a whole copy.
    Fetch { table: String },
    /// Take a whole copy.
    Install { term: Term, snapshot: Box<Snapshot> },
    /// Take a record.
    Append { table: String, term: Term, record: Record },
    /// Read rows: one, or all. Of any copy if `outdated`.
    Read { table: String, key: Option<String>, outdated: bool },
    /// Write rows.
    Write { table: String, write: Write },
    /// Change a table's configuration.
    Reconfigure { config: Box<TableConfig> },
    /// Rows, then changes.
    Subscribe { table: String },
    /// Remove a copy that is no longer wanted.
    Forget { table: String },
    /// Change name and tags of the server that is asked.
    Rename { name: String, tags: Vec<String> },
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Response {
    /// To `Prepare`: what the replica has; none if it has no copy.
    Prepared(Verdict, Option<Position>),
    /// To `Fetch`.
    Copy(Box<Snapshot>),
    /// To `Install` and `Append`.
    Verdict(Verdict),
    /// To `Read` and `Subscribe`.
    Rows(Vec<Value>),
    /// To `Write`.
    Written(Value),
    /// To the rest.
    Done,
    /// It did not work.
    Failed(ReqlError),
}

/// One server as all others see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    /// Grows with each that its process sends: links may overtake each other.
    pub version: u64,
    /// Which.
    pub id: ServerId,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whom it is connected to.
    pub connected: Members,
    /// Tables it leads.
    pub leads: BTreeMap<String, Lead>,
    /// Facts of its process.
    pub process: Process,
}

/// A table that is being led.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    /// In which term.
    pub term: Term,
    /// Replicas that have everything.
    pub ready: Members,
}

/// Facts of a server's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its arguments.
    pub argv: Vec<String>,
    /// Its number.
    pub pid: u32,
    /// Cache size, megabytes.
    pub cache_size_mb: f64,
    /// When it started, seconds since 1970.
    pub time_started: f64,
    /// What it is.
    pub version: String,
    /// Name of its machine.
    pub hostname: String,
    /// Addresses it told others to dial.
    pub canonical_addresses: Vec<(String, u16)>,
    /// Port for servers.
    pub cluster_port: u16,
    /// Port for drivers.
    pub driver_port: u16,
    /// Port of the console.
    pub http_port: Option<u16>,
}
