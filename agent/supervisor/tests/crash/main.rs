//! The crash table: every life of an update is cut at every call that changes the disk, everything that the disk may
//! hold afterwards is started from, and those starts are cut again, until nothing new comes up.

mod model;

use std::{collections::BTreeSet, io::Read, path::Path};

use fleet_supervisor::{
    decide::{Action, Crash, Event},
    digest::Digest,
    install::{self, Package},
    record::{Content, Request, Slot, State, Terms, Why},
    slots::Slots,
};

use crate::model::{Fault, Image, Model};

const OLD: &[u8] = b"the old agent, which serves";
const NEW: &[u8] = b"the new agent, of which nobody knows yet";
const RELEASE: &[u8] = b"signed";
const TRIES: u32 = 3;

/// What becomes of the new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It commits and proves itself.
    Commits,
    /// It commits and is sent back by hand.
    SentBack,
    /// The same, and the old one crashes by now whenever it is gone back to.
    SentBackInVain,
    /// It crashes whenever it starts.
    Crashes,
    /// It is never ready.
    Late,
    /// It commits, then crashes again and again.
    CrashesLater,
}

const LIVES: [Life; 6] =
    [Life::Commits, Life::SentBack, Life::SentBackInVain, Life::Crashes, Life::Late, Life::CrashesLater];

/// Gives a few bytes at a time, so that there are writes to be cut between.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.len().min(into.len()).min(16);
        into[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

/// A node on the old agent, made by `adopt`.
fn old_node() -> Image {
    let folders = ["/", "/slots"].into_iter().map(Into::into).collect();
    let mut slots = Slots::new("/slots", Model::new(&Image { folders, ..Image::default() }, Fault::Nothing));
    install::adopt(&mut slots, "0.1.0", OLD).expect("adopt");
    slots.disk.image()
}

fn package(id: &str) -> Package<'_> {
    let terms = Terms { tries: TRIES, trial_ms: 1000, ceiling_ms: 1000 };
    Package {
        version: "0.2.0",
        digest: Digest::of(NEW),
        size: NEW.len() as u64,
        packed: 10,
        release: RELEASE,
        terms,
        again: false,
        id,
    }
}

struct Node {
    slots: Slots<Model>,
    state: State,
    /// Starts of the new program, to be counted against its tries.
    runs: Vec<&'static [u8]>,
}

impl Node {
    /// The supervisor starts: there is something to run, and it is whole.
    fn boot(image: &Image, fault: Fault) -> Self {
        let mut slots = Slots::new("/slots", Model::new(image, fault));
        let state = slots.load().expect("readable").expect("a node always knows what to run");
        Self { slots, state, runs: Vec::new() }
    }

    fn dark(&self) -> bool {
        self.slots.disk.dark()
    }

    fn happens(&mut self, event: Event) -> Vec<Action> {
        let decision = self.slots.step(&self.state, event);
        self.state = decision.state;
        decision.actions
    }

