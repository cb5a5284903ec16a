//! What terms evaluate to: data, databases, sequences over tables, functions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    datum,
    error::{Class, ReqlError, Result},
    term::Term,
};
use crate::system::SystemTable;

/// Variables a function sees.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scope {
    /// By the driver's numbers.
    pub variables: BTreeMap<i64, Value>,
    /// `r.row`.
    pub implicit: Option<Value>,
}

/// A function with what it captured; may travel to the server that holds the row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// Numbers of its parameters.
    pub parameters: Vec<i64>,
    /// What it evaluates.
    pub body: Term,
    /// What it captured.
    pub scope: Scope,
}

impl Function {
    /// A function of any number of arguments that ignores them.
    pub fn constant(value: Value) -> Self {
        Self { parameters: Vec::new(), body: Term::Datum(value), scope: Scope::default() }
    }

    /// The scope in which the body runs.
    ///
    /// # Errors
    /// The number of arguments is not that of the parameters.
    pub fn bind(&self, arguments: &[Value]) -> Result<Scope> {
        let (takes, given) = (self.parameters.len(), arguments.len());
        if takes != given && takes != 0 {
            let plural = |n| if n == 1 { "" } else { "s" };
            return Err(ReqlError::logic(format!(
                "Expected function with {given} argument{} but found function with {takes} argument{}.",
                plural(given),
                plural(takes)
            )));
        }
        let mut scope = self.scope.clone();
        for (number, value) in self.parameters.iter().zip(arguments) {
            scope.variables.insert(*number, value.clone());
        }
        scope.implicit = match arguments {
            [only] => Some(only.clone()),
            _ => None,
        };
        Ok(scope)
    }
}

/// A database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A table, found by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Database it is in.
    pub db: Database,
    /// Its name.
    pub name: String,
    /// Its primary key.
    pub primary_key: String,
    /// Which it is.
    pub kind: TableKind,
    /// `read_mode: "outdated"`: any replica may answer.
    pub outdated: bool,
}

/// What is behind a table's name.
#[derive(Debug, Clone, PartialEq)]
pub enum TableKind {
    /// Rows on disk.
    Stored {
        /// The table's id.
        id: String,
    },
    /// A view of the cluster.
    System {
        /// Which.
        table: SystemTable,
        /// `identifier_format: "uuid"`.
        by_id: bool,
    },
}

impl Table {
    /// The table's id.
    pub fn id(&self) -> String {
        match &self.kind {
            TableKind::Stored { id } => id.clone(),
            TableKind::System { table, .. } => table.id(),
        }
    }

    /// As error messages give it.
    pub fn display(&self) -> String {
        format!("{}.{}", self.db.name, self.name)
    }
}

/// One row of a table, whether it exists or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Single {
    /// Where.
    pub table: Table,
    /// Which.
    pub key: Value,
}

/// What happens to each element on its way out of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Keeps some.
    Filter {
        /// Which.
        keep: Predicate,
        /// What a missing field means; an error if it is none.
        default: Option<bool>,
    },
    /// Replaces each.
    Map(Function),
    /// Takes one field of each object that has it.
    Field(String),
    /// Keeps fields.
    Pluck(Vec<Value>),
    /// Drops fields.
    Without(Vec<Value>),
    /// Keeps those that have fields.
    HasFields(Vec<Value>),
    /// Merges into each.
    Merge(Function),
    /// Ends after this many.
    Limit(usize),
    /// Leaves this many out.
    Skip(usize),
}

/// The condition of a filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    /// A function of the row.
    Function(Function),
    /// An object whose fields must be those of the row.
    Shape(Value),
}

/// Where a sequence's elements come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// All rows.
    Table(Table),
    /// Some rows by key.
    Keys(Table, Vec<Value>),
    /// Elements at hand, of a table if they were selected there.
    Rows {
        /// The elements.
        rows: Vec<Value>,
        /// Their table.
        table: Option<Table>,
        /// Whether this is an array rather than a stream.
        array: bool,
    },
    /// Changes as they happen.
    Feed(Box<FeedSpec>),
}

/// A sequence, read when it is needed.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// Where elements come from.
    pub source: Source,
    /// What happens to them.
    pub stages: Vec<Stage>,
}

