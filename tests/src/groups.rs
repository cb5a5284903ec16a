//! Control groups of containers: each has some of its own, by which the next test finds and ends what a killed one left.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// What begins the names of all that a container has outside of it; the test's process id follows.
pub(crate) const PREFIX: &str = "fleet-test-";
/// What was killed is gone at once, unless it waits for a disk.
const GONE: Duration = Duration::from_secs(10);

/// Groups called `name`, so that two systemd do not find each other's services in theirs: of systemd's own hierarchy, of
/// the newer kind, and of memory.
pub(crate) fn named(name: &str) -> Vec<PathBuf> {
    let own = |(mount, path): (PathBuf, String)| mount.join(path.trim_start_matches('/')).join(name);
    hierarchies().into_iter().map(own).collect()
}

/// Whether a name is of a container whose test does not run any more.
pub(crate) fn is_abandoned(name: &str) -> bool {
    let test = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
    test.is_some_and(|test| !fleet_peers::runs(test))
}

/// Ends what runs in groups of tests that were killed, wherever those are, and removes them.
pub(crate) fn sweep() {
    for (mount, _) in hierarchies() {
        sweep_below(&mount);
    }
}

fn sweep_below(folder: &Path) {
    for group in below(folder) {
        if !group.file_name().and_then(|name| name.to_str()).is_some_and(is_abandoned) {
            sweep_below(&group);
        } else if end(&group) {
            forget(&group);
        } else {
            eprintln!("what a killed test left in {} does not end", group.display());
        }
    }
}

/// Removes a group and those that were made in it.
pub(crate) fn forget(group: &Path) {
    below(group).iter().for_each(|group| forget(group));
    // One that was never made is as good.
    fs::remove_dir(group).ok();
}

/// Kills everything in a group and in those below it; whether it is gone.
fn end(group: &Path) -> bool {
    let started = Instant::now();
    loop {
        let inside = processes(group);
        if inside.is_empty() {
            return true;
        }
        for pid in inside {
            kill_in(group, pid);
        }
        if started.elapsed() > GONE {
            return false;
        }
        sleep(Duration::from_millis(10));
    }
}

fn processes(group: &Path) -> Vec<i32> {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // Zero stands for one of another process namespace.
    let own = own.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1);
    own.chain(below(group).iter().flat_map(|group| processes(group))).collect()
}

/// Kills a process if it is in `group` or below; never another one that has got its id meanwhile.
fn kill_in(group: &Path, pid: i32) {
    let Some(name) = group.file_name().and_then(|name| name.to_str()) else { return };
    // SAFETY: takes two integers; gives a descriptor, or a negative number.
    let held = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if held < 0 {
        return;
    }
    // Looked at once it is held: from here on the id can be nobody else's for us.
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if groups.lines().any(|line| line.split('/').any(|part| part == name)) {
        // SAFETY: a descriptor of ours, a signal, no details of it, no flags.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                held,
                libc::SIGKILL,
                std::ptr::null::<libc::c_void>(),
                0,
            )
        };
    }
    if let Ok(held) = i32::try_from(held) {
        // SAFETY: ours, and used by nobody after this.
        unsafe { libc::close(held) };
    }
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Where each hierarchy of interest is mounted, and the group of this process in it.
fn hierarchies() -> Vec<(PathBuf, String)> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = |is: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let (kind, options) = (kind.split(' ').next()?, kind.split(' ').next_back()?);
            is(kind, options).then(|| PathBuf::from(place.split(' ').nth(4).unwrap_or_default()))
        })
    };
    let hierarchies = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let mount = match controllers {
            "" => mounted(&|kind, _| kind == "cgroup2"),
            "memory" | "name=systemd" => {
                mounted(&|kind, options| kind == "cgroup" && options.split(',').any(|o| o == controllers))
            }
            _ => None,
        };
        Some((mount?, path.to_owned()))
    });
    hierarchies.collect()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::Command};

    use super::*;

    /// Something that runs in these groups.
    fn sleeper(groups: &[PathBuf]) -> std::process::Child {
        let mut enter = String::new();
        for group in groups {
            // As the systemd of a container has groups in its own.
            let inside = group.join("payload");
            fs::create_dir_all(&inside).expect("root may make control groups");
            enter.push_str(&format!("echo $$ >'{}/cgroup.procs' && ", inside.display()));
        }
        let child = Command::new("sh").args(["-c", &format!("{enter} exec sleep 600")]).spawn().expect("sh");
        let inside = || groups.iter().all(|group| !processes(group).is_empty());
        crate::eventually("it is in its groups", GONE, || inside().then_some(()));
        child
    }

    #[test]
    fn what_a_killed_test_left_is_ended_and_what_runs_is_left_alone() {
        // No process ever has the largest number there is.
        let most = fs::read_to_string("/proc/sys/kernel/pid_max").expect("a number");
        let dead = named(&format!("{PREFIX}{}-0-dead", most.trim()));
        let ours = named(&format!("{PREFIX}{}-0-ours", std::process::id()));
        assert!(!dead.is_empty(), "this host has no control groups");
        let (mut left, mut running) = (sleeper(&dead), sleeper(&ours));
        sweep();
        assert_eq!(left.wait().expect("our child").signal(), Some(libc::SIGKILL));
        assert!(dead.iter().all(|group| !group.exists()), "{dead:?}");
        assert!(running.try_wait().expect("our child").is_none(), "it was ended");
        assert!(ours.iter().all(|group| end(group)));
        running.wait().expect("our child");
        ours.iter().for_each(|group| forget(group));
        assert!(ours.iter().all(|group| !group.exists()), "{ours:?}");
    }

    #[test]
    fn a_name_says_whose_it_is() {
        let ours = std::process::id();
        for name in
            [format!("{PREFIX}{ours}-0-n1"), "n1".to_owned(), PREFIX.to_owned(), format!("{PREFIX}x-n1")]
        {
            assert!(!is_abandoned(&name), "{name}");
        }
    }
}
