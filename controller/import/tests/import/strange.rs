//! Whatever stands there, an import never panics, and what it writes is a plan unless it says otherwise.

use std::collections::BTreeMap;

use fleet_import::{Options, import};
use proptest::prelude::*;

/// Words an importer may trip over, in any place.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "one",
        "web[1..3]",
        "web[9..1]",
        "[x..y]",
        "10.0.0.0",
        "10.0.0.0/99",
        "{{ parameter.x }}",
        "{{ node.public }}",
        "{{",
        "}}",
        "{{ {{ parameter.x }}.ipv6 }}",
        "internet 22 any",
        "1 50 standard",
        "4 2 highperformance",
        "EU6",
        "EU6::Net",
        "::",
        "root",
        "Net",
        "Fox",
        "cls",
        "service x start",
        "git clone a b",
        "mkdir -p /x/{{ node.name }}",
        "a && b",
        "rethinkdb",
        "apt-get install -y rethinkdb",
        "join={{ one.ipv6 }}",
        "/etc/rethinkdb/instances.d/a.conf",
        "python todo.py --setup",
        "rethinkdb-example-flask-backbone-todo",
        "~",
        "",
        "ä",
        "0755",
        "true",
        "12",
        "essentials",
        "Ubuntu 14",
        "\"",
        "'",
        "#",
        "b64",
        "ssh-rsa AAAA",
        "a: b",
    ];
    prop_oneof![proptest::sample::select(words.to_vec()).prop_map(str::to_owned), "\\PC{0,8}"]
}

const KEYS: [&str; 48] = [
    "information",
    "links",
    "parameters",
    "defaults",
    "keys",
    "actions",
    "buildPolisher",
    "safeMode",
    "locationId",
    "regionId",
    "apiHost",
    "basement",
    "prepare",
    "blueprints",
    "domain",
    "ethernet",
    "nodes",
    "balancers",
    "pool",
    "name",
    "description",
    "service",
    "ipv4",
    "subnet",
    "accept",
    "reserved",
    "destroy",
    "default",
    "appliance",
    "cpu",
    "memory",
    "disks",
    "glue",
    "monitoring",
    "backup",
    "cloud-config",
    "windows",
    "running",
    "packages",
    "write_files",
    "runcmd",
    "users",
    "path",
    "content",
    "type",
    "x",
    "cls",
    "ssh_authorized_keys",
];

/// A value as flow YAML, quoted so that it is YAML.
fn value() -> impl Strategy<Value = String> {
    let quoted = word().prop_map(|word| {
        let fine: String = word.chars().filter(|c| !c.is_control()).collect();
        format!("\"{}\"", fine.replace('\\', "\\\\").replace('"', "\\\""))
    });
    quoted.prop_recursive(5, 48, 6, |inner| {
        let key = proptest::sample::select(KEYS.to_vec());
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            proptest::collection::vec((key, inner), 0..7).prop_map(|entries| {
                let entries: Vec<String> =
                    entries.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
                format!("{{{}}}", entries.join(", "))
            }),
        ]
    })
}

/// A fleet whose parts are sound but for the values in them.
fn fleet() -> impl Strategy<Value = String> {
    (proptest::collection::vec(value(), 12), proptest::collection::vec(word(), 2)).prop_map(|(v, w)| {
        let plain = |text: &str| text.replace(|c: char| c.is_control() || "\"'\\#:{}[],&*!|>%@`".contains(c), "");
        format!(
            "information: {}\nparameters: {{x: {{information: a, type: str, default: one}}}}\ndefaults:\n  cls: {}\n  cloud-config: {}\n  \
             {}: {}\n---\nlocationId: EU6\nblueprints:\n  - web:\n      domain: {{name: Fox, service: {}}}\n      ethernet: {{name: Net, subnet: 10.1.0.0, accept: {}}}\n      \
             nodes:\n        - one:\n            default: cls\n            glue: {}\n            disks: {}\n            cloud-config:\n              runcmd: {}\n              \
             write_files: [{{path: /x, content: {}}}]\n              users: {}\n        - \"{}\": {}\n",
            v[0], v[1], v[2], KEYS[w[0].len() % KEYS.len()], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10],
            plain(&w[1]), v[11],
        )
    })
}

/// Imports; what is written must load, or be told to be wrong.
fn never_panics(text: &str) -> Result<(), TestCaseError> {
    let Ok(done) = import("fittings.yaml", text, &Options::default()) else { return Ok(()) };
    let loaded = fleet_plan::load("plan.yaml", &done.plan, &BTreeMap::new());
    prop_assert_eq!(loaded.err(), done.problems.clone());
    if let Some(problems) = &done.problems {
        // Only what the text itself lacks; never words our own reader does not know.
        for problem in &problems.problems {
            let ours = ["not YAML", "unknown key", "unknown task", "given twice in", "must be a"];
            prop_assert!(
                !ours.iter().any(|words| problem.message.contains(words)),
                "{}\n{}",
                problem,
                done.plan
            );
        }
    }
    for note in &done.notes {
        prop_assert!(note.line >= 1 && note.line <= text.lines().count().max(1) + 1);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        never_panics(&text)?;
    }

    #[test]
    fn any_shape(head in value(), location in value()) {
        never_panics(&format!("{head}\n---\n{location}\n"))?;
        never_panics(&format!("locationId: EU6\nblueprints: {location}\ninformation: {head}\n"))?;
    }

    #[test]
    fn any_fleet(text in fleet()) {
        never_panics(&text)?;
    }

    #[test]
    fn any_part_of_a_real_one(start in 0..9000_usize, end in 0..9000_usize, word in word()) {
        let text = include_str!("../../../../tests/plans/plumbery/fittings.yaml");
        let cut = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let (start, end) = (cut(start.min(end)), cut(start.max(end)));
        never_panics(&format!("{}{word}{}", &text[..start], &text[end..]))?;
    }
}
