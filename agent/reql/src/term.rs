//! Queries, built term by term. Only what the fleet asks of a server.
//!
//! The numbers are those of `Term.TermType` in the public `ql2.proto`; a term is sent as
//! `[number, [arguments…], {options…}]`.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::options::{Changes, Conflict, Durability, Insert, ReturnChanges, Shape, WaitFor, options};

mod number {
    pub(super) const MAKE_ARRAY: u32 = 2;
    pub(super) const DB: u32 = 14;
    pub(super) const TABLE: u32 = 15;
    pub(super) const GET: u32 = 16;
    pub(super) const PLUCK: u32 = 33;
    pub(super) const FILTER: u32 = 39;
    pub(super) const ORDER_BY: u32 = 41;
    pub(super) const COUNT: u32 = 43;
    pub(super) const UPDATE: u32 = 53;
    pub(super) const DELETE: u32 = 54;
    pub(super) const REPLACE: u32 = 55;
    pub(super) const INSERT: u32 = 56;
    pub(super) const DB_CREATE: u32 = 57;
    pub(super) const DB_DROP: u32 = 58;
    pub(super) const DB_LIST: u32 = 59;
    pub(super) const TABLE_CREATE: u32 = 60;
    pub(super) const TABLE_DROP: u32 = 61;
    pub(super) const TABLE_LIST: u32 = 62;
    pub(super) const ASC: u32 = 73;
    pub(super) const DESC: u32 = 74;
    pub(super) const CHANGES: u32 = 152;
    pub(super) const CONFIG: u32 = 174;
    pub(super) const STATUS: u32 = 175;
    pub(super) const RECONFIGURE: u32 = 176;
    pub(super) const WAIT: u32 = 177;
}

/// A whole query, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    json: Value,
    writes: bool,
}

impl Term {
    fn new(number: u32, arguments: Vec<Value>) -> Self {
        Self { json: json!([number, arguments]), writes: false }
    }

    fn options(mut self, options: Map<String, Value>) -> Self {
        if let (false, Value::Array(parts)) = (options.is_empty(), &mut self.json) {
            parts.push(Value::Object(options));
        }
        self
    }

    fn writing(mut self) -> Self {
        self.writes = true;
        self
    }

    /// Whether running it twice may do something else than running it once.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// The term as it is sent.
    pub fn as_json(&self) -> &Value {
        &self.json
    }

    /// A START query.
    pub(crate) fn to_query(&self) -> Vec<u8> {
        json!([1, self.json]).to_string().into_bytes()
    }
}

/// A value as a term: arrays are made, all else stands for itself.
fn datum(value: Value) -> Value {
    match value {
        Value::Array(items) => json!([number::MAKE_ARRAY, items.into_iter().map(datum).collect::<Vec<_>>()]),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, datum(value))).collect(),
        plain => plain,
    }
}

fn data(value: impl Serialize) -> Value {
    // Refused are maps with keys that are no text, and numbers that are none: mistakes of the program.
    datum(serde_json::to_value(value).expect("what is stored can be written as JSON"))
}

/// Names a database.
pub fn db(name: &str) -> Db {
    Db(Term::new(number::DB, vec![name.into()]))
}

/// The names of all databases.
pub fn db_list() -> Term {
    Term::new(number::DB_LIST, vec![])
}

/// Makes a database; fails if there is one of that name.
pub fn db_create(name: &str) -> Term {
    Term::new(number::DB_CREATE, vec![name.into()]).writing()
}

/// Removes a database and all its tables.
pub fn db_drop(name: &str) -> Term {
    Term::new(number::DB_DROP, vec![name.into()]).writing()
}

/// A database.
#[derive(Clone, Debug)]
pub struct Db(Term);

impl Db {
    /// Names a table in it.
    pub fn table(&self, name: &str) -> Table {
        Table(Term::new(number::TABLE, vec![self.0.json.clone(), name.into()]))
    }

    /// Names a system table in which servers, databases and tables are told by their ids instead of their names.
    pub fn table_by_id(&self, name: &str) -> Table {
        let options = Map::from_iter([("identifier_format".to_owned(), "uuid".into())]);
        Table(Term::new(number::TABLE, vec![self.0.json.clone(), name.into()]).options(options))
    }

    /// The names of its tables.
    pub fn table_list(&self) -> Term {
        Term::new(number::TABLE_LIST, vec![self.0.json.clone()])
    }

    /// Makes a table; fails if there is one of that name.
    pub fn table_create(&self, name: &str, shape: &Shape) -> Term {
        let term = Term::new(number::TABLE_CREATE, vec![self.0.json.clone(), name.into()]);
        term.options(shape.options()).writing()
    }

    /// Removes a table.
    pub fn table_drop(&self, name: &str) -> Term {
        Term::new(number::TABLE_DROP, vec![self.0.json.clone(), name.into()]).writing()
    }

