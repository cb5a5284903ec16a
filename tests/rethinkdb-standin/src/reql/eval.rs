//! Evaluating terms: what all operations share.

use std::{pin::Pin, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    admin, datum,
    error::{Class, Frame, ReqlError, Result},
    ops, sequence,
    term::{Op, Term},
    value::{Database, Function, Scope, Sequence, Source, Table, TableKind, Val},
    write,
};
use crate::{server::Server, system};

/// A term under evaluation.
pub type Evaluation<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Database of tables that name none.
const DEFAULT_DATABASE: &str = "test";

/// Evaluates the terms of one query.
pub struct Evaluator {
    server: Option<Arc<Server>>,
    database: Option<Term>,
    now: Value,
}

impl Evaluator {
    /// For a driver's query; `database` is its option `db`.
    pub fn new(server: Arc<Server>, database: Option<Term>) -> Self {
        Self { now: time(server.now()), server: Some(server), database }
    }

    /// For functions over rows alone, at a given time.
    pub fn pure(now: Value) -> Self {
        Self { server: None, database: None, now }
    }

    /// The server, unless only rows may be looked at.
    ///
    /// # Errors
    /// Only rows may be looked at.
    pub fn server(&self) -> Result<&Arc<Server>> {
        self.server.as_ref().ok_or_else(|| ReqlError::logic("Could not prove function deterministic."))
    }

    /// `r.now()`: one moment for the whole query.
    pub fn now(&self) -> &Value {
        &self.now
    }

    /// Evaluates a whole query.
    ///
    /// # Errors
    /// The query's.
    pub async fn run(&self, term: &Term) -> Result<Val> {
        self.eval(term, &Scope::default()).await
    }

    /// Evaluates a term.
    pub fn eval<'a>(&'a self, term: &'a Term, scope: &'a Scope) -> Evaluation<'a, Val> {
        Box::pin(async move {
            match term {
                Term::Datum(value) => Ok(Val::Datum(value.clone())),
                Term::Object(fields) => {
                    let mut object = Map::new();
                    for (name, field) in fields {
                        let value = self.datum(field, scope).await;
                        let value = value.map_err(|why| why.within(Frame::Option(name.clone())))?;
                        object.insert(name.clone(), value);
                    }
                    Ok(Val::Datum(Value::Object(object)))
                }
                Term::Call { op, args, options } => {
                    let call = Call { evaluator: self, op: *op, args, options, scope };
                    call.evaluate().await
                }
            }
        })
    }

    /// Evaluates a term to plain data.
    ///
    /// # Errors
    /// It is something else.
    pub async fn datum(&self, term: &Term, scope: &Scope) -> Result<Value> {
        let value = self.eval(term, scope).await?;
        self.plain(value).await
    }

    /// Makes a value plain data.
    ///
    /// # Errors
    /// It is something else.
    pub async fn plain(&self, value: Val) -> Result<Value> {
        match value {
            Val::Datum(value) => Ok(value),
            Val::Single(single) => sequence::row(self, &single).await,
            Val::Sequence(sequence) if is_array(&sequence) => {
                Ok(Value::Array(Box::pin(sequence::elements(self, &sequence)).await?))
            }
            other => Err(other.not_a("DATUM")),
        }
    }

    /// Calls a function with plain data.
    ///
    /// # Errors
    /// The function's.
    pub async fn call(&self, function: &Function, arguments: &[Value]) -> Result<Value> {
        let scope = function.bind(arguments)?;
        self.datum(&function.body, &scope).await
    }

    /// A database by name.
    ///
    /// # Errors
    /// There is none.
    pub fn find_database(&self, name: &str) -> Result<Database> {
        check_name("Database", name)?;
        if name == system::DATABASE {
            return Ok(Database { id: system::database_id(), name: name.into() });
        }
        let id = self.server()?.metadata().database(name).cloned();
        let id = id.ok_or_else(|| ReqlError::failed(format!("Database `{name}` does not exist.")))?;
        Ok(Database { id, name: name.into() })
    }

    /// The database of a table that names none.
    ///
    /// # Errors
    /// There is none.
    pub async fn default_database(&self) -> Result<Database> {
        match &self.database {
            None => self.find_database(DEFAULT_DATABASE),
            Some(term) => match self.eval(term, &Scope::default()).await? {
                Val::Database(database) => Ok(database),
                Val::Datum(Value::String(name)) => self.find_database(&name),
                other => Err(other.not_a("DATABASE")),
            },
        }
    }

    /// A table by name.
    ///
    /// # Errors
    /// There is none.
    pub fn find_table(&self, db: Database, name: &str, outdated: bool, by_id: bool) -> Result<Table> {
        check_name("Table", name)?;
        let absent = || ReqlError::failed(format!("Table `{}.{name}` does not exist.", db.name));
        if db.name == system::DATABASE {
            let table = system::SystemTable::named(name).ok_or_else(absent)?;
            let kind = TableKind::System { table, by_id };
            return Ok(Table { db, name: name.into(), primary_key: "id".into(), kind, outdated });
        }
        let metadata = self.server()?.metadata();
        let config = metadata.table(&db.id, name).ok_or_else(absent)?;
        let kind = TableKind::Stored { id: config.id.clone() };
        Ok(Table { db, name: name.into(), primary_key: config.primary_key.clone(), kind, outdated })
    }
}

