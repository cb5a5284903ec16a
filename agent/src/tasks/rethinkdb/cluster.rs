//! The cluster as this node's own server tells it, and the few things that are changed through it.
//!
//! Asked over loopback, where the driver port is open to nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use async_trait::async_trait;
use fleet_reql::{
    Connection, Options, Replicas, ReqlError, ServerErrorKind, Shape, WaitFor, db, db_create, db_list,
};
use serde::Deserialize;
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
}

/// How a table is laid out, and how its replicas are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Replicas of each shard: name of the server, and its state.
    pub(crate) shards: Vec<Vec<(String, String)>>,
    /// Primary replica of each shard.
    pub(crate) primaries: Vec<String>,
    /// Whether every replica is ready.
    pub(crate) ready: bool,
    /// When a write counts as done; `hard` is on disk.
    pub(crate) durability: String,
    /// How many replicas acknowledge a write.
    pub(crate) write_acks: String,
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
    async fn create(
        &self,
        database: &str,
        table: &str,
        replicas: &BTreeMap<String, u32>,
        primary: &str,
    ) -> Result<(), ReqlError>;
    /// Lays the replicas of a table out anew.
    async fn reconfigure(
        &self,
        database: &str,
        table: &str,
        replicas: &BTreeMap<String, u32>,
        primary: &str,
    ) -> Result<(), ReqlError>;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loopback;

#[derive(Deserialize)]
struct StatusRow {
    id: String,
    name: String,
    network: Network,
}

#[derive(Deserialize)]
struct Network {
    #[serde(default)]
    canonical_addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    host: String,
}

#[derive(Deserialize)]
struct ConfigRow {
    id: String,
    #[serde(default)]
    tags: BTreeSet<String>,
}

#[derive(Deserialize)]
struct IssueRow {
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct TableConfig {
    #[serde(default)]
    shards: Vec<ShardConfig>,
    #[serde(default)]
    durability: String,
    #[serde(default)]
    write_acks: serde_json::Value,
}

#[derive(Deserialize)]
struct ShardConfig {
    primary_replica: Option<String>,
    replicas: Vec<String>,
}

#[derive(Deserialize)]
struct TableStatus {
    status: Status,
    /// Absent when no replica can be reached.
    #[serde(default)]
    shards: Option<Vec<ShardStatus>>,
}

#[derive(Deserialize)]
struct Status {
    all_replicas_ready: bool,
}

#[derive(Deserialize)]
struct ShardStatus {
    replicas: Vec<ReplicaStatus>,
}

#[derive(Deserialize)]
struct ReplicaStatus {
    server: String,
    state: String,
}

impl Loopback {
    async fn open() -> Result<Connection, ReqlError> {
        let options = Options { connect: CONNECT, deadline: QUERY, ..Options::default() };
        Connection::open(DRIVER, &options).await
    }
}

fn laid_out(replicas: &BTreeMap<String, u32>, primary: &str) -> Shape {
    Shape::one_shard(Replicas::ByTag { replicas: replicas.clone(), primary: primary.to_owned() })
}

#[async_trait]
impl Cluster for Loopback {
    async fn answers(&self, address: IpAddr) -> bool {
        let knock = TcpStream::connect(SocketAddr::new(address, CLUSTER_PORT));
        matches!(tokio::time::timeout(KNOCK, knock).await, Ok(Ok(_)))
    }

    async fn view(&self) -> Result<View, ReqlError> {
        let connection = Self::open().await?;
        let system = db("rethinkdb");
        let own = connection.server_info().await?.id;
        let status: Vec<StatusRow> = connection.run(system.table("server_status").all()).await?;
        let config: Vec<ConfigRow> = connection.run(system.table("server_config").all()).await?;
        let issues: Vec<IssueRow> = connection.run(system.table("current_issues").all()).await?;
        connection.close().await;
        let tags = |id: &str| {
            let mut tags =
                config.iter().find(|row| row.id == id).map(|row| row.tags.clone()).unwrap_or_default();
            tags.remove("default");
            tags
        };
        let mut servers: Vec<Server> = status
            .into_iter()
            .map(|row| Server {
                tags: tags(&row.id),
                addresses: row.network.canonical_addresses.into_iter().map(|address| address.host).collect(),
                id: row.id,
                name: row.name,
            })
            .collect();
        // The order of the rows means nothing and changes.
        servers.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let mut issues: Vec<String> = issues.into_iter().map(|row| row.description).collect();
        issues.sort();
        Ok(View { own, servers, issues })
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
        let databases: Vec<String> = connection.run(db_list()).await?;
        if !databases.iter().any(|name| name == database) {
            return Ok(None);
        }
        let tables: Vec<String> = connection.run(db(database).table_list()).await?;
        if !tables.iter().any(|name| name == table) {
            return Ok(None);
        }
        let table = db(database).table(table);
        let config: TableConfig = connection.run(table.config()).await?;
        let status: TableStatus = connection.run(table.status()).await?;
        connection.close().await;
        let states = status.shards.unwrap_or_default();
        let shards = config.shards.iter().enumerate().map(|(at, shard)| {
            let state = |server: &String| {
                let replicas = states.get(at).map(|shard| shard.replicas.as_slice()).unwrap_or_default();
                let found = replicas.iter().find(|replica| replica.server == *server);
                found.map_or_else(|| "disconnected".to_owned(), |replica| replica.state.clone())
            };
            shard.replicas.iter().map(|server| (server.clone(), state(server))).collect()
        });
        Ok(Some(Layout {
            shards: shards.collect(),
            primaries: config.shards.iter().filter_map(|shard| shard.primary_replica.clone()).collect(),
            ready: status.status.all_replicas_ready,
            durability: config.durability,
            write_acks: config.write_acks.as_str().unwrap_or("of its own kind").to_owned(),
        }))
    }

