//! Intent before, outcome after.
//!
//! Before a changing call its intent is stored, after it its outcome; what was made is in an index until it is
//! gone. A run that was killed leaves intents without outcome: the next run looks at the cloud and writes what
//! became of them. Named resources would be found without any of this, by name and mark; blocks of addresses and
//! translations have neither, and the index is how they are known to be ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use fleet_mcp::Id;
use fleet_model::{Clock, Timestamp};
use fleet_store::{Expected, Key, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::{
    event::Step,
    mark::Mark,
    settled::Settled,
    view::{DomainView, View},
};

const JOURNAL: &str = "provider/journal";
const INDEX: &str = "provider/index";
const SETTLED: &str = "provider/settled";

/// The journal could not be read or written; nothing is changed without it.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The store failed.
    #[error("journal of the provider")]
    Store(#[from] StoreError),
    /// A name that the store does not take as a key.
    #[error("journal of the provider: `{0}` is no key")]
    Key(String),
    /// An entry that cannot be written down.
    #[error("journal of the provider: entry `{key}` cannot be written")]
    Entry {
        /// Where it is.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// One changing call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `addPublicIpBlock`.
    pub call: String,
    /// Kind of resource in words.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Data centre.
    pub location: String,
    /// Network domain, for kinds without a name.
    pub domain: Option<String>,
    /// Ids of that kind before the call, for kinds without a name.
    pub before: Vec<String>,
    /// When it was about to be sent.
    pub intended: Timestamp,
    /// What came of it.
    pub outcome: Option<Outcome>,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When it was known.
    pub at: Timestamp,
    /// In words: `accepted`, `found after a lost answer`, or why it failed.
    pub what: String,
}

/// Ids of what we made and have not deleted, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index(BTreeMap<String, BTreeSet<String>>);

impl Index {
    /// Whether we made the `kind` of this id.
    pub fn holds(&self, kind: &str, id: &str) -> bool {
        self.0.get(kind).is_some_and(|ids| ids.contains(id))
    }

    /// Ids of a kind.
    pub fn ids<T>(&self, kind: &str) -> impl Iterator<Item = Id<T>> {
        self.0.get(kind).into_iter().flatten().map(|id| Id::new(id.as_str()))
    }

    /// Everything in it: kind and id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(kind, ids)| ids.iter().map(move |id| (kind.as_str(), id.as_str())))
    }

    fn add(&mut self, kind: &str, id: &str) {
        self.0.entry(kind.to_owned()).or_default().insert(id.to_owned());
    }

    /// What `view` shows, whoever's it is: what lost our mark is not gone.
    fn of(view: &View) -> Self {
        let mut index = Self::default();
        for held in view.domains.values() {
            index.add("domain", held.domain.id.as_str());
            held.vlans.keys().for_each(|id| index.add("vlan", id.as_str()));
            held.servers.keys().for_each(|id| index.add("server", id.as_str()));
            held.lists.keys().for_each(|id| index.add("list", id.as_str()));
            held.blocks.keys().for_each(|id| index.add("block", id.as_str()));
            held.nats.keys().for_each(|id| index.add("nat", id.as_str()));
        }
        index
    }

    fn remove(&mut self, kind: &str, id: &str) {
        if let Some(ids) = self.0.get_mut(kind) {
            ids.remove(id);
        }
    }
}

/// The journal of one fleet.
#[derive(Clone, Debug)]
pub struct Journal {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

/// An intent that was stored; its outcome is still due.
#[derive(Debug)]
#[must_use = "an intent without outcome is taken for an interrupted call"]
pub struct Intent {
    key: Key,
    entry: Entry,
}

impl Journal {
    /// The journal in `store`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// What we made, as far as the journal knows.
    ///
    /// # Errors
    /// The store fails.
    pub async fn index(&self) -> Result<Index, JournalError> {
        let mut index = Index::default();
        for (key, _) in self.store.list(&key(INDEX)?).await? {
            if let Some((kind, id)) =
                key.as_str().strip_prefix(INDEX).and_then(|rest| rest[1..].split_once('/'))
            {
                index.add(kind, id);
            }
        }
        Ok(index)
    }

    /// Intents without outcome, left by a run that was killed.
    ///
    /// # Errors
    /// The store fails. An entry that cannot be read is left out: what it was about is found by its mark.
    pub async fn open(&self) -> Result<Vec<(Key, Entry)>, JournalError> {
        let mut open = Vec::new();
        for (key, held) in self.store.list(&key(JOURNAL)?).await? {
            let entry: Entry = match serde_json::from_slice(&held.value) {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::warn!(%key, %error, "journal entry cannot be read");
                    continue;
                }
            };
            if entry.outcome.is_none() {
                open.push((key, entry));
            }
        }
        Ok(open)
    }

    /// Writes what became of interrupted calls, as `view` shows it, and brings the index up to it: unnamed
    /// things they made come in, what is gone goes.
    ///
    /// # Errors
    /// The store fails.
    pub async fn reconcile(&self, view: &View, mark: &Mark, index: &mut Index) -> Result<(), JournalError> {
        for (key, entry) in self.open().await? {
            let mut made = Vec::new();
            for domain in
                view.domains.values().filter(|held| entry.domain.as_deref() == Some(held.domain.id.as_str()))
            {
                let ids: Vec<&str> = match entry.call.as_str() {
                    "addPublicIpBlock" => domain.blocks.keys().map(|id| id.as_str()).collect(),
                    "createNatRule" => domain.nats.keys().map(|id| id.as_str()).collect(),
                    _ => Vec::new(),
                };
                made.extend(
                    ids.into_iter().filter(|id| !entry.before.iter().any(|b| b == id)).map(str::to_owned),
                );
            }
            let kind = if entry.call == "addPublicIpBlock" { "block" } else { "nat" };
            for id in &made {
                self.made(kind, id).await?;
                index.add(kind, id);
            }
            let what = if made.is_empty() { "interrupted; looked again" } else { "interrupted; found" };
            tracing::info!(call = entry.call, kind = entry.kind, name = entry.name, what, "interrupted call");
            self.finish(Intent { key, entry }, what).await?;
        }
        self.catch_up(view, mark, index).await
    }

    /// A run that was killed between a call's end and its note in the index leaves the index behind the cloud. What it
    /// lacks and the plan wants is adopted by the run itself.
    async fn catch_up(&self, view: &View, mark: &Mark, index: &mut Index) -> Result<(), JournalError> {
        let there = Index::of(view);
        // What is in a domain of ours whose mark somebody took away was not read, and may well be there.
        let unread = |held: &DomainView| {
            index.holds("domain", held.domain.id.as_str())
                && !mark.is_ours(held.domain.description.as_deref())
        };
        if view.domains.values().any(unread) {
            return Ok(());
        }
        let gone: Vec<(String, String)> = index
            .iter()
            .filter(|(kind, id)| !there.holds(kind, id))
            .map(|(kind, id)| (kind.to_owned(), id.to_owned()))
            .collect();
        for (kind, id) in gone {
            self.gone(&kind, &id).await?;
            index.remove(&kind, &id);
        }
        Ok(())
    }

    /// Stores that `call` is about to be sent.
    ///
    /// # Errors
    /// The store fails; the call must not be sent then.
    pub async fn intend(
        &self,
        call: &str,
        step: &Step,
        domain: Option<String>,
        before: Vec<String>,
    ) -> Result<Intent, JournalError> {
        // One entry for each call of each resource: a repeated run overwrites it, so the journal stays as small as
        // the fleet. Names hold what keys do not; their bytes stand for themselves.
        let name: String = step
            .name
            .bytes()
            .map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("={b:02x}") })
            .collect();
        let key = key(&format!("{JOURNAL}/{}/{call}/{name}", step.location))?;
        // What came of an earlier call is not known yet: what it made must still count as new.
        let earlier = self.store.get(&key).await?;
        let earlier = earlier.and_then(|held| serde_json::from_slice::<Entry>(&held.value).ok());
        let before = match earlier.filter(|earlier| earlier.outcome.is_none()) {
            Some(open) => before.into_iter().filter(|id| open.before.contains(id)).collect(),
            None => before,
        };
        let entry = Entry {
            call: call.to_owned(),
            kind: step.kind.to_owned(),
            name: step.name.clone(),
            location: step.location.clone(),
            domain,
            before,
            intended: self.clock.now(),
            outcome: None,
        };
        self.write(&key, &entry).await?;
        Ok(Intent { key, entry })
    }

    /// Stores what came of it.
    ///
    /// # Errors
    /// The store fails.
    pub async fn finish(&self, intent: Intent, what: impl Into<String>) -> Result<(), JournalError> {
        let Intent { key, mut entry } = intent;
        entry.outcome = Some(Outcome { at: self.clock.now(), what: what.into() });
        self.write(&key, &entry).await
    }

    /// Takes what was made into the index.
    ///
    /// # Errors
    /// The store fails.
    pub async fn made(&self, kind: &str, id: &str) -> Result<(), JournalError> {
        let now = self.clock.now().to_string();
        self.store.put(&key(&format!("{INDEX}/{kind}/{id}"))?, now.into(), Expected::Any).await?;
        Ok(())
    }

    /// Takes what is gone out of the index.
    ///
    /// # Errors
    /// The store fails.
    pub async fn gone(&self, kind: &str, id: &str) -> Result<(), JournalError> {
        Ok(self.store.delete(&key(&format!("{INDEX}/{kind}/{id}"))?, Expected::Any).await?)
    }

    /// What the last run brought about.
    ///
    /// # Errors
    /// The store fails. What cannot be read counts as nothing: only the reasons of changes are told by it.
    pub async fn settled(&self) -> Result<Settled, JournalError> {
        let held = self.store.get(&key(SETTLED)?).await?;
        Ok(held.and_then(|held| serde_json::from_slice(&held.value).ok()).unwrap_or_default())
    }

    /// Stores what a run brought about.
    ///
    /// # Errors
    /// The store fails.
    pub async fn settle(&self, settled: &Settled) -> Result<(), JournalError> {
        let value = serde_json::to_vec(settled)
            .map_err(|source| JournalError::Entry { key: SETTLED.to_owned(), source })?;
        self.store.put(&key(SETTLED)?, Bytes::from(value), Expected::Any).await?;
        Ok(())
    }

    /// Forgets everything: nothing of the fleet is left.
    ///
    /// # Errors
    /// The store fails.
    pub async fn clear(&self) -> Result<(), JournalError> {
        for prefix in [JOURNAL, INDEX] {
            for (key, _) in self.store.list(&key(prefix)?).await? {
                self.store.delete(&key, Expected::Any).await?;
            }
        }
        Ok(self.store.delete(&key(SETTLED)?, Expected::Any).await?)
    }

    async fn write(&self, key: &Key, entry: &Entry) -> Result<(), JournalError> {
        let value = serde_json::to_vec(entry)
            .map_err(|source| JournalError::Entry { key: key.to_string(), source })?;
        self.store.put(key, Bytes::from(value), Expected::Any).await?;
        Ok(())
    }
}

fn key(path: &str) -> Result<Key, JournalError> {
    Key::new(path).map_err(|_| JournalError::Key(path.to_owned()))
}

/// Bytes that stand for themselves in keys; `/` parts a node from its disk, which is fine.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_./".contains(&byte)
}
