//! Files that survive `kill -9` and a power cut: whole-file replacement and an append-only log.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};
use serde::{Serialize, de::DeserializeOwned};

/// Replaces a file in one step: written beside it, flushed, renamed, folder flushed.
///
/// # Errors
/// Whatever the file system says; the old content is then still there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) => flush_folder(parent),
        None => Ok(()),
    }
}

/// [`replace`] with a value as JSON.
///
/// # Errors
/// See [`replace`].
pub fn replace_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec(value).map_err(io::Error::other)?)
}

/// Reads what [`replace_json`] wrote.
///
/// # Errors
/// The file cannot be read or is not what was written.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let text = fs::read(path)?;
    serde_json::from_slice(&text).map_err(|why| io::Error::other(format!("{}: {why}", path.display())))
}

fn flush_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Runs file work without holding up the other tasks of this worker thread.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A log of entries, each flushed before it counts. A torn last entry is cut off on opening.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

/// Characters of the check sum before each entry; 64 bits find any torn write.
const SUM: usize = 16;

impl Log {
    /// Opens or creates a log and returns its entries.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open<T: DeserializeOwned>(path: &Path) -> io::Result<(Self, Vec<T>)> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut entries = Vec::new();
        let mut length = 0;
        while let Some(end) = bytes[length..].iter().position(|byte| *byte == b'\n') {
            let Some(entry) = read_line(&bytes[length..length + end]) else { break };
            entries.push(entry);
            length += end + 1;
        }
        let length = length as u64;
        file.set_len(length)?;
        file.sync_all()?;
        if let Some(parent) = path.parent() {
            flush_folder(parent)?;
        }
        Ok((Self { path: path.to_owned(), file, length }, entries))
    }

    /// Adds an entry; it is on disk when this returns.
    ///
    /// # Errors
    /// Nothing was added. If not even that can be made sure, every later call fails too.
    pub fn append<T: Serialize>(&mut self, entry: &T) -> io::Result<()> {
        let text = serde_json::to_vec(entry).map_err(io::Error::other)?;
        let mut line = sum(&text).into_bytes();
        line.extend_from_slice(&text);
        line.push(b'\n');
        let written = self
            .file
            .seek(SeekFrom::Start(self.length))
            .and_then(|_| self.file.write_all(&line))
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.length += line.len() as u64;
                Ok(())
            }
            Err(why) => {
                // Half an entry must not come back at the next start.
                self.file.set_len(self.length)?;
                self.file.sync_data()?;
                Err(why)
            }
        }
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Removes the log's file.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn sum(text: &[u8]) -> String {
    let whole = digest(&SHA256, text);
    whole.as_ref()[..SUM / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_line<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (expected, text) = line.split_at_checked(SUM)?;
    if sum(text).as_bytes() != expected {
        return None;
    }
    serde_json::from_slice(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_entry_is_cut_off_and_the_rest_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        let (mut log, none) = Log::open::<u32>(&path).expect("opens");
        assert!(none.is_empty());
        for entry in [1_u32, 22, 333] {
            log.append(&entry).expect("appends");
        }
        let whole = fs::read(&path).expect("reads");
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).expect("writes");
            let (mut log, entries) = Log::open::<u32>(&path).expect("opens");
            assert_eq!(entries, [1, 22, 333][..entries.len()], "cut at {cut}");
            let survivors = entries.len();
            log.append(&4_u32).expect("appends after a cut");
            let (_, entries) = Log::open::<u32>(&path).expect("opens again");
            assert_eq!(entries.len(), survivors + 1, "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_log() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        let (mut log, _) = Log::open::<u32>(&path).expect("opens");
        log.append(&1_u32).and_then(|()| log.append(&2_u32)).expect("appends");
        let mut whole = fs::read(&path).expect("reads");
        let last = whole.len() - 2;
        whole[last] ^= 1;
        fs::write(&path, whole).expect("writes");
        assert_eq!(Log::open::<u32>(&path).expect("opens").1, [1]);
    }
}
