//! What a write does to rows, decided apart from where they are stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::replica::RowChange;
use crate::reql::{
    datum,
    error::{ReqlError, Result},
    eval::Evaluator,
    value::Function,
};

/// What to do with each row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum How {
    /// Insert documents.
    Insert(Conflict),
    /// Merge what a function gives into the row.
    Update(Function),
    /// Put what a function gives in the row's place.
    Replace(Function),
    /// Remove the row.
    Delete,
}

/// What an insert does when the key is taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Conflict {
    /// Refuses.
    Error,
    /// The new document wins.
    Replace,
    /// Merges into the old one.
    Update,
    /// A function of key, old and new document decides.
    Function(Function),
}

/// Which changes the result lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Returned {
    /// None.
    No,
    /// Those that happened.
    Yes,
    /// One for each row, failed ones too.
    Always,
}

/// A write, ready to travel to the server that leads the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Write {
    /// What to do.
    pub how: How,
    /// Documents of an insert, keys of anything else.
    pub items: Vec<Value>,
    /// Which changes to list.
    pub returned: Returned,
    /// `r.now()` of the query.
    pub now: Value,
}

/// Counts of what a write did.
#[derive(Debug, Clone)]
pub struct Tally {
    counts: BTreeMap<&'static str, u64>,
    first_error: Option<String>,
    changes: Vec<Value>,
    returned: Returned,
}

impl Tally {
    /// Nothing happened yet.
    pub fn new(returned: Returned) -> Self {
        let counts = ["deleted", "errors", "inserted", "replaced", "skipped", "unchanged"]
            .map(|name| (name, 0))
            .into();
        Self { counts, first_error: None, changes: Vec::new(), returned }
    }

    /// A row went from old to new; null is no row.
    pub fn done(&mut self, old: &Value, new: &Value) {
        let what = match (old.is_null(), new.is_null()) {
            (true, true) => "skipped",
            (true, false) => "inserted",
            (false, true) => "deleted",
            (false, false) if old == new => "unchanged",
            (false, false) => "replaced",
        };
        self.count(what);
        let lists = match self.returned {
            Returned::No => false,
            Returned::Yes => old != new,
            Returned::Always => true,
        };
        if lists {
            self.changes.push(json!({ "old_val": old, "new_val": new }));
        }
    }

    /// A row could not be written.
    pub fn failed(&mut self, old: &Value, why: &ReqlError) {
        self.count("errors");
        self.first_error.get_or_insert_with(|| why.message.clone());
        if self.returned == Returned::Always {
            self.changes.push(json!({ "old_val": old, "new_val": old, "error": why.message }));
        }
    }

    /// Takes another tally's rows into this one.
    pub fn add(&mut self, other: Self) {
        for (name, count) in other.counts {
            *self.counts.entry(name).or_default() += count;
        }
        self.first_error = self.first_error.take().or(other.first_error);
        self.changes.extend(other.changes);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The result as the driver gets it.
    pub fn into_value(self) -> Value {
        let mut result: Map<String, Value> =
            self.counts.into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect();
        if let Some(error) = self.first_error {
            result.insert("first_error".into(), error.into());
        }
        if self.returned != Returned::No {
            result.insert("changes".into(), self.changes.into());
        }
        Value::Object(result)
    }
}

impl Write {
    /// Decides what becomes of each row. `read` gives a stored row by its encoded key.
    pub async fn decide(
        &self,
        primary_key: &str,
        read: impl Fn(&str) -> Option<Value>,
    ) -> (Tally, Vec<RowChange>) {
        let mut tally = Tally::new(self.returned);
        let mut changed: BTreeMap<String, RowChange> = BTreeMap::new();
        for item in &self.items {
            let key = match self.key(primary_key, item) {
                Ok(key) => key,
                Err(why) => {
                    tally.failed(&Value::Null, &why);
                    continue;
                }
            };
            let stored = match changed.get(&key) {
                Some(change) => change.new.clone(),
                None => read(&key),
            };
            let old = stored.clone().unwrap_or(Value::Null);
            match self.row(primary_key, item, &old).await {
                Ok(new) => {
                    tally.done(&old, &new);
                    if new != old {
                        let new = (!new.is_null()).then_some(new);
                        let change = changed.entry(key.clone()).or_insert_with(|| RowChange {
                            key,
                            old: stored,
                            new: None,
                        });
                        change.new = new;
                    }
                }
                Err(why) => tally.failed(&old, &why),
            }
        }
        let changes = changed.into_values().filter(|change| change.old != change.new).collect();
        (tally, changes)
    }

    fn key(&self, primary_key: &str, item: &Value) -> Result<String> {
        let How::Insert(_) = self.how else { return datum::row_key(item) };
        if !item.is_object() || datum::pseudo_type(item).is_some() {
            return Err(ReqlError::wrong_type("OBJECT", item));
        }
        let key = item.get(primary_key).ok_or_else(|| no_key(primary_key, item))?;
        datum::row_key(key)
    }

