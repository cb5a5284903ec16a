//! The reference plan in plumbery's format comes to the same fleet as ours.

use std::collections::BTreeMap;

use fleet_import::{Fate, Options};
use fleet_plan::{ResolvedPlan, resolved::Template};

use crate::{imported, imported_with, loaded, told};

const FITTINGS: &str = include_str!("../../../../tests/plans/plumbery/fittings.yaml");
const OURS: &str = include_str!("../../../../packaging/plans/rethinkdb.yaml");

#[test]
fn the_imported_plan() {
    insta::assert_snapshot!(imported(FITTINGS).plan);
}

#[test]
fn what_is_told_about_it() {
    insta::assert_snapshot!(told(&imported(FITTINGS)));
}

#[test]
fn it_is_the_fleet_of_our_own_plan() {
    let set = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let size = set(&[("cpuPerNode", "2"), ("memoryPerNode", "4"), ("diskPerNode", "100")]);
    let ours = fleet_plan::load("rethinkdb.yaml", OURS, &size).expect("our own plan is fine").plan;
    let import = imported_with(FITTINGS, &Options { local: true, ..Options::default() });
    assert_eq!(import.problems, None);
    let theirs = loaded(&import);
    assert_eq!(kinds(&theirs), kinds(&ours));
    assert_eq!(infrastructure(theirs, &ours), infrastructure(ours.clone(), &ours));
}

/// Kinds of tasks of every node, in their order.
fn kinds(plan: &ResolvedPlan) -> Vec<(String, Vec<&'static str>)> {
    let of = |node: &fleet_plan::resolved::Node| node.tasks.iter().map(|task| task.work.kind()).collect();
    plan.nodes().map(|placed| (placed.node.name.to_string(), of(placed.node))).collect()
}

/// The plan without what may differ: its name, texts for people, the tasks' own settings.
fn infrastructure(mut plan: ResolvedPlan, like: &ResolvedPlan) -> ResolvedPlan {
    plan.fleet = like.fleet.clone();
    plan.recheck = like.recheck;
    plan.information = Template::default();
    let networks = plan.locations.iter_mut().flat_map(|location| &mut location.networks);
    for node in networks.flat_map(|network| &mut network.nodes) {
        node.information = Template::default();
        node.tasks.clear();
    }
    plan
}

#[test]
fn nothing_is_dropped_in_silence() {
    let import = imported(FITTINGS);
    let noted: Vec<usize> =
        import.notes.iter().flat_map(|note| note.also.iter().copied().chain([note.line])).collect();
    let mut commands = false;
    for (index, line) in FITTINGS.lines().enumerate() {
        let words = line.trim_start();
        let item = words.starts_with("- ");
        commands = if words.starts_with("runcmd:") { true } else { commands && (item || words.is_empty()) };
        if commands && item {
            assert!(noted.contains(&(index + 1)), "line {} is not noted: {line}", index + 1);
        }
    }
    assert!(import.notes.iter().any(|note| note.fate == Fate::Lost));
    assert!(!import.is_whole());
}
