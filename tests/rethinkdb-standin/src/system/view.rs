//! Rows of the system tables, shaped as the real server's.

use serde_json::{Map, Value, json};

use crate::{
    cluster::message::Presence,
    reql::{datum, eval::time},
    server::Server,
    table::{Members, TableConfig},
};

/// Name of a database, also of one that is gone.
pub fn database_name(server: &Server, id: &str) -> String {
    let metadata = server.metadata();
    let name = metadata.databases.get(id).and_then(|entry| entry.name.clone());
    name.unwrap_or_else(|| "__deleted_database__".into())
}

pub(super) fn databases(server: &Server) -> Vec<Value> {
    server.metadata().databases().map(|(id, name)| json!({ "id": id, "name": name })).collect()
}

pub(super) fn users(server: &Server) -> Vec<Value> {
    let users = server.metadata().users;
    users.iter().map(|(name, entry)| json!({ "id": name, "password": !entry.password.is_empty() })).collect()
}

pub(super) fn server_config(server: &Server) -> Vec<Value> {
    let row = |presence: &Presence| {
        let cache = match presence.process.cache_size_mb {
            size if size > 0.0 => datum::number(size),
            _ => json!("auto"),
        };
        json!({ "id": presence.id, "name": presence.name, "tags": presence.tags, "cache_size_mb": cache })
    };
    server.presences().iter().map(|(presence, _)| row(presence)).collect()
}

pub(super) fn server_status(server: &Server, by_id: bool) -> Vec<Value> {
    let present = server.presences();
    let row = |(presence, since): &(Presence, f64)| {
        let process = &presence.process;
        let addresses: Vec<Value> = process
            .canonical_addresses
            .iter()
            .map(|(host, port)| json!({ "host": host, "port": port }))
            .collect();
        json!({
            "id": presence.id,
            "name": presence.name,
            "network": {
                "canonical_addresses": addresses,
                "cluster_port": process.cluster_port,
                "connected_to": connected_to(presence, &present, by_id),
                "hostname": process.hostname,
                "http_admin_port": process.http_port.map_or_else(|| json!("<no http admin>"), |port| json!(port)),
                "reql_port": process.driver_port,
                "time_connected": time(*since),
            },
            "process": {
                "argv": process.argv,
                "cache_size_mb": datum::number(process.cache_size_mb),
                "pid": process.pid,
                "time_started": time(process.time_started),
                "version": process.version,
            },
        })
    };
    present.iter().map(row).collect()
}

/// Every other server by name, and whether this one sees it.
fn connected_to(of: &Presence, present: &[(Presence, f64)], by_id: bool) -> Value {
    let mut seen = Map::new();
    for (other, _) in present.iter().filter(|(other, _)| other.id != of.id) {
        let name = if by_id { other.id.clone() } else { other.name.clone() };
        let name = match seen.contains_key(&name) {
            true => format!("{name}__conflict__{}", other.id.replace('-', "_")),
            false => name,
        };
        seen.insert(name, of.connected.contains(&other.id).into());
    }
    seen.into()
}

fn named(config: &TableConfig, id: &str, by_id: bool) -> Value {
    if by_id { id.into() } else { config.name_of(&id.to_owned()).into() }
}

/// A table's row of `table_config`.
pub fn table_config_row(config: &TableConfig, db: &str, by_id: bool) -> Value {
    let replicas: Vec<Value> = config.replicas.iter().map(|id| named(config, id, by_id)).collect();
    json!({
        "id": config.id,
        "db": if by_id { &config.db } else { db },
        "name": config.name,
        "primary_key": config.primary_key,
        "indexes": [],
        "write_hook": null,
        "write_acks": config.write_acks,
        "durability": config.durability,
        "shards": [{
            "primary_replica": named(config, &config.primary, by_id),
            "replicas": replicas,
            "nonvoting_replicas": [],
        }],
    })
}

/// The same, or what the real server shows when no replica can be asked.
pub fn reachable_config_row(server: &Server, config: &TableConfig, db: &str, by_id: bool) -> Value {
    if config.members().is_disjoint(&server.connected()) {
        return json!({
            "id": config.id, "db": if by_id { &config.db } else { db }, "name": config.name,
            "error": "None of the replicas for this table are accessible.",
        });
    }
    table_config_row(config, db, by_id)
}

pub(super) fn table_config(server: &Server, by_id: bool) -> Vec<Value> {
    let metadata = server.metadata();
    let row = |config: &TableConfig| {
        reachable_config_row(server, config, &database_name(server, &config.db), by_id)
    };
    metadata.tables().map(row).collect()
}

pub(super) fn table_status(server: &Server, by_id: bool) -> Vec<Value> {
    let metadata = server.metadata();
    let row = |config: &TableConfig| {
        let db = if by_id { config.db.clone() } else { database_name(server, &config.db) };
        with_names(status_named(server, config, by_id), config, &db)
    };
    metadata.tables().map(row).collect()
}

/// Adds what says which table a status is of.
pub fn with_names(mut status: Value, config: &TableConfig, db: &str) -> Value {
    status["id"] = config.id.clone().into();
    status["db"] = db.into();
    status["name"] = config.name.clone().into();
    status
}

/// How a table is: who leads it, how its replicas are, what can be done with it.
pub fn status(server: &Server, config: &TableConfig) -> Value {
    status_named(server, config, false)
}

fn status_named(server: &Server, config: &TableConfig, by_id: bool) -> Value {
    let connected = server.connected();
    let readiness = |outdated: bool, usable: bool, all: bool| {
        json!({
            "ready_for_outdated_reads": outdated, "ready_for_reads": usable, "ready_for_writes": usable,
            "all_replicas_ready": all,
        })
    };
    if config.members().is_disjoint(&connected) {
        return json!({ "raft_leader": null, "shards": null, "status": readiness(false, false, false) });
    }
    let leader = server.leader(&config.id);
    let ready: Members = leader.as_ref().map(|(_, lead)| lead.ready.clone()).unwrap_or_default();
    let replicas: Vec<Value> = config
        .replicas
        .iter()
        .map(|id| {
            let state = match (connected.contains(id), &leader) {
                (false, _) => "disconnected",
                (true, None) => "waiting_for_primary",
                (true, Some(_)) if ready.contains(id) => "ready",
                (true, Some(_)) => "backfilling",
            };
            json!({ "server": named(config, id, by_id), "state": state })
        })
        .collect();
    let leads: Vec<Value> = leader.iter().map(|(id, _)| named(config, id, by_id)).collect();
    // Not while another replica leads in the configured one's place: it will want to lead again.
    let all = leader.as_ref().is_some_and(|(id, _)| *id == config.primary)
        && config.leaving.is_none()
        && config.replicas.is_subset(&ready)
        && config.replicas.is_subset(&connected);
    json!({
        "raft_leader": leads.first().cloned().unwrap_or(Value::Null),
        "shards": [{ "primary_replicas": leads, "replicas": replicas }],
        "status": readiness(true, leader.is_some(), all),
    })
}
