//! The controller's folder: its lock, and the two files others find it by.
//!
//! ```text
//! controller.lock   held while a controller runs; its pid
//! line.json         word that the line is stopped; see `rollout::note`
//! controller.json   where the running controller answers
//! operator.json     0600: an operator's identity, made on first start
//! store.db          everything else
//! sealing.key       see `sealing`
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// How long the folder may be held by a controller that was killed and whose threads are still on their way out: its
/// process looks dead by then.
const HELD_FOR_MOMENTS: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another controller is at work.
    #[error(
        "another controller ({}) already serves this state; use it, or stop it before starting one here",
        .by.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
    )]
    Locked {
        /// Its process.
        by: Option<u32>,
    },
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged; delete it and start again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// `controller.json`: where a running controller answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerFile {
    /// Its process.
    pub pid: u32,
    /// Session listener, for operators on this host.
    pub session: SocketAddr,
    /// Port of the enrolment listener.
    pub enrol_port: u16,
}

/// `operator.json`: what the command line shows to the controller, all PEM.
#[derive(Clone, Serialize, Deserialize)]
pub struct OperatorFile {
    /// Certificate.
    pub cert: String,
    /// Private key.
    pub key: String,
    /// What to trust.
    pub bundle: String,
}

impl std::fmt::Debug for OperatorFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorFile").field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// The folder, locked.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    /// Released by the kernel when the process dies, however it dies.
    _lock: File,
}

impl Home {
    /// Makes the folder if it is not there, and locks it. Blocks for a moment if it is held.
    ///
    /// # Errors
    /// [`HomeError::Locked`] if another controller has it.
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| HomeError::File { path: dir.to_owned(), source })?;
        let path = dir.join("controller.lock");
        let failed = |source| HomeError::File { path: path.clone(), source };
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let started = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if started.elapsed() < HELD_FOR_MOMENTS => {
                    std::thread::sleep(LOOK_AGAIN);
                }
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    let by = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                    return Err(HomeError::Locked { by });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Says where this controller answers.
    ///
    /// # Errors
    /// [`HomeError::File`] if it cannot be written.
    pub fn announce(&self, file: &ControllerFile) -> Result<(), HomeError> {
        write(&self.path("controller.json"), file)
    }

    /// Takes that back.
    pub fn withdraw(&self) {
        fs::remove_file(self.path("controller.json")).ok();
    }

    /// The operator's identity, if there is one.
    ///
    /// # Errors
    /// [`HomeError`] if the file cannot be read.
    pub fn operator(&self) -> Result<Option<OperatorFile>, HomeError> {
        read(&self.path("operator.json"))
    }

    /// Writes the operator's identity.
    ///
    /// # Errors
    /// [`HomeError::File`] if it cannot be written.
    pub fn set_operator(&self, file: &OperatorFile) -> Result<(), HomeError> {
        write(&self.path("operator.json"), file)
    }
}

/// Where a controller answers, if one has said so in `dir`; it may be dead since.
///
/// # Errors
/// [`HomeError`] if the file cannot be read.
pub fn announced(dir: &Path) -> Result<Option<ControllerFile>, HomeError> {
    read(&dir.join("controller.json"))
}

/// Whether a controller runs in `dir`, however busy it is. One that cannot be asked for counts as running.
pub fn held(dir: &Path) -> bool {
    match File::open(dir.join("controller.lock")) {
        // Shared, and let go at once: a controller that starts meanwhile looks again.
        Ok(lock) => lock.try_lock_shared().is_err(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// The operator's identity in `dir`, if there is one.
///
/// # Errors
/// [`HomeError`] if the file cannot be read.
pub fn operator(dir: &Path) -> Result<Option<OperatorFile>, HomeError> {
    read(&dir.join("operator.json"))
}

/// What a file holds, if it is there.
///
/// # Errors
/// [`HomeError`] if it cannot be read.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, HomeError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| HomeError::Damaged { path: path.to_owned(), source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HomeError::File { path: path.to_owned(), source }),
    }
}

/// Writes whole or not at all, for the owner only; a power cut afterwards takes nothing back.
///
/// # Errors
/// [`HomeError::File`] if it cannot be written.
pub fn write(path: &Path, value: &impl Serialize) -> Result<(), HomeError> {
    let failed = |source| HomeError::File { path: path.to_owned(), source };
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| HomeError::Damaged { path: path.to_owned(), source })?;
    let draft = path.with_extension("json.new");
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)?;
    if let Some(dir) = path.parent() {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_controller_hears_who_is_first() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(!held(dir.path()), "nobody was ever here");
        let home = Home::open(dir.path()).expect("free");
        let error = Home::open(dir.path()).expect_err("taken");
        let text = format!("another controller (pid {}) already serves this state", std::process::id());
        assert!(error.to_string().starts_with(&text), "{error}");
        assert!(held(dir.path()));
        drop(home);
        assert!(!held(dir.path()));
        Home::open(dir.path()).expect("free again");
    }

    #[test]
    fn a_controller_on_its_way_out_is_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let leaving = Home::open(dir.path()).expect("free");
        let (met, meets) = std::sync::mpsc::channel();
        let goes = std::thread::spawn(move || {
            meets.recv().expect("the other side comes");
            drop(leaving);
        });
        let file = File::open(dir.path().join("controller.lock")).expect("there");
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)), "it is held still");
        met.send(()).expect("the other side waits");
        Home::open(dir.path()).expect("it has gone");
        goes.join().expect("it has gone");
    }

    #[test]
    fn files_are_private_and_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::open(&dir.path().join("deep/er")).expect("made");
        let operator = OperatorFile { cert: "c".into(), key: "k".into(), bundle: "b".into() };
        home.set_operator(&operator).expect("writes");
        let mode = home.path("operator.json").metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(home.operator().expect("reads").expect("there").key, "k");
        let file = ControllerFile { pid: 1, session: ([127, 0, 0, 1], 7).into(), enrol_port: 8 };
        home.announce(&file).expect("writes");
        assert_eq!(announced(&dir.path().join("deep/er")).expect("reads"), Some(file));
        home.withdraw();
        assert_eq!(announced(&dir.path().join("deep/er")).expect("reads"), None);
        fs::write(home.path("operator.json"), "{").expect("writes");
        assert!(matches!(home.operator(), Err(HomeError::Damaged { .. })));
    }
}
