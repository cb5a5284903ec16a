//! Processes that outlive the one that started them, found again by their command lines.

use std::{fs, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::Instant;

/// How often a process that should end is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What tells one process of ours from every other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The program's name, without its folder.
    pub program: String,
    /// Part of one of its arguments.
    pub argument: String,
}

impl Mark {
    /// Whether the process has this mark now. A process id alone proves nothing: ids are used again.
    pub fn is_on(&self, pid: i32) -> bool {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| self.matches(&line))
    }

    fn matches(&self, command_line: &[u8]) -> bool {
        let mut words = command_line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let program = words.next().unwrap_or_default();
        program.rsplit('/').next() == Some(self.program.as_str())
            && words.any(|word| word.contains(&self.argument))
    }
}

/// Ids of all processes with the mark.
pub fn find(mark: &Mark) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| mark.is_on(*pid))
        .collect()
}

/// The process named in a file, if it has the mark.
pub fn in_file(path: &Path, mark: &Mark) -> Option<i32> {
    let pid = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    mark.is_on(pid).then_some(pid)
}

/// Ends the process, whatever it is doing. True once it is gone, false if it is not after `limit`.
pub async fn end(pid: i32, mark: &Mark, limit: Duration) -> bool {
    if mark.is_on(pid) {
        // Gone in between is what is wanted.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    gone(pid, mark, limit).await
}

/// Waits for the process to be gone; false if it is not after `limit`.
pub async fn gone(pid: i32, mark: &Mark, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while mark.is_on(pid) {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_program_and_argument() {
        let mark = Mark { program: "qemu".into(), argument: "/cloud/servers/1/".into() };
        assert!(mark.matches(b"/usr/bin/qemu\0-pidfile\0/cloud/servers/1/pid\0"));
        assert!(!mark.matches(b"/usr/bin/qemu\0-pidfile\0/cloud/servers/2/pid\0"));
        assert!(!mark.matches(b"/usr/bin/vi\0/cloud/servers/1/pid\0"));
        assert!(!mark.matches(b""));
    }

    #[tokio::test]
    async fn a_process_is_found_and_ended() {
        let argument = format!("98765.{}", std::process::id());
        let mut child = tokio::process::Command::new("sleep").arg(&argument).spawn().expect("sleep starts");
        let mark = Mark { program: "sleep".into(), argument };
        // Between fork and exec the child still carries our own command line.
        let deadline = Instant::now() + Duration::from_secs(10);
        while find(&mark).is_empty() && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        let found = find(&mark);
        assert_eq!(found, [child.id().expect("still running") as i32]);
        assert!(end(found[0], &mark, Duration::from_secs(10)).await);
        child.wait().await.expect("is reaped");
        assert!(find(&mark).is_empty());
    }
}
