//! A whole agent in a folder against a small controller: enrolment, sessions, work, renewal.

mod server;
mod updates;
mod wires;

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use fleet_agent::{AgentError, Settings, identity::Holdings, tasks::lvm::fake::DiskMachine};
use fleet_proto::v1::{self, TaskResult, from_agent, to_agent};
use server::{Controller, FLEET, Next, Session};
use tokio::{task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

const IN_TIME: Duration = Duration::from_secs(20);
/// What a task may take to end when the agent is told to, and a little.
const TASK_ENDS: Duration = Duration::from_secs(2);

/// A node in a folder, and the agent that runs there.
struct Machine {
    root: tempfile::TempDir,
    settings: Settings,
    stop: CancellationToken,
    agent: Option<JoinHandle<Result<(), AgentError>>>,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("folder");
        let settings = Settings::new(root.path());
        let machine = Self { root, settings, stop: CancellationToken::new(), agent: None };
        machine.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        machine.write("etc/hosts", "127.0.0.1 localhost\n");
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("folder");
        fs::write(path, text).expect("file");
    }

    fn seed(&self, controller: &Controller, token: &str) {
        let seed = serde_json::json!({
            "fleet": FLEET, "node": "n1", "token": token,
            "enrol_addresses": ["127.0.0.1:1", controller.enrol.to_string()],
            "trust_bundle": controller.bundle(),
        });
        self.write("etc/fleet-agent/enrol.json", &seed.to_string());
    }

    fn start(&mut self) {
        self.stop = CancellationToken::new();
        self.agent = Some(tokio::spawn(fleet_agent::run(self.settings.clone(), self.stop.clone())));
    }

    /// Stops the agent. From here on time passes only where somebody waits for it: it waits for nobody, but for what a
    /// task under way may take to end.
    async fn halt(&mut self) {
        time::pause();
        let told = time::Instant::now();
        self.stop.cancel();
        let agent = self.agent.take().expect("started");
        let ended = time::timeout(IN_TIME, agent).await.expect("it ends");
        assert!(told.elapsed() <= TASK_ENDS, "it waited for something: {:?}", told.elapsed());
        time::resume();
        ended.expect("no panic").expect("a clean end");
    }

    async fn enrolled(controller: &mut Controller) -> (Self, Session) {
        let mut machine = Self::new();
        machine.seed(controller, "token");
        machine.start();
        let session = controller.session().await;
        (machine, session)
    }
}

/// Waits until `condition` holds; looking is cheap, and a test never waits longer than it must.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + IN_TIME;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        time::sleep(Duration::from_millis(5)).await;
    }
}

