//! What building and running need from Debian.

use std::process::Command;

use crate::run::{Done, output, run};

/// Packages, and why.
const PACKAGES: &[(&str, &str)] = &[
    ("gcc", "links, and builds the C parts of ring, SQLite"),
    ("libc6-dev", "static libc for the agent"),
    ("binutils", "nm and strip for the agent's gates"),
    ("pkg-config", "finds libsystemd"),
    ("libsystemd-dev", "readiness, watchdog and journal of the controller"),
    ("qemu-system-x86", "virtual machines of the local cloud"),
    ("qemu-utils", "disk images"),
    ("iproute2", "network namespaces"),
    ("nftables", "the local cloud's firewalls"),
    ("slirp4netns", "guests' way out, user-mode"),
    ("systemd-container", "runs a Debian natively, to measure a node's work and to try releases"),
    ("mmdebstrap", "builds the machine image from Debian packages"),
    ("cpio", "the machine image's first stage"),
    ("e2fsprogs", "file systems of the machine image"),
    ("openssh-client", "tests log in as an operator would"),
    ("chromium-driver", "tests look at the todo application as people do, in Chromium"),
    ("python3-venv", "tests speak with clients that are not ours"),
    ("python3-dev", "one of those builds a part in C"),
    ("ca-certificates", "trust for package downloads"),
    ("procps", "tests look at processes"),
];

/// Installs what is missing. Needs root only if something is.
pub fn setup() -> Done {
    let mut missing = Vec::new();
    for (package, why) in PACKAGES {
        let query = &mut Command::new("dpkg-query");
        let (_, status) = output(query.args(["-W", "-f", "${db:Status-Abbrev}", package]))?;
        if !status.starts_with("ii") {
            eprintln!("xtask: missing package {package} ({why})");
            missing.push(*package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("as root: apt-get install {}", missing.join(" "));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
        apt
    };
    let hint = |why| format!("{why}; {by_hand}");
    run("refresh package lists", apt().arg("update")).map_err(hint)?;
    run("install packages", apt().args(["-y", "install", "--no-install-recommends"]).args(&missing))
        .map_err(hint)
}
