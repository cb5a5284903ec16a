//! Seeded bad releases: each stops at the canary, nobody else is touched, and the canary runs the old version by itself.

use crate::fleet::{Fleet, Release, bad, good, node};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// What every node runs, before and after.
struct Stage {
    fleet: Fleet,
    old: Release,
}

#[test]
fn what_is_bad_stops_at_the_canary() {
    let mut fleet = Fleet::up(&NODES);
    let old = fleet.release(&good("good"));
    fleet.start(&old, "n2", &[]);
    fleet.watch(0);
    for name in NODES {
        fleet.ready_on(name, &old.digest);
    }
    let mut stage = Stage { fleet, old };
    stage.misbehaves("n1", "crash", &[], "it exited with status 3, after 3 starts");
    stage.misbehaves("n2", "hang", &["deadlines.trial=8s"], "it was not ready in time");
    stage.misbehaves("n3", "unready", &["deadlines.trial=8s"], "it was not ready in time");
    // The bake is longer than its life, and shorter than three of them.
    stage.misbehaves("n1", "late 4", &["canaryBake=8s"], "it exited with status 4, after its commit");
    stage.needs_more_memory_than_there_is("n2");
}

impl Stage {
    /// Rolls `release` out; it has to halt at its canary, and everything has to be as before.
    #[track_caller]
    fn stops(&self, release: &Release, canary: &str, set: &[&str], why: &str) {
        let Self { fleet, old } = self;
        for name in NODES {
            fleet.proved(name);
        }
        let before = fleet.others(canary);
        fleet.start(release, canary, set);
        let end = fleet.watch(5);
        let rollout = &end["rollout"];
        assert_eq!(rollout["halted_nodes"], serde_json::json!([canary]), "{rollout:#}");
        assert_eq!(rollout["wave"], 1, "{rollout:#}");
        for name in NODES {
            // By itself: nobody asked for anything.
            fleet.ready_on(name, &old.digest);
            let state = &node(rollout, name)["state"];
            assert_eq!(state == "pending", name != canary, "{name}: {rollout:#}");
        }
        assert_eq!(fleet.others(canary), before, "somebody else was touched");
        let explained = fleet.sandbox.run(&["rollout", "explain", canary]).expect(0).out;
        let shown = fleet.sandbox.run(&["rollout", "status"]).expect(5).out;
        for said in [&explained, &shown] {
            assert!(said.contains(why), "no `{why}` in\n{said}");
        }
        let line = shown.lines().find(|line| line.contains(why)).unwrap_or_default();
        eprintln!("{canary}, {}: {line}", release.version);
    }

    #[track_caller]
    fn misbehaves(&mut self, canary: &str, manner: &str, set: &[&str], why: &str) {
        let release = self.fleet.release(&bad(manner));
        self.stops(&release, canary, set, why);
    }

    fn needs_more_memory_than_there_is(&mut self, canary: &str) {
        let release = self.fleet.release(&bad("greedy"));
        self.fleet.node(canary).squeeze("fleet-agent.service", 256 << 20);
        self.stops(&release, canary, &[], "killed, as the kernel does for want of memory");
        self.fleet.node(canary).ease("fleet-agent.service");
    }
}
