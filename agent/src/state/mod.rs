//! What the agent remembers on disk, in which form, and how one version takes over from another.
//!
//! # Two kinds of files, below `/var/lib/fleet-agent`
//!
//! | what | files | when an older version comes back |
//! |---|---|---|
//! | the *work*: what the node is to be, what was being done about it | `desired`, `journal.json` | as it was when that version left |
//! | the *identity* | `key`, `key-…`, `credentials.json` | never put back: a key or certificate given since is the only one the controller still takes |
//! | *releases*: whom they are taken from, the highest accepted, the newest order | `release/…` | never put back: trust that could be rolled back would be no trust, and an order done would be done again |
//! | how agents *ended*, whatever their version | `running`, `crashes` | stays |
//! | what was fetched | `artifacts/`, `release/packed/` | stays; named by digest, and fetched again at need |
//!
//! Only the work has a *schema*, a number that rises whenever an older agent would misread what a newer one writes. The
//! other kinds only ever grow members that older versions leave alone. [`FORMS`] is the one place that says which schema
//! this agent writes and how it gets there from older ones.
//!
//! # Taking over
//!
//! Each schema has its own folder (that of the first is the agent's own, that of schema 2 is `work-2`), and the file
//! `schema` says which one counts and who wrote it last. A newer agent writes the converted work beside the old, synced,
//! having looked whether there is room, and then replaces `schema` in one step. The old work stays untouched: it is the
//! copy. Whatever is cut, either the old work counts, whole, or the new.
//!
//! Where nothing is to be converted, the marker says who was here and no more: on a disk that takes no byte the agent
//! works on without it, says so, and tries again before it asks for another version ([`sign`]). A version that could not
//! start for that would leave the node with none.
//!
//! An agent that finds a newer schema takes its own work back only if it is, by digest, the very program that left it;
//! that is again one step. Any other one says so in one line and ends, which the supervisor counts as a start that failed.
//!
//! What the node is to be may have changed since: an older desired state would undo that until a controller says so
//! again. So the first newer generation that is accepted outdates the one in the copy ([`Places::outdate`]), and the
//! version that comes back holds none: it leaves the node as it is and asks. The journal of the copy knows nothing of what
//! was done since; every task looks before it moves, so that costs another look.
//!
//! # The file `schema`
//!
//! Frozen, since any version must be able to read it. Lines that are not known are left alone.
//!
//! ```text
//! fleet-agent-state 1
//! schema 2
//! writer <SHA-256 of the program that wrote it last, or `-`>
//! before 1 <SHA-256 of the program whose work the copy is, or `-`>
//! ```

mod marker;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use fleet_supervisor::{
    agent::Supervised,
    digest::Digest,
    disk::{self, Disk, Host},
    slots::Slots,
};

use crate::Places;
use marker::{Before, Marker};

/// The forms of this agent's work.
const FORMS: Forms<'static> = Forms { schema: 1, steps: &[] };

/// What belongs to the work.
pub(crate) const DESIRED: &str = "desired";
pub(crate) const JOURNAL: &str = "journal.json";
const WORK: [&str; 2] = [DESIRED, JOURNAL];

/// Only its owner can read what the agent remembers.
const MODE: u32 = 0o600;
/// Room left for folder entries, the marker, and rounding up to blocks.
const MARGIN: u64 = 256 * 1024;

/// The schema that is written, and the way to it.
#[derive(Clone, Copy, Debug)]
struct Forms<'a> {
    schema: u32,
    /// In order.
    steps: &'a [Step],
}

/// From one schema to the next.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// The schema it leads to.
    to: u32,
    /// What a file of this name becomes, or why it cannot.
    convert: fn(&str, Vec<u8>) -> Result<Vec<u8>, String>,
}

/// Where the work is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) folder: PathBuf,
    /// Where that of the version before is.
    pub(crate) copy: Option<PathBuf>,
}

