//! What of each node can be reached, and from where.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use fleet_tests::Sandbox;
use serde_json::{Value, json};

use crate::nodes::{NODES, console, node};

/// Ports that the plan opens, and some that it does not: driver and cluster ports of the database among them.
const OPEN: [u16; 3] = [22, 5000, 8080];
const FILTERED: [u16; 4] = [21, 80, 28015, 29015];

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

/// From the host: what the plan opens answers, the rest is filtered.
pub fn ports_as_planned(status: &Value) {
    for name in NODES {
        let public = node(status, name)["public_ipv4"].as_str().expect("public");
        for port in OPEN {
            let met = knock(public, port);
            assert_eq!(met, Met::Listener, "{name} {public} port {port}");
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
pub fn private_ipv6_as_accepted(sandbox: &Sandbox, status: &Value, up: &[&str]) {
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
    let within = |address: &Value, of: &str| {
        address.as_str().and_then(|text| network(text).ok()).is_some_and(|found| network(of) == Ok(found))
    };
    // All that one network lets in are in one list; EU7 has two networks that let EU6 in, each with its own.
    let lists = cloud.list_in("network/ipAddressList", eu7["id"].as_str().expect("id"));
    let lets_in = |list: &&Value| {
        let ranges = list["ipAddress"].as_array().expect("ranges");
        ranges.iter().any(|range| within(&range["begin"], source))
    };
    let lists: Vec<&Value> = lists.iter().filter(lets_in).map(|list| &list["id"]).collect();
    let rule = rules
        .iter()
        .filter(|rule| lists.contains(&&rule["source"]["ipAddressList"]["id"]))
        .find(|rule| within(&rule["destination"]["ip"]["address"], &seed))
        .expect("a rule that lets EU6 in");
    let answer = cloud.operate("network/deleteFirewallRule", &json!({ "id": rule["id"] }));
    assert!(matches!(answer["responseCode"].as_str(), Some("OK" | "IN_PROGRESS")), "{answer}");
    assert_ne!(console.run(&reach, deadline).0, 0, "EU6 still reaches the seed without its rule");
    sandbox.run(&[up, &["--preview"]].concat()).expect(2);
    sandbox.run(up).expect(0);
    assert_eq!(console.run(&reach, deadline).0, 0, "`up` put the rule back");
}
