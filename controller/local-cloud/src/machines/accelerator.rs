//! Finds out whether KVM really runs guests here.
//!
//! The device node, the processor's flags and a successful ioctl are no proof: some hosts accept the machine
//! and then never run it. So a guest that prints one line is booted once, under a short deadline, and the
//! verdict is remembered for this kernel and this QEMU.

use std::{fs, io::ErrorKind, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    image::Image,
    qemu::{Accelerator, BOARD, PROGRAM},
    run::{Doing, Program},
};
use crate::backing::BackingError;

/// A working KVM needs under a second.
const PROBE_TIMEOUT: Duration = Duration::from_secs(8);
/// What the probe's guest prints.
const PROOF: &str = "guest-runs";
const DEVICE: &str = "/dev/kvm";

/// What is remembered.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    /// Kernel and QEMU it holds for.
    host: String,
    kvm: bool,
}

/// The best accelerator of this host.
pub async fn choose(
    cache: &Path,
    image: &Image,
    progress: &(dyn Fn(String) + Send + Sync),
) -> Result<Accelerator, BackingError> {
    if !Path::new(DEVICE).exists() {
        return Ok(Accelerator::Tcg);
    }
    let host = host().await?;
    let place = cache.join("accelerator.json");
    if let Some(known) = remembered(&place, &host) {
        return Ok(known);
    }
    progress(format!("trying {DEVICE} with a small guest (at most {} s)", PROBE_TIMEOUT.as_secs()));
    let kvm = boots(image).await;
    let chosen = if kvm { Accelerator::Kvm } else { Accelerator::Tcg };
    progress(match chosen {
        Accelerator::Kvm => "machines run on KVM".into(),
        Accelerator::Tcg => "KVM is there but runs no guest; machines are emulated".into(),
    });
    let text = serde_json::to_string(&Verdict { host, kvm }).expect("two plain fields");
    fs::write(&place, text).map_err(|source| Doing::new(format!("write {}", place.display())).io(source))?;
    Ok(chosen)
}

fn remembered(place: &Path, host: &str) -> Option<Accelerator> {
    let verdict: Verdict = serde_json::from_str(&fs::read_to_string(place).ok()?).ok()?;
    (verdict.host == host).then_some(if verdict.kvm { Accelerator::Kvm } else { Accelerator::Tcg })
}

/// Kernel and QEMU: a new one of either deserves a new try. So does a reboot, which may have moved the host.
async fn host() -> Result<String, BackingError> {
    let qemu = Program::new(PROGRAM).arg("--version").run("ask QEMU for its version").await?;
    let read = |path: &str| match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|source| Doing::new(format!("read {path}")).io(source)),
    };
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let boot = read("/proc/sys/kernel/random/boot_id")?;
    Ok(format!("{} {} {}", kernel.trim(), boot.trim(), qemu.lines().next().unwrap_or_default().trim()))
}

/// Whether a guest gets as far as running a program of its own.
async fn boots(image: &Image) -> bool {
    let run = Program::new(PROGRAM)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", BOARD])
        .args(Accelerator::Kvm.arguments())
        .args(["-m", "256M", "-no-reboot", "-serial", "stdio"])
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .arg("-kernel")
        .arg(image.kernel())
        .arg("-initrd")
        .arg(image.probe())
        .timeout(PROBE_TIMEOUT)
        .run("boot a small guest on KVM")
        .await;
    match run {
        Ok(printed) => printed.contains(PROOF),
        Err(error) => {
            tracing::debug!(%error, "KVM runs no guest");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_for_its_host_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("verdict");
        assert_eq!(remembered(&place, "a"), None);
        let verdict = Verdict { host: "a".into(), kvm: true };
        fs::write(&place, serde_json::to_string(&verdict).expect("plain")).expect("writes");
        assert_eq!(remembered(&place, "a"), Some(Accelerator::Kvm));
        assert_eq!(remembered(&place, "b"), None);
        fs::write(&place, "damaged").expect("writes");
        assert_eq!(remembered(&place, "a"), None);
    }
}
