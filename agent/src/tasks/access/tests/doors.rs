//! Host keys, and proofs that fail or are put off: whatever happens, somebody gets in, and what was closed stays so.

use super::*;

/// A node that came up from an image, with its key.
pub(crate) fn came_from_the_image(rig: &Rig) {
    rig.node().journal().forget(&TaskId::new("access"), "host keys").expect("journal");
    of_the_image(rig, &["ed25519", "rsa"]);
}

/// As if the file were of the image: older than the machine.
fn of_the_image(rig: &Rig, kinds: &[&str]) {
    for kind in kinds {
        let path = rig.path(&format!("/etc/ssh/ssh_host_{kind}_key"));
        fs::write(&path, private_key(kind)).expect("key");
        let file = fs::File::options().write(true).open(&path).expect("key");
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(90_000)).expect("older");
    }
    fs::write(rig.path("/etc/machine-id"), "id").expect("machine id");
}

#[tokio::test]
async fn host_keys_of_the_image_are_made_anew_once_and_behind_closed_doors() {
    let (debian, rig) = rig();
    of_the_image(&rig, &["ed25519", "rsa", "dsa", "ed25519.old"]);
    let changes = rig.changed(&task()).await;
    let line = "make host keys anew that came with the image: ed25519, rsa".to_owned();
    assert!(changes.contains(&line), "{changes:?}");
    assert!(rig.text(HOST_KEY).contains("private ed25519 ") && rig.path(&format!("{HOST_KEY}.pub")).exists());
    assert_eq!(rig.text("/etc/ssh/ssh_host_dsa_key"), private_key("dsa"), "nobody makes those any more");
    let ran = debian.ran("");
    let at =
        |what: &str| ran.iter().rposition(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}"));
    let first = ran.iter().position(|line| line.contains("host-key")).expect("made");
    assert!(
        at("--lock") < first && first < at("try-reload-or-restart") && at("try-reload") < at("ssh -F"),
        "{ran:?}"
    );
    rig.unchanged(&task()).await;
    assert_eq!(debian.ran("host-key").len(), 2);
    // A backup that is restored is no image.
    of_the_image(&rig, &["ed25519"]);
    rig.unchanged(&task()).await;
}

#[tokio::test]
async fn host_keys_made_before_a_cut_are_read_by_sshd_before_anything_is_proved() {
    let (debian, rig) = rig();
    of_the_image(&rig, &["ed25519"]);
    rig.changed(&task()).await;
    // Cut off after the last key was made: they are new, and what was proved is forgotten.
    rig.node().journal().forget(&TaskId::new("access"), "proved").expect("journal");
    let before = debian.ran("try-reload-or-restart").len();
    rig.changed(&task()).await;
    let ran = debian.ran("");
    let last = |what: &str| ran.iter().rposition(|line| line.contains(what)).expect("done");
    assert_eq!(debian.ran("try-reload-or-restart").len(), before + 1);
    assert!(last("try-reload-or-restart") < last("ssh -F"), "{ran:?}");
    rig.unchanged(&task()).await;
}

#[tokio::test]
async fn host_keys_a_power_cut_left_are_repaired_and_sshd_is_never_without_one() {
    let check = async |damage: &dyn Fn(&Debian, &Rig), expected: &str| {
        let (debian, rig) = rig();
        fs::write(rig.path(&format!("{HOST_KEY}.pub")), PUBLIC).expect("key");
        rig.changed(&task()).await;
        let key = rig.text(HOST_KEY);
        damage(&debian, &rig);
        assert_eq!(rig.changed(&task()).await, [expected]);
        assert!(debian.has_host_key() && debian.is_up("ssh.service").0 && debian.gets_in("fleet"));
        rig.unchanged(&task()).await;
        (key, rig)
    };
    let write = |rig: &Rig, path: &str, text: &[u8]| fs::write(rig.path(path), text).expect("damage");
    let one = "make host keys that are missing or damaged: ed25519";
    let cut = &private_key("ed25519").into_bytes()[..40];
    for damaged in [b"".as_slice(), &[0; 411], cut] {
        check(&|_, rig| write(rig, HOST_KEY, damaged), one).await;
    }
    // Beside one that is whole.
    check(
        &|_, rig| write(rig, "/etc/ssh/ssh_host_rsa_key", b""),
        "make host keys that are missing or damaged: rsa",
    )
    .await;
    // None at all: sshd did not start.
    check(
        &|debian, rig| {
            fs::remove_file(rig.path(HOST_KEY)).expect("damage");
            debian.failed_unit("ssh.service");
        },
        "make host keys that are missing or damaged: ecdsa, ed25519, rsa",
    )
    .await;
    // Only the public half: the key stays who it is.
    let (key, rig) = check(
        &|_, rig| write(rig, &format!("{HOST_KEY}.pub"), &PUBLIC.as_bytes()[..50]),
        "write the public halves of host keys: ed25519",
    )
    .await;
    assert_eq!((rig.text(HOST_KEY), rig.text(&format!("{HOST_KEY}.pub"))), (key, format!("{PUBLIC}\n")));
}

