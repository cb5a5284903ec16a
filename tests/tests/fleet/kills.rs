//! The run is cut where it hurts.

use std::time::Duration;

use fleet_tests::{Sandbox, eventually};
use serde_json::json;

use crate::nodes::{FLEET, NODES};

/// Kills `up` and its controller while resources are made, while machines boot, while agents come home.
pub fn three_times(sandbox: &Sandbox, up: &[&str]) {
    /// Whether the moment has come.
    type Reached = fn(&Sandbox) -> bool;
    let moments: [(&str, Reached); 3] = [
        ("servers are being made", |sandbox| {
            sandbox.cloud().is_some_and(|cloud| !cloud.list("server/server").is_empty())
        }),
        ("machines boot", |sandbox| {
            let started = |cloud: fleet_tests::LocalCloud| {
                cloud.list("server/server").iter().filter(|server| server["started"] == json!(true)).count()
            };
            sandbox.cloud().is_some_and(|cloud| started(cloud) == NODES.len())
        }),
        ("a first agent is home", |sandbox| {
            let states = sandbox.run(&["status", "--output", "json"]);
            states.out.contains("\"converging\"")
                || states.out.contains("\"enrolled\"")
                || states.out.contains("\"ready\"")
        }),
    ];
    for (moment, reached) in moments {
        let mut up = sandbox.start(up);
        // The first run may have to build the machine image.
        eventually(moment, Duration::from_secs(900), || {
            assert!(matches!(up.try_wait(), Ok(None)), "`up` ended before {moment}:\n{}", sandbox.said());
            reached(sandbox).then_some(())
        });
        up.kill().expect("`up` still runs");
        sandbox.kill_controller(FLEET);
        up.wait().expect("`up` is our child");
    }
}
