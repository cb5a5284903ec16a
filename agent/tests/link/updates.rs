//! Releases of the agent, whole: the supervisor's program, real agents, and a controller that gives orders.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use fleet_model::Timestamp;
use fleet_proto::v1::{self, StandingReason, StandingStep, from_agent, order::Want, to_agent};
use fleet_release::{Artifact, Manifest, Minimum, Permit, Role, Root, Signed, SigningKey, Version};
use fleet_supervisor::{
    digest::Digest,
    disk::Host,
    install,
    record::{Slot, State},
    slots::Slots,
};

use super::{Controller, FLEET, Session, until};

/// Far beyond what anything here takes; passed only when something hangs.
const IN_TIME: Duration = Duration::from_secs(120);
/// Time for a trial that is not to end by time.
const LONG_MS: u32 = 100_000;

/// The supervisor, built if it is not: another package's program.
fn supervisor() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let agent = PathBuf::from(env!("CARGO_BIN_EXE_fleet-agent"));
        let place = agent.with_file_name("fleet-supervisor");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--quiet",
            "--package",
            "fleet-supervisor",
            "--bin",
            "fleet-supervisor",
            "--target-dir",
        ]);
        let target =
            place.parent().and_then(|profile| profile.parent()).expect("target/debug/fleet-supervisor");
        cargo.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(cargo.status().expect("cargo").success());
        place
    });
    built.clone()
}

/// A real agent; each `name` makes another program of it.
fn agent(name: &str) -> Vec<u8> {
    // Stripped, since each start reads every byte of it.
    static AGENT: OnceLock<Vec<u8>> = OnceLock::new();
    let agent = AGENT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("agent");
        let done = Command::new("strip").arg("-o").arg(&path).arg(env!("CARGO_BIN_EXE_fleet-agent")).status();
        assert!(done.expect("strip, of binutils").success());
        fs::read(path).expect("agent")
    });
    [agent.as_slice(), format!("\n{name}\n").as_bytes()].concat()
}

/// Who signs: one key for all roles.
struct Releaser(SigningKey);

impl Releaser {
    fn new() -> Self {
        Self(SigningKey::generate().expect("key").0)
    }

    fn now() -> Timestamp {
        fleet_model::Clock::now(&fleet_model::SystemClock)
    }

    fn root(&self) -> String {
        let role = || Role::new(1, [self.0.public()]);
        let (created, expires) = (Self::now(), Self::now().after(Duration::from_secs(365 * 86_400)));
        let root = Root { number: 1, created, expires, root: role(), release: role(), permit: role() };
        String::from_utf8(self.sign(&root)).expect("text")
    }

    fn sign<B: fleet_release::Body>(&self, body: &B) -> Vec<u8> {
        let mut signed = Signed::new(body).expect("sound");
        signed.sign(&self.0);
        signed.encode()
    }

    /// Releases `program` as `version`; the controller keeps what is fetched.
    fn release(&self, controller: &Controller, version: &str, program: &[u8]) -> Release {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(program).expect("memory");
        let packed = packed.finish().expect("memory");
        let (sha256, packed_sha256) = (Digest::of(program).to_string(), Digest::of(&packed).to_string());
        let one: Version = "0.0.1".parse().expect("version");
        let manifest = Manifest {
            version: version.parse().expect("version"),
            created: Self::now(),
            expires: Self::now().after(Duration::from_secs(90 * 86_400)),
            minimum: Minimum { controller: one, agent: one },
            artifacts: vec![Artifact {
                name: "fleet-agent".into(),
                size: program.len() as u64,
                sha256: sha256.clone(),
                packed_size: packed.len() as u64,
                packed_sha256: packed_sha256.clone(),
            }],
        };
        controller.state().artifacts.insert(packed_sha256.clone(), packed);
        let offer = v1::ReleaseOffer {
            roots: vec![self.root().into_bytes()],
            manifest: self.sign(&manifest),
            trial: Some(v1::Trial { ready_ms: LONG_MS, ceiling_ms: LONG_MS, tries: 2 }),
            ..v1::ReleaseOffer::default()
        };
        Release { offer, sha256, packed_sha256 }
    }
}

