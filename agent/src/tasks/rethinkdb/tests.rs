mod restart;

use std::{collections::BTreeSet, fs, net::IpAddr, sync::Mutex};

use fleet_proto::v1::{AptRepository, rethinkdb_task::Source};
use fleet_task::{CommandError, Outcome, Output, Report, Runner};

use super::{
    cluster::fake::FakeCluster,
    settings::{
        TLS,
        tests::{member, spec},
    },
    *,
};
use crate::tasks::{
    certificate::{CA, CERTIFICATE, KEY},
    support::fake::{Debian, Fault},
    tests::Rig,
};

const UNIT: &str = "rethinkdb@fleet.service";
const CONF: &str = "/etc/rethinkdb/instances.d/fleet.conf";
const DATA: &str = "/var/lib/rethinkdb/fleet/metadata";

/// A node on which RethinkDB can be installed, and the cluster it finds when its server starts.
#[derive(Debug)]
struct Machine {
    debian: Arc<Debian>,
    cluster: FakeCluster,
    /// Who is there once the server has started, the own one first.
    finds: Mutex<Vec<(&'static str, &'static str)>>,
    /// What fetching the repository's key gives.
    key: Mutex<Option<Vec<u8>>>,
}

#[async_trait]
impl Runner for Machine {
    async fn output(&self, command: &Command) -> Result<Output, CommandError> {
        let mut command = command.clone();
        for arg in command.args.iter_mut().filter(|arg| arg.ends_with(".deb")) {
            "rethinkdb".clone_into(arg);
        }
        let starts = command.program == "systemctl"
            && matches!(command.args.first().map(String::as_str), Some("start" | "restart"));
        if starts {
            // Before the program: whoever asks it may be gone when it has ended.
            self.cluster.set(&self.finds.lock().expect("fine"));
        }
        let output = self.debian.output(&command).await?;
        if output.code != Some(0) {
            return Ok(output);
        }
        if command.program == "runuser" {
            let at = command.args.iter().position(|arg| arg == "--directory").expect("where") + 1;
            let made = fs::create_dir_all(&command.args[at])
                .and_then(|()| fs::write(format!("{}/metadata", command.args[at]), "made"));
            if let Err(error) = made {
                return Ok(Output {
                    code: Some(1),
                    stdout: Vec::new(),
                    stderr: error.to_string().into_bytes(),
                });
            }
        }
        if command.program.ends_with("apt-helper")
            && let Some(key) = &*self.key.lock().expect("fine")
        {
            fs::write(&command.args[2], key).expect("key");
        }
        if starts && !self.debian.is_up(UNIT).0 {
            self.cluster.state().view = None;
        }
        Ok(output)
    }
}

/// A joiner with all its work before it, and all its permits.
pub(in crate::tasks) fn made() -> (Arc<Debian>, Rig, Arc<dyn Task>) {
    let bench = Bench::allowed();
    let (task, machine) = (bench.task(), bench.machine.clone());
    bench.machine.debian.at_boot(move |debian| {
        let starts = debian.is_up(UNIT).0;
        machine.cluster.state().view = None;
        if starts {
            machine.cluster.set(&machine.finds.lock().expect("fine"));
        }
    });
    (bench.machine.debian.clone(), bench.rig, Arc::new(task))
}

struct Bench {
    machine: Arc<Machine>,
    rig: Rig,
    source: Source,
    spec: RethinkdbTask,
}

impl Bench {
    /// A joiner whose package comes from the controller.
    fn new() -> Self {
        let (debian, files) = Debian::rig(&[]);
        let machine = Arc::new(Machine {
            debian,
            cluster: FakeCluster::default(),
            finds: Mutex::new(vec![("EU6", "Amsterdam"), ("EU7seed", "Amsterdam"), ("EU8", "Amsterdam")]),
            key: Mutex::default(),
        });
        let rig = files.run_by(machine.clone());
        let uid = nix::unistd::getuid().as_raw();
        let gid = nix::unistd::getgid().as_raw();
        machine.debian.brings("rethinkdb", "/usr/bin/rethinkdb", "program");
        machine.debian.unit(UNIT, false, false).answers("runuser", Output::ok(""));
        machine.debian.answers("/usr/lib/apt/apt-helper", Output::ok(""));
        for (path, text) in [
            ("/etc/passwd", format!("rethinkdb:x:{uid}:{gid}::/:/bin/false\n")),
            ("/etc/group", format!("rethinkdb:x:{gid}:\n")),
            ("/proc/meminfo", "MemTotal:        1000000 kB\n".into()),
            (KEY, "key".into()),
            (CERTIFICATE, "certificate".into()),
            (CA, "ca".into()),
        ] {
            let path = rig.path(path);
            fs::create_dir_all(path.parent().expect("absolute")).expect("parent");
            fs::write(path, text).expect("file");
        }
        let package = rig.controller.hold(&rig.path("/var/lib/fleet-agent"), "rethinkdb.deb", b"package");
        Self { machine, rig, source: Source::Package(package), spec: spec() }
    }

