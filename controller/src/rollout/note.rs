//! Word left for a controller that does not run: the line is stopped. It takes that into its store before it does
//! anything else.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::archive::{Archive, LineRecord};
use crate::records::RecordError;

/// In the controller's folder.
const FILE: &str = "line.json";

#[derive(Serialize, Deserialize)]
struct Note {
    by: String,
    reason: String,
}

/// Leaves word in a controller's folder.
///
/// # Errors
/// The file cannot be written.
pub fn leave(dir: &Path, by: &str, reason: &str) -> io::Result<()> {
    let draft = dir.join(format!("{FILE}.new"));
    let note = Note { by: by.to_owned(), reason: reason.to_owned() };
    fs::write(&draft, serde_json::to_vec(&note).map_err(io::Error::other)?)?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(draft, dir.join(FILE))
}

/// Takes it back.
///
/// # Errors
/// The file cannot be removed.
pub fn withdraw(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(FILE)) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

/// Takes what was left into the store. A note that cannot be read stops the line too: somebody wanted that.
///
/// # Errors
/// [`RecordError`] if the store fails; the note stays then.
pub async fn adopt(dir: &Path, archive: &Archive) -> Result<(), RecordError> {
    let Ok(text) = fs::read(dir.join(FILE)) else { return Ok(()) };
    let note = serde_json::from_slice(&text)
        .unwrap_or_else(|_| Note { by: "operator".to_owned(), reason: format!("{FILE} cannot be read") });
    let reason = if note.reason.trim().is_empty() { "no reason was given".to_owned() } else { note.reason };
    let at = archive.records().store().clock().now();
    archive.set_line(Some(&LineRecord { by: note.by, reason, at })).await?;
    if let Err(why) = withdraw(dir) {
        tracing::warn!(%why, "word of the stopped line stays, and stops it again at the next start");
    }
    Ok(())
}
