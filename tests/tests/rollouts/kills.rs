//! Power cuts at random moments of rollouts, back and forth: every node runs the old version or the new one, and nothing
//! of either is half written.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use fleet_supervisor::slots::FOLDER;
use fleet_tests::{OnDisk, Random, whole};

use crate::fleet::{Fleet, good, seeded};

const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
/// Each cuts all of them, at a moment of its own.
const ROUNDS: usize = 5;
/// How long a node takes from the order to its commit, with some to spare on either side.
const WITHIN_MS: u64 = 3000;

#[test]
fn cut_at_random_moments_old_or_new_runs() {
    let mut random = Random::seeded();
    let mut fleet = Fleet::up(&NODES);
    let everybody = format!("canaries={{\"named\":[\"{}\"],\"drawn\":0}}", NODES.join("\",\""));
    let all = [&*everybody, "canaryBudgets.inFlight=100%", "canaryBudgets.unavailable=100%"];
    let first = fleet.release(&good("round 0"));
    fleet.start(&first, "n1", &all);
    fleet.watch(0);
    let mut now = first.digest.clone();
    let mut known = BTreeSet::from([seeded().digest, first.digest]);
    let (mut old_after, mut new_after, mut during) = (0, 0, 0);
    let mut before_undo = None;
    for round in 1..=ROUNDS {
        for name in NODES {
            fleet.proved(name);
        }
        // There and back, and to the next one.
        let to = match before_undo.take() {
            Some(back) => {
                fleet.sandbox.run(&["rollout", "undo"]).expect(0);
                back
            }
            None => {
                let release = fleet.release(&good(&format!("round {round}")));
                known.insert(release.digest.clone());
                fleet.start(&release, "n1", &all);
                before_undo = Some(now.clone());
                release.digest
            }
        };
        let begun = Instant::now();
        let mut moments: Vec<(u64, &str)> =
            NODES.iter().map(|name| (random.below(WITHIN_MS), *name)).collect();
        moments.sort_unstable();
        for (moment, name) in moments {
            // The moment is what is tried here; nothing is waited for.
            thread::sleep(Duration::from_millis(moment).saturating_sub(begun.elapsed()));
            fleet.nodes.get_mut(name).expect("known").cut();
        }
        for name in NODES {
            let node = fleet.nodes.get_mut(name).expect("known");
            let OnDisk { active, underway } = whole(&node.path(FOLDER), &known);
            during += usize::from(underway.is_some());
            *(if active == to { &mut new_after } else { &mut old_after }) += 1;
            node.switch_on();
        }
        for name in NODES {
            fleet.node(name).booted();
            let runs = fleet.runs(name);
            assert!([&now, &to].into_iter().any(|one| one == runs.digest()), "{name} runs a third: {runs:?}");
        }
        // And then the rollout goes on to its end.
        fleet.watch(0);
        for name in NODES {
            fleet.ready_on(name, &to);
        }
        now = to;
    }
    eprintln!(
        "{} cuts, {during} of them with a request or a trial on disk; {old_after} were on the old version then, \
         {new_after} on the new one",
        ROUNDS * NODES.len()
    );
    assert!(during > 0, "nothing was cut");
}
