//! One machine, and what is done to it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use fleet_supervisor::{digest::Digest, record::State, slots::FOLDER};
use fleet_tests::{LocalCloud, Login, Sandbox, eventually, program, runs};
use serde_json::{Value, json};

const FLEET: &str = "kills";
const NODE: &str = "one";
/// An emulated machine that shares two cores takes long for everything.
const PATIENCE: Duration = Duration::from_secs(300);
const POLICY: [&str; 8] =
    ["rollout", "start", "--set", "canaryBake=1s", "--set", "bake=1s", "--set", "deadlines.askAgain=1s"];
/// Where the copy is that is made of the node's files at each boot; gone with it.
const FOUND: &str = "/run/found";

/// What happens to it when power is lost.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// The cloud was asked for it.
    Asked,
    /// The process that is the machine was killed.
    Killed,
}

/// It is on, but for the time between a cut and its boot.
pub struct Machine<'a> {
    sandbox: &'a Sandbox,
    server: String,
    way: Login,
    /// Where releases are made.
    dir: tempfile::TempDir,
    /// Of the last release.
    patch: u64,
}

impl<'a> Machine<'a> {
    /// Brings it up.
    #[track_caller]
    pub fn up(sandbox: &'a Sandbox) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let plan = dir.path().join("plan.yaml");
        fs::write(&plan, plan_text()).expect("written");
        sandbox.run(&["up", &plan.display().to_string()]).expect(0);
        let status = sandbox.run(&["status", NODE, "--output", "json"]).expect(0).json();
        let address = status["nodes"][0]["public_ipv4"].as_str().expect("a public address").to_owned();
        let key = sandbox.home().join("fleets").join(FLEET).join("ssh/id_ed25519");
        let server = cloud(sandbox).list("server/server")[0]["id"].as_str().expect("an id").to_owned();
        let way = Login { key, user: "fleet".to_owned(), address };
        // Beyond any version that the tree calls itself.
        let machine = Self { sandbox, server, way, dir, patch: 1000 };
        machine.furnish();
        machine
    }

    /// A version proves itself within seconds here, and at each boot what lies on disk is copied away before the
    /// supervisor looks at it.
    #[track_caller]
    fn furnish(&self) {
        let unit = format!(
            "[Service]\n\
             ExecStartPre=/bin/sh -c 'test -e {FOUND} || {{ mkdir {FOUND}.new && \
             cp -a --parents {FOLDER} /var/lib/fleet-agent {FOUND}.new && mv {FOUND}.new {FOUND}; }}'\n\
             ExecStart=\nExecStart=/usr/local/lib/fleet/fleet-supervisor --probation-ms 3000\n"
        );
        let folder = "/etc/systemd/system/fleet-agent.service.d";
        let line = format!(
            "sudo -n sh -c 'mkdir -p {folder} && cat >{folder}/found.conf && sync && systemctl daemon-reload && \
             systemctl restart fleet-agent'"
        );
        let mut ssh = self.way.command().arg(line).stdin(Stdio::piped()).spawn().expect("ssh starts");
        ssh.stdin.take().expect("piped").write_all(unit.as_bytes()).expect("ssh takes it");
        assert!(ssh.wait().expect("our child").success(), "the unit was not changed");
    }

    /// Makes another release of the agent, and publishes it.
    #[track_caller]
    pub fn release(&mut self, word: &str) -> Release {
        self.patch += 1;
        let status = self.sandbox.run(&["--version"]).expect(0).out;
        let own = status.trim().rsplit(' ').next().unwrap_or_default();
        let (minor, _) = own.rsplit_once('.').expect("a version has three parts");
        let version = format!("{minor}.{}", self.patch);
        let file = self.dir.path().join("fleet-agent");
        let mut agent = fs::read(program("fleet-agent")).expect("an agent");
        writeln!(agent, "\n{word}").expect("memory");
        fs::write(&file, &agent).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("allowed");
        let [file, out] = [file, self.dir.path().join(&version)].map(|path| path.display().to_string());
        let create = ["release", "create", "--agent", &file, "--version", &version, "--out", &out];
        self.sandbox.run(&create).expect(0);
        self.sandbox.run(&["release", "publish", &out]).expect(0);
        Release { version, digest: Digest::of(&agent).to_string() }
    }

    /// Starts to roll it out.
    #[track_caller]
    pub fn start(&self, release: &Release) {
        self.sandbox.run(&[&POLICY[..], &[&release.version]].concat()).expect(0);
    }

    /// Starts to take back what was rolled out last.
    #[track_caller]
    pub fn undo(&self) {
        self.sandbox.run(&["rollout", "undo"]).expect(0);
    }

    /// Waits until the rollout is over, and the node ready with this agent.
    #[track_caller]
    pub fn arrives(&self, digest: &str) {
        self.sandbox.run(&["rollout", "watch"]).expect(0);
        eventually(&format!("it is ready on {digest}"), PATIENCE, || {
            let status = self.sandbox.run(&["status", NODE, "--output", "json"]).json();
            (status["nodes"][0]["state"] == "ready" && self.look().as_deref() == Some(digest)).then_some(())
        });
    }

