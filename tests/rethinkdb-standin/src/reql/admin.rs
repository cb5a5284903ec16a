//! Databases, tables and their configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    datum,
    error::{Frame, ReqlError, Result},
    eval::{Call, check_name},
    term::Op,
    value::{Database, Sequence, Single, Source, Table, TableKind, Val},
};
use crate::{
    server::Server,
    system::{self, SystemTable, view},
    table::{Members, TableConfig},
};

/// How long a new table may take to be ready before its maker is told that it exists.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Tag every server has unless it was given others by a query.
const DEFAULT_TAG: &str = "default";

pub(super) async fn evaluate(call: Call<'_>) -> Result<Val> {
    let server = Arc::clone(call.evaluator.server()?);
    let value = match call.op {
        Op::DbCreate => db_create(call, &server).await?,
        Op::DbDrop => db_drop(call, &server).await?,
        Op::DbList => {
            let metadata = server.metadata();
            let names: BTreeSet<&str> =
                metadata.databases().map(|(_, name)| name.as_str()).chain([system::DATABASE]).collect();
            json!(names)
        }
        Op::TableCreate => table_create(call, &server).await?,
        Op::TableDrop => table_drop(call, &server).await?,
        Op::TableList => table_list(call, &server).await?,
        Op::Config | Op::Status => return config(call).await,
        Op::Wait => wait(call, &server).await?,
        Op::Reconfigure => reconfigure(call, &server).await?,
        _ => info(call).await?,
    };
    Ok(Val::Datum(value))
}

async fn db_create(call: Call<'_>, server: &Arc<Server>) -> Result<Value> {
    let name = call.text(0).await?;
    check_name("Database", &name).map_err(|why| why.at(0))?;
    if name == system::DATABASE || server.metadata().database(&name).is_some() {
        return Err(ReqlError::failed(format!("Database `{name}` already exists.")));
    }
    let id = server.create_database(&name).map_err(|why| ReqlError::from(&why))?;
    Ok(json!({
        "dbs_created": 1,
        "config_changes": [{ "old_val": null, "new_val": { "id": id, "name": name } }],
    }))
}

async fn db_drop(call: Call<'_>, server: &Arc<Server>) -> Result<Value> {
    let name = call.text(0).await?;
    if name == system::DATABASE {
        return Err(ReqlError::failed("Database `rethinkdb` is special; you can't delete it."));
    }
    let metadata = server.metadata();
    let id = metadata
        .database(&name)
        .ok_or_else(|| ReqlError::failed(format!("Database `{name}` does not exist.")))?;
    let tables: Vec<&TableConfig> = metadata.tables().filter(|config| config.db == *id).collect();
    for table in &tables {
        server.drop_table(&table.id).map_err(|why| ReqlError::from(&why))?;
    }
    let dropped = server.change_metadata(|metadata| {
        if let Some(entry) = metadata.databases.get_mut(id) {
            entry.name = None;
            entry.version += 1;
        }
    });
    dropped.map_err(|why| ReqlError::from(&why))?;
    Ok(json!({
        "dbs_dropped": 1,
        "tables_dropped": tables.len(),
        "config_changes": [{ "old_val": { "id": id, "name": name }, "new_val": null }],
    }))
}

/// Database and name of a table that need not exist.
async fn place(call: Call<'_>) -> Result<(Database, String)> {
    let (db, at) = match call.args.len() {
        1 => (call.evaluator.default_database().await?, 0),
        _ => match call.arg(0).await? {
            Val::Database(db) => (db, 1),
            other => return Err(other.not_a("DATABASE").at(0)),
        },
    };
    let name = call.text(at).await?;
    check_name("Table", &name).map_err(|why| why.at(at))?;
    Ok((db, name))
}

