//! Imports through the public door: what maps to what, what is told of the rest, and the reference plan.

mod cloud_config;
mod forms;
mod keywords;
mod reference;
mod strange;

use std::collections::BTreeMap;

use fleet_import::{Import, Options, import};
use fleet_plan::ResolvedPlan;

/// The import of a plan; panics if there is none.
fn imported(text: &str) -> Import {
    imported_with(text, &Options::default())
}

fn imported_with(text: &str, options: &Options) -> Import {
    import("fittings.yaml", text, options).unwrap_or_else(|why| panic!("{why}: {why:?}\n{text}"))
}

/// What the imported plan means.
fn loaded(import: &Import) -> ResolvedPlan {
    let loaded = fleet_plan::load("plan.yaml", &import.plan, &BTreeMap::new());
    loaded.unwrap_or_else(|why| panic!("{why}\n{}", import.plan)).plan
}

/// Notes, one a line, with what became of the part in front.
fn told(import: &Import) -> String {
    import.notes.iter().map(|note| format!("{} {note}\n", note.fate.word())).collect()
}

/// A fleet of one node with these settings, each line of which begins at the margin.
fn with_node(settings: &str) -> String {
    let settings: String = settings.lines().map(|line| format!("            {line}\n")).collect();
    format!(
        "locationId: EU6\nblueprints:\n  - web:\n      domain:\n        name: Fox\n      ethernet:\n        name: Net\n        \
         subnet: 10.1.0.0\n      nodes:\n        - one:\n            appliance: Debian 12\n{settings}"
    )
}

/// Imports and loads; the plan must hold every line of `expected`, and the notes must be exactly those whose beginnings
/// are given, line numbers aside.
#[track_caller]
fn check(text: &str, expected: &[&str], notes: &[&str]) {
    let import = imported(text);
    assert_eq!(import.problems, None, "{}", import.plan);
    for line in expected {
        assert!(import.plan.contains(line), "no `{line}` in\n{}\nof\n{text}\n{}", import.plan, told(&import));
    }
    let found: Vec<String> =
        import.notes.iter().map(|note| format!("{}: {}", note.fate.word(), note.what)).collect();
    let fits =
        found.len() == notes.len() && found.iter().zip(notes).all(|(found, note)| found.starts_with(note));
    assert!(fits, "{found:#?}\nare not {notes:#?}\nof\n{text}");
}