#[derive(Clone)]
struct Release {
    offer: v1::ReleaseOffer,
    sha256: String,
    packed_sha256: String,
}

impl Release {
    fn order(&self, number: u64) -> to_agent::Message {
        let want = Some(Want::Release(self.offer.clone()));
        to_agent::Message::Order(v1::Order { number, want })
    }
}

/// A supervised node in a folder.
struct Node {
    folder: tempfile::TempDir,
    slots: Slots<Host>,
    supervisor: Option<Child>,
    probation_ms: u32,
}

impl Node {
    fn new(controller: &Controller, releaser: &Releaser) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("etc/fleet-agent")).expect("folder");
        fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").expect("file");
        let seed = serde_json::json!({
            "fleet": FLEET, "node": "n1", "token": "token",
            "enrol_addresses": [controller.enrol.to_string()],
            "trust_bundle": controller.bundle(),
            "release_root": releaser.root(),
        });
        fs::write(root.join("etc/fleet-agent/enrol.json"), seed.to_string()).expect("seed");
        let mut slots = Slots::new(folder.path().join("slots"), Host);
        // Releases of these tests are far above the version this agent is of, whatever that is.
        install::adopt(&mut slots, "7.1.0", &agent("first")).expect("adopt");
        Self { folder, slots, supervisor: None, probation_ms: 1 }
    }

    fn start(&mut self) {
        let said =
            File::options().append(true).create(true).open(self.folder.path().join("said")).expect("log");
        let mut command = Command::new(supervisor());
        command.arg("--slots").arg(self.slots.folder()).arg("--run").arg(self.folder.path().join("run"));
        command.args(["--pause-ms", "5", "--probation-ms", &self.probation_ms.to_string()]);
        command.arg("--").arg("--root").arg(self.folder.path().join("root"));
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "FLEET_LOG"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stderr(said);
        self.supervisor = Some(command.spawn().expect("supervisor"));
    }

    fn state(&self) -> State {
        State::decode(&fs::read(self.slots.state()).expect("there at all times")).expect("whole at all times")
    }

    /// Version and digest of what serves.
    fn active(&self) -> (String, String) {
        let state = self.state();
        let content = state.content(state.active).expect("known");
        (content.version.clone(), content.digest.to_string())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut supervisor) = self.supervisor.take() {
            let _ = supervisor.kill();
            let _ = supervisor.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

/// The next standing that `fits`, over however many sessions it takes; the session that said it.
async fn standing(
    controller: &mut Controller,
    session: &mut Session,
    what: &str,
    fits: impl Fn(&v1::Standing) -> bool,
) -> v1::Standing {
    let found = async {
        let mut last = None;
        loop {
            match session.heard.recv().await.and_then(|message| message.message) {
                Some(from_agent::Message::Standing(standing)) if fits(&standing) => return Ok(standing),
                Some(from_agent::Message::Standing(standing)) => last = Some(standing),
                Some(_) => (),
                None => match controller.sessions.recv().await {
                    Some(next) => *session = next,
                    None => return Err(last),
                },
            }
        }
    };
    match tokio::time::timeout(IN_TIME, found).await {
        Ok(Ok(standing)) => standing,
        other => panic!("never: {what}: {other:?}"),
    }
}

fn is(step: StandingStep, order: u64) -> impl Fn(&v1::Standing) -> bool {
    move |standing| standing.step() == step && standing.order == order
}

#[tokio::test]
async fn a_release_is_tried_committed_and_sent_back() {
    let mut controller = Controller::start().await;
    let releaser = Releaser::new();
    let mut node = Node::new(&controller, &releaser);
    node.start();
    let mut session = controller.session().await;
    assert!(session.hello.capabilities.iter().any(|name| name == "orders"));
    let first = standing(&mut controller, &mut session, "a first word", |_| true).await;
    let old = Digest::of(&agent("first")).to_string();
    assert_eq!((first.step(), first.order), (StandingStep::StandingCommitted, 0));
    assert_eq!((&first.running_sha256, first.running_version.as_str()), (&old, "7.1.0"));

    // Cut twice on its way, it goes on where it was.
    let good = releaser.release(&controller, "7.2.0", &agent("second"));
    controller.state().cuts.extend([100_000, 200_000]);
    session.say(good.order(5)).await;
    let done =
        standing(&mut controller, &mut session, "its commit", is(StandingStep::StandingCommitted, 5)).await;
    assert_eq!((&done.release, &done.running_sha256), (&good.sha256, &good.sha256));
    assert_eq!((done.running_version.as_str(), &done.other_sha256), ("7.2.0", &old));
    let offsets: Vec<u64> = controller.state().fetches.iter().map(|(_, offset)| *offset).collect();
    assert!(offsets.len() == 3 && offsets.is_sorted() && offsets[1] > 0, "{offsets:?}");

    // Doing it twice changes nothing, and an older one is refused.
    session.say(good.order(5)).await;
    standing(&mut controller, &mut session, "the same", is(StandingStep::StandingCommitted, 5)).await;
    let other = releaser.release(&controller, "7.3.0", &agent("third"));
    session.say(other.order(4)).await;
    let refused = standing(&mut controller, &mut session, "a refusal", |_| true).await;
    assert_eq!((refused.order, refused.running_version.as_str()), (5, "7.2.0"));

    // Back without a download, then nothing to go back to.
    let back = |number, leave: &str| {
        let want = Some(Want::Back(v1::Return { reason: "slow".into(), leave: leave.to_owned() }));
        to_agent::Message::Order(v1::Order { number, want })
    };
    session.say(back(6, &good.sha256)).await;
    let returned =
        standing(&mut controller, &mut session, "its return", is(StandingStep::StandingCommitted, 6)).await;
    assert_eq!((&returned.running_sha256, returned.other_sha256.as_str()), (&old, ""));
    assert_eq!(controller.state().fetches.len(), 3);
    // An older controller does not say what to leave.
    session.say(back(7, "")).await;
    let stays =
        standing(&mut controller, &mut session, "no return", is(StandingStep::StandingFailed, 7)).await;
    assert_eq!(stays.reason(), StandingReason::StandingKnownBad, "{}", stays.detail);
    // What was sent back is not taken again unless somebody insists.
    session.say(good.order(8)).await;
    let known =
        standing(&mut controller, &mut session, "a refusal", is(StandingStep::StandingFailed, 8)).await;
    assert_eq!((known.reason(), &known.release), (StandingReason::StandingKnownBad, &good.sha256));
    let mut again = good.clone();
    again.offer.again = true;
    session.say(again.order(9)).await;
    standing(&mut controller, &mut session, "its commit", is(StandingStep::StandingCommitted, 9)).await;
    assert_eq!(node.active(), ("7.2.0".to_owned(), good.sha256));
}

#[tokio::test]
async fn whoever_never_switched_stays_where_it_is_when_it_is_sent_back() {
    let mut controller = Controller::start().await;
    let releaser = Releaser::new();
    let mut node = Node::new(&controller, &releaser);
    node.start();
    let mut session = controller.session().await;
    assert!(session.hello.capabilities.iter().any(|name| name == "leaves"));
    let done = StandingStep::StandingCommitted;
    let back = |number, leave: &Release| {
        let want = Some(Want::Back(v1::Return { reason: "slow".into(), leave: leave.sha256.clone() }));
        to_agent::Message::Order(v1::Order { number, want })
    };
    // Of the very first release, with nothing in the other slot.
    let mut corrupt = releaser.release(&controller, "7.2.0", &agent("second"));
    corrupt.offer.manifest.truncate(100);
    session.say(corrupt.order(1)).await;
    standing(&mut controller, &mut session, "a verdict", is(StandingStep::StandingFailed, 1)).await;
    session.say(back(2, &corrupt)).await;
    let stays = standing(&mut controller, &mut session, "where it is", is(done, 2)).await;
    assert_eq!(stays.running_version, "7.1.0");
    // And with an older one there.
    let good = releaser.release(&controller, "7.2.0", &agent("second"));
    session.say(good.order(3)).await;
    standing(&mut controller, &mut session, "its commit", is(done, 3)).await;
    let lost = releaser.release(&controller, "7.3.0", &agent("third"));
    controller.state().artifacts.remove(&lost.packed_sha256);
    session.say(lost.order(4)).await;
    standing(&mut controller, &mut session, "that it cannot", |said| {
        said.order == 4 && matches!(said.step(), StandingStep::StandingBusy | StandingStep::StandingFailed)
    })
    .await;
    session.say(back(5, &lost)).await;
    let stays = standing(&mut controller, &mut session, "where it is", is(done, 5)).await;
    assert_eq!((stays.running_version.as_str(), node.active().1), ("7.2.0", good.sha256.clone()));
    assert!(node.state().failed.is_empty(), "{:?}", node.state().failed);
    // What it does run is left.
    session.say(back(6, &good)).await;
    let returned = standing(&mut controller, &mut session, "its return", is(done, 6)).await;
    assert_eq!(returned.running_version, "7.1.0");
}

#[tokio::test]
async fn bad_releases_leave_the_old_version_running() {
    let mut controller = Controller::start().await;
    let releaser = Releaser::new();
    let mut node = Node::new(&controller, &releaser);
    node.start();
    let mut session = controller.session().await;
    let failed = StandingStep::StandingFailed;

    let check = async |controller: &mut Controller,
                       session: &mut Session,
                       order: u64,
                       release: &Release,
                       step: StandingStep,
                       reason: StandingReason| {
        session.say(release.order(order)).await;
        let said = standing(controller, session, "a verdict", is(step, order)).await;
        assert_eq!((said.reason(), &said.release), (reason, &release.sha256), "{}", said.detail);
        assert_eq!(said.running_version, "7.1.0");
        assert!(!said.detail.is_empty() && said.detail.lines().count() == 1, "{}", said.detail);
    };

    let crash = releaser.release(&controller, "7.2.0", b"#!/bin/sh\nexit 3\n");
    let (back, crashed) = (StandingStep::StandingRolledBack, StandingReason::StandingCrashed);
    check(&mut controller, &mut session, 1, &crash, back, crashed).await;

    let corrupt = releaser.release(&controller, "7.2.1", &agent("damaged"));
    {
        let mut state = controller.state();
        let bytes = state.artifacts.get_mut(&corrupt.packed_sha256).expect("kept");
        bytes[5000] ^= 1;
    }
    check(&mut controller, &mut session, 2, &corrupt, failed, StandingReason::StandingCorrupt).await;

    let mut forged = Releaser::new().release(&controller, "7.2.2", &agent("forged"));
    forged.offer.roots.clear();
    check(&mut controller, &mut session, 3, &forged, failed, StandingReason::StandingSignature).await;

    // 7.2.0 was accepted, though it failed: what is older needs a permit.
    let older = releaser.release(&controller, "7.1.9", &agent("older"));
    check(&mut controller, &mut session, 4, &older, failed, StandingReason::StandingDowngrade).await;
    let hung = releaser.release(&controller, "7.2.3", b"#!/bin/sh\nexec sleep 1000\n");
    let mut short = hung.clone();
    short.offer.trial = Some(v1::Trial { ready_ms: 500, ceiling_ms: 500, tries: 2 });
    check(&mut controller, &mut session, 5, &short, back, StandingReason::StandingNotReady).await;

    let mut permitted = older.clone();
    let permit = Permit {
        manifest: Digest::of(&older.offer.manifest).to_string(),
        fleet: FLEET.parse().expect("name"),
        nodes: ["n1".parse().expect("name")].into(),
        reason: "the newer ones are bad".into(),
        created: Releaser::now(),
        expires: Releaser::now().after(Duration::from_secs(3600)),
    };
    // That a node of this name in another fleet may go back says nothing here.
    let elsewhere = Permit { fleet: "other".parse().expect("name"), ..permit.clone() };
    permitted.offer.permit = releaser.sign(&elsewhere);
    check(&mut controller, &mut session, 6, &permitted, failed, StandingReason::StandingDowngrade).await;
    permitted.offer.permit = releaser.sign(&permit);
    session.say(permitted.order(7)).await;
    let done =
        standing(&mut controller, &mut session, "its commit", is(StandingStep::StandingCommitted, 7)).await;
    assert_eq!(done.running_version, "7.1.9");
}

#[tokio::test]
async fn a_controller_away_for_a_whole_trial_fails_nobody() {
    let mut controller = Controller::start().await;
    let releaser = Releaser::new();
    let mut node = Node::new(&controller, &releaser);
    node.start();
    let mut session = controller.session().await;
    let mut good = releaser.release(&controller, "7.2.0", &agent("second"));
    let ready_ms = 4000;
    good.offer.trial = Some(v1::Trial { ready_ms, ceiling_ms: LONG_MS, tries: 1 });
    session.say(good.order(1)).await;
    standing(&mut controller, &mut session, "the fetch", is(StandingStep::StandingFetching, 1)).await;
    controller.state().away = true;
    until("its trial", || node.state().trial.is_some()).await;
    // The one thing that is about time: longer than the trial would be.
    let begun = Instant::now();
    let long = Duration::from_millis((3 * ready_ms).into());
    until("three times the time of a trial", || begun.elapsed() > long).await;
    let state = node.state();
    assert!(state.trial.is_some() && state.failed.is_empty(), "{state:?}");
    assert_eq!(state.active, Slot::A);
    controller.state().away = false;
    let done =
        standing(&mut controller, &mut session, "its commit", is(StandingStep::StandingCommitted, 1)).await;
    assert_eq!(done.running_sha256, good.sha256);
    assert!(!node.said().contains("the order waits"), "a trial waits for nothing");
}

#[tokio::test]
async fn orders_wait_for_probation_and_may_be_withdrawn() {
    let mut controller = Controller::start().await;
    let releaser = Releaser::new();
    let mut node = Node::new(&controller, &releaser);
    node.probation_ms = 600_000;
    node.start();
    let mut session = controller.session().await;
    let good = releaser.release(&controller, "7.2.0", &agent("second"));
    session.say(good.order(1)).await;
    standing(&mut controller, &mut session, "its commit", is(StandingStep::StandingCommitted, 1)).await;
    let next = releaser.release(&controller, "7.3.0", &agent("third"));
    session.say(next.order(2)).await;
    let busy = standing(&mut controller, &mut session, "its turn", is(StandingStep::StandingBusy, 2)).await;
    assert!(busy.detail.contains("proved itself") && busy.release == next.sha256, "{}", busy.detail);
    session.say(to_agent::Message::Withdraw(v1::Withdraw { number: 2 })).await;
    let void = standing(&mut controller, &mut session, "void", is(StandingStep::StandingCommitted, 2)).await;
    assert_eq!(void.running_sha256, good.sha256);
    // Void is void, also when it is said again.
    session.say(next.order(2)).await;
    standing(&mut controller, &mut session, "still void", is(StandingStep::StandingCommitted, 2)).await;
    // What is done cannot be withdrawn.
    session.say(to_agent::Message::Withdraw(v1::Withdraw { number: 1 })).await;
    standing(&mut controller, &mut session, "still there", is(StandingStep::StandingCommitted, 2)).await;
    assert_eq!(node.active().1, good.sha256);
}

#[tokio::test]
async fn a_node_with_no_supervisor_says_so_with_the_next_step() {
    let mut controller = Controller::start().await;
    let releaser = Releaser::new();
    let (mut machine, mut session) = super::Machine::enrolled(&mut controller).await;
    let release = releaser.release(&controller, "7.2.0", b"whatever");
    session.say(release.order(1)).await;
    let said =
        standing(&mut controller, &mut session, "a verdict", is(StandingStep::StandingFailed, 1)).await;
    assert!(
        said.detail.contains("no supervisor") && said.detail.contains("fleetctl replace"),
        "{}",
        said.detail
    );
    assert_eq!(said.running_sha256.len(), 64);
    machine.halt().await;
}
