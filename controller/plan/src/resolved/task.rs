//! What a node's agent does, as the plan says it.

use std::time::Duration;

use fleet_model::NodeName;
use serde::{Deserialize, Serialize};

use super::Template;

/// One task of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Unique on its node.
    pub name: String,
    /// What is done when it differs again after it had converged.
    pub on_drift: OnDrift,
    /// What it does.
    pub work: Work,
}

/// What is done about a task that had converged and differs again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDrift {
    /// Put right at once.
    #[default]
    Repair,
    /// Shown, left as it is.
    Report,
    /// Shown, left as it is, and later tasks wait.
    Hold,
}

/// Kinds of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Keeps the clock.
    Clock(Clock),
    /// Keeps the operating system's packages up to date.
    Update(Update),
    /// Who gets in over SSH.
    Access(Access),
    /// A member of the RethinkDB cluster.
    Rethinkdb(Rethinkdb),
    /// A database with one table.
    Database(Database),
    /// The todo application.
    Todo(Todo),
    /// One file or folder.
    File(File),
    /// Packages of the distribution.
    Package(Packages),
    /// One unit of systemd.
    Service(Service),
    /// One user.
    User(User),
    /// One program.
    Command(Command),
}

impl Work {
    /// The word the plan has for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Clock(_) => "clock",
            Self::Update(_) => "update",
            Self::Access(_) => "access",
            Self::Rethinkdb(_) => "rethinkdb",
            Self::Database(_) => "database",
            Self::Todo(_) => "todo",
            Self::File(_) => "file",
            Self::Package(_) => "package",
            Self::Service(_) => "service",
            Self::User(_) => "user",
            Self::Command(_) => "command",
        }
    }

    /// The file of the operator's host it names, as written.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Rethinkdb(Rethinkdb { package: Package::File(name), .. })
            | Self::File(File { content: Content::Source(name), .. }) => Some(name),
            _ => None,
        }
    }

    /// Its texts with references to nodes.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Self::File(File { content: Content::Text(text), .. }) => vec![text],
            Self::Command(command) => command.args.iter().chain(&command.unless).collect(),
            Self::Clock(clock) => clock.servers.iter().collect(),
            _ => Vec::new(),
        }
    }
}

/// Keeps the clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Time servers; empty leaves those of the distribution.
    pub servers: Vec<Template>,
    /// Health degrades past it.
    pub most_offset: Duration,
}

/// Keeps the operating system's packages up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// How long an update counts as fresh.
    pub every_hours: u32,
    /// Whether a needed reboot is done.
    pub reboot: bool,
}

/// Who gets in over SSH.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// User they log in as.
    pub login: String,
    /// By which keys; never empty.
    pub keys: Vec<Key>,
}

/// A key that opens SSH.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Key {
    /// Those of whoever runs `up`.
    Operator,
    /// A line of authorized_keys.
    Line(String),
}

/// A member of the RethinkDB cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rethinkdb {
    /// The node that founds the cluster.
    pub seed: NodeName,
    /// Where the server comes from.
    pub package: Package,
    /// Memory for its cache in MB; `None` is a share of the node's.
    pub cache_mb: Option<u32>,
}

/// Where the RethinkDB server comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Package {
    /// A package repository.
    Repository(AptRepository),
    /// A package of the operator's host, as written.
    File(String),
}

/// A signed package repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AptRepository {
    /// Its base.
    pub uri: String,
    /// Suite, `bookworm`.
    pub suite: String,
    /// Component, `main`.
    pub component: String,
    /// Where its key is.
    pub key: String,
    /// Of the only key it may be signed with: 40 hex digits, upper case.
    pub fingerprint: String,
}

impl AptRepository {
    /// RethinkDB's own repository for Debian 12. The fingerprint is published in RethinkDB's official container
    /// recipe.
    pub fn official() -> Self {
        Self {
            uri: "https://download.rethinkdb.com/repository/debian-bookworm".into(),
            suite: "bookworm".into(),
            component: "main".into(),
            key: "https://download.rethinkdb.com/repository/raw/pubkey.gpg".into(),
            fingerprint: "539A3A8C6692E6E3F69B3FE81D85E93F801BB43F".into(),
        }
    }
}

/// A database with one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Its table's name.
    pub table: String,
    /// Copies of every row; odd.
    pub replicas: u32,
}

/// The todo application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Todo {
    /// Where it listens.
    pub port: u16,
    /// Its database.
    pub database: String,
    /// Its table.
    pub table: String,
}

/// One file or folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Absolute path on the node.
    pub path: String,
    /// What it is.
    pub content: Content,
    /// Permission bits; `None` is 0644, of a folder 0755.
    pub mode: Option<u32>,
    /// User it belongs to.
    pub owner: String,
    /// Group it belongs to.
    pub group: String,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// This text.
    Text(Template),
    /// The bytes of a file of the operator's host, as written.
    Source(String),
    /// A folder.
    Directory,
    /// Not there.
    Absent,
}

/// Packages of the distribution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// Their names; never empty.
    pub names: Vec<String>,
    /// Removed rather than installed.
    pub absent: bool,
}

/// One unit of systemd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its full name, `nginx.service`.
    pub unit: String,
    /// Runs now, or does not.
    pub running: bool,
    /// Starts with the system, or does not.
    pub enabled: bool,
    /// Files whose change asks for a restart.
    pub restart_on: Vec<String>,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// For a service rather than a person.
    pub system: bool,
    /// Absolute path, or left to the distribution.
    pub shell: Option<String>,
    /// Absolute path, or left to the distribution.
    pub home: Option<String>,
    /// Groups besides its own.
    pub groups: Vec<String>,
    /// Removed rather than made.
    pub absent: bool,
}

/// One program. Never a shell line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; never empty.
    pub args: Vec<Template>,
    /// Done already if this one ends with 0.
    pub unless: Vec<Template>,
    /// Done already if this file exists.
    pub creates: Option<String>,
    /// How long it may take.
    pub timeout: Duration,
}
