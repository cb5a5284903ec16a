//! Writing a file so that there is always either the old one or the new one.
//!
//! Write beside it, fsync, rename over it, fsync the folder. Mode and owner of an existing file are kept.
//! A full disk gives one clear reason and leaves nothing half-written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;

/// Why a file was not written. The old one, if any, is untouched.
#[derive(Debug, thiserror::Error)]
pub enum AtomicError {
    /// The file system is full.
    #[error("no space left to write {}{}; it was left as it was", path.display(), lack(*missing))]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// How many bytes more are needed at least, if that is known.
        missing: Option<u64>,
    },
    /// The path is a symbolic link, or not a plain file: replacing it would not do what was meant.
    #[error("{} is {what}, not a plain file", path.display())]
    NotPlain {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Anything else.
    #[error("write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl AtomicError {
    /// What a person can do about it.
    pub fn next_step(&self) -> String {
        match self {
            Self::NoSpace { path, .. } => {
                format!("free some space on the file system of {} (see `df`)", path.display())
            }
            Self::NotPlain { path, .. } => {
                format!("replace {} by a plain file, or move it away", path.display())
            }
            Self::Io { path, .. } => format!("look at {} and its folder on the node", path.display()),
        }
    }

    /// What went wrong while `size` bytes were to be written to `path`.
    pub fn from_io(path: &Path, size: u64, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path: path.to_owned(), missing: missing(path, size) }
            }
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

/// By how much `size` bytes exceed what is free where `path` is to be. A quota, or a file system out of something else
/// than blocks, has no answer.
fn missing(path: &Path, size: u64) -> Option<u64> {
    let found = statvfs(path.parent()?).ok()?;
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    size.checked_sub(free).filter(|missing| *missing > 0)
}

fn lack(missing: Option<u64>) -> String {
    missing.map_or_else(String::new, |bytes| format!(", {} KiB more are needed", bytes.div_ceil(1024)))
}

/// Writes `contents` to `path`; a file that does not exist yet gets `new_mode`.
///
/// # Errors
/// [`AtomicError`]; whatever it is, the old file is whole and nothing is left beside it.
pub fn write(path: &Path, contents: &[u8], new_mode: u32) -> Result<(), AtomicError> {
    let old = match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_file() => Some(meta),
        Ok(meta) => {
            let what = if meta.file_type().is_symlink() { "a symbolic link" } else { "something else" };
            return Err(AtomicError::NotPlain { path: path.to_owned(), what });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(AtomicError::from_io(path, 0, error)),
    };
    let beside = beside(path)?;
    // Left over from a crash; only we use that name.
    let _ = fs::remove_file(&beside);
    let written = fill(&beside, contents, old.as_ref(), new_mode)
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| sync_folder(path));
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        AtomicError::from_io(path, contents.len() as u64, error)
    })
}

/// Removes `path` for good: also after a power cut. Gone already is fine.
///
/// # Errors
/// [`AtomicError::Io`].
pub fn remove(path: &Path) -> Result<(), AtomicError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path).map_err(|error| AtomicError::from_io(path, 0, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(AtomicError::from_io(path, 0, error)),
    }
}

/// Makes a folder and what is missing on the way to it; they are there also after a power cut.
///
/// # Errors
/// [`AtomicError`].
pub fn make_folder(path: &Path) -> Result<(), AtomicError> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        let made = match fs::create_dir(folder) {
            // Somebody was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        made.and_then(|()| sync_folder(folder)).map_err(|error| AtomicError::from_io(folder, 0, error))?;
    }
    Ok(())
}

/// Gives a file to somebody, with this mode, for good: also after a power cut.
///
/// # Errors
/// [`AtomicError`]; a link is not followed.
pub fn give(path: &Path, owner: Option<(u32, u32)>, mode: u32) -> Result<(), AtomicError> {
    let given = || -> io::Result<()> {
        let file = open_plain(path)?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        // After fchown, which clears set-id bits.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    };
    given().map_err(|error| AtomicError::from_io(path, 0, error))
}

/// Puts a folder that a program made, with all below it, on the disk; links in it are not followed.
///
/// # Errors
/// [`AtomicError`].
pub fn settle(folder: &Path) -> Result<(), AtomicError> {
    let settled = || -> io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(folder)? {
            let (kind, path) = entry.and_then(|entry| Ok((entry.file_type()?, entry.path())))?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                open_plain(&path)?.sync_all()?;
            }
        }
        File::open(folder)?.sync_all()?;
        Ok(folders)
    };
    let below = settled().map_err(|error| AtomicError::from_io(folder, 0, error))?;
    below.iter().try_for_each(|folder| settle(folder))
}

