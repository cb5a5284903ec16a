mod doors;

pub(crate) use doors::came_from_the_image;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    sync::Arc,
};

use fleet_task::Outcome;

use super::*;
use crate::tasks::{
    support::{
        block,
        fake::{
            Debian,
            ssh::{PUBLIC, private_key},
        },
    },
    tests::Rig,
};

pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann";
const MAIN: &str = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n";
const DROP_IN: &str = "/etc/ssh/sshd_config.d/10-fleet.conf";
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
const KEYS: &str = "/home/fleet/.ssh/authorized_keys";

pub(crate) fn task() -> Access {
    let spec = AccessTask { login: "fleet".into(), authorized_keys: vec![KEY.into()] };
    Access::new(TaskId::new("access"), spec)
}

/// A node as its cloud's image has it: root with a password.
pub(crate) fn rig() -> (Arc<Debian>, Rig) {
    let (debian, rig) = Debian::rig(&[
        ("/etc/ssh/sshd_config", MAIN),
        ("/etc/ssh/sshd_config.d/10-image.conf", "PermitRootLogin yes\nPasswordAuthentication yes\n"),
        ("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
        ("/etc/shadow", "root:$6$salt$hash:1::::::\n"),
        (HOST_KEY, &private_key("ed25519")),
        ("/etc/group", "root:x:0:\nsudo:x:27:\n"),
        ("/home/.keep", ""),
    ]);
    debian.has("openssh-server").has("sudo").unit("ssh.service", true, true);
    debian.reload_sshd();
    (debian, rig)
}

#[tokio::test]
async fn a_way_in_is_made_and_proved_then_the_others_are_closed() {
    let (debian, rig) = rig();
    let changes = rig.changed(&task()).await;
    assert_eq!(
        changes,
        [
            "make user fleet, with 1 keys",
            "let fleet become root (/etc/sudoers.d/fleet-fleet)",
            "PasswordAuthentication is yes (/etc/ssh/sshd_config.d/10-image.conf, line 2), to become no",
            "KbdInteractiveAuthentication is yes (sshd's default), to become no",
            "PermitRootLogin is yes (/etc/ssh/sshd_config.d/10-image.conf, line 1), to become no",
            "write /etc/ssh/sshd_config.d/10-fleet.conf",
            "lock the password of root",
        ]
    );
    assert_eq!(
        rig.text(KEYS),
        format!("{}\n{KEY}\n{}\n", block::BEGIN, block::END),
        "no throwaway key is left"
    );
    assert!(!rig.path("/var/lib/fleet-agent/proof").exists());
    let mode = |path: &str| fs::metadata(rig.path(path)).expect(path).mode() & 0o7777;
    assert_eq!(
        (mode("/home/fleet/.ssh"), mode(KEYS), mode("/etc/sudoers.d/fleet-fleet")),
        (0o700, 0o600, 0o440)
    );
    assert!(rig.text("/etc/group").contains("sudo:x:27:fleet"));
    assert!(rig.text("/etc/shadow").starts_with("root:!$6$"));
    for keyword in
        ["PasswordAuthentication", "KbdInteractiveAuthentication", "PermitRootLogin", "PermitEmptyPasswords"]
    {
        assert_eq!(debian.sshd_says(keyword), "no", "{keyword}");
    }
    // Proved before anything is closed, and after; the root password goes last.
    let order =
        ["useradd", "visudo", "ssh -F", "/usr/sbin/sshd -t", "try-reload-or-restart", "ssh -F", "--lock"];
    let ran = debian.ran("");
    let mut at = 0;
    for step in order {
        at += ran[at..]
            .iter()
            .position(|line| line.contains(step))
            .unwrap_or_else(|| panic!("{step} in {ran:?}"))
            + 1;
    }
    let before = ran.len();
    rig.unchanged(&task()).await;
    assert_eq!(debian.ran("").len(), before, "a look starts no program");
}

#[tokio::test]
async fn only_what_was_damaged_is_touched() {
    let (debian, rig) = rig();
    rig.changed(&task()).await;
    let check = async |damage: &dyn Fn(), expected: &[&str]| {
        damage();
        let before = debian.ran("").len();
        assert_eq!(rig.changed(&task()).await, expected);
        let ran: Vec<String> = debian.ran("")[before..].to_vec();
        rig.unchanged(&task()).await;
        ran
    };
    let ran = check(
        &|| fs::write(rig.path(KEYS), "ssh-ed25519 FOREIGN bob\n").expect("damage"),
        &["1 keys in /home/fleet/.ssh/authorized_keys"],
    )
    .await;
    assert_eq!(ran, [""; 0]);
    assert!(rig.text(KEYS).starts_with("ssh-ed25519 FOREIGN bob\n# BEGIN fleet"), "others' keys stay");
    let mode = |path: &str, mode| {
        fs::set_permissions(rig.path(path), fs::Permissions::from_mode(mode)).expect("damage");
    };
    check(&|| mode("/home/fleet", 0o777), &["others may write to /home/fleet (0777)"]).await;
    check(&|| mode(KEYS, 0o644), &["/home/fleet/.ssh/authorized_keys to be fleet's alone"]).await;
    check(
        &|| fs::write(rig.path("/etc/sudoers.d/fleet-fleet"), "").expect("damage"),
        &["let fleet become root (/etc/sudoers.d/fleet-fleet)"],
    )
    .await;
    let ran = check(
        &|| fs::remove_file(rig.path(DROP_IN)).expect("damage"),
        &[
            "PasswordAuthentication is yes (/etc/ssh/sshd_config.d/10-image.conf, line 2), to become no",
            "KbdInteractiveAuthentication is yes (sshd's default), to become no",
            "PermitRootLogin is yes (/etc/ssh/sshd_config.d/10-image.conf, line 1), to become no",
            "write /etc/ssh/sshd_config.d/10-fleet.conf",
        ],
    )
    .await;
    assert!(!ran.iter().any(|line| line.contains("usermod") || line.contains("visudo")), "{ran:?}");
    check(
        &|| fs::write(rig.path("/etc/shadow"), "root::1::::::\n").expect("damage"),
        &["lock the password of root"],
    )
    .await;
}

#[tokio::test]
async fn a_drop_in_that_would_win_makes_ours_sort_first() {
    let (debian, rig) = rig();
    rig.changed(&task()).await;
    fs::write(rig.path("/etc/ssh/sshd_config.d/05-cloud.conf"), "PasswordAuthentication yes\n")
        .expect("drop-in");
    debian.reload_sshd();
    assert_eq!(debian.sshd_says("PasswordAuthentication"), "yes");
    let changes = rig.changed(&task()).await;
    assert_eq!(
        changes[0],
        "PasswordAuthentication is yes (/etc/ssh/sshd_config.d/05-cloud.conf, line 1), to become no"
    );
    assert!(!rig.path(DROP_IN).exists());
    assert_eq!(debian.sshd_says("PasswordAuthentication"), "no");
    rig.unchanged(&task()).await;
}

#[tokio::test]
async fn nothing_is_closed_when_the_key_does_not_get_in() {
    let (debian, rig) = rig();
    debian.answers(
        "ssh",
        fleet_task::Output {
            code: Some(255),
            stdout: Vec::new(),
            stderr: b"Permission denied (publickey).\n".into(),
        },
    );
    let why = rig.failed(&task()).await;
    assert!(
        why.contains("fleet does not get in at 127.0.0.1:22") && why.contains("Permission denied"),
        "{why}"
    );
    assert!(!rig.path(DROP_IN).exists());
    assert!(rig.text("/etc/shadow").starts_with("root:$6$"), "the old way in still works");
    assert!(!rig.text(KEYS).contains("proof") && !rig.path("/var/lib/fleet-agent/proof").exists());
}

#[tokio::test]
async fn a_proof_that_fails_after_closing_takes_it_back() {
    let (debian, rig) = rig();
    debian.turns_away("fleet");
    let why = rig.failed(&task()).await;
    assert!(why.contains("SSH was not closed, and is as it was: fleet does not get in"), "{why}");
    assert!(!rig.path(DROP_IN).exists());
    assert_eq!(debian.sshd_says("PasswordAuthentication"), "yes", "sshd has read that, too");
    assert!(rig.text("/etc/shadow").starts_with("root:$6$"));
}

#[tokio::test]
async fn settings_sshd_does_not_take_are_never_read_by_it() {
    let (debian, rig) = rig();
    fs::write(rig.path("/etc/ssh/sshd_config"), format!("{MAIN}Broken yes\n")).expect("configuration");
    let why = rig.failed(&task()).await;
    assert!(why.contains("Bad configuration option"), "{why}");
    assert_eq!(debian.ran("try-reload-or-restart").len(), 0);
    assert_eq!(debian.sshd_says("PasswordAuthentication"), "yes");
}

#[tokio::test]
async fn a_killed_proofs_key_is_taken_away() {
    let (_debian, rig) = rig();
    rig.changed(&task()).await;
    let line = "from=\"127.0.0.1\",restrict ssh-ed25519 AAAA fleet-agent-proof-of-access\n";
    fs::write(rig.path(KEYS), format!("{}{line}", rig.text(KEYS))).expect("leftover");
    fs::create_dir(rig.path("/var/lib/fleet-agent/proof")).expect("leftover");
    assert_eq!(rig.changed(&task()).await, ["take away the throwaway key of a proof that was cut off"]);
    assert!(!rig.text(KEYS).contains("proof") && rig.text(KEYS).contains(KEY));
    rig.unchanged(&task()).await;
}

#[tokio::test]
async fn links_in_the_home_lead_nowhere() {
    let (_debian, rig) = rig();
    rig.changed(&task()).await;
    fs::remove_file(rig.path(KEYS)).expect("attack");
    symlink("/etc/shadow", rig.path(KEYS)).expect("attack");
    let why = rig.failed(&task()).await;
    assert!(why.contains("authorized_keys is not a plain file"), "{why}");
    // Nor does one that is larger than the memory fill it.
    fs::remove_file(rig.path(KEYS)).expect("attack");
    fs::File::create(rig.path(KEYS)).and_then(|file| file.set_len(1 << 40)).expect("attack");
    let why = rig.failed(&task()).await;
    assert!(why.contains("is larger than 16 MiB") && why.contains("next: "), "{why}");
    fs::remove_file(rig.path(KEYS)).expect("attack");
    // Only root can make a link somebody else's; without that right the link is one of root's, and is followed.
    if nix::unistd::geteuid().is_root() {
        fs::remove_dir_all(rig.path("/home/fleet/.ssh")).expect("attack");
        fs::create_dir(rig.path("/etc/target")).expect("target");
        symlink("/etc/target", rig.path("/home/fleet/.ssh")).expect("attack");
        std::os::unix::fs::lchown(rig.path("/home/fleet/.ssh"), Some(1000), Some(1000)).expect("theirs");
        let why = rig.failed(&task()).await;
        assert!(why.contains("a link of somebody else's"), "{why}");
        assert_eq!(fs::read_dir(rig.path("/etc/target")).expect("target").count(), 0);
    }
    assert!(rig.text("/etc/shadow").starts_with("root:!"));
}

#[tokio::test]
async fn what_is_missing_is_installed_or_waited_for() {
    let (debian, rig) = rig();
    debian.lost("sudo").locked_by(5, "apt-get");
    assert!(rig.waits(&task()).await.starts_with("apt-get (pid 5) to end"));
    debian.unlocked();
    let changes = rig.changed(&task()).await;
    assert_eq!(
        changes[..2],
        ["install sudo", "make user fleet, with 1 keys"],
        "and all that follows: {changes:?}"
    );
    rig.unchanged(&task()).await;
}

#[tokio::test]
async fn a_door_a_condition_opens_is_told() {
    let (_debian, rig) = rig();
    rig.changed(&task()).await;
    let text = format!("{MAIN}Match Address 10.0.0.0/8\n    PasswordAuthentication yes\n");
    fs::write(rig.path("/etc/ssh/sshd_config"), text).expect("configuration");
    let report = rig.run(Arc::new(task())).await;
    assert_eq!(report.outcome, Outcome::Unchanged);
    assert!(
        report.warnings[0].contains("PasswordAuthentication is yes (/etc/ssh/sshd_config, line 4)"),
        "{report:?}"
    );
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_runs() {
    let check = async |login: &str, keys: &[&str], expected: &str| {
        let (debian, rig) = rig();
        let authorized_keys = keys.iter().map(ToString::to_string).collect();
        let spec = AccessTask { login: login.into(), authorized_keys };
        let why = rig.failed(&Access::new(TaskId::new("access"), spec)).await;
        assert!(why.contains(expected) && why.contains("next: "), "{why}");
        assert_eq!(debian.ran("").len(), 0);
        assert!(!rig.path(DROP_IN).exists());
    };
    check("fleet", &[], "lock everybody out").await;
    check("root", &[KEY], "root is whose login is closed").await;
    check("-oProxyCommand=x", &[KEY], "is not the name of a user").await;
    check("a b", &[KEY], "is not the name of a user").await;
    check("fleet", &["command=\"x\" ssh-ed25519 AAAA"], "does not begin with a kind of key").await;
    check("fleet", &[&format!("{KEY}\nssh-ed25519 AAAA")], "is not one line of a public key").await;
}
