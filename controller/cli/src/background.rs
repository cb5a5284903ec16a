//! Starting what `up` needs in the background, and stopping it again.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

use crate::{
    failure::{Exit, Failure},
    home,
};

const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long another process doing the same may take to answer once ours found the place taken.
const ANOTHER: Duration = Duration::from_secs(2);

/// A program started in the background, and where it writes.
pub struct Started {
    child: Child,
    log: File,
    name: &'static str,
    partial: String,
}

/// Starts this program again as `arguments`, in a session of its own so that Ctrl-C and a closed terminal
/// pass it by; its output goes to `log` (0600).
pub fn start(name: &'static str, arguments: &[String], log: &Path) -> Result<Started, Failure> {
    let failed =
        |what: &str, why: std::io::Error| Failure::new(Exit::Failed, format!("start {name}: {what}: {why}"));
    if let Some(dir) = log.parent() {
        home::make_private(dir).map_err(|why| failed("make its folder", why))?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log);
    let file = file.map_err(|why| failed("open its log", why))?;
    let mut reader = File::open(log).map_err(|why| failed("read its log", why))?;
    reader.seek(SeekFrom::End(0)).map_err(|why| failed("read its log", why))?;
    let this = std::env::current_exe().map_err(|why| failed("find this program", why))?;
    let mut command = Command::new(this);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(file))
        // Not ours to pass on: they would tie the child to the service or terminal that started us.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("JOURNAL_STREAM")
        .current_dir("/");
    // SAFETY: setsid is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(std::io::Error::from));
    }
    let child = command.spawn().map_err(|why| failed("run it", why))?;
    Ok(Started { child, log: reader, name, partial: String::new() })
}

impl Started {
    /// Waits until `there` says so; new lines of the log go to `line` meanwhile.
    ///
    /// # Errors
    /// If it ends first (its last line is the reason), or `deadline` passes.
    pub async fn until<T>(
        mut self,
        deadline: Duration,
        mut there: impl AsyncFnMut() -> Option<T>,
        mut line: impl FnMut(&str),
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let (mut last, mut ended_at) = (String::new(), None);
        loop {
            if let Some(found) = there().await {
                return Ok(found);
            }
            let ended = self.child.try_wait();
            for text in self.new_lines() {
                line(&text);
                last = text;
            }
            // Another may have been a moment faster at the same: then it is there any moment.
            if let Ok(Some(status)) = ended
                && ended_at.get_or_insert_with(Instant::now).elapsed() > ANOTHER
            {
                let why = if last.is_empty() { format!("it ended with {status}") } else { last };
                return Err(Failure::new(Exit::Failed, format!("start {}: {why}", self.name)));
            }
            if started.elapsed() > deadline {
                let failure = format!("{} did not come up within {} s", self.name, deadline.as_secs());
                return Err(Failure::new(Exit::Failed, failure).hint(format!("its last words: {last}")));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn new_lines(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        if self.log.read_to_end(&mut bytes).is_err() {
            return Vec::new();
        }
        self.partial.push_str(&String::from_utf8_lossy(&bytes));
        let Some(end) = self.partial.rfind('\n') else { return Vec::new() };
        let whole: String = self.partial.drain(..=end).collect();
        whole.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }
}

/// Ends a program of ours by its id: asks, waits, and insists after `patience`. Fine if it is gone, or if the
/// id belongs to something else by now.
pub async fn stop(pid: i32, patience: Duration) {
    let Some(pid) = ours(pid) else { return };
    let started = Instant::now();
    // Either signal may find it gone already, which is what we want.
    let _ = kill(pid, Signal::SIGTERM);
    while kill(pid, None) != Err(Errno::ESRCH) && !is_zombie(pid) {
        if started.elapsed() > patience {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if started.elapsed() > patience * 2 {
            return;
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Controllers that were started for this fleet of this home, also such as nothing there names any more.
pub fn controllers(home: &Path, fleet: &str) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|pid| ours(*pid).is_some() && serves(*pid, home, fleet)).collect()
}

fn serves(pid: i32, home: &Path, fleet: &str) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let says = |name: &str, value: &[u8]| {
        words.windows(2).any(|pair| pair[0] == name.as_bytes() && pair[1] == value)
    };
    words.get(1) == Some(&b"serve".as_slice())
        && says("--fleet", fleet.as_bytes())
        && says("--home", home.as_os_str().as_encoded_bytes())
}

/// The process, if it runs this program under any path: ids are reused.
fn ours(pid: i32) -> Option<Pid> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (pid > 1 && name.trim_end() == "fleetctl").then(|| Pid::from_raw(pid))
}

/// A child of ours that ended but was not waited for counts as gone.
fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}
