//! Keys are made once, kept private, and changed without ever standing between two roots.

use fleet_model::NodeName;
use fleet_release::{Kind, Permit};

use super::*;
use crate::args::{Global, Output};

struct Place {
    home: Home,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let global = Global { home: Some(dir.path().join("home")), fleet: None, output: Output::Text };
        Self { home: Home::of(&global).expect("a home"), _dir: dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.dir().join(DIR).join(name)
    }

    fn keys(&self) -> Keys {
        Keys::ensure(&self.home, |_| {}).expect("keys")
    }

    fn rotate(&self, role: RoleName) -> Keys {
        Keys::rotate(&self.home, role).expect("rotated")
    }
}

fn permit() -> Permit {
    let now = SystemClock.now();
    Permit {
        manifest: "0a".repeat(32),
        fleet: "reference".parse().expect("a name"),
        nodes: ["a1".parse::<NodeName>().expect("a name")].into(),
        reason: "because".to_owned(),
        created: now,
        expires: now.after(Duration::from_secs(60)),
    }
}

#[test]
fn made_once_for_the_owner_alone() {
    let place = Place::new();
    assert!(Keys::open(&place.home).expect("nothing there").is_none());
    let first = place.keys();
    assert_eq!(place.keys().chain(), first.chain());
    for (name, mode) in [("", 0o700), ("root.key", 0o600), ("release.key", 0o600), ("permit.key", 0o600)] {
        let found = place.file(name).metadata().expect("there").permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    let document = String::from_utf8(first.chain()[0].clone()).expect("text");
    let secret = fs::read_to_string(place.file("root.key")).expect("reads");
    assert!(!document.contains(secret.lines().nth(1).expect("PEM")));
    fs::set_permissions(place.file("release.key"), fs::Permissions::from_mode(0o640)).expect("set");
    let failure = place.keys().sign(RoleName::Release, &permit()).expect_err("others may read it");
    assert!(failure.to_string().contains("others on this host can get at"), "{failure}");
}

#[test]
fn a_first_attempt_that_was_cut_is_finished() {
    let place = Place::new();
    place.keys();
    let root = fs::read(place.file("root.key")).expect("there");
    fs::remove_file(place.file("root.1")).expect("cut before it was written");
    fs::remove_file(place.file("permit.key")).expect("and before that");
    place.keys().sign(RoleName::Permit, &permit()).expect("whole again");
    assert_eq!(fs::read(place.file("root.key")).expect("there"), root, "what was made is used");
}

#[test]
fn every_role_is_rotated_and_the_old_key_is_refused() {
    let place = Place::new();
    let start = place.keys();
    let by_old = start.sign(RoleName::Permit, &permit()).expect("signed");
    for (number, role) in (2..).zip([RoleName::Release, RoleName::Root, RoleName::Permit, RoleName::Root]) {
        let old = fs::read(key_file(start.dir(), role)).expect("there");
        let keys = place.rotate(role);
        assert_eq!(keys.trust().root().number, number);
        assert_ne!(fs::read(key_file(start.dir(), role)).expect("there"), old);
        assert!(!next_file(start.dir(), role).exists());
    }
    let keys = place.keys();
    // Who still stands at root 1 follows to the newest.
    let ahead = start.trust().ahead(keys.chain()).expect("readable");
    assert_eq!(ahead.len(), 4);
    let followed = ahead.iter().try_fold(start.trust().clone(), |trust, root| trust.follow(root));
    assert_eq!(followed.as_ref(), Ok(keys.trust()));
    let signed = Signed::decode(Kind::Permit, &by_old).expect("one");
    let old = signed.signers().next().expect("signed");
    assert!(!keys.trust().root().permit.keys.iter().any(|key| key.id() == old), "withdrawn");
    for role in RoleName::ALL {
        keys.sign(role, &permit()).expect("every key is the one that is named");
    }
}

#[test]
fn a_rotation_cut_anywhere_is_finished_or_undone() {
    for role in RoleName::ALL {
        let place = Place::new();
        place.keys();
        let before = fs::read(place.file(&format!("{}.key", role.word()))).expect("there");
        let next = place.file(&format!("{}.key.next", role.word()));
        // Cut before the root was written: nobody has heard of the key.
        let (_, pem) = generate().expect("a key");
        write(&next, pem.reveal().as_bytes()).expect("written");
        place.keys().sign(role, &permit()).expect("as before");
        assert!(!next.exists());
        // Cut after: the root names it.
        place.rotate(role);
        let after = fs::read(place.file(&format!("{}.key", role.word()))).expect("there");
        write(&next, &after).expect("written");
        write(&place.file(&format!("{}.key", role.word())), &before).expect("written");
        place.keys().sign(role, &permit()).expect("finished");
        assert!(!next.exists());
    }
}

#[test]
fn a_root_key_that_is_elsewhere_is_missed_only_where_it_is_needed() {
    let place = Place::new();
    place.keys();
    let away = fs::read(place.file("root.key")).expect("there");
    fs::remove_file(place.file("root.key")).expect("taken away");
    let keys = place.keys();
    assert!(!keys.has(RoleName::Root) && keys.has(RoleName::Release));
    keys.sign(RoleName::Release, &permit()).expect("not needed");
    let failure = Keys::rotate(&place.home, RoleName::Release).expect_err("needed");
    assert!(failure.to_string().contains("root.key is not here"), "{failure}");
    write(&place.file("root.key"), &away).expect("back");
    // A release key that was lost is replaced.
    fs::remove_file(place.file("release.key")).expect("lost");
    place.rotate(RoleName::Release).sign(RoleName::Release, &permit()).expect("another one");
}

#[test]
fn a_key_that_is_not_named_signs_nothing() {
    let (place, other) = (Place::new(), Place::new());
    place.keys();
    other.keys();
    fs::copy(other.file("release.key"), place.file("release.key")).expect("copied");
    let failure = place.keys().sign(RoleName::Release, &permit()).expect_err("refused");
    assert!(failure.to_string().contains("is not the key that root 1 names"), "{failure}");
    fs::copy(other.file("root.1"), place.file("root.2")).expect("copied");
    let failure = Keys::ensure(&place.home, |_| {}).expect_err("no chain");
    assert!(failure.to_string().contains("are damaged"), "{failure}");
}

#[test]
fn unused_keys_go_with_the_last_fleet_and_used_ones_stay() {
    let place = Place::new();
    remove_unused(&place.home).expect("nothing there is fine");
    place.keys();
    remove_unused(&place.home).expect("removed");
    assert!(!place.file("").exists());
    // Cut half-way.
    place.keys();
    fs::remove_file(place.file("root.key")).expect("removed");
    remove_unused(&place.home).expect("finished");
    assert!(!place.file("").exists());
    // Brought by hand, without their roots.
    place.keys();
    fs::remove_file(place.file("root.1")).expect("removed");
    remove_unused(&place.home).expect("left alone");
    assert!(place.file("root.key").exists());
    place.keys().sign(RoleName::Release, &permit()).expect("signed");
    remove_unused(&place.home).expect("left alone");
    assert!(place.file("release.key").exists());
}
