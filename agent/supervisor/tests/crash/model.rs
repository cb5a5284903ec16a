//! A disk that forgets: what was not synced may be lost at a power cut, in every combination.
//!
//! Stricter than any file system in use: each unsynced change of a folder is lost or kept on its own, whatever its order,
//! and an unsynced file comes back old, cut in half, full of zeros, or whole. Renaming is atomic, as POSIX has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::{Path, PathBuf},
};

use fleet_supervisor::disk::Disk;

/// What a disk holds after a power cut: files with their bytes, and folders.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image {
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    pub folders: BTreeSet<PathBuf>,
}

/// What goes wrong, and at which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    /// The power goes at this call; a write gets half way.
    Cut(usize),
    /// From this call on no byte more can be written.
    Full(usize),
    /// This one call fails, with nothing done.
    Error(usize),
    /// This one file cannot be opened for reading.
    Unread(usize),
    /// This file cannot be read any more, until another takes its name.
    Broken(&'static str),
}

#[derive(Clone, Debug)]
struct Inode {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Change {
    Name(PathBuf, usize),
    Move(PathBuf, PathBuf, usize),
    Gone(PathBuf),
    Folder(PathBuf),
}

impl Change {
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Name(path, _) | Self::Move(_, path, _) | Self::Gone(path) | Self::Folder(path) => {
                path.parent()
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>, folders: &mut BTreeSet<PathBuf>) {
        match self {
            Self::Name(path, inode) => drop(names.insert(path.clone(), *inode)),
            Self::Move(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Self::Gone(path) => drop(names.remove(path)),
            Self::Folder(path) => drop(folders.insert(path.clone())),
        }
    }
}

pub struct Model {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    folders: BTreeSet<PathBuf>,
    durable_folders: BTreeSet<PathBuf>,
    pending: Vec<Change>,
    fault: Fault,
    /// How many files there were at first.
    first: usize,
    /// Calls that change something, so far.
    pub calls: usize,
    /// Files opened for reading, so far.
    pub reads: usize,
}

impl Model {
    pub fn new(image: &Image, fault: Fault) -> Self {
        let inodes = image.files.values().map(|bytes| Inode { now: bytes.clone(), synced: bytes.clone() });
        let names: BTreeMap<PathBuf, usize> = image.files.keys().cloned().zip(0..).collect();
        Self {
            first: image.files.len(),
            inodes: inodes.collect(),
            durable: names.clone(),
            names,
            folders: image.folders.clone(),
            durable_folders: image.folders.clone(),
            pending: Vec::new(),
            fault,
            calls: 0,
            reads: 0,
        }
    }

    /// Whether the power is gone.
    pub fn dark(&self) -> bool {
        matches!(self.fault, Fault::Cut(at) if self.calls > at)
    }

    /// Whether one of the last two reads failed: one look is two.
    pub fn unread(&self) -> bool {
        matches!(self.fault, Fault::Unread(at) if (at + 1..=at + 2).contains(&self.reads))
    }

    fn call(&mut self, writes: bool) -> io::Result<()> {
        self.calls += 1;
        let call = self.calls - 1;
        match self.fault {
            Fault::Cut(at) if call >= at => Err(io::Error::other("no power")),
            Fault::Full(at) if call >= at && writes => Err(io::ErrorKind::StorageFull.into()),
            Fault::Error(at) if call == at => Err(io::Error::other("input/output error")),
            _ => Ok(()),
        }
    }

    /// As it stands, with everything done.
    pub fn image(&self) -> Image {
        let files = self.names.iter().map(|(path, inode)| (path.clone(), self.inodes[*inode].now.clone()));
        Image { files: files.collect(), folders: self.folders.clone() }
    }

