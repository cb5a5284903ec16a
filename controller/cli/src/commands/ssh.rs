//! `fleetctl ssh NODE`: the system's own ssh, with this fleet's key, and with what is known of the host: its own list of
//! known hosts for servers of a cloud, the plan's `hostKey` or the operator's known hosts for machines that were there.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use fleet_hosts::Access;
use fleet_proto::v1::{NodeStatus, SshDoor, StatusRequest};

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
/// The one key of a machine whose key the plan says.
const PINNED: &str = "pinned";
/// How the plan writes a key that it knows by its fingerprint only.
const FINGERPRINT: &str = "SHA256:";

pub async fn run(global: &Global, args: Ssh) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleet = home.chosen(global)?;
    let (mut operator, _) = connect(&home.fleet(&fleet), &fleet).await?;
    let request = StatusRequest { node: args.node.to_string() };
    let status = operator.status(request).await.map_err(|status| refused(&status))?.into_inner();
    let reachable = |node: &NodeStatus| node.ssh.is_some() || !node.public_ipv4.is_empty();
    let Some(node) = status.nodes.into_iter().next().filter(reachable) else {
        return Err(Failure::new(Exit::Failed, format!("node `{}` has no public address", args.node))
            .hint("give it `internet: [22]` in the plan; `fleetctl cloud console` reaches machines of the local cloud"));
    };
    let dir = identity::ssh_dir(&home, &fleet);
    let failed = |why| Failure::new(Exit::Failed, format!("write in {}: {why}", dir.display()));
    make_private(&dir).map_err(failed)?;
    // As the controller got in.
    let keys = if node.ssh.is_some() { Access::read(&home.fleet(&fleet)).keys } else { Vec::new() };
    let arguments = arguments(&node, &dir, &keys, &args.command).map_err(failed)?;
    // Only returns if it could not be started.
    let why = Command::new("ssh").args(arguments).exec();
    Err(Failure::new(Exit::Input, format!("start ssh: {why}")).hint("install openssh-client"))
}

fn arguments(
    node: &NodeStatus,
    dir: &Path,
    keys: &[PathBuf],
    command: &[String],
) -> io::Result<Vec<OsString>> {
    let user = if node.login.is_empty() { ROOT } else { node.login.as_str() };
    let mut arguments: Vec<OsString> = ["-o", CONNECT].map(OsString::from).into();
    let address = match &node.ssh {
        None => {
            arguments.extend(["-o", "StrictHostKeyChecking=accept-new"].map(OsString::from));
            arguments.extend(["-o".into(), file_option("UserKnownHostsFile", &dir.join(KNOWN_HOSTS))]);
            node.public_ipv4.as_str()
        }
        Some(door) => {
            arguments.extend(door_arguments(node, door, dir)?);
            door.address.as_str()
        }
    };
    let own = identity::own_key(dir).filter(|own| !keys.contains(own));
    for key in keys.iter().cloned().chain(own) {
        arguments.extend(["-i".into(), key.into()]);
    }
    arguments.extend(["-l", user, "--", address].map(OsString::from));
    arguments.extend(command.iter().map(OsString::from));
    Ok(arguments)
}

/// How a machine that was there already is known, and where it listens. Nobody is believed at first sight.
fn door_arguments(node: &NodeStatus, door: &SshDoor, dir: &Path) -> io::Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = ["-o", "StrictHostKeyChecking=yes"].map(OsString::from).into();
    let only_ours = ["-o", "GlobalKnownHostsFile=none"].map(OsString::from);
    match door.host_key.as_str() {
        // The operator's own known hosts, as ssh itself finds them.
        "" => {}
        fingerprint if fingerprint.starts_with(FINGERPRINT) => {
            // ssh asks what is known of the key it was shown: that one, if it is the right one.
            let known =
                format!("KnownHostsCommand=/bin/sh -c \"test %f = {fingerprint} && echo %H %t %K; exit 0\"");
            arguments.extend(only_ours);
            arguments.extend(["-o", "UserKnownHostsFile=none", "-o", &known].map(OsString::from));
        }
        key => {
            let file = dir.join(format!("{PINNED}-{}", node.name));
            fs::write(&file, format!("{} {key}\n", node.name))?;
            arguments.extend(only_ours);
            arguments.extend(["-o".into(), format!("HostKeyAlias={}", node.name).into()]);
            arguments.extend(["-o".into(), file_option("UserKnownHostsFile", &file)]);
        }
    }
    arguments.extend(["-p".into(), door.port.to_string().into()]);
    Ok(arguments)
}

fn file_option(name: &str, file: &Path) -> OsString {
    let mut option = OsString::from(format!("{name}=\""));
    option.push(file);
    option.push("\"");
    option
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(dir: &Path, node: &NodeStatus, command: &[&str]) -> String {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let keys = node.ssh.iter().map(|_| dir.join("deploy")).collect::<Vec<_>>();
        let arguments = arguments(node, dir, &keys, &command).expect("a folder");
        let words =
            arguments.iter().map(|word| word.to_string_lossy().replace(&dir.display().to_string(), "DIR"));
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_command_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let node = |login: &str| NodeStatus {
            login: login.into(),
            public_ipv4: "192.0.2.7".into(),
            ..NodeStatus::default()
        };
        let start = "-o ConnectTimeout=15 -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=\"DIR/known_hosts\"";
        assert_eq!(words(dir.path(), &node(""), &[]), format!("{start} -l root -- 192.0.2.7"));
        fs::write(dir.path().join("id_ed25519"), "").expect("written");
        let expected = format!("{start} -i DIR/id_ed25519 -l fleet -- 192.0.2.7 ls -l");
        assert_eq!(words(dir.path(), &node("fleet"), &["ls", "-l"]), expected);
    }

    #[test]
    fn a_machine_that_was_there_is_known_by_what_the_plan_says() {
        let dir = tempfile::tempdir().expect("a folder");
        let node = |host_key: &str| NodeStatus {
            name: "web".into(),
            login: "me".into(),
            ssh: Some(SshDoor { address: "web.example.org".into(), port: 2222, host_key: host_key.into() }),
            ..NodeStatus::default()
        };
        let start = "-o ConnectTimeout=15 -o StrictHostKeyChecking=yes";
        let end = "-p 2222 -i DIR/deploy -l me -- web.example.org";
        assert_eq!(words(dir.path(), &node(""), &[]), format!("{start} {end}"));
        let pinned =
            "-o GlobalKnownHostsFile=none -o HostKeyAlias=web -o UserKnownHostsFile=\"DIR/pinned-web\"";
        assert_eq!(words(dir.path(), &node("ssh-ed25519 AAAA"), &[]), format!("{start} {pinned} {end}"));
        let file = fs::read_to_string(dir.path().join("pinned-web")).expect("written");
        assert_eq!(file, "web ssh-ed25519 AAAA\n");
        let asked = "-o GlobalKnownHostsFile=none -o UserKnownHostsFile=none -o KnownHostsCommand=/bin/sh -c \"test %f = \
                     SHA256:abc && echo %H %t %K; exit 0\"";
        assert_eq!(words(dir.path(), &node("SHA256:abc"), &[]), format!("{start} {asked} {end}"));
    }
}
