//! Rollouts in the store.
//!
//! ```text
//! rollout/line                 LineRecord   who stopped the line; absent while it is not stopped
//! rollout/lease                             who drives
//! rollout/head/<id>            Head         the newest events and which snapshot they follow
//! rollout/state/<snapshot>/<n> bytes        a snapshot: the state as JSON, deflated, in pages
//! rollout/bad/<node>           Bad          releases that were bad on a node, and why
//! ```
//!
//! A change is one conditional write of the head: it takes effect if nobody else wrote since. The log in the head is
//! bounded: now and then a snapshot of the state takes its place. Snapshots have names of their own, so that of two
//! writers neither spoils the other's.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use fleet_model::{NodeName, Timestamp};
use fleet_rollout::{Entry, Event, Reason, Rollout, replay};
use fleet_store::{Expected, Key};
use serde::{Deserialize, Serialize};

use super::core::superseded;
use crate::records::{RecordError, Records, keys};

/// Events after which a snapshot takes their place.
const LOG: usize = 64;
/// Bytes of a head after which one does whatever the number of events: far below what a store takes.
const LARGE: usize = 256 * 1024;
/// Bytes of a page.
const PAGE: usize = 512 * 1024;
/// Largest state read back; one of ten thousand nodes has some six MB.
const LARGEST: u64 = 256 * 1024 * 1024;
/// Longest reason kept, in characters.
const REASON: usize = 300;
/// What people were told, kept for status.
const NOTICES: usize = 20;
/// Longest of these, in characters.
const NOTICE: usize = 2000;
/// Age before which a state that nobody names is left alone.
const YOUNG: Duration = Duration::from_secs(3600);
/// Rollouts kept after others took their place.
pub const KEPT: usize = 20;

/// The line is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineRecord {
    /// Who stopped it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
}

impl LineRecord {
    /// What an operator says, cut where it is too long.
    pub fn new(by: &str, reason: &str, at: Timestamp) -> Self {
        let reason = if reason.trim().is_empty() { "no reason was given" } else { reason.trim() };
        Self { by: by.to_owned(), reason: reason.chars().take(REASON).collect(), at }
    }
}

/// What people were told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When.
    pub at: Timestamp,
    /// What.
    pub text: String,
}

impl Told {
    /// This, cut where it is too long: it may name every node of a large fleet, and what is stored is bounded.
    pub fn new(at: Timestamp, text: &str) -> Self {
        let mut cut: String = text.chars().take(NOTICE).collect();
        if cut.len() < text.len() {
            cut.push_str("… (`fleetctl rollout status` has all of it)");
        }
        Self { at, text: cut }
    }
}

/// A rollout as stored, but for the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Version of the release.
    pub version: String,
    /// Version of what nodes ran before; empty if unknown.
    pub previous_version: String,
    /// Who started it.
    pub by: String,
    /// When.
    pub started: Timestamp,
    /// The snapshot, and of how many pages it is.
    pub snapshot: (String, u32),
    /// Events since then.
    pub log: Vec<Entry>,
    /// What people were told lately.
    pub notices: Vec<Told>,
}

/// A rollout in hand.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its stored form.
    pub head: Head,
    /// Version of that in the store.
    pub version: u64,
    /// What it comes to.
    pub rollout: Rollout,
}

/// Releases that were bad on a node.
pub type Bad = BTreeMap<String, Reason>;

/// The rollouts in a store.
#[derive(Clone, Debug)]
pub struct Archive {
    records: Records,
}

impl Archive {
    /// In this store.
    pub fn new(records: Records) -> Self {
        Self { records }
    }

    /// The store.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Every rollout by its number, the newest last.
    ///
    /// # Errors
    /// [`RecordError`] if one cannot be read or understood.
    pub async fn all(&self) -> Result<BTreeMap<u64, Kept>, RecordError> {
        let mut all = BTreeMap::new();
        for (id, _) in self.records.list::<Head>(&keys::rollouts()).await? {
            if let Some((number, kept)) = self.one(&id).await? {
                all.insert(number, kept);
            }
        }
        Ok(all)
    }

