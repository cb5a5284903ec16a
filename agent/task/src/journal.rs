//! What was being applied, kept on the node so that it survives a reboot half way.
//!
//! Before an apply its intent is written; after it, taken out again. Whatever is found there at a start was
//! interrupted. A run that changes nothing writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use fleet_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    TaskId,
    atomic::{self, AtomicError},
};

/// Why the journal could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It could not be read.
    #[error("read the journal {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be written; nothing is applied without it.
    #[error("write the journal before changing anything")]
    Write(#[source] AtomicError),
}

impl JournalError {
    /// What a person can do about it.
    pub fn next_step(&self) -> String {
        match self {
            Self::Read { path, .. } => format!("look at {} on the node", path.display()),
            Self::Write(error) => error.next_step(),
        }
    }
}

/// An apply that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// When it was begun.
    pub begun: Timestamp,
    /// Generation it was part of.
    pub generation: u64,
    /// What it was going to change.
    pub drift: Vec<String>,
    /// How many times in a row it was interrupted before.
    #[serde(default)]
    pub interruptions: u32,
}

/// Where a task stands between its looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Standing {
    /// Digest of the wish it last converged to.
    pub converged: Option<String>,
    /// Since when it is known to differ again.
    pub differs_since: Option<Timestamp>,
    /// A person asked for its drift to be repaired, and it is not yet.
    pub repairing: bool,
    /// The permit it asked for or holds.
    pub permit: Option<String>,
    /// When something was first begun under that permit that has not converged since.
    pub disturbed: Option<Timestamp>,
    /// What was changed since it last converged.
    pub changed: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pages {
    /// Applies under way, or interrupted.
    #[serde(default)]
    applying: BTreeMap<String, Intent>,
    /// What tasks remember, by task and key.
    #[serde(default)]
    notes: BTreeMap<String, BTreeMap<String, String>>,
    /// Where tasks stand.
    #[serde(default)]
    standings: BTreeMap<String, Standing>,
}

/// The durable record of intents.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// What is on disk.
    pages: Mutex<Pages>,
    /// Intents found at the start: nobody is working on them.
    interrupted: Mutex<BTreeMap<String, Intent>>,
}

