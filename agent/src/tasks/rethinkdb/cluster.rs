//! The cluster as this node's own server tells it, and the few things that are changed through it.
//!
//! Asked over loopback, where the driver port is open to nobody else.

#[cfg(test)]
pub(crate) mod fake;
mod reading;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use async_trait::async_trait;
use fleet_reql::{Connection, Options, Replicas, ReqlError, ServerErrorKind, Shape, WaitFor, db, db_create};
use serde_json::json;
use tokio::net::TcpStream;

/// Where drivers connect.
const DRIVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 28015);
/// Where servers of one cluster meet.
pub(crate) const CLUSTER_PORT: u16 = 29015;
/// How long a member may take to accept a connection.
const KNOCK: Duration = Duration::from_secs(3);
/// How long the own server may take to accept one.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a query may take. System tables that ask a server that has just died without a word hang for 15 s.
const QUERY: Duration = Duration::from_secs(25);
/// How long a change of replicas may take before the rest is left to the next look.
const READY: Duration = Duration::from_secs(60);

/// What the own server says of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Id of the own server.
    pub(crate) own: String,
    /// Every server connected, the own one included.
    pub(crate) servers: Vec<Server>,
    /// Names of servers that are listed without a word of how they are: neither there nor away.
    pub(crate) unclear: Vec<String>,
    /// What RethinkDB itself finds wrong, in its own words.
    pub(crate) issues: Vec<String>,
}

/// One connected server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Without the one every server has.
    pub(crate) tags: BTreeSet<String>,
    /// What it tells its peers to dial.
    pub(crate) addresses: Vec<String>,
}

impl View {
    /// The own server.
    pub(crate) fn own(&self) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == self.own)
    }

    /// Whether a server of that name is connected.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.servers.iter().any(|server| server.name == name)
    }

    /// The connected server of this id.
    pub(crate) fn of(&self, id: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// Those of these members that are not there, or not known to be.
    pub(crate) fn missing<'a>(&self, members: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        members.into_iter().filter(|name| !self.has(name)).collect()
    }

    /// Names that more than one server has: a replica's id is then the only way to tell them apart.
    pub(crate) fn twice(&self) -> BTreeSet<&str> {
        let names = self.servers.iter().map(|server| server.name.as_str());
        names.filter(|name| self.servers.iter().filter(|other| other.name == **name).count() > 1).collect()
    }
}

/// How a table is laid out, and how its replicas are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Replicas of each shard; `None` if none of them can be asked, so that nobody knows.
    pub(crate) shards: Option<Vec<Vec<Replica>>>,
    /// Whether every replica is ready.
    pub(crate) ready: bool,
    /// Whether it takes writes.
    pub(crate) writable: bool,
    /// When a write counts as done; `hard` is on disk.
    pub(crate) durability: String,
    /// How many replicas acknowledge a write.
    pub(crate) write_acks: String,
}

/// One replica. Which server it is on is told by the id alone: a name is a label that another machine may have now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replica {
    /// Id of its server.
    pub(crate) server: String,
    /// What its server was called when the table was laid out.
    pub(crate) name: String,
    /// In RethinkDB's word; `None` if it says nothing of it.
    pub(crate) state: Option<String>,
}

/// A table, and over which servers its replicas are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) database: String,
    pub(crate) table: String,
    /// How many replicas on servers of each tag.
    pub(crate) replicas: BTreeMap<String, u32>,
    /// Tag of the server of the primary one.
    pub(crate) primary: String,
}

/// The way to a cluster.
#[async_trait]
pub(crate) trait Cluster: Send + Sync + fmt::Debug {
    /// Whether somebody accepts connections of servers at this address now.
    async fn answers(&self, address: IpAddr) -> bool;
    /// What the own server says.
    async fn view(&self) -> Result<View, ReqlError>;
    /// Gives a server its name and tags.
    async fn label(&self, id: &str, name: &str, tags: &BTreeSet<String>) -> Result<(), ReqlError>;
    /// The table, if database and table exist.
    async fn table(&self, database: &str, table: &str) -> Result<Option<Layout>, ReqlError>;
    /// Creates a database, if there is none, and a table in it, if there is none.
    async fn create(&self, spread: &Spread) -> Result<(), ReqlError>;
    /// Lays the replicas of a table out anew.
    async fn reconfigure(&self, spread: &Spread) -> Result<(), ReqlError>;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loopback;

impl Loopback {
    async fn open() -> Result<Connection, ReqlError> {
        let options = Options { connect: CONNECT, deadline: QUERY, ..Options::default() };
        Connection::open(DRIVER, &options).await
    }
}

fn laid_out(spread: &Spread) -> Shape {
    let Spread { replicas, primary, .. } = spread;
    Shape::one_shard(Replicas::ByTag { replicas: replicas.clone(), primary: primary.clone() })
}

#[async_trait]
impl Cluster for Loopback {
    async fn answers(&self, address: IpAddr) -> bool {
        let knock = TcpStream::connect(SocketAddr::new(address, CLUSTER_PORT));
        matches!(tokio::time::timeout(KNOCK, knock).await, Ok(Ok(_)))
    }

    async fn view(&self) -> Result<View, ReqlError> {
        let connection = Self::open().await?;
        let own = connection.server_info().await?.id;
        let view = reading::view(&connection, own).await?;
        connection.close().await;
        Ok(view)
    }

    async fn label(&self, id: &str, name: &str, tags: &BTreeSet<String>) -> Result<(), ReqlError> {
        let connection = Self::open().await?;
        let mut tags = tags.clone();
        tags.insert("default".into());
        let row = db("rethinkdb").table("server_config").get(id);
        let written: fleet_reql::Written =
            connection.run(row.update(json!({ "name": name, "tags": tags }))).await?;
        connection.close().await;
        match written.first_error {
            Some(words) => Err(ReqlError::Decode(words.into())),
            None => Ok(()),
        }
    }

    async fn table(&self, database: &str, table: &str) -> Result<Option<Layout>, ReqlError> {
        let connection = Self::open().await?;
        let layout = reading::table(&connection, database, table).await?;
        connection.close().await;
        Ok(layout)
    }

    async fn create(&self, spread: &Spread) -> Result<(), ReqlError> {
        let Spread { database, table, .. } = spread;
        let connection = Self::open().await?;
        there(connection.run(db_create(database)).await)?;
        there(connection.run(db(database).table_create(table, &laid_out(spread))).await)?;
        ready(&connection, database, table).await
    }

    async fn reconfigure(&self, spread: &Spread) -> Result<(), ReqlError> {
        let Spread { database, table, .. } = spread;
        let connection = Self::open().await?;
        let change = db(database).table(table).reconfigure(&laid_out(spread));
        connection.run_within::<serde_json::Value>(change, READY).await?;
        ready(&connection, database, table).await
    }
}

async fn ready(connection: &Connection, database: &str, table: &str) -> Result<(), ReqlError> {
    let wait = db(database).table(table).wait(WaitFor::AllReplicas, READY);
    connection.run_within::<serde_json::Value>(wait, READY + QUERY).await?;
    connection.close().await;
    Ok(())
}

/// "It exists already" is what was wanted; the server has no number of its own for that.
fn there(result: Result<serde_json::Value, ReqlError>) -> Result<(), ReqlError> {
    match result {
        Err(error)
            if error.server_kind() == Some(ServerErrorKind::OpFailed)
                && error.to_string().contains("already exists") =>
        {
            Ok(())
        }
        result => result.map(|_| ()),
    }
}
