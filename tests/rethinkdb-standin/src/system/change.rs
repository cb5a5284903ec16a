//! Writes to the system tables that change the cluster.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{SystemTable, view};
use crate::{
    cluster::{
        message::{Request, Response},
        metadata::UserEntry,
    },
    reql::{ReqlError, Result, admin_words, datum},
    server::{Server, no_password},
    table::{Members, TableConfig, lead},
    wire::scram::Password,
};

/// How long another server may take to change its name.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a row of the system what it should be.
pub(super) async fn apply(
    server: &Arc<Server>,
    table: SystemTable,
    by_id: bool,
    old: &Value,
    new: &Value,
) -> Result<()> {
    match table {
        SystemTable::ServerConfig if !old.is_null() && !new.is_null() => {
            rename_server(server, old, new).await
        }
        SystemTable::TableConfig if !old.is_null() && !new.is_null() => {
            reshape(server, by_id, old, new).await
        }
        SystemTable::TableConfig if new.is_null() => {
            server.drop_table(old["id"].as_str().unwrap_or_default()).map_err(|why| ReqlError::from(&why))
        }
        SystemTable::DbConfig if !old.is_null() && !new.is_null() => rename_database(server, new),
        SystemTable::ServerConfig if old.is_null() => Err(ReqlError::failed(
            "It's illegal to insert new rows into the `rethinkdb.server_config` system table.",
        )),
        SystemTable::Users => user(server, old, new),
        SystemTable::CurrentIssues | SystemTable::ServerStatus | SystemTable::TableStatus => Err(
            ReqlError::failed(format!("It's illegal to write to the `rethinkdb.{}` table.", table.name())),
        ),
        _ => Err(ReqlError::failed(format!(
            "the stand-in does not know this kind of write to `rethinkdb.{}`",
            table.name()
        ))),
    }
}

fn bad_format(table: SystemTable, why: &str) -> ReqlError {
    let what = match table {
        SystemTable::ServerConfig => "The row you're trying to put into",
        _ => "The change you're trying to make to",
    };
    ReqlError::failed(format!("{what} `rethinkdb.{}` has the wrong format. {why}", table.name()))
}

fn name_in(table: SystemTable, row: &Value, what: &str) -> Result<String> {
    let name = row["name"].as_str().filter(|name| datum::is_name(name));
    name.map(str::to_owned).ok_or_else(|| {
        let shown = datum::print(&row["name"]);
        bad_format(
            table,
            &format!("In `name`: {shown} is not a valid {what}; Use A-Z, a-z, 0-9, _ and - only"),
        )
    })
}

async fn rename_server(server: &Arc<Server>, old: &Value, new: &Value) -> Result<()> {
    let table = SystemTable::ServerConfig;
    let name = name_in(table, new, "server name")?;
    if old["cache_size_mb"] != new["cache_size_mb"] {
        return Err(ReqlError::failed("the stand-in does not know how to change `cache_size_mb`"));
    }
    let tags = new["tags"].as_array().ok_or_else(|| bad_format(table, "In `tags`: Expected an array."))?;
    let mut names = Vec::new();
    for tag in tags {
        match tag.as_str().filter(|tag| datum::is_name(tag)) {
            Some(tag) => names.push(tag.to_owned()),
            None => {
                return Err(bad_format(
                    table,
                    "In `tags`: Server tag invalid (Use A-Z, a-z, 0-9, _ and - only).",
                ));
            }
        }
    }
    names.sort();
    names.dedup();
    let id = old["id"].as_str().unwrap_or_default();
    if server.presences().iter().any(|(presence, _)| presence.id != id && presence.name == name) {
        let before = old["name"].as_str().unwrap_or_default();
        return Err(ReqlError::failed(format!(
            "Cannot rename server `{before}` to `{name}` because server `{name}` already exists."
        )));
    }
    match server.ask(id, Request::Rename { name, tags: names }, PATIENCE).await {
        Ok(Response::Done) => Ok(()),
        Ok(Response::Failed(why)) => Err(why),
        _ => Err(ReqlError::indeterminate(
            "Lost contact with the server while trying to change its configuration.",
        )),
    }
}

fn rename_database(server: &Server, new: &Value) -> Result<()> {
    let name = name_in(SystemTable::DbConfig, new, "database name")?;
    if server.metadata().database(&name).is_some() || name == super::DATABASE {
        return Err(ReqlError::failed(format!("Database `{name}` already exists.")));
    }
    let id = new["id"].as_str().unwrap_or_default();
    let kept = server.change_metadata(|metadata| {
        if let Some(entry) = metadata.databases.get_mut(id) {
            entry.name = Some(name);
            entry.version += 1;
        }
    });
    kept.map_err(|why| ReqlError::from(&why))
}