    /// Starts an agent: gives the program that runs, unless the power went before.
    fn start(&mut self) -> Option<&'static [u8]> {
        let event = self.slots.idle();
        if self.dark() {
            return None;
        }
        let actions = self.happens(event);
        if self.dark() {
            return None;
        }
        let slot = actions.iter().find_map(|action| match action {
            Action::Start(slot) => Some(*slot),
            _ => None,
        });
        if slot.is_none() && self.slots.disk.unread() {
            // The supervisor ends with its reason, and systemd starts it again.
            return self.start();
        }
        let slot = slot.unwrap_or_else(|| panic!("neither: {actions:?} of {:?}", self.state));
        let bytes = self.slots.disk.image().files.remove(&self.slots.program(slot)).expect("a program");
        let program = [OLD, NEW].into_iter().find(|whole| *whole == bytes).expect("old or new, whole");
        self.runs.push(program);
        Some(program)
    }

    /// Lives until nothing more would happen, or the power goes.
    fn live(&mut self, life: Life) {
        // Far more turns than any life has; each is one run of an agent.
        for _ in 0..40 {
            let Some(program) = self.start() else { return };
            let done = if program == OLD { self.run_old(life) } else { self.run_new(life) };
            if done || self.dark() {
                return;
            }
        }
        panic!("{life:?} comes to no end: {:?}", self.state);
    }

    /// The old agent runs: it installs the new one, and ends so that the supervisor may switch. True if it stays.
    fn run_old(&mut self, life: Life) -> bool {
        // Not where it only stands in for a slot that cannot be read.
        let own = self.state.content(self.state.active).is_some_and(|own| own.digest == Digest::of(OLD));
        if life == Life::SentBackInVain && own && self.state.probation.is_some() {
            self.happens(crash(self.state.active));
            return false;
        }
        let serial = self.state.taken.as_ref().map_or(1, |id| id.parse::<u32>().expect("ours") + 1);
        let installed = install::install(&mut self.slots, &package(&serial.to_string()), Slow(NEW));
        if matches!(installed, Err(install::Error::FailedBefore { .. })) {
            return true;
        }
        // Installed or refused by the disk: either way it exits, and the supervisor looks.
        if !self.dark() {
            self.happens(Event::Exited { slot: self.state.active, crash: None });
        }
        false
    }

    /// The new agent runs. True if it stays.
    fn run_new(&mut self, life: Life) -> bool {
        let trial = self.state.trial.is_some();
        let slot = self.state.current();
        match life {
            Life::Crashes if trial => drop(self.happens(crash(slot))),
            Life::Late if trial => {
                self.happens(Event::Late { reason: "it was not ready in time".to_owned() });
                if !self.dark() {
                    self.happens(Event::Exited { slot, crash: None });
                }
            }
            _ if trial => {
                for _ in 0..4 {
                    self.happens(Event::Commit { digest: Digest::of(NEW) });
                    if self.dark() || self.state.trial.is_none() {
                        return false;
                    }
                }
                // A disk that takes nothing: it runs on and says so again until there is room.
                return true;
            }
            Life::Commits => {
                self.happens(Event::Proved);
                return true;
            }
            // It came again, and is not sent back to what failed.
            Life::SentBackInVain if self.state.failure(Digest::of(OLD)).is_some() => return true,
            Life::SentBack | Life::SentBackInVain => {
                let id = self.state.taken.as_ref().map_or(1, |id| id.parse::<u32>().expect("ours") + 1);
                // Refused only by the disk; then it is asked for again.
                let _ = install::go_back(&mut self.slots, "too slow", &id.to_string());
            }
            _ => drop(self.happens(crash(slot))),
        }
        false
    }
}

fn crash(slot: Slot) -> Event {
    let crash = Crash { why: Why::Crashed, how: "it exited with status 1".to_owned() };
    Event::Exited { slot, crash: Some(crash) }
}

/// Nothing that has a name of ours is half a file.
fn whole(image: &Image) {
    for (path, bytes) in &image.files {
        let name = path.file_name().expect("a name").to_str().expect("text");
        let fine = match name {
            "state" => State::decode(bytes).is_some(),
            "request" => Request::decode(bytes).is_some(),
            "slot" => Content::decode(bytes).is_some(),
            "fleet-agent" => bytes == OLD || bytes == NEW,
            "release" => bytes.is_empty() || bytes == RELEASE,
            _ => name.ends_with(".new"),
        };
        assert!(fine, "{} is half written: {bytes:?}", path.display());
    }
    assert!(image.files.contains_key(Path::new("/slots/state")), "the state is there at all times");
}

