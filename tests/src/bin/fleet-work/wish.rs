//! What is desired of the node: what the seed of the reference fleet has to do, and four tasks of it.

use fleet_proto::v1::{
    AccessTask, CertificateTask, ClockTask, DatabaseTask, Desired, HostnameTask, HostsEntry, HostsTask,
    LvmTask, PackageTask, RethinkdbMember, RethinkdbTask, TaskSpec, TodoTask, UpdateTask,
    rethinkdb_task::Source, task_spec::Kind,
};

use crate::controller::artifact;

/// How many tasks the small one has.
pub const FOUR: usize = 4;
/// Servers of the cluster with their locations; the first is this node's own.
pub const SERVERS: [(&str, &str); 5] = [
    ("node1", "Amsterdam"),
    ("node2", "Amsterdam"),
    ("node3", "Frankfurt"),
    ("node4", "London"),
    ("node5", "Brussels"),
];
/// The volume group of the root volume, and the volume.
pub const GROUP: &str = "rootvol00";
pub const VOLUME: &str = "rootlvol00";

/// The private address of a server.
pub fn address(nth: usize) -> String {
    format!("2001:db8:7::{}", nth + 1)
}

/// What the certificate of the node's services holds.
pub fn names() -> Vec<String> {
    vec![SERVERS[0].0.to_owned(), address(0)]
}

fn members() -> Vec<RethinkdbMember> {
    let member = |(nth, (name, tag)): (usize, &(&str, &str))| RethinkdbMember {
        server_name: (*name).to_owned(),
        address: address(nth),
        tag: (*tag).to_owned(),
    };
    SERVERS.iter().enumerate().map(member).collect()
}

fn hosts() -> Kind {
    let entry = |(nth, (name, _)): (usize, &(&str, &str))| HostsEntry {
        address: address(nth),
        names: vec![(*name).to_owned()],
    };
    Kind::Hosts(HostsTask { entries: SERVERS.iter().enumerate().map(entry).collect() })
}

fn clock() -> Kind {
    Kind::Clock(ClockTask { servers: Vec::new(), most_offset_ms: 500 })
}

fn access() -> Kind {
    // Nobody has the private half.
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl operator";
    Kind::Access(AccessTask { login: "fleet".into(), authorized_keys: vec![key.into()] })
}

fn desired(generation: u64, tasks: Vec<(&str, Kind)>) -> Desired {
    let spec = |(name, kind): (&str, Kind)| TaskSpec {
        name: name.to_owned(),
        phase: name.to_owned(),
        kind: Some(kind),
        ..TaskSpec::default()
    };
    Desired { generation, tasks: tasks.into_iter().map(spec).collect(), recheck_s: 0 }
}

/// All tasks of the seed.
pub fn reference() -> anyhow::Result<Desired> {
    let (name, tag) = SERVERS[0];
    let rethinkdb = RethinkdbTask {
        instance: "fleet".into(),
        server_name: name.into(),
        server_tags: vec![tag.into()],
        canonical_address: address(0),
        members: members(),
        seed: true,
        cache_mb: 100,
        source: Some(Source::Package(artifact("rethinkdb-standin.deb")?)),
    };
    let database = DatabaseTask {
        database: "todo".into(),
        table: "tasks".into(),
        replicas: 3,
        members: members(),
        primary_tag: tag.into(),
    };
    let todo = TodoTask {
        program: Some(artifact("fleet-todo")?),
        port: 5000,
        database: "todo".into(),
        table: "tasks".into(),
    };
    let lvm = LvmTask {
        volume_group: GROUP.into(),
        logical_volume: VOLUME.into(),
        mount_point: "/".into(),
        expected_disks: 1,
    };
    Ok(desired(
        1,
        vec![
            ("hostname", Kind::Hostname(HostnameTask { hostname: name.into() })),
            ("hosts", hosts()),
            ("root-volume", Kind::Lvm(lvm)),
            ("clock", clock()),
            ("access", access()),
            ("update", Kind::Update(UpdateTask { every_hours: 24, reboot: false })),
            ("certificate", Kind::Certificate(CertificateTask { names: names() })),
            ("rethinkdb", Kind::Rethinkdb(rethinkdb)),
            ("database", Kind::Database(database)),
            ("todo", Kind::Todo(todo)),
        ],
    ))
}

/// What others are measured by: hosts, clock, the drop-in of sshd, five packages.
pub fn four() -> Desired {
    let names = ["openssh-server", "sudo", "chrony", "lvm2", "ca-certificates"].map(str::to_owned);
    let packages = Kind::Package(PackageTask { names: names.into(), absent: false });
    desired(2, vec![("hosts", hosts()), ("clock", clock()), ("access", access()), ("packages", packages)])
}
