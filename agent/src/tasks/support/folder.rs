//! A folder of the node, opened step by step, so that nobody's symbolic link leads a write elsewhere.
//!
//! A link on the way is followed only if it belongs to root, as Debian's `/bin` and `/var/run` do, and it stays below
//! the node's root. Whatever is done in the folder afterwards is done in the very one that was opened, even if somebody
//! renames it meanwhile.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use fleet_task::{Node, TaskError, atomic::AtomicError};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat, renameat},
    sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::accounts;

/// Most bytes read at once: keys and settings are small.
const MOST_READ: u64 = 16 << 20;
/// Links followed on one path, as the kernel counts them.
const MAX_LINKS: u32 = 40;
const WALK: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Other,
}

/// An entry of a folder; a link is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
}

/// Whose a file is and who may do what with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// An open folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// For messages, and to see how full its file system is.
    place: PathBuf,
}

impl Folder {
    /// Opens a folder; `None` if it is not there.
    ///
    /// # Errors
    /// [`TaskError::Refused`] if somebody's link, or something that is no folder, is on the way.
    pub fn open(node: &Node, path: &str) -> Result<Option<Self>, TaskError> {
        Self::walk(node, path, None)
    }

    /// Opens a folder; what is missing of its path is made.
    ///
    /// # Errors
    /// As [`Folder::open`], and [`TaskError::Write`].
    pub fn make(node: &Node, path: &str, access: Access) -> Result<Self, TaskError> {
        let found = Self::walk(node, path, Some(access))?;
        found.ok_or_else(|| read_error(Path::new(path), io::Error::from(io::ErrorKind::NotFound)))
    }

