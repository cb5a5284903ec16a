//! One life of the finished programs: every kill is a real one.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use fleet_plan::ResolvedPlan;
use fleet_tests::{LocalCloud, Sandbox, eventually, runs};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    check,
    life::FLEET,
    schedule::{Moment, What, phases, reference_text},
};

/// The programs are more patient than a test can be: trouble passes in every schedule of theirs.
const MOST_TIMES: u64 = 4;
/// How long a command, or a cloud on its way up, may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A plan as a file and as what it means.
struct Plan {
    file: String,
    means: ResolvedPlan,
}

/// Lives the life of `seed` through `fleetctl`; says what happens if it is to be `loud`.
pub fn live(seed: u64, loud: bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Where the operator is depends on the host; here the console is open to everybody.
    let text = reference_text().replace("- {port: 8080, from: [operator]}", "- {port: 8080, from: [any]}");
    let plan = write(folder.path(), "plan.yaml", &text);
    let changed = write(folder.path(), "changed.yaml", &changed(&text, &mut rng));
    let sandbox =
        Sandbox::with_state_only_cloud(*[0, 5, 20].get(rng.random_range(0..3)).expect("one of three"));
    let [up, again, down] = phases(&mut rng).map(passing);
    // Starts the cloud, so that it can be told to go wrong.
    sandbox.run(&["up", &plan.file, "--preview"]).expect(2);
    let life = Life { sandbox, loud };
    for (plan, moments) in [(&plan, up), (&changed, again)] {
        life.phase(&["up", &plan.file, "--yes"], moments);
        let cloud = life.healthy();
        check::as_planned(&cloud, &plan.means, None);
        let before = cloud.changing_calls();
        life.sandbox.run(&["up", &plan.file]).expect(0);
        assert_eq!(cloud.changing_calls(), before, "another run changes things");
    }
    let said = life.phase(&["down", "--yes"], down);
    let kinds = [
        "servers",
        "nat rules",
        "firewall rules",
        "address lists",
        "public ip blocks",
        "vlans",
        "network domains",
    ];
    for kind in kinds {
        assert!(said.contains(&format!("{kind}: 0")), "no proof for {kind}: {said}");
    }
    assert!(!life.sandbox.home().exists(), "the home is left");
}

fn write(folder: &Path, name: &str, text: &str) -> Plan {
    let file = folder.join(name);
    fs::write(&file, text).expect("a file");
    let means =
        fleet_plan::load(name, text, &BTreeMap::new()).unwrap_or_else(|why| panic!("{name}: {why:?}")).plan;
    Plan { file: file.display().to_string(), means }
}

/// Some of what an operator may change, at least one thing.
fn changed(text: &str, rng: &mut StdRng) -> String {
    let (brussels, disk) = (rng.random(), rng.random());
    let mut text = text.to_owned();
    if brussels {
        let kept = text.split("  - id: EU9").next().expect("the first part").lines();
        let kept: Vec<&str> = kept.filter(|line| !line.trim_start().starts_with("- EU9::")).collect();
        text = kept.join("\n") + "\n";
    }
    if disk {
        text = text.replace("    default: 10\n    minimum: 10", "    default: 12\n    minimum: 10");
    }
    if rng.random() || !(brussels || disk) {
        text = text.replace("    - 5000\n", "    - 9000\n");
    }
    text
}

/// The same moments, each fault a few times at most.
fn passing(mut moments: Vec<Moment>) -> Vec<Moment> {
    for moment in &mut moments {
        if let What::Fault(fault) = &mut moment.what {
            let count = fault["count"].as_u64().expect("a number").min(MOST_TIMES);
            fault["count"] = json!(count);
        }
    }
    moments
}

struct Life {
    sandbox: Sandbox,
    loud: bool,
}

impl Life {
    /// Runs a command until it ends well while `moments` happen; returns what it said at last.
    fn phase(&self, arguments: &[&str], moments: Vec<Moment>) -> String {
        let mut moments = moments.into_iter().peekable();
        // Calls the present cloud had answered before this phase, and those that its dead predecessors answered in it.
        let (mut base, mut earlier) = (self.cloud().changing_calls(), 0);
        loop {
            let mut command = self.sandbox.start(arguments);
            let mut cut = false;
            while let Some(next) = moments.peek() {
                let due = self.wait_for(&mut command, |cloud| {
                    cloud.try_changing_calls().is_some_and(|calls| {
                        let answered = calls.saturating_sub(base) + earlier;
                        u64::try_from(answered).is_ok_and(|answered| answered >= next.after)
                    })
                });
                if !due {
                    break;
                }
                if self.loud {
                    eprintln!("{next:?}");
                }
                match moments.next().expect("it was there").what {
                    What::Fault(fault) => self.fault(&fault),
                    What::RestartCloud { .. } => {
                        let calls = self.sandbox.cloud().and_then(|cloud| cloud.try_changing_calls());
                        earlier += calls.map_or(0, |calls| calls.saturating_sub(base));
                        base = 0;
                        self.restart_cloud();
                    }
                    What::RestartController => {
                        // It may have ended meanwhile.
                        let _ = command.kill();
                        self.sandbox.kill_controller(FLEET);
                        cut = true;
                        break;
                    }
                }
            }
            let status = command.wait().expect("it is our child").code();
            let said = self.sandbox.said();
            if self.loud {
                eprintln!("{arguments:?} ended with {status:?}\n{said}");
            }
            match status {
                Some(0) if !cut => return said,
                Some(_) if !cut => {
                    let reason = said.lines().any(|line| line.starts_with("error: "));
                    assert!(reason, "{arguments:?} ended with {status:?} and no reason:\n{said}");
                    check::nothing_twice(&self.healthy());
                    // Nothing more goes wrong: the next run must end as planned.
                    return self.sandbox.run(arguments).expect(0).out;
                }
                _ => assert!(cut, "{arguments:?} was ended by a signal that is not ours:\n{said}"),
            }
        }
    }

    /// Waits until `due`, or says that the command ended first.
    fn wait_for(&self, command: &mut Child, due: impl Fn(&LocalCloud) -> bool) -> bool {
        eventually("a moment of the schedule", PATIENCE, || {
            if command.try_wait().expect("it is our child").is_some() {
                return Some(false);
            }
            // `down` takes the cloud along at its end.
            self.sandbox.cloud().filter(&due).map(|_| true)
        })
    }

    fn fault(&self, fault: &Value) {
        if let Some(cloud) = self.sandbox.cloud() {
            cloud.try_fault(fault);
        }
    }

    /// As a power cut of the cloud's host that the others survive.
    fn restart_cloud(&self) {
        let Some(before) = self.sandbox.cloud_pid() else { return };
        self.sandbox.kill_cloud();
        // It holds its folder until it is gone.
        eventually("the cloud is dead", PATIENCE, || (!runs(before)).then_some(()));
        let mut serve = self.sandbox.command(&["cloud", "serve"]);
        let serve = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        drop(serve.expect("fleetctl starts"));
        // `down` that is at its end has removed the home, and nothing comes up there again.
        eventually("the cloud is back", PATIENCE, || {
            let back =
                self.sandbox.cloud_pid().is_some_and(|pid| pid != before) && self.sandbox.cloud().is_some();
            (back || !self.sandbox.home().exists()).then_some(())
        });
    }

    fn cloud(&self) -> LocalCloud {
        eventually("the cloud serves", PATIENCE, || self.sandbox.cloud())
    }

    /// The cloud behind the programs' back, with nothing left that goes wrong.
    fn healthy(&self) -> LocalCloud {
        let cloud = self.cloud();
        cloud.clear_faults();
        cloud
    }
}
