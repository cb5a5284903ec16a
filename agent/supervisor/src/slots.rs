//! The files, and what an agent's start needs of them.

use std::{
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{
    decide::{self, Decision, Event, Found, Seen},
    digest::Digest,
    disk::{self, Disk},
    record::{Content, Request, Slot, State},
};

/// Where the slots are on a node.
pub const FOLDER: &str = "/usr/local/lib/fleet/slots";

/// How often the record is read before the disk is taken to have lost it.
const READS: u32 = 5;

/// The folder of the slots.
#[derive(Clone, Debug)]
pub struct Slots<D> {
    folder: PathBuf,
    /// Where it lies.
    pub disk: D,
    /// The disk refused the last state; it is offered again with the next step.
    owed: bool,
}

impl<D: Disk> Slots<D> {
    /// The slots in `folder` of `disk`.
    pub fn new(folder: impl Into<PathBuf>, disk: D) -> Self {
        Self { folder: folder.into(), disk, owed: false }
    }

    /// The folder of all.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of one.
    pub fn slot(&self, slot: Slot) -> PathBuf {
        self.folder.join(slot.name())
    }

    /// The program of `slot`.
    pub fn program(&self, slot: Slot) -> PathBuf {
        self.slot(slot).join("fleet-agent")
    }

    /// The record of `slot`.
    pub fn about(&self, slot: Slot) -> PathBuf {
        self.slot(slot).join("slot")
    }

    /// The signed release that `slot` came from.
    pub fn release(&self, slot: Slot) -> PathBuf {
        self.slot(slot).join("release")
    }

    /// The supervisor's record.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The agent's request.
    pub fn request(&self) -> PathBuf {
        self.folder.join("request")
    }

    /// What is remembered; if that cannot be read, the sound slot that was filled first, as the one more likely to have
    /// served before.
    ///
    /// # Errors
    /// What reading says.
    pub fn load(&mut self) -> io::Result<Option<State>> {
        let path = self.state();
        if let Some(state) = disk::read(&mut self.disk, &path)?.and_then(|bytes| State::decode(&bytes)) {
            return Ok(Some(state));
        }
        self.recover(false)
    }

    /// The same; but what cannot be read after some tries, `pause` apart, is taken for lost: a node whose disk has a bad
    /// spot in a record still has a program to run. The next step writes the record anew, elsewhere on the disk.
    pub fn load_at_last(&mut self, pause: Duration) -> Option<State> {
        for _ in 1..READS {
            match self.load() {
                Ok(state) => return state,
                Err(_) => thread::sleep(pause),
            }
        }
        self.load()
            .or_else(|_| {
                self.owed = true;
                self.recover(true)
            })
            .ok()
            .flatten()
    }

    /// What the slots themselves say; `anyway` passes over those of which the record cannot be read.
    fn recover(&mut self, anyway: bool) -> io::Result<Option<State>> {
        let found = self.look();
        let mut sound = Vec::new();
        for slot in Slot::BOTH {
            let path = self.about(slot);
            let about = match disk::read(&mut self.disk, &path) {
                Err(_) if anyway => None,
                read => read?.and_then(|bytes| Content::decode(&bytes)),
            };
            if let Some(content) = about.filter(|content| found.holds(slot, Some(content))) {
                sound.push((content.serial, slot, content));
            }
        }
        sound.sort_by_key(|(serial, ..)| *serial);
        let mut sound = sound.into_iter();
        let Some((_, active, content)) = sound.next() else { return Ok(None) };
        let mut state = State::new(active, content);
        if let Some((_, slot, content)) = sound.next() {
            *state.content_mut(slot) = Some(content);
            // It may have served, or have been put there just now.
            state.untried = true;
        }
        Ok(Some(state))
    }

    /// Writes the state down.
    ///
    /// # Errors
    /// What the disk says; the old state is there then.
    pub fn save(&mut self, state: &State) -> io::Result<()> {
        let path = self.state();
        disk::replace(&mut self.disk, &path, &state.encode())
    }

    /// What the slots hold.
    pub fn look(&mut self) -> Found {
        let [a, b] = Slot::BOTH.map(|slot| {
            let path = self.program(slot);
            match self.disk.open(&path).and_then(|file| file.map(Digest::of_all).transpose()) {
                Ok(Some((digest, size))) => Seen::Program(digest, size),
                Ok(None) => Seen::Nothing,
                Err(_) => Seen::Unreadable,
            }
        });
        Found { a, b }
    }

    /// Whether something is asked for that was not taken yet. What cannot be read may be that.
    pub fn asked(&mut self, state: &State) -> bool {
        self.requested()
            .map_or(true, |request| request.is_some_and(|request| state.taken != Some(request.id)))
    }

    /// The request, if there is a whole one.
    ///
    /// # Errors
    /// What reading says.
    pub fn requested(&mut self) -> io::Result<Option<Request>> {
        let path = self.request();
        Ok(disk::read(&mut self.disk, &path)?.and_then(|bytes| Request::decode(&bytes)))
    }

    /// Removes the request.
    ///
    /// # Errors
    /// What the disk says.
    pub fn forget(&mut self) -> io::Result<()> {
        let path = self.request();
        self.disk.remove(&path)?;
        self.disk.sync_folder(&self.folder.clone())
    }

    /// Decides, and writes the state down if it changed; gives what is left to do, [`decide::Action::Forget`] done.
    pub fn step(&mut self, state: &State, event: Event) -> Decision {
        let found = match &event {
            Event::Idle { found, .. } => *found,
            _ => Found::default(),
        };
        let commit = matches!(event, Event::Commit { .. });
        let mut decision = decide::decide(state, event);
        if self.owed || decision.state != *state {
            self.owed = self.save(&decision.state).is_err();
            // The agent looks for its commit in the file: once it is to be seen there it is one, though it is written
            // once more, since a power cut may still undo it. The trial then begins anew, and is committed again.
            let seen = commit && matches!(self.load(), Ok(Some(shown)) if shown == decision.state);
            if self.owed && !seen {
                decision = decide::unsaved(state, decision, found);
            }
        }
        decision.actions.retain(|action| {
            // A request that cannot be removed does no harm: it is known by its id.
            let forget = *action == decide::Action::Forget;
            if forget {
                let _ = self.forget();
            }
            !forget
        });
        decision
    }

    /// What happened as it stands on disk: nothing runs.
    ///
    /// # Errors
    /// What reading says.
    pub fn idle(&mut self) -> Event {
        // A request that cannot be read is as good as none: the old agent runs and may ask again.
        Event::Idle { request: self.requested().unwrap_or(None), found: self.look() }
    }
}
