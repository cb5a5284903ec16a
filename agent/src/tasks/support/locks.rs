//! Who holds a lock, from the kernel's list (proc_locks(5)); nobody's lock is ever taken away.

use std::{fs, os::unix::fs::MetadataExt};

use fleet_task::Node;
use nix::sys::stat::{major, minor};

/// Interpreters, behind which the program's own name comes.
const INTERPRETERS: [&str; 4] = ["python", "perl", "sh", "bash"];

/// Their options after which comes a program's text or module, not its file.
const INLINE: [&str; 3] = ["-c", "-e", "-m"];
/// Longest name shown, in characters.
const LONGEST: usize = 40;

/// The process that holds a lock, for people: `unattended-upgrade (pid 812)`.
///
/// `None` if nobody does, or the file is not there.
pub fn holder(node: &Node, file: &str) -> Option<String> {
    let meta = fs::metadata(node.path(file)).ok()?;
    let list = fs::read_to_string(node.path("/proc/locks")).ok()?;
    list.lines().filter_map(Lock::parse).find_map(|lock| {
        if lock.inode != meta.ino() {
            return None;
        }
        // Some file systems (btrfs) show another device there than to stat(2): then the holder has it open.
        let same = lock.device == (major(meta.dev()), minor(meta.dev())) || has_open(node, lock.pid, &meta);
        same.then(|| format!("{} (pid {})", program(node, lock.pid), lock.pid))
    })
}

struct Lock {
    pid: u32,
    device: (u64, u64),
    inode: u64,
}

impl Lock {
    /// `5: POSIX  ADVISORY  WRITE 28338 fe:00:10027375 0 EOF`; who only waits for a lock has an arrow in front.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1);
        if words.next()? == "->" {
            return None;
        }
        let pid = words.nth(2)?.parse().ok()?;
        let mut place = words.next()?.split(':');
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let device = (hex(place.next()?)?, hex(place.next()?)?);
        Some(Self { pid, device, inode: place.next()?.parse().ok()? })
    }
}

fn has_open(node: &Node, pid: u32, meta: &fs::Metadata) -> bool {
    let Ok(open) = fs::read_dir(node.path(&format!("/proc/{pid}/fd"))) else { return false };
    open.flatten()
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .any(|found| (found.dev(), found.ino()) == (meta.dev(), meta.ino()))
}

/// What a process runs: its program, or the script it interprets.
fn program(node: &Node, pid: u32) -> String {
    let line = fs::read(node.path(&format!("/proc/{pid}/cmdline"))).unwrap_or_default();
    let text = String::from_utf8_lossy(&line);
    let mut words = text.split('\0').filter(|word| !word.is_empty());
    let Some(first) = words.next().map(base) else { return "a process".into() };
    if !INTERPRETERS.iter().any(|name| first.starts_with(name)) {
        return first;
    }
    // After `-c`, `-e` or `-m` comes no file.
    let mut words = words.skip_while(|word| word.starts_with('-') && !INLINE.contains(word));
    match words.next() {
        Some(script) if !INLINE.contains(&script) => base(script),
        _ => first,
    }
}

/// The last part of a path, fit for a message: whoever holds a lock chose it.
fn base(word: &str) -> String {
    let name = word.rsplit('/').next().unwrap_or(word);
    name.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tasks::tests::Rig;

    /// A line of the kernel's list about a file.
    pub(crate) fn line(file: &std::path::Path, pid: u32) -> String {
        let meta = fs::metadata(file).expect("lock file");
        let (major, minor) = (major(meta.dev()), minor(meta.dev()));
        format!("1: POSIX  ADVISORY  WRITE {pid} {major:02x}:{minor:02x}:{} 0 EOF\n", meta.ino())
    }

    const FILE: &str = "/var/lib/dpkg/lock-frontend";

    #[test]
    fn the_holder_is_named() {
        let cmdline = "/usr/bin/python3\0-u\0/usr/bin/unattended-upgrade\0--download-only\0";
        let rig = Rig::new(&[(FILE, ""), ("/proc/locks", ""), ("/proc/812/cmdline", cmdline)]);
        assert_eq!(holder(&rig.node(), FILE), None);
        let held = line(&rig.path(FILE), 812);
        let others = "1: FLOCK  ADVISORY  WRITE 7 fe:00:1 0 EOF\nnonsense\n2: OFDLCK\n";
        fs::write(rig.path("/proc/locks"), format!("{others}{held}")).expect("locks");
        assert_eq!(holder(&rig.node(), FILE).as_deref(), Some("unattended-upgrade (pid 812)"));
        assert_eq!(holder(&rig.node(), "/var/lib/dpkg/lock"), None);
        let waits = held.replace("1: ", "1: -> ");
        fs::write(rig.path("/proc/locks"), waits).expect("locks");
        assert_eq!(holder(&rig.node(), FILE), None, "whoever waits holds nothing");
    }

    #[test]
    fn programs_have_short_names() {
        let check = |cmdline: &str, expected: &str| {
            let rig = Rig::new(&[("/proc/1/cmdline", cmdline)]);
            assert_eq!(program(&rig.node(), 1), expected);
        };
        check("apt-get\0install\0x\0", "apt-get");
        check("/usr/bin/python3\0-u\0/usr/bin/x.py\0", "x.py");
        check("perl\0-e\0while (1) { a/b }\0", "perl");
        check("/bin/sh\0", "sh");
        check("/tmp/\u{1b}[2Jx\0", "[2Jx");
        check("", "a process");
    }

    #[test]
    fn a_real_lock_of_a_real_process_is_seen() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("lock");
        fs::write(&file, "").expect("lock file");
        let open = fs::OpenOptions::new().write(true).open(&file).expect("open");
        let lock = nix::libc::flock {
            l_type: nix::libc::F_WRLCK as i16,
            l_whence: 0,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETLK(&lock)).expect("nobody else has it");
        let journal = fleet_task::Journal::open(folder.path().join("journal")).expect("journal");
        let node = Node::new("/", std::sync::Arc::new(fleet_task::NoRunner), std::sync::Arc::new(journal));
        let found = holder(&node, file.to_str().expect("text")).expect("this very process");
        assert!(found.ends_with(&format!("(pid {})", std::process::id())), "{found}");
    }
}
