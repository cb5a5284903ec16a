//! Old images go: the newest two stay, and those that somebody uses.
//!
//! Several clouds share one cache, so an image's folder says who uses it: `users/<hash>` holds the folder of a
//! cloud. A cloud uses an image while it is served, because it makes servers from it any time, and for as long as a
//! disk of a server of its, or a copy of one, is an overlay of it.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use super::{Image, build::UNFINISHED};
use crate::machines::{copies::Copies, qcow2};

/// Images kept though nobody uses them: going back to the version before is common.
const NEWEST: usize = 2;
/// How the names of images begin that are on their way out.
const GOING: &str = ".going-";

/// Notes that `cloud` uses `image`, then removes images nobody uses. `is_served` tells whether a cloud is.
/// Blocks. What cannot be removed now is another time.
pub(crate) fn prune(image: &Image, cloud: &Path, is_served: impl Fn(&Path) -> bool) -> io::Result<()> {
    let Some(images) = image.folder.parent() else { return Ok(()) };
    // Whoever builds or prunes meanwhile has it, and does what is to be done.
    let file = fs::File::create(images.join("lock"))?;
    let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(()) };
    let used = bases(cloud);
    enter(image, cloud)?;
    let mut others = Vec::new();
    for entry in fs::read_dir(images)? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        // The lock is held: whatever build left something unfinished has ended, and this cloud's image is there.
        if name.starts_with(GOING) || name.ends_with(UNFINISHED) {
            fs::remove_dir_all(&folder)?;
        } else if !name.starts_with('.') && folder.is_dir() && folder != image.folder {
            others.push(Image { folder: folder.clone() });
        }
    }
    for other in &others {
        if !used.contains(&other.disk()) {
            leave(other, cloud)?;
        }
    }
    others.sort_by_key(|other| std::cmp::Reverse(made(other)));
    for old in others.iter().skip(NEWEST - 1).filter(|old| !in_use(old, &is_served)) {
        tracing::info!(image = %old.folder.display(), "removing a machine image nobody uses");
        let going = images.join(format!("{GOING}{}", old.folder.file_name().unwrap_or_default().display()));
        // In one step: half an image would be taken for a whole one.
        fs::rename(&old.folder, &going)?;
        fs::remove_dir_all(&going)?;
    }
    Ok(())
}

/// Images that disks of a cloud's servers, and copies of such disks, are overlays of.
fn bases(cloud: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let kept = Copies::of(cloud);
    let owners = entries(&cloud.join("servers")).chain(entries(kept.folder()));
    let files = owners.flat_map(|owner| entries(&owner).collect::<Vec<_>>());
    // Sockets, logs and added disks are none.
    files.filter(|file| file.is_file()).filter_map(|file| qcow2::base(&file).ok()).collect()
}

fn in_use(image: &Image, is_served: &impl Fn(&Path) -> bool) -> bool {
    let users = fs::read_dir(users(image)).into_iter().flatten().flatten();
    users.filter_map(|user| fs::read(user.path()).ok()).any(|bytes| {
        let cloud = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes));
        // A cloud that was reset is gone, with all it had.
        cloud.is_dir() && (is_served(&cloud) || bases(&cloud).contains(&image.disk()))
    })
}

fn made(image: &Image) -> SystemTime {
    fs::metadata(image.disk()).and_then(|disk| disk.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn enter(image: &Image, cloud: &Path) -> io::Result<()> {
    fs::create_dir_all(users(image))?;
    fs::write(user(image, cloud), cloud.as_os_str().as_bytes())
}

fn leave(image: &Image, cloud: &Path) -> io::Result<()> {
    match fs::remove_file(user(image, cloud)) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

fn users(image: &Image) -> PathBuf {
    image.folder.join("users")
}

fn user(image: &Image, cloud: &Path) -> PathBuf {
    let digest = Sha256::digest(cloud.as_os_str().as_bytes());
    users(image).join(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn image(&self, name: &str, age: u64) -> Image {
            let folder = self.dir.path().join("images").join(name);
            fs::create_dir_all(&folder).expect("made");
            let image = Image { folder };
            let disk = fs::File::create(image.disk()).expect("made");
            disk.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("dated");
            image
        }

        fn cloud(&self, name: &str, over: Option<&Image>) -> PathBuf {
            let cloud = self.dir.path().join(name);
            let server = cloud.join("servers/s1");
            fs::create_dir_all(&server).expect("made");
            fs::write(server.join("console.log"), "hello").expect("written");
            if let Some(image) = over {
                qcow2::create(&server.join("disk-0.qcow2"), &image.disk(), 1 << 30).expect("made");
            }
            cloud
        }

        fn left(&self) -> Vec<String> {
            let entries = fs::read_dir(self.dir.path().join("images")).expect("lists");
            let names = entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned());
            let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
            names.sort();
            names
        }
    }

    #[test]
    fn the_newest_two_stay_and_what_is_in_use() {
        let fixture = Fixture { dir: tempfile::tempdir().expect("a folder") };
        let [a, b, c, d, now] = [("a", 50), ("b", 40), ("c", 30), ("d", 20), ("e", 10)]
            .map(|(name, age)| fixture.image(name, age));
        fs::create_dir_all(fixture.dir.path().join("images/.going-x")).expect("made");
        fs::create_dir_all(fixture.dir.path().join("images/.y.unfinished")).expect("made");
        // One cloud has a server on `a`, another is served with `b`, a third that used `c` is no more.
        let stopped = fixture.cloud("stopped", Some(&a));
        let served = fixture.cloud("served", None);
        let gone = fixture.dir.path().join("gone");
        for (image, cloud) in [(&a, &stopped), (&b, &served), (&c, &gone)] {
            enter(image, cloud).expect("noted");
        }
        let ours = fixture.cloud("ours", Some(&now));
        let is_served = |cloud: &Path| cloud == served || cloud == ours;
        prune(&now, &ours, is_served).expect("prunes");
        assert_eq!(fixture.left(), ["a", "b", "d", "e"]);

        // Its server goes; the other cloud is not served any more. Only when a cloud looks next.
        fs::remove_dir_all(stopped.join("servers")).expect("removed");
        prune(&now, &ours, |cloud| cloud == ours).expect("prunes");
        assert_eq!(fixture.left(), ["d", "e"]);
        assert!(d.disk().is_file());
    }

    #[test]
    fn a_cloud_that_changed_to_a_newer_image_leaves_the_old_one() {
        let fixture = Fixture { dir: tempfile::tempdir().expect("a folder") };
        let old = fixture.image("old", 30);
        let ours = fixture.cloud("ours", Some(&old));
        prune(&old, &ours, |_| true).expect("prunes");
        let middle = fixture.image("middle", 20);
        let new = fixture.image("new", 10);
        prune(&new, &ours, |_| true).expect("prunes");
        assert_eq!(fixture.left(), ["middle", "new", "old"], "a server is still on it");
        fs::create_dir_all(ours.join("images")).expect("made");
        fs::rename(ours.join("servers/s1"), ours.join("images/i1")).expect("moved");
        prune(&new, &ours, |_| true).expect("prunes");
        assert_eq!(fixture.left(), ["middle", "new", "old"], "a copy of its disk is still on it");
        fs::remove_dir_all(ours.join("images")).expect("removed");
        prune(&new, &ours, |_| true).expect("prunes");
        assert_eq!(fixture.left(), ["middle", "new"]);
        assert!(middle.disk().is_file());
    }
}
