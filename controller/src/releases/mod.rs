//! Releases as the controller keeps them: signed documents in the store, packed programs among its artifacts.
//!
//! Keys live with the releaser and never come here. What comes is verified before it is kept: the chain of roots
//! continues the one trusted (the first one is trusted because an operator brought it), the manifest is signed by
//! whom the newest root names and in time, versions only rise unless a permit says otherwise, and every artifact
//! unpacks to what the manifest says. Nodes verify it all again, for themselves.
//!
//! A release is known by the SHA-256 of its agent program, unpacked. It stays until it is removed, which is refused while
//! somebody needs it.

mod leave;
mod record;
mod refused;
mod service;
mod unpack;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use fleet_model::{Clock, FleetName, Timestamp};
use fleet_release::{Accepted, Kind, Manifest, Refusal, Signed, Trust, Version, Warning, outlook, rise};
use fleet_store::Expected;

pub use leave::Leave;
pub use record::{ReleaseRecord, TrustRecord};
pub use refused::ReleaseError;
pub use service::ReleasesService;

use crate::{
    artifacts::{Artifacts, Digest},
    records::{Held, RecordError, Records, keys},
};

/// What a manifest calls the agent's program.
pub const AGENT: &str = "fleet-agent";
/// How often a change is decided anew because somebody else changed something meanwhile.
const TRIES: u32 = 5;

/// A release that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRelease {
    /// What it is known by: SHA-256 of its agent program, unpacked.
    pub release: String,
    /// The signed manifest.
    pub manifest_bytes: Vec<u8>,
    /// What it says; its signatures were good when it was kept.
    pub manifest: Manifest,
    /// Leave to go back to it; a node is given one that names it, while that is in time.
    pub permits: Vec<Leave>,
    /// When it was kept.
    pub published: Timestamp,
    /// Which operator brought it.
    pub by: String,
}

impl StoredRelease {
    fn read(release: &str, record: ReleaseRecord) -> Result<Self, Refusal> {
        let ReleaseRecord { manifest, permits, published, by } = record;
        Ok(Self {
            release: release.to_owned(),
            manifest: Signed::decode(Kind::Manifest, manifest.as_bytes())?.claim()?,
            manifest_bytes: manifest.into_bytes(),
            permits: permits
                .into_iter()
                .map(|one| Leave::read(one.into_bytes()))
                .collect::<Result<_, _>>()?,
            published,
            by,
        })
    }

    /// What nodes fetch of it.
    fn packed(&self) -> BTreeSet<Digest> {
        self.manifest.artifacts.iter().filter_map(|one| one.packed_sha256.parse().ok()).collect()
    }

    fn is(&self, accepted: &Accepted) -> bool {
        self.manifest.version == accepted.version && self.manifest.artifacts_sha256() == accepted.artifacts
    }
}

/// What is published.
#[derive(Clone, Debug, Default)]
pub struct Offered {
    /// The whole chain of roots, the first one first; may be empty if it is known here.
    pub roots: Vec<Vec<u8>>,
    /// Signed.
    pub manifest: Vec<u8>,
    /// Signed.
    pub permit: Option<Vec<u8>>,
}

/// All releases, and whom they are taken from.
#[derive(Debug)]
pub struct Releases {
    /// Whose nodes permits have to name.
    fleet: FleetName,
    records: Records,
    artifacts: Artifacts,
    clock: Arc<dyn Clock>,
    state: RwLock<State>,
    /// One change at a time; other controllers on the same store are met by conditional writes.
    changing: tokio::sync::Mutex<()>,
}

/// The store's content, read.
#[derive(Clone, Debug, Default)]
struct State {
    roots: Vec<Vec<u8>>,
    trust: Option<Trust>,
    highest: Option<Accepted>,
    trust_version: Option<u64>,
    releases: BTreeMap<String, (StoredRelease, u64)>,
}

impl Releases {
    /// Reads what the store holds.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be read or understood.
    pub async fn load(
        records: Records,
        artifacts: Artifacts,
        clock: Arc<dyn Clock>,
        fleet: FleetName,
    ) -> Result<Self, RecordError> {
        let releases = Self {
            fleet,
            records,
            artifacts,
            clock,
            state: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
        };
        releases.reload().await?;
        Ok(releases)
    }

