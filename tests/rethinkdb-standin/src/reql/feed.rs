//! Answers that come in batches: long results and change feeds.

use std::{collections::VecDeque, sync::Arc};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    datum,
    error::{ReqlError, Result},
    eval::Evaluator,
    sequence::{Passed, elements, pass},
    value::{FeedSpec, Sequence, Source, Stage, Table, TableKind, Val, Watched},
};
use crate::{
    server::{Server, TableFeed},
    system::{self, SystemTable},
    table::replica::RowChange,
};

/// Elements in one response; the real server goes by bytes.
pub const BATCH: usize = 1000;

/// The result of a query.
pub enum Answer {
    /// One value.
    Atom(Value),
    /// Batches.
    Cursor(Box<Cursor>),
}

/// What is left of a result.
pub struct Cursor {
    waiting: VecDeque<Value>,
    feed: Option<Feed>,
    /// Elements in one response.
    most: usize,
}

/// Turns a query's value into what the driver gets.
///
/// # Errors
/// It cannot be given to a driver, or reading it failed.
pub async fn open(evaluator: Evaluator, value: Val, most: usize) -> Result<Answer> {
    match value {
        Val::Sequence(Sequence { source: Source::Feed(spec), stages }) => {
            let feed = Feed::open(evaluator, *spec, stages).await?;
            Ok(Answer::Cursor(Box::new(Cursor { waiting: VecDeque::new(), feed: Some(feed), most })))
        }
        Val::Sequence(sequence) if !matches!(sequence.source, Source::Rows { array: true, .. }) => {
            let waiting = elements(&evaluator, &sequence).await?.into();
            Ok(Answer::Cursor(Box::new(Cursor { waiting, feed: None, most })))
        }
        Val::Function(_) | Val::Database(_) | Val::Ordering { .. } => {
            let name = match value {
                Val::Function(_) => "FUNCTION",
                Val::Database(_) => "DATABASE",
                _ => "ORDERING",
            };
            Err(ReqlError::logic(format!(
                "Query result must be of type DATUM, GROUPED_DATA, or STREAM (got {name})."
            )))
        }
        other => {
            let value = evaluator.plain(other).await?;
            if datum::has_literal(&value) {
                return Err(ReqlError::logic(
                    "Stray literal keyword found: literal is only legal inside of the object passed to merge or update \
                     and cannot nest inside other literals.",
                ));
            }
            Ok(Answer::Atom(value))
        }
    }
}

impl Cursor {
    /// Notes of every response: what kind of feed this is.
    pub fn notes(&self) -> Vec<u8> {
        let Some(feed) = &self.feed else { return Vec::new() };
        let kind = match feed.spec.watched {
            Watched::Rows(..) => 1,
            Watched::Row(_) => 2,
        };
        if feed.spec.include_states { vec![kind, 5] } else { vec![kind] }
    }

    /// The next elements, and whether they are the last. A feed waits for some unless this is the first batch.
    ///
    /// # Errors
    /// The feed's.
    pub async fn batch(&mut self, first: bool) -> Result<(Vec<Value>, bool)> {
        let Some(feed) = &mut self.feed else {
            let count = self.waiting.len().min(self.most);
            let rows = self.waiting.drain(..count).collect();
            return Ok((rows, self.waiting.is_empty()));
        };
        if first {
            self.waiting.extend(feed.begin().await?);
        }
        while self.waiting.is_empty() && !first && !feed.over {
            self.waiting.extend(feed.next().await?);
        }
        let count = self.waiting.len().min(self.most);
        let rows = self.waiting.drain(..count).collect();
        Ok((rows, feed.over && self.waiting.is_empty()))
    }
}

/// An open change feed.
struct Feed {
    evaluator: Evaluator,
    spec: FeedSpec,
    /// Applied to what comes out: `changes().filter(…)`.
    after: Vec<Stage>,
    seen: Vec<usize>,
    initial: Vec<Value>,
    source: Changes,
    over: bool,
}

enum Changes {
    Table(TableFeed),
    System {
        server: Arc<Server>,
        table: SystemTable,
        by_id: bool,
        known: Vec<Value>,
        wake: watch::Receiver<u64>,
    },
}

fn aborted() -> ReqlError {
    ReqlError::failed("Changefeed aborted (unavailable).")
}

impl Feed {
    async fn open(evaluator: Evaluator, spec: FeedSpec, after: Vec<Stage>) -> Result<Self> {
        let server = Arc::clone(evaluator.server()?);
        let table: &Table = match &spec.watched {
            Watched::Rows(table, _) => table,
            Watched::Row(single) => &single.table,
        };
        let (rows, source) = match &table.kind {
            TableKind::Stored { id } => {
                let (rows, feed) = server.subscribe(id).await.map_err(|why| cannot_subscribe(table, &why))?;
                (rows, Changes::Table(feed))
            }
            TableKind::System { table, by_id } => {
                let wake = server.changes();
                let known = system::rows(&server, *table, *by_id);
                let changes =
                    Changes::System { server, table: *table, by_id: *by_id, known: known.clone(), wake };
                (known, changes)
            }
        };
        let initial = if spec.include_initial { rows } else { Vec::new() };
        let seen = vec![0; after.len()];
        Ok(Self { evaluator, spec, after, seen, initial, source, over: false })
    }

