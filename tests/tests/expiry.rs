//! A fleet with an end is taken down by its controller, also by one that was started since; `up` gives it another.

use std::{fs, time::Duration};

use fleet_tests::{Sandbox, eventually};
use serde_json::Value;

const FLEET: &str = "minimal";
/// The shortest there is.
const PLAN: &str = include_str!("../../packaging/plans/minimal.yaml");
/// The end, the minute that it is doubted for, and a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// When the fleet ends, as status tells.
fn end(sandbox: &Sandbox) -> Option<String> {
    let status = sandbox.run(&["--output", "json", "status"]).json();
    status["expires"].as_str().map(str::to_owned)
}

#[test]
fn the_controller_takes_an_expired_fleet_down() {
    let sandbox = Sandbox::with_state_only_cloud(0);
    let plan = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
    let up = |expires: &str| {
        fs::write(plan.path(), PLAN.replacen("cloud: local", &format!("cloud: local\n{expires}"), 1))
            .expect("written");
        sandbox.run(&["up", &plan.path().display().to_string()]).expect(0);
    };
    up("");
    assert_eq!(end(&sandbox), None, "fleets have no end unless the plan says so");
    up("expires: 30m");
    let first = end(&sandbox).expect("an end");
    let status = sandbox.run(&["status"]).out;
    assert!(status.contains("expires in") && status.contains("renews it"), "{status}");
    up("expires: 30m");
    let second = end(&sandbox).expect("an end");
    assert!(second > first, "renewed: {first}, {second}");

    up("expires: 60s");
    let last = end(&sandbox).expect("an end");
    // Another controller finds the end in the store; starting it renews nothing.
    sandbox.kill_controller(FLEET);
    sandbox.run(&["cloud", "orphans"]).expect(0);
    assert_eq!(end(&sandbox).as_ref(), Some(&last));
    let cloud = sandbox.cloud().expect("the cloud serves");
    assert_eq!(cloud.list("server/server").len(), 1);
    eventually("everything is gone", PATIENCE, || cloud.holdings().values().all(Vec::is_empty).then_some(()));
    let told = eventually("status tells", Duration::from_secs(10), || {
        let status: Value = sandbox.run(&["--output", "json", "status"]).json();
        status["activity"].as_str().filter(|activity| activity.contains("expired at")).map(str::to_owned)
    });
    assert!(told.contains(&last) && told.contains("fleetctl up"), "{told}");
    assert_eq!(end(&sandbox), None, "it has ended");
    // Down clears away what is left, and finds nothing.
    let down = sandbox.run(&["down", "--yes"]).expect(0);
    assert!(down.out.contains("servers: 0"), "{}", down.out);
    assert!(!sandbox.home().exists(), "the home is left");
}
