//! The reference fleet on real machines, from nothing to nothing, through the finished programs.
//!
//! One test, because there is one local cloud with machines per host and a boot is dear: each part goes on
//! where the one before it stopped.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use fleet_tests::{Console, Sandbox, eventually};
use serde_json::{Value, json};

const FLEET: &str = "rethink";
const NODES: [&str; 5] = ["EU6rethink01", "EU7rethink01", "EU7rethinkSeed", "EU8rethink01", "EU9rethink01"];
/// Ports of the plan, and some it does not open.
const OPEN: [u16; 3] = [22, 5000, 8080];
const FILTERED: [u16; 3] = [21, 80, 28015];
const GIB: u64 = 1 << 30;

fn reference_plan() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/plans/rethinkdb.yaml").display().to_string()
}

#[test]
fn the_reference_fleet_from_nothing_to_nothing() {
    let before = Traces::look();
    let sandbox = Sandbox::with_machines();
    let plan = reference_plan();

    killed_three_times(&sandbox, &plan);
    let up = sandbox.run(&["up", &plan]).expect(0);
    assert!(up.out.contains("ssh root@198.51.100."), "the information texts end `up`:\n{}", up.out);

    let status = status_in_both_forms(&sandbox);
    disks_and_names(&sandbox, &status);
    ports_as_planned(&status);
    private_ipv6_as_accepted(&sandbox, &status);
    nothing_to_do_again(&sandbox, &plan);
    restarts_are_survived(&sandbox);

    let down = sandbox.run(&["down", "--yes"]).expect(0);
    for line in ["servers: 0", "vlans: 0", "network domains: 0"] {
        assert!(down.out.contains(line), "no `{line}` in\n{}", down.out);
    }
    assert!(!sandbox.home().exists(), "the home is left");
    assert_eq!(Traces::look(), before, "processes, namespaces or links are left");
}

/// Kills `up` and its controller while resources are made, while machines boot, while agents come home.
fn killed_three_times(sandbox: &Sandbox, plan: &str) {
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
        let mut up = sandbox.start(&["up", plan]);
        // The first run may have to build the machine image.
        eventually(moment, Duration::from_secs(900), || {
            assert!(matches!(up.try_wait(), Ok(None)), "`up` ended before {moment}");
            reached(sandbox).then_some(())
        });
        up.kill().expect("`up` still runs");
        sandbox.kill_controller(FLEET);
        up.wait().expect("`up` is our child");
    }
}

/// Both forms of status agree, and every node is ready and well.
fn status_in_both_forms(sandbox: &Sandbox) -> Value {
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
        assert!(node["tasks"].as_array().is_some_and(|tasks| tasks.len() == 3), "{node:#}");
        let line = text.lines().find(|line| line.starts_with(name)).expect("a line for each node");
        for word in [location, "ready", "ok", public, ipv6] {
            assert!(line.contains(word), "no `{word}` in `{line}`");
        }
    }
    status
}

fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    let nodes = status["nodes"].as_array().expect("nodes");
    nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no node {name}"))
}

fn console(sandbox: &Sandbox, name: &str) -> Console {
    let status = sandbox.run(&["cloud", "status", "--output", "json"]).expect(0).json();
    let servers = status["servers"].as_array().expect("servers");
    let server = servers.iter().find(|server| server["name"] == name).expect("the server is listed");
    Console::open(&PathBuf::from(server["console"].as_str().expect("a machine has a console")))
}