/// Why the agent cannot use what it remembers.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Written by a version that came later.
    #[error(
        "what this agent remembers has schema {found}, and this agent, version {}, knows {known} at most; it was written \
         by the agent {writer}: start that one again, or delete {} to begin anew (the identity stays, and the \
         controller says again what is to be done)",
        crate::VERSION, path.display()
    )]
    Newer {
        /// As found.
        found: u32,
        /// The highest known.
        known: u32,
        /// SHA-256 of who wrote it.
        writer: String,
        /// The file that says so.
        path: PathBuf,
    },
    /// No room for the old and the new.
    #[error(
        "no room to take over what the version before remembers: {needed} bytes are needed below {}, {free} are free; \
         free some space on the node (`df -h`, `apt clean`)", path.display()
    )]
    Room {
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// The folder.
        path: PathBuf,
    },
    /// What the version before remembers is not what it should be.
    #[error("take over {} from schema {from}: {why}", path.display())]
    Convert {
        /// The file.
        path: PathBuf,
        /// The schema it has.
        from: u32,
        /// What is wrong.
        why: String,
    },
    /// The disk refused.
    #[error("{what} {}", path.display())]
    Disk {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Finds the work of this agent, taking over that of another version where there is one.
///
/// # Errors
/// [`StateError`]; what is on disk is as it was.
pub(crate) fn take(places: Places, own: Option<Digest>) -> Result<Places, StateError> {
    let work = open(&mut Host, &places.state(), &FORMS, own)?;
    Ok(places.with_work(work))
}

/// Notes that this program works here, where that could not be noted when it began: a version that comes after it and has
/// another schema may only so be left for it again.
///
/// # Errors
/// [`StateError`]; what is on disk is as it was.
pub(crate) fn sign(places: &Places, own: Option<Digest>) -> Result<(), StateError> {
    note(&mut Host, &places.state(), FORMS.schema, own)
}

fn note<D: Disk>(disk: &mut D, folder: &Path, schema: u32, own: Option<Digest>) -> Result<(), StateError> {
    let found = read(disk, &path(folder))?.as_deref().and_then(Marker::decode);
    let before = found.as_ref().and_then(|marker| marker.before);
    let marker = Marker { schema, writer: own, before };
    match found == Some(marker.clone()) {
        true => Ok(()),
        false => write(disk, &path(folder), &marker.encode()),
    }
}

/// Of the program that runs; none if that cannot be known.
pub(crate) fn digest(supervised: Option<&Supervised>) -> Option<Digest> {
    let Some(Supervised { slots, slot, trial }) = supervised else {
        let file = std::fs::File::open("/proc/self/exe").ok()?;
        return Digest::of_all(file).ok().map(|(digest, _)| digest);
    };
    let known =
        || Slots::new(slots, Host).load().ok().flatten()?.content(*slot).map(|content| content.digest);
    trial.or_else(known)
}

fn open<D: Disk>(
    disk: &mut D,
    folder: &Path,
    forms: &Forms<'_>,
    own: Option<Digest>,
) -> Result<Work, StateError> {
    let found = read(disk, &path(folder))?;
    let known = found.as_deref().and_then(Marker::decode);
    let marker = match known.clone() {
        Some(marker) => marker,
        None => {
            if found.is_some() {
                tracing::warn!(path = %path(folder).display(), "is damaged; going by the folders there are");
            }
            let marker = Marker { schema: newest(disk, folder, forms.schema)?, writer: None, before: None };
            if marker.schema != forms.schema {
                // Before anything else, so that a folder half filled is never taken for one that counts.
                write(disk, &path(folder), &marker.encode())?;
            }
            marker
        }
    };
    let marker = match marker.schema.cmp(&forms.schema) {
        std::cmp::Ordering::Less => convert(disk, folder, forms, &marker, own)?,
        std::cmp::Ordering::Greater => give_back(disk, folder, forms, &marker, own)?,
        std::cmp::Ordering::Equal => {
            let marker = Marker { writer: own, ..marker };
            if known.as_ref() != Some(&marker)
                && let Err(error) = write(disk, &path(folder), &marker.encode())
            {
                // Nothing is lost by that; a version that ended for it would leave the node with none.
                tracing::warn!(
                    error = fleet_model::chain(&error),
                    "which program works here cannot be noted; free some space on the node (`df -h`, `apt clean`)"
                );
            }
            marker
        }
    };
    Ok(Work {
        folder: place(folder, marker.schema),
        copy: marker.before.map(|before| place(folder, before.schema)),
    })
}

/// The highest schema this agent knows that has left something.
fn newest<D: Disk>(disk: &mut D, folder: &Path, known: u32) -> Result<u32, StateError> {
    for schema in (1..=known).rev() {
        for name in WORK {
            let path = place(folder, schema).join(name);
            let file = disk.open(&path).map_err(|source| StateError::Disk { what: "read", path, source })?;
            if file.is_some() {
                return Ok(schema);
            }
        }
    }
    Ok(known)
}

/// Writes the work in the newest form beside the old, then has it count.
fn convert<D: Disk>(
    disk: &mut D,
    folder: &Path,
    forms: &Forms<'_>,
    found: &Marker,
    own: Option<Digest>,
) -> Result<Marker, StateError> {
    let (from, to) = (place(folder, found.schema), place(folder, forms.schema));
    let mut work = Vec::new();
    for name in WORK {
        let path = from.join(name);
        let mut bytes = read(disk, &path)?;
        for step in forms.steps.iter().filter(|step| step.to > found.schema) {
            let converted = bytes.map(|bytes| (step.convert)(name, bytes)).transpose();
            let broken = |why| StateError::Convert { path: path.clone(), from: found.schema, why };
            bytes = converted.map_err(broken)?;
        }
        work.push((to.join(name), bytes));
    }
    let size: u64 = work.iter().flat_map(|(_, bytes)| bytes).map(|bytes| bytes.len() as u64).sum();
    let unknown = |source| StateError::Disk { what: "look at", path: folder.to_owned(), source };
    let (needed, free) = (size + MARGIN, disk.free(folder).map_err(unknown)?);
    if free < needed {
        return Err(StateError::Room { needed, free, path: folder.to_owned() });
    }
    let made = disk.make_folder(&to).and_then(|()| disk.sync_folder(folder));
    made.map_err(|source| StateError::Disk { what: "make", path: to.clone(), source })?;
    for (path, bytes) in work {
        match bytes {
            Some(bytes) => write(disk, &path, &bytes)?,
            // Left over from an earlier take-over, or from another time at this schema.
            None => drop_file(disk, &path)?,
        }
    }
    let before = Before { schema: found.schema, writer: found.writer };
    let marker = Marker { schema: forms.schema, writer: own, before: Some(before) };
    write(disk, &path(folder), &marker.encode())?;
    tracing::info!(from = found.schema, to = marker.schema, "took over what the version before remembers");
    if let Some(older) = found.before {
        clear(disk, &place(folder, older.schema));
    }
    Ok(marker)
}

/// Has the work count again that this very program left.
fn give_back<D: Disk>(
    disk: &mut D,
    folder: &Path,
    forms: &Forms<'_>,
    found: &Marker,
    own: Option<Digest>,
) -> Result<Marker, StateError> {
    let left = Before { schema: forms.schema, writer: own };
    if own.is_none() || found.before != Some(left) {
        let writer = found.writer.map_or_else(|| "unknown".to_owned(), |digest| digest.to_string());
        let path = path(folder);
        return Err(StateError::Newer { found: found.schema, known: forms.schema, writer, path });
    }
    let marker = Marker { schema: forms.schema, writer: own, before: None };
    write(disk, &path(folder), &marker.encode())?;
    tracing::warn!(
        from = found.schema,
        to = marker.schema,
        "a newer version was here; going on with what this one left, the identity as it is"
    );
    clear(disk, &place(folder, found.schema));
    Ok(marker)
}

/// The file that says which folder counts.
fn path(folder: &Path) -> PathBuf {
    folder.join("schema")
}

/// The folder of the work in this schema.
fn place(folder: &Path, schema: u32) -> PathBuf {
    match schema {
        // Agents older than schemas wrote there.
        1 => folder.to_owned(),
        _ => folder.join(format!("work-{schema}")),
    }
}

/// Gives back the space of a folder that no longer counts. Failing to costs that space, and no more.
fn clear<D: Disk>(disk: &mut D, folder: &Path) {
    for name in WORK {
        if let Err(error) = drop_file(disk, &folder.join(name)) {
            tracing::warn!(%error, "what no longer counts stays on disk");
        }
    }
}

fn read<D: Disk>(disk: &mut D, path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let failed = |source| StateError::Disk { what: "read", path: path.to_owned(), source };
    let Some(mut file) = disk.open(path).map_err(failed)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

fn write<D: Disk>(disk: &mut D, path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    disk::replace_as(disk, path, bytes, MODE).map_err(|source| StateError::Disk {
        what: "write",
        path: path.to_owned(),
        source,
    })
}

fn drop_file<D: Disk>(disk: &mut D, path: &Path) -> Result<(), StateError> {
    disk.remove(path).and_then(|()| disk.sync_folder(disk::folder(path))).map_err(|source| StateError::Disk {
        what: "remove",
        path: path.to_owned(),
        source,
    })
}