impl Journal {
    /// Opens the journal at `path`; none yet is an empty one. One that does not parse is put aside as
    /// `….damaged` and reported in the log: its only loss is knowing what was interrupted, and every task
    /// looks before it moves anyway.
    ///
    /// # Errors
    /// [`JournalError::Read`] if the file is there and cannot be read.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let path = path.into();
        let pages = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| put_aside(&path, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Pages::default(),
            Err(source) => return Err(JournalError::Read { path, source }),
        };
        let interrupted = Mutex::new(pages.applying.clone());
        Ok(Self { path, pages: Mutex::new(pages), interrupted })
    }

    /// What `task` remembered under `key`.
    pub fn recall(&self, task: &TaskId, key: &str) -> Option<String> {
        self.lock().notes.get(task.as_str())?.get(key).cloned()
    }

    /// Everything `task` remembered.
    pub fn recall_all(&self, task: &TaskId) -> BTreeMap<String, String> {
        self.lock().notes.get(task.as_str()).cloned().unwrap_or_default()
    }

    /// Remembers `value`; durable when this returns.
    ///
    /// # Errors
    /// [`JournalError::Write`]; then nothing is remembered.
    pub fn remember(&self, task: &TaskId, key: &str, value: &str) -> Result<(), JournalError> {
        self.change(|pages| {
            let notes = pages.notes.entry(task.as_str().to_owned()).or_default();
            notes.insert(key.to_owned(), value.to_owned());
        })
    }

    /// Forgets what was remembered under `key`.
    ///
    /// # Errors
    /// [`JournalError::Write`].
    pub fn forget(&self, task: &TaskId, key: &str) -> Result<(), JournalError> {
        self.change(|pages| {
            if let Some(notes) = pages.notes.get_mut(task.as_str()) {
                notes.remove(key);
                if notes.is_empty() {
                    pages.notes.remove(task.as_str());
                }
            }
        })
    }

    /// Where `task` stands.
    pub(crate) fn standing(&self, task: &TaskId) -> Standing {
        self.lock().standings.get(task.as_str()).cloned().unwrap_or_default()
    }

    /// Keeps where `task` stands; writes only what is news.
    pub(crate) fn stand(&self, task: &TaskId, standing: &Standing) -> Result<(), JournalError> {
        self.change(|pages| {
            if *standing == Standing::default() {
                pages.standings.remove(task.as_str());
            } else {
                pages.standings.insert(task.as_str().to_owned(), standing.clone());
            }
        })
    }

    /// Gives up where all other tasks stood; the permits they asked for.
    pub(crate) fn keep_only(&self, tasks: &BTreeSet<&TaskId>) -> Result<Vec<String>, JournalError> {
        let kept = |name: &String| tasks.iter().any(|task| task.as_str() == name);
        let permits = {
            let pages = self.lock();
            let gone = pages.standings.iter().filter(|(name, _)| !kept(name));
            gone.filter_map(|(_, standing)| standing.permit.clone()).collect()
        };
        self.change(|pages| pages.standings.retain(|name, _| kept(name)))?;
        Ok(permits)
    }

    /// The interrupted apply of `task`, as long as nobody has taken it up again.
    pub(crate) fn interrupted(&self, task: &TaskId) -> Option<Intent> {
        self.orphans().get(task.as_str()).cloned()
    }

    pub(crate) fn begin(&self, task: &TaskId, intent: Intent) -> Result<(), JournalError> {
        self.change(|pages| {
            pages.applying.insert(task.as_str().to_owned(), intent);
        })?;
        self.orphans().remove(task.as_str());
        Ok(())
    }

    pub(crate) fn end(&self, task: &TaskId) -> Result<(), JournalError> {
        self.orphans().remove(task.as_str());
        self.change(|pages| {
            pages.applying.remove(task.as_str());
        })
    }

    fn orphans(&self) -> MutexGuard<'_, BTreeMap<String, Intent>> {
        self.interrupted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        // A panic while holding it cannot leave it half-changed: changes are made on a copy.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, edit: impl FnOnce(&mut Pages)) -> Result<(), JournalError> {
        let mut pages = self.lock();
        let mut next = pages.clone();
        edit(&mut next);
        if next != *pages {
            let bytes = serde_json::to_vec_pretty(&next).expect("maps of text always become JSON");
            atomic::write(&self.path, &bytes, 0o600).map_err(JournalError::Write)?;
            *pages = next;
        }
        Ok(())
    }
}

fn put_aside(path: &Path, error: &serde_json::Error) -> Pages {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    tracing::warn!(path = %path.display(), %error, "the journal is damaged; starting a new one");
    let _ = fs::rename(path, aside);
    Pages::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent { begun: Timestamp::from_millis(1), generation: 3, drift: vec!["x".into()], interruptions: 0 }
    }

    #[test]
    fn an_intent_survives_until_it_is_taken_up() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, task) = (folder.path().join("journal.json"), TaskId::new("lvm"));
        let journal = Journal::open(&path).expect("open");
        journal.begin(&task, intent()).expect("begin");
        assert_eq!(journal.interrupted(&task), None, "its own intents are not interrupted ones");
        let journal = Journal::open(&path).expect("reopen");
        assert_eq!(journal.interrupted(&task), Some(intent()));
        journal.begin(&task, intent()).expect("take up");
        assert_eq!(journal.interrupted(&task), None);
        journal.end(&task).expect("end");
        assert_eq!(Journal::open(&path).expect("reopen").interrupted(&task), None);
    }

    #[test]
    fn notes_are_kept_by_task() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("journal.json");
        let (one, two) = (TaskId::new("one"), TaskId::new("two"));
        let journal = Journal::open(&path).expect("open");
        journal.remember(&one, "key", "value").expect("remember");
        let journal = Journal::open(&path).expect("reopen");
        assert_eq!(journal.recall(&one, "key").as_deref(), Some("value"));
        assert_eq!(journal.recall(&two, "key"), None);
        journal.forget(&one, "key").expect("forget");
        assert!(journal.recall_all(&one).is_empty());
    }

    #[test]
    fn changing_nothing_writes_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("journal.json");
        Journal::open(&path).expect("open").end(&TaskId::new("absent")).expect("end");
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_journal_is_put_aside() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("journal.json");
        fs::write(&path, "{\"applying\":").expect("half a journal");
        let journal = Journal::open(&path).expect("open");
        journal.begin(&TaskId::new("t"), intent()).expect("usable");
        assert!(folder.path().join("journal.json.damaged").exists());
    }
}