async fn table_create(call: Call<'_>, server: &Arc<Server>) -> Result<Value> {
    let (db, name) = place(call).await?;
    let layout = Layout::read(call).await?;
    let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let primary_key = text(call.option("primary_key").await?).unwrap_or_else(|| "id".into());
    let durability = text(call.option("durability").await?).unwrap_or_else(|| "hard".into());
    if db.name == system::DATABASE {
        return Err(ReqlError::failed("Database `rethinkdb` is special; you can't create new tables in it."));
    }
    if server.metadata().table(&db.id, &name).is_some() {
        return Err(ReqlError::failed(format!("Table `{}.{name}` already exists.", db.name)));
    }
    let (primary, replicas, names) = layout.choose(server, None)?;
    let id = uuid::Uuid::new_v4().to_string();
    let config = TableConfig {
        id: id.clone(),
        db: db.id.clone(),
        name: name.clone(),
        primary_key,
        primary,
        replicas,
        leaving: None,
        names,
        write_acks: "majority".into(),
        durability,
    };
    let row = view::table_config_row(&config, &db.name, false);
    server
        .create_table(config)
        .await
        .map_err(|why| explain(why, &db.name, &name, "The table was not created.", "created"))?;
    // As the real server: after that time the table exists all the same.
    let _ = wait_until(server, std::slice::from_ref(&id), "all_replicas_ready", Some(READY_WITHIN)).await;
    Ok(json!({ "tables_created": 1, "config_changes": [{ "old_val": null, "new_val": row }] }))
}

async fn table_drop(call: Call<'_>, server: &Arc<Server>) -> Result<Value> {
    let (db, name) = place(call).await?;
    if db.name == system::DATABASE {
        return Err(ReqlError::failed("Database `rethinkdb` is special; you can't drop tables in it."));
    }
    let metadata = server.metadata();
    let config = metadata
        .table(&db.id, &name)
        .ok_or_else(|| ReqlError::failed(format!("Table `{}.{name}` does not exist.", db.name)))?;
    let row = view::reachable_config_row(server, config, &db.name, false);
    server.drop_table(&config.id).map_err(|why| ReqlError::from(&why))?;
    Ok(json!({ "tables_dropped": 1, "config_changes": [{ "old_val": row, "new_val": null }] }))
}

async fn table_list(call: Call<'_>, server: &Arc<Server>) -> Result<Value> {
    let db = match call.args.len() {
        0 => call.evaluator.default_database().await?,
        _ => match call.arg(0).await? {
            Val::Database(db) => db,
            other => return Err(other.not_a("DATABASE").at(0)),
        },
    };
    if db.name == system::DATABASE {
        return Ok(json!(SystemTable::ALL.map(|table| table.name())));
    }
    let metadata = server.metadata();
    let names: BTreeSet<&str> =
        metadata.tables().filter(|config| config.db == db.id).map(|config| config.name.as_str()).collect();
    Ok(json!(names))
}

/// A table or a whole database, as `wait` and `reconfigure` take them.
enum Scope {
    Table(Table),
    Database(Database),
}

async fn scope(call: Call<'_>) -> Result<Scope> {
    let value = match call.args.len() {
        0 => Val::Database(call.evaluator.default_database().await?),
        _ => call.arg(0).await?,
    };
    match value {
        Val::Sequence(Sequence { source: Source::Table(table), stages }) if stages.is_empty() => {
            Ok(Scope::Table(table))
        }
        Val::Database(db) => Ok(Scope::Database(db)),
        other => Err(other.not_a("TABLE").at(0)),
    }
}

impl Scope {
    fn tables(&self, server: &Server) -> Vec<TableConfig> {
        let metadata = server.metadata();
        match self {
            Self::Table(table) => {
                let id = table.id();
                metadata.tables().filter(|config| config.id == id).cloned().collect()
            }
            Self::Database(db) => metadata.tables().filter(|config| config.db == db.id).cloned().collect(),
        }
    }
}

