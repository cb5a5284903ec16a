//! A fleet of containers, taken by address by the finished `fleetctl`, and rollouts over it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use fleet_supervisor::{digest::Digest, record::State, slots::FOLDER};
use fleet_tests::{Container, Ended, Network, Sandbox, eventually, program, runs};
use serde_json::Value;

/// Everything here takes seconds; the machines this runs on have two cores and other work.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const FLEET: &str = "rollouts";
/// Of the first release made here: beyond any that the tree calls itself, with room below it.
const FIRST: u64 = 1001;
const PLAN: &str = "plan.yaml";

/// What runs on a node: who started when, from which bytes. An update, a crash or a restart changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Process, digest and start of the supervisor.
    pub supervisor: String,
    /// The same of the agent.
    pub agent: String,
    /// Digests of every file of the slots.
    pub slots: String,
}

impl Runs {
    /// Digest of the agent that runs.
    pub fn digest(&self) -> &str {
        self.agent.split(' ').nth(1).unwrap_or_default()
    }

    /// How long the agent has run, in seconds.
    pub fn age_s(&self) -> f64 {
        let started = self.agent.split(' ').nth(2).and_then(|ticks| ticks.parse::<f64>().ok());
        let up = fs::read_to_string("/proc/uptime").expect("a clock");
        let up: f64 = up.split(' ').next().and_then(|seconds| seconds.parse().ok()).expect("seconds");
        // Ticks are hundredths on every Linux that people run.
        up - started.expect("the kernel says when a process began") / 100.0
    }
}

/// A version of the agent.
#[derive(Clone, Debug)]
pub struct Agent {
    pub version: String,
    /// Of the program.
    pub digest: String,
}

/// A release that was made, and perhaps brought to the controller.
#[derive(Clone, Debug)]
pub struct Release {
    pub version: String,
    /// Of its agent, unpacked.
    pub digest: String,
    /// Of its agent, packed.
    pub packed: String,
    pub folder: PathBuf,
}

impl Release {
    pub fn agent(&self) -> Agent {
        Agent { version: self.version.clone(), digest: self.digest.clone() }
    }
}

pub struct Fleet {
    pub sandbox: Sandbox,
    /// By name; they end before the controller does.
    pub nodes: BTreeMap<String, Container>,
    /// Where releases are made.
    dir: tempfile::TempDir,
    /// Of the next release.
    patch: u64,
    _network: Network,
}

impl Fleet {
    /// Nodes by these names, taken by `up` and ready. A version proves itself there within seconds: the rest is as on
    /// every node.
    #[track_caller]
    pub fn up(names: &[&str]) -> Self {
        Self::of(names, true)
    }

    /// The same, with nothing other than on every node.
    #[track_caller]
    pub fn as_installed(names: &[&str]) -> Self {
        Self::of(names, false)
    }

    #[track_caller]
    fn of(names: &[&str], quick: bool) -> Self {
        let network = Network::of_this_thread();
        // Without a cloud: all of its machines are here already.
        let sandbox = Sandbox::with_state_only_cloud(0);
        let dir = tempfile::tempdir().expect("a folder");
        let ssh = sandbox.home().with_file_name(".ssh");
        fs::create_dir_all(&ssh).expect("a folder");
        let done = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(ssh.join("id_ed25519"))
            .status();
        assert!(done.expect("ssh-keygen starts").success(), "a key");
        let key = fs::read_to_string(ssh.join("id_ed25519.pub")).expect("a public key");
        let mut nodes = BTreeMap::new();
        for (number, name) in (1..).zip(names) {
            let mut node = Container::new(&network, name, number, &key);
            if quick {
                quicken(&node);
            }
            node.switch_on();
            nodes.insert((*name).to_owned(), node);
        }
        nodes.values().for_each(Container::booted);
        let fleet = Self { sandbox, nodes, dir, patch: FIRST, _network: network };
        fleet.wants("{file: {path: /etc/motd, text: ours}}", "{}");
        fleet.sandbox.run(&["up", &fleet.plan()]).expect(0);
        fleet
    }

    /// Changes the plan: what every node is to do, and under which policy.
    pub fn wants(&self, task: &str, policy: &str) {
        fs::write(self.plan(), plan_of(&self.nodes, task, policy)).expect("written");
    }

    /// The plan's file.
    pub fn plan(&self) -> String {
        self.dir.path().join(PLAN).display().to_string()
    }

    pub fn node(&self, name: &str) -> &Container {
        &self.nodes[name]
    }

    /// Makes a release of `program`, with a version above all before, and publishes it.
    #[track_caller]
    pub fn release(&mut self, program: &[u8]) -> Release {
        let release = self.create(program);
        self.publish(&release).expect(0);
        release
    }