/// What a life comes to when nobody disturbs it any more. `cuts` were made before.
fn ends_well(node: &Node, life: Life, cuts: u32) {
    let State { active, trial, .. } = &node.state;
    let content = node.state.content(*active).expect("known");
    let program = node.slots.disk.image().files.remove(&node.slots.program(*active)).expect("there");
    assert_eq!(content.digest, Digest::of(&program));
    assert_eq!(*trial, None, "{life:?}");
    let failed = node.state.failure(Digest::of(NEW)).is_some();
    let stays = matches!(life, Life::Commits | Life::SentBackInVain);
    if stays && (cuts < TRIES || !failed) {
        assert_eq!((program.as_slice(), failed), (NEW, false), "{life:?} after {cuts} cuts");
        let old_failed = node.state.failure(Digest::of(OLD)).is_some();
        assert_eq!(old_failed, life == Life::SentBackInVain, "{life:?} after {cuts} cuts");
    } else {
        // Power cuts count as starts: more than the tries are taken for a version that does not start.
        assert_eq!((program.as_slice(), failed), (OLD, true), "{life:?} after {cuts} cuts");
    }
    let tried = node.runs.iter().filter(|program| **program == NEW).count();
    assert!(tried <= 2 * TRIES as usize + 1, "{life:?}: {tried} starts of the new version");
    assert_eq!(
        State::decode(&node.slots.disk.image().files[Path::new("/slots/state")]).as_ref(),
        Some(&node.state)
    );
}

/// Cuts `life` from each of `images` at every call; gives what may be found then, and how many cuts were made.
fn cut_everywhere(life: Life, images: &BTreeSet<Image>, cuts: u32) -> (BTreeSet<Image>, usize) {
    let (mut found, mut made) = (BTreeSet::new(), 0);
    for image in images {
        whole(image);
        let mut node = Node::boot(image, Fault::Nothing);
        node.live(life);
        ends_well(&node, life, cuts);
        for at in 0..node.slots.disk.calls {
            let mut node = Node::boot(image, Fault::Cut(at));
            node.live(life);
            assert!(node.dark(), "call {at} is made again");
            made += 1;
            found.extend(node.slots.disk.after_cut());
        }
    }
    (found, made)
}

#[test]
fn old_or_new_never_neither_wherever_the_power_goes() {
    for life in LIVES {
        let mut seen = BTreeSet::new();
        let mut fresh: BTreeSet<Image> = [old_node()].into();
        let (mut cuts, mut made) = (0, 0);
        while !fresh.is_empty() {
            let (found, more) = cut_everywhere(life, &fresh, cuts);
            seen.extend(std::mem::take(&mut fresh));
            fresh.extend(found.difference(&seen).cloned());
            made += more;
            cuts += 1;
        }
        eprintln!("{life:?}: {made} cuts, {} different disks after them, up to {cuts} in a row", seen.len());
        assert!(
            made > 100 && seen.len() > 20,
            "{life:?}: {made} cuts, {} disks: nothing was tried",
            seen.len()
        );
    }
}

#[test]
fn a_first_installation_cut_anywhere_is_done_again() {
    let folders: BTreeSet<_> = ["/"].into_iter().map(Into::into).collect();
    let bare = Image { folders, ..Image::default() };
    let mut whole_run = Slots::new("/slots", Model::new(&bare, Fault::Nothing));
    install::adopt(&mut whole_run, "0.1.0", OLD).expect("adopt");
    let calls = whole_run.disk.calls;
    assert!(calls > 10);
    for at in 0..calls {
        let mut slots = Slots::new("/slots", Model::new(&bare, Fault::Cut(at)));
        install::adopt(&mut slots, "0.1.0", OLD).expect_err("cut");
        for image in slots.disk.after_cut() {
            let mut again = Slots::new("/slots", Model::new(&image, Fault::Nothing));
            install::adopt(&mut again, "0.1.0", OLD).expect("adopt");
            let mut node = Node::boot(&again.disk.image(), Fault::Nothing);
            assert_eq!(node.start(), Some(OLD), "cut at call {at}");
        }
    }
}

