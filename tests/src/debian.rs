//! A Debian of its own, for containers.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

/// What a node of ours has, beside what every Debian has.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,openssh-server,openssh-client,sudo,chrony,iproute2,lvm2,e2fsprogs,\
                        adduser,ca-certificates";

/// The files of a Debian as an archive, made once and kept in `folder`.
///
/// # Errors
/// It cannot be made: `mmdebstrap` says why.
pub fn debian(folder: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    // Whoever comes second waits for the first one's.
    let lock = File::create(folder.join("node.lock"))?;
    lock.lock()?;
    let tar = folder.join("node.tar");
    if !tar.is_file() {
        eprintln!("making a Debian for containers, once: {}", tar.display());
        let part = folder.join("node.part.tar");
        let mut make = Command::new("mmdebstrap");
        make.args(["--quiet", "--variant=minbase", "--include", PACKAGES, "bookworm"]).arg(&part);
        let status = make.status().context("start mmdebstrap")?;
        ensure!(status.success(), "mmdebstrap ended with {status}");
        fs::rename(&part, &tar)?;
    }
    Ok(tar)
}
