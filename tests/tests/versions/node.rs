//! A real agent in a folder of its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use fleet_tests::Sandbox;

/// An agent; ended when dropped.
pub struct Node {
    agent: Child,
    root: PathBuf,
}

impl Node {
    /// The folder that is `/` to the node.
    pub fn root(sandbox: &Sandbox, name: &str) -> PathBuf {
        sandbox.home().with_file_name("nodes").join(name)
    }

    /// Seeds the node as its controller says, and starts `agent` there.
    #[track_caller]
    pub fn start(sandbox: &Sandbox, name: &str, agent: &Path) -> Self {
        let seed = sandbox.run(&["user-data", name]).expect(0).out;
        // The one line of the seed's script that the agent reads.
        let enrol =
            seed.lines().find(|line| line.starts_with(r#"{"enrol_addresses""#)).expect("how to enrol");
        let root = Self::root(sandbox, name);
        let folder = root.join("etc/fleet-agent");
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("enrol.json"), enrol).expect("written");
        // As every machine has one: it tells a clone from a restart.
        let id: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        fs::write(root.join("etc/machine-id"), format!("{id:0<32}\n")).expect("written");
        Self::run(root, agent)
    }

    fn run(root: PathBuf, agent: &Path) -> Self {
        let said = File::create(root.join("said")).expect("a file for what it says");
        let agent = Command::new(agent)
            .arg("--root")
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .expect("the agent starts");
        Self { agent, root }
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.agent.try_wait(), Ok(None))
    }

    /// Another agent takes over what this one leaves.
    pub fn replaced_by(self, agent: &Path) -> Self {
        let root = self.root.clone();
        drop(self);
        Self::run(root, agent)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Gone already is fine.
        self.agent.kill().ok();
        self.agent.wait().ok();
        if std::thread::panicking() {
            let said = fs::read_to_string(self.root.join("said")).unwrap_or_default();
            let tail: Vec<&str> = said.lines().rev().take(20).collect();
            eprintln!("--- {}", self.root.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