    /// Waits until every table of it is as ready as asked.
    pub fn wait(&self, until: WaitFor, limit: Duration) -> Term {
        wait(&self.0, until, limit)
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table(Term);

impl Table {
    /// All rows.
    pub fn all(&self) -> Selection {
        Selection(self.0.clone())
    }

    /// The row with this primary key, or null.
    pub fn get(&self, key: impl Serialize) -> Row {
        Row(Term::new(number::GET, vec![self.0.json.clone(), data(key)]))
    }

    /// Adds one row, or an array of rows; answers with [`Written`](crate::Written).
    pub fn insert(&self, rows: impl Serialize, how: Insert) -> Term {
        let term = Term::new(number::INSERT, vec![self.0.json.clone(), data(rows)]);
        term.options(options([
            ("conflict", how.conflict.map(Conflict::text)),
            ("durability", how.durability.map(Durability::text)),
            ("return_changes", how.return_changes.map(ReturnChanges::value)),
        ]))
        .writing()
    }

    /// Its settings: one row, which can be updated.
    pub fn config(&self) -> Row {
        Row(Term::new(number::CONFIG, vec![self.0.json.clone()]))
    }

    /// How its replicas fare.
    pub fn status(&self) -> Term {
        Term::new(number::STATUS, vec![self.0.json.clone()])
    }

    /// Moves its shards and replicas.
    pub fn reconfigure(&self, shape: &Shape) -> Term {
        Term::new(number::RECONFIGURE, vec![self.0.json.clone()]).options(shape.options()).writing()
    }

    /// Waits until it is as ready as asked, at most so long; a longer wait is an error.
    pub fn wait(&self, until: WaitFor, limit: Duration) -> Term {
        wait(&self.0, until, limit)
    }
}

/// Some rows of a table.
#[derive(Clone, Debug)]
pub struct Selection(Term);

impl Selection {
    /// Those whose fields equal the ones given.
    pub fn filter(self, fields: impl Serialize) -> Self {
        Self(Term::new(number::FILTER, vec![self.0.json, data(fields)]))
    }

    /// Sorted; by the first field first.
    pub fn order_by(self, fields: impl IntoIterator<Item = Order>) -> Self {
        let mut arguments = vec![self.0.json];
        arguments.extend(fields.into_iter().map(|order| order.0));
        Self(Term::new(number::ORDER_BY, arguments))
    }

    /// Only these fields of each.
    pub fn pluck<'a>(self, fields: impl IntoIterator<Item = &'a str>) -> Self {
        Self(pluck(self.0, fields))
    }

    /// How many.
    pub fn count(self) -> Term {
        Term::new(number::COUNT, vec![self.0.json])
    }

    /// Every change to come, as [`Change`](crate::Change).
    pub fn changes(self, what: Changes) -> Term {
        changes(self.0, what)
    }

    /// Sets these fields in each; answers with [`Written`](crate::Written).
    pub fn update(self, fields: impl Serialize) -> Term {
        Term::new(number::UPDATE, vec![self.0.json, data(fields)]).writing()
    }

    /// Removes each; answers with [`Written`](crate::Written).
    pub fn delete(self) -> Term {
        Term::new(number::DELETE, vec![self.0.json]).writing()
    }
}

impl From<Selection> for Term {
    fn from(selection: Selection) -> Self {
        selection.0
    }
}

/// One row, or null where there is none.
#[derive(Clone, Debug)]
pub struct Row(Term);

impl Row {
    /// Sets these fields; answers with [`Written`](crate::Written), `skipped` where there is no row.
    pub fn update(self, fields: impl Serialize) -> Term {
        self.update_returning(fields, None)
    }

    /// As [`update`](Self::update), with the row before and after in the answer.
    pub fn update_returning(self, fields: impl Serialize, changes: impl Into<Option<ReturnChanges>>) -> Term {
        let term = Term::new(number::UPDATE, vec![self.0.json, data(fields)]);
        term.options(options([("return_changes", changes.into().map(ReturnChanges::value))])).writing()
    }

    /// Puts another row, of the same primary key, in its place.
    pub fn replace(self, row: impl Serialize) -> Term {
        Term::new(number::REPLACE, vec![self.0.json, data(row)]).writing()
    }

    /// Removes it; answers with [`Written`](crate::Written), `skipped` where there is none.
    pub fn delete(self) -> Term {
        Term::new(number::DELETE, vec![self.0.json]).writing()
    }

    /// Only these fields; an error where there is no row.
    pub fn pluck<'a>(self, fields: impl IntoIterator<Item = &'a str>) -> Term {
        pluck(self.0, fields)
    }

    /// Every change to come, as [`Change`](crate::Change).
    pub fn changes(self, what: Changes) -> Term {
        changes(self.0, what)
    }
}

impl From<Row> for Term {
    fn from(row: Row) -> Self {
        row.0
    }
}

/// One criterion of an order.
#[derive(Clone, Debug)]
pub struct Order(Value);

impl Order {
    /// Smallest first.
    pub fn asc(field: &str) -> Self {
        Self(json!([number::ASC, [field]]))
    }

    /// Largest first.
    pub fn desc(field: &str) -> Self {
        Self(json!([number::DESC, [field]]))
    }
}

