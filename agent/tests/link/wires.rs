//! What tasks get from the controller over the session: permits, artifacts, certificates; and what a person asks for
//! through it. The tasks are the agent's own; a runner of the test's stands for the programs.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use fleet_proto::v1::{self, TaskResult, from_agent, rethinkdb_task::Source, task_spec::Kind, to_agent};
use fleet_task::{Command, CommandError, Output, Runner};

use super::{Controller, Machine, Session, converged, desired, spec, until};

/// Runs nothing, and says that all went well; apt installs whatever it is given.
#[derive(Debug, Default)]
struct Willing {
    root: Mutex<Option<std::path::PathBuf>>,
    ran: Mutex<Vec<String>>,
}

#[async_trait]
impl Runner for Willing {
    async fn output(&self, command: &Command) -> Result<Output, CommandError> {
        self.ran.lock().expect("fine").push(command.to_string());
        let root = self.root.lock().expect("fine").clone().expect("set before it starts");
        if command.program == "apt-get" {
            let status =
                "Package: rethinkdb\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.4.4\n";
            fs::write(root.join("var/lib/dpkg/status"), status).expect("status");
        }
        if command.program == "runuser" {
            let at = command.args.iter().position(|arg| arg == "--directory").expect("where") + 1;
            fs::create_dir_all(&command.args[at]).expect("folder");
            fs::write(format!("{}/metadata", command.args[at]), "").expect("metadata");
        }
        let shows = command.program == "systemctl" && command.args.first().is_some_and(|verb| verb == "show");
        Ok(Output::ok(if shows {
            "LoadState=loaded\nActiveState=failed\nSubState=failed\nUnitFileState=\n"
        } else {
            ""
        }))
    }
}

/// A machine on which all programs are willing, and its session.
async fn willing(controller: &mut Controller) -> (Machine, Session, Arc<Willing>) {
    let mut machine = Machine::new();
    let runner = Arc::new(Willing::default());
    *runner.root.lock().expect("fine") = Some(machine.root.path().to_owned());
    machine.settings.runner = Some(runner.clone());
    machine.write("var/lib/dpkg/status", "");
    machine.write("etc/hostname", "n1\n");
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    machine.write(
        "etc/passwd",
        &format!("rethinkdb:x:{uid}:{gid}::/:/bin/false\nfleet-todo:x:1:1::/:/bin/false\n"),
    );
    machine.write("etc/group", &format!("rethinkdb:x:{gid}:\n"));
    machine.seed(controller, "token");
    machine.start();
    let session = controller.session().await;
    (machine, session, runner)
}

fn certificate() -> v1::TaskSpec {
    let names = vec!["n1".into(), "127.0.0.1".into()];
    spec("certificate", "certificate", Kind::Certificate(v1::CertificateTask { names }))
}

fn artifact(controller: &Controller, bytes: &[u8]) -> v1::Artifact {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    controller.state().artifacts.insert(sha256.clone(), bytes.to_vec());
    v1::Artifact { name: "thing".into(), sha256, size: bytes.len() as u64 }
}

fn todo(program: &v1::Artifact) -> v1::TaskSpec {
    let (database, table) = ("todo".into(), "tasks".into());
    let task = v1::TodoTask { program: Some(program.clone()), port: 5000, database, table };
    spec("todo", "todo", Kind::Todo(task))
}

/// The seed of a cluster whose other members do not answer.
fn founder(package: &v1::Artifact) -> v1::TaskSpec {
    let member = |name: &str, address: &str| v1::RethinkdbMember {
        server_name: name.into(),
        address: address.into(),
        tag: "a".into(),
    };
    let task = v1::RethinkdbTask {
        instance: "fleet".into(),
        server_name: "one".into(),
        canonical_address: "::1".into(),
        members: vec![member("one", "::1"), member("two", "127.77.77.77")],
        seed: true,
        source: Some(Source::Package(package.clone())),
        ..v1::RethinkdbTask::default()
    };
    spec("rethinkdb", "rethinkdb", Kind::Rethinkdb(task))
}

fn report<'a>(observed: &'a v1::Observed, name: &str) -> Option<&'a v1::TaskReport> {
    observed.tasks.iter().find(|task| task.name == name)
}

impl Session {
    /// The next thing said about permits: `ask NAME` or `release NAME`.
    async fn permit(&mut self) -> String {
        self.find("word of a permit", |message| match message {
            from_agent::Message::Ask(ask) => Some(format!("ask {} for {}", ask.permit, ask.task)),
            from_agent::Message::Release(release) => Some(format!("release {}", release.permit)),
            _ => None,
        })
        .await
    }

    async fn decide(&self, permit: &str, granted: bool, reason: &str) {
        let answer = v1::PermitAnswer {
            permit: permit.into(),
            granted,
            expires_in_ms: 600_000,
            reason: reason.into(),
        };
        self.say(to_agent::Message::Permit(answer)).await;
    }

