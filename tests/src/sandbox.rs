//! One operator with an empty home.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use fleet_peers::{abandoned_clouds, test_folder};

use crate::LocalCloud;

/// What a command that was left running says, beside its home.
const SAID: &str = "said";

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Panics with everything it said unless it ended with `status`.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|why| panic!("{why} in:\n{}\nstderr:\n{}", self.out, self.err))
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// One operator with an empty home. Dropping it ends what runs for it.
#[derive(Debug)]
pub struct Sandbox {
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
    fleetctl: PathBuf,
}

impl Sandbox {
    /// A home whose local cloud is state only, with `delay_ms` for every asynchronous operation.
    pub fn with_state_only_cloud(delay_ms: u64) -> Self {
        Self::new(&[("FLEET_CLOUD_BACKING", "none"), ("FLEET_CLOUD_DELAY_MS", &delay_ms.to_string())])
    }

    /// A home whose local cloud has real machines. What a killed test left of such a cloud is removed first:
    /// there is one per host, and only its own home can end it.
    pub fn with_machines() -> Self {
        for home in abandoned_clouds() {
            eprintln!("removing the local cloud a killed test left in {}", home.display());
            let sandbox = Self::new(&[]);
            let reset = ["cloud", "reset", "--yes"];
            let ended = sandbox.command(&reset).env("FLEET_HOME", &home).output().expect("fleetctl starts");
            Ended::from(ended).expect(0);
        }
        Self::new(&[("FLEET_CLOUD_BACKING", "machines")])
    }

    fn new(environment: &[(&str, &str)]) -> Self {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { dir: test_folder(), environment, fleetctl: program("fleetctl") }
    }

    /// Sets a variable for every command from here on.
    pub fn set(&mut self, name: &str, value: &Path) {
        self.environment.push((name.to_owned(), value.display().to_string()));
    }

    /// Takes another `fleetctl` from here on.
    pub fn use_program(&mut self, fleetctl: &Path) {
        self.fleetctl = fleetctl.to_owned();
    }

    /// The home folder; made by fleetctl.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A command on this home, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.fleetctl);
        command
            .args(arguments)
            .env("FLEET_HOME", self.home())
            // The operator's keys are looked for there; this one has none yet.
            .env("HOME", self.dir.path())
            .env_remove("FLEET_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().expect("fleetctl starts").into()
    }

    /// Starts a command and leaves it running; what it says is in [`Sandbox::said`].
    pub fn start(&self, arguments: &[&str]) -> Child {
        let said = fs::File::create(self.dir.path().join(SAID)).expect("a file for what it says");
        let errors = said.try_clone().expect("a second handle");
        self.command(arguments).stdout(said).stderr(errors).spawn().expect("fleetctl starts")
    }

    /// What the command started last has said.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join(SAID)).unwrap_or_default()
    }

    /// The local cloud behind this home, once it serves.
    pub fn cloud(&self) -> Option<LocalCloud> {
        LocalCloud::of(&self.home().join("cloud"))
    }

    /// Process id of the controller of `fleet`, if one has left its whereabouts.
    pub fn controller_pid(&self, fleet: &str) -> Option<i32> {
        pid_in(&self.home().join("fleets").join(fleet).join("controller.json"))
    }

    /// Process id of the local cloud.
    pub fn cloud_pid(&self) -> Option<i32> {
        pid_in(&self.home().join("cloud/access.json"))
    }

    /// Every process started for this home, by its id.
    fn background(&self) -> Vec<i32> {
        let fleets = fs::read_dir(self.home().join("fleets")).into_iter().flatten().flatten();
        let controllers = fleets.filter_map(|entry| pid_in(&entry.path().join("controller.json")));
        controllers.chain(self.cloud_pid()).collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the programs wrote is the best explanation there is.
            for log in ["cloud/serve.log"].map(PathBuf::from).into_iter().chain(self.controller_logs()) {
                if let Ok(text) = fs::read_to_string(self.home().join(&log)) {
                    let tail: Vec<&str> = text.lines().rev().take(30).collect();
                    eprintln!("--- {}", log.display());
                    tail.iter().rev().for_each(|line| eprintln!("{line}"));
                }
            }
        }
        // Machines, namespaces and links first, while their cloud still knows them.
        if self.home().join("cloud").exists() {
            drop(self.run(&["cloud", "reset", "--yes"]));
        }
        for pid in self.background() {
            kill(pid, libc::SIGKILL);
        }
    }
}

impl Sandbox {
    fn controller_logs(&self) -> Vec<PathBuf> {
        let fleets = fs::read_dir(self.home().join("fleets")).into_iter().flatten().flatten();
        fleets.map(|entry| Path::new("fleets").join(entry.file_name()).join("serve.log")).collect()
    }
}

/// Sends a signal to a process of ours. One that is gone already is fine; one whose id now belongs to
/// another program is left alone.
pub(crate) fn kill(pid: i32, signal: i32) {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if pid > 1 && name.trim_end() == "fleetctl" {
        // SAFETY: kill takes two integers and touches no memory of ours.
        unsafe { libc::kill(pid, signal) };
    }
}

impl Sandbox {
    /// Kills the controller of `fleet` as a power cut would.
    pub fn kill_controller(&self, fleet: &str) {
        if let Some(pid) = self.controller_pid(fleet) {
            kill(pid, libc::SIGKILL);
        }
    }

    /// Kills the local cloud as a power cut would; its machines go on.
    pub fn kill_cloud(&self) {
        if let Some(pid) = self.cloud_pid() {
            kill(pid, libc::SIGKILL);
        }
    }
}

fn pid_in(file: &Path) -> Option<i32> {
    let value: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    value["pid"].as_i64()?.try_into().ok()
}

/// The package of the stand-in for RethinkDB, where the real one cannot be had.
pub fn stand_in() -> PathBuf {
    program("rethinkdb-standin.deb")
}

/// A finished program: `cargo xtask test` says where they lie.
pub fn program(name: &str) -> PathBuf {
    let dist = std::env::var_os("FLEET_DIST")
        .expect("FLEET_DIST names the folder with the finished programs; run `cargo xtask test`");
    let program = PathBuf::from(dist).join(name);
    assert!(program.exists(), "{} is missing; run `cargo xtask build`", program.display());
    program
}

/// Waits until `look` finds something, looking often; panics after `deadline` with what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < deadline, "{what}: not within {} s", deadline.as_secs());
        sleep(Duration::from_millis(10));
    }
}