impl Sequence {
    /// All of a table.
    pub fn of(source: Source) -> Self {
        Self { source, stages: Vec::new() }
    }

    /// Elements at hand.
    pub fn rows(rows: Vec<Value>, table: Option<Table>, array: bool) -> Self {
        Self::of(Source::Rows { rows, table, array })
    }

    /// With one more stage.
    #[must_use]
    pub fn then(mut self, stage: Stage) -> Self {
        self.stages.push(stage);
        self
    }

    /// Whether elements are whole rows of a table, so that they can be written.
    pub fn selection(&self) -> Option<&Table> {
        let selects = self.stages.iter().all(|stage| {
            matches!(stage, Stage::Filter { .. } | Stage::Limit(_) | Stage::Skip(_) | Stage::HasFields(_))
        });
        match &self.source {
            Source::Table(table) | Source::Keys(table, _) | Source::Rows { table: Some(table), .. }
                if selects =>
            {
                Some(table)
            }
            _ => None,
        }
    }

    fn type_name(&self) -> &'static str {
        match (&self.source, self.selection()) {
            (Source::Table(_), _) if self.stages.is_empty() => "TABLE",
            (Source::Rows { array: true, .. }, Some(_)) => "SELECTION<ARRAY>",
            (_, Some(_)) => "SELECTION<STREAM>",
            (Source::Rows { array: true, .. }, None) => "ARRAY",
            _ => "STREAM",
        }
    }
}

/// What a feed watches.
#[derive(Debug, Clone, PartialEq)]
pub enum Watched {
    /// All rows, or those of some keys.
    Rows(Table, Option<Vec<Value>>),
    /// One row.
    Row(Single),
}

/// A change feed before it is opened.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedSpec {
    /// What.
    pub watched: Watched,
    /// Applied to old and new values.
    pub stages: Vec<Stage>,
    /// Whether rows that exist come first.
    pub include_initial: bool,
    /// Whether states are told.
    pub include_states: bool,
    /// Whether each change says its type.
    pub include_types: bool,
    /// Whether changes of one row are put together.
    pub squash: bool,
}

/// The value of a term.
#[derive(Debug, Clone, PartialEq)]
pub enum Val {
    /// Plain data.
    Datum(Value),
    /// A database.
    Database(Database),
    /// A sequence.
    Sequence(Sequence),
    /// One row.
    Single(Single),
    /// A function.
    Function(Function),
    /// `r.asc`, `r.desc`.
    Ordering {
        /// Downwards.
        descending: bool,
        /// By what.
        by: Box<Val>,
    },
}

impl Val {
    /// As `type_of` gives it.
    pub fn type_name(&self) -> String {
        match self {
            Self::Datum(value) => datum::type_name(value),
            Self::Database(_) => "DB".into(),
            Self::Sequence(sequence) => sequence.type_name().into(),
            Self::Single(_) => "SELECTION<OBJECT>".into(),
            Self::Function(_) => "FUNCTION".into(),
            Self::Ordering { .. } => "ORDERING".into(),
        }
    }

    /// "Expected type X but found Y".
    pub fn not_a(&self, wanted: &str) -> ReqlError {
        let (found, shown) = match self {
            Self::Datum(value) => ("DATUM".to_owned(), datum::print(value)),
            Self::Database(db) => ("DATABASE".to_owned(), format!("db(\"{}\")", db.name)),
            Self::Sequence(Sequence { source: Source::Table(table), stages }) if stages.is_empty() => {
                ("TABLE".to_owned(), format!("table(\"{}\")", table.name))
            }
            Self::Sequence(sequence) => match sequence.selection() {
                Some(table) => ("SELECTION".to_owned(), format!("SELECTION ON table({})", table.name)),
                None => ("SEQUENCE".to_owned(), "VALUE SEQUENCE".to_owned()),
            },
            Self::Single(single) => {
                ("SINGLE_SELECTION".to_owned(), format!("SELECTION ON table({})", single.table.name))
            }
            Self::Function(_) => ("FUNCTION".to_owned(), "VALUE FUNCTION".to_owned()),
            Self::Ordering { .. } => ("ORDERING".to_owned(), "VALUE ORDERING".to_owned()),
        };
        ReqlError::new(Class::QueryLogic, format!("Expected type {wanted} but found {found}:\n{shown}"))
    }
}