#[test]
fn every_call_may_fail_and_a_full_disk_keeps_the_old_one_running() {
    let start = old_node();
    for life in LIVES {
        let mut calm = Node::boot(&start, Fault::Nothing);
        calm.live(life);
        for at in 0..calm.slots.disk.calls {
            for fault in [Fault::Error(at), Fault::Full(at)] {
                let mut node = Node::boot(&start, fault);
                // On a disk that stays full the old agent goes on and asks again for ever: some runs are enough.
                for _ in 0..12 {
                    let program = node.start().expect("power is on");
                    whole(&node.slots.disk.image());
                    let stays = if program == OLD { node.run_old(life) } else { node.run_new(life) };
                    if stays {
                        break;
                    }
                }
                // Room again, and a new start of everything: it ends as it must, and no disk condemned anybody.
                let mut node = Node::boot(&node.slots.disk.image(), Fault::Nothing);
                node.live(life);
                ends_well(&node, life, 0);
            }
        }
    }
}

#[test]
fn a_read_that_fails_is_no_verdict() {
    let start = old_node();
    for life in LIVES {
        let mut calm = Node::boot(&start, Fault::Nothing);
        calm.live(life);
        let reads = calm.slots.disk.reads;
        assert!(reads > 10, "{life:?}: {reads} reads");
        for at in 0..reads {
            let mut slots = Slots::new("/slots", Model::new(&start, Fault::Unread(at)));
            // A supervisor that cannot read its state ends, and is started again.
            let state = slots.load().or_else(|_| slots.load()).expect("readable").expect("there");
            let mut node = Node { slots, state, runs: Vec::new() };
            node.live(life);
            ends_well(&node, life, 0);
        }
    }
}

#[test]
fn a_record_that_is_never_read_again_leaves_a_program_to_run() {
    let mut node = Node::boot(&old_node(), Fault::Nothing);
    node.live(Life::Commits);
    let both = node.slots.disk.image();
    let mut lost = both.clone();
    lost.files.remove(Path::new("/slots/state"));
    let cases = [(&both, "/slots/state", OLD), (&lost, "/slots/a/slot", NEW), (&lost, "/slots/b/slot", OLD)];
    for (image, broken, runs) in cases {
        let mut slots = Slots::new("/slots", Model::new(image, Fault::Broken(broken)));
        slots.load().expect_err("it may be readable in a moment");
        let state = slots.load_at_last(std::time::Duration::ZERO).expect("a node always knows what to run");
        let mut node = Node { slots, state, runs: Vec::new() };
        assert_eq!(node.start(), Some(runs), "{broken}");
        // The record was written anew: agent and supervisor read it again.
        assert_eq!(node.slots.load().expect("readable").as_ref(), Some(&node.state), "{broken}");
    }
}

#[test]
fn without_a_readable_state_the_older_sound_slot_runs() {
    let mut node = Node::boot(&old_node(), Fault::Nothing);
    node.live(Life::Commits);
    let mut image = node.slots.disk.image();
    for garbage in [None, Some(Vec::new()), Some(vec![0; 300])] {
        image.files.remove(Path::new("/slots/state"));
        if let Some(bytes) = garbage {
            image.files.insert("/slots/state".into(), bytes);
        }
        assert_eq!(Node::boot(&image, Fault::Nothing).start(), Some(OLD));
        let mut torn = image.clone();
        torn.files.insert("/slots/a/fleet-agent".into(), OLD[..5].to_vec());
        assert_eq!(Node::boot(&torn, Fault::Nothing).start(), Some(NEW), "the only sound one");
    }
    assert_eq!(node.state.active, Slot::B);
    // Which of them served is not known then: nobody goes back to the other.
    image.files.remove(Path::new("/slots/state"));
    let mut lost = Node::boot(&image, Fault::Nothing);
    assert!(matches!(install::go_back(&mut lost.slots, "x", "9"), Err(install::Error::Untried)));
}
