//! Whether the node needs a reboot.
//!
//! Debian's own mark counts, and so does a kernel of a package that is newer than the running one. A kernel that did
//! not come from a package, as of a machine that is booted directly, is nobody's older version.

use fleet_task::{Node, TaskError};

use crate::tasks::support::dpkg::Packages;

const MARK: &str = "/run/reboot-required";
const FOR: &str = "/run/reboot-required.pkgs";
const IMAGE: &str = "linux-image-";
/// Packages named as the reason.
const NAMED: usize = 5;

/// Why, if it does.
///
/// # Errors
/// [`TaskError::Read`].
pub(super) fn needed(node: &Node) -> Result<Option<String>, TaskError> {
    if node.path(MARK).exists() {
        let list = node.read(FOR)?.unwrap_or_default();
        let list = String::from_utf8_lossy(&list);
        let mut packages: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        packages.sort_unstable();
        packages.dedup();
        packages.truncate(NAMED);
        return Ok(Some(match packages.is_empty() {
            true => "Debian says so".into(),
            false => format!("for {}", packages.join(", ")),
        }));
    }
    let running = text(node, "/proc/sys/kernel/osrelease");
    let packages = Packages::read(node)?;
    if running.is_empty() || !packages.knows(&format!("{IMAGE}{running}")) {
        return Ok(None);
    }
    let installed = packages
        .installed()
        .filter_map(|(name, _)| name.strip_prefix(IMAGE))
        .filter(|release| flavour(release) == flavour(&running))
        .filter(|release| node.path(&format!("/boot/vmlinuz-{release}")).exists());
    let newest = installed.max_by(|a, b| numbers(a).cmp(&numbers(b)));
    Ok(newest
        .filter(|release| numbers(release) > numbers(&running))
        .map(|release| format!("kernel {release} is installed, {running} is running")))
}

/// Which boot this is: another one after every reboot.
pub(super) fn boot(node: &Node) -> String {
    text(node, "/proc/sys/kernel/random/boot_id")
}

fn text(node: &Node, path: &str) -> String {
    let bytes = node.read(path).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// `6.1.0-20-cloud-amd64` is `cloud-amd64`: one flavour does not replace another.
fn flavour(release: &str) -> &str {
    release.trim_start_matches(|c: char| c.is_ascii_digit() || ".-+~".contains(c))
}

/// The numbers of a release, for comparing.
fn numbers(release: &str) -> Vec<u64> {
    let head = release.strip_suffix(flavour(release)).unwrap_or(release);
    head.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::tests::Rig;

    fn check(running: &str, installed: &[(&str, bool)], mark: Option<&str>, expected: Option<&str>) {
        let rig = Rig::new(&[("/boot/.keep", ""), ("/run/.keep", "")]);
        let write = |path: &str, text: &str| {
            let path = rig.path(path);
            std::fs::create_dir_all(path.parent().expect("absolute")).expect("folder");
            std::fs::write(path, text).expect("file");
        };
        write("/proc/sys/kernel/osrelease", &format!("{running}\n"));
        let mut status = String::new();
        for (release, bootable) in installed {
            status +=
                &format!("Package: linux-image-{release}\nStatus: install ok installed\nVersion: 1\n\n");
            if *bootable {
                write(&format!("/boot/vmlinuz-{release}"), "");
            }
        }
        write("/var/lib/dpkg/status", &status);
        if let Some(packages) = mark {
            write(MARK, "");
            write(FOR, packages);
        }
        assert_eq!(needed(&rig.node()).expect("look").as_deref(), expected, "{running} {installed:?}");
    }

    #[test]
    fn newer_kernels_of_packages_count() {
        let (old, new) = ("6.1.0-9-amd64", "6.1.0-20-amd64");
        check(old, &[(old, true)], None, None);
        let reason = "kernel 6.1.0-20-amd64 is installed, 6.1.0-9-amd64 is running";
        check(old, &[(old, true), (new, true)], None, Some(reason));
        check(new, &[(old, true), (new, true)], None, None);
        check(old, &[(old, true), (new, false)], None, None);
        check(old, &[(old, true), ("6.1.0-20-cloud-amd64", true)], None, None);
        // Booted directly, with a kernel no package knows of.
        check("6.1.0-9-cloud-amd64", &[(new, true)], None, None);
        check("6.1.0-9-cloud-amd64", &[], None, None);
        check(old, &[(old, true)], Some("libc6\nlibc6\ndbus\n"), Some("for dbus, libc6"));
        check("", &[], Some(""), Some("Debian says so"));
    }

    #[test]
    fn releases_compare_by_number() {
        assert!(numbers("6.1.0-20-amd64") > numbers("6.1.0-9-amd64"));
        assert!(numbers("6.10.3-amd64") > numbers("6.9.12-amd64"));
        assert_eq!(numbers("6.1.0-20-amd64"), [6, 1, 0, 20]);
        assert_eq!(flavour("6.1.0-20-cloud-amd64"), "cloud-amd64");
    }
}
