//! An interpreter with a peer's packages.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use crate::Cloud;

/// When a script is taken to hang. Most need seconds; plumbery looks every 20 s only, which is most of its two minutes;
/// emulated machines take several times theirs on a host that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(900);

/// A virtual environment with the packages of one list, made once and kept between runs.
#[derive(Debug)]
pub struct Python {
    program: PathBuf,
    scripts: PathBuf,
}

/// How a script ended.
#[derive(Debug)]
pub struct Ended {
    /// Whether it went well.
    pub success: bool,
    /// All it said.
    pub output: String,
}

impl Python {
    /// The environment with what `list` in `python/` names, below `target`. Made first if it is not there; tests
    /// that want the same one wait for each other.
    ///
    /// # Panics
    /// It cannot be made: a peer that is not there is a failure, not a reason to test less.
    #[track_caller]
    pub fn with(target: &Path, list: &str) -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let path = scripts.join(list);
        let packages = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let digest = Sha256::digest(&packages);
        let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let folder = target.join("peers").join(format!("{}-{short}", list.trim_end_matches(".txt")));
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("make {}: {error}", folder.display()));
        let lock = File::create(folder.join("lock")).expect("a lock file in a folder just made");
        lock.lock().expect("the lock of the environment");
        let complete = folder.join("complete");
        let environment = folder.join("environment");
        let program = environment.join("bin/python");
        if !complete.exists() {
            make(&environment, &program, &path);
            fs::write(&complete, packages).expect("a marker in a folder just made");
        }
        Self { program, scripts }
    }

    /// Where its packages are.
    ///
    /// # Panics
    /// The environment is not what it was when it was made.
    #[track_caller]
    pub fn packages(&self) -> PathBuf {
        let asked = Command::new(&self.program)
            .args(["-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"])
            .output()
            .unwrap_or_else(|error| panic!("run {}: {error}", self.program.display()));
        PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim())
    }

    /// Runs a script against the cloud.
    ///
    /// # Panics
    /// It cannot be run, or does not end in time.
    #[track_caller]
    pub fn run(&self, cloud: &Cloud, script: &str, arguments: &[&str]) -> Ended {
        let said = tempfile::NamedTempFile::new().expect("a file for what it says");
        let mut process = Command::new(&self.program)
            .arg(self.scripts.join(script))
            .args(arguments)
            .envs(cloud.environment())
            .env_remove("PYTHONPATH")
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            // What it starts ends with it.
            .process_group(0)
            .stdout(append(said.path()))
            .stderr(append(said.path()))
            .spawn()
            .unwrap_or_else(|error| panic!("run {}: {error}", self.program.display()));
        let started = Instant::now();
        let status = loop {
            if let Some(status) = process.try_wait().expect("our own process") {
                break Some(status);
            }
            if started.elapsed() > PATIENCE {
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let output = || fs::read_to_string(said.path()).unwrap_or_default();
        let Some(status) = status else {
            // It may have ended by itself just now; then there is nothing to kill.
            let group = i32::try_from(process.id()).expect("process ids are small");
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(group),
                nix::sys::signal::Signal::SIGKILL,
            );
            let _ = process.wait();
            panic!("{script} did not end within {} s:\n{}", PATIENCE.as_secs(), output());
        };
        Ended { success: status.success(), output: output() }
    }
}

fn append(path: &Path) -> Stdio {
    Stdio::from(File::options().append(true).open(path).expect("the file just made"))
}

/// Makes the environment anew.
#[track_caller]
fn make(environment: &Path, program: &Path, list: &Path) {
    if environment.exists() {
        fs::remove_dir_all(environment).expect("what an interrupted run left can be removed");
    }
    let python = std::env::var("FLEET_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let made = Command::new(&python).args(["-m", "venv"]).arg(environment).output();
    let made = match made {
        Ok(made) if made.status.success() => Ok(()),
        Ok(made) => Err(last_lines(&made.stderr) + &last_lines(&made.stdout)),
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = made {
        panic!(
            "peers need Python 3 with virtual environments, and `{python} -m venv` failed:\n{why}\n\
             next: `apt install python3 python3-venv`, or name another interpreter: `export FLEET_PYTHON=…`"
        );
    }
    let got = Command::new(program)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r"])
        .arg(list)
        .output();
    let got = match got {
        Ok(got) if got.status.success() => Ok(()),
        Ok(got) => Err(last_lines(&got.stderr)),
        Err(error) => Err(error.to_string()),
    };
    if let Err(why) = got {
        panic!(
            "pip could not get what {} names:\n{why}\n\
             next: let this host reach the Python package index, or name one it reaches: `export PIP_INDEX_URL=…`; \
             then run the tests again",
            list.display()
        );
    }
}

fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
