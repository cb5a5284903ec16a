//! A machine with disks that only exists in memory: answers the storage programs.
//!
//! For tests of this task, and for agents run below another root folder than `/`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fleet_task::{Command, CommandError, Output, Runner};
use serde_json::{Value, json};

const EXTENT: u64 = 4 << 20;
const START: u64 = 1 << 20;

#[derive(Clone, Debug)]
enum Content {
    Blank,
    Signature(String),
    Pv { uuid: String, joined: bool, size: u64 },
}

#[derive(Clone, Debug)]
struct FakeDisk {
    path: String,
    size: u64,
    content: Content,
}

#[derive(Debug, Default)]
struct State {
    disks: Vec<FakeDisk>,
    /// Bytes of the system disk's physical volume.
    system: u64,
    /// Bytes of the group no volume has.
    free: u64,
    volume: u64,
    file_system: u64,
    written: Vec<String>,
}

/// The machine: a partitioned system disk with `rootvol00/rootlvol00` on `/`, and whatever is added.
#[derive(Debug)]
pub struct DiskMachine(Mutex<State>);

impl DiskMachine {
    /// A machine whose system volume has this many bytes.
    pub fn new(system: u64) -> Self {
        Self(Mutex::new(State { system, volume: system, file_system: system, ..State::default() }))
    }

    /// The same with a blank disk.
    #[must_use]
    pub fn with_disk(self, path: &str, size: u64) -> Self {
        self.with(path, size, Content::Blank)
    }

    /// The same with a disk that carries a signature.
    #[must_use]
    pub fn with_signature(self, path: &str, size: u64, kind: &str) -> Self {
        self.with(path, size, Content::Signature(kind.into()))
    }

    /// The same with a disk that is a physical volume of no group.
    #[must_use]
    pub fn with_orphan(self, path: &str, size: u64, uuid: &str) -> Self {
        self.with(path, size, Content::Pv { uuid: uuid.into(), joined: false, size: usable(size) })
    }

    fn with(self, path: &str, size: u64, content: Content) -> Self {
        self.lock().disks.push(FakeDisk { path: path.into(), size, content });
        self
    }

    /// Makes a disk larger, as a cloud does.
    pub fn grow(&self, path: &str, size: u64) {
        if let Some(disk) = self.lock().disks.iter_mut().find(|disk| disk.path == path) {
            disk.size = size;
        }
    }

    /// Size of the root file system in bytes.
    pub fn file_system(&self) -> u64 {
        self.lock().file_system
    }

    /// The commands that wrote, or tried to.
    pub fn written(&self) -> Vec<String> {
        self.lock().written.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answer(&self, command: &Command) -> Output {
        let mut state = self.lock();
        let args: Vec<&str> = command.args.iter().map(String::as_str).collect();
        let looked = match command.program.as_str() {
            "lsblk" => state.lsblk(),
            "pvs" => state.pvs(),
            "lvs" => state.lvs(),
            "wipefs" => state.wipefs(args.last().copied().unwrap_or_default()),
            "dumpe2fs" => {
                let text = format!("Block count: {}\nBlock size: 4096\n", state.file_system / 4096);
                return Output::ok(text);
            }
            program => {
                state.written.push(command.to_string());
                return state.write(program, &args);
            }
        };
        Output::ok(looked.to_string())
    }
}

#[async_trait]
impl Runner for DiskMachine {
    async fn output(&self, command: &Command) -> Result<Output, CommandError> {
        Ok(self.answer(command))
    }
}

/// What LVM can use of a device.
fn usable(size: u64) -> u64 {
    (size - START) / EXTENT * EXTENT
}

fn failure(said: &str) -> Output {
    Output { code: Some(5), stdout: Vec::new(), stderr: said.into() }
}

impl State {
    fn lsblk(&self) -> Value {
        let volume = json!({"name": "rootvol00-rootlvol00", "path": "/dev/mapper/rootvol00-rootlvol00",
            "type": "lvm", "size": self.volume, "ro": false, "pttype": null, "mountpoints": ["/"]});
        let mut devices =
            vec![json!({"name": "sda", "path": "/dev/sda", "type": "disk", "size": self.system,
            "ro": false, "pttype": "gpt", "mountpoints": [null], "children": [
                {"name": "sda2", "path": "/dev/sda2", "type": "part", "size": self.system, "ro": false,
                 "pttype": "gpt", "mountpoints": [null], "children": [volume]}]})];
        devices.extend(self.disks.iter().map(|disk| {
            json!({"name": disk.path.trim_start_matches("/dev/"), "path": disk.path, "type": "disk",
                "size": disk.size, "ro": false, "pttype": null, "mountpoints": [null]})
        }));
        json!({ "blockdevices": devices })
    }

    fn pvs(&self) -> Value {
        let row = |path: &str, uuid: &str, size: u64, device: u64, joined: bool| {
            let (group, free, extent) = match joined {
                true => ("rootvol00", self.free.to_string(), EXTENT.to_string()),
                false => ("", String::new(), String::new()),
            };
            json!({"pv_name": path, "pv_uuid": uuid, "pv_size": size.to_string(),
                "dev_size": device.to_string(), "pe_start": START.to_string(),
                "vg_name": group, "vg_free": free, "vg_extent_size": extent})
        };
        let mut rows = vec![row("/dev/sda2", "system", self.system, self.system + START, true)];
        for disk in &self.disks {
            if let Content::Pv { uuid, joined, size } = &disk.content {
                rows.push(row(&disk.path, uuid, *size, disk.size, *joined));
            }
        }
        json!({ "report": [{ "pv": rows }] })
    }

    fn lvs(&self) -> Value {
        json!({ "report": [{ "lv": [{"vg_name": "rootvol00", "lv_name": "rootlvol00",
            "lv_path": "/dev/rootvol00/rootlvol00", "lv_size": self.volume.to_string()}] }] })
    }

    fn wipefs(&self, path: &str) -> Value {
        let found = self.disks.iter().find(|disk| disk.path == path).map(|disk| &disk.content);
        let signatures: Vec<Value> = match found {
            Some(Content::Signature(kind)) => vec![json!({ "type": kind, "label": null })],
            _ => Vec::new(),
        };
        json!({ "signatures": signatures })
    }

    fn write(&mut self, program: &str, args: &[&str]) -> Output {
        let last = args.last().copied().unwrap_or_default();
        let disk = self.disks.iter_mut().find(|disk| disk.path == last);
        match (program, disk) {
            ("pvcreate", Some(disk)) => match (&disk.content, args) {
                (Content::Blank, ["--uuid", uuid, "--norestorefile", _]) => {
                    disk.content =
                        Content::Pv { uuid: (*uuid).into(), joined: false, size: usable(disk.size) };
                }
                _ => return failure("the disk is not blank"),
            },
            ("vgextend", Some(disk)) => match &mut disk.content {
                Content::Pv { joined, size, .. } if !*joined => {
                    *joined = true;
                    self.free += *size;
                }
                _ => return failure("not a free physical volume"),
            },
            ("pvresize", Some(disk)) => match &mut disk.content {
                Content::Pv { size, joined: true, .. } => {
                    self.free += usable(disk.size) - *size;
                    *size = usable(disk.size);
                }
                _ => return failure("not a physical volume of the group"),
            },
            ("lvextend", _) => {
                self.volume += self.free;
                self.free = 0;
            }
            ("resize2fs", _) => self.file_system = self.volume,
            _ => return failure("no such device"),
        }
        Output::ok("")
    }
}
