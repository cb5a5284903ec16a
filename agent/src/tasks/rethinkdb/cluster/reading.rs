//! What a server's system tables say, read so that nothing is taken for known that is not.

use std::collections::BTreeSet;

use async_trait::async_trait;
use fleet_reql::{Connection, ReqlError, Term, db};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Layout, Replica, Server, View};

/// Somebody who answers queries.
#[async_trait]
pub(super) trait Ask: Sync {
    /// The answer; the rows of a sequence are an array.
    async fn ask(&self, query: Term) -> Result<Value, ReqlError>;
}

#[async_trait]
impl Ask for Connection {
    async fn ask(&self, query: Term) -> Result<Value, ReqlError> {
        self.run(query).await
    }
}

#[derive(Deserialize)]
struct StatusRow {
    id: String,
    name: String,
    /// Absent when that server could not be asked.
    network: Option<Network>,
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

/// A table's settings; with an `error` instead of most fields when none of its replicas can be asked.
#[derive(Deserialize)]
struct TableConfig {
    id: String,
    shards: Option<Vec<ShardConfig>>,
    #[serde(default)]
    durability: String,
    #[serde(default)]
    write_acks: Value,
}

#[derive(Deserialize)]
struct ShardConfig {
    replicas: Vec<String>,
}

#[derive(Deserialize)]
struct TableStatus {
    status: Option<Status>,
    /// Null when none of its replicas can be asked.
    shards: Option<Vec<ShardStatus>>,
}

#[derive(Deserialize)]
struct Status {
    all_replicas_ready: bool,
    ready_for_writes: bool,
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

async fn read<T: DeserializeOwned>(server: &impl Ask, query: impl Into<Term>) -> Result<T, ReqlError> {
    let answer = server.ask(query.into()).await?;
    serde_json::from_value(answer).map_err(|error| ReqlError::Decode(error.to_string().into()))
}

/// The servers, as the one of the id `own` sees them.
pub(super) async fn view(server: &impl Ask, own: String) -> Result<View, ReqlError> {
    let system = db("rethinkdb");
    let status: Vec<StatusRow> = read(server, system.table("server_status").all()).await?;
    let config: Vec<ConfigRow> = read(server, system.table("server_config").all()).await?;
    let issues: Vec<IssueRow> = read(server, system.table("current_issues").all()).await?;
    let tags = |id: &str| {
        let row = config.iter().find(|row| row.id == id);
        let mut tags = row.map(|row| row.tags.clone()).unwrap_or_default();
        tags.remove("default");
        tags
    };
    let mut view = View { own, ..View::default() };
    for row in status {
        let Some(network) = row.network else {
            view.unclear.push(row.name);
            continue;
        };
        let addresses = network.canonical_addresses.into_iter().map(|address| address.host).collect();
        view.servers.push(Server { tags: tags(&row.id), id: row.id, name: row.name, addresses });
    }
    // The order of the rows means nothing and changes.
    view.servers.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    view.unclear.sort();
    view.issues = issues.into_iter().map(|row| row.description).collect();
    view.issues.sort();
    Ok(view)
}

/// A table, if there is one of that name.
pub(super) async fn table(
    server: &impl Ask,
    database: &str,
    table: &str,
) -> Result<Option<Layout>, ReqlError> {
    let system = db("rethinkdb");
    let wanted = serde_json::json!({ "db": database, "name": table });
    let named: Vec<TableConfig> = read(server, system.table("table_config").all().filter(wanted)).await?;
    if named.len() > 1 {
        let words =
            format!("{} tables are called `{database}.{table}`; drop or rename all but one", named.len());
        return Err(ReqlError::Decode(words.into()));
    }
    let Some(named) = named.into_iter().next() else { return Ok(None) };
    // Either is null if it was dropped in between; that is nothing to build on.
    let config: Option<TableConfig> = read(server, system.table_by_id("table_config").get(&named.id)).await?;
    let status: Option<TableStatus> = read(server, system.table_by_id("table_status").get(&named.id)).await?;
    Ok(Some(lay_out(named, config, status)))
}

/// Pure.
fn lay_out(named: TableConfig, config: Option<TableConfig>, status: Option<TableStatus>) -> Layout {
    let (states, status) = status.map_or((None, None), |row| (row.shards, row.status));
    let names = named.shards.unwrap_or_default();
    // Names are for people, and in the order of the ids, unless somebody moved replicas between the two answers.
    let name = |shard: usize, at: usize, id: &str, of: usize| {
        let names = names.get(shard).map(|shard| &shard.replicas).filter(|names| names.len() == of);
        names.map_or_else(|| id.to_owned(), |names| names[at].clone())
    };
    let lay = |(config, states): (Vec<ShardConfig>, Vec<ShardStatus>)| {
        let shard = |(nth, shard): (usize, ShardConfig)| {
            let (states, of) = (states.get(nth), shard.replicas.len());
            let replica = |(at, server): (usize, String)| {
                let replicas = states.map(|states| states.replicas.as_slice()).unwrap_or_default();
                let found = replicas.iter().find(|replica| replica.server == server);
                Replica {
                    name: name(nth, at, &server, of),
                    state: found.map(|replica| replica.state.clone()),
                    server,
                }
            };
            shard.replicas.into_iter().enumerate().map(replica).collect()
        };
        config.into_iter().enumerate().map(shard).collect()
    };
    let (durability, write_acks, config) = config.map_or_else(Default::default, |config| {
        let acks = config.write_acks.as_str().unwrap_or("of its own kind").to_owned();
        (config.durability, acks, config.shards)
    });
    Layout {
        shards: config.zip(states).map(lay),
        ready: status.as_ref().is_some_and(|status| status.all_replicas_ready),
        writable: status.is_some_and(|status| status.ready_for_writes),
        durability,
        write_acks,
    }
}

#[cfg(test)]
mod tests;