    /// Makes it, and keeps it here.
    #[track_caller]
    pub fn create(&mut self, program: &[u8]) -> Release {
        self.patch += 1;
        self.create_as(program, &version(self.patch - 1))
    }

    /// Makes it with a version below all others.
    #[track_caller]
    pub fn create_below(&self, program: &[u8]) -> Release {
        self.create_as(program, &version(FIRST - 1))
    }

    pub fn publish(&self, release: &Release) -> Ended {
        self.sandbox.run(&["release", "publish", &release.folder.display().to_string()])
    }

    #[track_caller]
    fn create_as(&self, program: &[u8], version: &str) -> Release {
        let file = self.dir.path().join(format!("agent-{version}"));
        fs::write(&file, program).expect("written");
        let mut executable = fs::metadata(&file).expect("there").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut executable, 0o755);
        fs::set_permissions(&file, executable).expect("allowed");
        let folder = self.dir.path().join(version);
        let [agent, out] = [&file, &folder].map(|path| path.display().to_string());
        let made = self
            .sandbox
            .run(&[
                "release",
                "create",
                "--agent",
                &agent,
                "--version",
                version,
                "--out",
                &out,
                "--output",
                "json",
            ])
            .expect(0)
            .json();
        let artifacts = made["artifacts"].as_array().expect("artifacts");
        let agent = artifacts.iter().find(|one| one["name"] == "fleet-agent").expect("an agent");
        let text = |member: &str| {
            agent[member].as_str().unwrap_or_else(|| panic!("no {member}: {made:#}")).to_owned()
        };
        Release { version: version.to_owned(), digest: text("sha256"), packed: text("packed_sha256"), folder }
    }

    /// Starts a rollout whose canary is `canary`; times are as short as they can be without being wrong.
    #[track_caller]
    pub fn start(&self, release: &Release, canary: &str, set: &[&str]) {
        let canaries = format!("canaries={{\"named\":[\"{canary}\"],\"drawn\":0}}");
        let mut line = vec!["rollout", "start", &release.version];
        let usual = [
            &*canaries,
            "waves=[\"100%\"]",
            "budgets.inFlight=100%",
            "budgets.unavailable=100%",
            "canaryBake=1s",
            "bake=1s",
            "deadlines.trial=60s",
            "deadlines.askAgain=1s",
        ];
        for one in usual.iter().chain(set) {
            line.extend(["--set", one]);
        }
        self.sandbox.run(&line).expect(0);
    }

    /// Waits for the rollout's end or halt, which `watch` has to tell by this status; where it stands then.
    #[track_caller]
    pub fn watch(&self, status: i32) -> Value {
        self.sandbox.run(&["rollout", "watch"]).expect(status);
        self.sandbox.run(&["rollout", "status", "--output", "json"]).expect(status).json()
    }

    /// The record of a node's supervisor.
    #[track_caller]
    pub fn state(&self, name: &str) -> State {
        let said = self.node(name).run(&format!("cat {FOLDER}/state")).stdout;
        State::decode(&said).unwrap_or_else(|| panic!("{name}: {}", String::from_utf8_lossy(&said)))
    }

    /// Waits until what a node runs has proved itself: until then nothing else is put there.
    #[track_caller]
    pub fn proved(&self, name: &str) {
        eventually(&format!("{name} has proved itself"), PATIENCE, || {
            let state = self.state(name);
            (state.trial.is_none() && state.probation.is_none()).then_some(())
        });
    }

    /// What runs on a node.
    #[track_caller]
    pub fn runs(&self, name: &str) -> Runs {
        let say = "s=$(systemctl show -P MainPID fleet-agent); a=$(cat /proc/$s/task/$s/children); \
                   for p in $s $a; do echo $p $(sha256sum </proc/$p/exe | cut -d' ' -f1) $(cut -d' ' -f22 /proc/$p/stat); done; \
                   cd /usr/local/lib/fleet/slots && find . -type f | sort | xargs sha256sum";
        eventually(&format!("{name}: an agent runs"), PATIENCE, || {
            let done = self.node(name).run(say);
            let said = String::from_utf8(done.stdout).ok().filter(|_| done.status.success())?;
            let mut lines = said.lines();
            let (supervisor, agent) = (lines.next()?.to_owned(), lines.next()?.to_owned());
            let whole = |line: &str| line.split(' ').nth(1).is_some_and(|digest| digest.len() == 64);
            (whole(&supervisor) && whole(&agent)).then(|| {
                let slots = lines.map(|line| format!("{line}\n")).collect();
                Runs { supervisor, agent, slots }
            })
        })
    }

    /// What runs on everybody but `name`.
    #[track_caller]
    pub fn others(&self, name: &str) -> BTreeMap<String, Runs> {
        self.nodes
            .keys()
            .filter(|other| *other != name)
            .map(|other| (other.clone(), self.runs(other)))
            .collect()
    }

    /// Waits until a node runs `digest` and its controller sees it ready.
    #[track_caller]
    pub fn ready_on(&self, name: &str, digest: &str) {
        eventually(&format!("{name} is ready on {digest}"), PATIENCE, || {
            let status = self.sandbox.run(&["status", name, "--output", "json"]).json();
            (status["nodes"][0]["state"] == "ready" && self.runs(name).digest() == digest).then_some(())
        });
    }

    /// Kills the controller, and waits until it is gone.
    #[track_caller]
    pub fn kill_controller(&self) {
        let pid = self.controller();
        self.sandbox.kill_controller(FLEET);
        eventually("the controller is gone", PATIENCE, || (!runs(pid)).then_some(()));
    }

    /// Starts another one on the same store: whoever only looks does that, and waits for no node.
    #[track_caller]
    pub fn start_controller(&self) {
        self.sandbox.run(&["up", &self.plan(), "--preview"]).expect(0);
    }

    /// Process id of the controller.
    #[track_caller]
    pub fn controller(&self) -> i32 {
        self.sandbox.controller_pid(FLEET).expect("a controller serves")
    }

    /// The controller's own folder.
    pub fn home(&self) -> PathBuf {
        self.sandbox.home().join("fleets").join(FLEET)
    }
}