fn wait(of: &Term, until: WaitFor, limit: Duration) -> Term {
    let limits = [("wait_for", Some(until.text())), ("timeout", Some(limit.as_secs_f64().into()))];
    Term::new(number::WAIT, vec![of.json.clone()]).options(options(limits))
}

fn pluck<'a>(of: Term, fields: impl IntoIterator<Item = &'a str>) -> Term {
    let mut arguments = vec![of.json];
    arguments.extend(fields.into_iter().map(Value::from));
    Term::new(number::PLUCK, arguments)
}

fn changes(of: Term, what: Changes) -> Term {
    let yes = |wanted: bool| wanted.then_some(Value::from(true));
    Term::new(number::CHANGES, vec![of.json]).options(options([
        ("include_initial", yes(what.include_initial)),
        ("include_states", yes(what.include_states)),
        ("include_types", yes(what.include_types)),
        ("squash", yes(what.squash)),
    ]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::options::Replicas;

    /// The JSON is what the Python driver sends for the query beside it.
    #[test]
    fn terms_as_they_are_sent() {
        let check = |term: Term, writes: bool, json: Value| {
            assert_eq!((term.as_json(), term.writes()), (&json, writes));
        };
        let table = db("todo").table("tasks");
        let of = json!([15, [[14, ["todo"]], "tasks"]]);
        check(db_list(), false, json!([59, []]));
        check(db_create("todo"), true, json!([57, ["todo"]]));
        check(db_drop("todo"), true, json!([58, ["todo"]]));
        check(db("todo").table_list(), false, json!([62, [[14, ["todo"]]]]));
        check(db("todo").table_drop("t"), true, json!([61, [[14, ["todo"]], "t"]]));
        check(
            db("todo").table_create("t", &Shape::one_shard(Replicas::Count(3))),
            true,
            json!([60, [[14, ["todo"]], "t"], {"shards": 1, "replicas": 3}]),
        );
        let tags = BTreeMap::from([("eu".to_owned(), 2), ("us".to_owned(), 1)]);
        let by_tag = Shape::one_shard(Replicas::ByTag { replicas: tags, primary: "eu".into() });
        check(
            table.reconfigure(&Shape { dry_run: true, ..by_tag }),
            true,
            json!([176, [of], {"shards": 1, "replicas": {"eu": 2, "us": 1}, "primary_replica_tag": "eu", "dry_run": true}]),
        );
        check(table.all().into(), false, of.clone());
        check(table.get("a").into(), false, json!([16, [of, "a"]]));
        check(table.get(["a", "b"]).into(), false, json!([16, [of, [2, ["a", "b"]]]]));
        let how = Insert {
            conflict: Some(Conflict::Error),
            durability: Some(Durability::Hard),
            return_changes: Some(ReturnChanges::Always),
        };
        check(
            table.insert(json!({"id": 1, "tags": ["x"]}), how),
            true,
            json!([56, [of, {"id": 1, "tags": [2, ["x"]]}],
                {"conflict": "error", "durability": "hard", "return_changes": "always"}]),
        );
        check(table.insert(json!([{"id": 1}]), Insert::default()), true, json!([56, [of, [2, [{"id": 1}]]]]));
        check(table.get(1).update(json!({"a": [1]})), true, json!([53, [[16, [of, 1]], {"a": [2, [1]]}]]));
        check(
            table.get(1).update_returning(json!({}), ReturnChanges::Changed),
            true,
            json!([53, [[16, [of, 1]], {}], {"return_changes": true}]),
        );
        check(table.get(1).replace(json!({"id": 1})), true, json!([55, [[16, [of, 1]], {"id": 1}]]));
        check(table.get(1).delete(), true, json!([54, [[16, [of, 1]]]]));
        check(table.get(1).pluck(["a"]), false, json!([33, [[16, [of, 1]], "a"]]));
        check(
            table.all().filter(json!({"done": true})).delete(),
            true,
            json!([54, [[39, [of, {"done": true}]]]]),
        );
        check(
            table.all().order_by([Order::asc("at"), Order::desc("id")]).pluck(["id", "at"]).into(),
            false,
            json!([33, [[41, [of, [73, ["at"]], [74, ["id"]]]], "id", "at"]]),
        );
        check(table.all().count(), false, json!([43, [of]]));
        check(table.all().update(json!({"a": 1})), true, json!([53, [of, {"a": 1}]]));
        let all = Changes { include_initial: true, include_states: true, include_types: true, squash: true };
        check(
            table.all().changes(all),
            false,
            json!([152, [of], {"include_initial": true, "include_states": true, "include_types": true, "squash": true}]),
        );
        check(table.get(1).changes(Changes::default()), false, json!([152, [[16, [of, 1]]]]));
        check(table.status(), false, json!([175, [of]]));
        check(table.config().update(json!({"name": "x"})), true, json!([53, [[174, [of]], {"name": "x"}]]));
        check(
            table.wait(WaitFor::AllReplicas, Duration::from_secs(5)),
            false,
            json!([177, [of], {"wait_for": "all_replicas_ready", "timeout": 5.0}]),
        );
    }

    #[test]
    fn a_query_is_a_start() {
        assert_eq!(db_list().to_query(), b"[1,[59,[]]]");
    }
}