impl Session {
    /// The first message that is one of those looked for, whatever comes in between.
    async fn find<T>(&mut self, what: &str, mut fits: impl FnMut(from_agent::Message) -> Option<T>) -> T {
        let found = async {
            loop {
                let message = self.heard.recv().await.expect("the session is open");
                if let Some(found) = fits(message.message.expect("a message")) {
                    return found;
                }
            }
        };
        // Not for each message: an agent has something to say for ever.
        time::timeout(IN_TIME, found).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    /// The next observation that `fits`.
    async fn observed(&mut self, fits: impl Fn(&v1::Observed) -> bool) -> v1::Observed {
        self.find("an observation that fits", |message| match message {
            from_agent::Message::Observed(observed) => fits(&observed).then_some(observed),
            _ => None,
        })
        .await
    }

    async fn answer(&mut self) -> v1::Answer {
        self.find("an answer", |message| match message {
            from_agent::Message::Answer(answer) => Some(answer),
            _ => None,
        })
        .await
    }

    async fn say(&self, message: to_agent::Message) {
        self.tell.send(Ok(v1::ToAgent { message: Some(message) })).await.expect("the session is open");
    }

    async fn command(&self, id: u64, what: v1::command::What) {
        self.say(to_agent::Message::Command(v1::Command { id, what: Some(what) })).await;
    }
}

fn spec(name: &str, phase: &str, kind: v1::task_spec::Kind) -> v1::TaskSpec {
    v1::TaskSpec { name: name.into(), phase: phase.into(), kind: Some(kind), ..v1::TaskSpec::default() }
}

fn desired(generation: u64, hostname: &str) -> v1::Desired {
    let entry = v1::HostsEntry { address: "10.0.0.1".into(), names: vec![hostname.into()] };
    v1::Desired {
        generation,
        recheck_s: 0,
        tasks: vec![
            spec(
                "hostname",
                "identity",
                v1::task_spec::Kind::Hostname(v1::HostnameTask { hostname: hostname.into() }),
            ),
            spec("hosts", "identity", v1::task_spec::Kind::Hosts(v1::HostsTask { entries: vec![entry] })),
        ],
    }
}

fn converged(observed: &v1::Observed) -> bool {
    let fine = |task: &v1::TaskReport| matches!(task.result(), TaskResult::Unchanged | TaskResult::Changed);
    !observed.tasks.is_empty() && observed.tasks.iter().all(fine)
}

#[tokio::test]
async fn an_agent_enrols_works_and_answers() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session) = Machine::enrolled(&mut controller).await;
    assert_eq!(session.hello.agent_version, fleet_agent::VERSION);
    assert_eq!((session.hello.protocol_min, session.hello.generation), (1, 0));
    assert_eq!(session.hello.machine.len(), 64);
    assert!(!machine.path("etc/fleet-agent/enrol.json").exists(), "the spent seed is deleted");

    session.say(to_agent::Message::Desired(desired(7, "n1"))).await;
    let observed = session.observed(|observed| observed.generation == 7 && converged(observed)).await;
    let results: Vec<_> = observed.tasks.iter().map(|task| (task.name.as_str(), task.result())).collect();
    assert_eq!(results, [("hostname", TaskResult::Changed), ("hosts", TaskResult::Changed)]);
    assert_eq!(fs::read_to_string(machine.path("etc/hostname")).expect("hostname"), "n1\n");
    assert!(fs::read_to_string(machine.path("etc/hosts")).expect("hosts").contains("10.0.0.1 n1"));

    session.command(1, v1::command::What::Noop(v1::Noop {})).await;
    assert_eq!(session.answer().await, v1::Answer { id: 1, error: String::new() });

    machine.write("etc/hostname", "somebody else's\n");
    session.command(2, v1::command::What::Recheck(v1::Recheck {})).await;
    assert_eq!(session.answer().await, v1::Answer { id: 2, error: String::new() });
    assert_eq!(fs::read_to_string(machine.path("etc/hostname")).expect("hostname"), "n1\n");
    machine.halt().await;
}

#[tokio::test]
async fn gates_are_answered_beside_all_else() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session) = Machine::enrolled(&mut controller).await;
    assert!(session.hello.capabilities.iter().any(|name| name == "gates"));
    let port = controller.enrol.port();
    for (port, passed) in [(u32::from(port), true), (0, false)] {
        let check = Some(v1::gate_ask::Check::PortAnswers(port));
        let asked = v1::GateAsk { gate: "door".into(), rollout: "r1".into(), check };
        session.say(to_agent::Message::Gate(asked)).await;
        let answer = session
            .find("an answer of a gate", |message| match message {
                from_agent::Message::Gate(answer) => Some(answer),
                _ => None,
            })
            .await;
        assert_eq!((answer.gate.as_str(), answer.rollout.as_str(), answer.passed), ("door", "r1", passed));
    }
    machine.halt().await;
}

#[tokio::test]
async fn facts_health_and_heartbeats_come_unasked() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session) = Machine::enrolled(&mut controller).await;
    let (mut facts, mut health, mut beat) = (None, None, false);
    session
        .find("facts, health and a heartbeat", |message| {
            match message {
                from_agent::Message::Facts(found) => facts = Some(found),
                from_agent::Message::Observed(observed) => health = observed.health,
                from_agent::Message::Heartbeat(_) => beat = true,
                _ => (),
            }
            (facts.is_some() && health.is_some() && beat).then_some(())
        })
        .await;
    let facts = facts.expect("just seen");
    assert!(facts.cpus > 0 && facts.memory_bytes > 0, "{facts:?}");
    assert!(facts.clock_offset_ms.abs() < 1000, "one clock, one time: {facts:?}");
    assert!(facts.certificate_not_after_ms > 0);
    machine.halt().await;
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let mut controller = Controller::start().await;
    controller.state().script.extend([Next::LoseAnswer, Next::LoseAnswer]);
    let (mut machine, _session) = Machine::enrolled(&mut controller).await;
    let keys: Vec<Vec<u8>> = controller.state().enrolments.iter().map(|(_, csr)| public_key(csr)).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]));
    machine.halt().await;
}