/// The node of the last status of a rollout.
#[track_caller]
pub fn node<'a>(rollout: &'a Value, name: &str) -> &'a Value {
    let nodes = rollout["nodes"].as_array().unwrap_or_else(|| panic!("no nodes: {rollout:#}"));
    nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no {name}: {rollout:#}"))
}

/// A version proves itself within seconds.
fn quicken(node: &Container) {
    let folder = node.path("etc/systemd/system/fleet-agent.service.d");
    fs::create_dir_all(&folder).expect("a folder");
    let text = "[Service]\nExecStart=\nExecStart=/usr/local/lib/fleet/fleet-supervisor --probation-ms 6000\n";
    fs::write(folder.join("quick.conf"), text).expect("written");
}

fn plan_of(nodes: &BTreeMap<String, Container>, task: &str, policy: &str) -> String {
    let mut plan = format!(
        "fleet: {FLEET}\ncloud: hosts\nrollout: {policy}\ndefaults:\n  login: root\n  tasks:\n    - {task}\n\
         locations:\n  - id: lab\n    nodes:\n"
    );
    for (name, node) in nodes {
        let (address, key) = (node.address(), node.host_key());
        plan.push_str(&format!("      - {{name: {name}, address: {address}, hostKey: \"{key}\"}}\n"));
    }
    plan
}

/// What this tree calls itself, with another last number.
fn version(patch: u64) -> String {
    let Agent { version, .. } = seeded();
    let (minor, _) = version.rsplit_once('.').expect("a version has three parts");
    format!("{minor}.{patch}")
}

/// What seeds bring.
pub fn seeded() -> Agent {
    let file = program("fleet-agent");
    let said = Command::new(&file).arg("--version").output().expect("it starts").stdout;
    let said = String::from_utf8(said).expect("text");
    let version = said.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    Agent { version, digest: Digest::of(&fs::read(file).expect("an agent")).to_string() }
}

/// The real agent, told from others by its last line.
pub fn good(word: &str) -> Vec<u8> {
    with_line(&program("fleet-agent"), word)
}

/// An agent that goes wrong.
pub fn bad(manner: &str) -> Vec<u8> {
    static STRIPPED: std::sync::OnceLock<tempfile::TempPath> = std::sync::OnceLock::new();
    let stripped = STRIPPED.get_or_init(|| {
        // Nodes fetch and digest all of it.
        let path = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
        let done =
            Command::new("strip").arg("-o").arg(&path).arg(env!("CARGO_BIN_EXE_misbehaving-agent")).status();
        assert!(done.expect("strip, of binutils").success());
        path
    });
    with_line(stripped, &format!("MISBEHAVE {manner}"))
}

fn with_line(program: &Path, line: &str) -> Vec<u8> {
    let mut bytes = fs::read(program).unwrap_or_else(|why| panic!("{}: {why}", program.display()));
    writeln!(bytes, "\n{line}").expect("memory");
    bytes
}

/// Turns a byte in the middle of a file over.
pub fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    File::create(file).and_then(|mut file| file.write_all(&bytes)).expect("written");
}
