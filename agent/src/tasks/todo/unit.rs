//! The unit of the todo application: what it is started with, and how little it may do.

use fleet_proto::v1::TodoTask;
use fleet_task::TaskError;

use crate::tasks::certificate::{CERTIFICATE, KEY};

/// The program.
pub(super) const PROGRAM: &str = "/usr/local/lib/fleet/fleet-todo";
/// Its own user, who owns nothing.
pub(super) const USER: &str = "fleet-todo";
pub(super) const NAME: &str = "fleet-todo.service";
pub(super) const FILE: &str = "/etc/systemd/system/fleet-todo.service";
/// Below this a port needs a privilege, and the program has none.
const FIRST_PORT: u32 = 1024;
/// Longest name the program takes.
const MAX_NAME: usize = 63;

/// The port, checked.
pub(super) fn port(spec: &TodoTask) -> Result<u16, TaskError> {
    let port = u16::try_from(spec.port).ok().filter(|_| spec.port >= FIRST_PORT);
    port.ok_or_else(|| TaskError::Refused {
        why: format!("{} is no port of {FIRST_PORT} or above", spec.port),
        next: "correct the plan".into(),
    })
}

/// The unit file for a node of that name.
pub(super) fn render(spec: &TodoTask, node: &str) -> Result<String, TaskError> {
    let port = port(spec)?;
    for (name, more) in [(&spec.database, ""), (&spec.table, ""), (&node.to_owned(), "-.")] {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || more.contains(c);
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(letter) || name.starts_with('-') {
            return Err(TaskError::Refused {
                why: format!("`{}` is no name the todo application takes", name.escape_debug()),
                next: "correct the plan".into(),
            });
        }
    }
    let (database, table) = (&spec.database, &spec.table);
    Ok(format!(
        "# Written by fleet-agent; what is changed in here by hand is changed back.
[Unit]
Description=Todo list of the fleet
Wants=network-online.target
After=network-online.target
# One that cannot start is left for the agent to look at.
StartLimitIntervalSec=60
StartLimitBurst=10

[Service]
Type=notify
User={USER}
Group={USER}
ExecStart={PROGRAM} --listen [::]:{port} --driver 127.0.0.1:28015 --database {database} --table {table} --node {node}
LoadCredential=cert.pem:{CERTIFICATE}
LoadCredential=key.pem:{KEY}
Restart=always
RestartSec=2
LimitNOFILE=65536
MemoryMax=128M
TasksMax=64

NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateDevices=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077

[Install]
WantedBy=multi-user.target
"
    ))
}
