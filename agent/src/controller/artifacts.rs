//! Artifacts: bytes named by their digest, fetched from the controller in pieces that survive a cut.
//!
//! A file under its digest is whole and was checked; what is still coming is in `DIGEST.part` beside it.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1,
};
use fleet_task::{AWAY, TaskError};
use nix::sys::statvfs::statvfs;
use ring::digest::{Context, SHA256};
use tokio::{sync::watch, time::Instant};

use super::{Line, refused};

/// How long the controller may take for one piece.
const PIECE: Duration = Duration::from_secs(30);
/// How much has to come in each such time. A transfer that only trickles would keep its task, and all after it, from
/// their turn for as long as it likes; what has come is kept for the next attempt.
const WINDOW: Duration = Duration::from_secs(60);
const LEAST: u64 = 512 << 10;
/// How long to wait for the next session after a cut.
const NEXT_SESSION: Duration = Duration::from_secs(20);
/// Attempts in a row that bring nothing before the task gives up for this time.
const FRUITLESS: u32 = 2;
/// How long altogether a busy controller is asked again when it says, before others get their turn; being busy is no
/// failure, however often it says so.
const PATIENCE: Duration = Duration::from_secs(60);
/// Least and longest time after which a busy controller is asked again, whatever it says.
const BUSY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));
/// What is left free for the node's own needs.
const RESERVE: u64 = 32 << 20;
/// How much is read at a time for a digest; between two pieces others get their turn.
const BLOCK: usize = 256 << 10;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum Lacking {
    /// The controller is away, busy or slow; what has come is kept.
    Later(TaskError),
    /// No room on the disk.
    Room(TaskError),
    /// What came is not what it should be.
    Damaged(TaskError),
    /// Anything else.
    Other(TaskError),
}

impl From<Lacking> for TaskError {
    fn from(lacking: Lacking) -> Self {
        match lacking {
            Lacking::Later(error)
            | Lacking::Room(error)
            | Lacking::Damaged(error)
            | Lacking::Other(error) => error,
        }
    }
}

/// From the controller's refusals: some only ask for patience.
impl From<TaskError> for Lacking {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::NotYet(_) => Self::Later(error),
            _ => Self::Other(error),
        }
    }
}

/// A whole, checked copy of `artifact` in `folder`.
///
/// # Errors
/// [`Lacking`]; as a [`TaskError`] it is what [`fleet_task::Controller::artifact`] says.
pub(crate) async fn obtain(
    folder: &Path,
    artifact: &v1::Artifact,
    mut line: watch::Receiver<Line>,
) -> Result<PathBuf, Lacking> {
    if !is_digest(&artifact.sha256) {
        return Err(refuse(
            format!("`{}` of `{}` is not a SHA-256", artifact.sha256, artifact.name),
            "correct the plan",
        ));
    }
    let place = Place {
        whole: folder.join(&artifact.sha256),
        part: folder.join(format!("{}.part", artifact.sha256)),
    };
    if place.is_whole(artifact).await? {
        return Ok(place.whole);
    }
    make(folder)?;
    let (mut fruitless, mut patience) = (0, PATIENCE);
    // Over all attempts: a line that breaks after every few bytes is a slow one.
    let mut pace = Pace::new(Instant::now());
    loop {
        let mut part = Part::open(&place.part, artifact).await?;
        room(folder, artifact, part.length)?;
        let began_at = part.length;
        let cut = if part.length < artifact.size {
            part.fetch(artifact, &line, &mut pace).await.err()
        } else {
            None
        };
        match cut {
            None => match part.complete(&place, artifact).await? {
                true => return Ok(place.whole),
                // What was there from an earlier attempt may have been the damage: once more from the start.
                false if began_at > 0 => continue,
                false => {
                    return Err(Lacking::Damaged(refused_with(
                        format!("what the controller sent as `{}` does not match its digest", artifact.name),
                        "run `fleetctl up` again on the operator's host, which gives the controller the file anew",
                    )));
                }
            },
            Some(Cut::Final(error)) => return Err(error),
            Some(Cut::Slow(error)) => return Err(error.into()),
            Some(Cut::Busy(wait)) => {
                let Some(left) = patience.checked_sub(wait) else {
                    return Err(Lacking::Later(TaskError::NotYet("the controller, which is busy".into())));
                };
                patience = left;
                tokio::time::sleep(wait).await;
                // Time in which nothing was to come says nothing about the line.
                pace = Pace::new(Instant::now());
            }
            Some(Cut::Broken(error)) => {
                fruitless = if part.length > began_at { 0 } else { fruitless + 1 };
                if fruitless >= FRUITLESS {
                    return Err(error.into());
                }
                tracing::info!(
                    artifact = artifact.name,
                    at = part.length,
                    of = artifact.size,
                    "fetch was cut"
                );
                let next = line.wait_for(Option::is_some);
                if !matches!(tokio::time::timeout(NEXT_SESSION, next).await, Ok(Ok(_))) {
                    return Err(error.into());
                }
            }
        }
    }
}

