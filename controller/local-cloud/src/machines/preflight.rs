//! What this host lacks to run machines: everything at once, each with the command that fixes it.

use std::path::{Path, PathBuf};

use super::{
    Settings,
    image::{Image, Recipe},
    marker,
    names::Names,
    net::PublicRange,
    qemu,
};
use crate::backing::BackingError;

/// Image, overlays and room to grow for a handful of servers.
const DISK_BYTES: u64 = 4 << 30;
/// One server of the smallest size and this program.
const MEMORY_BYTES: u64 = 1536 << 20;

/// One thing the host lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub what: String,
    /// The command that fixes it, or what to do.
    pub fix: String,
}

/// Programs, the packages that bring them, and whether they are needed only to build the image.
const PROGRAMS: [(&str, &str, bool); 8] = [
    (qemu::PROGRAM, "qemu-system-x86", false),
    ("ip", "iproute2", false),
    ("nft", "nftables", false),
    ("slirp4netns", "slirp4netns", false),
    ("setsid", "util-linux", false),
    ("mmdebstrap", "mmdebstrap", true),
    ("mke2fs", "e2fsprogs", true),
    ("unshare", "util-linux", true),
];

/// Looks at the host; an empty list means that machines can run.
pub fn preflight(settings: &Settings) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut lacks = |what: String, fix: String| missing.push(Missing { what, fix });

    if !nix::unistd::geteuid().is_root() {
        lacks("root: namespaces and links cannot be made without".into(), "run it with sudo".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        lacks("/dev/net/tun: machines have no network card without".into(), "modprobe tun".into());
    }
    let built = Image::find(&settings.cache, &Recipe).is_some();
    let absent: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _, build_only)| !(*build_only && built) && find(program).is_none())
        .collect();
    if !absent.is_empty() {
        let names: Vec<_> = absent.iter().map(|(program, ..)| *program).collect();
        let mut packages: Vec<_> = absent.iter().map(|(_, package, _)| *package).collect();
        packages.dedup();
        lacks(
            format!("programs: {}", names.join(", ")),
            format!("apt-get install --no-install-recommends --yes {}", packages.join(" ")),
        );
    }
    for folder in [&settings.cache, &settings.cloud] {
        if let Some(free) = free_bytes(folder)
            && free < DISK_BYTES
        {
            lacks(
                format!(
                    "disk space: {} has {}, machines need {}",
                    folder.display(),
                    gib(free),
                    gib(DISK_BYTES)
                ),
                "make room, or choose another folder with FLEET_HOME".into(),
            );
        }
    }
    if let Some(available) = available_memory()
        && available < MEMORY_BYTES
    {
        lacks(
            format!("memory: {} available, one small machine needs {}", gib(available), gib(MEMORY_BYTES)),
            "end other programs, or use a larger host".into(),
        );
    }
    let other = marker::holder(&settings.public, &settings.cloud, &settings.prefix);
    if let Some(other) = &other
        && let BackingError::Host { what, fix } = marker::taken(&settings.public, other)
    {
        lacks(what, fix);
    }
    // The route of another cloud has just been named.
    let own = other.map_or_else(
        || Names::new(&settings.prefix, &settings.cloud).host_link(),
        |other| Names::new(&settings.prefix, &other).host_link(),
    );
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    if let Some(link) = overlapping(&routes, &settings.public, &own) {
        lacks(
            format!(
                "the addresses {}/{}: this host reaches some of them through {link}",
                settings.public.network, settings.public.prefix
            ),
            format!("take that route away; it is in: ip route show dev {link}"),
        );
    }
    missing
}

/// The link of a route, other than wide ones and our own, into the public range. `table` is what
/// `/proc/net/route` shows: link, destination and, in the eighth column, mask, both as the bytes in memory.
fn overlapping<'a>(table: &'a str, public: &PublicRange, own: &str) -> Option<&'a str> {
    let mask_of = |prefix: u8| u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    let (network, mask) = (public.network.to_bits(), mask_of(public.prefix));
    table.lines().skip(1).find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok().map(u32::from_be);
        let (link, destination, route_mask) = (*words.first()?, number(1)?, number(7)?);
        // A default route, or half of one, says nothing about these addresses in particular.
        let narrow = route_mask.leading_ones() >= 8;
        (narrow && link != own && (destination ^ network) & mask & route_mask == 0).then_some(link)
    })
}

/// Where a program is, as the shell would find it; the folders of system programs are always looked at.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|place| place.is_file())
}

/// Free space where the folder is or will be.
fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let statistics = nix::sys::statvfs::statvfs(there).ok()?;
    Some(statistics.blocks_available() as u64 * statistics.fragment_size() as u64)
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-anywhere"), None);
    }

    #[test]
    fn routes_into_the_range_are_seen() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth1\t006433C6\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let range =
            |c, prefix| PublicRange { network: [198, 51, c, 0].into(), prefix, host: [198, 51, c, 1].into() };
        assert_eq!(overlapping(table, &range(100, 24), "ours"), Some("eth1"));
        assert_eq!(overlapping(table, &range(0, 16), "ours"), Some("eth1"), "also when the range is wider");
        assert_eq!(overlapping(table, &range(101, 24), "ours"), None);
        assert_eq!(overlapping(table, &range(100, 24), "eth1"), None, "our own link does not count");
        assert_eq!(overlapping("", &range(100, 24), "ours"), None);
    }

    #[test]
    fn free_space_of_a_folder_yet_to_be_made() {
        assert!(free_bytes(Path::new("/no/such/folder")).is_some_and(|free| free > 0));
    }
}
