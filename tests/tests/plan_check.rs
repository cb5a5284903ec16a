//! `fleetctl plan check` on good and bad plans.

use std::path::Path;

use fleet_tests::Sandbox;

fn plan(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/plans").join(name).display().to_string()
}

#[test]
fn our_own_plans_have_no_problems() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    for name in ["rethinkdb.yaml", "minimal.yaml"] {
        let ended = sandbox.run(&["plan", "check", &plan(name)]).expect(0);
        assert!(ended.out.contains("no problems"), "{}", ended.out);
    }
    assert!(!sandbox.home().exists(), "checking a plan leaves nothing behind");
}

#[test]
fn every_problem_is_reported_at_once_with_its_place() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.yaml");
    let text = std::fs::read_to_string(plan("minimal.yaml")).unwrap();
    let text = text
        .replace("fleet: minimal", "fleet: minimal\ncolour: red")
        .replace("internet: [icmp, 22]", "internet: [icmp, 99999]");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let ended = sandbox.run(&["plan", "check", file]).expect(64);
    assert!(ended.err.contains("colour") && ended.err.contains("99999"), "{}", ended.err);
    assert!(ended.err.contains("2 problems"), "{}", ended.err);
    let json = sandbox.run(&["--output", "json", "plan", "check", file]).expect(64).json();
    let problems = json["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2);
    assert!(problems.iter().all(|problem| problem["line"].as_u64().unwrap() > 0));
}

#[test]
fn a_parameter_out_of_range_names_the_range() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    let ended = sandbox.run(&["plan", "check", &plan("rethinkdb.yaml"), "--set", "diskPerNode=5"]).expect(64);
    assert!(ended.err.contains("10") && ended.err.contains("1000"), "{}", ended.err);
}

#[test]
fn a_plan_that_is_not_there_is_one_clear_error() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    let ended = sandbox.run(&["up", "/nowhere/plan.yaml"]).expect(64);
    assert!(ended.err.contains("/nowhere/plan.yaml") && ended.err.contains("hint:"), "{}", ended.err);
}
