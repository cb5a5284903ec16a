//! The command line of a machine; pure.

use std::path::{Path, PathBuf};

use super::{guest, image::Image, names::Names, names::short};
use crate::backing::{DiskSpec, ServerSpec};

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// SCSI id of the system disk.
pub const SYSTEM_DISK: u8 = 0;
/// `mitigations=off`: the guest is one trust domain, and under emulation they cost without protecting.
/// `net.ifnames=0`: cards are found by address, so nothing is gained by renaming them at every boot.
/// `cryptomgr.notests`, `init_on_alloc=0`: a sixth of an emulated kernel's boot goes into testing its ciphers
/// and clearing pages twice. Security modules and audit: the image has no
/// policy for any.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 root=/dev/mapper/rootvol00-rootlvol00 rw net.ifnames=0 \
    mitigations=off cryptomgr.notests init_on_alloc=0 apparmor=0 selinux=0 audit=0 quiet loglevel=4 \
    systemd.show_status=no";

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Accelerator {
    /// The options that select it.
    pub fn arguments(self) -> [&'static str; 4] {
        match self {
            // Hosts that are guests themselves may offer that register and then refuse to set it.
            Self::Kvm => ["-accel", "kvm", "-cpu", "host,arch-capabilities=off"],
            // Without the two features that make guests move memory byte by byte, which emulation is worst at.
            // By default up to 1 GiB of translated code stays in memory, as much again as a small guest. A boot is
            // neither slower nor smaller with a quarter of that, so that much holds all of it.
            Self::Tcg => ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-erms,-fsrm"],
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Board without the parts no server here uses; each costs time to set up and to find.
pub const BOARD: &str = "q35,hpet=off,vmport=off,smbus=off,sata=off,usb=off";

/// Files of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Files of the server `id` in the cloud's folder.
    pub fn new(servers: &Path, id: &str) -> Self {
        Self { folder: servers.join(id) }
    }

    /// The folder of them all.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Process id of its QEMU.
    pub fn pid(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// QEMU's control socket.
    pub fn qmp(&self) -> PathBuf {
        self.folder.join("qmp")
    }

    /// Serial console.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console")
    }

    /// What the serial console printed.
    pub fn console_log(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// Hash of root's initial password: told once, when the server is made, and needed at its first start.
    pub fn password(&self) -> PathBuf {
        self.folder.join("password")
    }

    /// The document for the guest.
    pub fn document(&self) -> PathBuf {
        self.folder.join("guest")
    }

    /// Id of the network domain the server is in.
    pub fn domain(&self) -> PathBuf {
        self.folder.join("domain")
    }

    /// There once all its first disks are.
    pub fn made(&self) -> PathBuf {
        self.folder.join("made")
    }

    /// A disk. The system disk is an overlay of the image, the others are raw.
    pub fn disk(&self, disk: &DiskSpec) -> PathBuf {
        match disk.scsi_id {
            SYSTEM_DISK => self.folder.join("system.qcow2"),
            _ => self.folder.join(format!("disk-{}.raw", disk.id)),
        }
    }
}

/// QEMU's name of a disk's back end. At most 31 characters are allowed.
pub fn node_name(disk: &DiskSpec) -> String {
    format!("disk-{}", short(&disk.id, 16))
}

/// QEMU's name of a disk's front end, the device in the guest.
pub fn device_name(disk: &DiskSpec) -> String {
    format!("scsi-{}", short(&disk.id, 16))
}

/// Back end as `blockdev-add` and `-blockdev` take it.
pub fn block_node(files: &Files, disk: &DiskSpec) -> serde_json::Value {
    // Flushes are not passed on: what the guest wrote survives the loss of QEMU, as it is in the host's
    // memory by then, but not the loss of the host. Package installation is several times faster for it.
    let cache = serde_json::json!({ "direct": false, "no-flush": true });
    serde_json::json!({
        "driver": if disk.scsi_id == SYSTEM_DISK { "qcow2" } else { "raw" },
        "node-name": node_name(disk),
        "cache": cache,
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": files.disk(disk),
            "cache": cache,
            "discard": "unmap",
        },
    })
}

/// Front end as `device_add` and `-device` take it. Targets are probed in order of their ids, so that id 0
/// becomes `/dev/sda`.
pub fn scsi_disk(disk: &DiskSpec) -> serde_json::Value {
    serde_json::json!({
        "driver": "scsi-hd",
        "id": device_name(disk),
        "bus": "scsi0.0",
        "channel": 0,
        "scsi-id": disk.scsi_id,
        "lun": 0,
        "drive": node_name(disk),
    })
}

/// The whole command line, without the program.
pub fn arguments(
    server: &ServerSpec,
    files: &Files,
    image: &Image,
    accelerator: Accelerator,
    names: &Names,
) -> Vec<String> {
    let path = |path: PathBuf| escaped(&path);
    let mut line: Vec<String> = Vec::new();
    let mut put = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));

    put(&["-name", &format!("{},process={}", server.id, "flc-machine")]);
    put(&["-uuid", &server.id]);
    put(&["-nodefaults", "-no-user-config", "-display", "none"]);
    put(&["-machine", BOARD]);
    put(&accelerator.arguments());
    put(&["-smp", &server.cpus.max(1).to_string(), "-m", &format!("{}M", server.memory_mib)]);
    put(&["-kernel", &image.kernel().to_string_lossy(), "-initrd", &image.initramfs().to_string_lossy()]);
    put(&["-append", KERNEL_ARGUMENTS]);
    put(&["-fw_cfg", &format!("name={},file={}", guest::DOCUMENT, path(files.document()))]);
    put(&["-device", "virtio-rng-pci"]);

    put(&["-device", "virtio-scsi-pci,id=scsi0"]);
    for disk in &server.disks {
        put(&["-blockdev", &block_node(files, disk).to_string()]);
        put(&["-device", &scsi_disk(disk).to_string()]);
    }
    for (index, nic) in server.nics.iter().enumerate() {
        let tap = names.tap(&nic.id);
        put(&["-netdev", &format!("tap,id=net{index},ifname={tap},script=no,downscript=no")]);
        // No option ROM: nothing ever boots from the network.
        put(&["-device", &format!("virtio-net-pci,netdev=net{index},mac={},romfile=", nic.mac)]);
    }

    put(&[
        "-chardev",
        &format!(
            "socket,id=console,path={},server=on,wait=off,logfile={},logappend=on",
            path(files.console()),
            path(files.console_log())
        ),
    ]);
    put(&["-serial", "chardev:console"]);
    put(&["-qmp", &format!("unix:{},server=on,wait=off", path(files.qmp()))]);
    put(&["-pidfile", &files.pid().to_string_lossy(), "-daemonize"]);
    line
}

