//! Artifacts: bytes kept under the digest of their content, given to the agents whose desired state names them.
//!
//! ```text
//! artifacts/<sha256>   0600, in the controller's folder; whole, or not there
//! ```
//!
//! [`draft`] takes new ones in, [`transfer`] gives them out, [`named`] says which a desired state names. What neither
//! a plan nor a release names any more goes a while later: [`Artifacts::sweep`].

pub mod draft;
pub mod named;
pub mod transfer;

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use fleet_model::{Clock, Timestamp};
use fleet_proto::v1;

pub use draft::Draft;
pub use transfer::{Limits, Transfers};

/// Largest artifact. A RethinkDB package has some 30 MB.
pub const LARGEST: u64 = 512 * 1024 * 1024;
/// How long an artifact is kept after the last plan that named it: going back to an earlier plan is common.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// Bytes read at once where a whole file is.
const READ: usize = 1024 * 1024;

/// SHA-256 of an artifact's bytes, lower-case hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// A text that is no SHA-256 in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no SHA-256 in lower-case hex")]
pub struct NoDigest(String);

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 64 && text.bytes().all(hex) {
            return Ok(Self(text.to_owned()));
        }
        // Whatever it is, it comes from outside and may be long.
        Err(NoDigest(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.0)
    }
}

/// Why an artifact could not be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// It does not say what it is.
    #[error(transparent)]
    NoDigest(#[from] NoDigest),
    /// Larger than any may be.
    #[error("`{name}` has {size} bytes; an artifact has {LARGEST} at most")]
    TooLarge {
        /// What people call it.
        name: String,
        /// Its size.
        size: u64,
    },
    /// More or fewer bytes came than were announced.
    #[error("`{name}` was announced with {announced} bytes, and {came} came")]
    Size {
        /// What people call it.
        name: String,
        /// As announced.
        announced: u64,
        /// Counted.
        came: u64,
    },
    /// Other bytes came than were announced.
    #[error("`{name}` was announced as {announced}, and its bytes are {came}")]
    Differs {
        /// What people call it.
        name: String,
        /// As announced.
        announced: Digest,
        /// Computed.
        came: Digest,
    },
    /// The disk has no room for it.
    #[error("the controller's disk has no room for `{name}`: {} MiB are missing", missing.div_ceil(1 << 20))]
    NoRoom {
        /// What people call it.
        name: String,
        /// Bytes.
        missing: u64,
    },
    /// Nothing of that digest is kept here.
    #[error("no artifact {0} is kept here")]
    Unknown(Digest),
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The folder of artifacts.
#[derive(Clone, Debug)]
pub struct Artifacts {
    dir: Arc<Path>,
    clock: Arc<dyn Clock>,
    /// Kept whatever plans name: releases name them.
    pinned: Arc<Mutex<BTreeSet<Digest>>>,
}

impl Artifacts {
    /// Makes the folder if it is not there, and clears away what was cut half-way.
    ///
    /// # Errors
    /// [`ArtifactError::File`].
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, ArtifactError> {
        let failed = |source| ArtifactError::File { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if draft::is_draft(&path) {
                fs::remove_file(&path).map_err(|source| ArtifactError::File { path, source })?;
            }
        }
        Ok(Self { dir: dir.into(), clock, pinned: Arc::default() })
    }

    /// Those of `wanted` that are not kept here, each once; what was damaged on this disk is not. Blocks: all are read.
    ///
    /// # Errors
    /// [`ArtifactError::NoDigest`] if one does not say what it is.
    pub fn missing(&self, wanted: &[v1::Artifact]) -> Result<Vec<v1::Artifact>, ArtifactError> {
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for artifact in wanted {
            let digest: Digest = artifact.sha256.parse()?;
            if !seen.insert(digest.clone()) {
                continue;
            }
            if self.holds(&digest, artifact.size) {
                // Asked for means needed soon: its time begins anew, so that it is not swept away meanwhile.
                self.stamp(&digest);
            } else {
                missing.push(artifact.clone());
            }
        }
        Ok(missing)
    }

    /// Whether it is here, byte by byte. One that is damaged stays where it is until another takes its place.
    fn holds(&self, digest: &Digest, size: u64) -> bool {
        let path = self.path(digest);
        if !fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() == size) {
            return false;
        }
        match digest_of(&path) {
            Ok((found, _)) if found == *digest => true,
            Ok((found, _)) => {
                tracing::error!(%digest, %found, "artifact damaged on this disk; it counts as missing");
                false
            }
            Err(error) => {
                tracing::error!(%digest, %error, "artifact unreadable; it counts as missing");
                false
            }
        }
    }

    /// Keeps a copy of a file of this host; says what it is. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError`]; nothing is kept then.
    pub fn adopt(&self, file: &Path, name: &str) -> Result<v1::Artifact, ArtifactError> {
        let failed = |source| ArtifactError::File { path: file.to_owned(), source };
        let (digest, size) = digest_of(file).map_err(failed)?;
        let artifact = v1::Artifact { name: name.to_owned(), sha256: digest.to_string(), size };
        if self.holds(&digest, size) {
            self.stamp(&digest);
            return Ok(artifact);
        }
        let mut draft = self.draft(&artifact)?;
        let mut source = File::open(file).map_err(failed)?;
        let mut buffer = vec![0; READ];
        loop {
            match source.read(&mut buffer).map_err(failed)? {
                0 => break,
                read => draft.write(&buffer[..read])?,
            }
        }
        draft.finish()?;
        Ok(artifact)
    }

    /// Begins to take an artifact in.
    ///
    /// # Errors
    /// [`ArtifactError`] if it cannot be taken: too large, no room.
    pub fn draft(&self, artifact: &v1::Artifact) -> Result<Draft, ArtifactError> {
        Draft::begin(self, artifact)
    }

    /// The file of one of them.
    ///
    /// # Errors
    /// [`ArtifactError::Unknown`] if it is not kept here.
    pub fn file(&self, digest: &Digest) -> Result<File, ArtifactError> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ArtifactError::Unknown(digest.clone()),
            _ => ArtifactError::File { path, source },
        })
    }

    /// Keeps these from now on, whatever plans name, and those before no longer.
    pub fn pin(&self, digests: impl IntoIterator<Item = Digest>) {
        *self.pinned() = digests.into_iter().collect();
    }

    /// Removes those of `digests` at once that are neither pinned nor among `named`; says how many. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError::File`].
    pub fn remove(&self, digests: &BTreeSet<Digest>, named: &BTreeSet<Digest>) -> Result<u32, ArtifactError> {
        let mut removed = 0;
        for digest in digests.iter().filter(|digest| !named.contains(digest)) {
            if self.pinned().contains(digest) {
                continue;
            }
            let path = self.path(digest);
            match fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(ArtifactError::File { path, source }),
            }
        }
        Ok(removed)
    }

    fn pinned(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        // No critical section can leave the set half changed.
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what is neither pinned nor among `named` and has not been for [`GRACE`]; says how many. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError::File`].
    pub fn sweep(&self, named: &BTreeSet<Digest>) -> Result<usize, ArtifactError> {
        let failed = |source| ArtifactError::File { path: self.dir.to_path_buf(), source };
        let mut removed = 0;
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok()) else {
                continue;
            };
            if named.contains(&digest) || self.pinned().contains(&digest) {
                self.stamp(&digest);
                continue;
            }
            let last = entry.metadata().and_then(|file| file.modified()).map_err(failed)?;
            if self.now().duration_since(last).is_ok_and(|age| age >= GRACE) {
                fs::remove_file(entry.path()).map_err(failed)?;
                tracing::info!(%digest, "artifact removed: nothing names it any more");
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Notes that it is wanted now.
    fn stamp(&self, digest: &Digest) {
        let path = self.path(digest);
        let stamped = File::options().write(true).open(&path).and_then(|file| file.set_modified(self.now()));
        if let Err(error) = stamped {
            // It may go a little early, and is then asked for again.
            tracing::warn!(%digest, %error, "artifact not stamped");
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(&digest.0)
    }

    /// By the clock everything else is judged by.
    fn now(&self) -> SystemTime {
        let millis = Timestamp::as_millis(self.clock.now());
        SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}

fn digest_of(file: &Path) -> io::Result<(Digest, u64)> {
    let mut source = File::open(file)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let (mut size, mut buffer) = (0, vec![0; READ]);
    loop {
        let read = source.read(&mut buffer)?;
        if read == 0 {
            return Ok((Digest(crate::enrol::hex(context.finish().as_ref())), size));
        }
        context.update(&buffer[..read]);
        size += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fleet_model::ManualClock;

    use super::*;

    fn artifact(name: &str, bytes: &[u8]) -> v1::Artifact {
        let sha256 = crate::enrol::sha256_hex(bytes);
        v1::Artifact { name: name.to_owned(), sha256, size: bytes.len() as u64 }
    }

    fn opened(dir: &Path) -> (Artifacts, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        (Artifacts::open(&dir.join("artifacts"), clock.clone()).expect("opens"), clock)
    }

    fn keep(artifacts: &Artifacts, artifact: &v1::Artifact, bytes: &[u8]) -> Result<(), ArtifactError> {
        let mut draft = artifacts.draft(artifact)?;
        bytes.chunks(3).try_for_each(|chunk| draft.write(chunk))?;
        draft.finish()
    }

    #[test]
    fn digests_are_lower_case_hex() {
        let check = |text: &str, good: bool| assert_eq!(text.parse::<Digest>().is_ok(), good, "{text}");
        check(&"0a".repeat(32), true);
        check(&"0A".repeat(32), false);
        check(&"0a".repeat(31), false);
        check("../../../../../../../../../../../../../../../../../../etc/passwd00", false);
        check("", false);
    }

    #[test]
    fn only_what_was_announced_is_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let (artifacts, _) = opened(dir.path());
        let good = artifact("x.deb", b"hello, world");
        let check = |announced: v1::Artifact, bytes: &[u8], wanted: &str| {
            let error = keep(&artifacts, &announced, bytes).expect_err(wanted);
            assert!(error.to_string().contains(wanted), "{error}");
            let left: Vec<_> = fs::read_dir(&artifacts.dir).expect("lists").collect();
            assert!(left.is_empty(), "nothing is left of it: {left:?}");
        };
        check(good.clone(), b"hello, moon!", "announced as");
        check(good.clone(), b"hello", "12 bytes, and 5 came");
        check(good.clone(), b"hello, world and more", "12 bytes, and 15 came");
        check(v1::Artifact { sha256: "../x".into(), ..good.clone() }, b"", "no SHA-256");
        check(v1::Artifact { size: LARGEST + 1, ..good.clone() }, b"", "at most");
        let twice = [good.clone(), good.clone()];
        assert_eq!(artifacts.missing(&twice).expect("digests"), twice[..1]);
        keep(&artifacts, &good, b"hello, world").expect("kept");
        keep(&artifacts, &good, b"hello, world").expect("again is fine");
        assert_eq!(artifacts.missing(std::slice::from_ref(&good)).expect("digests"), []);
        let file = artifacts.dir.join(&good.sha256);
        assert_eq!(fs::read(&file).expect("there"), b"hello, world");
        assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(artifacts.dir.metadata().expect("there").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_was_damaged_here_is_missing_until_it_is_brought_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let (artifacts, _) = opened(dir.path());
        let good = artifact("x.deb", b"hello, world");
        keep(&artifacts, &good, b"hello, world").expect("kept");
        let file = artifacts.dir.join(&good.sha256);
        let is_missing = || !artifacts.missing(std::slice::from_ref(&good)).expect("digests").is_empty();
        let damage = || fs::write(&file, b"hello, w\0rld").expect("written");
        damage();
        assert!(is_missing());
        keep(&artifacts, &good, b"hello, world").expect("kept");
        assert!(!is_missing());
        assert_eq!(fs::read(&file).expect("there"), b"hello, world");
        // A file of this host as well.
        let source = dir.path().join("x.deb");
        fs::write(&source, b"hello, world").expect("written");
        damage();
        artifacts.adopt(&source, "x.deb").expect("kept");
        assert!(!is_missing());
    }

    #[test]
    fn a_draft_that_was_cut_is_cleared_away() {
        let dir = tempfile::tempdir().expect("a folder");
        let (artifacts, _) = opened(dir.path());
        let mut draft = artifacts.draft(&artifact("x", b"hello")).expect("room");
        draft.write(b"he").expect("written");
        // As if the process had been killed: nobody cleans up.
        std::mem::forget(draft);
        assert_eq!(fs::read_dir(&artifacts.dir).expect("lists").count(), 1);
        opened(dir.path());
        assert_eq!(fs::read_dir(&artifacts.dir).expect("lists").count(), 0);
    }

    #[test]
    fn a_full_disk_says_how_much_is_missing() {
        let error = draft::room(&artifact("x.deb", b"x"), 10 << 20, 7 << 20).expect_err("no room");
        assert_eq!(error.to_string(), "the controller's disk has no room for `x.deb`: 3 MiB are missing");
        draft::room(&artifact("x.deb", b"x"), 7 << 20, 7 << 20).expect("just enough");
    }

    #[test]
    fn what_no_plan_names_goes_after_a_grace() {
        let dir = tempfile::tempdir().expect("a folder");
        let (artifacts, clock) = opened(dir.path());
        let [a, b] = [b"aaaa", b"bbbb"].map(|bytes| {
            let artifact = artifact("x", bytes);
            keep(&artifacts, &artifact, bytes).expect("kept");
            artifact
        });
        let named = BTreeSet::from([a.sha256.parse().expect("a digest")]);
        clock.advance(GRACE / 2);
        assert_eq!(artifacts.sweep(&named).expect("sweeps"), 0, "young");
        clock.advance(GRACE / 2);
        // Asked for again just before.
        artifacts.missing(std::slice::from_ref(&b)).expect("digests");
        assert_eq!(artifacts.sweep(&named).expect("sweeps"), 0, "its time began anew");
        clock.advance(GRACE);
        assert_eq!(artifacts.sweep(&named).expect("sweeps"), 1);
        assert_eq!(artifacts.missing(&[a, b.clone()]).expect("digests"), [b]);
    }

    #[test]
    fn what_a_release_names_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let (artifacts, clock) = opened(dir.path());
        let released = artifact("x", b"agent");
        keep(&artifacts, &released, b"agent").expect("kept");
        artifacts.pin([released.sha256.parse().expect("a digest")]);
        clock.advance(GRACE * 2);
        assert_eq!(artifacts.sweep(&BTreeSet::new()).expect("sweeps"), 0);
        assert_eq!(artifacts.missing(std::slice::from_ref(&released)).expect("digests"), []);
        // Nor is it removed at once, by a release that names it too or by a plan; what nobody names is.
        let digest: BTreeSet<Digest> = [released.sha256.parse().expect("a digest")].into();
        assert_eq!(artifacts.remove(&digest, &BTreeSet::new()).expect("looks"), 0);
        artifacts.pin([]);
        assert_eq!(artifacts.remove(&digest, &digest).expect("looks"), 0);
        assert_eq!(artifacts.missing(std::slice::from_ref(&released)).expect("digests"), []);
        assert_eq!(artifacts.remove(&digest, &BTreeSet::new()).expect("removes"), 1);
        assert_eq!(artifacts.remove(&digest, &BTreeSet::new()).expect("nothing there is fine"), 0);
        assert_eq!(artifacts.missing(std::slice::from_ref(&released)).expect("digests"), [released]);
    }

    #[test]
    fn files_of_the_host_are_copied_in() {
        let dir = tempfile::tempdir().expect("a folder");
        let (artifacts, _) = opened(dir.path());
        let file = dir.path().join("fleet-todo");
        fs::write(&file, b"a program").expect("writes");
        let first = artifacts.adopt(&file, "fleet-todo").expect("kept");
        assert_eq!(first, artifact("fleet-todo", b"a program"));
        assert_eq!(artifacts.adopt(&file, "fleet-todo").expect("kept already"), first);
        assert_eq!(artifacts.missing(&[first]).expect("digests"), []);
        assert!(artifacts.adopt(&dir.path().join("none"), "x").is_err());
    }
}
