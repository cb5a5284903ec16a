//! The seam to the file system: every call that matters to what survives a power cut.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Calls on a file system.
pub trait Disk {
    /// A file being written.
    type File;

    /// Makes `path` an empty file with `mode`, whatever was there.
    fn create(&mut self, path: &Path, mode: u32) -> io::Result<Self::File>;
    /// Adds `bytes` to its end.
    fn write(&mut self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Returns when its content survives a power cut.
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;
    /// Gives `from` the name `to`, whatever was there.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name `path`; fine if there is none.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
    /// Makes a folder; fine if it is there.
    fn make_folder(&mut self, path: &Path) -> io::Result<()>;
    /// Returns when the names in `path` survive a power cut.
    fn sync_folder(&mut self, path: &Path) -> io::Result<()>;
    /// Opens `path` for reading; nothing if it is not there.
    fn open(&mut self, path: &Path) -> io::Result<Option<Box<dyn Read>>>;
    /// Bytes that may still be written below `path`.
    fn free(&mut self, path: &Path) -> io::Result<u64>;
}

/// Largest record read; a full state has some 5 KB.
const RECORD_MAX: u64 = 64 * 1024;

/// All of the small file `path`; nothing if it is not there.
pub fn read(disk: &mut impl Disk, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = disk.open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(RECORD_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Puts `bytes` at `path`, whole or not at all: after a power cut at any point there is the old file or the new.
pub fn replace(disk: &mut impl Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_as(disk, path, bytes, 0o644)
}

/// The same with another mode.
pub fn replace_as(disk: &mut impl Disk, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = beside(path);
    let written = (|| {
        let mut file = disk.create(&new, mode)?;
        disk.write(&mut file, bytes)?;
        disk.sync(&mut file)?;
        disk.rename(&new, path)
    })();
    if let Err(error) = written {
        // What is left over takes space that a full disk has not.
        let _ = disk.remove(&new);
        return Err(error);
    }
    disk.sync_folder(folder(path))
}

/// Where the next content of `path` is written.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// The folder `path` is in.
pub fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The host's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl Disk for Host {
    type File = File;

    fn create(&mut self, path: &Path, mode: u32) -> io::Result<File> {
        // Never through a name that somebody else may have prepared or still holds open.
        self.remove(path)?;
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
    }

    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&mut self, file: &mut File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(path)
    }

    fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn open(&mut self, path: &Path) -> io::Result<Option<Box<dyn Read>>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn free(&mut self, path: &Path) -> io::Result<u64> {
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: all bits zero is a value of this plain struct; the call fills it from a path that ends in zero.
        let mut about: libc::statvfs = unsafe { std::mem::zeroed() };
        if unsafe { libc::statvfs(path.as_ptr(), &mut about) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }
}
