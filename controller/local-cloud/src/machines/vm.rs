//! The life of one machine: its files, its QEMU, and what it is told while it runs.
//!
//! QEMU leaves the process that starts it at once, so machines run on when the cloud ends and are found again
//! by what their command line says.

use std::{
    collections::BTreeSet,
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    copies::Copies,
    guest,
    image::Image,
    names::Names,
    process::{self, Mark},
    qcow2,
    qemu::{self, Accelerator, Files, PROGRAM, SYSTEM_DISK},
    qmp::Qmp,
    run::{Doing, Program},
};
use crate::backing::{BackingError, DiskSpec, DomainSpec, Id, ServerSpec, Stop};

/// An emulated guest on a busy host takes long to stop its services.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(180);
/// The button is pressed again in case the guest was not listening yet.
const PRESS_INTERVAL: Duration = Duration::from_secs(5);
/// QEMU writes its caches back when told to quit.
const QUIT_TIMEOUT: Duration = Duration::from_secs(20);
/// What is killed outright is gone at once.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Starting sets up memory and devices; the guest does not count.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a guest may take to let go of a disk.
const UNPLUG_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// `sun_path` of unix(7) has 108 bytes with its zero.
const LONGEST_SOCKET_PATH: usize = 107;
const GIB: u64 = 1 << 30;

/// All machines of one cloud.
#[derive(Debug)]
pub struct Vms {
    folder: PathBuf,
    copies: Copies,
    names: Names,
    /// The host as machines reach it: it tells them the time.
    host: Ipv4Addr,
}

impl Vms {
    /// Machines whose files lie in `folder`, one folder each; disks of theirs that became images are `copies`.
    pub fn new(folder: PathBuf, copies: Copies, names: Names, host: Ipv4Addr) -> Self {
        Self { folder, copies, names, host }
    }

    /// Files of one server.
    pub fn files(&self, id: &str) -> Files {
        Files::new(&self.folder, id)
    }

    /// Ids of all servers that have files here.
    pub fn known(&self) -> Vec<Id> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Whether the server's QEMU runs.
    pub fn is_running(&self, id: &str) -> bool {
        self.process(id).is_some()
    }

    /// What marks every machine of the cloud whose servers lie in `folder`.
    pub fn mark(folder: &Path) -> Mark {
        Mark { program: PROGRAM.into(), argument: format!("{}/", folder.display()) }
    }

    fn own_mark(&self, id: &str) -> Mark {
        Self::mark(self.files(id).folder())
    }

    fn process(&self, id: &str) -> Option<i32> {
        process::in_file(&self.files(id).pid(), &self.own_mark(id))
    }

