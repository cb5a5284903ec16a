//! A real machine loses its power at random moments of rollouts, there and back: it runs the old version or the new one,
//! and no file is half written.
//!
//! What lies on its disk is looked at before its supervisor starts: a copy of it is made at every boot. `FLEET_KILLS`
//! says how often it is cut, `FLEET_SEED` when.

mod machine;
mod records;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use fleet_supervisor::slots::FOLDER;
use fleet_tests::{OnDisk, Random, Sandbox, whole};
use machine::{Cut, Machine, seeded};

/// Few, for everybody's every run.
const USUAL: usize = 2;
/// How long an emulated machine takes from the order to its commit, with some to spare on either side.
const WITHIN_MS: u64 = 4_000;

#[test]
fn cut_at_random_moments_old_or_new_runs() {
    let kills = std::env::var("FLEET_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(USUAL);
    let mut random = Random::seeded();
    let sandbox = Sandbox::with_machines();
    let mut machine = Machine::up(&sandbox);
    let first = machine.release("round 0");
    machine.start(&first);
    machine.arrives(&first.digest);
    let mut known = BTreeSet::from([seeded(), first.digest.clone()]);
    let (mut now, mut before_undo) = (first.digest, None);
    let mut tally = Tally::default();
    for kill in 1..=kills {
        machine.proved();
        // There and back, and to the next one.
        let to = match before_undo.take() {
            Some(back) => {
                machine.undo();
                back
            }
            None => {
                let release = machine.release(&format!("round {kill}"));
                known.insert(release.digest.clone());
                machine.start(&release);
                before_undo = Some(now.clone());
                release.digest
            }
        };
        let ordered = Instant::now();
        let moment = Duration::from_millis(random.below(WITHIN_MS));
        let cut = if random.below(2) == 0 { Cut::Asked } else { Cut::Killed };
        // The moment is what is tried here; nothing is waited for.
        thread::sleep(moment.saturating_sub(ordered.elapsed()));
        machine.cut(cut);
        let off = ordered.elapsed();
        machine.boot();
        let found = machine.found();
        let OnDisk { active, underway } = whole(&below(found.path(), FOLDER), &known);
        let records = records::whole(found.path());
        let word = |digest: &str| match digest {
            _ if digest == now => "old",
            _ if digest == to => "new",
            _ => panic!("neither {now} nor {to}, but {digest}"),
        };
        let (committed, runs) = (word(&active), word(&machine.runs()));
        // And then the rollout goes on to its end.
        machine.arrives(&to);
        tally.count(committed, underway);
        eprintln!(
            "cut {kill}, {:.1} s after its order, {cut:?}: on disk the {committed} one with {} under way, {records} records \
             whole; then the {runs} one ran, and in the end the new one",
            off.as_secs_f32(),
            underway.unwrap_or("nothing"),
        );
        now = to;
    }
    eprintln!("{tally:?}");
    assert_eq!(tally.old + tally.new, kills);
}

/// Where a file of a node is in a copy of it.
fn below(copy: &Path, file: &str) -> PathBuf {
    copy.join(file.trim_start_matches('/'))
}

/// What came of all of them.
#[derive(Debug, Default)]
struct Tally {
    /// Cuts after which the old version was the committed one.
    old: usize,
    /// The same of the new one.
    new: usize,
    /// With a request or a trial on disk.
    during: usize,
}

impl Tally {
    fn count(&mut self, committed: &str, underway: Option<&str>) {
        *(if committed == "old" { &mut self.old } else { &mut self.new }) += 1;
        self.during += usize::from(underway.is_some());
    }
}