    async fn want(&self, generation: u64, tasks: Vec<v1::TaskSpec>) {
        self.say(to_agent::Message::Desired(v1::Desired { generation, tasks, recheck_s: 0 })).await;
    }
}

#[tokio::test]
async fn permits_are_asked_for_across_sessions_and_given_back() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session, runner) = willing(&mut controller).await;
    controller.state().service_names = vec!["n1".into(), "127.0.0.1".into()];
    let package = artifact(&controller, b"a package");
    session.want(1, vec![certificate(), founder(&package)]).await;
    assert_eq!(session.permit().await, "ask found/fleet for rethinkdb");
    session.decide("found/fleet", false, "n2, which founds it").await;
    session
        .observed(|observed| {
            report(observed, "rethinkdb").is_some_and(|task| {
                task.result() == TaskResult::Waiting && task.reason.contains("n2, which founds it")
            })
        })
        .await;
    let data = machine.path("var/lib/rethinkdb/fleet/metadata");
    assert!(!data.exists(), "nothing is founded without the permit");

    // The wish outlives the session, and the agent.
    drop(session);
    let mut session = controller.session().await;
    assert_eq!(session.permit().await, "ask found/fleet for rethinkdb");
    machine.halt().await;
    machine.start();
    drop(session);
    let mut session = controller.session().await;
    assert_eq!(session.permit().await, "ask found/fleet for rethinkdb");

    session.decide("found/fleet", true, "").await;
    until("the server is made at once", || data.exists()).await;
    // Its server does not run; since one without data takes nothing from anybody, others have their turn.
    let (mut failed, mut released) = (false, false);
    session
        .find("a failure, and the permit back", |message| {
            match message {
                from_agent::Message::Observed(observed) => {
                    let task = report(&observed, "rethinkdb");
                    failed |= task.is_some_and(|task| task.result() == TaskResult::Failed);
                }
                from_agent::Message::Release(release) => released |= release.permit == "found/fleet",
                _ => {}
            }
            (failed && released).then_some(())
        })
        .await;
    assert!(runner.ran.lock().expect("fine").iter().any(|line| line.starts_with("systemctl start")));
    // One that nobody wants is given back.
    session.decide("reboot", true, "").await;
    let given_back = |message| match message {
        from_agent::Message::Release(release) => (release.permit == "reboot").then_some(()),
        _ => None,
    };
    session.find("what nobody wants", given_back).await;
    machine.halt().await;
}

#[tokio::test]
async fn an_artifact_arrives_whole_however_often_it_is_cut() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session, _) = willing(&mut controller).await;
    controller.state().service_names = vec!["n1".into(), "127.0.0.1".into()];
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
    let program = artifact(&controller, &bytes);
    controller.state().cuts.extend([30_000, 30_000, 0]);
    session.want(1, vec![certificate(), todo(&program)]).await;
    let place = machine.path("usr/local/lib/fleet/fleet-todo");
    until("it is in place", || fs::read(&place).is_ok_and(|found| found == bytes)).await;
    let offsets: Vec<u64> = controller.state().fetches.iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [0, 30_000, 60_000, 60_000]);
    let kept = machine.path("var/lib/fleet-agent/artifacts").join(&program.sha256);
    assert_eq!(fs::read(&kept).expect("kept"), bytes);

    // What nobody needs any more goes.
    let other = artifact(&controller, b"another program");
    session.want(2, vec![certificate(), todo(&other)]).await;
    until("the other one is in place", || fs::read(&place).is_ok_and(|found| found == b"another program"))
        .await;
    assert!(!kept.exists());
    session.observed(|observed| observed.generation == 2).await;
    machine.halt().await;
}

#[tokio::test]
async fn a_busy_controller_extends_a_fetch_and_fails_nothing() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session, _) = willing(&mut controller).await;
    controller.state().service_names = vec!["n1".into(), "127.0.0.1".into()];
    let program = artifact(&controller, &vec![7; 50_000]);
    // Far more often than a line may break with nothing coming, at its beginning and in its middle.
    controller.state().busy.extend([1; 9]);
    controller.state().cuts.push_back(20_000);
    session.want(1, vec![certificate(), todo(&program)]).await;
    let place = machine.path("usr/local/lib/fleet/fleet-todo");
    until("it is in place", || fs::read(&place).is_ok_and(|found| found == vec![7; 50_000])).await;
    let offsets: Vec<u64> = controller.state().fetches.iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [[0; 10].as_slice(), &[20_000]].concat(), "asked again, and gone on where it was");
    while let Ok(message) = session.heard.try_recv() {
        let Some(v1::from_agent::Message::Observed(observed)) = message.message else { continue };
        let reason = report(&observed, "todo").map_or("", |task| task.reason.as_str());
        assert!(!reason.contains("busy"), "one turn did it: {reason}");
    }
    machine.halt().await;
}

