//! What storage there is: lsblk, pvs, lvs, wipefs and dumpe2fs, read into one picture. Looks, never writes.

use fleet_proto::v1::LvmTask;
use fleet_task::{Command, Node, TaskError};
use serde::{Deserialize, de::DeserializeOwned};

const LSBLK: [&str; 4] = ["--json", "--bytes", "--output", "NAME,PATH,TYPE,SIZE,RO,PTTYPE,MOUNTPOINTS"];
const PVS: &str = "pv_name,pv_uuid,pv_size,dev_size,pe_start,vg_name,vg_free,vg_extent_size";
const LVS: &str = "vg_name,lv_name,lv_path,lv_size";
/// Labels of disks that carry a cloud's first-boot data; they are nobody's storage.
const SEED_LABELS: [&str; 3] = ["cidata", "CIDATA", "config-2"];
/// Kernel names of block devices that are memory, network or floppy.
const NOT_DISKS: [&str; 5] = ["zram", "ram", "nbd", "fd", "loop"];

/// All that the decision needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Whole disks.
    pub disks: Vec<Disk>,
    /// LVM's physical volumes.
    pub pvs: Vec<Pv>,
    /// The volume group, if it exists.
    pub group: Option<Group>,
    /// The logical volume, if it exists.
    pub volume: Option<Volume>,
}

/// A whole disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// `/dev/sdb`.
    pub path: String,
    /// Kind of its partition table.
    pub table: Option<String>,
    /// Where it, or anything on it, is mounted.
    pub mounts: Vec<String>,
    /// Devices on it: partitions, volumes, arrays.
    pub holders: Vec<String>,
    /// What its content says it is.
    pub signatures: Vec<String>,
}

/// A physical volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pv {
    /// Its device.
    pub path: String,
    /// LVM's name for it.
    pub uuid: String,
    /// Group it belongs to; empty if none.
    pub group: String,
    /// Bytes in use by LVM, or ready to be.
    pub size: u64,
    /// Bytes of its device.
    pub device_size: u64,
    /// Where its first extent begins.
    pub start: u64,
}

/// The volume group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Bytes not given to any volume.
    pub free: u64,
    /// Bytes handed out at a time.
    pub extent: u64,
}

/// The logical volume and the file system on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// `/dev/rootvol00/rootlvol00`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Where it is mounted.
    pub mounts: Vec<String>,
    /// Bytes of its ext2, ext3 or ext4 file system.
    pub file_system: u64,
}