/// Whatever somebody puts there meanwhile: no link is followed, and no pipe waited for.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn beside(path: &Path) -> Result<PathBuf, AtomicError> {
    let name = path.file_name().ok_or_else(|| AtomicError::Io {
        path: path.to_owned(),
        source: io::Error::from(io::ErrorKind::InvalidInput),
    })?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".fleet-new");
    Ok(path.with_file_name(beside))
}

fn fill(beside: &Path, contents: &[u8], old: Option<&fs::Metadata>, new_mode: u32) -> io::Result<()> {
    // Exclusive creation does not follow links, so nobody can have us write elsewhere.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(contents)?;
    let mode = old.map_or(new_mode, |meta| meta.mode() & 0o7777);
    if let Some(meta) = old {
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (meta.uid(), meta.gid()) {
            fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
        }
    }
    // After fchown, which clears set-id bits.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("list")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_and_keeps_the_mode() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("hosts");
        write(&path, b"one", 0o640).expect("create");
        assert_eq!(fs::metadata(&path).expect("meta").mode() & 0o7777, 0o640);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).expect("chmod");
        write(&path, b"two", 0o640).expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::metadata(&path).expect("meta").mode() & 0o7777, 0o604);
        assert_eq!(names(folder.path()), ["hosts"]);
    }

    #[test]
    fn refuses_a_link_and_leaves_its_target_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "kept").expect("target");
        std::os::unix::fs::symlink(&target, &link).expect("link");
        let error = write(&link, b"new", 0o644).expect_err("a link");
        assert!(matches!(error, AtomicError::NotPlain { .. }), "{error}");
        assert_eq!(fs::read_to_string(&target).expect("read"), "kept");
    }

    #[test]
    fn a_leftover_of_a_crash_is_no_obstacle() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key");
        fs::write(beside(&path).expect("beside"), "half").expect("leftover");
        write(&path, b"whole", 0o600).expect("write");
        assert_eq!(names(folder.path()), ["key"]);
        assert_eq!(fs::read(&path).expect("read"), b"whole");
    }

    #[test]
    fn folders_are_made_and_files_given() {
        let folder = tempfile::tempdir().expect("folder");
        let deep = folder.path().join("a/b/c");
        make_folder(&deep).expect("made");
        make_folder(&deep).expect("there already");
        let file = deep.join("x");
        fs::write(&file, "x").expect("file");
        give(&file, None, 0o4711).expect("given");
        assert_eq!(fs::metadata(&file).expect("meta").mode() & 0o7777, 0o4711);
        std::os::unix::fs::symlink(&file, deep.join("link")).expect("link");
        give(&deep.join("link"), None, 0o600).expect_err("a link");
        std::os::unix::fs::symlink(folder.path(), deep.join("round")).expect("link");
        settle(folder.path()).expect("settled");
        let error = make_folder(&file.join("below")).expect_err("a file is in the way");
        assert!(error.to_string().contains("below"), "{error}");
    }

    #[test]
    fn a_missing_folder_names_the_file() {
        let error = write(Path::new("/nonexistent/folder/file"), b"", 0o600).expect_err("no folder");
        assert!(error.to_string().contains("/nonexistent/folder/file"), "{error}");
    }

    #[test]
    fn a_full_disk_has_its_own_reason() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = AtomicError::from_io(Path::new("/etc/hosts"), 0, full);
        assert_eq!(error.to_string(), "no space left to write /etc/hosts; it was left as it was");
        assert!(error.next_step().contains("df"));
        let error = AtomicError::NoSpace { path: "/etc/hosts".into(), missing: Some(1025) };
        let text = "no space left to write /etc/hosts, 2 KiB more are needed; it was left as it was";
        assert_eq!(error.to_string(), text);
    }
}
