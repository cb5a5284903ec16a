//! `current_issues`: tables with missing replicas, names that are not unique.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{made_id, view};
use crate::{server::Server, table::TableConfig};

pub(super) fn rows(server: &Server) -> Vec<Value> {
    let mut issues = Vec::new();
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (presence, _) in server.presences() {
        names.entry(presence.name).or_default().push(presence.id);
    }
    for (name, ids) in names.into_iter().filter(|(_, ids)| ids.len() > 1) {
        issues.push(collision("servers", "server", "server_config", &name, &ids));
    }
    let metadata = server.metadata();
    let mut names: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for (id, name) in metadata.databases() {
        names.entry(name).or_default().push(id.clone());
    }
    for (name, ids) in names.into_iter().filter(|(_, ids)| ids.len() > 1) {
        issues.push(collision("databases", "database", "db_config", name, &ids));
    }
    issues.extend(metadata.tables().filter_map(|config| availability(server, config)));
    issues
}

fn collision(plural: &str, singular: &str, table: &str, name: &str, ids: &[String]) -> Value {
    let kind = if singular == "database" { "db" } else { singular };
    json!({
        "id": made_id(&["collision", singular, name]),
        "type": format!("{kind}_name_collision"),
        "critical": true,
        "info": { "name": name, "ids": ids },
        "description": format!(
            "There are multiple {plural} named `{name}`. RethinkDB requires that every {singular} have a unique name. \
             Please update the `name` field of the conflicting {singular}s' documents in the `rethinkdb.{table}` \
             system table.\n\nThe UUIDs of the conflicting {singular}s are as follows: {}",
            ids.join(", ")
        ),
    })
}

fn availability(server: &Server, config: &TableConfig) -> Option<Value> {
    let connected = server.connected();
    let missing: Vec<&str> =
        config.replicas.iter().filter(|id| !connected.contains(*id)).map(|id| config.name_of(id)).collect();
    if missing.is_empty() {
        return None;
    }
    let db = view::database_name(server, &config.db);
    let status = view::status(server, config);
    let full = format!("Table `{db}.{}`", config.name);
    let usable = status["status"]["ready_for_writes"] == json!(true);
    let description = if status["shards"].is_null() {
        format!("{full} is not available for any operations. No servers are reachable for this table.")
    } else {
        let blurb = if usable {
            "available for all operations, but some replicas are not ready"
        } else {
            "available for outdated reads, but not up-to-date reads or writes"
        };
        format!("{full} is {blurb}. The following servers are not reachable: {}", missing.join(", "))
    };
    let mut info = status;
    info["db"] = db.into();
    info["table"] = config.name.clone().into();
    Some(json!({
        "id": made_id(&["availability", &config.id]),
        "type": "table_availability",
        "critical": !usable,
        "info": info,
        "description": description,
    }))
}