fn user(server: &Server, old: &Value, new: &Value) -> Result<()> {
    let name = new["id"].as_str().or(old["id"].as_str()).unwrap_or_default();
    if new.is_null() || name != "admin" {
        return Err(ReqlError::failed("the stand-in knows no user but `admin`"));
    }
    let password = match &new["password"] {
        Value::Bool(false) => String::new(),
        Value::String(text) => text.clone(),
        _ => {
            return Err({
                let shown = datum::print(&new["password"]);
                ReqlError::failed(format!(
                    "Expected an object or string to set the password, or `false` to keep it unset, got {shown}."
                ))
            });
        }
    };
    let password = Password::new(&password);
    let kept = server.change_metadata(|metadata| {
        let entry = metadata.users.entry(name.into()).or_insert_with(no_password);
        *entry = UserEntry { version: entry.version + 1, password };
    });
    kept.map_err(|why| ReqlError::from(&why))
}

/// A change of a row of `table_config`: names, replicas, acknowledgements.
async fn reshape(server: &Arc<Server>, by_id: bool, old: &Value, new: &Value) -> Result<()> {
    let table = SystemTable::TableConfig;
    let metadata = server.metadata();
    let id = old["id"].as_str().unwrap_or_default();
    let absent = || ReqlError::failed("The table was dropped.");
    let before = metadata.tables.get(id).and_then(|entry| entry.config.as_ref()).ok_or_else(absent)?;
    for fixed in ["primary_key", "indexes", "write_hook", "db"] {
        if old[fixed] != new[fixed] {
            return Err(ReqlError::failed(format!(
                "the stand-in does not know how to change `{fixed}` of a table"
            )));
        }
    }
    let name = name_in(table, new, "table name")?;
    if name != before.name && metadata.table(&before.db, &name).is_some() {
        let db = view::database_name(server, &before.db);
        return Err(ReqlError::failed(format!("Table `{db}.{name}` already exists.")));
    }
    let choice = |field: &str, either: [&str; 2]| match new[field].as_str() {
        Some(text) if either.contains(&text) => Ok(text.to_owned()),
        _ => {
            let shown = datum::print(&new[field]);
            let [one, other] = either;
            let why = format!("In `{field}`: Expected \"{one}\" or \"{other}\", got: {shown}");
            Err(bad_format(table, &why))
        }
    };
    let mut config = TableConfig {
        name,
        write_acks: choice("write_acks", ["single", "majority"])?,
        durability: choice("durability", ["soft", "hard"])?,
        ..before.clone()
    };
    if old["shards"] != new["shards"] {
        let Some([shard]) = new["shards"].as_array().map(Vec::as_slice) else {
            return Err(bad_format(table, "In `shards`: the stand-in does not know more than one shard"));
        };
        place(server, by_id, before, shard, &mut config)
            .map_err(|why| bad_format(table, &format!("In `shards`: {why}")))?;
    }
    let db = view::database_name(server, &before.db);
    let not_done = "The table's configuration was not changed.";
    let describe = |why| admin_words(why, &db, &before.name, not_done, "changed");
    if server.leader(id).is_none() {
        return Err(describe(lead::unreachable()));
    }
    server.reconfigure(config).await.map_err(describe)
}

fn place(
    server: &Server,
    by_id: bool,
    before: &TableConfig,
    shard: &Value,
    config: &mut TableConfig,
) -> std::result::Result<(), String> {
    let present = server.presences();
    let find = |text: &str| -> std::result::Result<(String, String), String> {
        let known = before.names.iter().map(|(id, name)| (id.clone(), name.clone()));
        let live = present.iter().map(|(presence, _)| (presence.id.clone(), presence.name.clone()));
        let matches = |(id, name): &(String, String)| if by_id { id == text } else { name == text };
        // A connected server of that name counts more than one that is no more.
        live.chain(known)
            .find(matches)
            .ok_or_else(|| format!("Server `{text}` does not exist or is not connected."))
    };
    let listed = shard["replicas"].as_array().filter(|listed| !listed.is_empty());
    let listed = listed.ok_or("You must specify at least one replica for each shard.")?;
    let (mut replicas, mut names) = (Members::new(), std::collections::BTreeMap::new());
    for replica in listed {
        let (id, name) =
            find(replica.as_str().unwrap_or_default()).map_err(|why| format!("In `replicas`: {why}"))?;
        if !replicas.insert(id.clone()) {
            return Err(format!("In `replicas`: Server `{name}` is listed more than once."));
        }
        names.insert(id, name);
    }
    let primary = shard["primary_replica"].as_str().unwrap_or_default();
    let (primary, name) = find(primary).map_err(|why| format!("In `primary_replica`: {why}"))?;
    if !replicas.contains(&primary) {
        return Err(format!(
            "The server listed in the `primary_replica` field (`{name}`) must also appear in `replicas`."
        ));
    }
    if shard["nonvoting_replicas"].as_array().is_some_and(|listed| !listed.is_empty()) {
        return Err("the stand-in does not know non-voting replicas".into());
    }
    (config.primary, config.replicas, config.names) = (primary, replicas, names);
    Ok(())
}
