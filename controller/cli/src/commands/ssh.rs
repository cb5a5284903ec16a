//! `fleetctl ssh NODE`: the system's own ssh, with this fleet's key and its own list of known hosts.

use std::{ffi::OsString, os::unix::process::CommandExt as _, path::Path, process::Command};

use fleet_proto::v1::{NodeStatus, StatusRequest};

use crate::{
    args::{Global, Ssh},
    connect::{connect, refused},
    failure::{Exit, Failure},
    home::{Home, make_private},
    identity,
};

/// Who logs in where the plan names nobody.
const ROOT: &str = "root";
/// A machine that is there answers at once; ssh itself would wait minutes.
const CONNECT: &str = "ConnectTimeout=15";
/// Hosts seen before, in the fleet's folder: addresses of one fleet mean other machines in the next.
pub const KNOWN_HOSTS: &str = "known_hosts";

pub async fn run(global: &Global, args: Ssh) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleet = home.chosen(global)?;
    let (mut operator, _) = connect(&home.fleet(&fleet), &fleet).await?;
    let request = StatusRequest { node: args.node.to_string() };
    let status = operator.status(request).await.map_err(|status| refused(&status))?.into_inner();
    let Some(node) = status.nodes.into_iter().next().filter(|node| !node.public_ipv4.is_empty()) else {
        return Err(Failure::new(Exit::Failed, format!("node `{}` has no public address", args.node))
            .hint("give it `internet: [22]` in the plan; `fleetctl cloud console` reaches machines of the local cloud"));
    };
    let dir = identity::ssh_dir(&home, &fleet);
    make_private(&dir).map_err(|why| Failure::new(Exit::Failed, format!("make {}: {why}", dir.display())))?;
    // Only returns if it could not be started.
    let why = Command::new("ssh").args(arguments(&node, &dir, &args.command)).exec();
    Err(Failure::new(Exit::Input, format!("start ssh: {why}")).hint("install openssh-client"))
}

fn arguments(node: &NodeStatus, dir: &Path, command: &[String]) -> Vec<OsString> {
    let user = if node.login.is_empty() { ROOT } else { node.login.as_str() };
    let mut known_hosts = OsString::from("UserKnownHostsFile=\"");
    known_hosts.push(dir.join(KNOWN_HOSTS));
    known_hosts.push("\"");
    let mut arguments: Vec<OsString> =
        ["-o", "StrictHostKeyChecking=accept-new", "-o", CONNECT, "-o"].map(OsString::from).into();
    arguments.push(known_hosts);
    if let Some(key) = identity::own_key(dir) {
        arguments.extend(["-i".into(), key.into()]);
    }
    arguments.extend(["-l", user, node.public_ipv4.as_str()].map(OsString::from));
    if !command.is_empty() {
        arguments.push("--".into());
        arguments.extend(command.iter().map(OsString::from));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let check = |login: &str, command: &[&str], expected: &str| {
            let node =
                NodeStatus { login: login.into(), public_ipv4: "192.0.2.7".into(), ..NodeStatus::default() };
            let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            let words: Vec<String> = arguments(&node, dir.path(), &command)
                .into_iter()
                .map(|word| word.to_string_lossy().replace(&dir.path().display().to_string(), "DIR"))
                .collect();
            assert_eq!(words.join(" "), expected);
        };
        let start = "-o StrictHostKeyChecking=accept-new -o ConnectTimeout=15 -o UserKnownHostsFile=\"DIR/known_hosts\"";
        check("", &[], &format!("{start} -l root 192.0.2.7"));
        std::fs::write(dir.path().join("id_ed25519"), "").expect("written");
        check("fleet", &["ls", "-l"], &format!("{start} -i DIR/id_ed25519 -l fleet 192.0.2.7 -- ls -l"));
    }
}
