//! Who gets in.

use fleet_tests::Login;

use crate::nodes::{NODES, Ways};

/// On every node: the operator's key opens the login, which may become root; nothing else opens anything.
pub fn by_the_operators_key_only(ways: &Ways) {
    for name in NODES {
        let login = ways.login(name);
        let fine = login.run("sudo -n id -u");
        assert_eq!(String::from_utf8_lossy(&fine.stdout).trim(), "0", "{name}: {fine:?}");

        let root = Login { user: "root".to_owned(), ..login.clone() }.run("true");
        assert!(!root.status.success(), "{name}: root got in");

        // What the server offers to somebody without a key.
        let mut bare = login.command();
        bare.args([
            "-o",
            "PreferredAuthentications=password,keyboard-interactive",
            "-o",
            "NumberOfPasswordPrompts=0",
        ]);
        let refused = bare.arg("true").output().expect("ssh starts");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("Permission denied (publickey)"),
            "{name}: {said}"
        );

        let shadow = login.run("sudo -n grep ^root: /etc/shadow | cut -d: -f2 | cut -c1");
        assert_eq!(String::from_utf8_lossy(&shadow.stdout).trim(), "!", "{name}: root's password is locked");
    }
}