    /// Makes disks match; a running machine sees it at once.
    pub async fn apply(&self, server: &ServerSpec, image: &Image) -> Result<(), BackingError> {
        let files = self.files(&server.id);
        let longest = files.console();
        if longest.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(BackingError::Host {
                what: format!("the path {} is too long for a socket", longest.display()),
                fix: "use a shorter folder: export FLEET_HOME=/…".into(),
            });
        }
        fs::DirBuilder::new()
            .recursive(true)
            .create(files.folder())
            .and_then(|()| fs::write(files.domain(), &server.domain))
            .map_err(|source| Doing::new(format!("make {}", files.folder().display())).io(source))?;
        if let Some(copy) = &server.image
            && !files.made().exists()
        {
            self.copies.lay_out(copy, server, &files).await?;
        }
        if let Some(password) = &server.root_password {
            let hash = guest::hash(password.reveal())?;
            write_secret(&files.password(), &hash)
                .map_err(|source| Doing::new(format!("write {}", files.password().display())).io(source))?;
        }
        let mut qmp = match self.is_running(&server.id) {
            true => Some(Qmp::connect(&files.qmp()).await?),
            false => None,
        };
        for disk in &server.disks {
            let path = files.disk(disk);
            let doing = || Doing::new(format!("make disk {}", path.display()));
            let bytes = u64::from(disk.size_gb) * GIB;
            match (&mut qmp, path.exists()) {
                (_, false) => make_disk(disk, &path, image, bytes).map_err(|source| doing().io(source))?,
                (None, true) => grow_disk(disk, &path, bytes).map_err(|source| doing().io(source))?,
                (Some(_), true) => {}
            }
            if let Some(qmp) = &mut qmp {
                plug_disk(qmp, &files, disk, bytes).await?;
            }
        }
        self.remove_other_disks(server, &files, qmp.as_mut()).await?;
        fs::write(files.made(), "")
            .map_err(|source| Doing::new(format!("write {}", files.made().display())).io(source))
    }

    /// Copies a stopped server's disks into an image.
    pub async fn copy(&self, server: &ServerSpec, image: &str) -> Result<(), BackingError> {
        if self.is_running(&server.id) {
            return Err(BackingError::Host {
                what: format!("server {} still runs, so its disks are not at rest", server.id),
                fix: "shut it down first".into(),
            });
        }
        self.copies.take(server, &self.files(&server.id), image).await
    }

    /// Deletes disks the server no longer has.
    async fn remove_other_disks(
        &self,
        server: &ServerSpec,
        files: &Files,
        mut qmp: Option<&mut Qmp>,
    ) -> Result<(), BackingError> {
        let wanted: BTreeSet<PathBuf> = server.disks.iter().map(|disk| files.disk(disk)).collect();
        let doing = || Doing::new(format!("remove disks from {}", files.folder().display()));
        for entry in fs::read_dir(files.folder()).map_err(|source| doing().io(source))? {
            let path = entry.map_err(|source| doing().io(source))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(id) = name.strip_prefix("disk-").and_then(|rest| rest.strip_suffix(".raw")) else {
                continue;
            };
            if wanted.contains(&path) {
                continue;
            }
            if let Some(qmp) = qmp.as_deref_mut() {
                unplug_disk(qmp, &DiskSpec { id: id.to_owned(), scsi_id: u8::MAX, size_gb: 0 }).await?;
            }
            fs::remove_file(&path).map_err(|source| doing().io(source))?;
        }
        Ok(())
    }

    /// Starts QEMU in the domain's namespace. The guest is still booting when this returns.
    pub async fn start(
        &self,
        server: &ServerSpec,
        domain: &DomainSpec,
        image: &Image,
        accelerator: Accelerator,
    ) -> Result<(), BackingError> {
        if self.is_running(&server.id) {
            return Ok(());
        }
        let files = self.files(&server.id);
        let password = match fs::read_to_string(files.password()) {
            Ok(hash) => Some(hash),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(Doing::new(format!("read {}", files.password().display())).io(source));
            }
        };
        write_secret(&files.document(), &guest::document(server, domain, self.host, password.as_deref()))
            .map_err(|source| Doing::new(format!("write {}", files.document().display())).io(source))?;
        let namespace = self.names.domain(&server.domain);
        Program::new("ip")
            .args(["netns", "exec", &namespace, PROGRAM])
            .args(qemu::arguments(server, &files, image, accelerator, &self.names))
            .timeout(START_TIMEOUT)
            .run(&format!("start server {}", server.id))
            .await?;
        Ok(())
    }

    /// Brings the machine down.
    pub async fn stop(&self, id: &str, how: Stop) -> Result<(), BackingError> {
        let Some(pid) = self.process(id) else { return Ok(()) };
        match how {
            Stop::Graceful => self.shut_down(id, pid).await,
            Stop::PowerOff => self.power_off(id, pid).await,
        }
    }

    async fn shut_down(&self, id: &str, pid: i32) -> Result<(), BackingError> {
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while Instant::now() < deadline {
            // The connection may fail because the machine has just gone, which is what is wanted.
            let pressed = match Qmp::connect(&self.files(id).qmp()).await {
                Ok(mut qmp) => qmp.execute("system_powerdown", Value::Null).await.map(drop),
                Err(error) => Err(error),
            };
            if process::gone(pid, &self.own_mark(id), PRESS_INTERVAL).await {
                return Ok(());
            }
            pressed?;
        }
        Err(BackingError::Deadline {
            doing: format!("shut server {id} down"),
            after_s: SHUTDOWN_TIMEOUT.as_secs(),
        })
    }

    async fn power_off(&self, id: &str, pid: i32) -> Result<(), BackingError> {
        let mark = self.own_mark(id);
        let asked = async {
            let mut qmp = Qmp::connect(&self.files(id).qmp()).await?;
            qmp.execute("quit", Value::Null).await
        };
        if asked.await.is_ok() && process::gone(pid, &mark, QUIT_TIMEOUT).await {
            return Ok(());
        }
        match process::end(pid, &mark, KILL_TIMEOUT).await {
            true => Ok(()),
            false => Err(BackingError::Deadline {
                doing: format!("end process {pid} of server {id}"),
                after_s: KILL_TIMEOUT.as_secs(),
            }),
        }
    }

    /// Hard reset.
    pub async fn reset(&self, id: &str) -> Result<(), BackingError> {
        Qmp::connect(&self.files(id).qmp()).await?.execute("system_reset", Value::Null).await?;
        Ok(())
    }

    /// Powers off and deletes everything of the server.
    pub async fn remove(&self, id: &str) -> Result<(), BackingError> {
        self.stop(id, Stop::PowerOff).await?;
        let folder = self.files(id).folder().to_owned();
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Doing::new(format!("remove {}", folder.display())).io(error))
            }
            _ => Ok(()),
        }
    }
}