    /// A joiner that may join, with the seed answering.
    fn allowed() -> Self {
        let bench = Self::new();
        bench.rig.controller.grant("join/fleet");
        bench.answering(&["2001:db8::7"]);
        bench
    }

    /// A member of the cluster.
    async fn member() -> Self {
        let bench = Self::allowed();
        bench.rig.changed(&bench.task()).await;
        bench
    }

    fn answering(&self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse::<IpAddr>().expect("address"));
        self.machine.cluster.state().answering = addresses.collect::<BTreeSet<_>>();
    }

    fn task(&self) -> Rethinkdb {
        let spec = RethinkdbTask { source: Some(self.source.clone()), ..self.spec.clone() };
        Rethinkdb {
            cluster: Arc::new(self.machine.cluster.clone()),
            ..Rethinkdb::new(TaskId::new("rethinkdb"), spec)
        }
    }

    async fn report(&self) -> Report {
        self.rig.run(Arc::new(self.task())).await
    }

    fn ran(&self, what: &str) -> Vec<String> {
        self.machine.debian.ran(what)
    }

    fn conf(&self) -> String {
        self.rig.text(CONF)
    }
}

#[tokio::test(start_paused = true)]
async fn a_joiner_installs_at_once_and_joins_in_its_turn() {
    let bench = Bench::new();
    let waits = bench.rig.waits(&bench.task()).await;
    assert!(
        waits.starts_with("a server of the cluster to answer; none does of EU7seed (2001:db8::7), EU8"),
        "{waits}"
    );
    assert_eq!(bench.ran("apt-get").len(), 1, "installed all the same");
    assert!(bench.ran("systemctl start").is_empty() && !bench.rig.path(CONF).exists());
    bench.answering(&["2001:db8::7"]);
    assert_eq!(bench.rig.waits(&bench.task()).await, "its turn for `join/fleet`");
    assert!(!bench.rig.path(DATA).exists());
    bench.rig.controller.grant("join/fleet");
    let changes = bench.rig.changed(&bench.task()).await;
    assert!(changes[0].contains("rethinkdb is not installed, to come from rethinkdb.deb"), "{changes:?}");
    assert!(
        changes.contains(&"no data in /var/lib/rethinkdb/fleet, to join by way of EU7seed".into()),
        "{changes:?}"
    );
    assert!(
        bench.conf().contains("\njoin=[2001:db8::7]:29015\njoin=[2001:db8::8]:29015\n"),
        "{}",
        bench.conf()
    );
    assert_eq!(bench.rig.text(TLS[0]), "key");
    assert!(bench.rig.path(DATA).exists());
    assert_eq!(bench.machine.debian.is_up(UNIT), (true, true));
    assert_eq!(bench.rig.controller.released(), ["join/fleet"]);
    let before = bench.ran("").len();
    bench.rig.unchanged(&bench.task()).await;
    assert_eq!(
        bench.ran("")[before..],
        [
            "systemctl show -p LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,InvocationID,ExecMainStartTimestampMonotonic -- rethinkdb@fleet.service"
        ]
    );
}

fn missing(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(ToString::to_string).collect())
}