/// On each node: the root file system spans both disks, and every other node has a name.
fn disks_and_names(sandbox: &Sandbox, status: &Value) {
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

/// What a connection attempt from the host meets.
#[derive(Debug, PartialEq)]
enum Met {
    Listener,
    Refusal,
    Silence,
}

fn knock(address: &str, port: u16) -> Met {
    let address: SocketAddr = format!("{address}:{port}").parse().expect("an address");
    match TcpStream::connect_timeout(&address, Duration::from_secs(3)) {
        Ok(_) => Met::Listener,
        Err(why) if why.kind() == ErrorKind::ConnectionRefused => Met::Refusal,
        Err(why) if why.kind() == ErrorKind::TimedOut => Met::Silence,
        Err(why) => panic!("{address}: {why}"),
    }
}

/// From the host: 22 answers, 5000 and 8080 reach the node (nothing listens yet), the rest is filtered.
fn ports_as_planned(status: &Value) {
    for name in NODES {
        let public = node(status, name)["public_ipv4"].as_str().expect("public");
        for port in OPEN {
            let met = knock(public, port);
            let wanted = if port == 22 { Met::Listener } else { Met::Refusal };
            assert_eq!(met, wanted, "{name} {public} port {port}");
        }
        for port in FILTERED {
            assert_eq!(knock(public, port), Met::Silence, "{name} {public} port {port}");
        }
        let ping = Command::new("ping").args(["-c", "1", "-W", "5", public]).output().expect("ping runs");
        assert!(ping.status.success(), "{name} {public} answers no ping");
    }
}

/// Between locations over private IPv6: open where the plan accepts, shut once the rule is gone, open again
/// after the next `up` put it back.
fn private_ipv6_as_accepted(sandbox: &Sandbox, status: &Value) {
    let seed = node(status, "EU7rethinkSeed")["ipv6"].as_str().expect("ipv6").to_owned();
    let mut console = console(sandbox, "EU6rethink01");
    let reach = format!("timeout 5 bash -c '</dev/tcp/{seed}/22'");
    let deadline = Duration::from_secs(60);
    assert_eq!(console.run(&reach, deadline).0, 0, "EU6 reaches the seed at {seed}");
    let cloud = sandbox.cloud().expect("the cloud serves");
    let domains = cloud.list("network/networkDomain");
    let eu7 = domains.iter().find(|domain| domain["datacenterId"] == "EU7").expect("a domain in EU7");
    let rules = cloud.list_in("network/firewallRule", eu7["id"].as_str().expect("id"));
    let source = node(status, "EU6rethink01")["ipv6"].as_str().expect("ipv6");
    let network =
        |address: &str| address.parse::<std::net::Ipv6Addr>().map(|address| address.octets()[..8].to_vec());
    let from = |rule: &&Value| rule["source"]["ip"]["address"].as_str().and_then(|text| network(text).ok());
    let to =
        |rule: &&Value| rule["destination"]["ip"]["address"].as_str().and_then(|text| network(text).ok());
    let rule = rules
        .iter()
        .find(|rule| from(rule) == network(source).ok() && to(rule) == network(&seed).ok())
        .expect("a rule that lets EU6 in");
    let answer = cloud.operate("network/deleteFirewallRule", &json!({ "id": rule["id"] }));
    assert!(matches!(answer["responseCode"].as_str(), Some("OK" | "IN_PROGRESS")), "{answer}");
    assert_ne!(console.run(&reach, deadline).0, 0, "EU6 still reaches the seed without its rule");
    sandbox.run(&["up", &reference_plan(), "--preview"]).expect(2);
    sandbox.run(&["up", &reference_plan()]).expect(0);
    assert_eq!(console.run(&reach, deadline).0, 0, "`up` put the rule back");
}

fn nothing_to_do_again(sandbox: &Sandbox, plan: &str) {
    let before = sandbox.cloud().expect("the cloud serves").changing_calls();
    let again = sandbox.run(&["up", plan, "--output", "json"]).expect(0).json();
    assert_eq!(again["changing_calls"], 0, "{again}");
    assert_eq!(sandbox.cloud().expect("the cloud serves").changing_calls(), before);
}

/// The controller and the cloud are killed; machines go on, agents come back by themselves.
fn restarts_are_survived(sandbox: &Sandbox) {
    sandbox.kill_cloud();
    sandbox.kill_controller(FLEET);
    let again = sandbox.run(&["up", &reference_plan(), "--output", "json"]).expect(0).json();
    assert_eq!(again["changing_calls"], 0, "{again}");
    assert_eq!(sandbox.run(&["status"]).expect(0).out.matches("ready").count(), NODES.len());
}

/// What a local cloud leaves on a host while it lives.
#[derive(Debug, PartialEq)]
struct Traces {
    processes: BTreeSet<String>,
    namespaces: String,
    links: BTreeSet<String>,
    routes: String,
}

impl Traces {
    fn look() -> Self {
        let say = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().expect("the program runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        // One that ended but that nobody has waited for is not left: where tests run, the first process may not
        // be one that reaps.
        let ours = |line: &&str| {
            let named = ["qemu-system", "slirp4netns", "fleetctl"].iter().any(|name| line.contains(name));
            named && !line.contains("<defunct>")
        };
        let processes = say("ps", &["-eo", "pid=,args="]);
        let links = say("ip", &["-o", "link", "show"]);
        Self {
            processes: processes.lines().filter(ours).map(str::to_owned).collect(),
            namespaces: say("ip", &["netns", "list"]),
            links: links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect(),
            routes: say("ip", &["route", "show"]),
        }
    }
}