/// Takes the picture.
///
/// # Errors
/// [`TaskError`] if a program fails or answers something else than expected.
pub async fn take(node: &Node, spec: &LvmTask) -> Result<Survey, TaskError> {
    let lvm = |what, fields| {
        Command::new(what, ["--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields])
    };
    let (lsblk, pvs, lvs) = (Command::new("lsblk", LSBLK), lvm("pvs", PVS), lvm("lvs", LVS));
    let (tree, pvs_said, lvs_said) = tokio::try_join!(node.run(&lsblk), node.run(&pvs), node.run(&lvs))?;
    let devices: Devices = parse("lsblk", &tree.stdout)?;
    let (pvs, group) = physical(&pvs_said.stdout, &spec.volume_group)?;
    let mut survey = Survey {
        disks: disks(&devices, &pvs),
        pvs,
        group,
        volume: volume(&lvs_said.stdout, &devices, spec)?,
    };
    for disk in &mut survey.disks {
        if !survey.pvs.iter().any(|pv| pv.path == disk.path) && disk.holders.is_empty() {
            let said = node.run(&Command::new("wipefs", ["--json", "--no-act", disk.path.as_str()])).await?;
            disk.signatures = signatures(&said.stdout)?;
        }
    }
    survey.disks.retain(|disk| !disk.signatures.iter().any(|found| is_seed(found)));
    if let Some(volume) = &mut survey.volume {
        let said = node.run(&Command::new("dumpe2fs", ["-h", volume.path.as_str()])).await?;
        volume.file_system = ext_size(&String::from_utf8_lossy(&said.stdout))?;
    }
    Ok(survey)
}

#[derive(Deserialize)]
struct Devices {
    blockdevices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    path: String,
    #[serde(rename = "type")]
    kind: String,
    size: u64,
    ro: bool,
    pttype: Option<String>,
    mountpoints: Vec<Option<String>>,
    #[serde(default)]
    children: Vec<Device>,
}

impl Device {
    fn all(&self) -> Vec<&Device> {
        std::iter::once(self).chain(self.children.iter().flat_map(Device::all)).collect()
    }

    fn mounts(&self) -> impl Iterator<Item = &String> {
        self.mountpoints.iter().flatten()
    }
}

fn disks(devices: &Devices, pvs: &[Pv]) -> Vec<Disk> {
    let unreal = |name: &str| {
        NOT_DISKS.iter().any(|kind| {
            name.strip_prefix(kind).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
        })
    };
    let eligible = devices
        .blockdevices
        .iter()
        .filter(|device| device.kind == "disk" && device.size > 0 && !device.ro && !unreal(&device.name));
    eligible
        .map(|device| {
            let inner = &device.all()[1..];
            // What sits on a physical volume is LVM's business and seen through pvs.
            let is_pv = pvs.iter().any(|pv| pv.path == device.path);
            Disk {
                path: device.path.clone(),
                table: device.pttype.clone(),
                mounts: device.all().iter().flat_map(|device| device.mounts()).cloned().collect(),
                holders: inner.iter().filter(|_| !is_pv).map(|inner| inner.path.clone()).collect(),
                signatures: Vec::new(),
            }
        })
        .collect()
}

#[derive(Deserialize)]
struct Report {
    report: Vec<Rows>,
}

#[derive(Deserialize)]
struct Rows {
    #[serde(default)]
    pv: Vec<PvRow>,
    #[serde(default)]
    lv: Vec<LvRow>,
}

#[derive(Deserialize)]
struct PvRow {
    pv_name: String,
    pv_uuid: String,
    pv_size: String,
    dev_size: String,
    pe_start: String,
    vg_name: String,
    vg_free: String,
    vg_extent_size: String,
}

#[derive(Deserialize)]
struct LvRow {
    vg_name: String,
    lv_name: String,
    lv_path: String,
    lv_size: String,
}

fn physical(json: &[u8], group: &str) -> Result<(Vec<Pv>, Option<Group>), TaskError> {
    let report: Report = parse("pvs", json)?;
    let (mut pvs, mut found) = (Vec::new(), None);
    for row in report.report.into_iter().flat_map(|rows| rows.pv) {
        if row.vg_name == group {
            let (free, extent) = (bytes("pvs", &row.vg_free)?, bytes("pvs", &row.vg_extent_size)?);
            found = Some(Group { free, extent });
        }
        pvs.push(Pv {
            size: bytes("pvs", &row.pv_size)?,
            device_size: bytes("pvs", &row.dev_size)?,
            start: bytes("pvs", &row.pe_start)?,
            path: row.pv_name,
            uuid: row.pv_uuid,
            group: row.vg_name,
        });
    }
    Ok((pvs, found))
}

fn volume(json: &[u8], devices: &Devices, spec: &LvmTask) -> Result<Option<Volume>, TaskError> {
    let report: Report = parse("lvs", json)?;
    let mut rows = report.report.into_iter().flat_map(|rows| rows.lv);
    let Some(row) = rows.find(|row| row.vg_name == spec.volume_group && row.lv_name == spec.logical_volume)
    else {
        return Ok(None);
    };
    // The kernel's name of a volume: single hyphens separate, hyphens in names are doubled (lvm(8)).
    let double = |name: &str| name.replace('-', "--");
    let mapped = format!("{}-{}", double(&spec.volume_group), double(&spec.logical_volume));
    let all = devices.blockdevices.iter().flat_map(Device::all);
    let mut mounts: Vec<String> =
        all.filter(|device| device.name == mapped).flat_map(Device::mounts).cloned().collect();
    mounts.sort();
    mounts.dedup();
    Ok(Some(Volume { size: bytes("lvs", &row.lv_size)?, path: row.lv_path, mounts, file_system: 0 }))
}

#[derive(Deserialize)]
struct Wiped {
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    #[serde(rename = "type")]
    kind: Option<String>,
    label: Option<String>,
}

fn signatures(json: &[u8]) -> Result<Vec<String>, TaskError> {
    // Some versions say nothing at all of an empty disk.
    if json.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let wiped: Wiped = parse("wipefs", json)?;
    let text = |found: Signature| {
        let kind = found.kind.unwrap_or_else(|| "something".into());
        match found.label {
            Some(label) => format!("{kind} `{label}`"),
            None => kind,
        }
    };
    Ok(wiped.signatures.into_iter().map(text).collect())
}

fn is_seed(found: &str) -> bool {
    SEED_LABELS.iter().any(|label| found.ends_with(&format!("`{label}`")))
}

/// Size of an ext file system from its superblock, as dumpe2fs(8) prints it.
fn ext_size(text: &str) -> Result<u64, TaskError> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    match (field("Block count:"), field("Block size:")) {
        (Some(count), Some(size)) => Ok(count.saturating_mul(size)),
        _ => Err(TaskError::Answer {
            program: "dumpe2fs -h".into(),
            detail: "no block count or block size".into(),
        }),
    }
}

fn parse<T: DeserializeOwned>(program: &str, json: &[u8]) -> Result<T, TaskError> {
    serde_json::from_slice(json)
        .map_err(|error| TaskError::Answer { program: program.into(), detail: error.to_string() })
}

fn bytes(program: &str, text: &str) -> Result<u64, TaskError> {
    // Empty for a physical volume of no group.
    if text.is_empty() {
        return Ok(0);
    }
    text.trim_end_matches('B')
        .parse()
        .map_err(|_| TaskError::Answer { program: program.into(), detail: format!("`{text}` is no size") })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Written after the programs' documented forms, Debian 12 versions; wipefs-*.json after real output.
    const TREE: &[u8] = include_bytes!("samples/lsblk.json");
    const PVS: &[u8] = include_bytes!("samples/pvs.json");
    const LVS: &[u8] = include_bytes!("samples/lvs.json");

    fn spec() -> LvmTask {
        LvmTask {
            volume_group: "rootvol00".into(),
            logical_volume: "rootlvol00".into(),
            mount_point: "/".into(),
            expected_disks: 1,
        }
    }

    #[test]
    fn a_node_with_one_blank_disk() {
        let devices: Devices = parse("lsblk", TREE).expect("tree");
        let (pvs, group) = physical(PVS, "rootvol00").expect("pvs");
        let found = disks(&devices, &pvs);
        let paths: Vec<&str> = found.iter().map(|disk| disk.path.as_str()).collect();
        assert_eq!(paths, ["/dev/sda", "/dev/sdb"], "no zram, no read-only disk, no optical drive");
        assert_eq!(found[0].table.as_deref(), Some("gpt"));
        assert!(found[0].holders.contains(&"/dev/sda2".to_owned()));
        assert_eq!(found[1], Disk { path: "/dev/sdb".into(), ..Disk::default() });
        assert_eq!(pvs[0].path, "/dev/sda2");
        assert_eq!(group, Some(Group { free: 0, extent: 4 << 20 }));
        let volume = volume(LVS, &devices, &spec()).expect("lvs").expect("there");
        assert_eq!(
            (volume.path.as_str(), volume.mounts.as_slice()),
            ("/dev/rootvol00/rootlvol00", &["/".to_owned()][..])
        );
    }

    #[test]
    fn signatures_with_and_without_labels() {
        let json = include_bytes!("samples/wipefs-ext4.json");
        assert_eq!(signatures(json).expect("json"), ["ext4 `data`"]);
        assert_eq!(signatures(include_bytes!("samples/wipefs-blank.json")).expect("json"), [""; 0]);
        assert_eq!(signatures(b"\n").expect("nothing"), [""; 0]);
        assert!(is_seed("iso9660 `cidata`") && !is_seed("ext4 `data`"));
    }

    #[test]
    fn the_superblock_says_how_large() {
        let text = "Filesystem volume name:   <none>\nBlock count:              10240\nReserved block count:     512\nBlock size:               1024\n";
        assert_eq!(ext_size(text).expect("fields"), 10_485_760);
        assert!(ext_size("Bad magic number").is_err());
    }

    #[test]
    fn sizes_with_and_without_unit() {
        assert_eq!(bytes("pvs", "4194304").ok(), Some(4 << 20));
        assert_eq!(bytes("pvs", "4194304B").ok(), Some(4 << 20));
        assert_eq!(bytes("pvs", "").ok(), Some(0));
        assert!(bytes("pvs", "4m").is_err());
    }
}
