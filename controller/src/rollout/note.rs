//! Word left for a controller, in its folder: the line is stopped. One that starts takes it into its store before it does
//! anything else; one that runs, at its next look. It is there until that is done.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::archive::{Archive, LineRecord};
use crate::{
    home::{HomeError, write},
    records::RecordError,
};

/// In the controller's folder.
const FILE: &str = "line.json";

/// What was left.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) by: String,
    pub(super) reason: String,
}

/// Leaves word in a controller's folder; once this returns, a power cut does not take it back.
///
/// # Errors
/// The file cannot be written.
pub fn leave(dir: &Path, by: &str, reason: &str) -> Result<(), HomeError> {
    write(&dir.join(FILE), &Note { by: by.to_owned(), reason: reason.to_owned() })
}

/// Takes it back, likewise for good.
///
/// # Errors
/// The file cannot be removed.
pub fn withdraw(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(FILE)) {
        Ok(()) => File::open(dir)?.sync_all(),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(why),
    }
}

/// Whether word is there that nobody has taken yet. What cannot be looked at may be.
pub fn waits(dir: &Path) -> bool {
    dir.join(FILE).try_exists().unwrap_or(true)
}

/// What was left, if anything was. What cannot be read stops the line too: somebody wanted that.
pub(super) fn read(dir: &Path) -> Option<Note> {
    let unread = |why: &dyn std::fmt::Display| Note {
        by: "operator".to_owned(),
        reason: format!("{FILE} cannot be read: {why}"),
    };
    match fs::read(dir.join(FILE)) {
        Ok(text) => Some(serde_json::from_slice(&text).unwrap_or_else(|why| unread(&why))),
        Err(why) if why.kind() == io::ErrorKind::NotFound => None,
        Err(why) => Some(unread(&why)),
    }
}

/// Takes what was left into the store, before anybody drives.
///
/// # Errors
/// [`RecordError`] if the store fails; the note stays then.
pub async fn adopt(dir: &Path, archive: &Archive) -> Result<(), RecordError> {
    let Some(Note { by, reason }) = read(dir) else { return Ok(()) };
    let at = archive.records().store().clock().now();
    archive.set_line(Some(&LineRecord::new(&by, &reason, at))).await?;
    taken(dir);
    Ok(())
}

/// It is in the store now.
pub(super) fn taken(dir: &Path) {
    if let Err(why) = withdraw(dir) {
        tracing::warn!(%why, "word of the stopped line stays in {}, and stops it again", dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_stops_the_line_too() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!((read(dir.path()), waits(dir.path())), (None, false));
        leave(dir.path(), "ops", "a doubt").expect("left");
        assert!(waits(dir.path()));
        let note = Note { by: "ops".to_owned(), reason: "a doubt".to_owned() };
        assert_eq!(read(dir.path()), Some(note));
        fs::write(dir.path().join(FILE), "{").expect("damaged");
        let damaged = read(dir.path()).expect("somebody wanted that");
        assert!(damaged.reason.starts_with("line.json cannot be read: "), "{damaged:?}");
        withdraw(dir.path()).expect("taken back");
        withdraw(dir.path()).expect("again is fine");
        fs::create_dir(dir.path().join(FILE)).expect("what no read reads");
        assert!(read(dir.path()).is_some() && waits(dir.path()));
        withdraw(dir.path()).expect_err("that it is there still is said");
    }
}
