//! How queries are to be done: what stands beside their arguments.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// How rows are added.
#[derive(Clone, Copy, Debug, Default)]
pub struct Insert {
    /// What to do about a row that is there; an error, unless said otherwise.
    pub conflict: Option<Conflict>,
    /// When it counts as written; as the table says, unless said otherwise.
    pub durability: Option<Durability>,
    /// Whether the answer holds the rows.
    pub return_changes: Option<ReturnChanges>,
}

/// What an insert does about a row of the same primary key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Keeps it; the answer counts an error.
    Error,
    /// Puts the new one in its place.
    Replace,
    /// Adds the new one's fields.
    Update,
}

impl Conflict {
    pub(crate) fn text(self) -> Value {
        match self {
            Self::Error => "error",
            Self::Replace => "replace",
            Self::Update => "update",
        }
        .into()
    }
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk.
    Hard,
    /// In memory.
    Soft,
}

impl Durability {
    pub(crate) fn text(self) -> Value {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
        .into()
    }
}

/// Which rows a write answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnChanges {
    /// Those that changed.
    Changed,
    /// All it looked at.
    Always,
}

impl ReturnChanges {
    pub(crate) fn value(self) -> Value {
        match self {
            Self::Changed => true.into(),
            Self::Always => "always".into(),
        }
    }
}

/// What a change feed tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// The rows that are there already come first.
    pub include_initial: bool,
    /// `initializing` and `ready` are told.
    pub include_states: bool,
    /// Each change names its type.
    pub include_types: bool,
    /// Changes of one row that follow each other may come as one.
    pub squash: bool,
}

/// How a table is laid out.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Parts of the table.
    pub shards: Option<u32>,
    /// Copies of each part.
    pub replicas: Option<Replicas>,
    /// Name of the primary key; only when a table is made.
    pub primary_key: Option<String>,
    /// When a write counts as done; only when a table is made.
    pub durability: Option<Durability>,
    /// Answer with what would be done; only for `reconfigure`.
    pub dry_run: bool,
}

/// Copies of a part of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// So many, wherever the server likes.
    Count(u32),
    /// So many on servers with each tag.
    ByTag {
        /// Copies per tag.
        replicas: BTreeMap<String, u32>,
        /// Where the primary one is.
        primary: String,
    },
}

impl Shape {
    /// One part, with replicas as said.
    pub fn one_shard(replicas: Replicas) -> Self {
        Self { shards: Some(1), replicas: Some(replicas), ..Self::default() }
    }

    pub(crate) fn options(&self) -> Map<String, Value> {
        let (replicas, primary) = match &self.replicas {
            None => (None, None),
            Some(Replicas::Count(n)) => (Some((*n).into()), None),
            Some(Replicas::ByTag { replicas, primary }) => {
                (Some(json!(replicas)), Some(Value::from(primary.as_str())))
            }
        };
        options([
            ("shards", self.shards.map(Value::from)),
            ("replicas", replicas),
            ("primary_replica_tag", primary),
            ("primary_key", self.primary_key.as_deref().map(Value::from)),
            ("durability", self.durability.map(Durability::text)),
            ("dry_run", self.dry_run.then_some(true.into())),
        ])
    }
}

/// How ready a table should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// Old data may be read.
    OutdatedReads,
    /// Data can be read.
    Reads,
    /// Data can be written.
    Writes,
    /// Every replica is there.
    AllReplicas,
}

impl WaitFor {
    pub(crate) fn text(self) -> Value {
        match self {
            Self::OutdatedReads => "ready_for_outdated_reads",
            Self::Reads => "ready_for_reads",
            Self::Writes => "ready_for_writes",
            Self::AllReplicas => "all_replicas_ready",
        }
        .into()
    }
}

/// Those that were set.
pub(crate) fn options<const N: usize>(options: [(&str, Option<Value>); N]) -> Map<String, Value> {
    options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
