//! What a server can be busy with, and what comes of it.

use std::net::Ipv4Addr;

use fleet_mcp::types::{Ipv6, PowerAction, Server, State as Phase, ToolsStatus, ToolsVersion};
use serde::{Deserialize, Serialize};

use super::{
    Step, nic,
    record::{Record, Under},
};
use crate::backing::{Id, Stop};

/// What a server is busy with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Being made, and started if asked.
    Deploy {
        /// Power it on as well.
        start: bool,
        /// With other disk speeds than its image has.
        #[serde(default)]
        speeds: bool,
    },
    /// Powering on.
    Start,
    /// The guest shuts down.
    Shutdown,
    /// Plug pulled.
    PowerOff,
    /// The guest reboots.
    Reboot,
    /// Hard reset.
    Reset,
    /// CPUs or memory change.
    Reconfigure {
        /// New number of CPUs.
        cpus: Option<u32>,
        /// New cores per socket.
        cores_per_socket: Option<u32>,
        /// New speed.
        speed: Option<String>,
        /// New memory.
        memory_gb: Option<u32>,
    },
    /// A disk is added; it is listed already.
    AddDisk(Id),
    /// A disk is removed; it is still listed.
    RemoveDisk(Id),
    /// A disk grows.
    ExpandDisk(Id, u32),
    /// A disk changes its speed.
    ChangeDiskSpeed(Id, String),
    /// A network card is added; it is listed already.
    AddNic(Id),
    /// A network card is removed; it is still listed.
    RemoveNic(Id),
    /// The guest has given a network card other addresses.
    NotifyNic {
        /// Which card.
        nic: Id,
        /// Its new IPv4 address.
        ipv4: Option<Ipv4Addr>,
        /// Its new IPv6 address.
        ipv6: Option<Ipv6>,
    },
    /// Two network cards change places.
    ExchangeNics(Id, Id),
    /// A network card becomes another model.
    ChangeAdapter(Id, String),
    /// An image is made of it.
    Clone(Id),
    /// The guest tools are updated.
    UpdateTools,
    /// Being deleted.
    Delete,
    /// Being removed after a failure.
    Clean,
}

impl Operation {
    /// What `progress` calls it.
    pub fn action(&self) -> PowerAction {
        match self {
            Self::Deploy { speeds: true, .. } => PowerAction::DeployWithDiskSpeed,
            Self::Deploy { .. } => PowerAction::Deploy,
            Self::Start => PowerAction::Start,
            Self::Shutdown => PowerAction::Shutdown,
            Self::PowerOff => PowerAction::PowerOff,
            Self::Reboot => PowerAction::Reboot,
            Self::Reset => PowerAction::Reset,
            Self::Reconfigure { .. } => PowerAction::Reconfigure,
            Self::AddDisk(_) => PowerAction::AddDisk,
            Self::RemoveDisk(_) => PowerAction::RemoveDisk,
            Self::ExpandDisk(..) => PowerAction::ExpandDisk,
            Self::ChangeDiskSpeed(..) => PowerAction::ChangeDiskSpeed,
            Self::AddNic(_) => PowerAction::AddNic,
            Self::RemoveNic(_) => PowerAction::RemoveNic,
            Self::NotifyNic { .. } => PowerAction::NotifyNicIpChange,
            Self::ExchangeNics(..) => PowerAction::ExchangeNicVlans,
            Self::ChangeAdapter(..) => PowerAction::ChangeNetworkAdapter,
            Self::Clone(_) => PowerAction::CloneServer,
            Self::UpdateTools => PowerAction::UpdateTools,
            Self::Delete => PowerAction::Delete,
            Self::Clean => PowerAction::Clean,
        }
    }

    /// State of the server meanwhile.
    pub(crate) fn pending(&self) -> Phase {
        match self {
            Self::Deploy { .. } => Phase::PendingAdd,
            Self::Delete => Phase::PendingDelete,
            Self::Clean => Phase::PendingClean,
            _ => Phase::PendingChange,
        }
    }

    /// State of the server if it fails.
    pub(crate) fn failed(&self) -> Phase {
        match self {
            Self::Deploy { .. } => Phase::FailedAdd,
            Self::Delete | Self::Clean => Phase::FailedDelete,
            _ => Phase::FailedChange,
        }
    }