/// Removes what no task needs. Failing to costs disk space, and is tried again with the next desired state.
pub(crate) fn sweep(folder: &Path, needed: &BTreeSet<&str>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !needed.contains(name.trim_end_matches(".part"))
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(artifact = %name, %error, "an artifact nobody needs stays");
        }
    }
}

/// The digests of all artifacts a desired state names.
pub(crate) fn named(desired: &v1::Desired) -> BTreeSet<&str> {
    use v1::{file_task::Content, rethinkdb_task::Source, task_spec::Kind};
    desired
        .tasks
        .iter()
        .filter_map(|spec| match spec.kind.as_ref()? {
            Kind::Rethinkdb(task) => match task.source.as_ref()? {
                Source::Package(artifact) => Some(artifact),
                Source::Repository(_) => None,
            },
            Kind::Todo(task) => task.program.as_ref(),
            Kind::File(task) => match task.content.as_ref()? {
                Content::Artifact(artifact) => Some(artifact),
                _ => None,
            },
            _ => None,
        })
        .map(|artifact| artifact.sha256.as_str())
        .collect()
}

/// Where an artifact is, and where it is while it comes.
struct Place {
    whole: PathBuf,
    part: PathBuf,
}

impl Place {
    /// Whether the copy is there and sound; one that is not is removed.
    async fn is_whole(&self, artifact: &v1::Artifact) -> Result<bool, Lacking> {
        let Some(mut file) = open(&self.whole)? else { return Ok(false) };
        let mut digest = Context::new(&SHA256);
        let length = read_into(&mut file, &mut digest).await.map_err(|error| broken(&self.whole, error))?;
        if length == artifact.size && hex(digest) == artifact.sha256 {
            return Ok(true);
        }
        tracing::warn!(artifact = artifact.name, "the copy on this node is damaged; fetching it again");
        fs::remove_file(&self.whole).map_err(|error| broken(&self.whole, error))?;
        Ok(false)
    }
}

/// Why no more pieces come.
enum Cut {
    /// Worth another attempt.
    Broken(TaskError),
    /// Worth another one later.
    Slow(TaskError),
    /// Worth one after this time.
    Busy(Duration),
    /// Not.
    Final(Lacking),
}

/// Whether a transfer is fast enough.
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0 }
    }

    /// Counts what came; says how much it was in the whole window if that was too little.
    fn came(&mut self, bytes: u64, now: Instant) -> Option<u64> {
        self.bytes += bytes;
        if now - self.since < WINDOW {
            return None;
        }
        let came = std::mem::replace(self, Self::new(now)).bytes;
        (came < LEAST).then_some(came)
    }
}

/// What has come so far.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    digest: Context,
}

impl Part {
    async fn open(path: &Path, artifact: &v1::Artifact) -> Result<Self, Lacking> {
        let fail = |error| broken(path, error);
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(fail)?;
        let mut digest = Context::new(&SHA256);
        let mut length = read_into(&mut file, &mut digest).await.map_err(fail)?;
        if length > artifact.size {
            file.set_len(0).map_err(fail)?;
            (length, digest) = (0, Context::new(&SHA256));
        }
        Ok(Self { path: path.to_owned(), file, length, digest })
    }

