//! What a changed plan has nodes do reaches them by waves, stops at the canary if it cannot be done, and outlives the
//! controller that began it.

use std::collections::BTreeMap;

use fleet_tests::eventually;
use serde_json::{Value, json};

use crate::fleet::{Fleet, PATIENCE, node};

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const CANARY: &str = "n3";
/// The canary, one of those who are left, then the rest.
const POLICY: &str =
    "{canaries: {named: [n3], drawn: 0}, waves: [1, 100%], canaryBake: 1s, bake: 1s, budgets: {inFlight: 1}}";

#[test]
fn a_changed_plan_goes_by_waves_and_stops_where_it_cannot_be_done() {
    let fleet = Fleet::up(&NODES);
    let everybody = |word: &str| NODES.map(|name| (name, word.to_owned())).into();
    assert_eq!(found(&fleet), everybody("ours"));
    let up = || fleet.sandbox.start(&["up", &fleet.plan()]);
    let run = || fleet.sandbox.run(&["up", &fleet.plan()]);

    fleet.wants(&says("theirs"), POLICY);
    let preview = fleet.sandbox.run(&["up", &fleet.plan(), "--preview", "--output", "json"]).expect(2).json();
    let waves: Vec<usize> =
        list(&preview["rollout"]["waves"]).map(|wave| list(&wave["nodes"]).count()).collect();
    assert_eq!(waves, [1, 1, 2], "{preview:#}");
    assert_eq!(preview["rollout"]["waves"][0]["nodes"], json!([CANARY]), "{preview:#}");
    assert_eq!(found(&fleet), everybody("ours"), "a preview changes nothing");
    run().expect(0);
    assert_eq!(found(&fleet), everybody("theirs"));

    // It can be done by nobody; only the canary finds out.
    fleet.wants(
        "{command: {args: [/bin/sh, -c, 'echo broken >/etc/motd; exit 7'], unless: [/bin/false]}}",
        POLICY,
    );
    let said = run().expect(5);
    for word in [CANARY, "status 7", "fleetctl rollout undo"] {
        assert!(said.err.contains(word), "no `{word}` in\n{}", said.err);
    }
    let mut halted: BTreeMap<&str, String> = everybody("theirs");
    halted.insert(CANARY, "broken".to_owned());
    assert_eq!(found(&fleet), halted);
    let rollout = fleet.sandbox.run(&["rollout", "status", "--output", "json"]).expect(5).json();
    assert_eq!(rollout["rollout"]["halted_nodes"], json!([CANARY]), "{rollout:#}");
    for name in NODES {
        assert_eq!(
            node(&rollout["rollout"], name)["state"] == "pending",
            name != CANARY,
            "{name}: {rollout:#}"
        );
    }
    fleet.sandbox.run(&["rollout", "undo"]).expect(0);
    fleet.sandbox.run(&["rollout", "watch"]).expect(0);
    assert_eq!(found(&fleet), everybody("theirs"), "the canary does what it did");

    // The controller dies as soon as the first node has the work, and another finds out what is left.
    fleet.wants(&says("everybody's"), POLICY);
    let mut begun = up();
    eventually("the canary has it", PATIENCE, || (found(&fleet)[CANARY] == "everybody's").then_some(()));
    fleet.kill_controller();
    begun.wait().expect("`up` is our child");
    assert_ne!(found(&fleet), everybody("everybody's"), "killed too late to show anything");
    run().expect(0);
    assert_eq!(found(&fleet), everybody("everybody's"));
    fleet.sandbox.run(&["up", &fleet.plan(), "--preview"]).expect(0);
}

/// A task that says a word.
fn says(word: &str) -> String {
    format!("{{file: {{path: /etc/motd, text: \"{word}\"}}}}")
}

/// What is said on each node.
fn found(fleet: &Fleet) -> BTreeMap<&'static str, String> {
    NODES.map(|name| (name, fleet.node(name).expect("cat /etc/motd").trim().to_owned())).into()
}

#[track_caller]
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap_or_else(|| panic!("no list: {value:#}")).iter()
}