async fn config(call: Call<'_>) -> Result<Val> {
    let (table, id) = match (scope(call).await?, call.op) {
        (Scope::Table(table), Op::Config) => (SystemTable::TableConfig, table.id()),
        (Scope::Table(table), _) => (SystemTable::TableStatus, table.id()),
        (Scope::Database(db), Op::Config) => (SystemTable::DbConfig, db.id),
        (Scope::Database(db), _) => return Err(Val::Database(db).not_a("TABLE").at(0)),
    };
    let db = Database { id: system::database_id(), name: system::DATABASE.into() };
    let table = Table {
        db,
        name: table.name().into(),
        primary_key: "id".into(),
        kind: TableKind::System { table, by_id: false },
        outdated: false,
    };
    Ok(Val::Single(Single { table, key: id.into() }))
}

async fn wait(call: Call<'_>, server: &Arc<Server>) -> Result<Value> {
    const STATES: [&str; 4] =
        ["ready_for_outdated_reads", "ready_for_reads", "ready_for_writes", "all_replicas_ready"];
    let scope = scope(call).await?;
    let state = match call.option("wait_for").await? {
        None => "all_replicas_ready".to_owned(),
        Some(Value::String(state)) if STATES.contains(&state.as_str()) => state,
        Some(other) => {
            let other = other.as_str().unwrap_or_default().to_owned();
            return Err(ReqlError::logic(format!(
                "Unknown table readiness state: '{other}', must be one of 'ready_for_outdated_reads', \
                 'ready_for_reads', 'ready_for_writes', or 'all_replicas_ready'"
            ))
            .within(Frame::Option("wait_for".into())));
        }
    };
    let timeout = match call.option("timeout").await? {
        None => None,
        Some(value) => match value.as_f64() {
            Some(seconds) if seconds >= 0.0 => Some(Duration::from_secs_f64(seconds)),
            _ => return Err(ReqlError::wrong_type("NUMBER", &value).within(Frame::Option("timeout".into()))),
        },
    };
    let ids: Vec<String> = scope.tables(server).into_iter().map(|config| config.id).collect();
    let count = wait_until(server, &ids, &state, timeout).await?;
    Ok(json!({ "ready": count }))
}

/// Waits until tables are in a state; tables that vanish meanwhile do not count.
async fn wait_until(
    server: &Arc<Server>,
    ids: &[String],
    state: &str,
    timeout: Option<Duration>,
) -> Result<usize> {
    let mut changed = server.changes();
    let ready = async {
        loop {
            let metadata = server.metadata();
            let existing: Vec<&TableConfig> =
                metadata.tables().filter(|config| ids.contains(&config.id)).collect();
            let ready = |config: &&TableConfig| view::status(server, config)["status"][state] == json!(true);
            if existing.iter().all(ready) {
                return existing.len();
            }
            if changed.changed().await.is_err() {
                return 0;
            }
        }
    };
    let timed_out = || ReqlError::failed("Timed out while waiting for tables.");
    match timeout {
        None => Ok(ready.await),
        Some(time) => tokio::time::timeout(time, ready).await.map_err(|_| timed_out()),
    }
}

async fn info(call: Call<'_>) -> Result<Value> {
    let db_info = |db: &Database| json!({ "id": db.id, "name": db.name, "type": "DB" });
    let value = call.arg(0).await?;
    Ok(match &value {
        Val::Database(db) => db_info(db),
        Val::Sequence(Sequence { source: Source::Table(table), stages }) if stages.is_empty() => {
            let count =
                super::sequence::elements(call.evaluator, &Sequence::of(Source::Table(table.clone())))
                    .await?
                    .len();
            json!({
                "id": table.id(), "name": table.name, "type": "TABLE", "primary_key": table.primary_key,
                "db": db_info(&table.db), "indexes": [], "doc_count_estimates": [count],
            })
        }
        Val::Datum(datum) => json!({ "type": value.type_name(), "value": datum.to_string() }),
        _ => json!({ "type": value.type_name() }),
    })
}

// --- which servers hold a table ---

/// How many replicas, on servers of which tags.
struct Layout {
    replicas: BTreeMap<String, usize>,
    primary_tag: String,
}