    async fn create(
        &self,
        database: &str,
        table: &str,
        replicas: &BTreeMap<String, u32>,
        primary: &str,
    ) -> Result<(), ReqlError> {
        let connection = Self::open().await?;
        there(connection.run(db_create(database)).await)?;
        there(connection.run(db(database).table_create(table, &laid_out(replicas, primary))).await)?;
        ready(&connection, database, table).await
    }

    async fn reconfigure(
        &self,
        database: &str,
        table: &str,
        replicas: &BTreeMap<String, u32>,
        primary: &str,
    ) -> Result<(), ReqlError> {
        let connection = Self::open().await?;
        let change = db(database).table(table).reconfigure(&laid_out(replicas, primary));
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

#[cfg(test)]
pub(crate) mod fake {
    //! A cluster that only exists in a test.

    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use super::*;

    /// What the cluster is like; a test changes it as it likes.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct State {
        /// Addresses at which servers accept.
        pub(crate) answering: BTreeSet<IpAddr>,
        /// What the own server says; nothing means it takes no queries.
        pub(crate) view: Option<View>,
        /// Tables by database and name.
        pub(crate) tables: BTreeMap<(String, String), Layout>,
        /// What was changed, one line each.
        pub(crate) changes: Vec<String>,
        /// Changes fail with these words.
        pub(crate) refuses: Option<String>,
    }

    #[derive(Clone, Debug, Default)]
    pub(crate) struct FakeCluster(Arc<Mutex<State>>);

    impl FakeCluster {
        pub(crate) fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Servers with these names and tags; the first is the own one.
        pub(crate) fn with(servers: &[(&str, &str)]) -> Self {
            let cluster = Self::default();
            cluster.set(servers);
            cluster
        }

        pub(crate) fn set(&self, servers: &[(&str, &str)]) {
            let server = |(name, tag): &(&str, &str)| Server {
                id: format!("id-{name}"),
                name: (*name).into(),
                tags: BTreeSet::from([(*tag).to_owned()]),
                addresses: Vec::new(),
            };
            let servers: Vec<Server> = servers.iter().map(server).collect();
            let own = servers.first().map(|server| server.id.clone()).unwrap_or_default();
            self.state().view = Some(View { own, servers, issues: Vec::new() });
        }

        fn change(&self, line: String) -> Result<MutexGuard<'_, State>, ReqlError> {
            let mut state = self.state();
            if let Some(words) = &state.refuses {
                return Err(ReqlError::Decode(words.as_str().into()));
            }
            state.changes.push(line);
            Ok(state)
        }

        fn lay(state: &mut State, key: (String, String), replicas: &BTreeMap<String, u32>, primary: &str) {
            let servers = state.view.as_ref().map(|view| view.servers.clone()).unwrap_or_default();
            let mut shard = Vec::new();
            for (tag, count) in replicas {
                let of_tag = servers.iter().filter(|server| server.tags.contains(tag));
                shard
                    .extend(of_tag.take(*count as usize).map(|server| (server.name.clone(), "ready".into())));
            }
            let primary = servers.iter().find(|server| server.tags.contains(primary));
            let layout = Layout {
                shards: vec![shard],
                primaries: primary.map(|server| server.name.clone()).into_iter().collect(),
                ready: true,
                durability: "hard".into(),
                write_acks: "majority".into(),
            };
            state.tables.insert(key, layout);
        }
    }

    fn refused() -> ReqlError {
        let source = Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        ReqlError::Connect { address: DRIVER, source }
    }

    #[async_trait]
    impl Cluster for FakeCluster {
        async fn answers(&self, address: IpAddr) -> bool {
            self.state().answering.contains(&address)
        }

        async fn view(&self) -> Result<View, ReqlError> {
            self.state().view.clone().ok_or_else(refused)
        }

        async fn label(&self, id: &str, name: &str, tags: &BTreeSet<String>) -> Result<(), ReqlError> {
            let mut state = self.change(format!("label {id} {name}"))?;
            let servers = state.view.as_mut().map(|view| view.servers.as_mut_slice()).unwrap_or_default();
            for server in servers.iter_mut().filter(|server| server.id == id) {
                (server.name, server.tags) = (name.into(), tags.clone());
            }
            Ok(())
        }

        async fn table(&self, database: &str, table: &str) -> Result<Option<Layout>, ReqlError> {
            let state = self.state();
            if state.view.is_none() {
                return Err(refused());
            }
            Ok(state.tables.get(&(database.into(), table.into())).cloned())
        }

        async fn create(
            &self,
            database: &str,
            table: &str,
            replicas: &BTreeMap<String, u32>,
            primary: &str,
        ) -> Result<(), ReqlError> {
            let mut state = self.change(format!("create {database}.{table} {replicas:?} {primary}"))?;
            Self::lay(&mut state, (database.into(), table.into()), replicas, primary);
            Ok(())
        }

        async fn reconfigure(
            &self,
            database: &str,
            table: &str,
            replicas: &BTreeMap<String, u32>,
            primary: &str,
        ) -> Result<(), ReqlError> {
            let mut state = self.change(format!("reconfigure {database}.{table} {replicas:?} {primary}"))?;
            Self::lay(&mut state, (database.into(), table.into()), replicas, primary);
            Ok(())
        }
    }
}