    /// The row as it should be; null for none.
    async fn row(&self, primary_key: &str, item: &Value, old: &Value) -> Result<Value> {
        let pure = Evaluator::pure(self.now.clone());
        let new = match &self.how {
            How::Insert(_) if old.is_null() => item.clone(),
            How::Insert(Conflict::Replace) => item.clone(),
            How::Insert(Conflict::Update) => datum::merge(old, item),
            How::Insert(Conflict::Function(function)) => {
                let key = old.get(primary_key).cloned().unwrap_or(Value::Null);
                pure.call(function, &[key, old.clone(), item.clone()]).await?
            }
            How::Insert(Conflict::Error) => {
                return Err(ReqlError::failed(format!(
                    "Duplicate primary key `{primary_key}`:\n{}\n{}",
                    datum::print(old),
                    datum::print(item)
                )));
            }
            How::Update(_) | How::Delete if old.is_null() => Value::Null,
            How::Delete => Value::Null,
            How::Update(function) => {
                let change = pure.call(function, std::slice::from_ref(old)).await?;
                if change.is_null() {
                    return Ok(old.clone());
                }
                if !change.is_object() {
                    return Err(not_an_object(&change));
                }
                datum::merge(old, &change)
            }
            How::Replace(function) => pure.call(function, std::slice::from_ref(old)).await?,
        };
        let key = match &self.how {
            How::Insert(_) => item.get(primary_key).unwrap_or(item),
            _ => item,
        };
        check(primary_key, key, old, &new)?;
        Ok(new)
    }
}

/// A row must be an object, keep its key, and hold no leftovers of `r.literal`.
fn check(primary_key: &str, key: &Value, old: &Value, new: &Value) -> Result<()> {
    if new.is_null() {
        return Ok(());
    }
    if !new.is_object() || datum::pseudo_type(new).is_some() {
        return Err(not_an_object(new));
    }
    match new.get(primary_key) {
        None => Err(no_key(primary_key, new)),
        Some(found) if found == key => Ok(()),
        Some(_) if old.is_null() => Err(ReqlError::logic(format!(
            "Primary key `{primary_key}` cannot be changed (null -> {})",
            datum::print(new)
        ))),
        Some(_) => Err(ReqlError::logic(format!(
            "Primary key `{primary_key}` cannot be changed (`{}` -> `{}`).",
            datum::print(old),
            datum::print(new)
        ))),
    }
}

fn not_an_object(value: &Value) -> ReqlError {
    let (name, text) = (datum::type_name(value), datum::print(value));
    ReqlError::logic(format!("Inserted value must be an OBJECT (got {name}):\n{text}"))
}

fn no_key(primary_key: &str, value: &Value) -> ReqlError {
    ReqlError::logic(format!(
        "Inserted object must have primary key `{primary_key}`:\n{}",
        datum::print(value)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn decide(how: How, items: Value, rows: &[Value]) -> (Value, Vec<RowChange>) {
        let items = items.as_array().expect("a list").clone();
        let write = Write { how, items, returned: Returned::Always, now: Value::Null };
        let read =
            |key: &str| rows.iter().find(|row| datum::row_key(&row["id"]).is_ok_and(|k| k == key)).cloned();
        let (tally, changes) = write.decide("id", read).await;
        (tally.into_value(), changes)
    }

    #[tokio::test]
    async fn each_outcome_is_counted_once() {
        let rows = [json!({"id": 1, "n": 1}), json!({"id": 2, "n": 2})];
        let update = How::Update(Function::constant(json!({"n": 2})));
        let (result, changes) = decide(update, json!([1, 2, 3]), &rows).await;
        assert_eq!(
            (&result["replaced"], &result["unchanged"], &result["skipped"]),
            (&json!(1), &json!(1), &json!(1))
        );
        assert_eq!(changes.len(), 1);
        let (result, changes) = decide(How::Delete, json!([1, 9]), &rows).await;
        assert_eq!((&result["deleted"], &result["skipped"]), (&json!(1), &json!(1)));
        assert_eq!(changes[0].new, None);
    }

    #[tokio::test]
    async fn one_key_twice_in_a_batch_is_a_conflict_with_itself() {
        let insert = How::Insert(Conflict::Error);
        let (result, changes) = decide(insert, json!([{"id": 1}, {"id": 1}]), &[]).await;
        assert_eq!((&result["inserted"], &result["errors"]), (&json!(1), &json!(1)));
        assert_eq!(changes.len(), 1);
    }

    #[tokio::test]
    async fn keys_cannot_change_and_rows_must_be_objects() {
        let rows = [json!({"id": 1})];
        for (new, text) in [
            (json!({"id": 2}), "cannot be changed"),
            (json!({"n": 2}), "must have primary key"),
            (json!(5), "must be an OBJECT"),
        ] {
            let (result, changes) = decide(How::Replace(Function::constant(new)), json!([1]), &rows).await;
            assert!(result["first_error"].as_str().expect("an error").contains(text), "{result}");
            assert!(changes.is_empty());
        }
    }
}
