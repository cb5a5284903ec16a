//! The nodes of the reference plan, and ways to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use fleet_tests::{Console, Login, Sandbox, eventually};
use serde_json::{Value, json};

pub const FLEET: &str = "rethink";
pub const NODES: [&str; 5] =
    ["EU6rethink01", "EU7rethink01", "EU7rethinkSeed", "EU8rethink01", "EU9rethink01"];
/// The file of the reference plan.
pub fn reference_plan() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/plans/rethinkdb.yaml").display().to_string()
}

const GIB: u64 = 1 << 30;

pub fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no node {name}"))
}

pub fn console(sandbox: &Sandbox, name: &str) -> Console {
    let status = sandbox.run(&["cloud", "status", "--output", "json"]).expect(0).json();
    let servers = status["servers"].as_array().expect("servers");
    let server = servers.iter().find(|server| server["name"] == name).expect("the server is listed");
    Console::open(&PathBuf::from(server["console"].as_str().expect("a machine has a console")))
}

/// What the controller knows, whether or not everybody is ready.
pub fn status(sandbox: &Sandbox) -> Value {
    let ended = sandbox.run(&["status", "--output", "json"]);
    assert!(matches!(ended.status, Some(0 | 3)), "{ended:?}");
    ended.json()
}

/// Both forms of status agree, and every node is ready and well. Who came home first may have warned of those still on
/// their way; it looks again by itself.
pub fn status_in_both_forms(sandbox: &Sandbox) -> Value {
    eventually("every node is well", Duration::from_secs(180), || {
        let status = status(sandbox);
        let nodes = status["nodes"].as_array().expect("nodes");
        nodes.iter().all(|node| node["health"]["level"] == "ok").then_some(())
    });
    let status = sandbox.run(&["status", "--output", "json"]).expect(0).json();
    let text = sandbox.run(&["status"]).expect(0).out;
    let nodes = status["nodes"].as_array().expect("nodes");
    let names: BTreeSet<&str> = nodes.iter().filter_map(|node| node["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(NODES));
    for node in nodes {
        let (name, location) =
            (node["name"].as_str().expect("name"), node["location"].as_str().expect("location"));
        let (public, ipv6) =
            (node["public_ipv4"].as_str().expect("public"), node["ipv6"].as_str().expect("ipv6"));
        assert_eq!((&node["state"], &node["health"]["level"]), (&json!("ready"), &json!("ok")), "{node:#}");
        assert_eq!(node["generation"]["desired"], node["generation"]["observed"], "{node:#}");
        assert!(node["tasks"].as_array().is_some_and(|tasks| tasks.len() >= 9), "{node:#}");
        let line = text.lines().find(|line| line.starts_with(name)).expect("a line for each node");
        for word in [location, "ready", "ok", public, ipv6] {
            assert!(line.contains(word), "no `{word}` in `{line}`");
        }
    }
    status
}

/// On each node: the root file system spans both disks, and every other node has a name.
pub fn disks_and_names(sandbox: &Sandbox, status: &Value) {
    for name in NODES {
        let mut console = console(sandbox, name);
        assert_eq!(console.expect("hostname"), name);
        let volumes = console.expect("lvs --noheadings --units b --nosuffix -o lv_size rootvol00/rootlvol00");
        let size: u64 = volumes.trim().parse().expect("a size in bytes");
        // Two disks of 10 GiB, less a partition table and LVM's own areas.
        assert!(size > 19 * GIB, "{name}: root volume of {size} bytes");
        let df = console.expect("df --output=size -B1 / | tail -n 1");
        assert!(df.trim().parse::<u64>().expect("a size in bytes") > 18 * GIB, "{name}: {df}");
        for other in NODES {
            let resolved = console.expect(&format!("getent ahosts {other} | cut -d ' ' -f 1 | sort -u"));
            let wanted: std::net::Ipv6Addr =
                node(status, other)["ipv6"].as_str().expect("ipv6").parse().expect("an address");
            assert!(
                resolved.lines().any(|line| line.trim().parse() == Ok(wanted)) || name == other,
                "{name} resolves {other} to {resolved}, not {wanted}"
            );
        }
    }
}

/// How an operator reaches the nodes.
pub struct Ways {
    key: PathBuf,
    public: BTreeMap<String, String>,
}

impl Ways {
    /// By the key that `up` made for this home, to the addresses that status tells.
    pub fn of(sandbox: &Sandbox, status: &Value) -> Self {
        let public = |name: &str| node(status, name)["public_ipv4"].as_str().expect("public").to_owned();
        Self {
            key: sandbox.home().join("fleets").join(FLEET).join("ssh/id_ed25519"),
            public: NODES.iter().map(|name| ((*name).to_owned(), public(name))).collect(),
        }
    }

    /// Into one node.
    pub fn login(&self, name: &str) -> Login {
        Login { key: self.key.clone(), user: "fleet".to_owned(), address: self.public[name].clone() }
    }

    /// A page of the todo application on one node.
    pub fn todo(&self, name: &str) -> String {
        format!("https://{}:5000/", self.public[name])
    }
}
