//! A folder that is made whole beside its place before it is put there.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
};

/// A fresh folder of our own; dropped unsettled, nothing is left of it.
pub(super) struct Draft {
    dir: PathBuf,
    settled: bool,
}

impl Draft {
    /// Hidden, beside `place`.
    pub(super) fn beside(place: &Path) -> io::Result<Self> {
        let name = place.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
        let parent = parent(place);
        fs::create_dir_all(parent)?;
        for number in 0_u32.. {
            let dir = parent.join(format!(".{name}.{}-{number}.draft", process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(Self { dir, settled: false }),
                // Whoever made it, it is not ours.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// A new file in it, on the disk when this returns.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create_new(self.dir.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Puts it in its place, where nothing but an empty folder may be.
    pub(super) fn settle(mut self, place: &Path) -> io::Result<()> {
        sync(&self.dir)?;
        fs::rename(&self.dir, place)?;
        self.settled = true;
        sync(parent(place))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.settled {
            // Nobody takes it for a release: it has another name, and may lack its manifest.
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

fn parent(place: &Path) -> &Path {
    place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("read").file_name().into_string();
        fs::read_dir(dir).expect("there").map(|entry| name(entry).expect("text")).collect()
    }

    #[test]
    fn whole_in_its_place_or_nothing_is_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = dir.path().join("deep/out");
        let draft = Draft::beside(&place).expect("made");
        draft.write("a", b"one").expect("written");
        draft.write("a", b"two").expect_err("there already");
        assert!(!place.exists());
        drop(draft);
        assert!(names(place.parent().expect("one")).is_empty());

        let first = Draft::beside(&place).expect("made");
        let second = Draft::beside(&place).expect("another");
        first.write("a", b"one").expect("written");
        second.write("a", b"two").expect("written");
        first.settle(&place).expect("put there");
        second.settle(&place).expect_err("somebody was quicker");
        assert_eq!(fs::read(place.join("a")).expect("there"), b"one");
        assert_eq!(names(place.parent().expect("one")), ["out"]);
    }
}
