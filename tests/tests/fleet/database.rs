//! The cluster, asked on every node.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use fleet_reql::{Connection, Options, db};
use serde_json::Value;

use crate::nodes::{NODES, Ways};

/// How long the cluster may take to heal by itself after a member was replaced: the seed has to notice, the replica to
/// be filled.
const HEALING: Duration = Duration::from_secs(240);

/// On every node, in the end: five servers, each connected to the four others, one table with replicas in three
/// locations, and nothing to complain about.
pub async fn is_whole_everywhere(ways: &Ways) {
    for name in NODES {
        let tunnel = ways.login(name).tunnel(28015);
        let database = ask(tunnel.address()).await;
        let started = Instant::now();
        while let Err(why) = whole(&database).await {
            assert!(started.elapsed() < HEALING, "asked on {name}: {why}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        eprintln!("the cluster is whole as seen from {name}, after {:?}", started.elapsed());
    }
}

/// What is missing, if anything.
async fn whole(database: &Connection) -> Result<(), String> {
    let servers = rows(database, "server_status").await;
    let names: BTreeSet<&str> = servers.iter().filter_map(|server| server["name"].as_str()).collect();
    if names != BTreeSet::from(NODES) {
        return Err(format!("servers: {names:?}"));
    }
    for server in &servers {
        let peers = server["network"]["connected_to"].as_object().expect("peers");
        let connected = peers.values().filter(|connected| **connected == Value::Bool(true)).count();
        if connected != NODES.len() - 1 {
            return Err(format!("connections: {server:#}"));
        }
    }
    let tables = rows(database, "table_config").await;
    let [table] = tables.as_slice() else { return Err(format!("tables: {tables:#?}")) };
    assert_eq!((&table["db"], &table["name"]), (&"todo".into(), &"tasks".into()));
    let replicas = table["shards"][0]["replicas"].as_array().expect("replicas");
    // The first three letters of a server's name are its location.
    let locations: BTreeSet<&str> = replicas.iter().filter_map(|name| name.as_str()?.get(..3)).collect();
    if replicas.len() % 2 != 1 || locations.len() < 3 {
        return Err(format!("replicas on {replicas:?}"));
    }
    let issues = rows(database, "current_issues").await;
    if issues.is_empty() { Ok(()) } else { Err(format!("issues: {issues:#?}")) }
}

/// A connection to the database at an address.
pub async fn ask(address: SocketAddr) -> Connection {
    Connection::open(address, &Options::default()).await.expect("the database answers")
}

async fn rows(database: &Connection, table: &str) -> Vec<Value> {
    let query = db("rethinkdb").table(table).all();
    database.run_within(query, Duration::from_secs(60)).await.unwrap_or_else(|why| panic!("{table}: {why}"))
}