    /// Waits until what runs has proved itself: until then nothing else is put there.
    #[track_caller]
    pub fn proved(&self) {
        eventually("it has proved itself", PATIENCE, || {
            let state = State::decode(&self.way.run(&format!("sudo -n cat {FOLDER}/state")).stdout)?;
            (state.trial.is_none() && state.probation.is_none()).then_some(())
        });
    }

    /// Takes its power away.
    #[track_caller]
    pub fn cut(&self, how: Cut) {
        match how {
            Cut::Asked => self.operate("server/powerOffServer"),
            Cut::Killed => {
                let pid = self.process();
                // SAFETY: kill takes two integers and touches no memory of ours; the process is this test's machine.
                assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0, "process {pid}");
                eventually("its process is gone", PATIENCE, || (!runs(pid)).then_some(()));
            }
        }
        eventually("it is off", PATIENCE, || {
            let server = self.seen();
            (server["started"] == json!(false) && server["state"] == "NORMAL").then_some(())
        });
    }

    /// Switches it on, and waits until it can be logged into.
    #[track_caller]
    pub fn boot(&self) {
        self.operate("server/startServer");
        eventually("it boots", PATIENCE, || self.way.run("true").status.success().then_some(()));
    }

    /// What was on its disk when it was switched on, below a folder of ours.
    #[track_caller]
    pub fn found(&self) -> tempfile::TempDir {
        let here = tempfile::tempdir().expect("a folder");
        eventually("a copy of what was found on disk", PATIENCE, || {
            self.way.run(&format!("test -e {FOUND}")).status.success().then_some(())
        });
        let packed = self.way.run(&format!("sudo -n tar -C {FOUND} -cf - ."));
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(here.path())
            .args(["-xf", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("tar starts");
        tar.stdin.take().expect("piped").write_all(&packed.stdout).expect("tar takes it");
        assert!(tar.wait().expect("our child").success(), "what was found cannot be unpacked");
        here
    }

    /// Waits until an agent runs; its digest.
    #[track_caller]
    pub fn runs(&self) -> String {
        eventually("an agent runs", PATIENCE, || self.look())
    }

    /// Digest of the agent that runs, if one does.
    fn look(&self) -> Option<String> {
        let line = "s=$(systemctl show -P MainPID fleet-agent) && a=$(cat /proc/$s/task/$s/children) && \
                    sudo -n sha256sum /proc/${a% }/exe";
        let said = self.way.run(line);
        let said = String::from_utf8(said.stdout).ok().filter(|_| said.status.success())?;
        said.split(' ').next().filter(|digest| digest.len() == 64).map(str::to_owned)
    }

    #[track_caller]
    fn operate(&self, operation: &str) {
        let answer = cloud(self.sandbox).operate(operation, &json!({ "id": self.server }));
        assert_eq!(answer["responseCode"], "IN_PROGRESS", "{operation}: {answer}");
    }

    #[track_caller]
    fn seen(&self) -> Value {
        cloud(self.sandbox).list("server/server").into_iter().next().expect("the server is there")
    }

    /// The process that is the machine.
    #[track_caller]
    fn process(&self) -> i32 {
        let status = self.sandbox.run(&["cloud", "status", "--output", "json"]).expect(0).json();
        let console = PathBuf::from(status["servers"][0]["console"].as_str().expect("it has a console"));
        let pid = fs::read_to_string(console.with_file_name("pid")).expect("a process id");
        let pid = pid.trim().parse().expect("a number");
        let name =
            fs::read_to_string(Path::new("/proc").join(format!("{pid}")).join("comm")).expect("it runs");
        assert!(name.trim_end() == "flc-machine", "process {pid} is {name}");
        pid
    }
}

/// The cloud by a connection of this moment: one that was kept since the last would not hold.
#[track_caller]
fn cloud(sandbox: &Sandbox) -> LocalCloud {
    sandbox.cloud().expect("the cloud serves")
}

/// A release that was brought to the controller.
#[derive(Clone, Debug)]
pub struct Release {
    version: String,
    /// Of its agent.
    pub digest: String,
}

/// Digest of the agent that seeds bring.
pub fn seeded() -> String {
    Digest::of(&fs::read(program("fleet-agent")).expect("an agent")).to_string()
}

fn plan_text() -> String {
    let tasks = "[access: {login: fleet, keys: [operator]}]";
    format!(
        "fleet: {FLEET}\ncloud: local\nlocations:\n  - id: EU6\n    domain: Kills\n    networks:\n      \
         - name: Front\n        subnet: 10.10.0.0/24\n        nodes:\n          \
         - {{name: {NODE}, image: Debian 12, memoryGb: 1, cpu: 1, internet: [icmp, 22], tasks: {tasks}}}\n"
    )
}
