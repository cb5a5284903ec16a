//! Public keys, as lines of authorized_keys (sshd(8)). Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleet_task::TaskError;

use crate::tasks::support::names;

/// Kinds sshd takes today; DSA is not among them.
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];
/// Longest line sshd reads.
const LONGEST: usize = 8192;

/// The keys, each checked: kind, key, comment, and nothing before them. An option could run a command for whoever logs
/// in, and a bad line would lock its owner out in silence.
///
/// # Errors
/// [`TaskError::Refused`], also for no key at all.
pub(super) fn checked(lines: &[String]) -> Result<Vec<String>, TaskError> {
    if lines.is_empty() {
        return Err(TaskError::Refused {
            why: "no key is named: closing the doors would lock everybody out".into(),
            next: "name at least one public key in the plan".into(),
        });
    }
    let mut keys = Vec::new();
    for line in lines {
        let line = line.trim();
        check(line)?;
        if !keys.iter().any(|key| key == line) {
            keys.push(line.to_owned());
        }
    }
    Ok(keys)
}

fn check(line: &str) -> Result<(), TaskError> {
    let shown: String = line.escape_debug().take(60).collect();
    let refuse = |why: &str| Err(names::refuse(format!("`{shown}…` {why}")));
    if line.len() > LONGEST || line.chars().any(char::is_control) {
        return refuse("is not one line of a public key");
    }
    let mut words = line.split(' ');
    let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !KINDS.contains(&kind) {
        return refuse("does not begin with a kind of key this agent takes, such as ssh-ed25519");
    }
    let Ok(bytes) = STANDARD.decode(key) else { return refuse("is not base64 after its kind") };
    // The key repeats its kind, with its length before it (RFC 4253, section 6.6).
    let inner = bytes
        .split_first_chunk::<4>()
        .and_then(|(length, rest)| rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?));
    if inner != Some(kind.as_bytes()) {
        return refuse("holds another kind of key than it says, or only part of one");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    #[test]
    fn keys_are_taken_and_all_else_is_refused() {
        let one = checked(&[KEY.into(), format!("{KEY} "), format!("{KEY} ann@example")]).expect("good");
        assert_eq!(one, [KEY.to_owned(), format!("{KEY} ann@example")]);
        let check = |line: &str, expected: &str| {
            let why = checked(&[KEY.into(), line.into()]).expect_err(line).explain();
            assert!(why.contains(expected) && why.contains("next: ") && !why.contains('\n'), "{why}");
        };
        check("", "does not begin with a kind");
        check(&format!("command=\"rm -rf /\" {KEY}"), "does not begin with a kind");
        check(&format!("{KEY} x\n{KEY}"), "is not one line");
        check("ssh-dss AAAAB3NzaC1kc3M=", "does not begin with a kind");
        check("ssh-ed25519 not-base64", "is not base64");
        check("ssh-ed25519", "holds another kind");
        check(
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
            "holds another kind",
        );
        let none = checked(&[]).expect_err("none").explain();
        assert!(none.contains("lock everybody out"), "{none}");
    }
}
