use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use super::*;
use crate::tasks::tests::Rig;

const PATH: &str = "/srv/www/index.html";

fn spec(content: Content) -> FileTask {
    FileTask { path: PATH.into(), content: Some(content), ..FileTask::default() }
}

fn text(text: &str) -> FileTask {
    spec(Content::Text(text.into()))
}

fn task(spec: FileTask) -> File {
    File::new(TaskId::new("file"), spec)
}

fn mode(rig: &Rig, path: &str) -> u32 {
    fs::metadata(rig.path(path)).expect(path).mode() & 0o7777
}

#[tokio::test]
async fn a_text_is_put_in_place_and_repaired() {
    let rig = Rig::new(&[]);
    assert_eq!(rig.changed(&task(text("one\n"))).await, ["make /srv/www/index.html (4 bytes)"]);
    assert_eq!((rig.text(PATH).as_str(), mode(&rig, PATH)), ("one\n", 0o644));
    rig.unchanged(&task(text("one\n"))).await;
    fs::write(rig.path(PATH), "two\n").expect("damage");
    let expected = "/srv/www/index.html: line 1 is `two`, to become `one`";
    assert_eq!(rig.changed(&task(text("one\n"))).await, [expected]);
    let strict = FileTask { mode: 0o640, ..text("one\n") };
    let before = fs::metadata(rig.path(PATH)).expect("file").ino();
    assert_eq!(
        rig.changed(&task(strict.clone())).await,
        ["mode of /srv/www/index.html is 0644, to become 0640"]
    );
    assert_eq!(fs::metadata(rig.path(PATH)).expect("file").ino(), before, "only the mode was touched");
    rig.unchanged(&task(strict)).await;
}

#[tokio::test]
async fn a_secret_shows_its_size_only() {
    let rig = Rig::new(&[(PATH, "hunter2\n")]);
    let secret = FileTask { mode: 0o600, ..text("correct horse\n") };
    let changes = rig.changed(&task(secret.clone())).await;
    assert_eq!(changes[0], "/srv/www/index.html: 8 bytes, to become 14");
    // Also when what is there is a secret, and what is to come is not.
    assert_eq!(rig.changed(&task(text("open\n"))).await[0], "/srv/www/index.html: 14 bytes, to become 5");
}

#[tokio::test]
async fn an_artifact_is_fetched_and_checked_by_its_digest() {
    let rig = Rig::new(&[]);
    let bytes = b"\x7fELF and so on".to_vec();
    let sha256 = hex(ring::digest::digest(&SHA256, &bytes).as_ref());
    let artifact = Artifact { name: "site.tar".into(), sha256, size: bytes.len() as u64 };
    let task = task(FileTask { mode: 0o755, ..spec(Content::Artifact(artifact.clone())) });
    let why = rig.failed(&task).await;
    assert!(why.contains("no such artifact"), "{why}");
    assert!(!rig.path("/srv").exists(), "what cannot be had leaves no trace");
    rig.controller.hold_as(&rig.path("/"), &artifact.sha256, &bytes);
    rig.changed(&task).await;
    assert_eq!((fs::read(rig.path(PATH)).expect("file"), mode(&rig, PATH)), (bytes, 0o755));
    rig.unchanged(&task).await;
    fs::write(rig.path(PATH), "\x7fELF and so of").expect("damage of the same size");
    assert_eq!(rig.changed(&task).await, ["/srv/www/index.html: other 14 bytes than it is to hold"]);
}

#[tokio::test]
async fn folders_are_made_and_things_removed() {
    let rig = Rig::new(&[("/srv/old", "")]);
    let folder = task(FileTask { path: "/srv/data".into(), mode: 0o750, ..spec(Content::Directory(true)) });
    assert_eq!(rig.changed(&folder).await, ["make the folder /srv/data"]);
    assert_eq!(mode(&rig, "/srv/data"), 0o750);
    rig.unchanged(&folder).await;
    let absent = |path: &str| task(FileTask { path: path.into(), ..spec(Content::Absent(true)) });
    assert_eq!(rig.changed(&absent("/srv/old")).await, ["remove /srv/old"]);
    rig.unchanged(&absent("/srv/old")).await;
    rig.unchanged(&absent("/nowhere/at/all")).await;
    fs::write(rig.path("/srv/data/x"), "").expect("content");
    let why = rig.failed(&absent("/srv/data")).await;
    assert!(why.contains("/srv/data") && why.contains("not empty"), "{why}");
    symlink("/srv/data/x", rig.path("/srv/link")).expect("link");
    rig.changed(&absent("/srv/link")).await;
    assert!(rig.path("/srv/data/x").exists(), "the link goes, not what it leads to");
}