impl Layout {
    async fn read(call: Call<'_>) -> Result<Self> {
        let option = |name: &str| Frame::Option(name.to_owned());
        match call.option("shards").await?.as_ref().map(Value::as_f64) {
            None | Some(Some(1.0)) => {}
            Some(Some(shards)) if shards < 1.0 => {
                return Err(
                    ReqlError::logic("Every table must have at least one shard.").within(option("shards"))
                );
            }
            _ => {
                return Err(ReqlError::logic("the stand-in does not know more than one shard")
                    .within(option("shards")));
            }
        }
        if call.options.contains_key("nonvoting_replica_tags") {
            return Err(ReqlError::logic("the stand-in does not know non-voting replicas"));
        }
        let tag = call.option("primary_replica_tag").await?;
        match call.option("replicas").await? {
            Some(Value::Object(counts)) => {
                let Some(Value::String(primary_tag)) = tag else {
                    let text = "`primary_replica_tag` must be specified when `replicas` is an OBJECT.";
                    return Err(ReqlError::logic(text).within(option("replicas")));
                };
                let mut replicas = BTreeMap::new();
                for (tag, count) in counts {
                    check_name("Server tag", &tag).map_err(|why| why.within(option("replicas")))?;
                    let count = count.as_u64().ok_or_else(|| {
                        ReqlError::logic("Can't have a negative number of replicas")
                            .within(option("replicas"))
                    })?;
                    replicas.insert(tag, usize::try_from(count).unwrap_or(usize::MAX));
                }
                Ok(Self { replicas, primary_tag })
            }
            _ if tag.is_some() => {
                Err(ReqlError::logic("`replicas` must be an OBJECT if `primary_replica_tag` is specified.")
                    .within(option("primary_replica_tag")))
            }
            None => Ok(Self::of(1)),
            Some(count) => match count.as_u64() {
                Some(count) => Ok(Self::of(usize::try_from(count).unwrap_or(usize::MAX))),
                None => Err(ReqlError::logic(format!(
                    "Expected type OBJECT or NUMBER but found {}:\n{}",
                    datum::type_name(&count),
                    datum::print(&count)
                ))
                .within(option("replicas"))),
            },
        }
    }

    fn of(count: usize) -> Self {
        Self { replicas: [(DEFAULT_TAG.to_owned(), count)].into(), primary_tag: DEFAULT_TAG.into() }
    }

    /// Picks servers: those that hold the table already first, then those that hold fewest tables.
    fn choose(
        &self,
        server: &Server,
        old: Option<&TableConfig>,
    ) -> Result<(String, Members, BTreeMap<String, String>)> {
        if self.replicas.values().sum::<usize>() == 0 {
            return Err(ReqlError::failed(
                "You must set `replicas` to at least one. `replicas` includes the primary replica; if there are zero \
                 replicas, there is nowhere to put the data.",
            ));
        }
        let tag = &self.primary_tag;
        if self.replicas.get(tag).is_none_or(|count| *count == 0) {
            return Err(ReqlError::failed(format!(
                "Can't use server tag `{tag}` for primary replicas because you specified no replicas in server tag \
                 `{tag}`."
            )));
        }
        let present = server.presences();
        let metadata = server.metadata();
        let load = |id: &str| metadata.tables().filter(|config| config.replicas.contains(id)).count();
        let mut claimed: BTreeMap<&str, &str> = BTreeMap::new();
        let (mut primary, mut replicas, mut names) = (String::new(), Members::new(), BTreeMap::new());
        for (tag, count) in self.replicas.iter().filter(|(_, count)| **count > 0) {
            let mut tagged: Vec<_> = present
                .iter()
                .map(|(presence, _)| presence)
                .filter(|presence| presence.tags.contains(tag))
                .collect();
            if tagged.is_empty() {
                return Err(ReqlError::failed(format!(
                    "Could not find any servers with server tag `{tag}`."
                )));
            }
            for presence in &tagged {
                if let Some(other) = claimed.insert(&presence.id, tag) {
                    return Err(ReqlError::failed(format!(
                        "Server tags `{tag}` and `{other}` overlap; the server `{}` has both tags. The server tags \
                         used for replication settings for a given table must be non-overlapping.",
                        presence.name
                    )));
                }
            }
            if tagged.len() < *count {
                return Err(ReqlError::failed(format!(
                    "Can't put {count} replicas on servers with the tag `{tag}` because there are only {} servers \
                     with the tag `{tag}`. It's impossible to have more replicas of the data than there are servers.",
                    tagged.len()
                )));
            }
            tagged.sort_by_key(|presence| {
                let held = old.map_or(2, |old| match () {
                    () if old.primary == presence.id => 0,
                    () if old.replicas.contains(&presence.id) => 1,
                    () => 2,
                });
                (held, load(&presence.id), presence.id.clone())
            });
            for (place, presence) in tagged.into_iter().take(*count).enumerate() {
                if *tag == self.primary_tag && place == 0 {
                    primary.clone_from(&presence.id);
                }
                replicas.insert(presence.id.clone());
                names.insert(presence.id.clone(), presence.name.clone());
            }
        }
        Ok((primary, replicas, names))
    }
}

