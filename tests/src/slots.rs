//! What a node that was cut off has on its disk.

use std::{collections::BTreeSet, fs, path::Path};

use fleet_release::{Kind, Signed};
use fleet_supervisor::{
    digest::Digest,
    record::{Content, Request, Slot, State},
};

/// The slots of a node as they lie there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// Digest of the committed version.
    pub active: String,
    /// What was under way when it was cut off: a request, or a trial.
    pub underway: Option<&'static str>,
}

/// Looks at the slots of a node that is off: each file is whole, or not there, and every program is one of `known`.
///
/// # Panics
/// One is half written, or there is nothing to run.
#[track_caller]
pub fn whole(slots: &Path, known: &BTreeSet<String>) -> OnDisk {
    let read = |name: &str| fs::read(slots.join(name)).ok();
    let state =
        read("state").and_then(|bytes| State::decode(&bytes)).expect("the supervisor's record is whole");
    let request = read("request").map(|bytes| Request::decode(&bytes).expect("a request is whole"));
    for slot in Slot::BOTH {
        let program = read(&format!("{slot}/fleet-agent"));
        let program = program.map(|bytes| Digest::of(&bytes).to_string());
        assert!(
            program.as_ref().is_none_or(|digest| known.contains(digest)),
            "slot {slot} holds {program:?}"
        );
        if let Some(about) = read(&format!("{slot}/slot")) {
            Content::decode(&about).expect("the record of a slot is whole");
        }
        // What the seed brought has no release.
        if let Some(release) = read(&format!("{slot}/release")).filter(|bytes| !bytes.is_empty()) {
            Signed::decode(Kind::Manifest, &release).expect("the release of a slot is whole");
        }
        if slot == state.active {
            let content = state.content(slot).map(|content| content.digest.to_string());
            assert_eq!(program, content, "the active slot is what the record says");
        }
    }
    let active = state.content(state.active).expect("an active slot").digest.to_string();
    let underway = state.trial.map(|_| "a trial").or_else(|| request.map(|_| "a request"));
    OnDisk { active, underway }
}