    /// Fetches from where it stands to the end.
    async fn fetch(
        &mut self,
        artifact: &v1::Artifact,
        line: &watch::Receiver<Line>,
        pace: &mut Pace,
    ) -> Result<(), Cut> {
        let client = line.borrow().clone();
        let Some(mut client) = client else {
            return Err(Cut::Final(Lacking::Later(TaskError::NotYet(AWAY.into()))));
        };
        let late = || {
            let seconds = PIECE.as_secs();
            Cut::Broken(TaskError::NotYet(format!(
                "the controller, which sent nothing of `{}` for {seconds} s",
                artifact.name
            )))
        };
        let stopped = |status: &tonic::Status| match busy(status) {
            Some(wait) => Cut::Busy(wait),
            None => match refused(&format!("hand out `{}`", artifact.name), status) {
                wait @ TaskError::NotYet(_) => Cut::Broken(wait),
                error => Cut::Final(error.into()),
            },
        };
        let answer = tokio::time::timeout(PIECE, client.fetch(artifact.sha256.clone(), self.length)).await;
        let mut pieces = answer.map_err(|_| late())?.map_err(|status| stopped(&status))?;
        while self.length < artifact.size {
            let piece = tokio::time::timeout(PIECE, pieces.next()).await;
            let Some(piece) = piece.map_err(|_| late())?.map_err(|status| stopped(&status))? else {
                let what = format!(
                    "the rest of `{}`: {} of {} bytes have come",
                    artifact.name, self.length, artifact.size
                );
                return Err(Cut::Broken(TaskError::NotYet(what)));
            };
            if self.length + piece.len() as u64 > artifact.size {
                let why = format!(
                    "the controller sends more of `{}` than its {} bytes",
                    artifact.name, artifact.size
                );
                let next = "look at the controller's copy (`fleetctl up` checks it)";
                return Err(Cut::Final(Lacking::Damaged(refused_with(why, next))));
            }
            self.file.write_all(&piece).map_err(|error| Cut::Final(broken(&self.path, error)))?;
            self.digest.update(&piece);
            self.length += piece.len() as u64;
            if let Some(slow) = pace.came(piece.len() as u64, Instant::now())
                && self.length < artifact.size
            {
                let (kib, seconds) = (slow >> 10, WINDOW.as_secs());
                return Err(Cut::Slow(TaskError::NotYet(format!(
                    "a better line to the controller: {kib} KiB of `{}` came in {seconds} s, {} of {} bytes so far",
                    artifact.name, self.length, artifact.size
                ))));
            }
        }
        Ok(())
    }

    /// Puts it in its place if it is what it should be; whether it was. If not, nothing of it is kept.
    async fn complete(self, place: &Place, artifact: &v1::Artifact) -> Result<bool, Lacking> {
        let fail = |error| broken(&self.path, error);
        if hex(self.digest) != artifact.sha256 {
            fs::remove_file(&place.part).map_err(fail)?;
            return Ok(false);
        }
        let (file, from, to) = (self.file, place.part.clone(), place.whole.clone());
        let settle = move || {
            file.sync_all()?;
            fs::rename(&from, &to)?;
            to.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        // Waiting for the disk must not hold the session up.
        let settled = tokio::task::spawn_blocking(settle).await.map_err(io::Error::other);
        settled.and_then(|result| result).map_err(fail)?;
        Ok(true)
    }
}

/// When to come again, if that is all that is wrong.
fn busy(status: &tonic::Status) -> Option<Duration> {
    let (least, most) = BUSY;
    match Refusal::from_status(status) {
        Some(refusal) if refusal.kind() == RefusalKind::RefusalBusy => {
            Some(Duration::from_millis(refusal.retry_after_ms).clamp(least, most))
        }
        None if status.code() == tonic::Code::ResourceExhausted => Some(most),
        _ => None,
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn hex(digest: Context) -> String {
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn open(path: &Path) -> Result<Option<File>, Lacking> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(broken(path, error)),
    }
}

async fn read_into(file: &mut File, digest: &mut Context) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut length = 0;
    loop {
        let n = file.read(&mut block)?;
        if n == 0 {
            return Ok(length);
        }
        digest.update(&block[..n]);
        length += n as u64;
        tokio::task::yield_now().await;
    }
}

fn make(folder: &Path) -> Result<(), Lacking> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(broken(folder, error)),
        _ => Ok(()),
    }
}