#[tokio::test(start_paused = true)]
async fn the_seed_founds_only_if_nobody_answers_and_gets_its_peers_later() {
    let mut bench = Bench::new();
    bench.spec.seed = true;
    *bench.machine.finds.lock().expect("fine") = vec![("EU6", "Amsterdam")];
    assert_eq!(bench.rig.waits(&bench.task()).await, "its turn for `found/fleet`");
    bench.rig.controller.grant("found/fleet");
    let report = bench.report().await;
    assert!(report.is_converged(), "{report:?}");
    assert_eq!(report.warnings, ["not in the cluster: EU7seed, EU8"]);
    assert_eq!(report.missing_members, missing(&["EU7seed", "EU8"]));
    assert!(!bench.conf().contains("join="), "one that dials nobody waits for nobody: {}", bench.conf());
    // Alone it stays as it is.
    assert_eq!(bench.report().await.outcome, Outcome::Unchanged);
    bench.machine.cluster.set(&[("EU6", "Amsterdam"), ("EU8", "Amsterdam")]);
    let changes = bench.rig.changed(&bench.task()).await;
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert!(bench.conf().contains("join=[2001:db8::8]:29015"));
    assert!(bench.ran("restart").is_empty(), "whom it dials is read at the next start");
    bench.rig.unchanged(&bench.task()).await;
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_was_replaced_joins_those_who_are_there() {
    let mut bench = Bench::allowed();
    bench.spec.seed = true;
    bench.rig.changed(&bench.task()).await;
    assert!(bench.conf().contains("join=[2001:db8::7]:29015"));
    assert!(!bench.rig.controller.asked().contains(&"found/fleet".into()));
}

#[tokio::test(start_paused = true)]
async fn damage_is_repaired_and_a_restart_waits_for_its_turn() {
    let check =
        async |damage: fn(&Bench), expected: &str, restarts: usize, starts: usize, installs: usize| {
            let bench = Bench::member().await;
            let (before, data) = (bench.ran("").len(), bench.rig.text(DATA));
            damage(&bench);
            let changes = bench.rig.changed(&bench.task()).await;
            assert!(changes.iter().any(|line| line.contains(expected)), "{expected}: {changes:?}");
            let ran = bench.ran("")[before..].to_vec();
            let count = |what: &str| ran.iter().filter(|line| line.starts_with(what)).count();
            let counts = (count("systemctl restart"), count("systemctl start"), count("apt-get"));
            assert_eq!(counts, (restarts, starts, installs), "{expected}: {ran:?}");
            assert_eq!(count("runuser"), 0, "{expected}");
            assert_eq!(bench.rig.text(DATA), data);
            bench.rig.unchanged(&bench.task()).await;
        };
    check(|b| _ = b.machine.debian.unit(UNIT, false, true), "is inactive, dead", 0, 1, 0).await;
    check(|b| _ = b.machine.debian.unit(UNIT, true, false), "not started at boot", 0, 0, 0).await;
    check(|b| _ = b.machine.debian.lost("rethinkdb"), "rethinkdb is not installed", 0, 0, 1).await;
    check(|b| fs::write(b.rig.path(KEY), "new key").expect("write"), "key.pem is not the node's", 1, 0, 0)
        .await;
    check(|b| fs::remove_file(b.rig.path(TLS[2])).expect("rm"), "ca.pem is not the node's", 1, 0, 0).await;
    check(|b| fs::remove_file(b.rig.path(CONF)).expect("rm"), "fleet.conf is missing", 1, 0, 0).await;
    check(
        |b| {
            let text = b.conf().replace("bind-http=all", "bind=all\nbind-http=all");
            fs::write(b.rig.path(CONF), text).expect("write");
        },
        "fleet.conf: without `bind=all`",
        1,
        0,
        0,
    )
    .await;
    check(
        |b| {
            let text = b.conf().replace("join=[2001:db8::8]:29015\n", "");
            fs::write(b.rig.path(CONF), text).expect("write");
        },
        "with `join=[2001:db8::8]:29015`",
        0,
        0,
        0,
    )
    .await;
    check(
        |b| fs::remove_file(b.rig.path("/etc/systemd/system/rethinkdb.service")).expect("rm"),
        "the old start-up script, is not masked",
        0,
        0,
        0,
    )
    .await;
    check(|b| b.machine.cluster.set(&[("x", "y"), ("EU7seed", "z")]), "is called `x`", 0, 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn without_its_turn_nothing_is_restarted() {
    let bench = Bench::new();
    bench.answering(&["2001:db8::7"]);
    bench.rig.controller.grant("join/fleet");
    bench.rig.changed(&bench.task()).await;
    let other = Bench { rig: bench.rig, ..bench };
    other.rig.controller.revoke("join/fleet");
    fs::write(other.rig.path(KEY), "new key").expect("write");
    assert_eq!(other.rig.waits(&other.task()).await, "its turn for `join/fleet`");
    assert_eq!(other.rig.text(TLS[0]), "key", "a server that restarts by itself finds what belongs together");
    assert!(other.ran("systemctl restart").is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_says_is_passed_on() {
    let bench = Bench::member().await;
    bench.machine.cluster.set(&[("EU6", "Amsterdam"), ("EU7seed", "Amsterdam"), ("odd", "x")]);
    bench.machine.cluster.state().view.as_mut().expect("set").issues =
        vec!["There are multiple servers\nnamed `EU7`.".into()];
    let report = bench.report().await;
    assert_eq!(report.outcome, Outcome::Unchanged);
    assert_eq!(
        report.warnings,
        [
            "not in the cluster: EU8",
            "in the cluster and not in the plan: odd",
            "RethinkDB says: There are multiple servers named `EU7`.",
        ]
    );
    assert_eq!(report.missing_members, missing(&["EU8"]));
    // It does not list itself; whoever else has its name is another one.
    bench.machine.cluster.set(&[("EU6", "Amsterdam"), ("EU7seed", "Amsterdam"), ("EU8", "Amsterdam")]);
    bench.machine.cluster.state().view.as_mut().expect("set").own = "stranger".into();
    let report = bench.report().await;
    assert_eq!(report.outcome, Outcome::Unchanged);
    assert_eq!(report.warnings, ["the server does not list itself among those connected"]);
    assert_eq!(report.missing_members, missing(&["EU6"]));
    // Alone, a joiner is no member.
    bench.machine.cluster.set(&[("EU6", "Amsterdam")]);
    let report = bench.report().await;
    let waits = "its server to see another one of the cluster: EU7seed, EU8";
    assert_eq!(report.outcome, Outcome::Waiting(waits.into()));
    assert_eq!(report.missing_members, missing(&["EU7seed", "EU8"]));
    // And one that takes no queries says so, with the end of its log.
    bench.machine.cluster.state().view = None;
    bench.answering(&[]);
    fs::write(
        bench.rig.path("/var/lib/rethinkdb/fleet/log_file"),
        "x\nListening\nAttempting connection to 1 peer...\n",
    )
    .expect("log");
    let waits = bench.rig.waits(&bench.task()).await;
    assert!(
        waits.contains("none answers; its log ends: Listening; Attempting connection to 1 peer..."),
        "{waits}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_quotes_its_last_words() {
    let bench = Bench::allowed();
    bench.machine.debian.dies(UNIT, "Could not bind to port: it is in use.");
    let why = bench.rig.failed(&bench.task()).await;
    assert!(why.contains("was started and is failed") && why.contains("Could not bind to port"), "{why}");
    assert_eq!(bench.rig.controller.released(), ["join/fleet"], "it had no data: others may join meanwhile");
}

#[tokio::test(start_paused = true)]
async fn without_a_certificate_it_waits() {
    let bench = Bench::allowed();
    fs::remove_file(bench.rig.path(CERTIFICATE)).expect("rm");
    assert_eq!(bench.rig.waits(&bench.task()).await, "the certificate of the node's services");
    assert!(bench.ran("systemctl start").is_empty());
}

#[tokio::test(start_paused = true)]
async fn data_that_is_there_is_never_made_anew() {
    let bench = Bench::allowed();
    fs::create_dir_all(bench.rig.path("/var/lib/rethinkdb/fleet")).expect("folder");
    fs::write(bench.rig.path("/var/lib/rethinkdb/fleet/a-table"), "precious").expect("file");
    bench.rig.changed(&bench.task()).await;
    assert!(bench.ran("runuser").is_empty());
    assert_eq!(bench.rig.text("/var/lib/rethinkdb/fleet/a-table"), "precious");
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_makes_no_sense_touches_nothing() {
    let mut bench = Bench::allowed();
    bench.spec.members.push(member("EU6", "2001:db8::9"));
    let why = bench.rig.failed(&bench.task()).await;
    assert!(why.contains("two servers are called `EU6`"), "{why}");
    assert!(bench.ran("").is_empty());
}

/// Every way to be cut off: at the n-th program, before or after its effect, or that program failing.
#[tokio::test(start_paused = true)]
async fn cut_off_anywhere_it_ends_as_a_member() {
    for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::Fails] {
        for nth in 0.. {
            let bench = Bench::allowed();
            bench.machine.debian.fault_at(nth, fault);
            let cut = {
                let run = bench.report();
                tokio::pin!(run);
                tokio::select! {
                    report = &mut run => report.is_converged(),
                    () = bench.machine.debian.dead() => false,
                }
            };
            let calls = bench.ran("").len();
            bench.machine.debian.revive();
            if cut && calls <= nth {
                assert!(nth > 5, "there is something to cut: {nth}");
                break;
            }
            let report = bench.report().await;
            assert!(report.is_converged(), "{fault:?} at {nth}: {report:?}");
            bench.rig.unchanged(&bench.task()).await;
            assert_eq!(
                bench.ran("runuser").len().min(2),
                bench.ran("runuser").len(),
                "made once, or once more"
            );
            let left = fs::read_dir(bench.rig.path("/var/lib/rethinkdb")).expect("list").count();
            assert_eq!(left, 1, "{fault:?} at {nth}: nothing is left beside the data");
        }
    }
}

fn repository(fingerprint: &str) -> Source {
    Source::Repository(AptRepository {
        uri: "https://download.example/repository/debian-bookworm".into(),
        suite: "bookworm".into(),
        component: "main".into(),
        key_uri: "https://download.example/repository/raw/pubkey.gpg".into(),
        key_fingerprint: fingerprint.into(),
    })
}

#[tokio::test(start_paused = true)]
async fn from_a_repository_whose_only_key_is_the_pinned_one() {
    let key = openpgp::tests::old(6, &[4, 1, 2, 3, 4, 22, 9, 9]);
    let other = openpgp::tests::old(6, &[4, 5, 5, 5, 5, 22, 9, 9]);
    let print = openpgp::fingerprints(&key).expect("fine").remove(0);
    let mut bench = Bench::allowed();
    bench.source = repository(&print.to_lowercase());
    for (fetched, expected) in [
        (None, "cannot be reached: https://download.example/repository/raw/pubkey.gpg: no reason was given"),
        (Some(b"<html>".to_vec()), "is not taken: it is no OpenPGP file"),
        (Some(other.clone()), "and the plan pins"),
        (Some([key.clone(), other].concat()), "is not taken: there are 2"),
    ] {
        if fetched.is_none() {
            let failed = Output { code: Some(100), stdout: Vec::new(), stderr: Vec::new() };
            bench.machine.debian.answers("/usr/lib/apt/apt-helper", failed);
        } else {
            bench.machine.debian.answers("/usr/lib/apt/apt-helper", Output::ok(""));
        }
        *bench.machine.key.lock().expect("fine") = fetched;
        let why = bench.rig.failed(&bench.task()).await;
        assert!(why.contains(expected), "{why}");
        assert!(!bench.rig.path("/usr/share/keyrings/rethinkdb.gpg").exists());
        assert!(bench.ran("apt-get").is_empty());
    }
    *bench.machine.key.lock().expect("fine") = Some(openpgp::tests::armoured(&key).into_bytes());
    bench.rig.changed(&bench.task()).await;
    assert_eq!(fs::read(bench.rig.path("/usr/share/keyrings/rethinkdb.gpg")).expect("key"), key);
    assert_eq!(
        bench.rig.text("/etc/apt/sources.list.d/rethinkdb.sources"),
        "# Written by fleet-agent.\nTypes: deb\nURIs: https://download.example/repository/debian-bookworm\n\
         Suites: bookworm\nComponents: main\nSigned-By: /usr/share/keyrings/rethinkdb.gpg\n"
    );
    let fetches = bench.ran("apt-helper").len();
    bench.rig.unchanged(&bench.task()).await;
    assert_eq!(bench.ran("apt-helper").len(), fetches, "a look fetches nothing");
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_cannot_be_read_is_not_left_in_the_way() {
    let key = openpgp::tests::old(6, &[4, 1, 2, 3, 4, 22, 9, 9]);
    let mut bench = Bench::allowed();
    bench.source = repository(&openpgp::fingerprints(&key).expect("fine").remove(0));
    *bench.machine.key.lock().expect("fine") = Some(key);
    let said =
        b"E: Failed to fetch https://download.example/ Could not resolve 'download.example'\n".to_vec();
    bench.machine.debian.answers("apt-get", Output { code: Some(100), stdout: Vec::new(), stderr: said });
    let why = bench.rig.failed(&bench.task()).await;
    assert!(why.contains("download.example"), "{why}");
    assert!(!bench.rig.path("/etc/apt/sources.list.d/rethinkdb.sources").exists());
}

#[tokio::test(start_paused = true)]
async fn a_bad_repository_is_refused() {
    for (edit, expected) in [
        ((|r| r.uri = "ftp://x".into()) as fn(&mut AptRepository), "not the address of a repository"),
        (|r| r.key_uri = "https://x\nSigned-By: y".into(), "not the address of a repository"),
        (|r| r.suite = "a b".into(), "no suite or component"),
        (|r| r.component = String::new(), "no suite or component"),
        (|r| r.key_fingerprint = "1234".into(), "no fingerprint"),
    ] {
        let mut bench = Bench::allowed();
        let Source::Repository(mut spec) = repository(&"A".repeat(40)) else { unreachable!("it is one") };
        edit(&mut spec);
        bench.source = Source::Repository(spec);
        let why = bench.rig.failed(&bench.task()).await;
        assert!(why.contains(expected), "{why}");
        assert!(bench.ran("").is_empty());
    }
}
