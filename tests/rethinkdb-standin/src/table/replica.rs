//! One copy of a table on this server's disk: a snapshot and the log since.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TableConfig;
use crate::disk::{self, Log};

/// Log size at which a new snapshot is written.
const COMPACT_AT: u64 = 4 << 20;

/// A time of one leader: no two leaders ever have the same, since each puts its own id into it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Term {
    /// Grows with each campaign.
    pub number: u64,
    /// The leader's id, in two halves.
    pub leader: (u64, u64),
}

impl Term {
    /// A term of `leader` that is newer than this one.
    #[must_use]
    pub fn after(self, leader: (u64, u64)) -> Self {
        Self { number: self.number + 1, leader }
    }
}

/// Which record was applied last: that of a term, and its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Term of the leader that wrote it.
    pub term: Term,
    /// Count of records since the table was made.
    pub number: u64,
}

/// One row's new state; none if it is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowChange {
    /// Its encoded key.
    pub key: String,
    /// Before.
    pub old: Option<Value>,
    /// After.
    pub new: Option<Value>,
}

/// One step of a table's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Where it belongs: right after this one.
    pub after: Position,
    /// Its own position.
    pub position: Position,
    /// Rows it changes.
    pub changes: Vec<RowChange>,
    /// Configuration it sets.
    pub config: Option<TableConfig>,
}

/// A whole copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Last record within.
    pub position: Position,
    /// Configuration.
    pub config: TableConfig,
    /// Rows by encoded key.
    pub rows: BTreeMap<String, Value>,
}

/// What a replica says to a leader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    /// Done, and on disk.
    Accepted,
    /// A promise to a newer term stands against it.
    Refused {
        /// That term.
        promised: Term,
    },
    /// Something before it is missing.
    Gap,
    /// The disk does not take it.
    Failed(String),
}

#[derive(Serialize, Deserialize)]
enum Entry {
    Promise(Term),
    Record(Box<Record>),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    generation: u64,
    promised: Term,
    snapshot: Snapshot,
}

/// One copy of a table.
#[derive(Debug)]
pub struct Replica {
    folder: PathBuf,
    generation: u64,
    promised: Term,
    state: Snapshot,
    log: Log,
}

impl Replica {
    /// Makes a copy from a snapshot, promised to `term`.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn create(folder: &Path, snapshot: Snapshot, term: Term) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let stored = Stored { generation: 1, promised: term, snapshot };
        let (log, _) = Log::open::<Entry>(&log_path(folder, stored.generation))?;
        disk::replace_json(&folder.join(SNAPSHOT), &stored)?;
        Ok(Self { folder: folder.into(), generation: 1, promised: term, state: stored.snapshot, log })
    }

    /// Whether a copy was ever whole here, and is not being removed.
    pub fn exists(folder: &Path) -> bool {
        folder.join(SNAPSHOT).exists()
    }

    /// Reads a copy back.
    ///
    /// # Errors
    /// The disk cannot be read, or holds something else.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let Stored { generation, mut promised, snapshot: mut state } =
            disk::read_json::<Stored>(&folder.join(SNAPSHOT))?;
        let (log, entries) = Log::open::<Entry>(&log_path(folder, generation))?;
        for entry in entries {
            match entry {
                Entry::Promise(term) => promised = promised.max(term),
                Entry::Record(record) => {
                    promised = promised.max(record.position.term);
                    apply(&mut state, *record);
                }
            }
        }
        Ok(Self { folder: folder.into(), generation, promised, state, log })
    }

    /// The newest term this copy has promised itself to.
    pub fn promised(&self) -> Term {
        self.promised
    }

    /// Rows, configuration and position.
    pub fn state(&self) -> &Snapshot {
        &self.state
    }

    /// Promises not to take anything from a leader of an older term.
    pub fn promise(&mut self, term: Term) -> Verdict {
        if term < self.promised {
            return Verdict::Refused { promised: self.promised };
        }
        if term > self.promised {
            if let Err(why) = self.log.append(&Entry::Promise(term)) {
                return Verdict::Failed(why.to_string());
            }
            self.promised = term;
        }
        Verdict::Accepted
    }

    /// Takes one record from the leader of `term`.
    pub fn append(&mut self, term: Term, record: Record) -> Verdict {
        if term < self.promised {
            return Verdict::Refused { promised: self.promised };
        }
        if record.after != self.state.position {
            return Verdict::Gap;
        }
        let entry = Entry::Record(Box::new(record));
        if let Err(why) = self.log.append(&entry) {
            return Verdict::Failed(why.to_string());
        }
        self.promised = term;
        if let Entry::Record(record) = entry {
            apply(&mut self.state, *record);
        }
        if self.log.length() > COMPACT_AT {
            let state = self.state.clone();
            // The log is still whole; the next record tries again.
            let _ = self.store(state);
        }
        Verdict::Accepted
    }

    /// Takes a whole copy from the leader of `term`.
    pub fn install(&mut self, term: Term, snapshot: Snapshot) -> Verdict {
        if term < self.promised {
            return Verdict::Refused { promised: self.promised };
        }
        self.promised = term;
        match self.store(snapshot) {
            Ok(()) => Verdict::Accepted,
            Err(why) => Verdict::Failed(why.to_string()),
        }
    }

    /// Removes the copy from disk.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove(folder: &Path) -> io::Result<()> {
        let absent = |why: io::Error| if why.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(why) };
        // First what makes it a copy: half a removal must not look like a broken table.
        fs::remove_file(folder.join(SNAPSHOT)).or_else(absent)?;
        fs::remove_dir_all(folder).or_else(absent)
    }

    fn store(&mut self, snapshot: Snapshot) -> io::Result<()> {
        let stored = Stored { generation: self.generation + 1, promised: self.promised, snapshot };
        let path = log_path(&self.folder, stored.generation);
        // One of a failed try may lie there.
        fs::remove_file(&path)
            .or_else(|why| if why.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(why) })?;
        let (log, _) = Log::open::<Entry>(&path)?;
        disk::replace_json(&self.folder.join(SNAPSHOT), &stored)?;
        self.generation = stored.generation;
        self.state = stored.snapshot;
        // The old log is of no use any more; one left behind does no harm.
        let _ = std::mem::replace(&mut self.log, log).remove();
        Ok(())
    }
}

