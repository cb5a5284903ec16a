//! Machines are taken, seeded and released over SSH; nothing is done to any that is not known.

mod machine;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use fleet_hosts::{Access, Hosts, Mark, held::Place, seed};
use fleet_model::{NodeName, SystemClock};
use fleet_plan::ResolvedPlan;
use fleet_provider::{
    bootstrap::BootStage,
    event::{Event, Step, Verb},
    provider::Outcome,
};
use fleet_store::MemoryStore;
use machine::{Machine, Operator};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const ID: &str = "0c62f3a0-5b5e-4b0c-9d1a-1f7f9d9d0001";

struct Fleet {
    store: Arc<MemoryStore>,
}

impl Fleet {
    fn new() -> Self {
        Self { store: Arc::new(MemoryStore::new(Arc::new(SystemClock))) }
    }

    fn hosts(&self, access: Access) -> Hosts {
        Hosts::new(self.store.clone(), "shop".parse().expect("a name"), ID.to_owned(), access)
    }
}

/// One line a node.
fn plan(nodes: &[String]) -> ResolvedPlan {
    let text =
        format!("fleet: shop\ncloud: hosts\nlocations:\n  - id: home\n    nodes: [{}]\n", nodes.join(", "));
    fleet_plan::load("p", &text, &BTreeMap::new()).unwrap_or_else(|why| panic!("{why}")).plan
}

fn line(name: &str, machine: &Machine) -> String {
    pinned(name, machine, &machine.fingerprint())
}

fn pinned(name: &str, machine: &Machine, key: &str) -> String {
    format!("{{name: {name}, address: '127.0.0.1:{}', hostKey: '{key}'}}", machine.port)
}

fn name(name: &str) -> NodeName {
    name.parse().expect("a name")
}

async fn apply(hosts: &Hosts, plan: &ResolvedPlan) -> (Outcome, Vec<Event>) {
    let (events, mut told) = mpsc::channel(256);
    let outcome = hosts.apply(plan, &events, &CancellationToken::new()).await.expect("the store works");
    drop(events);
    let mut all = Vec::new();
    while let Some(event) = told.recv().await {
        all.push(event);
    }
    (outcome, all)
}

async fn down(hosts: &Hosts) -> Outcome {
    let (events, _told) = mpsc::channel(256);
    hosts.destroy(&events, &CancellationToken::new()).await.expect("the store works")
}

async fn preview(hosts: &Hosts, plan: &ResolvedPlan) -> (Vec<Step>, Vec<String>) {
    let preview = hosts.preview(plan, &BTreeSet::new()).await.expect("the store works");
    (preview.steps, preview.problems)
}

/// The one problem there is.
#[track_caller]
fn only(problems: &[String]) -> &str {
    assert_eq!(problems.len(), 1, "{problems:?}");
    &problems[0]
}

const SEED: &str = "\
mkdir -p /usr/local/lib/fleet /var/lib/fleet-agent
echo unit >/etc/systemd/system/fleet-agent.service
echo token >/etc/fleet-agent/enrol.json
echo key >/var/lib/fleet-agent/key
echo 'fleet-first-boot: agent-started'
";

async fn seeded(machine: &Machine, plan: &ResolvedPlan, access: &Access, id: &str) -> Result<(), String> {
    let node = plan.nodes().next().expect("a node").node;
    let mark = Mark::new(&plan.fleet, id, &node.name);
    let place = Place::of(node).expect("a machine");
    let (events, mut stages) = mpsc::channel(64);
    let root = machine.root.path().display().to_string();
    let document = ["/etc/", "/var/lib/", "/usr/local/lib/"]
        .iter()
        .fold(SEED.to_owned(), |text, path| text.replace(path, &format!("{root}{path}")));
    let done =
        seed::push(&place, &mark, access, document.as_bytes(), &events, &CancellationToken::new()).await;
    if done.is_ok() {
        let mut told = Vec::new();
        while let Ok(stage) = stages.try_recv() {
            told.push(stage);
        }
        assert_eq!(told, [BootStage::Connected, BootStage::SeedWritten, BootStage::AgentStarted]);
    }
    done.map_err(|why| why.to_string())
}

