//! Host keys that came with the machine's image, and so belong to every machine made from it.
//!
//! A key counts as such if it is older than the machine: than `/etc/machine-id`, which is made at a first boot, or by
//! more than a day than the agent's folder, since a fleet's machine meets its agent soon after it was made. A server
//! that served for long before it joined a fleet gets new keys too, once; what is remembered of that keeps a restored
//! backup from being taken for an image.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use fleet_task::{Command, Node, TaskError, TaskId};

const FOLDER: &str = "/etc/ssh";
/// Keys made in the minute before the machine's id were made in the same boot.
const SAME_BOOT: Duration = Duration::from_secs(60);
/// Longest a machine of a fleet lives before its agent is put on it.
const BEFORE_AGENT: Duration = Duration::from_secs(24 * 3600);
const NEW: &str = ".fleet-new-host-key";
/// What is remembered once they have been made anew.
const NOTE: &str = "host keys";
/// An RSA key on an emulated processor.
const MAKE: Duration = Duration::from_secs(300);

/// Kinds of the keys that came with the image: `ed25519`, `rsa`…
pub(super) fn shared(node: &Node, task: &TaskId) -> Vec<String> {
    if node.journal().recall(task, NOTE).is_some() {
        return Vec::new();
    }
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let machine = modified(&node.path("/etc/machine-id"));
    let agent = fs::metadata(node.path("/var/lib/fleet-agent")).and_then(|meta| meta.created()).ok();
    let entries = fs::read_dir(node.path(FOLDER)).into_iter().flatten().flatten();
    let mut kinds: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let kind = name.to_str()?.strip_prefix("ssh_host_")?.strip_suffix("_key")?.to_owned();
            is_older(modified(&entry.path())?, machine, agent).then_some(kind)
        })
        .collect();
    kinds.sort();
    kinds
}

/// Pure.
fn is_older(key: SystemTime, machine: Option<SystemTime>, agent: Option<SystemTime>) -> bool {
    let by = |birth: Option<SystemTime>, slack: Duration| {
        birth.is_some_and(|birth| birth.duration_since(key).is_ok_and(|older| older > slack))
    };
    by(machine, SAME_BOOT) || by(agent, BEFORE_AGENT)
}

/// Makes them anew. sshd reads them when it is told to.
///
/// # Errors
/// [`TaskError`]; cut off anywhere, a key is whole, and is seen as old as long as it is.
pub(super) async fn renew(node: &Node, task: &TaskId, kinds: &[String]) -> Result<(), TaskError> {
    if kinds.is_empty() {
        return Ok(());
    }
    for kind in kinds {
        let new = node.path(&format!("{FOLDER}/{NEW}"));
        let public = |path: &Path| PathBuf::from(format!("{}.pub", path.display()));
        for leftover in [&new, &public(&new)] {
            // Of an earlier run that was cut.
            let _ = fs::remove_file(leftover);
        }
        let path = new.display().to_string();
        node.run(
            &Command::new("ssh-keygen", ["-q", "-t", kind, "-N", "", "-C", "", "-f", &path]).within(MAKE),
        )
        .await?;
        let old = node.path(&format!("{FOLDER}/ssh_host_{kind}_key"));
        // On the disk before they have their names: a server whose key is empty after a power cut lets nobody in. The
        // private half last: as long as it is the old one, the pair is made again.
        let synced = |path: &Path| fs::File::open(path).and_then(|file| file.sync_all());
        let moved = synced(&public(&new))
            .and_then(|()| synced(&new))
            .and_then(|()| fs::rename(public(&new), public(&old)))
            .and_then(|()| fs::rename(&new, &old))
            .and_then(|()| synced(&node.path(FOLDER)));
        moved.map_err(|source| TaskError::Refused {
            why: format!("the new {kind} host key could not be put in place: {source}"),
            next: format!("look at {FOLDER} on the node"),
        })?;
    }
    node.journal().remember(task, NOTE, "made anew")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_than_the_machine_means_older_than_its_first_boot() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let check = |key: u64, machine: Option<u64>, agent: Option<u64>, expected: bool| {
            assert_eq!(
                is_older(at(key), machine.map(at), agent.map(at)),
                expected,
                "{key} {machine:?} {agent:?}"
            );
        };
        let day = 24 * 3600;
        check(1000, None, None, false);
        check(1000, Some(1060), None, false);
        check(1000, Some(1061), None, true);
        check(1000, Some(900), Some(1000 + day), false);
        check(1000, Some(900), Some(1001 + day), true);
        check(2000, Some(1000), Some(1500), false);
    }
}