    /// States and rows that come before the first change.
    async fn begin(&mut self) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        if self.spec.include_states && self.spec.include_initial {
            items.push(self.state("initializing"));
        }
        let mut found = false;
        for row in std::mem::take(&mut self.initial) {
            if let Some(row) = self.seen_through(Some(row)).await? {
                found = true;
                items.push(self.typed(json!({ "new_val": row }), "initial"));
            }
        }
        if matches!(self.spec.watched, Watched::Row(_)) && self.spec.include_initial && !found {
            items.push(self.typed(json!({ "new_val": null }), "initial"));
        }
        if self.spec.include_states {
            items.push(self.state("ready"));
        }
        self.finish(items).await
    }

    /// Waits for changes. Given up only with the whole feed: a batch taken from the source is not put back.
    async fn next(&mut self) -> Result<Vec<Value>> {
        let changes = self.source.next(self.spec.squash).await?;
        let mut items = Vec::new();
        for change in changes {
            let old = self.seen_through(change.old).await?;
            let new = self.seen_through(change.new).await?;
            if old == new {
                continue;
            }
            let kind = match (&old, &new) {
                (None, _) => "add",
                (_, None) => "remove",
                _ => "change",
            };
            items.push(self.typed(json!({ "old_val": old, "new_val": new }), kind));
        }
        self.finish(items).await
    }

    /// A row as the watched sequence shows it; none if it does not.
    async fn seen_through(&self, row: Option<Value>) -> Result<Option<Value>> {
        let Some(row) = row else { return Ok(None) };
        let watched = match &self.spec.watched {
            Watched::Rows(_, None) => true,
            Watched::Rows(table, Some(keys)) => {
                row.get(&table.primary_key).is_some_and(|key| keys.contains(key))
            }
            Watched::Row(single) => row.get(&single.table.primary_key) == Some(&single.key),
        };
        if !watched {
            return Ok(None);
        }
        let mut seen = vec![0; self.spec.stages.len()];
        match pass(&self.evaluator, &self.spec.stages, row, &mut seen).await? {
            Passed::Out(value) => Ok(Some(value)),
            Passed::Dropped | Passed::Over => Ok(None),
        }
    }

    fn state(&self, state: &str) -> Value {
        self.typed(json!({ "state": state }), "state")
    }

    fn typed(&self, mut item: Value, kind: &str) -> Value {
        if self.spec.include_types {
            item["type"] = kind.into();
        }
        item
    }

    async fn finish(&mut self, items: Vec<Value>) -> Result<Vec<Value>> {
        let mut out = Vec::new();
        for item in items {
            match pass(&self.evaluator, &self.after, item, &mut self.seen).await? {
                Passed::Out(value) => out.push(value),
                Passed::Dropped => {}
                Passed::Over => self.over = true,
            }
        }
        // A limit that is reached ends the feed without waiting for one change more.
        let full = |(stage, seen): (&Stage, &usize)| matches!(stage, Stage::Limit(most) if seen >= most);
        self.over = self.over || self.after.iter().zip(&self.seen).any(full);
        Ok(out)
    }
}

fn cannot_subscribe(table: &Table, why: &ReqlError) -> ReqlError {
    let reason = why.message.strip_prefix("Cannot perform read: ").unwrap_or(&why.message);
    ReqlError::failed(format!("cannot subscribe to table `{}`: {reason}", table.display()))
}

impl Changes {
    async fn next(&mut self, squash: bool) -> Result<Vec<RowChange>> {
        match self {
            Self::Table(feed) => {
                let mut changes = feed.next().await.ok_or_else(aborted)?;
                while let Some(more) = feed.ready() {
                    changes.extend(more);
                }
                Ok(if squash { squashed(changes) } else { changes })
            }
            Self::System { server, table, by_id, known, wake } => loop {
                wake.changed().await.map_err(|_| aborted())?;
                let rows = system::rows(server, *table, *by_id);
                let changes = difference(known, &rows);
                *known = rows;
                if !changes.is_empty() {
                    return Ok(changes);
                }
            },
        }
    }
}

/// One change for each row: from its first old to its last new value.
fn squashed(changes: Vec<RowChange>) -> Vec<RowChange> {
    let mut out: Vec<RowChange> = Vec::new();
    for change in changes {
        match out.iter_mut().find(|earlier| earlier.key == change.key) {
            Some(earlier) => earlier.new = change.new,
            None => out.push(change),
        }
    }
    out.retain(|change| change.old != change.new);
    out
}

fn difference(old: &[Value], new: &[Value]) -> Vec<RowChange> {
    let by_id = |rows: &[Value], id: &Value| rows.iter().find(|row| row["id"] == *id).cloned();
    let key = |row: &Value| datum::row_key(&row["id"]).unwrap_or_default();
    let mut changes = Vec::new();
    for row in new {
        let before = by_id(old, &row["id"]);
        if before.as_ref() != Some(row) {
            changes.push(RowChange { key: key(row), old: before, new: Some(row.clone()) });
        }
    }
    for row in old.iter().filter(|row| by_id(new, &row["id"]).is_none()) {
        changes.push(RowChange { key: key(row), old: Some(row.clone()), new: None });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, old: Option<i64>, new: Option<i64>) -> RowChange {
        RowChange { key: key.into(), old: old.map(Value::from), new: new.map(Value::from) }
    }

    #[test]
    fn squashing_keeps_first_and_last() {
        let changes = vec![
            change("a", None, Some(1)),
            change("b", Some(1), Some(2)),
            change("a", Some(1), Some(2)),
            change("b", Some(2), Some(1)),
        ];
        assert_eq!(squashed(changes), [change("a", None, Some(2))]);
    }

    #[test]
    fn differences_of_views() {
        let old = [json!({"id": "a", "n": 1}), json!({"id": "b"})];
        let new = [json!({"id": "a", "n": 2}), json!({"id": "c"})];
        let kinds: Vec<_> = difference(&old, &new)
            .iter()
            .map(|change| (change.old.is_some(), change.new.is_some()))
            .collect();
        assert_eq!(kinds, [(true, true), (false, true), (true, false)]);
        assert!(difference(&new, &new).is_empty());
    }
}
