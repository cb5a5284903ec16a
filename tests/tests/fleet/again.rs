//! Nothing to do twice, and nothing lost by a restart.

use fleet_tests::Sandbox;
use serde_json::Value;

use crate::nodes::{FLEET, NODES, status};

pub fn nothing_to_do(sandbox: &Sandbox, up: &[&str]) {
    let before = sandbox.cloud().expect("the cloud serves").changing_calls();
    let again = as_json(sandbox, up);
    assert_eq!(again["changing_calls"], 0, "{again}");
    assert_eq!(sandbox.cloud().expect("the cloud serves").changing_calls(), before);
}

/// The controller and the cloud are killed; machines go on, agents come back by themselves.
pub fn restarts_are_survived(sandbox: &Sandbox, up: &[&str]) {
    sandbox.kill_cloud();
    sandbox.kill_controller(FLEET);
    let again = as_json(sandbox, up);
    assert_eq!(again["changing_calls"], 0, "{again}");
    let status = status(sandbox);
    let ready = status["nodes"].as_array().expect("nodes").iter().filter(|node| node["state"] == "ready");
    assert_eq!(ready.count(), NODES.len(), "{status:#}");
}

fn as_json(sandbox: &Sandbox, up: &[&str]) -> Value {
    sandbox.run(&[up, &["--output", "json"]].concat()).expect(0).json()
}