    /// The newest rollout of a release, whoever drives it.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be read or understood.
    pub async fn newest_release(&self) -> Result<Option<Kept>, RecordError> {
        let heads = self.records.list::<Head>(&keys::rollouts()).await?;
        let mut numbers: Vec<u64> = heads.into_iter().filter_map(|(id, _)| id.parse().ok()).collect();
        numbers.sort_unstable();
        while let Some(number) = numbers.pop() {
            let kept = self.one(&number.to_string()).await?.map(|(_, kept)| kept);
            if let Some(kept) = kept.filter(|kept| !kept.rollout.spec.target.is_plan()) {
                return Ok(Some(kept));
            }
        }
        Ok(None)
    }

    async fn one(&self, id: &str) -> Result<Option<(u64, Kept)>, RecordError> {
        let key = keys::rollout(id);
        let Ok(number) = id.parse() else { return Ok(None) };
        // A head that is replaced while its snapshot is read takes that along: read again.
        loop {
            let Some(held) = self.records.get::<Head>(&key).await? else { return Ok(None) };
            match self.snapshot(&key, &held.value.snapshot).await {
                Ok(mut rollout) => {
                    for entry in &held.value.log {
                        replay(&mut rollout, entry.clone()).map_err(|why| damaged(&key, why))?;
                    }
                    return Ok(Some((number, Kept { head: held.value, version: held.version, rollout })));
                }
                Err(error) => {
                    let now = self.records.get::<Head>(&key).await?;
                    if now.is_none_or(|now| now.version == held.version) {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn snapshot(&self, key: &Key, (name, pages): &(String, u32)) -> Result<Rollout, RecordError> {
        let mut packed = Vec::new();
        for page in 0..*pages {
            let found = self.records.store().get(&keys::rollout_page(name, page)).await?;
            packed.extend_from_slice(
                &found.ok_or_else(|| damaged(key, "a page of its state is missing"))?.value,
            );
        }
        let reader = DeflateDecoder::new(packed.as_slice()).take(LARGEST);
        serde_json::from_reader(reader).map_err(|why| damaged(key, why))
    }

    /// Keeps a rollout that is new.
    ///
    /// # Errors
    /// [`RecordError`], above all if there is one of this number.
    pub async fn create(&self, mut head: Head, rollout: Rollout) -> Result<Kept, RecordError> {
        head.snapshot = self.write_snapshot(&rollout).await?;
        let version = self.records.put(&keys::rollout(&rollout.spec.id), &head, Expected::Absent).await?;
        Ok(Kept { head, version, rollout })
    }

    /// Stores what `kept` has become by `entry`, on condition that nobody else changed it.
    ///
    /// # Errors
    /// [`RecordError`]; `kept` is to be dropped then, and what is stored to be read.
    pub async fn append(&self, kept: &mut Kept, entry: Entry, told: Vec<String>) -> Result<(), RecordError> {
        let key = keys::rollout(&kept.rollout.spec.id);
        let mut head = kept.head.clone();
        head.notices.extend(told.iter().map(|text| Told::new(entry.at, text)));
        let old = head.notices.len().saturating_sub(NOTICES);
        head.notices.drain(..old);
        // Controllers of before read what that comes to, and cannot read the event itself.
        let newer = matches!(entry.event, Event::Well { .. } | Event::Beside { .. });
        head.log.push(entry);
        let large = || serde_json::to_vec(&head).is_ok_and(|bytes| bytes.len() > LARGE);
        if newer || head.log.len() > LOG || large() {
            head.snapshot = self.write_snapshot(&kept.rollout).await?;
            head.log.clear();
        }
        kept.version = self.records.put(&key, &head, Expected::Version(kept.version)).await?;
        let old = std::mem::replace(&mut kept.head, head);
        if old.snapshot != kept.head.snapshot {
            self.drop_snapshot(&old.snapshot).await;
        }
        Ok(())
    }

    async fn write_snapshot(&self, rollout: &Rollout) -> Result<(String, u32), RecordError> {
        let now = self.records.store().clock().now();
        let name = format!("{}-{}", now.as_millis(), uuid::Uuid::new_v4());
        let key = keys::rollout(&rollout.spec.id);
        let mut packer = DeflateEncoder::new(Vec::new(), Compression::fast());
        let json = serde_json::to_vec(rollout).map_err(|why| damaged(&key, why))?;
        let packed =
            packer.write_all(&json).and_then(|()| packer.finish()).map_err(|why| damaged(&key, why))?;
        let mut pages = 0;
        for page in packed.chunks(PAGE) {
            let key = keys::rollout_page(&name, pages);
            self.records.store().put(&key, Bytes::copy_from_slice(page), Expected::Any).await?;
            pages += 1;
        }
        Ok((name, pages))
    }

    /// What nobody reads any more may go now or later.
    async fn drop_snapshot(&self, (name, pages): &(String, u32)) {
        for page in 0..*pages {
            if let Err(error) = self.records.delete(&keys::rollout_page(name, page)).await {
                tracing::debug!(error = fleet_model::chain(&error), "old state of a rollout not deleted");
            }
        }
    }

    /// Forgets old rollouts that others took the place of, and states that a cut left behind. Only for whoever drives.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; the next call finishes what was begun.
    pub async fn tidy(&self, all: &mut BTreeMap<u64, Kept>) -> Result<(), RecordError> {
        let replaced = all.iter().filter(|(_, kept)| superseded(&kept.rollout)).map(|(id, _)| *id);
        let surplus: Vec<u64> = replaced.take(all.len().saturating_sub(KEPT)).collect();
        for id in surplus {
            self.records.delete(&keys::rollout(&id.to_string())).await?;
            all.remove(&id);
        }
        let now = self.records.store().clock().now();
        let named: Vec<&str> = all.values().map(|kept| kept.head.snapshot.0.as_str()).collect();
        for (key, _) in self.records.store().list(&keys::rollout_pages()).await? {
            let name = key.as_str().rsplit('/').nth(1).unwrap_or_default();
            let made = name.split('-').next().and_then(|made| made.parse().ok()).map(Timestamp::from_millis);
            // A young one may belong to a head that somebody is about to write.
            let old = made.is_none_or(|made| now.since(made) >= YOUNG);
            if old && !named.contains(&name) {
                self.records.delete(&key).await?;
            }
        }
        Ok(())
    }

    /// Who stopped the line, if somebody did.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be read.
    pub async fn line(&self) -> Result<Option<LineRecord>, RecordError> {
        Ok(self.records.get(&keys::line()).await?.map(|held| held.value))
    }

    /// Stops the line, or clears it.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be written.
    pub async fn set_line(&self, line: Option<&LineRecord>) -> Result<(), RecordError> {
        match line {
            Some(line) => self.records.put(&keys::line(), line, Expected::Any).await.map(drop),
            None => self.records.delete(&keys::line()).await,
        }
    }

    /// Remembers that a release was bad on a node.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be written.
    pub async fn remember(&self, node: &NodeName, release: &str, reason: Reason) -> Result<(), RecordError> {
        let mut bad =
            self.records.get::<Bad>(&keys::bad(node)).await?.map(|held| held.value).unwrap_or_default();
        bad.insert(release.to_owned(), reason);
        self.records.put(&keys::bad(node), &bad, Expected::Any).await.map(drop)
    }

    /// Where a release was bad, and why.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be read.
    pub async fn bad(&self, release: &str) -> Result<Vec<(String, Reason)>, RecordError> {
        let all = self.records.list::<Bad>(&keys::bads()).await?;
        Ok(all.into_iter().filter_map(|(node, mut bad)| Some((node, bad.remove(release)?))).collect())
    }
}

fn damaged(key: &Key, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> RecordError {
    RecordError::Damaged { key: key.clone(), source: source.into() }
}