fn is_array(sequence: &Sequence) -> bool {
    matches!(sequence.source, Source::Rows { array: true, .. })
}

/// A point in time as data.
pub fn time(epoch: f64) -> Value {
    json!({ "$reql_type$": "TIME", "epoch_time": datum::number(epoch), "timezone": "+00:00" })
}

/// Refuses names the real server refuses.
///
/// # Errors
/// See its words.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    if datum::is_name(name) {
        return Ok(());
    }
    Err(ReqlError::logic(format!("{what} name `{name}` invalid (Use A-Z, a-z, 0-9, _ and - only).")))
}

/// One operation with its arguments.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Who evaluates.
    pub evaluator: &'a Evaluator,
    /// Which operation.
    pub op: Op,
    /// Positional arguments.
    pub args: &'a [Term],
    /// Optional arguments.
    pub options: &'a std::collections::BTreeMap<String, Term>,
    /// Variables.
    pub scope: &'a Scope,
}

impl<'a> Call<'a> {
    /// Evaluates an argument.
    pub async fn arg(&self, at: usize) -> Result<Val> {
        self.evaluator.eval(&self.args[at], self.scope).await.map_err(|why| why.at(at))
    }

    /// Evaluates an argument to plain data.
    pub async fn datum(&self, at: usize) -> Result<Value> {
        let value = self.arg(at).await?;
        self.evaluator.plain(value).await.map_err(|why| why.at(at))
    }

    /// Evaluates all arguments from one on to plain data.
    pub async fn data(&self, from: usize) -> Result<Vec<Value>> {
        let mut data = Vec::new();
        for at in from..self.args.len() {
            data.push(self.datum(at).await?);
        }
        Ok(data)
    }

    /// Evaluates an argument that must be text.
    pub async fn text(&self, at: usize) -> Result<String> {
        match self.datum(at).await? {
            Value::String(text) => Ok(text),
            other => Err(ReqlError::wrong_type("STRING", &other).at(at)),
        }
    }

    /// Evaluates an argument that must be a number.
    pub async fn number(&self, at: usize) -> Result<f64> {
        let value = self.datum(at).await?;
        value.as_f64().ok_or_else(|| ReqlError::wrong_type("NUMBER", &value))
    }

    /// Evaluates an argument that must be a whole number.
    pub async fn integer(&self, at: usize) -> Result<i64> {
        let number = self.number(at).await?;
        if number.fract() != 0.0 {
            return Err(ReqlError::logic(format!("Number not an integer: {number}")).at(at));
        }
        Ok(number as i64)
    }

    /// An argument as a function; anything else is a function without parameters.
    pub async fn function(&self, at: usize) -> Result<Function> {
        match &self.args[at] {
            Term::Call { op: Op::Func, .. } => match self.arg(at).await? {
                Val::Function(function) => Ok(function),
                other => Err(other.not_a("FUNCTION").at(at)),
            },
            other => Ok(Function { parameters: Vec::new(), body: other.clone(), scope: self.scope.clone() }),
        }
    }

    /// An optional argument as plain data.
    pub async fn option(&self, name: &str) -> Result<Option<Value>> {
        let Some(term) = self.options.get(name) else { return Ok(None) };
        let value = self.evaluator.datum(term, self.scope).await;
        value.map(Some).map_err(|why| why.within(Frame::Option(name.into())))
    }

    /// An optional argument that must be true or false.
    pub async fn flag(&self, name: &str) -> Result<bool> {
        match self.option(name).await? {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(ReqlError::wrong_type("BOOL", &other).within(Frame::Option(name.into()))),
        }
    }

    /// An argument that must be a sequence; arrays are.
    pub async fn sequence(&self, at: usize) -> Result<Sequence> {
        // As the real server: data that is no sequence is blamed on the whole term.
        match self.arg(at).await? {
            value @ Val::Datum(_) => as_sequence(value),
            value => as_sequence(value).map_err(|why| why.at(at)),
        }
    }

