//! The suite by our own driver: what the todo application and the tasks on nodes do.

use std::{collections::BTreeMap, time::Duration};

use fleet_reql::{
    Change, Changes, Conflict, Connection, Cursor, Insert, Options, Order, Replicas, ReqlError,
    ReturnChanges, ServerErrorKind, Shape, Table, WaitFor, Written, db, db_create, db_drop, db_list,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{DEADLINE, UnderTest, system, under_test};

/// A database of one test; dropped at its end.
struct Scratch {
    server: UnderTest,
    connection: Connection,
    name: String,
}

impl Scratch {
    async fn new(test: &str) -> Self {
        let server = under_test().await;
        let connection = Connection::open(server.address, &Options::default()).await.unwrap();
        let name = format!("reql_{test}_{}", std::process::id());
        // Left over from a run that was killed.
        let _ = connection.run::<Value>(db_drop(&name)).await;
        let made: Value = connection.run(db_create(&name)).await.unwrap();
        assert_eq!(made["dbs_created"], 1);
        Self { server, connection, name }
    }

    async fn table(&self, name: &str) -> Table {
        let create = db(&self.name).table_create(name, &Shape::one_shard(Replicas::Count(1)));
        let made: Value = self.connection.run(create).await.unwrap();
        assert_eq!(made["tables_created"], 1);
        let table = db(&self.name).table(name);
        let ready: Value = self.connection.run(table.wait(WaitFor::AllReplicas, DEADLINE)).await.unwrap();
        assert_eq!(ready, json!({ "ready": 1 }));
        table
    }

    async fn done(self) {
        let gone: Value = self.connection.run(db_drop(&self.name)).await.unwrap();
        assert_eq!(gone["dbs_dropped"], 1);
    }
}

fn refused(outcome: Result<Value, ReqlError>, kind: ServerErrorKind, text: &str) {
    let why = outcome.expect_err(text);
    assert_eq!(why.server_kind(), Some(kind), "{why}");
    assert!(why.to_string().contains(text), "{why} does not say: {text}");
}

async fn next(feed: &mut Cursor<Change>) -> Change {
    timeout(DEADLINE, feed.next()).await.expect("a change in time").expect("the feed goes on").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_and_tables() {
    let scratch = Scratch::new("tables").await;
    let run = |term| scratch.connection.run::<Value>(term);
    refused(run(db_create(&scratch.name)).await, ServerErrorKind::OpFailed, "already exists");
    let names: Vec<String> = scratch.connection.run(db_list()).await.unwrap();
    assert!(names.contains(&scratch.name) && names.contains(&"rethinkdb".to_owned()));
    let table = scratch.table("tasks").await;
    assert_eq!(run(db(&scratch.name).table_list()).await.unwrap(), json!(["tasks"]));
    let shape = Shape::one_shard(Replicas::Count(1));
    let create = db(&scratch.name).table_create("tasks", &shape);
    refused(run(create).await, ServerErrorKind::OpFailed, "already exists");
    let config: Value = run(table.config().into()).await.unwrap();
    assert_eq!((&config["name"], &config["db"]), (&json!("tasks"), &json!(scratch.name)));
    let status = run(table.status()).await.unwrap();
    assert_eq!(status["status"]["all_replicas_ready"], true);
    let dry = run(table.reconfigure(&Shape { dry_run: true, ..shape.clone() })).await.unwrap();
    assert_eq!(dry["reconfigured"], 0);
    assert_eq!(dry["config_changes"][0]["old_val"], config);
    let by_tag =
        Replicas::ByTag { replicas: BTreeMap::from([("nowhere".to_owned(), 1)]), primary: "nowhere".into() };
    let nowhere = run(table.reconfigure(&Shape::one_shard(by_tag))).await;
    refused(nowhere, ServerErrorKind::OpFailed, "Could not find any servers with server tag `nowhere`.");
    let many = run(table.reconfigure(&Shape::one_shard(Replicas::Count(99)))).await;
    refused(many, ServerErrorKind::OpFailed, "impossible to have more replicas");
    let wait = db(&scratch.name).wait(WaitFor::AllReplicas, Duration::from_secs(5));
    assert_eq!(run(wait).await.unwrap(), json!({ "ready": 1 }));
    run(db(&scratch.name).table_drop("tasks")).await.unwrap();
    refused(run(table.all().count()).await, ServerErrorKind::OpFailed, "does not exist.");
    scratch.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows() {
    let scratch = Scratch::new("rows").await;
    let table = scratch.table("tasks").await;
    let write = |term| scratch.connection.run::<Written>(term);
    let made = write(table.insert(json!({"title": "fries"}), Insert::default())).await.unwrap();
    assert_eq!((made.inserted, made.generated_keys.len()), (1, 1));
    let key = made.generated_keys[0].clone();
    let twice = write(table.insert(json!({"id": key, "title": "again"}), Insert::default())).await.unwrap();
    assert_eq!(twice.errors, 1);
    assert!(twice.first_error.unwrap().starts_with("Duplicate primary key `id`:\n{\n\t\"id\":\t"));
    let replace = Insert { conflict: Some(Conflict::Replace), ..Insert::default() };
    let placed = write(table.insert(json!({"id": key, "title": "mayo"}), replace)).await.unwrap();
    assert_eq!(placed.replaced, 1);
    let done =
        write(table.get(&key).update_returning(json!({"done": true}), ReturnChanges::Changed)).await.unwrap();
    assert_eq!(done.changes[0].new_val, Some(json!({"id": key, "title": "mayo", "done": true})));
    assert_eq!(write(table.get("absent").update(json!({"done": true}))).await.unwrap().skipped, 1);
    let rows = json!([{"id": "a", "at": 2, "done": false}, {"id": "b", "at": 1, "done": true}]);
    assert_eq!(write(table.insert(rows, Insert::default())).await.unwrap().inserted, 2);
    let ordered: Vec<Value> = scratch
        .connection
        .run(table.all().order_by([Order::asc("at"), Order::desc("id")]).pluck(["id", "at"]))
        .await
        .unwrap();
    // A row without the field comes first.
    assert_eq!(ordered, [json!({"id": key}), json!({"id": "b", "at": 1}), json!({"id": "a", "at": 2})]);
    let open: u64 = scratch.connection.run(table.all().filter(json!({"done": false})).count()).await.unwrap();
    assert_eq!(open, 1);
    assert_eq!(write(table.all().filter(json!({"done": true})).delete()).await.unwrap().deleted, 2);
    assert_eq!(write(table.get("a").replace(json!({"id": "a", "done": true}))).await.unwrap().replaced, 1);
    let row: Option<Value> = scratch.connection.run(table.get("a")).await.unwrap();
    assert_eq!(row, Some(json!({"id": "a", "done": true})));
    assert_eq!(write(table.get("a").delete()).await.unwrap().deleted, 1);
    assert_eq!(scratch.connection.run::<Option<Value>>(table.get("a")).await.unwrap(), None);
    scratch.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_tells_first_rows_then_changes() {
    let scratch = Scratch::new("feed").await;
    let table = scratch.table("tasks").await;
    let insert = |row: Value| scratch.connection.run::<Written>(table.insert(row, Insert::default()));
    insert(json!({"id": 1})).await.unwrap();
    let all = Changes { include_initial: true, include_states: true, include_types: true, squash: false };
    let mut feed: Cursor<Change> = scratch.connection.cursor(table.all().changes(all)).await.unwrap();
    assert_eq!(next(&mut feed).await.state.as_deref(), Some("initializing"));
    let first = next(&mut feed).await;
    assert_eq!((first.kind.as_deref(), first.new_val), (Some("initial"), Some(json!({"id": 1}))));
    assert_eq!(next(&mut feed).await.state.as_deref(), Some("ready"));
    insert(json!({"id": 2})).await.unwrap();
    assert_eq!(next(&mut feed).await.new_val, Some(json!({"id": 2})));
    scratch.connection.run::<Written>(table.get(2).delete()).await.unwrap();
    let gone = next(&mut feed).await;
    assert_eq!(
        (gone.old_val, gone.new_val, gone.kind.as_deref()),
        (Some(json!({"id": 2})), None, Some("remove"))
    );
    drop(feed);
    // The connection is as good as before.
    insert(json!({"id": 3})).await.unwrap();
    let mut row: Cursor<Change> =
        scratch.connection.cursor(table.get(3).changes(Changes::default())).await.unwrap();
    scratch.connection.run::<Written>(table.get(3).update(json!({"n": 1}))).await.unwrap();
    assert_eq!(next(&mut row).await.new_val, Some(json!({"id": 3, "n": 1})));
    scratch.connection.run::<Value>(db(&scratch.name).table_drop("tasks")).await.unwrap();
    let end =
        timeout(DEADLINE, row.next()).await.expect("an end in time").expect("an error").expect_err("the end");
    assert!(end.to_string().contains("Changefeed aborted (unavailable)."), "{end}");
    scratch.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_queries_share_a_connection() {
    let scratch = Scratch::new("many").await;
    let table = scratch.table("tasks").await;
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (connection, table) = (scratch.connection.clone(), table.clone());
        asked.spawn(async move {
            connection.run::<Written>(table.insert(json!({"id": number}), Insert::default())).await.unwrap();
            let row: Value = connection.run(table.get(number)).await.unwrap();
            assert_eq!(row["id"], number);
        });
    }
    while let Some(done) = asked.join_next().await {
        done.unwrap();
    }
    let count: u64 = scratch.connection.run(table.all().count()).await.unwrap();
    assert_eq!(count, 100);
    scratch.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_serves_and_who_is_let_in() {
    let scratch = Scratch::new("doors").await;
    let info = scratch.connection.server_info().await.unwrap();
    let servers = system(&scratch.connection, "server_status").await;
    assert!(
        servers
            .iter()
            .any(|row| row["id"] == info.id && Some(row["name"].as_str().unwrap()) == info.name.as_deref())
    );
    for options in [
        Options { password: "wrong".into(), ..Options::default() },
        Options { user: "nobody".into(), ..Options::default() },
    ] {
        let refused = Connection::open(scratch.server.address, &options).await;
        assert!(matches!(refused, Err(ReqlError::Refused { .. })), "{options:?}");
    }
    scratch.done().await;
}
