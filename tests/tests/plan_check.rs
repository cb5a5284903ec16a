//! `fleetctl plan check` on good and bad plans.

use std::path::Path;

use fleet_tests::Sandbox;

fn plan(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/plans").join(name).display().to_string()
}

#[test]
fn our_own_plans_have_no_problems() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    let plans = std::fs::read_dir(plan("")).unwrap().map(|entry| entry.unwrap().path());
    let plans: Vec<_> = plans.filter(|path| path.extension().is_some_and(|kind| kind == "yaml")).collect();
    assert!(plans.len() >= 3, "{plans:?}");
    for plan in plans {
        let ended = sandbox.run(&["plan", "check", plan.to_str().unwrap()]).expect(0);
        assert!(ended.out.contains("no problems"), "{}", ended.out);
        assert_eq!(ended.err, "", "{}: no warnings either", plan.display());
    }
    assert!(!sandbox.home().exists(), "checking a plan leaves nothing behind");
}

/// A plan of ours, changed, in a folder of its own.
fn changed(dir: &tempfile::TempDir, name: &str, changes: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(plan(name)).expect("a plan that is shipped");
    for (old, new) in changes {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    let file = dir.path().join(name);
    std::fs::write(&file, text).expect("written");
    file.to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn files_that_are_not_there_are_found_before_anything_is_touched() {
    let (sandbox, dir) = (Sandbox::with_state_only_cloud(0), tempfile::tempdir().unwrap());
    // Its page stayed behind.
    let file = changed(&dir, "nginx.yaml", &[]);
    for command in [vec!["plan", "check", &file], vec!["up", &file]] {
        let ended = sandbox.run(&command).expect(64);
        assert!(ended.err.contains("nginx/index.html") && ended.err.contains("not there"), "{}", ended.err);
    }
    let json = sandbox.run(&["--output", "json", "plan", "check", &file]).expect(64).json();
    assert_eq!(json["problems"].as_array().unwrap().len(), 1);
    std::fs::create_dir(dir.path().join("nginx")).unwrap();
    std::fs::write(dir.path().join("nginx/index.html"), "here").unwrap();
    sandbox.run(&["plan", "check", &file]).expect(0);
    assert!(!sandbox.home().exists());
}

#[test]
fn a_console_that_is_open_to_everybody_is_a_warning() {
    let (sandbox, dir) = (Sandbox::with_state_only_cloud(0), tempfile::tempdir().unwrap());
    let file = changed(&dir, "rethinkdb.yaml", &[("from: [operator]", "from: [any]")]);
    let ended = sandbox.run(&["plan", "check", &file]).expect(0);
    assert!(ended.err.contains("warning:") && ended.err.contains("8080"), "{}", ended.err);
    let json = sandbox.run(&["--output", "json", "plan", "check", &file]).expect(0).json();
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1);
    assert!(json["warnings"][0]["line"].as_u64().unwrap() > 0);
}

#[test]
fn a_plan_that_needs_the_operators_address_says_how_to_give_it() {
    let (sandbox, dir) = (Sandbox::with_state_only_cloud(0), tempfile::tempdir().unwrap());
    let file = changed(&dir, "rethinkdb.yaml", &[("cloud: local", "cloud: {mcp: {region: dd-eu}}")]);
    sandbox.run(&["plan", "check", &file]).expect(0);
    let ended = sandbox.run(&["up", &file]).expect(64);
    assert!(ended.err.contains("--operator ADDRESS"), "{}", ended.err);
    let ended = sandbox.run(&["up", &file, "--operator", "192.0.2.7/24"]).expect(64);
    assert!(ended.err.contains("192.0.2.0/24"), "{}", ended.err);
    assert!(!sandbox.home().exists(), "nothing was touched");
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

#[test]
fn up_brings_what_the_plan_names_and_makes_a_key_where_there_is_none() {
    use std::os::unix::fs::PermissionsExt as _;

    let (sandbox, user) = (Sandbox::with_state_only_cloud(0), tempfile::tempdir().unwrap());
    let up = || {
        let mut command = sandbox.command(&["up", &plan("nginx.yaml")]);
        let ended: fleet_tests::Ended = command.env("HOME", user.path()).output().unwrap().into();
        ended.expect(0)
    };
    let first = up();
    assert_eq!(first.err.matches("no SSH key of yours").count(), 1, "{}", first.err);
    let fleet = sandbox.home().join("fleets/site");
    let mode = |file: &str| std::fs::metadata(fleet.join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ssh"), mode("ssh/id_ed25519")), (0o700, 0o600));
    let kept = || {
        let entries = std::fs::read_dir(fleet.join("artifacts")).unwrap().map(|entry| entry.unwrap().path());
        entries.collect::<Vec<_>>()
    };
    let page = std::fs::read(plan("nginx/index.html")).unwrap();
    let held = kept();
    assert!(held.iter().any(|file| std::fs::read(file).unwrap() == page), "{held:?}");

    let again = up();
    assert!(again.err.contains("0 changing calls"), "{}", again.err);
    assert!(!again.err.contains("no SSH key"), "the one that was made is taken again: {}", again.err);
    assert_eq!(kept(), held);
}
