//! The node's host keys: those that came with the machine's image, and so belong to every machine made from it, are made
//! anew; so are those a power cut left empty or cut short, since sshd that finds no key does not start.
//!
//! A key counts as the image's if it is older than the machine: than `/etc/machine-id`, which is made at a first boot, or
//! by more than a day than the agent's folder, since a fleet's machine meets its agent soon after it was made. A server
//! that served for long before it joined a fleet gets new keys too, once; what is remembered of that keeps a restored
//! backup from being taken for an image.
//!
//! A key is only ever replaced by another one, never taken away, and keys of other kinds or places are left alone.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleet_task::{Command, Node, TaskError, TaskId};

use super::sshd::{self, Setting};

const FOLDER: &str = "/etc/ssh";
/// The kinds Debian's sshd has keys of.
const KINDS: [&str; 3] = ["ecdsa", "ed25519", "rsa"];
/// Keys made in the minute before the machine's id were made in the same boot.
const SAME_BOOT: Duration = Duration::from_secs(60);
/// Longest a machine of a fleet lives before its agent is put on it.
const BEFORE_AGENT: Duration = Duration::from_secs(24 * 3600);
const NEW: &str = ".fleet-new-host-key";
/// What is remembered once they have been made anew.
const NOTE: &str = "host keys";
/// An RSA key on an emulated processor.
const MAKE: Duration = Duration::from_secs(300);

/// What is wrong with the host keys, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wrong {
    /// They came with the image.
    pub(super) shared: Vec<&'static str>,
    /// They are no keys; or there is none at all, and these are to be.
    pub(super) broken: Vec<&'static str>,
    /// The key is one, and the file of its public half is not what it says.
    pub(super) halves: Vec<&'static str>,
}

