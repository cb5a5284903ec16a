//! A running program: its process group, its pipes, its end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Child,
    time::Instant,
};

use crate::{Command, CommandError, Said, Spill, command::PATH};

/// Most bytes kept in memory of each of a program's outputs; the rest is read and dropped.
pub(crate) const MAX_OUTPUT: usize = 1024 * 1024;
/// Most bytes of the end of an output that is kept in a file.
const TAIL: usize = 1024;
/// Bytes read at a time.
const PIECE: usize = 16 * 1024;
/// How long to go on listening once the program has ended: what it left running may hold its pipes for ever.
const LINGER: Duration = Duration::from_secs(2);

/// Where bytes go.
pub(crate) trait Sink: Send {
    fn take(&mut self, bytes: &[u8]);
}

/// In memory, bounded.
#[derive(Default)]
pub(crate) struct Kept(pub(crate) Vec<u8>);

impl Sink for Kept {
    fn take(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT - self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// In a file, bounded; every byte is counted.
pub(crate) struct Filed {
    program: String,
    path: PathBuf,
    file: File,
    most: u64,
    said: Said,
    failure: Option<io::Error>,
}

impl Filed {
    fn create(program: &str, path: &Path, most: u64) -> Result<Self, CommandError> {
        // What is there goes first, so that nobody's link has us write elsewhere.
        let _ = std::fs::remove_file(path);
        let (program, path) = (program.to_owned(), path.to_owned());
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(Self { program, path, file, most, said: Said::default(), failure: None }),
            Err(source) => Err(CommandError::Keep { program, path, source }),
        }
    }

    /// Everything is in the file, or why it is not.
    pub(crate) fn end(self) -> Result<Said, CommandError> {
        match self.failure {
            None => Ok(self.said),
            Some(source) => Err(CommandError::Keep { program: self.program, path: self.path, source }),
        }
    }
}

impl Sink for Filed {
    fn take(&mut self, bytes: &[u8]) {
        self.said.bytes += bytes.len() as u64;
        let room = usize::try_from(self.most - self.said.kept).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        // A full disk must not stop the program: it is counted on, and said at the end.
        if self.failure.is_none() {
            match self.file.write_all(kept) {
                Ok(()) => self.said.kept += kept.len() as u64,
                Err(error) => self.failure = Some(error),
            }
        }
        self.said.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let surplus = self.said.tail.len().saturating_sub(TAIL);
        self.said.tail.drain(..surplus);
    }
}

/// The two files, empty.
pub(crate) fn sinks(command: &Command, files: &Spill) -> Result<(Filed, Filed), CommandError> {
    let create = |path| Filed::create(&command.program, path, files.most);
    Ok((create(&files.stdout)?, create(&files.stderr)?))
}

/// Runs a program to its end; its exit status.
pub(crate) async fn run(
    command: &Command,
    stdout: &mut dyn Sink,
    stderr: &mut dyn Sink,
) -> Result<Option<i32>, CommandError> {
    let child = tokio::process::Command::new(&command.program)
        .args(&command.args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| CommandError::Start { program: command.program.clone(), source })?;
    let mut group = Group(child);
    match tokio::time::timeout(command.deadline, group.listen(stdout, stderr)).await {
        Ok(Ok(code)) => Ok(code),
        Ok(Err(source)) => Err(CommandError::Read { program: command.program.clone(), source }),
        Err(_) => Err(CommandError::Deadline { command: command.to_string(), deadline: command.deadline }),
    }
}

/// The program and all it started, ended when this is dropped before the program has.
struct Group(Child);

impl Group {
    async fn listen(&mut self, stdout: &mut dyn Sink, stderr: &mut dyn Sink) -> io::Result<Option<i32>> {
        let (mut out, mut err) = (Pipe::new(self.0.stdout.take()), Pipe::new(self.0.stderr.take()));
        let mut ended = None;
        while ended.is_none() || out.is_open() || err.is_open() {
            let linger = async {
                match ended {
                    Some((_, at)) => tokio::time::sleep_until(at + LINGER).await,
                    None => std::future::pending().await,
                }
            };
            // Reading into a buffer, waiting for a child and timers lose nothing when dropped.
            tokio::select! {
                n = out.read(), if out.is_open() => out.pass(n?, stdout),
                n = err.read(), if err.is_open() => err.pass(n?, stderr),
                status = self.0.wait(), if ended.is_none() => {
                    ended = Some((status?.code(), Instant::now()));
                }
                () = linger => break,
            }
        }
        Ok(ended.and_then(|(code, _)| code))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // No id: it has ended and been waited for, and the number may be somebody else's by now.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            // Gone just now is fine.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// One of a program's outputs.
struct Pipe<R> {
    stream: Option<R>,
    piece: Box<[u8; PIECE]>,
}

impl<R: AsyncRead + Unpin> Pipe<R> {
    fn new(stream: Option<R>) -> Self {
        Self { stream, piece: Box::new([0; PIECE]) }
    }

    fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    async fn read(&mut self) -> io::Result<usize> {
        match &mut self.stream {
            Some(stream) => stream.read(&mut self.piece[..]).await,
            None => std::future::pending().await,
        }
    }

    fn pass(&mut self, n: usize, sink: &mut dyn Sink) {
        if n == 0 {
            self.stream = None;
        }
        sink.take(&self.piece[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Runner, SystemRunner};

    fn sh(script: &str) -> Command {
        Command::new("sh", ["-c", script]).within(Duration::from_secs(20))
    }

    fn files(folder: &Path, most: u64) -> Spill {
        Spill { stdout: folder.join("out"), stderr: folder.join("err"), most }
    }

    #[tokio::test]
    async fn every_byte_is_counted_and_few_are_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let script = "head -c 3000000 /dev/zero; echo end; printf '%s' bad >&2; exit 3";
        let spilled = SystemRunner.spill(&sh(script), &files(folder.path(), 1000)).await.expect("runs");
        assert_eq!(spilled.code, Some(3));
        assert_eq!((spilled.stdout.bytes, spilled.stdout.kept), (3_000_004, 1000));
        assert!(spilled.stdout.tail.ends_with(b"end\n") && spilled.stdout.tail.len() == TAIL);
        assert_eq!((spilled.stderr.bytes, spilled.stderr.tail.as_slice()), (3, b"bad".as_slice()));
        assert_eq!(std::fs::read(folder.path().join("out")).expect("out").len(), 1000);
        assert_eq!(std::fs::read(folder.path().join("err")).expect("err"), b"bad");
    }

    #[tokio::test]
    async fn a_link_in_the_way_is_replaced_not_followed() {
        let folder = tempfile::tempdir().expect("folder");
        let target = folder.path().join("target");
        std::fs::write(&target, "kept").expect("target");
        std::os::unix::fs::symlink(&target, folder.path().join("out")).expect("link");
        SystemRunner.spill(&sh("echo new"), &files(folder.path(), 1000)).await.expect("runs");
        assert_eq!(std::fs::read_to_string(&target).expect("target"), "kept");
        assert_eq!(std::fs::read_to_string(folder.path().join("out")).expect("out"), "new\n");
    }

    #[tokio::test]
    async fn a_disk_that_is_full_is_said_and_the_program_goes_on() {
        let folder = tempfile::tempdir().expect("folder");
        let mut filed = Filed::create("x", &folder.path().join("out"), u64::MAX).expect("file");
        filed.file = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        filed.take(b"one");
        filed.take(b"two");
        assert_eq!((filed.said.bytes, filed.said.kept), (6, 0));
        let error = filed.end().expect_err("full");
        assert!(
            matches!(&error, CommandError::Keep { source, .. } if source.kind() == io::ErrorKind::StorageFull)
        );
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_does_not_hold_us_up() {
        let output = SystemRunner.output(&sh("sleep 600 & echo here")).await.expect("runs");
        assert_eq!((output.code, output.stdout.as_slice()), (Some(0), b"here\n".as_slice()));
    }

    /// Whether a process lives; one that has ended and waits for its parent does not count.
    fn lives(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    }

    #[tokio::test]
    async fn dropping_ends_all_that_was_started() {
        let folder = tempfile::tempdir().expect("folder");
        let note = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! >{0}.new; mv {0}.new {0}; wait", note.display());
        let (command, files) = (sh(&script), files(folder.path(), 10));
        let noted = async {
            while !note.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = SystemRunner.spill(&command, &files) => panic!("it waits"),
            () = noted => (),
        }
        let pid = std::fs::read_to_string(&note).expect("pid");
        let gone = async {
            while lives(pid.trim()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("ended with its parent");
    }
}
