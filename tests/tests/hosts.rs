//! A fleet of machines that are there already, from beginning to end: Debians in containers with systemd and sshd of
//! their own, taken by address, entered, exchanged and given back by the finished `fleetctl`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use fleet_tests::{Container, Ended, Network, Sandbox, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// What the plan has its nodes do, and all that stays.
const LEFT: &str = "/etc/fleet-was-here";

/// Every file, folder and link of a machine whose content is its owner's business, with what is in it; what systemd
/// starts, what runs of ours, and what it is called.
const LOOK: &str = r#"
cd / || exit 1
all() {
    find etc home opt root srv usr/local var/lib var/spool -xdev \
        \( -path var/lib/systemd -o -path var/lib/private -o -path root/.ssh \) -prune -o "$@"
}
all -printf '%M %U:%G %p %l\n'
all -type f -exec sha256sum {} +
find run -maxdepth 1 -name 'fleet*'
systemctl list-unit-files --no-legend --no-pager 'fleet*' 'rethinkdb*'
for exe in /proc/[0-9]*/exe; do
    case $(readlink "$exe") in */fleet*) echo "runs: $(readlink "$exe")" ;; esac
done
echo "called $(hostname)"
"#;

fn look(machine: &Container) -> BTreeSet<String> {
    machine.expect(LOOK).lines().map(str::to_owned).collect()
}

/// What differs, for people.
fn differences(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    before.symmetric_difference(after).cloned().collect()
}

/// Nothing is different but the one file that the plan wrote.
#[track_caller]
fn check_given_back(machine: &Container, before: &BTreeSet<String>) {
    let left = differences(before, &look(machine));
    // Its place and its content.
    assert!(
        left.len() == 2 && left.iter().all(|line| line.contains(LEFT.trim_start_matches('/'))),
        "{}: {left:#?}",
        machine.name()
    );
}

/// How often somebody was let in by SSH.
fn logins(machine: &Container) -> usize {
    let log = machine.expect("journalctl --no-pager -q -o cat -t sshd");
    log.lines().filter(|line| line.starts_with("Accepted ")).count()
}

/// The operator's key, known to nobody but an agent.
struct Operator {
    public: String,
    socket: PathBuf,
    agent: Child,
}

impl Operator {
    fn new(dir: &Path) -> Self {
        let (key, socket) = (dir.join("deploy"), dir.join("agent"));
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.expect("ssh-keygen starts").success(), "a key");
        let agent = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("ssh-agent starts");
        let this = Self {
            public: fs::read_to_string(key.with_extension("pub")).expect("a public key"),
            socket,
            agent,
        };
        eventually("the agent listens", PATIENCE, || this.socket.exists().then_some(()));
        let added = Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &this.socket).status();
        assert!(added.expect("ssh-add starts").success(), "the key is in the agent");
        fs::remove_file(&key).expect("nowhere else");
        this
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is collected.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// A node in a plan: which machine it is, and what that is known by.
struct Line<'a>(&'a str, &'a Container, String);

struct Stage {
    sandbox: Sandbox,
    dir: tempfile::TempDir,
}

