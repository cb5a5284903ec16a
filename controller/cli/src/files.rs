//! Files of this host that a plan names: looked at, hashed, brought to the controller.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use fleet_plan::ResolvedPlan;
use fleet_proto::v1::{Artifact, ArtifactList, KeepChunk};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncReadExt as _, sync::mpsc, time::timeout};

use crate::{
    connect::{Operator, refused},
    failure::{Exit, Failure},
};

/// Most bytes of a message to the controller.
const CHUNK: usize = 64 * 1024;
/// Bytes hashed at once.
const BLOCK: usize = 1024 * 1024;
/// Chunks read ahead of the controller.
const AHEAD: usize = 8;
/// From this size on, people see how far it is.
const BIG: u64 = 16 * 1024 * 1024;
/// A controller that takes no chunk for so long has hung.
const STALLED: Duration = Duration::from_secs(60);

/// A file that a plan names.
#[derive(Clone, Debug)]
pub struct Named {
    /// As written in the plan.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// How big it is.
    pub size: u64,
}

/// Finds every file the plan names, relative to the plan's own folder.
///
/// # Errors
/// One line for each that cannot be read.
pub fn find(plan: &ResolvedPlan, plan_file: &Path) -> Result<Vec<Named>, Vec<String>> {
    let folder = plan_file.parent().unwrap_or(Path::new(""));
    let mut problems = Vec::new();
    let mut found = Vec::new();
    for name in plan.files() {
        let path = folder.join(name);
        match look(&path) {
            Ok(size) => found.push(Named { name: name.to_owned(), path, size }),
            Err(why) => {
                problems.push(format!("the plan names the file `{name}`: {} is {why}", path.display()))
            }
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// Size of a file that can be read, or in words why it is none.
fn look(path: &Path) -> Result<u64, String> {
    let unreadable = |why: io::Error| match why.kind() {
        io::ErrorKind::NotFound => "not there".to_owned(),
        _ => format!("not readable: {why}"),
    };
    // A pipe would block when opened, so what it is comes first.
    let kind = std::fs::metadata(path).map_err(unreadable)?;
    if !kind.is_file() {
        return Err("no ordinary file".to_owned());
    }
    let file = File::open(path).map_err(unreadable)?;
    Ok(file.metadata().map_err(unreadable)?.len())
}

/// What the controller is to know them by.
///
/// # Errors
/// If one cannot be read after all.
pub fn hash(files: &[Named]) -> Result<Vec<Artifact>, Failure> {
    files.iter().map(|file| hashed(file).map_err(|why| unread(&file.path, &why))).collect()
}

fn hashed(named: &Named) -> io::Result<Artifact> {
    let bar = bar(named, "reading");
    let mut file = File::open(&named.path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK.min(usize::try_from(named.size).unwrap_or(BLOCK) + 1)];
    let mut size = 0;
    loop {
        let read = match file.read(&mut block) {
            Ok(0) => break,
            Ok(read) => read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => continue,
            Err(why) => return Err(why),
        };
        hasher.update(&block[..read]);
        size += read as u64;
        bar.set_position(size);
    }
    bar.finish_and_clear();
    let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Artifact { name: named.name.clone(), sha256, size })
}

/// Brings the controller what it does not hold yet.
///
/// # Errors
/// If it refuses one, or one cannot be read any more; those before are kept, and the next time is quicker.
pub async fn bring(
    operator: &mut Operator,
    files: &[Named],
    artifacts: &[Artifact],
    note: impl Fn(&str),
) -> Result<(), Failure> {
    if artifacts.is_empty() {
        return Ok(());
    }
    let all = ArtifactList { artifacts: artifacts.to_vec() };
    let missing = operator.missing(all).await.map_err(|status| refused(&status))?.into_inner().artifacts;
    for artifact in &missing {
        let Some(named) = files.iter().find(|named| named.name == artifact.name) else {
            return Err(Failure::new(
                Exit::Failed,
                format!("the controller asks for `{}`, which was not offered", artifact.name),
            ));
        };
        if named.size >= BIG && !io::stderr().is_terminal() {
            note(&format!("sending {} ({} MB)", named.name, named.size / 1_000_000));
        }
        send(operator, named, artifact.clone()).await?;
    }
    Ok(())
}

async fn send(operator: &mut Operator, named: &Named, artifact: Artifact) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let chunks = futures::stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    });
    // Both at once: the reading ends when the controller stops listening, the sending when all is read.
    let (read, kept) = tokio::join!(read(named, artifact, sender), operator.keep(chunks));
    // Why nothing more came tells more than that nothing more came.
    read.map_err(|why| unread(&named.path, &why))?;
    kept.map_err(|status| refused(&status))?;
    Ok(())
}

async fn read(named: &Named, artifact: Artifact, sender: mpsc::Sender<KeepChunk>) -> io::Result<()> {
    let bar = bar(named, "sending");
    let mut file = tokio::fs::File::open(&named.path).await?;
    let mut chunk = KeepChunk { artifact: Some(artifact), data: Vec::new() };
    loop {
        chunk.data.resize(CHUNK, 0);
        let read = file.read(&mut chunk.data).await?;
        chunk.data.truncate(read);
        // The first message names the artifact even if it has no bytes.
        if read == 0 && chunk.artifact.is_none() {
            bar.finish_and_clear();
            return Ok(());
        }
        let full = std::mem::take(&mut chunk);
        match timeout(STALLED, sender.send(full)).await {
            Ok(Ok(())) => bar.inc(read as u64),
            // The controller has answered already; its answer says why.
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the controller takes no more of it"));
            }
        }
    }
}

fn bar(named: &Named, what: &str) -> ProgressBar {
    if named.size < BIG || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} {msg}  {wide_bar} {bytes}/{total_bytes} {eta}")
        .expect("the template is a constant that parses");
    ProgressBar::new(named.size)
        .with_style(style)
        .with_prefix(what.to_owned())
        .with_message(named.name.clone())
}

fn unread(path: &Path, why: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("read {}: {why}", path.display()))
        .hint("run the command again once it can be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x");
        let digest = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            let named = Named { name: "a/x".into(), path: path.clone(), size: bytes.len() as u64 };
            let artifact = hashed(&named).expect("readable");
            assert_eq!((artifact.name.as_str(), artifact.size), ("a/x", bytes.len() as u64));
            artifact.sha256
        };
        // FIPS 180-2, appendix B.
        assert_eq!(digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(
            digest(&vec![b'a'; 1_000_000]),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
        );
    }

    #[test]
    fn only_files_can_be_brought() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(look(dir.path()), Err("no ordinary file".to_owned()));
        assert_eq!(look(&dir.path().join("ghost")), Err("not there".to_owned()));
        std::fs::write(dir.path().join("x"), "abc").expect("written");
        assert_eq!(look(&dir.path().join("x")), Ok(3));
    }
}