#[tokio::test]
async fn a_machine_is_taken_once_and_given_back_as_it_was() {
    let operator = Operator::new();
    let machine = Machine::new(&operator).await;
    let (fleet, access) = (Fleet::new(), operator.access(""));
    let hosts = fleet.hosts(access.clone());
    let plan = plan(&[line("a", &machine)]);
    let (steps, problems) = preview(&hosts, &plan).await;
    assert_eq!((steps[0].verb, steps[0].kind, steps[0].name.as_str()), (Verb::Adopt, "host", "a"));
    assert!(steps[0].detail.ends_with("Debian of the tests"), "{}", steps[0].detail);
    assert_eq!(problems, Vec::<String>::new());
    assert!(!machine.path("etc/fleet-agent").exists(), "a preview touches nothing");

    let (outcome, events) = apply(&hosts, &plan).await;
    assert_eq!((outcome.changing_calls, outcome.problems.len()), (1, 0), "{outcome:?}");
    assert!(events.iter().any(|event| matches!(event, Event::Provisioned(node, _) if *node == name("a"))));
    assert_eq!(outcome.addresses[&name("a")].public_ipv4, Some([127, 0, 0, 1].into()));
    assert!(machine.read("etc/fleet-agent/host.json").contains(ID));
    seeded(&machine, &plan, &access, ID).await.expect("seeded");
    // In force on the machine by then: what the plan's tasks made.
    fs::write(
        machine.path("etc/hosts"),
        "127.0.0.1 localhost\n# BEGIN fleet (managed block; changes in here are lost)\n::1 a\n# END fleet\n::1 me\n",
    )
    .expect("written");
    fs::write(machine.path("var/lib/mine"), "data").expect("written");
    fs::create_dir_all(machine.path("var/lib/rethinkdb/fleet")).expect("made");
    let asked = machine.asked();
    assert!(preview(&hosts, &plan).await == (vec![], vec![]), "nothing to do");
    let (again, _) = apply(&hosts, &plan).await;
    assert_eq!((again.changing_calls, again.problems.len(), again.addresses.len()), (0, 0, 1));
    assert_eq!(machine.asked(), asked, "what is taken is not even asked");

    let down = down(&hosts).await;
    assert_eq!(down.problems, Vec::<String>::new());
    assert_eq!(down.proof[0], "hosts: 0");
    assert!(down.proof[1].contains("no agent, unit, key or state") && down.proof[1].contains("rethinkdb"));
    for gone in [
        "etc/fleet-agent",
        "var/lib/fleet-agent",
        "usr/local/lib/fleet",
        "etc/systemd/system/fleet-agent.service",
    ] {
        assert!(!machine.path(gone).exists(), "{gone}");
    }
    assert_eq!(machine.read("etc/hosts"), "127.0.0.1 localhost\n::1 me\n");
    assert_eq!(machine.read("var/lib/mine"), "data");
    assert!(machine.read("systemctl.log").contains("disable --now fleet-agent.service"));
    let other = Fleet::new().hosts(access);
    assert_eq!(preview(&other, &plan).await.0.len(), 1, "anybody's again");
}

