//! Seeded bad releases: each stops at the canary, nobody else is touched, and the canary runs the old version by itself.

use std::fs;

use fleet_supervisor::slots::FOLDER;
use serde_json::json;

use crate::{
    fleet::{Agent, Fleet, Release, bad, damage, good, node, seeded},
    forged::forge,
};

/// What every node runs, before and after.
struct Stage {
    fleet: Fleet,
    old: Agent,
}

#[test]
fn what_is_bad_stops_at_the_canary() {
    let mut fleet = Fleet::up(&["n1", "n2", "n3"]);
    let old = fleet.release(&good("good"));
    fleet.start(&old, "n2", &[]);
    fleet.watch(0);
    let mut stage = Stage { fleet, old: old.agent() };
    stage.misbehaves("n1", "crash", &[], "it exited with status 3, after 3 starts");
    stage.misbehaves("n2", "hang", &["deadlines.trial=8s"], "it was not ready in time");
    stage.misbehaves("n3", "unready", &["deadlines.trial=8s"], "it was not ready in time");
    // The bake is longer than its life, and shorter than three of them.
    stage.misbehaves("n1", "late 4", &["canaryBake=8s"], "it exited with status 4, after its commit");
    stage.needs_more_memory_than_there_is("n2");
    stage.has_no_room("n3");
    stage.is_corrupt("n1");
    stage.has_a_wrong_signature("n2");
    stage.is_an_unsigned_downgrade("n3");
}

/// Nothing here is quicker than on every node, and no time shorter than the one that is meant.
#[test]
fn what_crashes_after_ninety_seconds_stops_at_the_canary() {
    let mut stage = Stage { fleet: Fleet::as_installed(&["n1", "n2"]), old: seeded() };
    stage.misbehaves("n1", "late 90", &["canaryBake=100s"], "it exited with status 4, after its commit");
}

impl Stage {
    /// Rolls `release` out; it has to halt at its canary, and everything has to be as before.
    #[track_caller]
    fn stops(&self, release: &Release, canary: &str, set: &[&str], why: &str) {
        self.stops_when(release, canary, set, why, || ());
    }

    /// The same; `begun` is done once the rollout is under way.
    #[track_caller]
    fn stops_when(&self, release: &Release, canary: &str, set: &[&str], why: &str, begun: impl FnOnce()) {
        let Self { fleet, old } = self;
        let names = || fleet.nodes.keys().map(String::as_str);
        for name in names() {
            fleet.ready_on(name, &old.digest);
            fleet.proved(name);
        }
        let before = fleet.others(canary);
        fleet.start(release, canary, set);
        begun();
        let end = fleet.watch(5);
        let rollout = &end["rollout"];
        assert_eq!(rollout["halted_nodes"], json!([canary]), "{rollout:#}");
        assert_eq!(rollout["wave"], 1, "{rollout:#}");
        for name in names() {
            // By itself: nobody asked for anything.
            fleet.ready_on(name, &old.digest);
            let reported = node(rollout, name);
            assert_eq!(reported["runs"], json!(old.version), "{name}: {rollout:#}");
            assert_eq!(reported["state"] == "pending", name != canary, "{name}: {rollout:#}");
        }
        assert_eq!(fleet.others(canary), before, "somebody else was touched");
        let state = fleet.state(canary);
        let active = state.content(state.active).map(|content| content.digest.to_string());
        assert_eq!((active, state.trial), (Some(old.digest.clone()), None), "the slots of {canary}");
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

    fn has_no_room(&mut self, canary: &str) {
        let release = self.fleet.release(&good("too big"));
        // The slots move to a file system with a megabyte to spare, which is less than any agent has.
        self.fleet.node(canary).expect(&format!(
            "set -e; systemctl stop fleet-agent; mv {FOLDER} {FOLDER}.was; mkdir {FOLDER}; \
             size=$(du -sk {FOLDER}.was | cut -f1); mount -t tmpfs -o size=$((size + 1024))k tmpfs {FOLDER}; \
             cp -a {FOLDER}.was/. {FOLDER}/; systemctl start fleet-agent"
        ));
        self.stops(&release, canary, &[], "bytes of disk for download, program and one old copy");
        self.fleet.node(canary).expect(&format!(
            "set -e; systemctl stop fleet-agent; umount {FOLDER}; rmdir {FOLDER}; mv {FOLDER}.was {FOLDER}; \
             systemctl start fleet-agent"
        ));
    }

    fn is_corrupt(&mut self, canary: &str) {
        // On its way to the controller: that does not take it.
        let release = self.fleet.create(&good("damaged on the way"));
        damage(&release.folder.join("fleet-agent.gz"));
        self.refused(&release, "was announced as");
        // On the controller's own disk, later.
        let release = self.fleet.release(&good("corrupt"));
        damage(&self.fleet.home().join("artifacts").join(&release.packed));
        self.stops(&release, canary, &[], "does not match its digest");
    }

    fn has_a_wrong_signature(&mut self, canary: &str) {
        let release = self.fleet.create(&good("signed by nobody"));
        let manifest = release.folder.join("manifest");
        let signed = fs::read_to_string(&manifest).expect("a manifest");
        let forged = signed.replace(&release.version, &release.version.replace(".1", ".2"));
        assert_ne!(signed, forged);
        fs::write(&manifest, &forged).expect("written");
        self.refused(&release, "signature");
        // A controller that somebody broke into offers it all the same. Its canary is let in once it does.
        fs::write(&manifest, &signed).expect("written");
        self.fleet.publish(&release).expect(0);
        let gate = json!([{
            "name": "door", "when": "before", "check": {"command": {"argv": ["/usr/bin/test", "-e", "/run/open"]}},
        }]);
        let fleet = &self.fleet;
        self.stops_when(&release, canary, &[&format!("gates={gate}")], "the signature of", || {
            forge(fleet, &release, |record| record.manifest.clone_from(&forged));
            fleet.node(canary).expect("touch /run/open");
        });
    }

    fn is_an_unsigned_downgrade(&mut self, canary: &str) {
        let release = self.fleet.create_below(&good("an old one"));
        self.refused(&release, "is older than");
        let folder = release.folder.display().to_string();
        let everybody = self.fleet.nodes.keys().cloned().collect::<Vec<_>>().join(",");
        let permit = ["release", "permit", &folder, "--nodes", &everybody, "--reason", "a rehearsal"];
        self.fleet.sandbox.run(&permit).expect(0);
        self.fleet.publish(&release).expect(0);
        // A controller that somebody broke into offers it without the leave that makes it lawful.
        let gate = json!([{
            "name": "door", "when": "before", "check": {"command": {"argv": ["/usr/bin/test", "-e", "/run/leave"]}},
        }]);
        let fleet = &self.fleet;
        let why = "going back needs a signed permit";
        self.stops_when(&release, canary, &[&format!("gates={gate}")], why, || {
            forge(fleet, &release, |record| {
                assert_eq!(std::mem::take(&mut record.permits).len(), 1, "it came with its permit");
            });
            fleet.node(canary).expect("touch /run/leave");
        });
    }

    /// The controller does not take a release, and says `why`.
    #[track_caller]
    fn refused(&self, release: &Release, why: &str) {
        let refused = self.fleet.publish(release);
        assert!(matches!(refused.status, Some(1 | 64)), "{refused:?}");
        assert!(refused.err.contains(why), "no `{why}` in\n{}", refused.err);
    }
}