/// A path inside a list of options: QEMU takes a doubled comma for one.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backing::NicSpec,
        machines::image::{Image, Recipe},
    };

    #[test]
    fn the_command_line_of_a_server() {
        let server = ServerSpec {
            id: "0c9cde1c-8a0b-4f55-9e1e-7c3b3a1f0001".into(),
            name: "web".into(),
            domain: "d".into(),
            image: None,
            cpus: 2,
            memory_mib: 1024,
            disks: vec![
                DiskSpec { id: "one".into(), scsi_id: 0, size_gb: 10 },
                DiskSpec { id: "two".into(), scsi_id: 1, size_gb: 5 },
            ],
            nics: vec![NicSpec {
                id: "nic".into(),
                vlan: "v".into(),
                mac: "00:50:56:00:00:01".into(),
                ipv4: [10, 0, 0, 7].into(),
                ipv6: "2001:db8::7".parse().expect("an address"),
            }],
            root_password: Some(fleet_model::Secret::new("hunter2")),
        };
        let names = Names::new("flc", Path::new("/cloud"));
        let files = Files::new(Path::new("/cloud/ser,vers"), &server.id);
        let image = Image::at(Path::new("/cache"), &Recipe);
        let line = arguments(&server, &files, &image, Accelerator::Tcg, &names);
        assert!(!line.concat().contains("hunter2"));
        let text = line.join("\n").replace(&Recipe.key(), "KEY").replace("\n-", "\n\n-");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn names_fit_qemu() {
        let disk = DiskSpec { id: "0c9cde1c-8a0b-4f55-9e1e-7c3b3a1f0001".into(), scsi_id: 3, size_gb: 1 };
        assert!(node_name(&disk).len() <= 31);
    }
}
