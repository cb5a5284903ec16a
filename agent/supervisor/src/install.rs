//! The agent's side of an update: fill the idle slot, then ask for its trial.
//!
//! The caller has checked the release's signature and hands over the unpacked program as a stream. Nothing that runs or may
//! have to run again is touched: the idle slot only, and not while a trial is under way. The request comes last, so a cut
//! anywhere leaves either no request or a slot that is whole.

use std::{
    fmt,
    io::{self, Read},
};

use crate::{
    digest::{Digest, Hasher},
    disk::{self, Disk},
    record::{Ask, Content, Request, Slot, State, Terms},
    slots::Slots,
};

/// Room for records, folder entries and rounding up to blocks.
const MARGIN: u64 = 256 * 1024;

/// What is to be installed.
#[derive(Clone, Debug)]
pub struct Package<'a> {
    /// As the release calls it.
    pub version: &'a str,
    /// Of the program, from signed metadata.
    pub digest: Digest,
    /// Of the program, from signed metadata.
    pub size: u64,
    /// Of the packed program, as far as it still has to be stored.
    pub packed: u64,
    /// The signed release, kept beside the program.
    pub release: &'a [u8],
    /// Conditions of the trial.
    pub terms: Terms,
    /// Try even if it failed here before.
    pub again: bool,
    /// Names this request; never used again on this node.
    pub id: &'a str,
}

/// Why nothing was installed. The node runs on as before.
#[derive(Debug)]
pub enum Error {
    /// There is no state: this node is not supervised.
    Unsupervised,
    /// The agent that runs has not been committed yet; its way back is kept.
    OnTrial,
    /// The agent that runs was committed a moment ago; its way back is kept until it has proved itself.
    OnProbation,
    /// This digest failed here before.
    FailedBefore {
        /// Why it failed.
        reason: String,
    },
    /// What the other slot holds never served here, as far as is known.
    Untried,
    /// This digest runs already.
    Running,
    /// Not enough room.
    Space {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        free: u64,
    },
    /// The stream is not what the release says.
    Content {
        /// What differs.
        what: String,
    },
    /// The stream broke.
    Stream(io::Error),
    /// The disk refused.
    Disk(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupervised => {
                f.write_str("no supervisor's state here: this agent was not started from a slot")
            }
            Self::OnTrial => {
                f.write_str("the running version is on trial; its way back must stay until it commits")
            }
            Self::OnProbation => {
                f.write_str("the running version was committed just now; its way back must stay until it has proved itself")
            }
            Self::FailedBefore { reason } => {
                write!(
                    f,
                    "this very version failed here before ({reason}); ask for it again, or release another"
                )
            }
            Self::Untried => {
                f.write_str("what the other slot holds never served here, as far as is known; release it instead")
            }
            Self::Running => f.write_str("this very version runs already"),
            Self::Space { needed, free } => {
                let missing = needed.saturating_sub(*free);
                write!(
                    f,
                    "needs {needed} bytes of disk for download, program and one old copy, and {missing} are missing"
                )
            }
            Self::Content { what } => write!(f, "not what the release says: {what}"),
            Self::Stream(_) => f.write_str("the download broke off"),
            Self::Disk(_) => f.write_str("write to the idle slot"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Stream(source) | Self::Disk(source) => Some(source),
            _ => None,
        }
    }
}

/// Whether `package` may be installed now: asked before anything is fetched, and again by [`install`].
///
/// # Errors
/// Why not.
pub fn ready<D: Disk>(slots: &mut Slots<D>, package: &Package<'_>) -> Result<State, Error> {
    let state = slots.load().map_err(Error::Disk)?.ok_or(Error::Unsupervised)?;
    if state.trial.is_some() {
        return Err(Error::OnTrial);
    }
    let active = state.content(state.active).ok_or(Error::Unsupervised)?;
    if active.digest == package.digest {
        return Err(Error::Running);
    }
    if let Some(failed) = state.failure(package.digest).filter(|_| !package.again) {
        return Err(Error::FailedBefore { reason: failed.reason.clone() });
    }
    if state.probation.is_some() {
        return Err(Error::OnProbation);
    }
    let needed =
        package.packed.saturating_add(package.size).saturating_add(active.size).saturating_add(MARGIN);
    let folder = slots.folder().to_owned();
    let free = slots.disk.free(&folder).map_err(Error::Disk)?;
    if free < needed {
        return Err(Error::Space { needed, free });
    }
    Ok(state)
}