#[tokio::test]
async fn keys_in_places_of_ones_own_are_left_alone() {
    let (debian, rig) = rig();
    fs::write(rig.path("/etc/ssh/sshd_config"), format!("{MAIN}HostKey /etc/ssh/mine\n")).expect("settings");
    fs::write(rig.path("/etc/ssh/mine"), private_key("mine")).expect("key");
    fs::write(rig.path("/etc/ssh/ssh_host_rsa_key"), "").expect("key");
    rig.changed(&task()).await;
    assert_eq!(debian.ran("host-key").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_busy_sshd_is_tried_again() {
    let (debian, rig) = rig();
    debian.is_busy(3);
    rig.changed(&task()).await;
    let (debian, rig) = self::rig();
    debian.is_busy(1000);
    let why = rig.failed(&task()).await;
    assert!(why.contains("Connection closed by remote host"), "{why}");
    assert_eq!(debian.ran("ssh -F").len(), 8);
    assert!(!rig.path(DROP_IN).exists());
}

#[tokio::test(start_paused = true)]
async fn what_was_proved_once_is_not_opened_again_by_a_proof_that_fails() {
    let check = async |again: &dyn Fn(&Rig)| {
        let (debian, rig) = rig();
        rig.changed(&task()).await;
        again(&rig);
        debian.is_busy(1000);
        let why = rig.failed(&task()).await;
        assert!(
            why.contains("SSH is closed, as it was proved before, and stays so: fleet does not get in"),
            "{why}"
        );
        assert_eq!((debian.sshd_says("PermitRootLogin"), rig.path(DROP_IN).exists()), ("no".into(), true));
        let why = rig.failed(&task()).await;
        assert!(why.contains("stays so"), "it is not forgotten: {why}");
        debian.is_busy(0);
        rig.changed(&task()).await;
        rig.unchanged(&task()).await;
    };
    check(&|rig| _ = rig.node().journal().forget(&TaskId::new("access"), "proved")).await;
    check(&|rig| fs::write(rig.path(HOST_KEY), "").expect("damage")).await;
    check(&|rig| of_the_image(rig, &["ed25519"])).await;
    // An older agent remembered the proof alone.
    check(&|rig| {
        rig.node().journal().forget(&TaskId::new("access"), "closed").expect("journal");
        fs::write(rig.path(HOST_KEY), "").expect("damage");
    })
    .await;
}

#[tokio::test]
async fn half_a_change_that_keeps_everybody_out_is_taken_back() {
    let (debian, rig) = rig();
    debian.turns_away("fleet");
    // Killed after sshd has read the drop-in and before the second proof.
    let reload = {
        let (debian, rig) = self::rig();
        rig.changed(&task()).await;
        debian.ran("").iter().position(|line| line.contains("try-reload")).expect("reloads")
    };
    debian.fault_at(reload, crate::tasks::support::fake::Fault::DiesAfter);
    tokio::select! {
        _ = rig.run(Arc::new(task())) => panic!("it dies"),
        () = debian.dead() => (),
    }
    debian.revive();
    assert_eq!(debian.sshd_says("PasswordAuthentication"), "no");
    let why = rig.failed(&task()).await;
    assert!(why.contains("SSH was not closed, and is as it was: fleet does not get in"), "{why}");
    assert_eq!(
        (debian.sshd_says("PasswordAuthentication"), rig.path(DROP_IN).exists()),
        ("yes".into(), false)
    );
}
