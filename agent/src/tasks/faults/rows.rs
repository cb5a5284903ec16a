//! The rows of the table: nodes and what is to be done on them.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use fleet_proto::v1::{self, task_spec::Kind};
use fleet_task::{Output, Task, TaskId};

use crate::tasks::{
    Clock, Command, File, Hostname, Hosts, Package, Service, Update, User, access, certificate, database,
    lvm, rethinkdb, support::fake::Debian, tests::Rig, todo,
};

const LOCALHOST: &str = "127.0.0.1\tlocalhost\n";

/// Names of kinds, and the name of one: a kind that is not listed here does not compile.
macro_rules! kinds {
    ($($kind:ident $name:literal),* $(,)?) => {
        /// Every kind of task there is.
        pub(super) const KINDS: &[&str] = &[$($name),*];

        const _: fn(&Kind) -> &str = |kind| match kind {
            $(Kind::$kind(_) => $name),*
        };
    };
}

kinds! {
    Hostname "hostname",
    Hosts "hosts",
    Lvm "lvm",
    Clock "clock",
    Update "update",
    Access "access",
    Certificate "certificate",
    Rethinkdb "rethinkdb",
    Database "database",
    Todo "todo",
    File "file",
    Package "package",
    Service "service",
    User "user",
    Command "command",
}

pub(super) type Made = (Arc<Debian>, Rig, Arc<dyn Task>);

/// One row: a node and a task with work to do on it.
pub(super) struct Row {
    /// Its kind first.
    pub(super) name: &'static str,
    pub(super) make: fn() -> Made,
    /// What is done to the node after it had converged; nothing means it never had.
    pub(super) damage: Option<fn(&Debian, &Rig)>,
    /// What must be so at any time, whatever happened.
    pub(super) always: fn(&Debian, &Rig),
    /// What must be so in the end, beside that the task is content.
    pub(super) end: fn(&Debian, &Rig),
}

pub(super) fn rows() -> Vec<Row> {
    let row = |name, make, damage, end| Row { name, make, damage, always: |_, _| (), end };
    let doors = |name, damage| Row { always: a_way_in, ..row(name, access_to_image, damage, closed) };
    vec![
        row("hostname, another", hostname, None, is_called),
        row("hostname, its file gone", hostname, Some(|_, rig| gone(rig, "/etc/hostname")), is_called),
        row(
            "hostname, renamed until the next boot",
            hostname,
            Some(|_, rig| write(rig, "/proc/sys/kernel/hostname", "other\n")),
            is_called,
        ),
        row("hosts, from nothing", hosts, None, knows),
        row("hosts, its block gone", hosts, Some(|_, rig| write(rig, "/etc/hosts", LOCALHOST)), knows),
        row("lvm, an added disk", lvm::tests::made, None, grown),
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
        row("certificate, key gone", certificate, Some(|_, rig| gone(rig, certificate::KEY)), |_, _| ()),
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
            Some(|_, rig| write(rig, certificate::CERTIFICATE, "another")),
            member,
        ),
        row("database, from nothing", database::tests::made, None, laid_out),
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

/// By file and kernel.
fn is_called(_: &Debian, rig: &Rig) {
    assert_eq!(
        (rig.text("/etc/hostname"), rig.text("/proc/sys/kernel/hostname")),
        ("n\n".into(), "n\n".into())
    );
}

fn knows(_: &Debian, rig: &Rig) {
    let text = rig.text("/etc/hosts");
    assert!(text.starts_with(LOCALHOST) && text.contains("\n10.0.0.1 n\n"), "{text}");
}

/// A disk of which it is not known whether it was taken is not taken for somebody else's, nor made anew.
fn grown(debian: &Debian, _: &Rig) {
    assert!((1..=2).contains(&debian.ran("pvcreate").len()) && !debian.ran("resize2fs").is_empty());
}

/// Once, or again if nothing was known of the first time.
fn laid_out(debian: &Debian, _: &Rig) {
    let (made, moved) = (debian.ran("query create table"), debian.ran("query reconfigure"));
    assert!((1..=2).contains(&made.len()) && moved.is_empty(), "{:?}", debian.ran(""));
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
    assert_eq!(rig.text("/etc/rethinkdb/tls/cert.pem"), rig.text(certificate::CERTIFICATE));
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
    let (rig, task) = certificate::tests::made();
    (Arc::default(), rig, task)
}

fn hostname() -> Made {
    let (debian, rig) =
        Debian::rig(&[("/etc/hostname", "debian\n"), ("/proc/sys/kernel/hostname", "debian\n")]);
    (debian, rig, Arc::new(Hostname::new(TaskId::new("hostname"), "n".into())))
}

fn hosts() -> Made {
    let (debian, rig) = Debian::rig(&[("/etc/hosts", LOCALHOST)]);
    let entry = v1::HostsEntry { address: "10.0.0.1".into(), names: vec!["n".into()] };
    (debian, rig, Arc::new(Hosts::new(TaskId::new("hosts"), vec![entry])))
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