#[tokio::test]
async fn what_is_in_the_way_is_named_and_left_alone() {
    let rig = Rig::new(&[("/etc/shadow", "kept"), ("/srv/www/.keep", "")]);
    symlink("/etc/shadow", rig.path(PATH)).expect("link");
    let why = rig.failed(&task(text("x"))).await;
    assert!(why.contains("index.html is a symbolic link") && why.contains("next: move it away"), "{why}");
    fs::remove_file(rig.path(PATH)).expect("link");
    fs::create_dir(rig.path(PATH)).expect("folder");
    let why = rig.failed(&task(text("x"))).await;
    assert!(why.contains("index.html is a folder"), "{why}");
    assert_eq!(rig.text("/etc/shadow"), "kept");
}

#[tokio::test]
async fn whatever_somebody_put_there_is_looked_at_and_not_swallowed() {
    let rig = Rig::new(&[("/srv/www/.keep", ""), ("/etc/shadow", "kept")]);
    // Larger than any memory, and bytes that are no text.
    fs::File::create(rig.path(PATH)).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    assert_eq!(
        rig.changed(&task(text("x"))).await,
        ["/srv/www/index.html: 1099511627776 bytes, to become 1"]
    );
    fs::write(rig.path(PATH), b"\xff\xfe\0").expect("no text");
    assert_eq!(rig.changed(&task(text("x"))).await, ["/srv/www/index.html: 3 bytes, to become 1"]);
    // The same content under another name: whoever owns the folder linked somebody else's file into it.
    if nix::unistd::geteuid().is_root() {
        fs::remove_file(rig.path(PATH)).expect("attack");
        fs::write(rig.path("/etc/other"), "x").expect("file");
        fs::set_permissions(rig.path("/etc/other"), fs::Permissions::from_mode(0o600)).expect("mode");
        fs::hard_link(rig.path("/etc/other"), rig.path(PATH)).expect("attack");
        std::os::unix::fs::chown(rig.path("/srv/www"), Some(4711), Some(4711)).expect("theirs");
        let why = rig.failed(&task(text("x"))).await;
        assert!(why.contains("has another name elsewhere") && why.contains("next: "), "{why}");
        assert_eq!(mode(&rig, "/etc/other"), 0o600);
    }
    // A file where a folder is to be on the way.
    let below = task(FileTask { path: "/etc/shadow/x".into(), ..text("x") });
    let why = rig.failed(&below).await;
    assert!(why.contains("`shadow` on the way to /etc/shadow is no folder"), "{why}");
    assert_eq!(rig.text("/etc/shadow"), "kept");
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_written() {
    let check = async |spec: FileTask, expected: &str| {
        let rig = Rig::new(&[]);
        let why = rig.failed(&task(spec)).await;
        assert!(why.contains(expected) && why.contains("next: "), "{why}");
        assert!(!rig.path("/srv").exists());
    };
    let at = |path: &str| FileTask { path: path.into(), ..text("x") };
    check(at("srv/x"), "the path `srv/x` is not an absolute path").await;
    check(at("/srv/../etc/x"), "has empty parts, `.` or `..`").await;
    check(at("/srv/x\n"), "has control characters").await;
    check(at("/var/lib/fleet-agent/key"), "/var/lib/fleet-agent is the agent's own").await;
    check(FileTask { owner: "nobody-here".into(), ..text("x") }, "there is no user `nobody-here`").await;
    check(FileTask { group: "-x".into(), ..text("x") }, "is not the name of a group").await;
    check(FileTask { mode: 0o10000, ..text("x") }, "10000 is not a file mode").await;
    check(FileTask { content: None, ..text("x") }, "nothing is said").await;
    check(spec(Content::Absent(false)), "nothing is said").await;
    let artifact = Artifact { name: "x".into(), sha256: "../../etc".into(), size: 1 };
    check(spec(Content::Artifact(artifact)), "is not a SHA-256 digest").await;
}
