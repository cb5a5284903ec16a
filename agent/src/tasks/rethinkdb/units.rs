//! The units around the server: what the package may not bring, and what it should not do.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use fleet_task::{
    Node, TaskError,
    atomic::{self, AtomicError},
};

/// Where packages put a template.
const TEMPLATES: [&str; 2] =
    ["/usr/lib/systemd/system/rethinkdb@.service", "/lib/systemd/system/rethinkdb@.service"];
/// Ours, for packages that bring none.
const TEMPLATE: (&str, &str) = (
    "/etc/systemd/system/rethinkdb@.service",
    "# Written by fleet-agent, since the package brings no such unit.
[Unit]
Description=RethinkDB database server for instance '%i'

[Service]
User=rethinkdb
Group=rethinkdb
ExecStart=/usr/bin/rethinkdb serve --config-file /etc/rethinkdb/instances.d/%i.conf
KillMode=process
PrivateTmp=true

[Install]
WantedBy=multi-user.target
",
);
const ADDITION: (&str, &str) = (
    "/etc/systemd/system/rethinkdb@.service.d/fleet.conf",
    "# Written by fleet-agent.
[Unit]
Wants=network-online.target
After=network-online.target

[Service]
# One that dies comes back; one that cannot start is tried again without hurry.
Restart=on-failure
RestartSec=5
LimitNOFILE=1048576
NoNewPrivileges=yes
ProtectHome=yes
",
);
/// The package's start-up script of old starts every instance a second time.
const SCRIPT: &str = "/etc/systemd/system/rethinkdb.service";
const NOTHING: &str = "/dev/null";

/// What differs, one line each.
pub(super) fn drift(node: &Node) -> Result<Vec<String>, TaskError> {
    let mut drift = Vec::new();
    for (path, text) in wanted(node) {
        if node.read(path)?.as_deref() != Some(text.as_bytes()) {
            drift.push(format!("{path} is not as it should be"));
        }
    }
    if !is_masked(node) {
        drift.push("rethinkdb.service, the old start-up script, is not masked".into());
    }
    Ok(drift)
}

/// Puts them in place; whether systemd has to read them.
pub(super) fn put(node: &Node) -> Result<bool, TaskError> {
    let mut changed = false;
    for (path, text) in wanted(node) {
        if node.read(path)?.as_deref() != Some(text.as_bytes()) {
            folder_of(node, path)?;
            node.write(path, text.as_bytes(), 0o644)?;
            changed = true;
        }
    }
    Ok(mask(node)? | changed)
}

/// Keeps the old start-up script from starting anything, also while the package is being installed.
pub(super) fn mask(node: &Node) -> Result<bool, TaskError> {
    if is_masked(node) {
        return Ok(false);
    }
    folder_of(node, SCRIPT)?;
    let path = node.path(SCRIPT);
    atomic::remove(&path)?;
    let put = symlink(NOTHING, &path).and_then(|()| match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    });
    put.map_err(|source| broken(node, SCRIPT, source))?;
    Ok(true)
}

fn is_masked(node: &Node) -> bool {
    fs::read_link(node.path(SCRIPT)).is_ok_and(|to| to == Path::new(NOTHING))
}

fn wanted(node: &Node) -> impl Iterator<Item = (&'static str, &'static str)> {
    let brought = TEMPLATES.iter().any(|path| node.path(path).exists());
    (!brought).then_some(TEMPLATE).into_iter().chain([ADDITION])
}

/// Makes the folder a file is to be in.
pub(super) fn folder_of(node: &Node, path: &str) -> Result<(), TaskError> {
    match node.path(path).parent() {
        Some(folder) => Ok(atomic::make_folder(folder)?),
        None => Ok(()),
    }
}

fn broken(node: &Node, path: &str, source: io::Error) -> TaskError {
    AtomicError::from_io(&node.path(path), 0, source).into()
}
