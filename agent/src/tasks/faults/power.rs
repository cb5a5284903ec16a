//! A disk that forgets what was not put on it: the sandbox's own power cut.
//!
//! `fsync` of this test program is ours: in a thread that asks for it, it notes what is on the disk from then on: of a file
//! its contents, of a folder its entries, each by inode number as the kernel does. That is all the kernel promises, so
//! that a cut at the nth `fsync` is tried twice: with everything lost that was not synced, and with the names in place
//! and the contents lost, as file systems leave them that write names down before contents.
//!
//! Programs other than ours (apt, useradd, systemctl) sync what they write; ssh-keygen and `rethinkdb create` are taken
//! not to.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, FileType},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use crate::tasks::support::fake::Debian;

/// What happens at a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    /// The power goes: what was not synced is gone.
    Cut,
    /// The power goes: names that were not synced are there, of files that are empty.
    CutBehindNames,
    /// The agent is killed: all is there that the kernel had heard of.
    Death,
    /// The disk does not take it.
    Error,
}

thread_local! {
    /// Whether sandboxes of this thread have a disk of ours, so that the real one need not be waited for.
    static FORGETFUL: Cell<bool> = const { Cell::new(false) };
    /// The one that is watched.
    static DISK: RefCell<Option<Disk>> = const { RefCell::new(None) };
}

/// Takes the place of libc's in the whole test program.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: libc::c_int) -> libc::c_int {
    if FORGETFUL.try_with(Cell::get).unwrap_or(false) {
        return if note(fd) {
            0
        } else {
            nix::errno::Errno::EIO.set();
            -1
        };
    }
    // SAFETY: the system call takes a number and refuses one that is no descriptor.
    let done = unsafe { libc::syscall(libc::SYS_fsync, fd) };
    libc::c_int::try_from(done).unwrap_or(-1)
}

/// Whether the disk has it.
fn note(fd: libc::c_int) -> bool {
    DISK.with(|disk| match disk.try_borrow_mut() {
        Ok(mut disk) => {
            disk.as_mut().is_none_or(|disk| disk.synced(&PathBuf::from(format!("/proc/self/fd/{fd}"))))
        }
        // Borrowed already: by ourselves, looking at the sandbox.
        Err(_) => true,
    })
}

struct Disk {
    root: PathBuf,
    /// What is on it, by inode number.
    inodes: BTreeMap<u64, Inode>,
    strike: Strike,
    /// How many times something is synced before it strikes.
    syncs: usize,
    has_struck: bool,
    debian: Arc<Debian>,
}

struct Inode {
    holds: Holds,
    mode: u32,
    owner: (u32, u32),
    modified: SystemTime,
    /// As long as it is open, nobody else gets its number.
    _open: Option<File>,
}

#[derive(Clone)]
enum Holds {
    File(Vec<u8>),
    Folder(BTreeMap<OsString, u64>),
    Link(PathBuf),
}

/// From now on nothing in this thread is really synced, only noted.
pub(super) fn be_forgetful() {
    FORGETFUL.set(true);
}

/// Watches the node below `root`; it is struck at the nth sync from now on.
pub(super) fn watch(root: &Path, debian: &Arc<Debian>, nth: usize, strike: Strike) {
    let mut disk = Disk {
        root: root.to_owned(),
        inodes: BTreeMap::new(),
        strike,
        syncs: nth,
        has_struck: false,
        debian: debian.clone(),
    };
    walk(root, &mut |path| disk.adopt(path));
    DISK.with(|slot| *slot.borrow_mut() = Some(disk));
}

/// Ends the watch; the node is as it is after what struck it. Whether something did before all was done.
pub(super) fn is_over() -> bool {
    let mut disk = DISK.with(|slot| slot.borrow_mut().take()).expect("watched");
    let has_struck = disk.has_struck;
    match (disk.strike, has_struck) {
        (Strike::Error, _) | (Strike::Death, false) => (),
        _ => {
            disk.keep_names();
            disk.restore();
        }
    }
    has_struck
}

/// What there is before a program runs: path, inode number and contents. Empty if nobody watches.
pub(crate) fn before() -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    DISK.with(|slot| slot.borrow().as_ref().map(Disk::seen).unwrap_or_default())
}

/// What the program changed since then is on the disk.
pub(crate) fn after(before: &BTreeMap<PathBuf, (u64, Vec<u8>)>) {
    DISK.with(|slot| {
        if let Some(disk) = slot.borrow_mut().as_mut().filter(|disk| !disk.has_struck) {
            disk.changed_since(before);
        }
    });
}

fn walk(path: &Path, each: &mut dyn FnMut(&Path)) {
    each(path);
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        for entry in fs::read_dir(path).expect("a folder of the sandbox").flatten() {
            walk(&entry.path(), each);
        }
    }
}

fn number(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("there").ino()
}

