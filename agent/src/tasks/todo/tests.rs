use std::sync::Mutex;

use fleet_task::Outcome;
use ring::digest::{SHA256, digest as ring_digest};
use rustls_pki_types::CertificateDer;

use super::*;
use crate::tasks::{
    support::fake::{Debian, Fault},
    tests::Rig,
};

#[derive(Debug)]
struct FakeProbe(Mutex<Health>);

#[async_trait]
impl Probe for FakeProbe {
    async fn ask(&self, _port: u16, _trust: Vec<CertificateDer<'static>>) -> Health {
        self.0.lock().expect("fine").clone()
    }
}

/// An application with all its work before it.
pub(in crate::tasks) fn made() -> (Arc<Debian>, Rig, Arc<dyn Task>) {
    let mut bench = Bench::new();
    bench.build(&[7; 40_000]);
    let task = bench.task();
    (bench.debian, bench.rig, Arc::new(task))
}

struct Bench {
    debian: Arc<Debian>,
    rig: Rig,
    probe: Arc<FakeProbe>,
    spec: TodoTask,
}

impl Bench {
    fn new() -> Self {
        let (debian, rig) = Debian::rig(&[
            ("/etc/hostname", "EU7node1\n"),
            (KEY, "key"),
            (CERTIFICATE, "certificate"),
            (CA, "ca"),
            ("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
            ("/etc/group", "root:x:0:\n"),
        ]);
        debian.unit(NAME, false, false);
        let mut bench = Self {
            debian,
            rig,
            probe: Arc::new(FakeProbe(Mutex::new(Health::Serves))),
            spec: TodoTask { port: 5000, database: "todo".into(), table: "tasks".into(), program: None },
        };
        bench.build(b"one");
        bench
    }

    async fn serving() -> Self {
        let bench = Self::new();
        bench.rig.changed(&bench.task()).await;
        bench
    }

    /// The desired state names this program.
    fn build(&mut self, bytes: &[u8]) {
        let sha256 = hex(ring_digest(&SHA256, bytes).as_ref());
        let path = self.rig.path(&format!("/var/lib/fleet-agent/{sha256}"));
        fs::write(&path, bytes).expect("artifact");
        let artifact = Artifact { name: "fleet-todo".into(), sha256, size: bytes.len() as u64 };
        self.rig.controller.holds(&artifact, path);
        self.spec.program = Some(artifact);
    }

    fn task(&self) -> Todo {
        Todo { probe: self.probe.clone(), ..Todo::new(TaskId::new("todo"), self.spec.clone()) }
    }

    fn says(&self, health: Health) {
        *self.probe.0.lock().expect("fine") = health;
    }
}

#[tokio::test(start_paused = true)]
async fn installed_started_and_asked() {
    let bench = Bench::new();
    let changes = bench.rig.changed(&bench.task()).await;
    assert_eq!(
        changes,
        [
            "/usr/local/lib/fleet/fleet-todo is missing, to be fleet-todo",
            "there is no user `fleet-todo`",
            "/etc/systemd/system/fleet-todo.service is not as it should be",
            "fleet-todo.service is not started at boot",
            "fleet-todo.service is inactive, dead",
        ]
    );
    assert_eq!(bench.rig.text(PROGRAM), "one");
    let mode = fs::metadata(bench.rig.path(PROGRAM)).expect("meta").permissions().mode() & 0o7777;
    assert_eq!(mode, MODE);
    let unit = bench.rig.text(FILE);
    assert!(unit.contains(
        "\nExecStart=/usr/local/lib/fleet/fleet-todo --listen [::]:5000 --driver 127.0.0.1:28015 --database todo \
         --table tasks --node EU7node1\n"
    ));
    assert!(bench.rig.text("/etc/passwd").contains("fleet-todo:"));
    let before = bench.debian.ran("").len();
    bench.rig.unchanged(&bench.task()).await;
    assert_eq!(bench.debian.ran("").len(), before + 1, "a look asks systemd and the application");
}

#[tokio::test(start_paused = true)]
async fn restarted_for_a_reason_and_only_then() {
    let check = async |edit: fn(&mut Bench), expected: &str, restarts: usize, starts: usize| {
        let mut bench = Bench::serving().await;
        let count = |bench: &Bench, verb: &str| bench.debian.ran(&format!("systemctl {verb} ")).len();
        let before = (count(&bench, "restart"), count(&bench, "start"));
        edit(&mut bench);
        let changes = bench.rig.changed(&bench.task()).await;
        assert!(changes.iter().any(|line| line.contains(expected)), "{expected}: {changes:?}");
        let now = (count(&bench, "restart") - before.0, count(&bench, "start") - before.1);
        assert_eq!(now, (restarts, starts), "{expected}");
        bench.rig.unchanged(&bench.task()).await;
    };
    check(|b| b.build(b"two"), "is another one", 1, 0).await;
    check(|b| b.spec.port = 5001, "fleet-todo.service is not as it should be", 1, 0).await;
    check(|b| fs::write(b.rig.path(CERTIFICATE), "next").expect("write"), "older program, certificate", 1, 0)
        .await;
    check(|b| fs::remove_file(b.rig.path(PROGRAM)).expect("rm"), "is missing", 1, 0).await;
    check(|b| _ = b.debian.unit(NAME, false, true), "is inactive, dead", 0, 1).await;
    check(|b| _ = b.debian.unit(NAME, true, false), "not started at boot", 0, 0).await;
    check(
        |b| fs::set_permissions(b.rig.path(PROGRAM), fs::Permissions::from_mode(0o644)).expect("chmod"),
        "is another one",
        1,
        0,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_it_waits_for_has_a_name() {
    let bench = Bench::new();
    fs::rename(bench.rig.path(CERTIFICATE), bench.rig.path("/aside")).expect("mv");
    assert_eq!(bench.rig.waits(&bench.task()).await, "the certificate of the node's services");
    assert!(bench.debian.ran("").is_empty());
    fs::rename(bench.rig.path("/aside"), bench.rig.path(CERTIFICATE)).expect("mv");
    bench.rig.controller.away(true);
    bench.says(Health::NoDatabase("no-table".into()));
    bench.rig.controller.away(false);
    assert_eq!(
        bench.rig.waits(&bench.task()).await,
        "its table `todo.tasks`, which it does not reach: no-table"
    );
    bench.says(Health::Silent("connection refused".into()));
    assert_eq!(
        bench.rig.waits(&bench.task()).await,
        "fleet-todo.service to answer on port 5000: connection refused"
    );
    bench.says(Health::Foreign("it says `SSH-2.0`".into()));
    let why = bench.rig.failed(&bench.task()).await;
    assert!(
        why.contains("port 5000 answers, but not as this node's todo application: it says `SSH-2.0`"),
        "{why}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_dies_quotes_its_last_words() {
    let bench = Bench::new();
    bench.says(Health::Silent("connection refused".into()));
    bench.debian.dies(NAME, "error: listen on [::]:5000: Address already in use");
    let why = bench.rig.failed(&bench.task()).await;
    assert!(why.contains("was started and is failed") && why.contains("Address already in use"), "{why}");
}

#[tokio::test]
async fn nonsense_is_refused_before_anything_is_touched() {
    let check = async |edit: fn(&mut TodoTask), expected: &str| {
        let mut bench = Bench::new();
        edit(&mut bench.spec);
        let why = bench.rig.failed(&bench.task()).await;
        assert!(why.contains(expected), "{why}");
        assert!(bench.debian.ran("").is_empty() && !bench.rig.path(FILE).exists());
    };
    check(|s| s.port = 0, "0 is no port").await;
    check(|s| s.port = 443, "443 is no port").await;
    check(|s| s.port = 70_000, "70000 is no port").await;
    check(|s| s.database = "a\nUser=root".into(), "no name the todo application takes").await;
    check(|s| s.table = "a b".into(), "no name the todo application takes").await;
    check(|s| s.program = None, "names no program").await;
}

/// Every way to be cut off: at the n-th program, before or after its effect, or that program failing.
#[tokio::test(start_paused = true)]
async fn cut_off_anywhere_it_ends_serving() {
    for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::Fails] {
        for nth in 0.. {
            let bench = Bench::new();
            bench.debian.fault_at(nth, fault);
            let first = {
                let run = bench.rig.run(Arc::new(bench.task()));
                tokio::pin!(run);
                tokio::select! {
                    report = &mut run => Some(report),
                    () = bench.debian.dead() => None,
                }
            };
            let calls = bench.debian.ran("").len();
            bench.debian.revive();
            if calls <= nth {
                assert!(nth > 5, "there is something to cut: {nth}");
                break;
            }
            if let Some(report) = first {
                assert!(matches!(report.outcome, Outcome::Failed(_) | Outcome::Changed(_)), "{report:?}");
            }
            let report = bench.rig.run(Arc::new(bench.task())).await;
            assert!(report.is_converged(), "{fault:?} at {nth}: {report:?}");
            bench.rig.unchanged(&bench.task()).await;
        }
    }
}

#[test]
fn the_unit_lets_it_do_little() {
    let bench = Bench::new();
    let text = unit::render(&bench.spec, "n1").expect("fine");
    for line in [
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "SystemCallFilter=@system-service",
        "LoadCredential=key.pem:/var/lib/fleet-agent/service/key.pem",
        "User=fleet-todo",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
}
