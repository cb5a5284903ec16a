//! Table of tasks × {error of a program, death at any program, power cut at any sync, full disk}: each ends converged, or
//! with one clear reason and converged once the trouble is over.
//!
//! A death is a `kill -9` of the agent: the future is gone at that very point, and the disk remembers all. At a power
//! cut it does not: what was not synced may be gone ([`power`]).

pub(crate) mod power;

use std::{
    fs, io::Write, os::unix::fs::PermissionsExt, path::Path, process::Command as Process, sync::Arc,
    time::Duration,
};

use fleet_proto::v1;
use fleet_task::{Outcome, Output, Report, Task, TaskId};

use super::{
    Clock, Command, File, Package, Service, Update, User, access, rethinkdb,
    support::fake::{Debian, Fault},
    tests::Rig,
    todo,
};

type Made = (Arc<Debian>, Rig, Arc<dyn Task>);

/// One row: a node and a task with work to do on it.
struct Row {
    name: &'static str,
    make: fn() -> Made,
    /// What is done to the node after it had converged; nothing means it never had.
    damage: Option<fn(&Debian, &Rig)>,
    /// What must be so at any time, whatever happened.
    always: fn(&Debian, &Rig),
    /// What must be so in the end, beside that the task is content.
    end: fn(&Debian, &Rig),
}

fn rows() -> Vec<Row> {
    let row = |name, make, damage, end| Row { name, make, damage, always: |_, _| (), end };
    let doors = |name, damage| Row { always: a_way_in, ..row(name, access_to_image, damage, closed) };
    vec![
        row("clock, from nothing", clock, None, ticks),
        row(
            "clock, its file gone",
            clock,
            Some(|_, rig| gone(rig, "/etc/chrony/sources.d/fleet.sources")),
            ticks,
        ),
        row("clock, stopped", clock, Some(|debian, _| _ = debian.unit("chrony.service", false, true)), ticks),
        row("update, with a cut run before it", update, None, |_, rig| {
            assert!(rig.text("/var/lib/dpkg/status").contains("Version: 2.0"));
        }),
        doors("access, from nothing", None),
        doors(
            "access, drop-in gone",
            Some(|debian, rig| {
                gone(rig, "/etc/ssh/sshd_config.d/10-fleet.conf");
                debian.reload_sshd();
            }),
        ),
        doors("access, keys gone", Some(|_, rig| gone(rig, "/home/fleet/.ssh/authorized_keys"))),
        doors("access, sudo's file gone", Some(|_, rig| gone(rig, "/etc/sudoers.d/fleet-fleet"))),
        doors("access, keys of the image", Some(|_, rig| access::tests::came_from_the_image(rig))),
        row("file, from nothing", file, None, holds),
        row("file, edited", file, Some(|_, rig| write(rig, "/srv/page", "damage\n")), holds),
        row(
            "file, open to all",
            file,
            Some(|_, rig| {
                fs::set_permissions(rig.path("/srv/page"), fs::Permissions::from_mode(0o777))
                    .expect("damage");
            }),
            holds,
        ),
        row("package, missing", package, None, |_, _| ()),
        row("package, removed", package, Some(|debian, _| _ = debian.lost("nginx")), |_, _| ()),
        row("service, never started", service, None, serves),
        row("service, its file changed", service, Some(|_, rig| write(rig, "/etc/x.conf", "two")), serves),
        row("user, missing", user, None, |_, rig| assert!(rig.path("/home/web").is_dir())),
        row(
            "user, home gone",
            user,
            Some(|_, rig| fs::remove_dir(rig.path("/home/web")).expect("damage")),
            |_, rig| {
                assert!(rig.path("/home/web").is_dir());
            },
        ),
        row("certificate, from nothing", certificate, None, |_, _| ()),
        row(
            "certificate, key gone",
            certificate,
            Some(|_, rig| gone(rig, super::certificate::KEY)),
            |_, _| (),
        ),
        row("rethinkdb, from nothing", rethinkdb::tests::made, None, member),
        row(
            "rethinkdb, stopped",
            rethinkdb::tests::made,
            Some(|debian, _| _ = debian.unit("rethinkdb@fleet.service", false, true)),
            member,
        ),
        row(
            "rethinkdb, another certificate",
            rethinkdb::tests::made,
            Some(|_, rig| write(rig, super::certificate::CERTIFICATE, "another")),
            member,
        ),
        row("todo, from nothing", todo::tests::made, None, lists),
        row(
            "todo, its program gone",
            todo::tests::made,
            Some(|_, rig| gone(rig, "/usr/local/lib/fleet/fleet-todo")),
            lists,
        ),
        row("command", command, None, |debian, _| assert!(!debian.ran("work").is_empty())),
    ]
}