impl Inode {
    /// What is there now; of a file that was never synced nothing but that there is one.
    fn of(path: &Path, synced: bool) -> Option<Self> {
        let meta = fs::symlink_metadata(path).ok()?;
        let kind: FileType = meta.file_type();
        let holds = if kind.is_dir() {
            Holds::Folder(BTreeMap::new())
        } else if kind.is_symlink() {
            Holds::Link(fs::read_link(path).ok()?)
        } else if kind.is_file() {
            Holds::File(if synced { fs::read(path).ok()? } else { Vec::new() })
        } else {
            assert!(!kind.is_socket() && !kind.is_fifo(), "the sandbox has plain files");
            return None;
        };
        Some(Self {
            holds,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            modified: meta.modified().ok()?,
            _open: File::open(path).ok(),
        })
    }
}

impl Disk {
    /// Whether it is on the disk now.
    fn synced(&mut self, path: &Path) -> bool {
        let real = fs::canonicalize(path).ok().filter(|real| real.starts_with(&self.root));
        let Some(real) = real.filter(|_| !self.has_struck) else { return true };
        self.syncs -= 1;
        if self.syncs == 0 && self.strike == Strike::Error {
            self.has_struck = true;
            return false;
        }
        if real.is_dir() {
            self.keep_entries(&real);
        } else if let Some(inode) = Inode::of(&real, true) {
            self.inodes.insert(number(&real), inode);
        }
        if self.syncs == 0 {
            self.keep_names();
            self.has_struck = true;
            self.debian.loses_power();
        }
        true
    }

    /// The entries of a folder as they are, of whatever has been synced of what they name.
    fn keep_entries(&mut self, folder: &Path) {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(folder).expect("a folder of the sandbox").flatten() {
            let at = number(&entry.path());
            if !self.inodes.contains_key(&at)
                && let Some(inode) = Inode::of(&entry.path(), false)
            {
                self.inodes.insert(at, inode);
            }
            entries.insert(entry.file_name(), at);
        }
        if let Some(inode) = Inode::of(folder, true) {
            self.inodes.insert(number(folder), Inode { holds: Holds::Folder(entries), ..inode });
        }
    }

    /// What is there beside what was synced.
    fn keep_names(&mut self) {
        if self.has_struck {
            return;
        }
        if self.strike == Strike::Death {
            self.inodes.clear();
            let root = self.root.clone();
            walk(&root, &mut |path| self.adopt(path));
        }
        if self.strike == Strike::CutBehindNames {
            let mut folders = Vec::new();
            walk(&self.root, &mut |path| {
                if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
                    folders.push(path.to_owned());
                }
            });
            folders.iter().for_each(|folder| self.keep_entries(folder));
        }
    }

    fn seen(&self) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
        let mut seen = BTreeMap::new();
        walk(&self.root, &mut |path| {
            let bytes = if path.is_file() { fs::read(path).unwrap_or_default() } else { Vec::new() };
            seen.insert(path.to_owned(), (number(path), bytes));
        });
        seen
    }

    fn changed_since(&mut self, before: &BTreeMap<PathBuf, (u64, Vec<u8>)>) {
        let now = self.seen();
        for (path, _) in now.iter().filter(|(path, found)| before.get(*path) != Some(found)) {
            self.adopt(path);
        }
        for path in before.keys().filter(|path| !now.contains_key(*path)) {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            if parent.exists()
                && let Some(Inode { holds: Holds::Folder(entries), .. }) =
                    self.inodes.get_mut(&number(parent))
            {
                entries.remove(name);
            }
        }
    }

    /// It is on the disk as it is now, under its name; a folder keeps the entries it has there.
    fn adopt(&mut self, path: &Path) {
        let at = number(path);
        let Some(mut inode) = Inode::of(path, true) else { return };
        if let (Holds::Folder(entries), Some(Inode { holds: Holds::Folder(old), .. })) =
            (&mut inode.holds, self.inodes.get(&at))
        {
            entries.clone_from(old);
        }
        self.inodes.insert(at, inode);
        if path == self.root {
            return;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        if !self.inodes.contains_key(&number(parent))
            && let Some(inode) = Inode::of(parent, true)
        {
            self.inodes.insert(number(parent), inode);
        }
        if let Some(Inode { holds: Holds::Folder(entries), .. }) = self.inodes.get_mut(&number(parent)) {
            entries.insert(name.to_owned(), at);
        }
    }

    fn restore(&self) {
        for entry in fs::read_dir(&self.root).expect("the root").flatten() {
            let gone = if entry.file_type().expect("its kind").is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            gone.expect("the sandbox is ours");
        }
        self.lay(number(&self.root), &self.root);
    }

    fn lay(&self, at: u64, path: &Path) {
        let inode = &self.inodes[&at];
        match &inode.holds {
            Holds::Link(target) => return symlink(target, path).expect("link"),
            Holds::File(bytes) => {
                fs::write(path, bytes).expect("file");
                let file = File::options().write(true).open(path).expect("file");
                file.set_modified(inode.modified).expect("time");
            }
            Holds::Folder(entries) => {
                if path != self.root {
                    fs::create_dir(path).expect("folder");
                }
                entries.iter().for_each(|(name, at)| self.lay(*at, &path.join(name)));
            }
        }
        let (uid, gid) = inode.owner;
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("its owner");
        fs::set_permissions(path, fs::Permissions::from_mode(inode.mode)).expect("mode");
    }
}