#[tokio::test]
async fn a_machine_that_is_not_known_is_sent_nothing() {
    let operator = Operator::new();
    let machine = Machine::new(&operator).await;
    let hosts = Fleet::new().hosts(operator.access(""));
    let unpinned = plan(&[format!("{{name: a, address: '127.0.0.1:{}'}}", machine.port)]);
    let (steps, problems) = preview(&hosts, &unpinned).await;
    let why = only(&problems);
    assert!(steps.is_empty() && why.contains(&format!("`hostKey: {}`", machine.fingerprint())), "{why}");
    let other = format!("SHA256:{}", "A".repeat(43));
    let (outcome, events) = apply(&hosts, &plan(&[pinned("a", &machine, &other)])).await;
    let why = only(&outcome.problems);
    assert!(why.contains(&machine.fingerprint()) && why.contains("may be another machine"), "{why}");
    assert_eq!((events.len(), machine.asked()), (0, 0), "no login was tried");

    // The operator knows it, by another type of key than servers usually show.
    let key = machine.keys[1].public_key().to_openssh().expect("a line");
    let known = operator.access(&format!("[127.0.0.1]:{} {key}\n", machine.port));
    assert_eq!(preview(&Fleet::new().hosts(known), &unpinned).await.1, Vec::<String>::new());
    let words: Vec<&str> = key.split(' ').take(2).collect();
    assert_eq!(
        preview(&hosts, &plan(&[pinned("a", &machine, &words.join(" "))])).await.1,
        Vec::<String>::new()
    );
    let digest = machine.keys[1].public_key().fingerprint(Default::default()).to_string();
    assert_eq!(preview(&hosts, &plan(&[pinned("a", &machine, &digest)])).await.1, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_in_the_way_is_said_for_all_at_once() {
    let operator = Operator::new();
    let mut machines = Vec::new();
    for _ in 0..6 {
        machines.push(Machine::new(&operator).await);
    }
    let [theirs, foreign, unmarked, sudo, twin, sound] = &machines[..] else { panic!("six") };
    let access = operator.access("");
    let others =
        Hosts::new(Fleet::new().store, "blog".parse().expect("a name"), "other".to_owned(), access.clone());
    let of_others = fleet_plan::load(
        "p",
        &format!("fleet: blog\ncloud: hosts\nlocations: [{{id: x, nodes: [{}]}}]\n", line("b", theirs)),
        &BTreeMap::new(),
    );
    assert_eq!(apply(&others, &of_others.expect("fine").plan).await.0.changing_calls, 1);
    fs::create_dir(unmarked.path("var/lib/fleet-agent")).expect("made");
    foreign.program("uname", "echo riscv64");
    sudo.program("sudo", "echo 'sudo: a password is required' >&2; exit 1");
    fs::copy(sound.path("etc/machine-id"), twin.path("etc/machine-id")).expect("copied");
    let mut ops = line("e", sudo);
    ops.insert_str(1, "login: ops, ");
    let fleet = Fleet::new();
    let hosts = fleet.hosts(access.clone());
    let plan_of_all = plan(&[
        line("a", theirs),
        line("c", foreign),
        line("d", unmarked),
        ops,
        line("f", sound),
        line("g", twin),
    ]);
    let (outcome, _) = apply(&hosts, &plan_of_all).await;
    let found = outcome.problems.join("\n");
    for part in [
        "node `a` (127.0.0.1",
        "another fleet `blog` as node `b`",
        "riscv64",
        "nothing says whose",
        "a password is required",
        "machine id of node `f`",
    ] {
        assert!(found.contains(part), "{part} in:\n{found}");
    }
    assert_eq!((outcome.problems.len(), outcome.changing_calls), (5, 1), "{found}");
    assert!(sound.path("etc/fleet-agent/host.json").exists(), "a sound one is held up by no other");
    // Sudo that asks nothing does.
    let machine = Machine::new(&operator).await;
    let mut ops = line("h", &machine);
    ops.insert_str(1, "login: ops, ");
    assert_eq!(apply(&hosts, &plan(&[ops, line("f", sound)])).await.0.problems, Vec::<String>::new());
    // Nobody's key but the operator's.
    let stranger = Fleet::new().hosts(Operator::new().access(""));
    let refused = preview(&stranger, &plan(&[line("x", unmarked)])).await.1;
    assert!(only(&refused).contains("none of the operator's keys"), "{refused:?}");
    // What became somebody else's is not seeded.
    let why = seeded(theirs, &plan(&[line("a", theirs)]), &access, ID).await.expect_err("theirs");
    assert!(why.contains("another fleet `blog`"), "{why}");
    assert!(!theirs.path("var/lib/fleet-agent").exists());
}

#[tokio::test]
async fn who_leaves_the_plan_is_released_even_when_gone() {
    let operator = Operator::new();
    let (stays, leaves) = (Machine::new(&operator).await, Machine::new(&operator).await);
    let mut dead = Machine::new(&operator).await;
    let fleet = Fleet::new();
    let hosts = fleet.hosts(operator.access(""));
    let whole = plan(&[line("a", &stays), line("b", &leaves), line("c", &dead)]);
    assert_eq!(apply(&hosts, &whole).await.0.changing_calls, 3);
    dead.off().await;
    let less = down(&fleet.hosts(Operator::new().access(""))).await;
    assert!(
        less.problems.iter().filter(|why| why.contains("if it is gone for good")).count() == 1,
        "{less:?}"
    );
    assert_eq!(less.proof, ["hosts: 3"], "no key, nothing released: {:?}", less.problems);
    assert_eq!(less.problems.len(), 3);

    let smaller = plan(&[line("a", &stays)]);
    let (steps, problems) = preview(&hosts, &smaller).await;
    assert!(
        problems.is_empty() && steps.iter().all(|step| step.verb == Verb::Release),
        "{steps:?} {problems:?}"
    );
    assert_eq!(steps.len(), 2);
    let (outcome, _) = apply(&hosts, &smaller).await;
    assert_eq!((outcome.problems.len(), outcome.changing_calls), (0, 2), "{outcome:?}");
    let unseen: Vec<_> = outcome.proof.iter().filter(|line| line.starts_with("c ")).collect();
    assert!(unseen.len() == 1 && unseen[0].contains("let go unseen"), "{:?}", outcome.proof);
    assert!(!unseen[0].contains("no agent"), "nobody saw that: {unseen:?}");
    assert!(!leaves.path("etc/fleet-agent").exists());
    assert_eq!(down(&hosts).await.proof[0], "hosts: 0");
}

#[tokio::test]
async fn who_answers_and_is_not_released_is_not_let_go() {
    let operator = Operator::new();
    let (stays, other, broken) =
        (Machine::new(&operator).await, Machine::new(&operator).await, Machine::new(&operator).await);
    let fleet = Fleet::new();
    let key = other.keys[0].public_key().to_openssh().expect("a line");
    let unpinned = format!("{{name: b, address: '127.0.0.1:{}'}}", other.port);
    let whole = plan(&[line("a", &stays), unpinned, line("c", &broken)]);
    let known = operator.access(&format!("[127.0.0.1]:{} {key}\n", other.port));
    assert_eq!(apply(&fleet.hosts(known), &whole).await.0.changing_calls, 3);
    // The one shows a key that is not known any more, at the other the shell is killed half-way.
    let hosts = fleet.hosts(operator.access(""));
    broken.program("systemctl", "kill -9 $PPID");
    let (outcome, _) = apply(&hosts, &plan(&[line("a", &stays)])).await;
    assert_eq!(
        (outcome.changing_calls, outcome.proof.len(), outcome.problems.len()),
        (0, 0, 2),
        "{outcome:?}"
    );
    for part in ["node `b`", "node `c`", "the new `hostKey`", "half-way"] {
        assert!(outcome.problems.iter().any(|why| why.contains(part)), "{part} in {outcome:?}");
    }
    for machine in [&other, &broken] {
        assert!(machine.path("etc/fleet-agent/host.json").exists());
    }
    broken.program("systemctl", r#"[ "$1" != is-active ]"#);
    let (outcome, _) = apply(&hosts, &plan(&[line("a", &stays)])).await;
    assert_eq!(
        (outcome.changing_calls, only(&outcome.problems).contains("node `b`")),
        (1, true),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_machine_that_cannot_be_taken_lets_nobody_go() {
    let operator = Operator::new();
    let (one, two) = (Machine::new(&operator).await, Machine::new(&operator).await);
    let mut dead = Machine::new(&operator).await;
    let fleet = Fleet::new();
    let hosts = fleet.hosts(operator.access(""));
    let before = plan(&[line("a", &one), line("b", &two)]);
    assert_eq!(apply(&hosts, &before).await.0.changing_calls, 2);
    dead.off().await;
    let moved = plan(&[line("a", &dead), line("b", &two)]);
    let shown = hosts.preview(&moved, &["a", "b"].map(name).into()).await.expect("the store works");
    assert_eq!(shown.steps.iter().filter(|step| step.verb == Verb::Replace).count(), 2, "{shown:?}");
    assert_eq!(shown.unmakeable.keys().map(NodeName::as_str).collect::<Vec<_>>(), ["a"], "{shown:?}");
    assert!(shown.unmakeable[&name("a")].contains("SSH does not answer"), "{shown:?}");
    // Two that change places are free for each other by then.
    let swapped = plan(&[line("a", &two), line("b", &one)]);
    let shown = hosts.preview(&swapped, &["a", "b"].map(name).into()).await.expect("the store works");
    assert_eq!((shown.unmakeable.len(), shown.problems.len()), (0, 0), "{shown:?}");
}

#[tokio::test]
async fn a_revoked_key_opens_no_door_however_it_is_known() {
    let operator = Operator::new();
    let machine = Machine::new(&operator).await;
    let key = machine.keys[0].public_key().to_openssh().expect("a line");
    let access = operator.access(&format!("@revoked * {key}\n"));
    for pin in [machine.fingerprint(), key] {
        let found = preview(&Fleet::new().hosts(access.clone()), &plan(&[pinned("a", &machine, &pin)])).await;
        assert!(only(&found.1).contains("is revoked in your known hosts"), "{found:?}");
    }
    assert_eq!(machine.asked(), 0, "no login was tried");
}

#[tokio::test]
async fn another_machine_for_a_node_takes_consent() {
    let operator = Operator::new();
    let (old, new) = (Machine::new(&operator).await, Machine::new(&operator).await);
    let fleet = Fleet::new();
    let hosts = fleet.hosts(operator.access(""));
    assert_eq!(apply(&hosts, &plan(&[line("a", &old)])).await.0.changing_calls, 1);
    let moved = plan(&[line("a", &new)]);
    let shown = hosts.preview(&moved, &BTreeSet::new()).await.expect("the store works");
    assert_eq!((shown.steps.len(), shown.replacements.len()), (0, 1), "{shown:?}");
    let (outcome, _) = apply(&hosts, &moved).await;
    assert!(only(&outcome.problems).contains("--replace a"), "{outcome:?}");
    assert_eq!(outcome.changing_calls, 0);
    let (events, _told) = mpsc::channel(256);
    let released =
        hosts.release_node(&name("a"), &events, &CancellationToken::new()).await.expect("released");
    assert_eq!((released.changing_calls, released.problems.len()), (1, 0));
    assert!(!old.path("etc/fleet-agent").exists());
    assert_eq!(apply(&hosts, &moved).await.0.changing_calls, 1);
    // A new name for the same machine: released as the one, taken as the other, in one run.
    let (renamed, _) = apply(&hosts, &plan(&[line("z", &new)])).await;
    assert_eq!((renamed.problems, renamed.changing_calls), (vec![], 2));
    assert!(new.read("etc/fleet-agent/host.json").contains("\"z\""));
}

#[tokio::test]
async fn the_operators_agent_opens_what_no_file_does() {
    let operator = Operator::new();
    let machine = Machine::new(&operator).await;
    let access = operator.access("");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent");
    let mut agent = std::process::Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("openssh-client");
    while !socket.exists() {
        assert_eq!(agent.try_wait().expect("ours"), None, "it runs");
        tokio::task::yield_now().await;
    }
    let with = Access { agent: Some(socket.clone()), keys: Vec::new(), ..access.clone() };
    let plan = plan(&[line("a", &machine)]);
    let empty = preview(&Fleet::new().hosts(with.clone()), &plan).await.1;
    assert!(only(&empty).contains("there are none"), "{empty:?}");
    let added = std::process::Command::new("ssh-add")
        .arg(&access.keys[0])
        .env("SSH_AUTH_SOCK", &socket)
        .output()
        .expect("openssh-client");
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let found = preview(&Fleet::new().hosts(with), &plan).await;
    agent.kill().expect("ours");
    agent.wait().expect("ours");
    assert_eq!((found.0.len(), found.1), (1, vec![]));
}
