//! What a fleet of machines that are there already needs of this operator: a way in, and a way back here.

use std::{
    collections::BTreeSet,
    env,
    net::{IpAddr, ToSocketAddrs as _, UdpSocket},
    path::{Path, PathBuf},
};

use fleet_hosts::Access;
use fleet_model::FleetName;
use fleet_plan::{ResolvedPlan, resolved::Cloud};

use crate::{
    failure::{Exit, Failure},
    home::Home,
    identity,
};

/// A user's own private keys, below ~/.ssh.
const USUAL: [&str; 2] = ["id_ed25519", "id_ecdsa"];
/// Host keys for everybody on this host.
const SYSTEM_KNOWN_HOSTS: &str = "/etc/ssh/ssh_known_hosts";

/// Notes for the controller how this operator gets into machines, if the fleet has such. Said anew by every command:
/// an agent's socket lives as long as its login.
pub fn note_access(home: &Home, fleet: &FleetName, named: &[PathBuf]) -> Result<(), Failure> {
    if home.cloud_of(fleet)? != Some(Cloud::Hosts) {
        return Ok(());
    }
    let dir = home.fleet(fleet);
    let user = env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh"));
    let agent = env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
    let mut access =
        access(named, user.as_deref(), agent, identity::own_key(&identity::ssh_dir(home, fleet)));
    // What was named before may be what lets in.
    let before = Access::read(&dir).keys.into_iter().filter(|file| file.is_file());
    let before: Vec<PathBuf> = before.filter(|file| !access.keys.contains(file)).collect();
    access.keys.extend(before);
    access
        .write(&dir)
        .map_err(|why| Failure::new(Exit::Failed, format!("note your SSH keys in {}: {why}", dir.display())))
}

/// The agent's keys, then the private halves of keys that were named, then the usual ones, then the fleet's own.
fn access(named: &[PathBuf], user: Option<&Path>, agent: Option<PathBuf>, own: Option<PathBuf>) -> Access {
    let private = named.iter().filter(|file| file.extension().is_some_and(|end| end == "pub"));
    let private = private.map(|file| std::path::absolute(file.with_extension("")).unwrap_or_default());
    let usual = user.into_iter().flat_map(|dir| USUAL.iter().map(|name| dir.join(name)));
    let mut keys: Vec<PathBuf> = Vec::new();
    for file in private.chain(usual).chain(own).filter(|file| file.is_file()) {
        if !keys.contains(&file) {
            keys.push(file);
        }
    }
    let known = user.map(|dir| dir.join("known_hosts"));
    let known_hosts = known.into_iter().chain([SYSTEM_KNOWN_HOSTS.into()]).filter(|file| file.is_file());
    Access { agent: agent.filter(|socket| socket.exists()), keys, known_hosts: known_hosts.collect() }
}

/// Addresses of this host by which the plan's machines see it, as far as routing here tells: those that traffic to them
/// leaves from. Sends nothing.
pub fn reach(plan: &ResolvedPlan) -> Vec<IpAddr> {
    let hosts = plan.nodes().filter_map(|placed| placed.node.host.clone());
    let from = |host: fleet_plan::resolved::Host| {
        let there = (host.address.as_str(), host.port).to_socket_addrs().ok()?.next()?;
        let any: IpAddr = if there.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(there).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    hosts.filter_map(from).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn keys_are_named_never_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            fs::write(dir.path().join(name), "secret").expect("written");
            dir.path().join(name)
        };
        let (deploy, usual, known) = (file("deploy"), file("id_ed25519"), file("known_hosts"));
        let found = access(
            &[file("deploy.pub"), dir.path().join("only.pub")],
            Some(dir.path()),
            Some(dir.path().join("gone.sock")),
            Some(usual.clone()),
        );
        assert_eq!(found.keys, [deploy, usual]);
        assert_eq!(found.agent, None, "its login has ended");
        assert_eq!(found.known_hosts.first(), Some(&known));
        found.write(dir.path()).expect("written");
        let noted = fs::read_dir(dir.path()).expect("a folder").flatten();
        let json = noted.filter(|entry| entry.path().extension().is_some_and(|end| end == "json"));
        let texts: Vec<String> = json.map(|entry| fs::read_to_string(entry.path()).expect("text")).collect();
        assert!(texts.len() == 1 && !texts[0].contains("secret"), "{texts:?}");
    }

    #[test]
    fn the_way_back_is_the_way_there() {
        let text = "fleet: f\ncloud: hosts\nlocations:\n  - id: home\n    nodes:\n      - {name: a, address: 127.0.0.1}\n      - {name: b, address: '127.0.0.1:2222'}\n";
        let plan = fleet_plan::load("p", text, &Default::default()).expect("no problems").plan;
        assert_eq!(reach(&plan), [IpAddr::from([127, 0, 0, 1])]);
    }
}
