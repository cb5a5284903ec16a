//! One machine is gone for good, and another takes its place.

use std::time::Duration;

use fleet_tests::{Sandbox, eventually};

use crate::nodes::{Ways, node, status};

/// Replaces `name`: it comes back under its name with another machine and identity, and the fleet is whole.
pub fn comes_back_as_itself(sandbox: &Sandbox, name: &str, ways: &Ways) {
    let machine = |ways: &Ways| {
        let said = ways.login(name).run("cat /etc/machine-id && sudo -n sha256sum /var/lib/fleet-agent/key");
        assert!(said.status.success(), "{name}: {said:?}");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let before = machine(ways);
    sandbox.run(&["replace", name, "--yes"]).expect(0);
    let status = status(sandbox);
    assert_eq!(node(&status, name)["state"], "ready", "{:#}", node(&status, name));
    let ways = Ways::of(sandbox, &status);
    let after = eventually("the operator's login on the new machine", Duration::from_secs(60), || {
        ways.login(name).run("true").status.success().then(|| machine(&ways))
    });
    for (old, new) in before.lines().zip(after.lines()) {
        assert_ne!(old, new, "the machine or its key is the old one");
    }
}
