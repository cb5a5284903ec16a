//! `fleetctl replace NODE`: another server, another identity, the same name.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use fleet_plan::resolved::Cloud;
use fleet_proto::v1::{NodeStatus, ReplaceRequest, StatusRequest};

use super::{
    cloud,
    follow::{End, follow},
    ssh, up,
};
use crate::{
    args::{Global, Replace},
    connect::refused,
    failure::{Exit, Failure},
    home::Home,
    hosts, identity,
    progress::Screen,
    words,
};

pub async fn run(global: &Global, args: Replace) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleet = home.chosen(global)?;
    let mut screen = Screen::new();
    if home.cloud_of(&fleet)?.is_none_or(|cloud| cloud == Cloud::Local) {
        cloud::ensure(&home, |line| screen.note(line)).await?;
    }
    hosts::note_access(&home, &fleet, &[])?;
    let mut operator = up::controller(&home, &fleet, |line| screen.note(line)).await?;
    // Asked first: a name that is not there is said before anybody is made to think.
    let request = StatusRequest { node: args.node.to_string() };
    let status = operator.status(request).await.map_err(|status| refused(&status))?.into_inner();
    let node = status.nodes.into_iter().next().unwrap_or_default();
    if !args.yes {
        let taken = home.cloud_of(&fleet)? == Some(Cloud::Hosts);
        up::confirm(&if taken { releasing(&node) } else { question(&node) })?;
    }
    let mut opener = operator.clone();
    let opening = opener.replace(ReplaceRequest { node: node.name.clone() });
    match follow(&mut operator, opening, &mut screen).await? {
        End::Interrupted => {
            eprintln!("stopped; `fleetctl up` finishes what was begun: the node comes back as another");
            Ok(Exit::Interrupted)
        }
        End::Finished(finished) => {
            forget_host(&identity::ssh_dir(&home, &fleet), &node.public_ipv4);
            up::finish(&mut operator, &finished, global.output).await
        }
    }
}

/// What happens to a machine that is there already.
fn releasing(node: &NodeStatus) -> String {
    format!(
        "Node `{}` in {} is {}. The agent on its machine is removed with all it keeps, its identity is retired for \
         good, and the machine is taken anew. What else is on it stays.",
        node.name,
        node.location,
        words::state(node.state()),
    )
}

/// What is lost, and what is not.
fn question(node: &NodeStatus) -> String {
    let disks = node.facts.iter().flat_map(|facts| &facts.disks);
    let used: u64 = disks.map(|disk| disk.size_bytes.saturating_sub(disk.free_bytes)).sum();
    let used = if used > 0 { format!(" ({} MiB in use)", used >> 20) } else { String::new() };
    format!(
        "Node `{}` in {} is {}. Its server is destroyed with everything on its disks{used}, and its identity is \
         retired for good.\nA new server takes its name; what others hold copies of comes back by itself, nothing \
         else does.",
        node.name,
        node.location,
        words::state(node.state()),
    )
}

/// The address may stay the same, the host key does not. Entries may be hashed, so ssh's own tool looks for them.
pub fn forget_host(ssh_dir: &Path, address: &str) {
    let known_hosts = ssh_dir.join(ssh::KNOWN_HOSTS);
    if address.is_empty() || !known_hosts.is_file() {
        return;
    }
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-R", address, "-f"]).arg(&known_hosts).stdout(Stdio::null()).stderr(Stdio::null());
    // Without that tool there is no ssh either that would stumble over the entry.
    let _ = keygen.status();
}

#[cfg(test)]
mod tests {
    use fleet_proto::v1::{DiskFact, Facts, NodeState};

    use super::*;

    #[test]
    fn the_question_names_what_is_lost() {
        let disk = DiskFact { size_bytes: 10 << 30, free_bytes: 9 << 30, ..DiskFact::default() };
        let node = NodeStatus {
            name: "EU7rethinkSeed".into(),
            location: "EU7".into(),
            state: NodeState::NodeReady.into(),
            facts: Some(Facts { disks: vec![disk], ..Facts::default() }),
            ..NodeStatus::default()
        };
        insta::assert_snapshot!(question(&node));
    }
}
