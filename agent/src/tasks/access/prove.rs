//! Proof that the login user gets in and becomes root, by getting in: over SSH to this very node, with a throwaway key.
//!
//! The key is good from this node only and for `sudo -n true` only; it is taken away afterwards, and by the next look
//! if the agent was killed in between.

use std::{fs, net::SocketAddr, os::unix::fs::DirBuilderExt, time::Duration};

use fleet_task::{Command, Node, TaskError};

use super::login::Login;

/// Folder of the throwaway key.
const FOLDER: &str = "/var/lib/fleet-agent/proof";
/// Comment by which its line is known.
const MARK: &str = "fleet-agent-proof-of-access";
const COMMAND: &str = "sudo -n true";
/// How long one attempt may take on an emulated processor.
const ATTEMPT: Duration = Duration::from_secs(60);
/// sshd is away for a moment while it reads its settings again, and turns connections away while strangers keep it busy
/// (`MaxStartups`).
const ATTEMPTS: u32 = 8;
/// After the first attempt; longer after each, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// ssh's words when it was not let near enough to show its key.
const AGAIN: [&str; 6] = [
    "Connection refused",
    "Connection reset",
    "Connection closed",
    "Connection timed out",
    "kex_exchange_identification",
    "Not allowed at this time",
];

/// Whether an earlier proof left something behind.
///
/// # Errors
/// [`TaskError::Read`].
pub(super) fn is_left_over(node: &Node, login: Option<&Login>) -> Result<bool, TaskError> {
    let line = match login {
        Some(login) => login.authorized(node)?.is_some_and(|bytes| without(&bytes) != bytes),
        None => false,
    };
    Ok(line || node.path(FOLDER).exists())
}

/// Takes away what a proof left behind.
///
/// # Errors
/// [`TaskError`].
pub(super) fn clean(node: &Node, login: &Login) -> Result<(), TaskError> {
    if let Some(bytes) = login.authorized(node)? {
        let kept = without(&bytes);
        if kept != bytes {
            login.write(node, &kept)?;
        }
    }
    match fs::remove_dir_all(node.path(FOLDER)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TaskError::Refused {
            why: format!("{FOLDER} cannot be removed: {error}"),
            next: format!("look at {FOLDER} on the node"),
        }),
        _ => Ok(()),
    }
}

/// Gets in, or says why not. The throwaway key is gone when this returns.
///
/// # Errors
/// [`TaskError::Refused`] with ssh's own words.
pub(super) async fn prove(node: &Node, login: &Login) -> Result<(), TaskError> {
    clean(node, login)?;
    let proved = attempt(node, login).await;
    let cleaned = clean(node, login);
    proved.and(cleaned)
}

async fn attempt(node: &Node, login: &Login) -> Result<(), TaskError> {
    let at = endpoint(node).await?;
    let folder = node.path(FOLDER);
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| TaskError::Refused {
        why: format!("{FOLDER} cannot be made: {error}"),
        next: "look at its folder and free space on the node".into(),
    })?;
    let key = folder.join("key").display().to_string();
    node.run(&Command::new("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", MARK, "-f", &key])).await?;
    let public = node.read(&format!("{FOLDER}/key.pub"))?.unwrap_or_default();
    let public = String::from_utf8_lossy(&public);
    let line = format!("from=\"{}\",restrict,command=\"{COMMAND}\" {}\n", at.ip(), public.trim());
    let mut bytes = login.authorized(node)?.unwrap_or_default();
    if bytes.last().is_some_and(|last| *last != b'\n') {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(line.as_bytes());
    login.write(node, &bytes)?;
    let command = ssh(&key, at, &login.name);
    let mut said = String::new();
    for nth in 0..ATTEMPTS {
        if nth > 0 {
            tokio::time::sleep((PAUSE * 2_u32.pow(nth - 1)).min(LONGEST_PAUSE)).await;
        }
        let output = node.output(&command).await?;
        if output.code == Some(0) {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        if !AGAIN.iter().any(|words| said.contains(words)) {
            break;
        }
    }
    Err(TaskError::Refused {
        why: format!("{} does not get in at {at} with a key and become root there: {said}", login.name),
        next: "see `journalctl -u ssh` on the node; it is tried again by itself".into(),
    })
}

fn ssh(key: &str, at: SocketAddr, login: &str) -> Command {
    let port = at.port().to_string();
    let host = format!("{login}@{}", at.ip());
    let mut args = vec!["-F", "/dev/null", "-i", key, "-p", &port];
    for option in [
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "PreferredAuthentications=publickey",
        "StrictHostKeyChecking=accept-new",
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "ConnectTimeout=30",
        "LogLevel=ERROR",
    ] {
        args.extend(["-o", option]);
    }
    args.extend(["--", &host]);
    args.extend(COMMAND.split(' '));
    Command::new("ssh", args).within(ATTEMPT)
}

/// Where sshd listens, as it says itself.
async fn endpoint(node: &Node) -> Result<SocketAddr, TaskError> {
    let output = node.run(&Command::new("/usr/sbin/sshd", ["-T"])).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    listener(&text).ok_or_else(|| TaskError::Answer {
        program: "sshd -T".into(),
        detail: "no address it listens on".into(),
    })
}

/// Pure.
fn listener(text: &str) -> Option<SocketAddr> {
    let listens: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| line.strip_prefix("listenaddress "))
        .filter_map(|address| address.trim().parse().ok())
        .collect();
    let chosen = listens.iter().find(|at| at.is_ipv4() && at.ip().is_unspecified()).or(listens.first())?;
    let mut at = *chosen;
    if at.ip().is_unspecified() {
        at.set_ip(if at.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    Some(at)
}

/// All lines but a throwaway key's.
fn without(bytes: &[u8]) -> Vec<u8> {
    let is_ours = |line: &&[u8]| line.trim_ascii_end().ends_with(MARK.as_bytes());
    bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_ours(line)).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_sshd_listens() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(listener(text), expected.map(|at| at.parse().expect("address")), "{text}");
        };
        check("port 22\nlistenaddress [::]:22\nlistenaddress 0.0.0.0:22\n", Some("127.0.0.1:22"));
        check("listenaddress [::]:2222\n", Some("[::1]:2222"));
        check("listenaddress 192.0.2.1:22\n", Some("192.0.2.1:22"));
        check("port 22\n", None);
    }

    #[test]
    fn only_the_throwaway_line_goes() {
        let text = format!("ssh-ed25519 A ann\nfrom=\"x\" ssh-ed25519 B {MARK}\n# end");
        assert_eq!(without(text.as_bytes()), b"ssh-ed25519 A ann\n# end");
    }
}
