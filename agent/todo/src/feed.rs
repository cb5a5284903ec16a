//! From the table's change feed into the hub: one feed for this whole process, opened again whenever it
//! ends.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleet_reql::{Backoff, Change, Changes, Client, Cursor, ReqlError, ServerErrorKind, Table, db};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    hub::{Database, Hub, Why},
    todo::{MOST_TODOS, Todo, TodoId},
};

/// A database that restarts is shown again within moments of its return.
const LEAST_WAIT: Duration = Duration::from_millis(200);
/// A table that is still being made is not asked for more often.
const MOST_WAIT: Duration = Duration::from_secs(3);
/// How long to wait for a connection before the page says that there is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rows of the table beyond the longest list are left alone; so many more are still looked at, as rows
/// can be made on several nodes at once.
const MOST_ROWS: usize = 2 * MOST_TODOS;

/// Keeps the hub at what the table says, until stopped.
pub async fn follow(client: Client, database: String, table: String, hub: Arc<Hub>, stop: CancellationToken) {
    let table = db(&database).table(&table);
    let mut backoff = Backoff::new(LEAST_WAIT, MOST_WAIT);
    let mut random = StdRng::from_os_rng();
    let work = async {
        loop {
            let error = match once(&client, &table, &hub, &mut backoff).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let why = why(&error);
            if hub.database() != Database::Away(why) {
                // Errors of the server may name rows; those of the connection do not.
                tracing::warn!(reason = why.name(), kind = ?error.server_kind(), "the database is away");
            }
            hub.away(why);
            tokio::time::sleep(backoff.next(&mut random)).await;
        }
    };
    // The feed is closed with its cursor.
    tokio::select! {
        () = work => (),
        () = stop.cancelled() => (),
    }
}

/// One feed from its opening to its end.
async fn once(
    client: &Client,
    table: &Table,
    hub: &Hub,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, ReqlError> {
    let connection = client.connection(PATIENCE).await?;
    let what = Changes { include_initial: true, include_states: true, ..Changes::default() };
    let mut feed = connection.cursor::<Change>(table.all().changes(what)).await?;
    let todos = first(&mut feed).await?;
    tracing::info!(todos = todos.len(), "the list is live");
    hub.replace(todos.into_values());
    backoff.reset();
    loop {
        match step(next(&mut feed).await?) {
            Step::Put(todo) => hub.put(todo),
            Step::Remove(id) => hub.remove(id),
            Step::Nothing | Step::Ready => (),
        }
    }
}

/// The rows there are when the feed opens.
async fn first(feed: &mut Cursor<Change>) -> Result<BTreeMap<TodoId, Todo>, ReqlError> {
    let mut todos = BTreeMap::new();
    loop {
        match step(next(feed).await?) {
            Step::Put(todo) if todos.len() < MOST_ROWS || todos.contains_key(&todo.id) => {
                todos.insert(todo.id, todo);
            }
            Step::Remove(id) => {
                todos.remove(&id);
            }
            Step::Ready => return Ok(todos),
            Step::Put(_) | Step::Nothing => (),
        }
    }
}

async fn next(feed: &mut Cursor<Change>) -> Result<Change, ReqlError> {
    match feed.next().await {
        Some(Ok(Change { error: Some(_), .. })) => {
            // Changes were left out; only a new feed knows the whole list.
            Err(ReqlError::Decode("the feed has gaps".into()))
        }
        Some(change) => change,
        None => Err(ReqlError::Decode("the feed ended".into())),
    }
}

/// What one message of the feed means for the list.
#[derive(Debug, PartialEq)]
enum Step {
    Put(Todo),
    Remove(TodoId),
    Ready,
    /// Another state of the feed, or a row that is no todo.
    Nothing,
}

fn step(change: Change) -> Step {
    if let Some(state) = change.state {
        return if state == "ready" { Step::Ready } else { Step::Nothing };
    }
    let id = |row: &Option<Value>| row.as_ref()?["id"].as_str()?.parse().ok();
    let before = id(&change.old_val);
    match change.new_val.map(serde_json::from_value::<Todo>) {
        Some(Ok(todo)) => Step::Put(todo),
        // Somebody made a row that is no todo, or made a todo none.
        Some(Err(_)) | None => before.map_or(Step::Nothing, Step::Remove),
    }
}

fn why(error: &ReqlError) -> Why {
    match error {
        ReqlError::Refused { .. } | ReqlError::Handshake(_) => Why::Refused,
        ReqlError::Server(error) if error.kind == ServerErrorKind::Permission => Why::Refused,
        ReqlError::Server(_) => Why::NotReady,
        _ => Why::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_of_a_feed() {
        let check = |message: Value, expected: Step| {
            let change: Change = serde_json::from_value(message.clone()).expect("a change");
            assert_eq!(step(change), expected, "{message}");
        };
        let row = json!({"id": "7f1a3a52-5a0e-4c3e-9a86-0f9b6b4d5c11", "text": "x", "completed": false, "created": 1});
        let todo: Todo = serde_json::from_value(row.clone()).expect("a todo");
        check(json!({"state": "initializing"}), Step::Nothing);
        check(json!({"state": "ready"}), Step::Ready);
        check(json!({"new_val": row}), Step::Put(todo.clone()));
        check(json!({"old_val": null, "new_val": row}), Step::Put(todo.clone()));
        check(json!({"old_val": row, "new_val": null}), Step::Remove(todo.id));
        check(json!({"old_val": null, "new_val": {"id": "mine", "what": 1}}), Step::Nothing);
        let id = todo.id.to_string();
        check(json!({"old_val": row, "new_val": {"id": id, "text": ""}}), Step::Remove(todo.id));
        check(json!({"old_val": {"id": 7}, "new_val": null}), Step::Nothing);
        check(json!({}), Step::Nothing);
    }
}