    /// Makes `server` what it is once the operation has succeeded.
    pub(crate) fn effect(&self, server: &mut Server) {
        match self {
            Self::Deploy { start, .. } => {
                server.deployed = true;
                power(server, *start);
                settle_parts(server);
            }
            Self::Start | Self::Reboot | Self::Reset => power(server, true),
            Self::Shutdown | Self::PowerOff => power(server, false),
            Self::Reconfigure { cpus, cores_per_socket, speed, memory_gb } => {
                server.cpu.count = cpus.unwrap_or(server.cpu.count);
                server.cpu.cores_per_socket = cores_per_socket.or(server.cpu.cores_per_socket);
                server.cpu.speed = speed.clone().or(server.cpu.speed.take());
                server.memory_gb = memory_gb.unwrap_or(server.memory_gb);
            }
            Self::RemoveDisk(id) => {
                server.disk.retain(|disk| disk.id.as_ref().is_none_or(|own| own.as_str() != id));
            }
            Self::ExpandDisk(id, size_gb) => {
                for disk in server.disk.iter_mut().filter(|disk| is(disk.id.as_ref(), id)) {
                    disk.size_gb = *size_gb;
                }
            }
            Self::ChangeDiskSpeed(id, speed) => {
                for disk in server.disk.iter_mut().filter(|disk| is(disk.id.as_ref(), id)) {
                    disk.speed = Some(speed.clone());
                }
            }
            Self::RemoveNic(id) => {
                if let Some(network) = &mut server.network_info {
                    network.additional_nic.retain(|nic| nic.id.as_str() != id);
                }
            }
            Self::AddDisk(_) | Self::AddNic(_) => settle_parts(server),
            Self::NotifyNic { nic, ipv4, ipv6 } => nic::with_card(&mut server.network_info, nic, |card| {
                card.private_ipv4 = ipv4.or(card.private_ipv4);
                card.ipv6 = ipv6.or(card.ipv6);
            }),
            Self::ExchangeNics(one, other) => nic::exchange(&mut server.network_info, one, other),
            Self::ChangeAdapter(nic, adapter) => nic::with_card(&mut server.network_info, nic, |card| {
                card.network_adapter = Some(adapter.clone());
            }),
            Self::UpdateTools => {
                if let Some(tools) = server.guest.as_mut().and_then(|guest| guest.vm_tools.as_mut()) {
                    tools.version_status = Some(ToolsVersion::Current);
                }
            }
            Self::Clone(_) | Self::Delete | Self::Clean => {}
        }
    }

    /// What the backing has to do. `target` is the server once the operation has succeeded.
    pub(crate) fn steps(&self, record: &Record, target: crate::backing::ServerSpec) -> Vec<Step> {
        match self {
            Self::Deploy { start: true, .. } if !record.ghost => {
                vec![Step::Apply(target.clone()), Step::Start(target)]
            }
            Self::Start if record.ghost => Vec::new(),
            Self::Start => vec![Step::Start(target)],
            // A ghost has nothing to stop, but stopping what does not run is fine, and safe should it run.
            Self::Shutdown if record.ghost => vec![Step::Stop(Stop::PowerOff)],
            Self::Shutdown => vec![Step::Stop(Stop::Graceful)],
            Self::PowerOff => vec![Step::Stop(Stop::PowerOff)],
            Self::Reboot | Self::Reset if record.ghost => Vec::new(),
            // What a guest has not written down yet is safe only if it is told.
            Self::Reboot => vec![Step::Stop(Stop::Graceful), Step::Start(target)],
            Self::Reset => vec![Step::Reset],
            Self::ChangeDiskSpeed(..) | Self::NotifyNic { .. } | Self::UpdateTools => Vec::new(),
            Self::Clone(image) => vec![Step::Clone(target, image.clone())],
            Self::Delete | Self::Clean => vec![Step::Remove],
            Self::Deploy { .. }
            | Self::Reconfigure { .. }
            | Self::AddDisk(_)
            | Self::RemoveDisk(_)
            | Self::ExpandDisk(..)
            | Self::AddNic(_)
            | Self::RemoveNic(_)
            | Self::ExchangeNics(..)
            | Self::ChangeAdapter(..) => vec![Step::Apply(target)],
        }
    }
}

impl Under {
    pub(crate) fn describe(&self) -> &'static str {
        match self.operation {
            Operation::Deploy { .. } => "DEPLOY_SERVER",
            Operation::Start => "START_SERVER",
            Operation::Shutdown => "SHUTDOWN_SERVER",
            Operation::PowerOff => "POWER_OFF_SERVER",
            Operation::Reboot => "REBOOT_SERVER",
            Operation::Reset => "RESET_SERVER",
            Operation::Reconfigure { .. } => "RECONFIGURE_SERVER",
            Operation::AddDisk(_) => "ADD_DISK",
            Operation::RemoveDisk(_) => "REMOVE_DISK",
            Operation::ExpandDisk(..) => "EXPAND_DISK",
            Operation::ChangeDiskSpeed(..) => "CHANGE_DISK_SPEED",
            Operation::AddNic(_) => "ADD_NIC",
            Operation::RemoveNic(_) => "REMOVE_NIC",
            Operation::NotifyNic { .. } => "NOTIFY_NIC_IP_CHANGE",
            Operation::ExchangeNics(..) => "EXCHANGE_NIC_VLANS",
            Operation::ChangeAdapter(..) => "CHANGE_NETWORK_ADAPTER",
            Operation::Clone(_) => "CLONE_SERVER",
            Operation::UpdateTools => "UPDATE_VMWARE_TOOLS",
            Operation::Delete => "DELETE_SERVER",
            Operation::Clean => "CLEAN_SERVER",
        }
    }
}

fn is<T>(id: Option<&fleet_mcp::Id<T>>, text: &str) -> bool {
    id.is_some_and(|id| id.as_str() == text)
}

/// Shows a server as on or off. Its guest tools follow.
pub(crate) fn power(server: &mut Server, on: bool) {
    server.started = on;
    let status = if on { ToolsStatus::Running } else { ToolsStatus::NotRunning };
    if let Some(tools) = server.guest.as_mut().and_then(|guest| guest.vm_tools.as_mut()) {
        tools.running_status = Some(status);
    }
}

/// Disks and cards that were being made are there.
fn settle_parts(server: &mut Server) {
    for disk in &mut server.disk {
        disk.state = Some(Phase::Normal);
    }
    if let Some(network) = &mut server.network_info {
        network.primary_nic.state = Some(Phase::Normal);
        for nic in &mut network.additional_nic {
            nic.state = Some(Phase::Normal);
        }
    }
}