#[tokio::test]
async fn bytes_that_are_not_what_was_named_are_not_kept() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session, _) = willing(&mut controller).await;
    controller.state().service_names = vec!["n1".into(), "127.0.0.1".into()];
    let program = artifact(&controller, b"what was named");
    controller.state().artifacts.insert(program.sha256.clone(), b"what was sent!".to_vec());
    session.want(1, vec![certificate(), todo(&program)]).await;
    let failed = |observed: &v1::Observed, words: &str| {
        report(observed, "todo")
            .is_some_and(|task| task.result() == TaskResult::Failed && task.reason.contains(words))
    };
    session.observed(|observed| failed(observed, "does not match its digest; next: run `fleetctl up`")).await;
    let folder = machine.path("var/lib/fleet-agent/artifacts");
    assert_eq!(fs::read_dir(&folder).expect("list").count(), 0);
    assert!(!machine.path("usr/local/lib/fleet/fleet-todo").exists());

    let unknown = v1::Artifact { sha256: "0".repeat(64), ..program.clone() };
    session.want(2, vec![certificate(), todo(&unknown)]).await;
    session.observed(|observed| failed(observed, "no such artifact")).await;
    let huge = v1::Artifact { size: 1 << 60, ..program };
    session.want(3, vec![certificate(), todo(&huge)]).await;
    session.observed(|observed| failed(observed, "MiB are missing")).await;
    machine.halt().await;
}

#[tokio::test]
async fn the_services_get_a_certificate_and_keep_it() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session, _) = willing(&mut controller).await;
    controller.state().service_names = vec!["n1".into(), "127.0.0.1".into()];
    session.want(1, vec![certificate()]).await;
    session.observed(|observed| observed.generation == 1 && converged(observed)).await;
    assert_eq!(controller.state().certified.len(), 1);
    let ca = fs::read_to_string(machine.path("var/lib/fleet-agent/service/ca.pem")).expect("ca");
    assert_eq!(ca.replace("\r\n", "\n"), controller.bundle().replace("\r\n", "\n"));
    session.command(1, v1::command::What::Recheck(v1::Recheck {})).await;
    session.answer().await;
    assert_eq!(controller.state().certified.len(), 1, "a good one is kept");
    machine.halt().await;
}

#[tokio::test]
async fn drift_is_shown_until_somebody_asks_for_its_repair() {
    let mut controller = Controller::start().await;
    let (mut machine, mut session) = Machine::enrolled(&mut controller).await;
    let mut wanted = desired(1, "n1");
    for task in &mut wanted.tasks {
        task.set_on_drift(v1::OnDrift::Report);
    }
    session.say(to_agent::Message::Desired(wanted)).await;
    session.observed(|observed| observed.generation == 1 && converged(observed)).await;
    machine.write("etc/hostname", "somebody else's\n");
    session.command(1, v1::command::What::Recheck(v1::Recheck {})).await;
    let seen = session
        .observed(|observed| {
            report(observed, "hostname").is_some_and(|task| task.result() == TaskResult::Drifted)
        })
        .await;
    let task = report(&seen, "hostname").expect("just seen");
    assert_eq!(task.drift, ["/etc/hostname says `somebody else's`, to become `n1`"]);
    assert!(task.drift_since_ms > 0);
    let health = seen.health.clone().expect("always there");
    assert_eq!(health.level(), v1::HealthLevel::HealthDegraded);
    // The host may have reasons of its own to be unwell: a full disk, say.
    let told = health.reasons.iter().any(|reason| reason.starts_with("hostname: has drifted for 0 s"));
    assert!(told, "{health:?}");
    let hostname = || fs::read_to_string(machine.path("etc/hostname")).expect("hostname");
    assert_eq!(hostname(), "somebody else's\n");

    let repair = |task: &str| v1::command::What::Repair(v1::Repair { task: task.into() });
    session.command(2, repair("no-such-task")).await;
    let answers = BTreeMap::from([(1, String::new()), (2, "this node has no task `no-such-task`".into())]);
    for _ in 0..2 {
        let answer = session.answer().await;
        assert_eq!(answers.get(&answer.id), Some(&answer.error), "{answer:?}");
    }
    session.command(3, repair("hostname")).await;
    let seen = session
        .observed(|observed| {
            report(observed, "hostname").is_some_and(|task| task.result() == TaskResult::Changed)
        })
        .await;
    let changes = &report(&seen, "hostname").expect("just seen").changes;
    assert!(changes[1].starts_with("this had drifted"), "{changes:?}");
    assert_eq!(hostname(), "n1\n");
    machine.halt().await;
}
