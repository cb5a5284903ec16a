//! The release before and this one, side by side: whoever is updated first, nothing stops.
//!
//! One fleet, four nodes, two controllers after each other on the same state. Each node's agent runs in a folder of its
//! own; the cloud is state only. What is asked of every pair: the agent enrols, holds a session, takes desired state,
//! answers, tells its health. Controllers further apart than that refuse: that is tested where versions can be made up.

mod node;
mod previous;

use std::{fs, path::Path, process::Command, time::Duration};

use fleet_release::Version;
use fleet_tests::{Sandbox, eventually, program, runs};
use node::Node;
use previous::previous;

const FLEET: &str = "versions";
/// Everything here takes seconds; the machines this runs on have two cores and other work.
const PATIENCE: Duration = Duration::from_secs(90);

fn plan(dir: &Path, nodes: &[&str]) -> String {
    let nodes: String =
        nodes.iter().map(|name| format!("          - {{name: {name}, image: Debian 12}}\n")).collect();
    let text = format!(
        "fleet: {FLEET}\ncloud: local\nlocations:\n  - id: EU6\n    domain: Versions\n    networks:\n      \
         - name: Front\n        subnet: 10.10.0.0/24\n        nodes:\n{nodes}"
    );
    let file = dir.join("plan.yaml");
    fs::write(&file, text).expect("written");
    file.display().to_string()
}

/// What a program in this folder calls itself.
fn version(folder: &Path, program: &str) -> Version {
    let said = Command::new(folder.join(program)).arg("--version").output().expect("it starts").stdout;
    let said = String::from_utf8(said).expect("text");
    let version = said.split_whitespace().next_back().unwrap_or_default();
    version.parse().unwrap_or_else(|why| panic!("{program} says {said:?}: {why}"))
}

/// What a node is asked for, whoever controls it, when its agent is of this version; says which generation it holds.
#[track_caller]
fn works(sandbox: &Sandbox, name: &str, agent: Version, neighbours: &[&str]) -> u64 {
    let hosts = Node::root(sandbox, name).join("etc/hosts");
    let seen = eventually(&format!("{name} works, beside {neighbours:?}"), PATIENCE, || {
        // Never all well: see below.
        let ended = sandbox.run(&["status", name, "--output", "json"]).expect(3);
        let seen = ended.json()["nodes"][0].clone();
        let (desired, observed) = (&seen["generation"]["desired"], &seen["generation"]["observed"]);
        let there = seen["connected"] == true && observed == desired && observed != 0;
        let its_own = seen["agent_version"] == agent.to_string();
        // Told with the results, or shortly after.
        let whole = !seen["health"]["reasons"].as_array()?.is_empty() && !seen["facts"].is_null();
        let hosts = fs::read_to_string(&hosts).unwrap_or_default();
        let knows = |neighbour: &&str| hosts.split_whitespace().any(|word| word == *neighbour);
        (there && its_own && whole && neighbours.iter().all(knows)).then_some(seen)
    });
    let result = |task: &str| {
        let tasks = seen["tasks"].as_array().expect("tasks");
        let found =
            tasks.iter().find(|one| one["name"] == task).unwrap_or_else(|| panic!("{task} in {seen:#}"));
        found["result"].as_str().expect("a word").to_owned()
    };
    for task in ["hostname", "hosts"] {
        assert!(matches!(result(task).as_str(), "changed" | "unchanged"), "{name}: {seen:#}");
    }
    // There are no disks in a folder, and it says so: health is what the agent found, not what was hoped.
    assert_eq!(result("root-volume"), "failed", "{name}: {seen:#}");
    assert_eq!(seen["health"]["level"], "failed", "{name}: {seen:#}");
    // A question to the agent and its answer.
    sandbox.run(&["repair", name]).expect(0);
    seen["generation"]["observed"].as_u64().expect("a number")
}

#[test]
fn whoever_is_updated_first_nothing_stops() {
    let old = previous();
    let new = program("fleetctl").parent().expect("a folder").to_owned();
    let [past, present] = [&old, &new].map(|folder| version(folder, "fleet-agent"));
    assert_eq!([version(&old, "fleetctl"), version(&new, "fleetctl")], [past, present]);
    assert!(
        past < present,
        "this tree still calls itself {present}: raise `version` in Cargo.toml after a release"
    );
    assert!(past.gets_along(present), "{past} cannot be updated to {present}");
    // The second half of a name is whose agent it has.
    let agent = |name: &str| if name.ends_with("new") { present } else { past };
    let mut sandbox = Sandbox::with_state_only_cloud(0);
    let dir = tempfile::tempdir().expect("a folder");
    // What seeds carry is not what runs here, and a debug build is too big for one.
    sandbox.set("FLEET_AGENT", &new.join("fleet-agent"));

    // The controller of before, an agent of each.
    sandbox.use_program(&old.join("fleetctl"));
    let first = ["old-old", "old-new"];
    sandbox.run(&["up", &plan(dir.path(), &first)]).expect(0);
    let mut nodes = vec![
        Node::start(&sandbox, "old-old", &old.join("fleet-agent")),
        Node::start(&sandbox, "old-new", &new.join("fleet-agent")),
    ];
    let before = first.map(|name| works(&sandbox, name, agent(name), &first));
    // This command line, that controller.
    sandbox.use_program(&new.join("fleetctl"));
    assert_eq!(first.map(|name| works(&sandbox, name, agent(name), &first)), before);

    // This controller on the state of the one before: sessions come back, more nodes join, of either kind.
    let pid = sandbox.controller_pid(FLEET).expect("it serves");
    sandbox.kill_controller(FLEET);
    eventually("it is gone", PATIENCE, || (!runs(pid)).then_some(()));
    let all = ["old-old", "old-new", "new-old", "new-new"];
    sandbox.run(&["up", &plan(dir.path(), &all)]).expect(0);
    nodes.push(Node::start(&sandbox, "new-old", &old.join("fleet-agent")));
    nodes.push(Node::start(&sandbox, "new-new", &new.join("fleet-agent")));
    let after = all.map(|name| works(&sandbox, name, agent(name), &all));
    assert!(after[0] > before[0] && after[1] > before[1], "generations only grow: {before:?}, {after:?}");
    for node in &mut nodes {
        assert!(node.alive(), "no agent ended meanwhile");
    }
    // An agent of before gives way to this one, on what it left: no enrolment, the same desired state.
    let updated = nodes.remove(0).replaced_by(&new.join("fleet-agent"));
    assert_eq!(works(&sandbox, "old-old", present, &all), after[0]);
    // And back: `rollback` must find what it left readable too.
    let back = updated.replaced_by(&old.join("fleet-agent"));
    assert_eq!(works(&sandbox, "old-old", past, &all), after[0]);
    drop((back, nodes));
    sandbox.run(&["down", "--yes"]).expect(0);
}