impl Stage {
    fn plan(&self, lines: &[Line<'_>]) -> String {
        let mut plan = format!(
            "fleet: taken\ncloud: hosts\ndefaults:\n  login: root\n  tasks:\n    - file: {{path: {LEFT}, text: \"{{{{ node.name \
             }}}}\\n\"}}\nlocations:\n  - id: lab\n    nodes:\n"
        );
        for Line(name, machine, key) in lines {
            plan.push_str(&format!(
                "      - {{name: {name}, address: {}, hostKey: \"{key}\"}}\n",
                machine.address()
            ));
        }
        let file = self.dir.path().join("plan.yaml");
        fs::write(&file, plan).expect("written");
        file.display().to_string()
    }

    fn up(&self, lines: &[Line<'_>], more: &[&str]) -> Ended {
        let plan = self.plan(lines);
        self.sandbox.run(&[&["up", &plan], more].concat())
    }

    #[track_caller]
    fn ready(&self, names: &[&str]) {
        // 3 as long as one of them is not.
        let status = self.sandbox.run(&["status", "--output", "json"]);
        let status = status.expect(if names.len() == 2 { 0 } else { 3 }).json();
        let nodes = status["nodes"].as_array().expect("nodes");
        let ready = nodes.iter().filter(|node| node["state"] == "ready" && node["connected"] == true);
        let found: Vec<&str> = ready.filter_map(|node| node["name"].as_str()).collect();
        assert_eq!(found, names, "{status:#}");
    }

    /// What a command on a node says, by `fleetctl ssh`.
    fn ssh(&self, node: &str, line: &str) -> Ended {
        self.sandbox.run(&["ssh", node, line])
    }
}

/// What `ssh-keygen -l` shows of a host key.
fn fingerprint(machine: &Container) -> String {
    let said = machine.expect("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub");
    said.split(' ').nth(1).expect("bits, fingerprint, comment").to_owned()
}

#[test]
fn machines_are_taken_entered_exchanged_and_given_back() {
    let network = Network::of_this_thread();
    let dir = tempfile::tempdir().expect("a folder");
    let operator = Operator::new(dir.path());
    // Without a cloud: all of its machines are here already.
    let mut sandbox = Sandbox::with_state_only_cloud(0);
    sandbox.set("SSH_AUTH_SOCK", &operator.socket);
    let stage = Stage { sandbox, dir };
    let machines: Vec<Container> = (1..)
        .zip(["first", "second", "spare"])
        .map(|(number, name)| {
            let mut machine = Container::new(&network, name, number, &operator.public);
            machine.start();
            machine
        })
        .collect();
    let [first, second, spare] = &machines[..] else { panic!("three") };
    let before = [first, second, spare].map(look);
    let pinned = |name| Line(name, first, first.host_key());
    let by_digest = |name| Line(name, second, fingerprint(second));

    // Somebody else answers at an address: one error, and nothing is done anywhere it was not known.
    let wrong = Line("one", first, second.host_key());
    let refused = stage.up(&[wrong, by_digest("two")], &[]).expect(1);
    let told: Vec<&str> = refused.err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(
        told.len() == 1
            && told[0].contains("node `one`")
            && told[0].contains(&format!("shows host key {}", fingerprint(first)))
            && told[0].contains("the plan says another"),
        "{}",
        refused.err
    );
    assert_eq!(differences(&before[0], &look(first)), [] as [String; 0]);
    assert_eq!(logins(first), 0, "nobody logged in");
    stage.ready(&["two"]);

    stage.up(&[pinned("one"), by_digest("two")], &[]).expect(0);
    stage.ready(&["one", "two"]);
    assert_eq!(
        (first.expect(&format!("cat {LEFT}")), second.expect("hostname")),
        ("one\n".into(), "second\n".into())
    );
    let again = stage.up(&[pinned("one"), by_digest("two")], &["--output", "json"]).expect(0).json();
    assert_eq!(again["changing_calls"], 0, "{again:#}");

    enter(&stage, first, second);

    // Another machine for a node takes consent, and gives the old one back.
    let other = || Line("one", spare, spare.host_key());
    let asks = stage.up(&[other(), by_digest("two")], &[]).expect(64);
    assert!(asks.err.contains("--replace one"), "{}", asks.err);
    assert_eq!(differences(&before[2], &look(spare)), [] as [String; 0]);
    stage.up(&[other(), by_digest("two")], &["--replace", "one"]).expect(0);
    stage.ready(&["one", "two"]);
    assert_eq!(stage.ssh("one", "hostname").expect(0).out, "spare\n");
    check_given_back(first, &before[0]);

    let down = stage.sandbox.run(&["down", "--yes"]).expect(0);
    assert!(down.out.contains("hosts: 0"), "{}", down.out);
    for (node, machine) in [("one", spare), ("two", second)] {
        let line = format!("{node} ({}): no agent, unit, key or state of it", machine.address());
        assert!(down.out.contains(&line), "{line} in {}", down.out);
    }
    check_given_back(spare, &before[2]);
    check_given_back(second, &before[1]);
    assert!(!stage.sandbox.home().exists(), "the home is left");
}

/// `fleetctl ssh` goes by what the plan says, and by nothing else.
fn enter(stage: &Stage, first: &Container, second: &Container) {
    stage.ssh("one", "true").expect(0);
    stage.ssh("two", "true").expect(0);
    assert_eq!(stage.ssh("one", "hostname").expect(0).out, "first\n");
    assert_eq!(stage.ssh("two", "hostname").expect(0).out, "second\n");
    assert_eq!(stage.ssh("two", "exit 7").status, Some(7), "the command's own status");
    for (node, machine) in [("one", first), ("two", second)] {
        machine.expect(
            "cd /etc/ssh && mkdir kept && cp -p ssh_host_ed25519_key* kept/ && rm ssh_host_ed25519_key* \
             && ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key && systemctl restart ssh",
        );
        let logins_before = logins(machine);
        let refused = stage.ssh(node, "true").expect(255);
        assert!(refused.err.contains("Host key verification failed"), "{}", refused.err);
        assert_eq!(logins(machine), logins_before, "{node}: nobody logged in");
        machine.expect("cd /etc/ssh && mv kept/* . && rmdir kept && systemctl restart ssh");
        stage.ssh(node, "true").expect(0);
    }
}