/// The real server's words for a configuration that could not be changed.
pub(crate) fn explain(why: ReqlError, db: &str, table: &str, not_done: &str, maybe: &str) -> ReqlError {
    match why.message.as_str() {
        "unreachable" => ReqlError::failed(format!(
            "The server(s) hosting table `{db}.{table}` are currently unreachable. {not_done} If you do not expect \
             the server(s) to recover, you can use `emergency_repair` to restore availability of the table. \
             <http://rethinkdb.com/api/javascript/reconfigure/#emergency-repair-mode>"
        )),
        "lost contact" => ReqlError::indeterminate(format!(
            "We lost contact with the server(s) hosting table `{db}.{table}`. The table may or may not have been \
             {maybe}."
        )),
        _ => why,
    }
}

async fn reconfigure(call: Call<'_>, server: &Arc<Server>) -> Result<Value> {
    let scope = scope(call).await?;
    if call.options.contains_key("emergency_repair") {
        return Err(ReqlError::logic("the stand-in does not know `emergency_repair`"));
    }
    let dry_run = call.flag("dry_run").await?;
    for name in ["shards", "replicas"] {
        if !call.options.contains_key(name) {
            return Err(ReqlError::logic(format!("Missing required argument `{name}`.")));
        }
    }
    let layout = Layout::read(call).await?;
    let (mut config_changes, mut status_changes) = (Vec::new(), Vec::new());
    for old in scope.tables(server) {
        let (config, status) = reconfigure_table(server, &layout, &old, dry_run).await?;
        config_changes.push(config);
        status_changes.push(status);
    }
    if dry_run {
        return Ok(json!({ "reconfigured": 0, "config_changes": config_changes }));
    }
    Ok(json!({
        "reconfigured": config_changes.len(), "config_changes": config_changes, "status_changes": status_changes,
    }))
}

async fn reconfigure_table(
    server: &Arc<Server>,
    layout: &Layout,
    old: &TableConfig,
    dry_run: bool,
) -> Result<(Value, Value)> {
    let db = view::database_name(server, &old.db);
    let describe = |why| explain(why, &db, &old.name, "The table was not reconfigured.", "reconfigured");
    if server.leader(&old.id).is_none() {
        return Err(describe(crate::table::lead::unreachable()));
    }
    let (primary, replicas, names) = layout.choose(server, Some(old))?;
    let new = TableConfig { primary, replicas, names, leaving: None, ..old.clone() };
    let status_before = view::status(server, old);
    if !dry_run {
        server.reconfigure(new.clone()).await.map_err(describe)?;
    }
    let config = json!({
        "old_val": view::table_config_row(old, &db, false), "new_val": view::table_config_row(&new, &db, false),
    });
    let status = json!({
        "old_val": view::with_names(status_before, old, &db), "new_val": view::with_names(view::status(server, &new), &new, &db),
    });
    Ok((config, status))
}
