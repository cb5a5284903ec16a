//! What the image is made of, and the key that follows from it.

use sha2::{Digest, Sha256};

/// Raised when the way of building changes in a manner the files below do not show.
const VERSION: u32 = 1;
/// Debian release the image is made from.
pub const SUITE: &str = "bookworm";

/// Packages beside those Debian calls essential. The kernel is added by the `finish` script.
const PACKAGES: [&str; 20] = [
    "apt",
    "busybox-static",
    "ca-certificates",
    "chrony",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "gzip",
    "iproute2",
    "iputils-ping",
    "kmod",
    "lvm2",
    "netbase",
    "openssh-server",
    "openssh-sftp-server",
    "procps",
    "python3-minimal",
    "sudo",
    "systemd-sysv",
    "udev",
];

/// Files that the image's `finish` script puts in place, by their names below `files/`.
macro_rules! files {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("files/", $name)))),*] };
}
const FILES: [(&str, &str); 19] = files![
    "apt.conf",
    "cloud.cfg",
    "customise",
    "finish",
    "guest-customise.service",
    "guest-devices.service",
    "guest-power.service",
    "guest-seed.service",
    "initramfs-init",
    "lvmlocal.conf",
    "masked-units",
    "power-button",
    "probe-init",
    "seed",
    "seed.cfg",
    "sshd.conf",
    "units/console.conf",
    "units/journald.conf",
    "units/ssh.conf",
];

/// How the image is made. Two recipes with the same key make the same image, but for the age of its packages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recipe;

impl Recipe {
    /// Packages to install.
    pub fn packages(self) -> String {
        PACKAGES.join(",")
    }

    /// Files for the `finish` script, by relative path.
    pub fn files(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        FILES.into_iter()
    }

    /// Names the image's folder in the cache.
    pub fn key(self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{VERSION}\n{SUITE}\n{}\n", self.packages()));
        for (name, text) in self.files() {
            hash.update(format!("{name} {}\n{text}", text.len()));
        }
        let digest = hash.finalize();
        let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("debian-12-{hex}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_a_folder_name_and_stable() {
        let key = Recipe.key();
        assert_eq!(key, Recipe.key());
        assert!(key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-'), "{key}");
    }
}