impl Wrong {
    pub(super) fn lines(&self) -> Vec<String> {
        let line =
            |what: &str, kinds: &[&str]| (!kinds.is_empty()).then(|| format!("{what}: {}", kinds.join(", ")));
        [
            line("make host keys that are missing or damaged", &self.broken),
            line("write the public halves of host keys", &self.halves),
            line("make host keys anew that came with the image", &self.shared),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn private(kind: &str) -> String {
    format!("{FOLDER}/ssh_host_{kind}_key")
}

/// Looks at the keys sshd uses with these settings.
///
/// # Errors
/// [`TaskError::Read`].
pub(super) fn wrong(node: &Node, task: &TaskId, settings: &[Setting]) -> Result<Wrong, TaskError> {
    let named = sshd::host_keys(settings);
    let mut wrong = Wrong::default();
    let (mut missing, mut whole) = (Vec::new(), Vec::new());
    for kind in KINDS.into_iter().filter(|kind| named.is_empty() || named.contains(&private(kind))) {
        match node.read(&private(kind))? {
            None => missing.push(kind),
            Some(bytes) if is_private(&bytes) => whole.push(kind),
            Some(_) => wrong.broken.push(kind),
        }
    }
    for kind in &whole {
        // Without the file sshd does as well.
        let public = node.read(&format!("{}.pub", private(kind)))?;
        if public.is_some_and(|bytes| !is_public(&bytes)) {
            wrong.halves.push(kind);
        }
    }
    // One of another kind, or in another place, is as good.
    let elsewhere = named.iter().any(|path| node.path(path).exists());
    if whole.is_empty() && wrong.broken.is_empty() && !elsewhere {
        wrong.broken = missing;
    }
    if node.journal().recall(task, NOTE).is_none() {
        wrong.shared = whole.into_iter().filter(|kind| came_with_image(node, kind)).collect();
    }
    Ok(wrong)
}

fn came_with_image(node: &Node, kind: &str) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let machine = modified(&node.path("/etc/machine-id"));
    let agent = fs::metadata(node.path("/var/lib/fleet-agent")).and_then(|meta| meta.created()).ok();
    modified(&node.path(&private(kind))).is_some_and(|key| is_older(key, machine, agent))
}

/// Pure.
fn is_older(key: SystemTime, machine: Option<SystemTime>, agent: Option<SystemTime>) -> bool {
    let by = |birth: Option<SystemTime>, slack: Duration| {
        birth.is_some_and(|birth| birth.duration_since(key).is_ok_and(|older| older > slack))
    };
    by(machine, SAME_BOOT) || by(agent, BEFORE_AGENT)
}

/// Whether this is a private key from its first line to its last, in any of the forms that have such lines. Pure.
fn is_private(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let Some(label) = lines.next().and_then(|line| line.strip_prefix("-----BEGIN ")) else { return false };
    let last = lines.next_back().and_then(|line| line.strip_prefix("-----END "));
    label.ends_with("PRIVATE KEY-----") && last == Some(label) && lines.next().is_some()
}

/// Whether this is a line of a public key, whole to its last field (RFC 4253, section 6.6). Pure.
fn is_public(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.split_whitespace();
    let (Some(kind), Some(key)) = (words.next(), words.next()) else { return false };
    let Ok(blob) = STANDARD.decode(key) else { return false };
    let (mut rest, mut fields) = (blob.as_slice(), Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let Some(field) =
            usize::try_from(u32::from_be_bytes(*length)).ok().and_then(|length| after.get(..length))
        else {
            return false;
        };
        fields.push(field);
        rest = &after[field.len()..];
    }
    // Its kind again; then one number, or two, or the name of a curve and a point on it.
    let all = if kind == "ssh-ed25519" { 2 } else { 3 };
    rest.is_empty() && fields.len() == all && fields[0] == kind.as_bytes()
}

/// Makes what is no key, without which sshd does not even start.
///
/// # Errors
/// [`TaskError`]; cut off anywhere, what was a key is one.
pub(super) async fn mend(node: &Node, wrong: &Wrong) -> Result<(), TaskError> {
    for kind in &wrong.broken {
        make(node, kind).await?;
    }
    for kind in &wrong.halves {
        let key = private(kind);
        let path = node.path(&key).display().to_string();
        let output = node.run(&Command::new("ssh-keygen", ["-y", "-f", &path]).within(MAKE)).await?;
        node.write(&format!("{key}.pub"), &output.stdout, 0o644)?;
    }
    Ok(())
}

/// Makes anew what came with the image. sshd reads it when it is told to.
///
/// # Errors
/// As [`mend`]; a key is seen as old as long as it is.
pub(super) async fn renew(node: &Node, task: &TaskId, kinds: &[&str]) -> Result<(), TaskError> {
    if kinds.is_empty() {
        return Ok(());
    }
    for kind in kinds {
        make(node, kind).await?;
    }
    Ok(node.journal().remember(task, NOTE, "made anew")?)
}

async fn make(node: &Node, kind: &str) -> Result<(), TaskError> {
    let new = node.path(&format!("{FOLDER}/{NEW}"));
    let public = |path: &Path| PathBuf::from(format!("{}.pub", path.display()));
    for leftover in [&new, &public(&new)] {
        // Of an earlier run that was cut.
        let _ = fs::remove_file(leftover);
    }
    let path = new.display().to_string();
    node.run(&Command::new("ssh-keygen", ["-q", "-t", kind, "-N", "", "-C", "", "-f", &path]).within(MAKE))
        .await?;
    let refuse = |why: String| TaskError::Refused {
        why,
        next: format!("look at {FOLDER} and free space on the node"),
    };
    if !fs::read(&new).is_ok_and(|bytes| is_private(&bytes)) {
        return Err(refuse(format!("ssh-keygen was content, and its new {kind} key is none")));
    }
    let old = node.path(&private(kind));
    // On the disk before they have their names: a server whose key is empty after a power cut lets nobody in. The
    // private half last: as long as it is the old one, the pair is made again.
    let synced = |path: &Path| fs::File::open(path).and_then(|file| file.sync_all());
    let moved = synced(&public(&new))
        .and_then(|()| synced(&new))
        .and_then(|()| fs::rename(public(&new), public(&old)))
        .and_then(|()| fs::rename(&new, &old))
        .and_then(|()| synced(&node.path(FOLDER)));
    moved.map_err(|error| refuse(format!("the new {kind} host key could not be put in place: {error}")))
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

    #[test]
    fn whole_keys_are_told_from_what_a_power_cut_leaves() {
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\nbnNz\n-----END OPENSSH PRIVATE KEY-----\n";
        assert!(is_private(key.as_bytes()));
        assert!(is_private(key.replace("OPENSSH", "EC").trim().as_bytes()));
        for end in 0..key.trim_end().len() {
            assert!(!is_private(&key.as_bytes()[..end]), "{end}");
        }
        assert!(!is_private(&[0; 400]) && !is_private(key.replacen("OPENSSH", "RSA", 1).as_bytes()));
        let public = super::super::tests::KEY;
        assert!(is_public(public.as_bytes()) && is_public(format!("{public} comment\n").as_bytes()));
        let (kind, rest) = public.split_once(' ').expect("two words");
        let whole = rest.split(' ').next().expect("a key");
        for end in 0..whole.len() {
            assert!(!is_public(format!("{kind} {}", &whole[..end]).as_bytes()), "{end}");
        }
        assert!(!is_public(b"") && !is_public(&[0; 90]) && !is_public(format!("ssh-rsa {whole}").as_bytes()));
    }
}
