//! Both peers on real machines, with the image of the end-to-end fleet. One test, because there is one local cloud
//! with machines per host, and never beside that fleet: one test program runs after the other. The peers work at the
//! same time, each in its own location.

use std::{path::Path, thread};

use fleet_peers::{Cloud, Python};

#[test]
fn what_peers_ask_for_is_what_machines_are() {
    let python = Python::with(Path::new(env!("CARGO_TARGET_TMPDIR")), "plumbery.txt");
    let cloud = Cloud::with_machines();
    let plan = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/machine.yaml").display().to_string();
    let ended = thread::scope(|scope| {
        let libcloud = scope.spawn(|| python.run(&cloud, "libcloud_machine.py", &[]));
        let plumbery = scope.spawn(|| python.run(&cloud, "plumbery_machine.py", &[&plan]));
        [libcloud, plumbery].map(|script| script.join().expect("it ended"))
    });
    for script in &ended {
        eprintln!("{}", script.output);
    }
    assert!(ended.iter().all(|script| script.success), "a peer is not content: see above");
    let accepted = cloud.accepted();
    for operation in ["CLONE_SERVER", "SHUTDOWN_SERVER", "ADD_DISK", "REBOOT_SERVER"] {
        assert!(accepted.contains(operation), "no {operation} in {accepted:?}");
    }
    assert_eq!(cloud.servers(), 0, "servers are left");
}
