//! Release keys that were put back from a copy of before a rotation: nobody signs with them for fleets that know better.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fleet_tests::{Ended, Sandbox};

/// Keys, a fleet that goes by them, and programs to release.
struct Releaser {
    sandbox: Sandbox,
    plan: String,
}

impl Releaser {
    fn up() -> Self {
        let sandbox = Sandbox::with_state_only_cloud(0);
        let plan = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/plans/minimal.yaml");
        let new = Self { sandbox, plan: plan.display().to_string() };
        new.run_up().expect(0);
        new
    }

    fn run_up(&self) -> Ended {
        self.sandbox.run(&["up", &self.plan])
    }

    fn keys(&self) -> PathBuf {
        self.sandbox.home().join("release-keys")
    }

    fn copy(&self, from: &Path, to: &Path) {
        fs::remove_dir_all(to).ok();
        fs::create_dir(to).expect("made");
        for entry in fs::read_dir(from).expect("there") {
            let entry = entry.expect("read");
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
        let private = fs::metadata(from).expect("there").permissions();
        fs::set_permissions(to, private).expect("set");
    }

    fn create(&self, version: &str) -> (String, Ended) {
        let folder = self.sandbox.home().join(format!("release-{version}")).display().to_string();
        // Nobody runs it: it has to be a file, no more.
        let ended = self.sandbox.run(&[
            "release",
            "create",
            "--agent",
            &self.plan,
            "--todo",
            &self.plan,
            "--version",
            version,
            "--out",
            &folder,
        ]);
        (folder, ended)
    }
}

#[test]
fn a_copy_of_before_a_rotation_signs_nothing() {
    let releaser = Releaser::up();
    let (folder, created) = releaser.create("7.0.0");
    created.expect(0);
    let (keys, copy) = (releaser.keys(), releaser.sandbox.home().join("copy"));
    releaser.copy(&keys, &copy);
    for role in ["release", "root"] {
        let rotated = releaser.sandbox.run(&["release", "rotate", role]).expect(0);
        assert!(rotated.err.contains("is worthless now"), "{}", rotated.err);
        releaser.run_up().expect(0);
        let newest = releaser.sandbox.home().join("newest");
        releaser.copy(&keys, &newest);
        releaser.copy(&copy, &keys);
        let refused = |ended: Ended| {
            let ended = ended.expect(64);
            let said = ended.err.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains("a copy of before a rotation"), "{said}");
            assert!(said.contains("hint: put the newest copy of"), "{said}");
        };
        refused(releaser.run_up());
        refused(releaser.create("7.0.1").1);
        refused(releaser.sandbox.run(&["release", "publish", &folder]));
        refused(releaser.sandbox.run(&["release", "permit", &folder, "--nodes", "a", "--reason", "why"]));
        refused(releaser.sandbox.run(&["release", "rotate", "root"]));
        assert!(!releaser.keys().join("root.2").exists(), "it would part from the fleet's for ever");
        releaser.copy(&newest, &keys);
        releaser.run_up().expect(0);
    }
}