/// Puts the program into the idle slot and asks for its trial, which begins when the agent exits.
///
/// # Errors
/// Why not; what was written is removed again, and no trial is asked for.
pub fn install<D: Disk>(
    slots: &mut Slots<D>,
    package: &Package<'_>,
    program: impl Read,
) -> Result<Slot, Error> {
    let state = ready(slots, package)?;
    let slot = state.active.other();
    let serials = Slot::BOTH.map(|slot| state.content(slot).map_or(0, |content| content.serial));
    let content = Content {
        digest: package.digest,
        size: package.size,
        serial: serials.into_iter().max().unwrap_or(0) + 1,
        version: package.version.to_owned(),
    };
    fill(slots, slot, &content, package.release, program)?;
    let ask = Ask::Try { slot, content, terms: package.terms.clone(), again: package.again };
    ask_for(slots, &Request { id: package.id.to_owned(), ask })?;
    Ok(slot)
}

/// Asks to go back to what the idle slot holds, when the agent exits.
///
/// # Errors
/// There is nothing to go back to, or it failed here before, or the disk refuses.
pub fn go_back<D: Disk>(slots: &mut Slots<D>, reason: &str, id: &str) -> Result<(), Error> {
    let state = slots.load().map_err(Error::Disk)?.ok_or(Error::Unsupervised)?;
    if state.trial.is_some() {
        return Err(Error::OnTrial);
    }
    let idle = state.active.other();
    if let Some(failed) = state.content(idle).and_then(|content| state.failure(content.digest)) {
        return Err(Error::FailedBefore { reason: failed.reason.clone() });
    }
    if state.untried {
        return Err(Error::Untried);
    }
    if !slots.look().holds(idle, state.content(idle)) {
        return Err(Error::Content { what: format!("slot {idle} holds no sound agent to go back to") });
    }
    ask_for(slots, &Request { id: id.to_owned(), ask: Ask::Return { reason: reason.to_owned() } })
}

/// Makes `program` the first agent of a node that has none to run; does nothing on one that has.
///
/// # Errors
/// The disk refuses.
pub fn adopt<D: Disk>(slots: &mut Slots<D>, version: &str, program: &[u8]) -> Result<(), Error> {
    let folder = slots.folder().to_owned();
    slots.disk.make_folder(&folder).map_err(Error::Disk)?;
    let found = slots.look();
    let state = slots.load().map_err(Error::Disk)?;
    let sound = |state: State| Slot::BOTH.iter().any(|slot| found.holds(*slot, state.content(*slot)));
    if !state.is_some_and(sound) {
        let digest = Digest::of(program);
        let content = Content { digest, size: program.len() as u64, serial: 1, version: version.to_owned() };
        fill(slots, Slot::A, &content, &[], program)?;
        slots.save(&State::new(Slot::A, content)).map_err(Error::Disk)?;
    }
    Ok(())
}

fn ask_for<D: Disk>(slots: &mut Slots<D>, request: &Request) -> Result<(), Error> {
    let path = slots.request();
    disk::replace(&mut slots.disk, &path, &request.encode()).map_err(Error::Disk)
}

/// Program, its release, its record: each whole or not there.
fn fill<D: Disk>(
    slots: &mut Slots<D>,
    slot: Slot,
    content: &Content,
    release: &[u8],
    program: impl Read,
) -> Result<(), Error> {
    let (folder, path) = (slots.slot(slot), slots.program(slot));
    slots.disk.make_folder(&folder).map_err(Error::Disk)?;
    let above = slots.folder().to_owned();
    slots.disk.sync_folder(&above).map_err(Error::Disk)?;
    let new = disk::beside(&path);
    if let Err(error) = copy(&mut slots.disk, &new, content, program) {
        // A broken download gives its space back.
        let _ = slots.disk.remove(&new);
        return Err(error);
    }
    let (about, proof) = (slots.about(slot), slots.release(slot));
    slots.disk.rename(&new, &path).map_err(Error::Disk)?;
    slots.disk.sync_folder(&folder).map_err(Error::Disk)?;
    disk::replace(&mut slots.disk, &proof, release).map_err(Error::Disk)?;
    disk::replace(&mut slots.disk, &about, &content.encode()).map_err(Error::Disk)
}

fn copy<D: Disk>(
    disk: &mut D,
    new: &std::path::Path,
    content: &Content,
    mut program: impl Read,
) -> Result<(), Error> {
    let mut file = disk.create(new, 0o755).map_err(Error::Disk)?;
    let mut hasher = Hasher::default();
    let mut piece = vec![0; 64 * 1024];
    let mut size = 0;
    loop {
        let n = match program.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Stream(error)),
        };
        size += n as u64;
        if size > content.size {
            return Err(Error::Content { what: format!("more than {} bytes", content.size) });
        }
        hasher.add(&piece[..n]);
        disk.write(&mut file, &piece[..n]).map_err(Error::Disk)?;
    }
    if size != content.size {
        return Err(Error::Content { what: format!("{size} bytes instead of {}", content.size) });
    }
    let digest = hasher.finish();
    if digest != content.digest {
        return Err(Error::Content { what: format!("digest {digest} instead of {}", content.digest) });
    }
    disk.sync(&mut file).map_err(Error::Disk)
}
