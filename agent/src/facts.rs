//! What this node is: read from /proc and friends through `sysinfo`, never through the name service.

use std::{fs, net::IpAddr};

use fleet_proto::v1;
use nix::unistd::{SysconfVar, sysconf};
use sysinfo::{DiskRefreshKind, Disks, MemoryRefreshKind, Networks, System};

use crate::Places;

/// Files whose presence says that a reboot is due.
const REBOOT_MARKS: [&str; 2] = ["run/reboot-required", "var/run/reboot-required"];
/// File systems that are views of others or of memory: their fill level says nothing about the node.
const UNREAL: [&str; 4] = ["overlay", "tmpfs", "devtmpfs", "squashfs"];

/// Reads facts; keeps what differences are computed from.
pub(crate) struct Gatherer {
    places: Places,
    system: System,
}

impl Gatherer {
    pub(crate) fn new(places: Places) -> Self {
        Self { places, system: System::new() }
    }

    /// Facts as of now; the caller adds clock offset and certificate, which are not the host's.
    pub(crate) fn gather(&mut self) -> v1::Facts {
        self.system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        self.system.refresh_cpu_usage();
        let root = self.places.root();
        let at = |path: &str| root.join(path);
        let hostname = fs::read_to_string(at("proc/sys/kernel/hostname"))
            .or_else(|_| fs::read_to_string(at("etc/hostname")))
            .unwrap_or_default();
        v1::Facts {
            hostname: hostname.trim().to_owned(),
            os: os(&fs::read_to_string(at("etc/os-release")).unwrap_or_default()),
            kernel: System::kernel_version().unwrap_or_default(),
            cpus: u32::try_from(self.system.cpus().len()).unwrap_or(u32::MAX),
            memory_bytes: self.system.total_memory(),
            memory_available_bytes: self.system.available_memory(),
            load_1m: System::load_average().one,
            cpu_percent: f64::from(self.system.global_cpu_usage()),
            uptime_s: System::uptime(),
            disks: disks(),
            addresses: addresses(),
            reboot_pending: REBOOT_MARKS.iter().any(|mark| at(mark).exists()),
            clock_offset_ms: 0,
            certificate_not_after_ms: 0,
            agent_memory_bytes: own_memory(),
        }
    }
}

/// What somebody would want to hear of at once, as opposed to figures that always move.
pub(crate) fn notable(facts: &v1::Facts) -> impl PartialEq + use<> {
    let disks: Vec<(String, u64)> =
        facts.disks.iter().map(|disk| (disk.mount_point.clone(), disk.size_bytes)).collect();
    (
        facts.hostname.clone(),
        facts.addresses.clone(),
        facts.reboot_pending,
        facts.certificate_not_after_ms,
        disks,
    )
}

fn os(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

fn disks() -> Vec<v1::DiskFact> {
    let disks = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing().with_storage());
    let mut facts: Vec<v1::DiskFact> = disks
        .list()
        .iter()
        .filter(|disk| !disk.is_read_only() && disk.total_space() > 0)
        .filter(|disk| !UNREAL.contains(&disk.file_system().to_string_lossy().as_ref()))
        .map(|disk| v1::DiskFact {
            mount_point: disk.mount_point().to_string_lossy().into_owned(),
            device: disk.name().to_string_lossy().into_owned(),
            size_bytes: disk.total_space(),
            free_bytes: disk.available_space(),
        })
        .collect();
    facts.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
    // One device mounted in several places is one disk.
    let mut seen = std::collections::BTreeSet::new();
    facts.retain(|disk| seen.insert(disk.device.clone()));
    facts
}

/// Addresses others could reach: no loopback, no link-local.
fn addresses() -> Vec<String> {
    let networks = Networks::new_with_refreshed_list();
    let mut found: Vec<IpAddr> = networks
        .list()
        .values()
        .flat_map(|network| network.ip_networks().iter().map(|network| network.addr))
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        })
        .collect();
    found.sort();
    found.dedup();
    found.iter().map(ToString::to_string).collect()
}

/// This process's resident memory, from the second field of /proc/self/statm (pages; proc(5)).
fn own_memory() -> u64 {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|page| u64::try_from(page).ok());
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * page.unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_facts() {
        let facts = Gatherer::new(Places::below("/")).gather();
        assert!(facts.cpus > 0 && facts.memory_bytes > 0 && facts.agent_memory_bytes > 0, "{facts:?}");
        assert!(facts.memory_available_bytes <= facts.memory_bytes);
        assert!(!facts.kernel.is_empty() && !facts.os.is_empty() && !facts.hostname.is_empty(), "{facts:?}");
    }

    #[test]
    fn a_pending_reboot_is_a_file() {
        let root = tempfile::tempdir().expect("folder");
        let mut gatherer = Gatherer::new(Places::below(root.path()));
        assert!(!gatherer.gather().reboot_pending);
        fs::create_dir(root.path().join("run")).expect("run");
        fs::write(root.path().join("run/reboot-required"), "").expect("mark");
        assert!(gatherer.gather().reboot_pending);
    }

    #[test]
    fn os_is_its_pretty_name() {
        assert_eq!(
            os("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(os(""), "Linux");
    }
}