    async fn evaluate(self) -> Result<Val> {
        match self.op {
            Op::Func => self.make_function(),
            Op::Var => {
                let number = self.integer(0).await?;
                let value = self.scope.variables.get(&number).cloned();
                value
                    .map(Val::Datum)
                    .ok_or_else(|| ReqlError::compile(format!("Variable number {number} not found.")))
            }
            Op::ImplicitVar => self
                .scope
                .implicit
                .clone()
                .map(Val::Datum)
                .ok_or_else(|| ReqlError::compile("r.row is not defined in this context.")),
            Op::Funcall => {
                let function = self.function(0).await?;
                let arguments = self.data(1).await?;
                let scope = function.bind(&arguments)?;
                self.evaluator.eval(&function.body, &scope).await.map_err(|why| why.at(0))
            }
            Op::Branch => self.branch().await,
            Op::Default => self.default().await,
            Op::Error => {
                let text = if self.args.is_empty() { String::new() } else { self.text(0).await? };
                Err(ReqlError::new(Class::User, text))
            }
            Op::Db => {
                let name = self.text(0).await?;
                self.evaluator.find_database(&name).map(Val::Database)
            }
            Op::Table => self.table().await,
            Op::Get
            | Op::GetAll
            | Op::Filter
            | Op::Map
            | Op::OrderBy
            | Op::Asc
            | Op::Desc
            | Op::Limit
            | Op::Skip
            | Op::Slice
            | Op::Nth
            | Op::Count
            | Op::IsEmpty
            | Op::Contains
            | Op::Distinct
            | Op::Range
            | Op::Changes => sequence::evaluate(self).await,
            Op::Insert | Op::Update | Op::Replace | Op::Delete | Op::Sync => write::evaluate(self).await,
            Op::DbCreate
            | Op::DbDrop
            | Op::DbList
            | Op::TableCreate
            | Op::TableDrop
            | Op::TableList
            | Op::Config
            | Op::Status
            | Op::Wait
            | Op::Reconfigure
            | Op::Info => admin::evaluate(self).await,
            _ => ops::evaluate(self).await,
        }
    }

    fn make_function(&self) -> Result<Val> {
        let parameters = match &self.args[0] {
            Term::Datum(Value::Array(numbers)) => numbers.iter().filter_map(Value::as_i64).collect(),
            _ => Vec::new(),
        };
        Ok(Val::Function(Function { parameters, body: self.args[1].clone(), scope: self.scope.clone() }))
    }

    async fn branch(&self) -> Result<Val> {
        if self.args.len().is_multiple_of(2) {
            return Err(ReqlError::logic("Cannot call `branch` term with an even number of arguments."));
        }
        let mut at = 0;
        while at + 1 < self.args.len() {
            if truthy(&self.datum(at).await?) {
                return self.arg(at + 1).await;
            }
            at += 2;
        }
        self.arg(at).await
    }

    async fn default(&self) -> Result<Val> {
        let found = match self.arg(0).await {
            Ok(single @ Val::Single(_)) => self.evaluator.plain(single).await.map(Val::Datum),
            found => found,
        };
        match found {
            Ok(Val::Datum(Value::Null)) => self.arg(1).await,
            Err(why) if why.class == Class::NonExistence => self.arg(1).await,
            found => found,
        }
    }

    async fn table(&self) -> Result<Val> {
        let (db, name) = match self.args.len() {
            1 => (self.evaluator.default_database().await?, self.text(0).await?),
            _ => match self.arg(0).await? {
                Val::Database(db) => (db, self.text(1).await?),
                other => return Err(other.not_a("DATABASE").at(0)),
            },
        };
        let outdated = match self.option("read_mode").await?.as_ref().and_then(Value::as_str) {
            None | Some("single" | "majority") => false,
            Some("outdated") => true,
            Some(other) => {
                return Err(ReqlError::logic(format!(
                    "Read mode `{other}` unrecognized (options are \"majority\", \"single\", and \"outdated\")."
                )));
            }
        };
        let by_id = match self.option("identifier_format").await?.as_ref().and_then(Value::as_str) {
            None | Some("name") => false,
            Some("uuid") => true,
            Some(other) => {
                return Err(ReqlError::logic(format!(
                    "Identifier format `{other}` unrecognized (options are \"name\" and \"uuid\")."
                )));
            }
        };
        let table = self.evaluator.find_table(db, &name, outdated, by_id)?;
        Ok(Val::Sequence(Sequence::of(Source::Table(table))))
    }
}

/// What a condition takes for true: everything but false and null.
pub fn truthy(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

/// Arrays are sequences too.
///
/// # Errors
/// It is neither.
pub fn as_sequence(value: Val) -> Result<Sequence> {
    match value {
        Val::Sequence(sequence) => Ok(sequence),
        Val::Datum(Value::Array(items)) => Ok(Sequence::rows(items, None, true)),
        Val::Datum(other) => {
            let class = if other.is_null() { Class::NonExistence } else { Class::QueryLogic };
            Err(ReqlError::new(class, format!("Cannot convert {} to SEQUENCE", datum::type_name(&other))))
        }
        other => Err(other.not_a("SEQUENCE")),
    }
}