const SNAPSHOT: &str = "snapshot.json";

fn log_path(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("log.{generation}"))
}

fn apply(state: &mut Snapshot, record: Record) {
    for change in record.changes {
        match change.new {
            Some(row) => state.rows.insert(change.key, row),
            None => state.rows.remove(&change.key),
        };
    }
    if let Some(config) = record.config {
        state.config = config;
    }
    state.position = record.position;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::config::tests::config;

    fn term(number: u64) -> Term {
        Term { number, leader: (1, 1) }
    }

    fn empty() -> Snapshot {
        Snapshot { position: Position::default(), config: config(&["a"]), rows: BTreeMap::new() }
    }

    fn insert(after: Position, term: Term, key: &str) -> Record {
        Record {
            after,
            position: Position { term, number: after.number + 1 },
            changes: vec![RowChange { key: key.into(), old: None, new: Some(json!({ "id": key })) }],
            config: None,
        }
    }

    #[test]
    fn everything_accepted_is_there_after_opening_again() {
        let folder = tempfile::tempdir().expect("folder");
        let mut replica = Replica::create(folder.path(), empty(), term(1)).expect("creates");
        for key in ["a", "b", "c"] {
            let record = insert(replica.state().position, term(3), key);
            assert_eq!(replica.append(term(3), record), Verdict::Accepted);
        }
        assert_eq!(replica.promise(term(7)), Verdict::Accepted);
        let mut again = Replica::open(folder.path()).expect("opens");
        assert_eq!(again.state(), replica.state());
        assert_eq!(again.promised(), term(7));
        assert_eq!(again.promise(term(6)), Verdict::Refused { promised: term(7) });
    }

    #[test]
    fn older_terms_and_gaps_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let mut replica = Replica::create(folder.path(), empty(), term(5)).expect("creates");
        let start = replica.state().position;
        assert_eq!(
            replica.append(term(4), insert(start, term(4), "x")),
            Verdict::Refused { promised: term(5) }
        );
        assert_eq!(
            replica.append(term(5), insert(Position { term: term(5), number: 9 }, term(5), "x")),
            Verdict::Gap
        );
        assert_eq!(replica.install(term(4), empty()), Verdict::Refused { promised: term(5) });
        assert!(replica.state().rows.is_empty());
    }

    #[test]
    fn a_promise_is_to_one_leader_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let mut replica = Replica::create(folder.path(), empty(), Term::default()).expect("creates");
        let (one, other) = (Term::default().after((1, 0)), Term::default().after((2, 0)));
        assert_eq!(replica.promise(other), Verdict::Accepted);
        assert_eq!(replica.promise(one), Verdict::Refused { promised: other });
        assert_eq!(replica.promise(other), Verdict::Accepted, "to the same one it may be repeated");
        assert_eq!(replica.promise(replica.promised().after((1, 0))), Verdict::Accepted);
    }

    #[test]
    fn an_installed_copy_replaces_rows_and_log() {
        let folder = tempfile::tempdir().expect("folder");
        let mut replica = Replica::create(folder.path(), empty(), term(1)).expect("creates");
        assert_eq!(replica.append(term(1), insert(Position::default(), term(1), "old")), Verdict::Accepted);
        let mut copy = empty();
        copy.position = Position { term: term(2), number: 8 };
        copy.rows.insert("new".into(), json!({"id": "new"}));
        assert_eq!(replica.install(term(2), copy.clone()), Verdict::Accepted);
        let again = Replica::open(folder.path()).expect("opens");
        assert_eq!((again.state(), again.promised()), (&copy, term(2)));
    }
}
