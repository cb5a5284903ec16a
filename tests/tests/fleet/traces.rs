//! What a fleet leaves on its host.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use fleet_tests::runs;

/// What a local cloud leaves on a host while it lives.
#[derive(Debug, PartialEq)]
pub struct Traces {
    processes: BTreeSet<String>,
    namespaces: String,
    links: BTreeSet<String>,
    routes: String,
}

impl Traces {
    /// What there is now: of processes those of this home, since other tests run fleets of their own meanwhile.
    pub fn look(home: &Path) -> Self {
        let say = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().expect("the program runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let links = say("ip", &["-o", "link", "show"]);
        Self {
            processes: processes(home),
            namespaces: say("ip", &["netns", "list"]),
            links: links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect(),
            routes: say("ip", &["route", "show"]),
        }
    }

    /// How many machines run.
    pub fn machines(&self) -> usize {
        self.processes.iter().filter(|process| process.contains("qemu-system")).count()
    }
}

/// Processes that run for this home, whoever started them.
fn processes(home: &Path) -> BTreeSet<String> {
    let home = format!("FLEET_HOME={}", home.display());
    let folders = fs::read_dir("/proc").expect("processes are listed").flatten().map(|entry| entry.path());
    let ours = |folder: &PathBuf| {
        let pid = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
        let surroundings = fs::read(folder.join("environ")).unwrap_or_default();
        pid.is_some_and(runs) && surroundings.split(|byte| *byte == 0).any(|entry| entry == home.as_bytes())
    };
    let named = |folder: PathBuf| {
        let words = fs::read(folder.join("cmdline")).unwrap_or_default();
        format!("{} {}", folder.display(), String::from_utf8_lossy(&words).replace('\0', " "))
    };
    folders.filter(ours).map(named).collect()
}
