//! What somebody broke by hand is seen and repaired, and nothing else is touched.

use std::{collections::BTreeMap, panic::resume_unwind, thread, time::Duration};

use fleet_tests::{Sandbox, eventually};
use serde_json::{Value, json};

use crate::nodes::{console, node, status};

/// One node is damaged in many places; the schedule alone has to find that.
const NODE: &str = "EU6rethink01";
/// The damage, and the task that has to repair it.
const DAMAGE: [(&str, &str); 5] = [
    ("hosts", "sed -i '/EU9rethink01/d' /etc/hosts"),
    ("clock", "apt-get -qq -y remove chrony"),
    ("access", "rm /etc/ssh/sshd_config.d/10-fleet.conf && : >/home/fleet/.ssh/authorized_keys"),
    ("rethinkdb", "systemctl stop rethinkdb@fleet"),
    ("todo", "systemctl stop fleet-todo && rm /usr/local/lib/fleet/fleet-todo"),
];
/// Tasks whose work nobody touched.
const UNHARMED: [&str; 4] = ["hostname", "root-volume", "update", "certificate"];

/// Damages the node, waits for the next look, and holds what was repaired against what was damaged.
pub fn is_found_and_repaired(sandbox: &Sandbox) {
    everything_is_unchanged(sandbox);
    let mut console = console(sandbox, NODE);
    // Watched from before the first damage: a look may come while a slow one is still being done, and the next
    // look's results take the place of its.
    let repaired = thread::scope(|scope| {
        let watching = scope.spawn(|| repairs(sandbox));
        for (task, damage) in DAMAGE {
            let (status, said) = console.run(damage, Duration::from_secs(180));
            assert_eq!(status, 0, "damage for `{task}`: {said}");
        }
        watching.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    for (task, _) in DAMAGE {
        let lines = repaired[task]["changes"].as_array().expect("lines");
        assert!(!lines.is_empty(), "`{task}` says what differed: {:#}", repaired[task]);
    }
    for task in UNHARMED {
        assert!(!repaired.contains_key(task), "`{task}` was touched: {:#}", repaired[task]);
    }
    everything_is_unchanged(sandbox);
}

/// Watches until every damage was repaired; what each task said when it changed the node.
fn repairs(sandbox: &Sandbox) -> BTreeMap<String, Value> {
    let mut repaired: BTreeMap<String, Value> = BTreeMap::new();
    eventually("every damage is repaired", Duration::from_secs(900), || {
        for task in tasks(sandbox, NODE) {
            if task["result"] == "changed" {
                repaired.insert(task["name"].as_str().expect("a name").to_owned(), task);
            }
        }
        DAMAGE.iter().all(|(task, _)| repaired.contains_key(*task)).then_some(())
    });
    repaired
}

/// Waits until a look finds nothing to do on any node.
fn everything_is_unchanged(sandbox: &Sandbox) {
    eventually("a look that finds nothing to do", Duration::from_secs(600), || {
        let status = status(sandbox);
        let nodes = status["nodes"].as_array().expect("nodes");
        nodes
            .iter()
            .flat_map(|node| node["tasks"].as_array().expect("tasks"))
            .all(|task| task["result"] == json!("unchanged"))
            .then_some(())
    });
}

fn tasks(sandbox: &Sandbox, name: &str) -> Vec<Value> {
    node(&status(sandbox), name)["tasks"].as_array().expect("tasks").clone()
}