/// The public point of a P-256 request: what follows the curve's name and a bit string's header.
fn public_key(csr: &[u8]) -> Vec<u8> {
    const HEADER: [u8; 4] = [0x03, 0x42, 0x00, 0x04];
    let at = csr.windows(4).position(|window| window == HEADER).expect("a P-256 key");
    csr[at..at + 68].to_vec()
}

#[tokio::test]
async fn a_refused_token_waits_for_a_new_seed() {
    let mut controller = Controller::start().await;
    let refusal = v1::Refusal::new(v1::RefusalKind::RefusalUsed, "token was used", "run `fleetctl up`");
    controller.state().script.push_back(Next::Refuse(refusal));
    let mut machine = Machine::new();
    machine.seed(&controller, "spent");
    machine.start();
    until("the first try", || controller.state().enrolments.len() == 1).await;
    assert!(machine.path("etc/fleet-agent/enrol.json").exists(), "a seed is only deleted when it worked");
    machine.seed(&controller, "fresh");
    controller.session().await;
    assert_eq!(controller.state().enrolments[1].0, "fresh");
    machine.halt().await;
}

#[tokio::test]
async fn a_busy_controller_is_asked_again_when_it_says() {
    let mut controller = Controller::start().await;
    let mut refusal = v1::Refusal::new(v1::RefusalKind::RefusalBusy, "busy", "wait");
    refusal.retry_after_ms = 300;
    controller.state().script.push_back(Next::Refuse(refusal));
    let started = Instant::now();
    let (mut machine, _session) = Machine::enrolled(&mut controller).await;
    assert!(started.elapsed() >= Duration::from_millis(300));
    machine.halt().await;
}

#[tokio::test]
async fn a_controller_from_the_future_is_not_believed_until_clocks_agree() {
    let soon = SystemTime::now() + Duration::from_secs(7200);
    let mut controller = Controller::start_valid_from(soon).await;
    let mut machine = Machine::new();
    machine.seed(&controller, "token");
    machine.start();
    // The handshake fails on time alone, more than once; the token is never sent.
    until("two failed handshakes", || controller.state().handshakes_failed >= 2).await;
    assert!(controller.state().enrolments.is_empty());
    assert!(controller.sessions.try_recv().is_err());
    controller.certificate_valid_from(SystemTime::now() - Duration::from_secs(60));
    controller.session().await;
    machine.halt().await;
}

#[tokio::test]
async fn a_lost_session_is_dialled_again_and_older_state_refused() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session) = Machine::enrolled(&mut controller).await;
    session.say(to_agent::Message::Desired(desired(5, "n1"))).await;
    session.observed(|observed| observed.generation == 5 && converged(observed)).await;
    let nonce = session.hello.boot_nonce.clone();
    drop(session);
    let mut session = controller.session().await;
    assert_eq!(session.hello.generation, 5);
    assert_eq!(session.hello.boot_nonce, nonce, "the same start of the same process");
    session.say(to_agent::Message::Desired(desired(4, "older"))).await;
    session.command(1, v1::command::What::Recheck(v1::Recheck {})).await;
    session.answer().await;
    assert_eq!(fs::read_to_string(machine.path("etc/hostname")).expect("hostname"), "n1\n");
    machine.halt().await;
}

#[tokio::test]
async fn work_goes_on_without_a_controller() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session) = Machine::enrolled(&mut controller).await;
    session.say(to_agent::Message::Desired(desired(5, "n1"))).await;
    session.observed(|observed| observed.generation == 5 && converged(observed)).await;
    machine.halt().await;
    controller.state().away = true;

    machine.write("etc/hostname", "drifted\n");
    machine.settings.recheck = Duration::from_millis(200);
    machine.start();
    let hostname = || fs::read_to_string(machine.path("etc/hostname")).expect("hostname");
    until("repaired at the start", || hostname() == "n1\n").await;
    machine.write("etc/hostname", "drifted again\n");
    until("repaired by the schedule", || hostname() == "n1\n").await;

    controller.state().away = false;
    assert_eq!(controller.session().await.hello.generation, 5);
    machine.halt().await;
}