fn make_disk(disk: &DiskSpec, path: &Path, image: &Image, bytes: u64) -> io::Result<()> {
    if disk.scsi_id == SYSTEM_DISK {
        return qcow2::create(path, &image.disk(), bytes);
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.set_len(bytes)
}

fn grow_disk(disk: &DiskSpec, path: &Path, bytes: u64) -> io::Result<()> {
    if disk.scsi_id == SYSTEM_DISK {
        return qcow2::grow(path, bytes);
    }
    let file = fs::OpenOptions::new().write(true).open(path)?;
    if bytes > file.metadata()?.len() { file.set_len(bytes) } else { Ok(()) }
}

/// Adds or grows a disk of a running machine.
async fn plug_disk(qmp: &mut Qmp, files: &Files, disk: &DiskSpec, bytes: u64) -> Result<(), BackingError> {
    let node = qemu::node_name(disk);
    match find_node(qmp, &node).await?.map(|known| known["image"]["virtual-size"].as_u64().unwrap_or(0)) {
        None => {
            qmp.execute("blockdev-add", qemu::block_node(files, disk)).await?;
        }
        Some(size) if size < bytes => {
            qmp.execute("block_resize", json!({ "node-name": node, "size": bytes })).await?;
        }
        Some(_) => {}
    }
    if !has_device(qmp, disk).await? {
        qmp.execute("device_add", qemu::scsi_disk(disk)).await?;
    }
    Ok(())
}

/// Takes a disk out of a running machine.
async fn unplug_disk(qmp: &mut Qmp, disk: &DiskSpec) -> Result<(), BackingError> {
    let deadline = Instant::now() + UNPLUG_TIMEOUT;
    if has_device(qmp, disk).await? {
        qmp.execute("device_del", json!({ "id": qemu::device_name(disk) })).await?;
    }
    while has_device(qmp, disk).await? {
        if Instant::now() > deadline {
            return Err(BackingError::Deadline {
                doing: format!("unplug disk {}", disk.id),
                after_s: UNPLUG_TIMEOUT.as_secs(),
            });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    let node = qemu::node_name(disk);
    while find_node(qmp, &node).await?.is_some() {
        match qmp.execute("blockdev-del", json!({ "node-name": node })).await {
            // QEMU lets go of the front end a little after it stopped listing it.
            Err(BackingError::Program { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            answer => drop(answer?),
        }
    }
    Ok(())
}

/// What the machine says about a disk's back end, if it has it.
async fn find_node(qmp: &mut Qmp, node: &str) -> Result<Option<Value>, BackingError> {
    let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true })).await?;
    Ok(nodes.as_array().into_iter().flatten().find(|known| known["node-name"] == node).cloned())
}

/// Whether the machine has the disk's front end.
async fn has_device(qmp: &mut Qmp, disk: &DiskSpec) -> Result<bool, BackingError> {
    let devices = qmp.execute("qom-list", json!({ "path": "/machine/peripheral" })).await?;
    let name = qemu::device_name(disk);
    Ok(devices.as_array().into_iter().flatten().any(|device| device["name"] == name.as_str()))
}

/// Writes a file only root can read; replaces an older one as a whole.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    drop(file);
    fs::rename(&new, path)
}