/// chrony runs and has read what its files say now.
fn ticks(debian: &Debian, rig: &Rig) {
    assert_eq!(debian.is_up("chrony.service"), (true, true));
    assert_eq!(rig.text("/etc/chrony/sources.d/fleet.sources"), "server ntp.example iburst\n");
}

/// sshd has read that all is closed, the plan's key is in place, and nothing of a proof is left.
fn closed(debian: &Debian, rig: &Rig) {
    assert_eq!(
        (debian.sshd_says("PasswordAuthentication"), debian.sshd_says("PermitRootLogin")),
        ("no".into(), "no".into())
    );
    assert!(debian.gets_in("fleet") && rig.text("/etc/shadow").starts_with("root:!"));
    assert!(!rig.text("/home/fleet/.ssh/authorized_keys").contains("proof"));
    assert!(!rig.path("/var/lib/fleet-agent/proof").exists());
}

fn holds(_: &Debian, rig: &Rig) {
    assert_eq!(rig.text("/srv/page").len(), 5 * 8 * 1024);
}

fn serves(debian: &Debian, _: &Rig) {
    assert_eq!(debian.is_up("x.service"), (true, true));
}

/// The server runs on data made once, with the files that belong together.
fn member(debian: &Debian, rig: &Rig) {
    assert_eq!(debian.is_up("rethinkdb@fleet.service"), (true, true));
    assert_eq!(rig.text("/etc/rethinkdb/tls/cert.pem"), rig.text(super::certificate::CERTIFICATE));
    assert_eq!(fs::read_dir(rig.path("/var/lib/rethinkdb")).expect("list").count(), 1);
}

fn lists(debian: &Debian, rig: &Rig) {
    assert_eq!(debian.is_up("fleet-todo.service"), (true, true));
    assert_eq!(fs::read(rig.path("/usr/local/lib/fleet/fleet-todo")).expect("program"), [7; 40_000]);
}

fn gone(rig: &Rig, path: &str) {
    fs::remove_file(rig.path(path)).expect(path);
}

fn write(rig: &Rig, path: &str, text: &str) {
    fs::write(rig.path(path), text).expect(path);
}

fn certificate() -> Made {
    let (rig, task) = super::certificate::tests::made();
    (Arc::default(), rig, task)
}

fn clock() -> Made {
    let (debian, rig) = Debian::rig(&[]);
    debian.brings("chrony", "/etc/chrony/chrony.conf", "pool p iburst\nsourcedir /etc/chrony/sources.d\n");
    let spec = v1::ClockTask { servers: vec!["ntp.example".into()], most_offset_ms: 0 };
    (debian, rig, Arc::new(Clock::new(TaskId::new("clock"), spec)))
}

fn update() -> Made {
    let (debian, rig) = Debian::rig(&[]);
    debian.has("openssl").offers_newer("openssl", "2.0").half_done("bash");
    (
        debian,
        rig,
        Arc::new(Update::new(TaskId::new("update"), v1::UpdateTask { every_hours: 24, reboot: false })),
    )
}

fn access_to_image() -> Made {
    let (debian, rig) = access::tests::rig();
    (debian, rig, Arc::new(access::tests::task()))
}

/// Either root still gets in as before, or sshd was proved to let the login user in.
fn a_way_in(debian: &Debian, rig: &Rig) {
    let password =
        debian.sshd_says("PasswordAuthentication") != "no" && rig.text("/etc/shadow").starts_with("root:$6$");
    let proved = debian.gets_in("fleet") || debian.ran("ssh -F").len() > 1;
    assert!(password || proved, "everybody is locked out after {:?}", debian.ran(""));
    assert!(debian.has_host_key(), "sshd has no key after {:?}", debian.ran(""));
}

fn file() -> Made {
    let (debian, rig) = Debian::rig(&[("/srv/.keep", "")]);
    let text = "line\n".repeat(8 * 1024);
    let spec = v1::FileTask {
        path: "/srv/page".into(),
        content: Some(v1::file_task::Content::Text(text.into())),
        ..v1::FileTask::default()
    };
    (debian, rig, Arc::new(File::new(TaskId::new("file"), spec)))
}