    /// All that may be found after the power went now.
    pub fn after_cut(&self) -> BTreeSet<Image> {
        let n = self.pending.len();
        assert!(n <= 12, "{n} unsynced changes of folders at once: too much to try all");
        let mut images = BTreeSet::new();
        for kept in 0..1_u32 << n {
            let (mut names, mut folders) = (self.durable.clone(), self.durable_folders.clone());
            for (bit, change) in self.pending.iter().enumerate() {
                if kept >> bit & 1 == 1 {
                    change.apply(&mut names, &mut folders);
                }
            }
            names.retain(|path, _| path.parent().is_some_and(|folder| folders.contains(folder)));
            let mut found = vec![Image { files: BTreeMap::new(), folders }];
            for (path, inode) in &names {
                // What is left beside a file is never read, only removed: one content stands for all.
                let left = path.extension().is_some_and(|end| end == "new");
                let contents = if left { [Vec::new()].into() } else { self.contents(*inode) };
                found = found
                    .into_iter()
                    .flat_map(|image| contents.iter().map(move |bytes| (image.clone(), bytes.clone())))
                    .map(|(mut image, bytes)| {
                        image.files.insert(path.clone(), bytes);
                        image
                    })
                    .collect();
            }
            images.extend(found);
        }
        images
    }

    fn contents(&self, inode: usize) -> BTreeSet<Vec<u8>> {
        let Inode { now, synced } = &self.inodes[inode];
        if now == synced {
            return [now.clone()].into();
        }
        [synced.clone(), now[..now.len() / 2].to_vec(), vec![0; now.len()], now.clone()].into()
    }
}

impl Disk for Model {
    type File = usize;

    fn create(&mut self, path: &Path, _: u32) -> io::Result<usize> {
        // As on the host: remove, then make anew.
        self.remove(path)?;
        self.call(true)?;
        if !path.parent().is_some_and(|folder| self.folders.contains(folder)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = self.inodes.len();
        self.inodes.push(Inode { now: Vec::new(), synced: Vec::new() });
        self.names.insert(path.to_owned(), inode);
        self.pending.push(Change::Name(path.to_owned(), inode));
        Ok(inode)
    }

    fn write(&mut self, file: &mut usize, bytes: &[u8]) -> io::Result<()> {
        let done = self.call(true);
        let most = match (&done, self.fault) {
            (Ok(()), _) => bytes.len(),
            // The call that meets the end of power or space gets half way.
            (Err(_), Fault::Cut(at) | Fault::Full(at)) if self.calls == at + 1 => bytes.len() / 2,
            _ => 0,
        };
        self.inodes[*file].now.extend_from_slice(&bytes[..most]);
        done
    }

    fn sync(&mut self, file: &mut usize) -> io::Result<()> {
        self.call(false)?;
        let inode = &mut self.inodes[*file];
        inode.synced.clone_from(&inode.now);
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(false)?;
        let inode = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.names.insert(to.to_owned(), inode);
        self.pending.push(Change::Move(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.call(false)?;
        if self.names.remove(path).is_some() {
            self.pending.push(Change::Gone(path.to_owned()));
        }
        Ok(())
    }

    fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        self.call(true)?;
        if self.folders.insert(path.to_owned()) {
            self.pending.push(Change::Folder(path.to_owned()));
        }
        Ok(())
    }

    fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        self.call(false)?;
        let (here, elsewhere): (Vec<Change>, Vec<Change>) =
            self.pending.drain(..).partition(|change| change.folder() == Some(path));
        here.iter().for_each(|change| change.apply(&mut self.durable, &mut self.durable_folders));
        self.pending = elsewhere;
        Ok(())
    }

    fn open(&mut self, path: &Path) -> io::Result<Option<Box<dyn Read>>> {
        if self.dark() {
            return Err(io::Error::other("no power"));
        }
        self.reads += 1;
        if self.fault == Fault::Unread(self.reads - 1) {
            return Err(io::Error::other("input/output error"));
        }
        if let Fault::Broken(broken) = self.fault
            && path == Path::new(broken)
            && self.names.get(path).is_some_and(|inode| *inode < self.first)
        {
            return Err(io::Error::other("structure needs cleaning"));
        }
        let bytes = self.names.get(path).map(|inode| self.inodes[*inode].now.clone());
        Ok(bytes.map(|bytes| Box::new(io::Cursor::new(bytes)) as Box<dyn Read>))
    }

    fn free(&mut self, _: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
}
