//! Servers changed: CPUs, memory, disks, network cards.

use fleet_mcp::types::{AddDisk, Disk, ReconfigureServer, State as Phase};

use super::{Context, Done, Operation, Refused, State, Work, catalogue, power::usable, uuid};
use crate::settings::Quotas;

type Changed = Result<(Done, Vec<Work>), Refused>;

/// Highest place on the bus; 7 is the controller itself.
const LAST_SCSI_ID: u8 = 14;
const CONTROLLER_SCSI_ID: u8 = 7;
/// Disk speeds, as the catalogue lists them.
const DISK_SPEEDS: [&str; 3] = ["STANDARD", "HIGHPERFORMANCE", "ECONOMY"];

impl State {
    pub(crate) fn reconfigure(&mut self, request: &ReconfigureServer, cx: &mut Context<'_>) -> Changed {
        let id = request.id.as_str();
        let record = self.record(id)?;
        usable(record)?;
        check_size(request.cpu_count, request.memory_gb, cx.quotas)?;
        if record.entity.started {
            return Err(Refused::new("SERVER_STARTED", format!("Server {id} is started; stop it first.")));
        }
        let operation = Operation::Reconfigure {
            cpus: request.cpu_count,
            cores_per_socket: request.cores_per_socket,
            speed: request.cpu_speed.clone(),
            memory_gb: request.memory_gb,
        };
        let (mut done, work) = self.begin(id, operation, cx)?;
        done.in_progress = !cx.choices.reconfigure_answers_ok;
        Ok((done, work))
    }

    /// Adds a disk to the server with this controller.
    pub(crate) fn add_disk_to(
        &mut self,
        controller: &str,
        request: &AddDisk,
        cx: &mut Context<'_>,
    ) -> Changed {
        let mut servers = self.servers.iter().map(super::Record::id);
        let server = servers.find(|server| controller_id(server) == controller);
        let server = server.ok_or_else(|| Refused::not_found("SCSI controller", controller))?;
        self.add_disk(&AddDisk { id: server.into(), ..request.clone() }, cx)
    }

    pub(crate) fn add_disk(&mut self, request: &AddDisk, cx: &mut Context<'_>) -> Changed {
        let id = request.id.as_str();
        let record = self.record(id)?;
        usable(record)?;
        check_disk_size(request.size_gb, cx.quotas)?;
        let held: u32 =
            record.entity.disk.iter().filter(|disk| disk.scsi_id > 0).map(|disk| disk.size_gb).sum();
        if held.saturating_add(request.size_gb) > cx.quotas.storage_gb {
            return Err(Refused::limit("GB of additional storage per server", cx.quotas.storage_gb));
        }
        let taken = |scsi_id: u8| record.entity.disk.iter().any(|disk| disk.scsi_id == scsi_id);
        let mut places = (0..=LAST_SCSI_ID).filter(|place| *place != CONTROLLER_SCSI_ID && !taken(*place));
        let scsi_id = match request.scsi_id {
            None => places.next().ok_or_else(|| Refused::limit("disks per server", LAST_SCSI_ID))?,
            Some(wanted) if places.any(|place| place == wanted) => wanted,
            Some(wanted) => {
                return Err(Refused::invalid(format!("SCSI id {wanted} is taken or not usable.")));
            }
        };
        let speed = disk_speed(request.speed.as_deref().unwrap_or("STANDARD"))?;
        let disk = uuid(cx.rng);
        let listed = Disk {
            id: Some(disk.as_str().into()),
            scsi_id,
            size_gb: request.size_gb,
            speed: Some(speed.to_owned()),
            state: Some(Phase::PendingAdd),
        };
        let disks = &mut self.record_mut(id)?.entity.disk;
        disks.push(listed);
        disks.sort_by_key(|disk| disk.scsi_id);
        let (done, work) = self.begin(id, Operation::AddDisk(disk.clone()), cx)?;
        let done = done.info("diskId", disk).info("scsiId", scsi_id.to_string()).info("speed", speed);
        Ok((done.info(CONTROLLER_INFO[0], controller_id(id)).info(CONTROLLER_INFO[1], "0"), work))
    }

    pub(crate) fn remove_disk(&mut self, disk: &str, cx: &mut Context<'_>) -> Changed {
        let (server, found) = self.with_disk(None, disk)?;
        if found.scsi_id == 0 {
            return Err(Refused::new("OPERATION_NOT_SUPPORTED", "The system disk cannot be removed."));
        }
        let record = self.record(&server)?;
        usable(record)?;
        if record.entity.started {
            return Err(Refused::new(
                "SERVER_STARTED",
                format!("Server {server} is started; stop it first."),
            ));
        }
        self.begin(&server, Operation::RemoveDisk(disk.to_owned()), cx)
    }

