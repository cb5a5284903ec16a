//! Power cuts at random moments of rollouts, back and forth: every node runs the old version or the new one, and nothing
//! of either is half written.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use fleet_supervisor::record::{Content, Request, Slot, State};

use crate::fleet::{Fleet, good};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Each cuts all of them, at a moment of its own.
const ROUNDS: usize = 7;
/// How long a node takes from the order to its commit, with some to spare on either side.
const WITHIN_MS: u64 = 3000;

/// A generator of one's own, so that a seed means the same for ever (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % most
    }
}

#[test]
fn cut_at_random_moments_old_or_new_runs() {
    let seed = std::env::var("FLEET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    eprintln!("FLEET_SEED={seed}");
    let mut random = Random(seed);
    let mut fleet = Fleet::up(&NODES);
    let everybody = format!("canaries={{\"named\":[\"{}\"],\"drawn\":0}}", NODES.join("\",\""));
    let all = [&*everybody, "canaryBudgets.inFlight=100%", "canaryBudgets.unavailable=100%"];
    let first = fleet.release(&good("round 0"));
    fleet.start(&first, "n1", &all);
    fleet.watch(0);
    let mut now = first.digest.clone();
    let mut known = BTreeSet::from([fleet.runs_of_seed(), first.digest]);
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
            let (active, underway) = whole(&node.path("usr/local/lib/fleet/slots"), &known);
            during += usize::from(underway);
            *(if active == to { &mut new_after } else { &mut old_after }) += 1;
            node.start();
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

/// Looks at the files of a node that is off: each is whole, or not there. Which version is the committed one,
/// and whether an update was under way.
fn whole(slots: &Path, known: &BTreeSet<String>) -> (String, bool) {
    let read = |name: &str| fs::read(slots.join(name)).ok();
    let state =
        read("state").and_then(|bytes| State::decode(&bytes)).expect("the supervisor's record is whole");
    let request = read("request").map(|bytes| Request::decode(&bytes).expect("a request is whole"));
    for slot in Slot::BOTH {
        let program = read(&format!("{}/fleet-agent", slot.name()));
        let program = program.map(|bytes| fleet_supervisor::digest::Digest::of(&bytes).to_string());
        assert!(
            program.as_ref().is_none_or(|digest| known.contains(digest)),
            "slot {slot} holds {program:?}"
        );
        if let Some(about) = read(&format!("{}/slot", slot.name())) {
            Content::decode(&about).expect("the record of a slot is whole");
        }
        if slot == state.active {
            let content = state.content(slot).map(|content| content.digest.to_string());
            assert_eq!(program, content, "the active slot is what the record says");
        }
    }
    let active = state.content(state.active).expect("an active slot").digest.to_string();
    (active, request.is_some() || state.trial.is_some())
}