fn package() -> Made {
    let (debian, rig) = Debian::rig(&[]);
    debian.offers("nginx").offers("curl").half_done("curl");
    let spec = v1::PackageTask { names: vec!["nginx".into(), "curl".into()], absent: false };
    (debian, rig, Arc::new(Package::new(TaskId::new("package"), spec)))
}

fn service() -> Made {
    let (debian, rig) = Debian::rig(&[("/etc/x.conf", "one")]);
    debian.unit("x.service", false, false);
    let restart_on = vec!["/etc/x.conf".to_owned()];
    let spec = v1::ServiceTask { unit: "x.service".into(), running: true, enabled: true, restart_on };
    (debian, rig, Arc::new(Service::new(TaskId::new("service"), spec)))
}

fn user() -> Made {
    let (debian, rig) = Debian::rig(&[("/bin/bash", ""), ("/home/.keep", ""), ("/etc/group", "adm:x:4:\n")]);
    let spec = v1::UserTask {
        name: "web".into(),
        shell: "/bin/bash".into(),
        groups: vec!["adm".into()],
        ..v1::UserTask::default()
    };
    (debian, rig, Arc::new(User::new(TaskId::new("user"), spec)))
}

fn command() -> Made {
    let (debian, rig) = Debian::rig(&[]);
    debian.answers("work", Output::ok("done\n"));
    let spec = v1::CommandTask { args: vec!["work".into()], ..v1::CommandTask::default() };
    (debian, rig, Arc::new(Command::new(TaskId::new("command"), spec)))
}

impl Row {
    /// The node with work to do, and how many programs that work takes.
    async fn ready(&self) -> Made {
        let (debian, rig, task) = (self.make)();
        if let Some(damage) = self.damage {
            let report = rig.run(task.clone()).await;
            assert!(report.is_converged(), "{}: {report:?}", self.name);
            damage(&debian, &rig);
        }
        (debian, rig, task)
    }

    async fn programs(&self) -> usize {
        let (debian, rig, task) = self.ready().await;
        let before = debian.ran("").len();
        let report = rig.run(task).await;
        assert!(matches!(report.outcome, Outcome::Changed(_)), "{}: {report:?}", self.name);
        debian.ran("").len() - before
    }

    /// Converged, or one clear reason with the next step.
    fn is_clear(&self, report: &Report, what: &str) {
        match &report.outcome {
            Outcome::Unchanged | Outcome::Changed(_) => (),
            Outcome::Failed(why) => {
                let steps = why.matches("next: ").count();
                assert!(
                    steps == 1 && !why.contains('\n') && why.len() < 1000,
                    "{}, {what}: {why}",
                    self.name
                );
            }
            other => panic!("{}, {what}: {other:?}", self.name),
        }
    }