    pub(crate) fn expand_disk(
        &mut self,
        server: Option<&str>,
        disk: &str,
        size_gb: u32,
        cx: &mut Context<'_>,
    ) -> Changed {
        let (server, found) = self.with_disk(server, disk)?;
        usable(self.record(&server)?)?;
        check_disk_size(size_gb, cx.quotas)?;
        if size_gb == found.size_gb {
            return Err(Refused::new("NO_CHANGE", "The disk has this size already."));
        }
        if size_gb < found.size_gb {
            return Err(Refused::invalid(format!(
                "A disk of {} GB cannot shrink to {size_gb} GB.",
                found.size_gb
            )));
        }
        self.begin(&server, Operation::ExpandDisk(disk.to_owned(), size_gb), cx)
    }

    pub(crate) fn change_disk_speed(
        &mut self,
        server: Option<&str>,
        disk: &str,
        speed: &str,
        cx: &mut Context<'_>,
    ) -> Changed {
        let (server, found) = self.with_disk(server, disk)?;
        usable(self.record(&server)?)?;
        let speed = disk_speed(speed)?;
        if found.speed.as_deref() == Some(speed) {
            return Err(Refused::new("NO_CHANGE", "The disk has this speed already."));
        }
        self.begin(&server, Operation::ChangeDiskSpeed(disk.to_owned(), speed.to_owned()), cx)
    }

    /// The server with this disk, and the disk; the server must be `server` if that is given.
    fn with_disk(&self, server: Option<&str>, disk: &str) -> Result<(String, Disk), Refused> {
        if let Some(server) = server {
            self.record(server)?;
        }
        let holds = |record: &&super::Record| {
            record.has_disk(disk) && server.is_none_or(|server| server == record.id())
        };
        let record = self.servers.iter().find(holds).ok_or_else(|| Refused::not_found("Disk", disk))?;
        let mut disks = record.entity.disk.iter();
        let found = disks.find(|own| own.id.as_ref().is_some_and(|id| id.as_str() == disk));
        let found = found.ok_or_else(|| Refused::not_found("Disk", disk))?;
        Ok((record.id().to_owned(), found.clone()))
    }
}

/// What newer versions say of the controller of a new disk.
const CONTROLLER_INFO: [&str; 2] = ["scsiControllerId", "busNumber"];

/// Whether a word of an answer is about the controller of a new disk.
pub(crate) fn is_about_controllers(info: &str) -> bool {
    CONTROLLER_INFO.contains(&info)
}

/// Id of a server's or image's one SCSI controller; made of its own, so that it stays the same.
pub(crate) fn controller_id(of: &str) -> String {
    catalogue::derived_id(&format!("scsi-controller/{of}"))
}

/// Within what the platform offers.
pub(crate) fn check_size(cpus: Option<u32>, memory_gb: Option<u32>, quotas: &Quotas) -> Result<(), Refused> {
    if cpus.is_some_and(|cpus| cpus == 0) || memory_gb.is_some_and(|memory| memory == 0) {
        return Err(Refused::invalid("CPU count and memory must be at least 1."));
    }
    if cpus.is_some_and(|cpus| cpus > quotas.cpus) {
        return Err(Refused::limit("CPUs per server", quotas.cpus));
    }
    if memory_gb.is_some_and(|memory| memory > quotas.memory_gb) {
        return Err(Refused::limit("GB of memory per server", quotas.memory_gb));
    }
    Ok(())
}

fn check_disk_size(size_gb: u32, quotas: &Quotas) -> Result<(), Refused> {
    if (quotas.min_disk_gb..=quotas.max_disk_gb).contains(&size_gb) {
        return Ok(());
    }
    let range = format!("{} to {} GB", quotas.min_disk_gb, quotas.max_disk_gb);
    Err(Refused::invalid(format!("A disk has {range}, not {size_gb}.")))
}

/// The speed as the catalogue spells it; a public client passes it in lower case.
pub(crate) fn disk_speed(speed: &str) -> Result<&'static str, Refused> {
    let known = DISK_SPEEDS.into_iter().find(|known| known.eq_ignore_ascii_case(speed));
    known.ok_or_else(|| Refused::invalid(format!("Disk speed '{speed}' is not known.")))
}
