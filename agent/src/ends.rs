//! How often this node's agent, whatever its version, ended otherwise than in order while the machine ran on.
//!
//! A file is there while an agent runs, and says during which boot it began. An agent that finds one of the present boot
//! is the successor of one that crashed. A power cut is no crash: the boot is another one then. Nothing of this ever
//! keeps an agent from working.

use std::{fs, path::PathBuf};

use fleet_task::atomic;

use crate::Places;

/// Drawn by the kernel at each boot.
const BOOT: &str = "proc/sys/kernel/random/boot_id";

/// The agent that runs, as its successor will find it.
#[derive(Debug)]
pub(crate) struct Ends {
    running: PathBuf,
    crashes: Option<u64>,
}

impl Ends {
    /// An agent begins.
    pub(crate) fn begin(places: &Places) -> Self {
        let (running, count) = (places.running(), places.crashes());
        // Without it nobody can tell a crash from a power cut.
        let Some(boot) = text(&places.root().join(BOOT)) else { return Self { running, crashes: None } };
        let mut crashes = text(&count).and_then(|text| text.parse().ok()).unwrap_or(0);
        if text(&running).as_ref() == Some(&boot) {
            crashes += 1;
            tracing::warn!(crashes, "the agent before did not end in order");
            // First, so that no crash is lost; one that is counted and not kept is told by this agent all the same.
            keep(&count, &crashes.to_string());
        }
        keep(&running, &boot);
        Self { running, crashes: Some(crashes) }
    }

    /// How often; none if that cannot be told here.
    pub(crate) fn crashes(&self) -> Option<u64> {
        self.crashes
    }

    /// It ends in order. Takes no room: a full disk makes no crash of it.
    pub(crate) fn in_order(self) {
        if let Err(error) = atomic::remove(&self.running) {
            tracing::warn!(error = fleet_model::chain(&error), "this end will look like a crash");
        }
    }
}

/// What a file says; nothing if it is not there or cannot be read.
fn text(path: &std::path::Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn keep(path: &std::path::Path, text: &str) {
    if let Err(error) = atomic::write(path, format!("{text}\n").as_bytes(), 0o600) {
        tracing::warn!(error = fleet_model::chain(&error), "a crash may not be counted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().expect("folder");
        let places = Places::below(root.path());
        fs::create_dir_all(places.state()).expect("folder");
        fs::create_dir_all(root.path().join("proc/sys/kernel/random")).expect("folder");
        boots(&places, "one");
        (root, places)
    }

    fn boots(places: &Places, boot: &str) {
        fs::write(places.root().join(BOOT), format!("{boot}\n")).expect("written");
    }

    #[test]
    fn crashes_are_counted_and_nothing_else_is() {
        let (_root, places) = node();
        let begin = || Ends::begin(&places);
        let first = begin();
        assert_eq!(first.crashes(), Some(0));
        first.in_order();
        assert_eq!(begin().crashes(), Some(0), "in order, and then not");
        assert_eq!(begin().crashes(), Some(1));
        let third = begin();
        assert_eq!(third.crashes(), Some(2));
        third.in_order();
        assert_eq!(begin().crashes(), Some(2), "those before stay");
        boots(&places, "two");
        assert_eq!(begin().crashes(), Some(2), "the power went");
        assert_eq!(begin().crashes(), Some(3));
    }

    #[test]
    fn what_is_damaged_or_missing_keeps_nobody_from_working() {
        let (_root, places) = node();
        fs::write(places.crashes(), "many").expect("written");
        fs::write(places.running(), "one").expect("written");
        assert_eq!(Ends::begin(&places).crashes(), Some(1), "counted anew");
        fs::remove_file(places.crashes()).expect("removed");
        fs::create_dir(places.crashes()).expect("what cannot be written");
        let ends = Ends::begin(&places);
        assert_eq!(ends.crashes(), Some(1), "told, though it is not kept");
        ends.in_order();
        fs::remove_file(places.root().join(BOOT)).expect("removed");
        assert_eq!(Ends::begin(&places).crashes(), None, "nobody can tell");
    }
}