    /// The trouble is over: one more run converges, and the one after it has nothing to do.
    async fn converges(&self, (debian, rig, task): &Made, what: &str) {
        let report = rig.run(task.clone()).await;
        assert!(report.is_converged(), "{}, after {what}: {report:?}", self.name);
        let report = rig.run(task.clone()).await;
        assert_eq!(report.outcome, Outcome::Unchanged, "{}, after {what}", self.name);
        (self.end)(debian, rig);
        let left = fs::read_dir(rig.path("/etc")).expect("list").flatten().map(|entry| entry.file_name());
        assert!(
            !left.into_iter().any(|name| name.to_string_lossy().ends_with(".fleet-new")),
            "{}",
            self.name
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_fails_anywhere_is_survived() {
    for row in rows() {
        for nth in 0..row.programs().await {
            let (debian, rig, task) = row.ready().await;
            debian.fault_at(nth, Fault::Fails);
            let report = rig.run(task.clone()).await;
            let what = format!("failure of `{}`", debian.ran("").last().cloned().unwrap_or_default());
            row.is_clear(&report, &what);
            (row.always)(&debian, &rig);
            debian.revive();
            row.converges(&(debian, rig, task), &what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_anywhere_is_survived() {
    for row in rows() {
        for nth in 0..row.programs().await {
            for fault in [Fault::DiesBefore, Fault::DiesAfter] {
                let (debian, rig, task) = row.ready().await;
                debian.fault_at(nth, fault);
                let dies = async {
                    tokio::select! {
                        report = rig.run(task.clone()) => panic!("{}, {nth}: it lives: {report:?}", row.name),
                        () = debian.dead() => (),
                    }
                };
                tokio::time::timeout(Duration::from_secs(3600), dies).await.expect("dies in time");
                (row.always)(&debian, &rig);
                debian.revive();
                let what = format!("{fault:?} at `{}`", debian.ran("").last().cloned().unwrap_or_default());
                row.converges(&(debian, rig, task), &what).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_anywhere_is_survived() {
    power::be_forgetful();
    for row in rows() {
        for left in [power::Left::Nothing, power::Left::Names] {
            for nth in 1.. {
                let (debian, rig, task) = row.ready().await;
                power::watch(&rig.path("/"), &debian, nth, left);
                tokio::select! {
                    _ = rig.run(task.clone()) => (),
                    () = debian.dead() => (),
                }
                let was_cut = power::come_up();
                debian.boots();
                let what = format!(
                    "a power cut at sync {nth}, leaving {left:?}, last `{:?}`",
                    debian.ran("").last()
                );
                (row.always)(&debian, &rig);
                if was_cut {
                    row.converges(&(debian, rig, task), &what).await;
                    continue;
                }
                // It was done, and the power went a moment later: what it said is so.
                assert!(nth > 1, "{}: it changed something", row.name);
                let report = rig.run(task.clone()).await;
                assert_eq!(
                    report.outcome,
                    Outcome::Unchanged,
                    "{}, after its end, leaving {left:?}",
                    row.name
                );
                (row.end)(&debian, &rig);
                break;
            }
        }
    }
}

/// Set in the process that has a small disk of its own.
const INSIDE: &str = "FLEET_TEST_SMALL_DISK";
/// Bytes of a page, the unit a disk in memory is filled by.
const PAGE: usize = 4096;

/// Runs itself again with a small disk for temporary files, in a mount namespace of its own.
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_survived() {
    if std::env::var_os(INSIDE).is_some() {
        return on_a_small_disk().await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let script = "mount -t tmpfs -o size=4m tmpfs \"$TMPDIR\" && exec \"$@\"";
    let mut unshare = Process::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let output = unshare
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "tasks::faults::a_full_disk_is_survived", "--nocapture"])
        .env(INSIDE, "1")
        .env("TMPDIR", folder.path())
        .output()
        .expect("unshare of util-linux");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

async fn on_a_small_disk() {
    for row in rows() {
        let mut failures = 0;
        for pages in [0, 1, 2, 3, 4, 6, 8, 12] {
            let (debian, rig, task) = row.ready().await;
            let before = whole(&rig);
            let filler = fill(&rig.path("/"), pages);
            let report = rig.run(task.clone()).await;
            let what = format!("{pages} free pages");
            row.is_clear(&report, &what);
            if let Outcome::Failed(why) = &report.outcome {
                failures += 1;
                assert!(why.to_lowercase().contains("no space left"), "{}, {what}: {why}", row.name);
                assert_eq!(before, whole(&rig), "{}, {what}: existing files are intact", row.name);
            }
            (row.always)(&debian, &rig);
            fs::remove_file(filler).expect("filler");
            row.converges(&(debian, rig, task), &what).await;
        }
        // A change of mode needs no room, and a stopped service little.
        assert!(failures > 0 || row.damage.is_some(), "{}: it never ran out of space", row.name);
    }
}

/// The contents of files that a cut write would tear.
fn whole(rig: &Rig) -> Vec<Option<Vec<u8>>> {
    let files = [
        "/srv/page",
        "/etc/passwd",
        "/etc/shadow",
        "/etc/ssh/sshd_config",
        "/home/fleet/.ssh/authorized_keys",
    ];
    files.iter().map(|path| fs::read(rig.path(path)).ok()).collect()
}

/// Takes all space below `folder` but so many pages.
fn fill(folder: &Path, pages: usize) -> std::path::PathBuf {
    let path = folder.join("filler");
    let mut file = fs::File::create(&path).expect("an empty file");
    let page = [0; PAGE];
    let mut taken = 0;
    while file.write_all(&page).is_ok() {
        taken += PAGE;
    }
    file.set_len((taken - pages * PAGE) as u64).expect("shorter");
    path
}
