//! The cluster, asked on every node.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use fleet_reql::{Connection, Options, db};
use serde_json::Value;

use crate::nodes::{NODES, Ways};

/// On every node: five servers, each connected to the four others, one table with replicas in three locations, and
/// nothing to complain about.
pub async fn is_whole_everywhere(ways: &Ways) {
    for name in NODES {
        let tunnel = ways.login(name).tunnel(28015);
        let database = ask(tunnel.address()).await;
        let servers = rows(&database, "server_status").await;
        let names: BTreeSet<&str> = servers.iter().filter_map(|server| server["name"].as_str()).collect();
        assert_eq!(names, BTreeSet::from(NODES), "asked on {name}");
        for server in &servers {
            let peers = server["network"]["connected_to"].as_object().expect("peers");
            let connected = peers.values().filter(|connected| **connected == Value::Bool(true)).count();
            assert_eq!(connected, NODES.len() - 1, "asked on {name}: {server:#}");
        }
        let tables = rows(&database, "table_config").await;
        let [table] = tables.as_slice() else { panic!("one table, asked on {name}: {tables:#?}") };
        assert_eq!((&table["db"], &table["name"]), (&"todo".into(), &"tasks".into()));
        let replicas = table["shards"][0]["replicas"].as_array().expect("replicas");
        // The first three letters of a server's name are its location.
        let locations: BTreeSet<&str> = replicas.iter().filter_map(|name| name.as_str()?.get(..3)).collect();
        assert!(replicas.len() % 2 == 1 && locations.len() >= 3, "replicas on {replicas:?}");
        assert_eq!(rows(&database, "current_issues").await, Vec::<Value>::new(), "asked on {name}");
    }
}

async fn ask(address: SocketAddr) -> Connection {
    Connection::open(address, &Options::default()).await.expect("the database answers")
}

async fn rows(database: &Connection, table: &str) -> Vec<Value> {
    let query = db("rethinkdb").table(table).all();
    database.run_within(query, Duration::from_secs(60)).await.unwrap_or_else(|why| panic!("{table}: {why}"))
}