    fn walk(node: &Node, path: &str, make: Option<Access>) -> Result<Option<Self>, TaskError> {
        let trusted = accounts::root(node)?.0;
        let place = node.path(path);
        let failed = |error: Errno| read_error(Path::new(path), error.into());
        let root = File::open(node.path("/")).map_err(|error| read_error(Path::new("/"), error))?;
        let mut way: Vec<OwnedFd> = vec![root.into()];
        let mut left: VecDeque<OsString> = parts(OsStr::new(path)).collect();
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let here = way.last().expect("the root never goes").as_fd();
            let next = match openat(here, part.as_os_str(), WALK, Mode::empty()) {
                Err(Errno::ENOENT) => match make {
                    None => return Ok(None),
                    Some(access) => {
                        make_in(here, &part, access).map_err(|error| write_error(&place, 0, error))?
                    }
                },
                other => other.map_err(failed)?,
            };
            let meta = fstat(&next).map_err(failed)?;
            match kind(meta.st_mode) {
                Kind::Folder => way.push(next),
                Kind::Link if meta.st_uid == trusted && links < MAX_LINKS => {
                    links += 1;
                    let target = readlinkat(&next, "").map_err(failed)?;
                    if Path::new(&target).is_absolute() {
                        way.truncate(1);
                    }
                    parts(&target).rev().for_each(|part| left.push_front(part));
                }
                Kind::Link => {
                    return Err(TaskError::Refused {
                        why: format!(
                            "`{}` on the way to {path} is a link of somebody else's",
                            part.display()
                        ),
                        next: "see who put it there; give the path it leads to if that is what is meant"
                            .into(),
                    });
                }
                Kind::File | Kind::Other => {
                    return Err(TaskError::Refused {
                        why: format!("`{}` on the way to {path} is no folder", part.display()),
                        next: "correct the path, or move away what is there".into(),
                    });
                }
            }
        }
        let fd = way.pop().expect("the root never goes");
        Ok(Some(Self { fd, place }))
    }

    /// An entry; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`TaskError::Read`].
    pub fn entry(&self, name: &str) -> Result<Option<Entry>, TaskError> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(meta) => Ok(Some(Entry {
                kind: kind(meta.st_mode),
                mode: meta.st_mode & 0o7777,
                uid: meta.st_uid,
                gid: meta.st_gid,
                size: u64::try_from(meta.st_size).unwrap_or(0),
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.unreadable(name, error.into())),
        }
    }

    /// The folder itself.
    ///
    /// # Errors
    /// [`TaskError::Read`].
    pub fn itself(&self) -> Result<Access, TaskError> {
        let meta = fstat(&self.fd).map_err(|error| self.unreadable("", error.into()))?;
        Ok(Access { mode: meta.st_mode & 0o7777, uid: meta.st_uid, gid: meta.st_gid })
    }

    /// Opens a plain file for reading; `None` if there is none.
    ///
    /// # Errors
    /// [`TaskError::Read`]; a link is not followed.
    pub fn file(&self, name: &str) -> Result<Option<File>, TaskError> {
        // A pipe must not keep us waiting for its other end.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.unreadable(name, error.into())),
        }
    }

    /// The bytes of a plain file; `None` if there is none.
    ///
    /// # Errors
    /// As [`Folder::file`]; [`TaskError::Refused`] for one that is too large: whoever owns the folder must not have us
    /// fill the memory.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, TaskError> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MOST_READ + 1).read_to_end(&mut bytes).map_err(|error| self.unreadable(name, error))?;
        if bytes.len() as u64 > MOST_READ {
            return Err(TaskError::Refused {
                why: format!("{} is larger than {} MiB", self.place.join(name).display(), MOST_READ >> 20),
                next: "see who made it so large, and move it away".into(),
            });
        }
        Ok(Some(bytes))
    }

    /// Puts a file in place in one step: there is always either the old one or the new one. `size` is how much comes.
    ///
    /// # Errors
    /// [`TaskError::Write`]; the old file is whole and nothing is left beside it.
    pub fn replace(
        &self,
        name: &str,
        from: &mut dyn Read,
        size: u64,
        access: Access,
    ) -> Result<(), TaskError> {
        let beside = format!(".{name}.fleet-new");
        let discard = || {
            // Only we use that name.
            let _ = unlinkat(&self.fd, beside.as_str(), UnlinkatFlags::NoRemoveDir);
        };
        discard();
        let mut put = || -> io::Result<()> {
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file: File =
                openat(&self.fd, beside.as_str(), flags, Mode::from_bits_truncate(0o600))?.into();
            io::copy(from, &mut file)?;
            grant(&file, access)?;
            file.sync_all()?;
            renameat(&self.fd, beside.as_str(), &self.fd, name)?;
            self.settle()
        };
        let result = put();
        result.map_err(|error| {
            discard();
            write_error(&self.place.join(name), size, error)
        })
    }

    /// Gives a file or folder to somebody, with these permissions.
    ///
    /// # Errors
    /// [`TaskError::Write`].
    pub fn grant(&self, name: &str, access: Access) -> Result<(), TaskError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let granted = openat(&self.fd, name, flags, Mode::empty()).map_err(io::Error::from).and_then(|fd| {
            let (file, folder) = (File::from(fd), fstat(&self.fd)?);
            let meta = file.metadata()?;
            if meta.is_file() && meta.nlink() > 1 && meta.uid() != folder.st_uid {
                // Whoever owns the folder can have any file of the same disk in it, under a name that we are to change.
                return Err(io::Error::other(
                    "it has another name elsewhere, and is not its folder's owner's",
                ));
            }
            grant(&file, access)?;
            file.sync_all()
        });
        granted.map_err(|error| write_error(&self.place.join(name), 0, error))
    }

    /// Removes a file or link, or a folder that is empty. Gone already is fine.
    ///
    /// # Errors
    /// [`TaskError::Write`].
    pub fn remove(&self, name: &str, kind: Kind) -> Result<(), TaskError> {
        let how = if kind == Kind::Folder { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        let removed = match unlinkat(&self.fd, name, how) {
            Ok(()) => self.settle(),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        };
        removed.map_err(|error| write_error(&self.place.join(name), 0, error))
    }

    /// What was done in the folder survives a power cut.
    fn settle(&self) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        File::from(openat(&self.fd, ".", flags, Mode::empty())?).sync_all()
    }

    fn unreadable(&self, name: &str, source: io::Error) -> TaskError {
        read_error(&self.place.join(name), source)
    }
}

fn grant(file: &File, access: Access) -> io::Result<()> {
    let meta = file.metadata()?;
    if (meta.uid(), meta.gid()) != (access.uid, access.gid) {
        fchown(file, Some(access.uid), Some(access.gid))?;
    }
    // After fchown, which clears set-id bits.
    file.set_permissions(std::fs::Permissions::from_mode(access.mode))
}

fn make_in(here: std::os::fd::BorrowedFd<'_>, name: &OsStr, access: Access) -> io::Result<OwnedFd> {
    mkdirat(here, name, Mode::from_bits_truncate(0o700))?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = File::from(openat(here, name, flags, Mode::empty())?);
    grant(&made, access)?;
    made.sync_all()?;
    File::from(openat(here, ".", flags, Mode::empty())?).sync_all()?;
    Ok(made.into())
}

