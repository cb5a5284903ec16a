//! plumbery 17.5.22, unmodified, through the life of the reference fleet. What it must find and leave is in
//! `python/plumbery_life.py`; here is which operations it must have used, so that a script that does nothing is
//! found out.

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path, time::Duration};

use fleet_peers::{BRING_UP, Cloud, Python};

/// How long operations take, so that their states can be seen.
const DELAY: Duration = Duration::from_millis(250);
/// Loopback answers on all of it, so that plumbery reaches the nodes that `python/nodes.py` stands in for.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 0);

#[test]
fn the_reference_fleet_from_deploy_to_dispose() {
    let python = Python::with(Path::new(env!("CARGO_TARGET_TMPDIR")), "plumbery.txt");
    let cloud = Cloud::start(|settings| {
        settings.delays.default = DELAY;
        // What plumbery finds under way here it looks at again after half a minute, for each of five networks.
        settings.delays.by_operation.insert("DELETE_SERVER".to_owned(), Duration::ZERO);
        settings.public_ipv4 = PUBLIC;
    });
    let plan = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plans/plumbery/fittings.yaml");
    let ended = python.run(&cloud, "plumbery_life.py", &[&plan.display().to_string()]);
    assert!(ended.success, "{}", ended.output);
    let then = [
        "REBOOT_SERVER",
        "SHUTDOWN_SERVER",
        "DISABLE_SERVER_MONITORING",
        "DELETE_SERVER",
        "DELETE_NAT_RULE",
        "DELETE_FIREWALL_RULE",
        "REMOVE_PUBLIC_IP_BLOCK",
        "DELETE_VLAN",
        "DELETE_NETWORK_DOMAIN",
    ];
    let accepted = cloud.accepted();
    let wanted = BRING_UP.iter().chain(&then).copied();
    let missing: BTreeSet<&str> = wanted.filter(|name| !accepted.contains(*name)).collect();
    assert!(missing.is_empty(), "never accepted: {missing:?}; it had {accepted:?}");
}