/// Whether the rest of the artifact fits on the disk.
fn room(folder: &Path, artifact: &v1::Artifact, have: u64) -> Result<(), Lacking> {
    let stat = statvfs(folder).map_err(|error| broken(folder, error.into()))?;
    fits(artifact, have, stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn fits(artifact: &v1::Artifact, have: u64, free: u64) -> Result<(), Lacking> {
    let needed = artifact.size.saturating_sub(have).saturating_add(RESERVE);
    if needed <= free {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let missing = mib(needed - free);
    Err(Lacking::Room(refused_with(
        format!(
            "no room on the disk for `{}`: {} MiB are needed, {} MiB are free, {missing} MiB are missing",
            artifact.name,
            mib(needed),
            free >> 20,
        ),
        "free some space on the node (`df -h`, `apt clean`) or give it another disk",
    )))
}

fn broken(path: &Path, source: io::Error) -> Lacking {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Lacking::Room(refused_with(
            format!("no space left to write {}", path.display()),
            "free some space on the node (`df -h`, `apt clean`) or give it another disk",
        )),
        _ => Lacking::Other(TaskError::Read { path: path.display().to_string(), source }),
    }
}

fn refuse(why: String, next: &str) -> Lacking {
    Lacking::Other(refused_with(why, next))
}

fn refused_with(why: String, next: &str) -> TaskError {
    TaskError::Refused { why, next: next.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(bytes: &[u8]) -> v1::Artifact {
        let mut digest = Context::new(&SHA256);
        digest.update(bytes);
        v1::Artifact { name: "a.deb".into(), sha256: hex(digest), size: bytes.len() as u64 }
    }

    fn nobody() -> watch::Receiver<Line> {
        watch::channel(None).1
    }

    #[tokio::test]
    async fn what_is_there_needs_no_session_and_damage_is_noticed() {
        let folder = tempfile::tempdir().expect("folder");
        let artifact = artifact(b"bytes");
        let place = folder.path().join(&artifact.sha256);
        fs::write(&place, b"bytes").expect("file");
        assert_eq!(obtain(folder.path(), &artifact, nobody()).await.expect("there"), place);
        fs::write(&place, b"bytez").expect("damage");
        let error = obtain(folder.path(), &artifact, nobody()).await.expect_err("damaged");
        assert!(matches!(error, Lacking::Later(TaskError::NotYet(_))), "{error}");
        assert!(!place.exists());
    }

    #[tokio::test]
    async fn a_part_that_is_whole_already_is_only_checked() {
        let folder = tempfile::tempdir().expect("folder");
        let artifact = artifact(b"bytes");
        fs::write(folder.path().join(format!("{}.part", artifact.sha256)), b"bytes").expect("file");
        let place = obtain(folder.path(), &artifact, nobody()).await.expect("whole");
        assert_eq!(fs::read(place).expect("read"), b"bytes");
    }

    #[tokio::test]
    async fn a_digest_never_leads_elsewhere() {
        let folder = tempfile::tempdir().expect("folder");
        for sha256 in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63)] {
            let artifact = v1::Artifact { sha256: (*sha256).into(), ..artifact(b"") };
            let error = obtain(folder.path(), &artifact, nobody()).await.expect_err("no digest");
            assert!(error.to_string().contains("is not a SHA-256"), "{error}");
        }
    }

    #[test]
    fn missing_space_is_counted() {
        let artifact = v1::Artifact { name: "big.deb".into(), size: 100 << 20, ..v1::Artifact::default() };
        fits(&artifact, 0, 132 << 20).expect("just fits");
        fits(&artifact, 60 << 20, 72 << 20).expect("most of it is there");
        let error = fits(&artifact, 0, 100 << 20).expect_err("too much");
        assert_eq!(
            error.to_string(),
            "no room on the disk for `big.deb`: 132 MiB are needed, 100 MiB are free, 32 MiB are missing"
        );
    }

    #[test]
    fn what_trickles_is_too_slow_however_long_it_goes_on() {
        let start = Instant::now();
        let check = |bytes: u64, every: u64, slow: bool| {
            let mut pace = Pace::new(start);
            let pieces = (1..=600).map(|n| pace.came(bytes, start + Duration::from_secs(n * every)));
            let verdicts: Vec<u64> = pieces.flatten().collect();
            assert_eq!(!verdicts.is_empty(), slow, "{bytes} every {every} s: {verdicts:?}");
        };
        check(1, 29, true);
        check(64 << 10, 29, true);
        check(4 << 10, 1, true);
        check(64 << 10, 1, false);
        check(64 << 10, 5, false);
        // Fast at first, then hardly at all.
        let mut pace = Pace::new(start);
        assert_eq!(pace.came(100 << 20, start + WINDOW), None);
        assert_eq!(pace.came(7, start + WINDOW * 2), Some(7));
    }

    #[test]
    fn only_what_is_named_stays() {
        let folder = tempfile::tempdir().expect("folder");
        let (kept, gone) = ("a".repeat(64), "b".repeat(64));
        for name in [kept.clone(), format!("{kept}.part"), gone.clone(), format!("{gone}.part")] {
            fs::write(folder.path().join(name), "").expect("file");
        }
        let program = v1::Artifact { sha256: kept.clone(), ..v1::Artifact::default() };
        let todo = v1::TodoTask { program: Some(program), ..v1::TodoTask::default() };
        let spec = v1::TaskSpec { kind: Some(v1::task_spec::Kind::Todo(todo)), ..v1::TaskSpec::default() };
        sweep(folder.path(), &named(&v1::Desired { tasks: vec![spec], ..v1::Desired::default() }));
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .expect("list")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, [kept.clone(), format!("{kept}.part")]);
    }
}