fn kind(mode: nix::libc::mode_t) -> Kind {
    match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Folder,
        SFlag::S_IFLNK => Kind::Link,
        _ => Kind::Other,
    }
}

fn parts(path: &OsStr) -> impl DoubleEndedIterator<Item = OsString> {
    let parts: Vec<OsString> = Path::new(path)
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.to_owned()),
            std::path::Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect();
    parts.into_iter()
}

fn read_error(path: &Path, source: io::Error) -> TaskError {
    TaskError::Read { path: path.display().to_string(), source }
}

fn write_error(path: &Path, size: u64, source: io::Error) -> TaskError {
    TaskError::Write(AtomicError::from_io(path, size, source))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::tasks::tests::Rig;

    fn ours(rig: &Rig, mode: u32) -> Access {
        let (uid, gid) = accounts::root(&rig.node()).expect("look");
        Access { mode, uid, gid }
    }

    #[test]
    fn a_file_is_replaced_with_its_access() {
        let rig = Rig::new(&[("/srv/www/x", "old")]);
        let folder = Folder::open(&rig.node(), "/srv/www").expect("look").expect("there");
        folder.replace("x", &mut b"new".as_slice(), 3, ours(&rig, 0o640)).expect("write");
        assert_eq!(rig.text("/srv/www/x"), "new");
        assert_eq!(folder.entry("x").expect("look").expect("there").mode, 0o640);
        assert_eq!(fs::read_dir(rig.path("/srv/www")).expect("list").count(), 1, "nothing is left beside it");
        assert_eq!(folder.read("x").expect("read").as_deref(), Some(b"new".as_slice()));
        assert_eq!(folder.read("y").expect("read"), None);
    }

    #[test]
    fn roots_links_are_followed_below_the_root() {
        let rig = Rig::new(&[("/usr/lib/x", "here"), ("/run/y", "there")]);
        symlink("usr/lib", rig.path("/lib")).expect("link");
        fs::create_dir_all(rig.path("/var")).expect("var");
        symlink("../../../../run", rig.path("/var/run")).expect("link out, but for the root");
        symlink("/var/run", rig.path("/abs")).expect("absolute link");
        for (path, name, text) in [("/lib", "x", "here"), ("/var/run", "y", "there"), ("/abs", "y", "there")]
        {
            let folder = Folder::open(&rig.node(), path).expect(path).expect("there");
            assert_eq!(folder.read(name).expect("read").as_deref(), Some(text.as_bytes()), "{path}");
        }
        symlink("/loop", rig.path("/loop")).expect("a loop");
        let error = Folder::open(&rig.node(), "/loop").expect_err("endless");
        assert!(error.to_string().contains("loop"), "{error}");
    }

    #[test]
    fn somebody_elses_link_is_refused() {
        let rig = Rig::new(&[("/etc/passwd", "kept"), ("/home/x/.keep", "")]);
        symlink("/etc", rig.path("/home/x/.ssh")).expect("link");
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::lchown(rig.path("/home/x/.ssh"), Some(4711), Some(4711)).expect("theirs");
            let error = Folder::open(&rig.node(), "/home/x/.ssh").expect_err("theirs").explain();
            assert!(error.contains("a link of somebody else's") && error.contains("next: "), "{error}");
        }
        // The last step never follows a link, whosever it is.
        symlink("/etc/passwd", rig.path("/home/x/file")).expect("link");
        let folder = Folder::open(&rig.node(), "/home/x").expect("look").expect("there");
        assert_eq!(folder.entry("file").expect("look").expect("there").kind, Kind::Link);
        folder.read("file").expect_err("a link");
        folder
            .replace("file", &mut b"new".as_slice(), 3, ours(&rig, 0o600))
            .expect("replaces the link itself");
        assert_eq!(rig.text("/etc/passwd"), "kept");
    }

    #[test]
    fn what_is_missing_of_a_path_is_made() {
        let rig = Rig::new(&[]);
        assert!(Folder::open(&rig.node(), "/srv/a/b").expect("look").is_none());
        let folder = Folder::make(&rig.node(), "/srv/a/b", ours(&rig, 0o755)).expect("made");
        assert_eq!(folder.itself().expect("look").mode, 0o755);
        fs::write(rig.path("/srv/file"), "").expect("file");
        let error = Folder::make(&rig.node(), "/srv/file/x", ours(&rig, 0o755)).expect_err("a file");
        assert!(error.to_string().contains("`file` on the way to /srv/file/x is no folder"), "{error}");
    }
}
