//! Shell for the other end, and how it is told what.

/// A word of shell, whatever is in it.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs a script as root: somebody else's login shell may be any, and `sudo` never asks.
pub(crate) fn as_root(script: &str, login: &str) -> String {
    let sudo = if login == "root" { "" } else { "sudo -n -- " };
    format!("{sudo}sh -c {}", quoted(script))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn words_come_through() {
        for text in ["plain", "it's", "a\nb", "$HOME `id` \\ \"x\"", "''"] {
            let said = Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(text))).output();
            assert_eq!(String::from_utf8(said.expect("sh").stdout).expect("text"), text);
        }
    }
}