#[tokio::test]
async fn renewal_brings_a_new_key_and_a_new_session() {
    let mut controller = Controller::start().await;
    controller.state().life = (Duration::from_secs(86_400), Duration::from_millis(300));
    let mut machine = Machine::new();
    machine.seed(&controller, "token");
    machine.start();
    let first = controller.session().await;
    until("a renewal", || !controller.state().renewals.is_empty()).await;
    controller.state().life.1 = Duration::from_secs(3600);
    drop(first);
    // Renewed once or twice, depending on how fast the life was changed; then it is quiet.
    let places = fleet_agent::Places::below(machine.root.path());
    let settled = || {
        Holdings::load(&places)
            .expect("whole")
            .is_some_and(|held| held.previous.is_none() && held.current.key_file != "key")
    };
    controller.session().await;
    until("the new certificate has proven itself", settled).await;
    let (enrolled, renewed) = {
        let state = controller.state();
        (public_key(&state.enrolments[0].1), public_key(&state.renewals[0]))
    };
    assert_ne!(enrolled, renewed);
    assert!(!machine.path("var/lib/fleet-agent/key").exists(), "the old key is gone");
    let shown: std::collections::BTreeSet<Vec<u8>> = controller.state().shown.iter().cloned().collect();
    assert!(shown.len() >= 2, "sessions before and after show different certificates");
    machine.halt().await;
}

#[tokio::test]
async fn an_expired_certificate_comes_back_by_its_key() {
    let mut controller = Controller::start().await;
    controller.state().life = (Duration::ZERO, Duration::from_secs(3600));
    let mut machine = Machine::new();
    machine.seed(&controller, "token");
    machine.start();
    until("enrolled with a certificate that ends at once", || !controller.state().enrolments.is_empty())
        .await;
    controller.state().life.0 = Duration::from_secs(3600);
    controller.session().await;
    let enrolments = controller.state().enrolments.clone();
    let (token, csr) = enrolments.last().expect("at least one");
    assert_eq!(token, "", "no token is left to show");
    assert_eq!(public_key(csr), public_key(&enrolments[0].1));
    machine.halt().await;
}

#[tokio::test]
async fn storage_below_another_root_is_refused_unless_simulated() {
    let lvm = v1::LvmTask {
        volume_group: "rootvol00".into(),
        logical_volume: "rootlvol00".into(),
        mount_point: "/".into(),
        expected_disks: 1,
    };
    let desired = v1::Desired {
        generation: 1,
        recheck_s: 0,
        tasks: vec![spec("lvm", "storage", v1::task_spec::Kind::Lvm(lvm))],
    };
    for simulated in [false, true] {
        let mut controller = Controller::start().await;
        let mut machine = Machine::new();
        if simulated {
            let disks = DiskMachine::new(10 << 30).with_disk("/dev/sdb", 20 << 30);
            machine.settings.runner = Some(Arc::new(disks));
        }
        machine.seed(&controller, "token");
        machine.start();
        let mut session = controller.session().await;
        session.say(to_agent::Message::Desired(desired.clone())).await;
        let wanted = if simulated { TaskResult::Changed } else { TaskResult::Failed };
        let seen =
            session.observed(|observed| observed.tasks.iter().any(|task| task.result() == wanted)).await;
        let level =
            seen.health.expect("always there").reasons.iter().any(|reason| reason.starts_with("lvm: "));
        assert_eq!(level, !simulated);
        machine.halt().await;
    }
}

#[tokio::test]
async fn stopping_waits_for_nobody_in_any_state() {
    // Waiting for a seed.
    let mut machine = Machine::new();
    machine.start();
    until("started", || machine.path("var/lib/fleet-agent/lock").exists()).await;
    machine.halt().await;
    // Dialling a controller that is not there.
    let controller = Controller::start().await;
    machine.seed(&controller, "token");
    drop(controller);
    machine.start();
    machine.halt().await;
}

#[tokio::test]
async fn a_second_agent_for_one_root_does_not_start() {
    let mut machine = Machine::new();
    machine.start();
    until("started", || machine.path("var/lib/fleet-agent/lock").exists()).await;
    let second = fleet_agent::run(machine.settings.clone(), CancellationToken::new());
    let error = time::timeout(IN_TIME, second).await.expect("at once").expect_err("locked");
    assert!(matches!(error, AgentError::Running { .. }), "{error}");
    machine.halt().await;
}