    /// The release whose agent has this digest.
    pub fn get(&self, release: &str) -> Option<StoredRelease> {
        self.state().releases.get(release).map(|(kept, _)| kept.clone())
    }

    /// The chain of signed roots, the first one first; empty if nobody's releases are taken yet.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.state().roots.clone()
    }

    /// Every release, the highest version first.
    pub fn list(&self) -> Vec<StoredRelease> {
        let mut list: Vec<_> = self.state().releases.values().map(|(kept, _)| kept.clone()).collect();
        list.sort_by_key(|kept| std::cmp::Reverse(kept.manifest.version));
        list
    }

    /// Whether nodes would take this release now, as far as can be known here.
    ///
    /// # Errors
    /// Why not.
    pub fn verdict(&self, kept: &StoredRelease) -> Result<(), Refusal> {
        let state = self.state();
        // Whoever has kept a release has a trust.
        let Some(trust) = &state.trust else { return Ok(()) };
        judge(trust, &kept.manifest_bytes, self.clock.now()).map(drop)
    }

    /// Those of its permits that nodes which they name would take now.
    pub fn leave(&self, kept: &StoredRelease) -> Vec<Leave> {
        let state = self.state();
        let Some(trust) = &state.trust else { return Vec::new() };
        let now = self.clock.now();
        let counts = |one: &&Leave| one.counts(trust, &kept.manifest_bytes, &kept.manifest, now);
        kept.permits.iter().filter(counts).cloned().collect()
    }

    /// What expires soon, or did: the newest root, and this release if one is named.
    pub fn outlook(&self, kept: Option<&StoredRelease>) -> Vec<Warning> {
        let state = self.state();
        let Some(trust) = &state.trust else { return Vec::new() };
        let mut all = outlook(trust, kept.map(|kept| &kept.manifest), self.clock.now());
        all.retain(|warning| (warning.kind == Kind::Manifest) == kept.is_some());
        all
    }

    /// Trusts this chain, or what continues the one trusted; says the number of the newest root.
    ///
    /// # Errors
    /// [`ReleaseError`] if it is another one.
    pub async fn trust(&self, roots: &[Vec<u8>]) -> Result<u64, ReleaseError> {
        let _turn = self.changing.lock().await;
        for _ in 0..TRIES {
            let state = self.state().clone();
            let (roots, trust) = state.chain(roots)?;
            if roots == state.roots || self.write_trust(&state, roots, state.highest.clone()).await? {
                return Ok(trust.root().number);
            }
            self.reload().await?;
        }
        Err(ReleaseError::Busy)
    }

    /// Keeps a release, or a permit for one that is kept; says what it is known by.
    ///
    /// # Errors
    /// [`ReleaseError`]; nothing is kept then but what was trusted before.
    pub async fn publish(&self, by: &str, offered: Offered) -> Result<StoredRelease, ReleaseError> {
        let _turn = self.changing.lock().await;
        for _ in 0..TRIES {
            let state = self.state().clone();
            let now = self.clock.now();
            let (roots, trust) = state.chain(&offered.roots)?;
            let (fresh, highest) = state.decide(&trust, &offered, by, now, &self.fleet)?;
            self.complete(&fresh.manifest).await?;
            let raised = roots != state.roots || state.highest.as_ref() != Some(&highest);
            // First that it was seen, then that it is there: cut between the two, publishing again finishes it.
            if (!raised || self.write_trust(&state, roots, Some(highest)).await?)
                && self.write(&state, &fresh).await?
            {
                return Ok(fresh);
            }
            self.reload().await?;
        }
        Err(ReleaseError::Busy)
    }

    /// Forgets the release of this version, and removes what neither another one nor `named` names; says what it was
    /// known by and how many artifacts went. That it was accepted once is not forgotten: versions only rise.
    ///
    /// # Errors
    /// [`ReleaseError`]; asked again, what was begun is finished.
    pub async fn remove(
        &self,
        version: Version,
        named: BTreeSet<Digest>,
    ) -> Result<(String, u32), ReleaseError> {
        let _turn = self.changing.lock().await;
        for _ in 0..TRIES {
            let (kept, held) = self.state().of_version(version)?;
            match self.records.delete_if(&keys::release(&kept.release), held).await {
                Ok(()) => {}
                Err(error) if error.is_conflict() => {
                    self.reload().await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            // First that it is not there, then what it named: cut between the two, the next sweep removes that.
            self.reload().await?;
            let artifacts = self.artifacts.clone();
            let digests = kept.packed();
            let removing = tokio::task::spawn_blocking(move || artifacts.remove(&digests, &named));
            let removed = removing.await.map_err(|_| ReleaseError::Stopping)??;
            return Ok((kept.release, removed));
        }
        Err(ReleaseError::Busy)
    }

    /// The release of this version.
    ///
    /// # Errors
    /// [`ReleaseError::Unkept`], which says what there is.
    pub fn of_version(&self, version: Version) -> Result<StoredRelease, ReleaseError> {
        self.state().of_version(version).map(|(kept, _)| kept)
    }

    /// Whether every artifact is here and is what the manifest says.
    async fn complete(&self, manifest: &Manifest) -> Result<(), ReleaseError> {
        let (artifacts, manifest) = (self.artifacts.clone(), manifest.clone());
        let checked = tokio::task::spawn_blocking(move || unpack::check(&artifacts, &manifest)).await;
        checked.unwrap_or(Err(ReleaseError::Stopping))
    }

    /// Whether it was written; not if somebody else changed it meanwhile.
    async fn write_trust(
        &self,
        state: &State,
        roots: Vec<Vec<u8>>,
        highest: Option<Accepted>,
    ) -> Result<bool, ReleaseError> {
        let texts = roots.into_iter().map(text).collect::<Result<_, _>>()?;
        let record = TrustRecord { roots: texts, highest };
        let expected = state.trust_version.map_or(Expected::Absent, Expected::Version);
        self.settled(self.records.put(&keys::releaser(), &record, expected).await).await
    }

    async fn write(&self, state: &State, fresh: &StoredRelease) -> Result<bool, ReleaseError> {
        let record = ReleaseRecord {
            manifest: text(fresh.manifest_bytes.clone())?,
            permits: fresh.permits.iter().map(|one| text(one.bytes.clone())).collect::<Result<_, _>>()?,
            published: fresh.published,
            by: fresh.by.clone(),
        };
        let held = state.releases.get(&fresh.release);
        let expected = held.map_or(Expected::Absent, |(_, version)| Expected::Version(*version));
        self.settled(self.records.put(&keys::release(&fresh.release), &record, expected).await).await
    }

    async fn settled(&self, written: Result<u64, RecordError>) -> Result<bool, ReleaseError> {
        match written {
            Ok(_) => {
                self.reload().await?;
                Ok(true)
            }
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the store anew: changes are so rare that nothing cleverer pays.
    async fn reload(&self) -> Result<(), RecordError> {
        let damaged = |key, source: Refusal| RecordError::Damaged { key, source: source.into() };
        let mut state = State::default();
        if let Some(Held { value, version }) = self.records.get::<TrustRecord>(&keys::releaser()).await? {
            state.roots = value.roots.into_iter().map(String::into_bytes).collect();
            let trust = Trust::of_chain(&state.roots);
            state.trust = Some(trust.map_err(|refusal| damaged(keys::releaser(), refusal))?);
            state.highest = value.highest;
            state.trust_version = Some(version);
        }
        for (release, _) in self.records.list::<ReleaseRecord>(&keys::releases()).await? {
            let key = keys::release(&release);
            if let Some(Held { value, version }) = self.records.get::<ReleaseRecord>(&key).await? {
                let kept = StoredRelease::read(&release, value).map_err(|refusal| damaged(key, refusal))?;
                state.releases.insert(release, (kept, version));
            }
        }
        self.artifacts.pin(state.releases.values().flat_map(|(kept, _)| kept.packed()));
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        // Replaced whole: no writer can leave it half changed.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of_version(&self, version: Version) -> Result<(StoredRelease, u64), ReleaseError> {
        let found = self.releases.values().find(|(kept, _)| kept.manifest.version == version);
        found.cloned().ok_or_else(|| {
            let has = self.releases.values().map(|(kept, _)| kept.manifest.version);
            ReleaseError::Unkept { version, has: has.collect() }
        })
    }

    /// The chain once `offered` was added to it, and what it comes to.
    fn chain(&self, offered: &[Vec<u8>]) -> Result<(Vec<Vec<u8>>, Trust), ReleaseError> {
        let parted = self.roots.iter().zip(offered).position(|(held, offered)| held != offered);
        if let Some(at) = parted {
            return Err(ReleaseError::other(at + 1, &self.roots[at], &offered[at]));
        }
        let longer = if offered.len() > self.roots.len() { offered } else { &self.roots };
        if longer.is_empty() {
            return Err(ReleaseError::Nobody);
        }
        Ok((longer.to_vec(), Trust::of_chain(longer)?))
    }

    /// What is to be kept of `offered`, and the highest release afterwards.
    fn decide(
        &self,
        trust: &Trust,
        offered: &Offered,
        by: &str,
        now: Timestamp,
        fleet: &FleetName,
    ) -> Result<(StoredRelease, Accepted), ReleaseError> {
        let manifest = judge(trust, &offered.manifest, now)?;
        let brought = offered.permit.clone().map(|bytes| {
            let permit = trust.permit(&bytes, &offered.manifest, &manifest)?;
            permit.in_time(now)?;
            permit.for_fleet(fleet)?;
            Ok::<_, Refusal>(Leave { bytes, permit })
        });
        let brought = brought.transpose()?;
        let agent = manifest.artifact(AGENT).ok_or(ReleaseError::NoAgent(manifest.version))?;
        let release = agent.sha256.clone();
        let wanted = Accepted { version: manifest.version, artifacts: manifest.artifacts_sha256() };
        let held = self.releases.get(&release).map(|(kept, _)| kept);
        if let Some(kept) = held.filter(|kept| kept.manifest.version != manifest.version) {
            return Err(ReleaseError::SameAgent { version: manifest.version, has: kept.manifest.version });
        }
        let versions = self.releases.values().map(|(kept, _)| kept);
        if versions.clone().any(|kept| kept.manifest.version == wanted.version && !kept.is(&wanted)) {
            return Err(Refusal::OtherArtifacts { version: wanted.version }.into());
        }
        // What is kept already may be signed afresh, however old it is.
        let known = held.is_some_and(|kept| kept.is(&wanted));
        let highest = rise(self.highest.as_ref(), &manifest, brought.is_some() || known)?;
        // Permits are for one signed manifest: they stay only while that does.
        let same = held.filter(|kept| kept.manifest_bytes == offered.manifest);
        let mut permits = same.map(|kept| kept.permits.clone()).unwrap_or_default();
        if let Some(brought) = brought {
            permits.retain(|one| *one != brought && one.counts(trust, &offered.manifest, &manifest, now));
            permits.push(brought);
        }
        let published = held.map_or(now, |kept| kept.published);
        let by = held.map_or(by, |kept| &kept.by).to_owned();
        let manifest_bytes = offered.manifest.clone();
        Ok((StoredRelease { release, manifest_bytes, manifest, permits, published, by }, highest))
    }
}

/// What a signed manifest says, if nodes would take it now.
fn judge(trust: &Trust, bytes: &[u8], now: Timestamp) -> Result<Manifest, Refusal> {
    trust.in_time(now)?;
    let manifest = trust.manifest(bytes)?;
    manifest.in_time(now)?;
    let needs = manifest.minimum.controller;
    match fleet_proto::VERSION.parse::<Version>() {
        Ok(has) if has < needs => {
            Err(Refusal::MoveFirst { who: "the controller", has, needs, offered: manifest.version })
        }
        // The build checks its form.
        Ok(_) | Err(_) => Ok(manifest),
    }
}

/// Documents are text: their form says so, and it was checked.
fn text(document: Vec<u8>) -> Result<String, ReleaseError> {
    String::from_utf8(document)
        .map_err(|_| Refusal::Malformed { kind: Kind::Manifest, why: "it is not text".to_owned() }.into())
}
