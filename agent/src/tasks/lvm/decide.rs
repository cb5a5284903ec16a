//! What to do about storage, decided from one picture of it. Pure.

use std::{collections::BTreeSet, fmt};

use fleet_proto::v1::LvmTask;

use super::survey::{Disk, Group, Survey, Volume};

/// Space on a disk beyond its physical volume that is not worth growing for: alignment and metadata.
const PV_SLACK: u64 = 16 << 20;
/// Space beyond the file system that is not worth growing for: resize2fs leaves out a last group that is
/// too small to hold its own tables.
const FILE_SYSTEM_SLACK: u64 = 16 << 20;
/// Mount points that only the system disk has.
const SYSTEM_MOUNTS: [&str; 3] = ["/", "/boot", "/boot/efi"];

/// One command to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `pvcreate` on a blank disk.
    CreatePv {
        /// The disk.
        disk: String,
    },
    /// `vgextend` by a disk that is a physical volume of no group.
    ExtendVg {
        /// The disk.
        disk: String,
    },
    /// `pvresize` of a physical volume whose device has grown.
    ResizePv {
        /// The device.
        pv: String,
    },
    /// `lvextend` over all free space.
    ExtendLv {
        /// The volume.
        lv: String,
    },
    /// `resize2fs`, online.
    GrowFileSystem {
        /// The volume.
        lv: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreatePv { disk } => write!(f, "make {disk} a physical volume"),
            Self::ExtendVg { disk } => write!(f, "add {disk} to the volume group"),
            Self::ResizePv { pv } => write!(f, "grow the physical volume {pv} to its disk"),
            Self::ExtendLv { .. } => f.write_str("grow the logical volume over all free space"),
            Self::GrowFileSystem { .. } => f.write_str("grow the file system on it"),
        }
    }
}

/// What to do, what to wait for, what to leave alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In this order.
    pub steps: Vec<Step>,
    /// Set when disks are missing.
    pub waiting: Option<String>,
    /// Disks not touched, with what was found on them.
    pub left_alone: Vec<String>,
}

/// The node is not laid out as the task needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is in the way.
    pub why: String,
    /// What a person can do.
    pub next: String,
}

/// What a disk is to us.
enum Role {
    /// Carries the system.
    System,
    /// A physical volume of our group.
    Joined,
    /// A physical volume of no group that we made.
    Orphan,
    /// Empty.
    Blank,
    /// Carries something: never touched.
    Foreign(String),
}

/// Decides. `ours` are the UUIDs of physical volumes this agent set out to make.
///
/// # Errors
/// [`Refusal`] if the group, the volume or its mount is not there.
pub fn decide(spec: &LvmTask, survey: &Survey, ours: &BTreeSet<String>) -> Result<Decision, Refusal> {
    let (group, volume) = layout(spec, survey)?;
    let mut decision = Decision::default();
    let (mut system, mut joined, mut usable) = (0, 0_u32, 0_u32);
    for disk in &survey.disks {
        match role(disk, spec, survey, ours) {
            Role::System => system += 1,
            Role::Joined => joined += 1,
            Role::Orphan => {
                usable += 1;
                decision.steps.push(Step::ExtendVg { disk: disk.path.clone() });
            }
            Role::Blank => {
                usable += 1;
                decision.steps.push(Step::CreatePv { disk: disk.path.clone() });
                decision.steps.push(Step::ExtendVg { disk: disk.path.clone() });
            }
            Role::Foreign(what) => decision.left_alone.push(format!(
                "{} was left alone: it carries {what}; next: if nothing on it is needed, run `wipefs --all {}` on the node",
                disk.path, disk.path
            )),
        }
    }
    // Without partitions the system's own disk is a whole-disk physical volume of the group.
    let added = if system == 0 { usable + joined.saturating_sub(1) } else { usable + joined };
    if added < spec.expected_disks {
        let missing = spec.expected_disks - added;
        decision.waiting = Some(format!(
            "{missing} more disk{}: the plan adds {}, {added} {} usable",
            if missing == 1 { "" } else { "s" },
            spec.expected_disks,
            if added == 1 { "is" } else { "are" },
        ));
    }
    for pv in survey.pvs.iter().filter(|pv| pv.group == spec.volume_group) {
        let beyond = pv.device_size.saturating_sub(pv.start).saturating_sub(pv.size);
        if beyond >= PV_SLACK.max(2 * group.extent) {
            decision.steps.push(Step::ResizePv { pv: pv.path.clone() });
        }
    }
    let more_space = !decision.steps.is_empty() || (group.extent > 0 && group.free >= group.extent);
    if more_space {
        decision.steps.push(Step::ExtendLv { lv: volume.path.clone() });
    }
    if more_space || volume.size.saturating_sub(volume.file_system) >= FILE_SYSTEM_SLACK {
        decision.steps.push(Step::GrowFileSystem { lv: volume.path.clone() });
    }
    Ok(decision)
}

fn layout<'a>(spec: &LvmTask, survey: &'a Survey) -> Result<(&'a Group, &'a Volume), Refusal> {
    let (vg, lv, mount) = (&spec.volume_group, &spec.logical_volume, &spec.mount_point);
    let next =
        || format!("use an image whose {mount} is on LVM as {vg}/{lv}, or leave the task out of the plan");
    let refuse = |why: String| Refusal { why, next: next() };
    let group = survey.group.as_ref().ok_or_else(|| refuse(format!("there is no volume group {vg}")))?;
    let volume =
        survey.volume.as_ref().ok_or_else(|| refuse(format!("there is no logical volume {vg}/{lv}")))?;
    if !volume.mounts.contains(mount) {
        return Err(refuse(format!("{vg}/{lv} is not mounted on {mount}")));
    }
    Ok((group, volume))
}

fn role(disk: &Disk, spec: &LvmTask, survey: &Survey, ours: &BTreeSet<String>) -> Role {
    if let Some(pv) = survey.pvs.iter().find(|pv| pv.path == disk.path) {
        return match pv.group.as_str() {
            group if group == spec.volume_group => Role::Joined,
            "" if ours.contains(&pv.uuid) => Role::Orphan,
            "" => Role::Foreign("an LVM physical volume of no group, which this agent did not make".into()),
            other => Role::Foreign(format!("an LVM physical volume of group {other}")),
        };
    }
    let on_it = |path: &str| disk.holders.iter().any(|holder| holder == path);
    let part_of_group = survey.pvs.iter().any(|pv| pv.group == spec.volume_group && on_it(&pv.path));
    if part_of_group || disk.mounts.iter().any(|mount| SYSTEM_MOUNTS.contains(&mount.as_str())) {
        return Role::System;
    }
    let mut found = Vec::new();
    if let Some(table) = &disk.table {
        found.push(format!("a partition table ({table})"));
    }
    found.extend(disk.signatures.iter().map(|signature| format!("a signature ({signature})")));
    found.extend(disk.mounts.iter().map(|mount| format!("something mounted on {mount}")));
    if !disk.holders.is_empty() {
        found.push(disk.holders.join(", "));
    }
    if found.is_empty() { Role::Blank } else { Role::Foreign(found.join(" and ")) }
}

#[cfg(test)]
mod tests {
    use super::{
        super::survey::{Group, Pv, Volume},
        *,
    };

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn spec(expected_disks: u32) -> LvmTask {
        LvmTask {
            volume_group: "vg".into(),
            logical_volume: "lv".into(),
            mount_point: "/".into(),
            expected_disks,
        }
    }

    fn pv(path: &str, group: &str, size: u64) -> Pv {
        let device_size = size + 4 * MIB;
        Pv {
            path: path.into(),
            uuid: format!("uuid-{path}"),
            group: group.into(),
            size,
            device_size,
            start: MIB,
        }
    }

    /// A converged node with a partitioned system disk and nothing else.
    fn base() -> Survey {
        let system = Disk {
            path: "/dev/sda".into(),
            table: Some("gpt".into()),
            mounts: vec!["/".into()],
            holders: vec!["/dev/sda1".into(), "/dev/sda2".into(), "/dev/mapper/vg-lv".into()],
            signatures: Vec::new(),
        };
        Survey {
            disks: vec![system],
            pvs: vec![pv("/dev/sda2", "vg", 10 * GIB)],
            group: Some(Group { free: 0, extent: 4 * MIB }),
            volume: Some(Volume {
                path: "/dev/vg/lv".into(),
                size: 10 * GIB,
                mounts: vec!["/".into()],
                file_system: 10 * GIB,
            }),
        }
    }

    fn blank(path: &str) -> Disk {
        Disk { path: path.into(), ..Disk::default() }
    }

    fn check(
        what: &str,
        expected: u32,
        edit: impl FnOnce(&mut Survey),
        steps: &[&str],
        waits: bool,
        alone: &[&str],
    ) {
        let mut survey = base();
        edit(&mut survey);
        let ours = BTreeSet::from(["ours".to_owned()]);
        let decision = decide(&spec(expected), &survey, &ours).expect(what);
        let short: Vec<String> = decision
            .steps
            .iter()
            .map(|step| match step {
                Step::CreatePv { disk } => format!("pvcreate {disk}"),
                Step::ExtendVg { disk } => format!("vgextend {disk}"),
                Step::ResizePv { pv } => format!("pvresize {pv}"),
                Step::ExtendLv { .. } => "lvextend".into(),
                Step::GrowFileSystem { .. } => "resize2fs".into(),
            })
            .collect();
        assert_eq!(short, steps, "{what}");
        assert_eq!(decision.waiting.is_some(), waits, "{what}: {:?}", decision.waiting);
        assert_eq!(decision.left_alone.len(), alone.len(), "{what}: {:?}", decision.left_alone);
        for (line, part) in decision.left_alone.iter().zip(alone) {
            assert!(line.contains(part), "{what}: {line} lacks {part}");
        }
    }

    #[test]
    fn what_is_done_in_each_situation() {
        let sdb = || blank("/dev/sdb");
        check("nothing to do", 0, |_| (), &[], false, &[]);
        check("a disk is missing", 1, |_| (), &[], true, &[]);
        check(
            "a blank disk",
            1,
            |s| s.disks.push(sdb()),
            &["pvcreate /dev/sdb", "vgextend /dev/sdb", "lvextend", "resize2fs"],
            false,
            &[],
        );
        check(
            "two blank disks, three planned",
            3,
            |s| s.disks.extend([sdb(), blank("/dev/sdc")]),
            &[
                "pvcreate /dev/sdb",
                "vgextend /dev/sdb",
                "pvcreate /dev/sdc",
                "vgextend /dev/sdc",
                "lvextend",
                "resize2fs",
            ],
            true,
            &[],
        );
        check(
            "a joined disk",
            1,
            |s| {
                s.disks.push(sdb());
                s.pvs.push(pv("/dev/sdb", "vg", 5 * GIB));
            },
            &[],
            false,
            &[],
        );
        check(
            "our orphan",
            1,
            |s| {
                s.disks.push(sdb());
                s.pvs.push(Pv { uuid: "ours".into(), ..pv("/dev/sdb", "", 5 * GIB) });
            },
            &["vgextend /dev/sdb", "lvextend", "resize2fs"],
            false,
            &[],
        );
        check(
            "somebody's orphan",
            1,
            |s| {
                s.disks.push(sdb());
                s.pvs.push(pv("/dev/sdb", "", 5 * GIB));
            },
            &[],
            true,
            &["did not make"],
        );
        check(
            "another group's disk",
            1,
            |s| {
                s.disks.push(sdb());
                s.pvs.push(pv("/dev/sdb", "data", 5 * GIB));
            },
            &[],
            true,
            &["group data"],
        );
        check(
            "no step but the last was missing",
            0,
            |s| {
                if let Some(volume) = &mut s.volume {
                    volume.size = 15 * GIB
                }
            },
            &["resize2fs"],
            false,
            &[],
        );
        check(
            "free extents",
            0,
            |s| s.group = Some(Group { free: 4 * MIB, extent: 4 * MIB }),
            &["lvextend", "resize2fs"],
            false,
            &[],
        );
        check(
            "less than an extent free",
            0,
            |s| s.group = Some(Group { free: MIB, extent: 4 * MIB }),
            &[],
            false,
            &[],
        );
        check(
            "a grown device",
            0,
            |s| s.pvs[0].device_size = 20 * GIB,
            &["pvresize /dev/sda2", "lvextend", "resize2fs"],
            false,
            &[],
        );
        check("a little air is no growth", 0, |s| s.pvs[0].device_size += 11 * MIB, &[], false, &[]);
    }

    #[test]
    fn whatever_a_disk_carries_protects_it() {
        let sdb = || blank("/dev/sdb");
        check(
            "a signature",
            1,
            |s| s.disks.push(Disk { signatures: vec!["ext4 `data`".into()], ..sdb() }),
            &[],
            true,
            &["/dev/sdb was left alone: it carries a signature (ext4 `data`)"],
        );
        check(
            "a table",
            1,
            |s| s.disks.push(Disk { table: Some("dos".into()), ..sdb() }),
            &[],
            true,
            &["a partition table (dos)"],
        );
        check(
            "a mount",
            1,
            |s| s.disks.push(Disk { mounts: vec!["/data".into()], ..sdb() }),
            &[],
            true,
            &["mounted on /data"],
        );
        check(
            "swap",
            1,
            |s| s.disks.push(Disk { mounts: vec!["[SWAP]".into()], ..sdb() }),
            &[],
            true,
            &["[SWAP]"],
        );
        check(
            "a holder",
            1,
            |s| s.disks.push(Disk { holders: vec!["/dev/md0".into()], ..sdb() }),
            &[],
            true,
            &["/dev/md0"],
        );
        check(
            "a protected disk beside enough blank ones",
            1,
            |s| s.disks.extend([Disk { signatures: vec!["xfs".into()], ..sdb() }, blank("/dev/sdc")]),
            &["pvcreate /dev/sdc", "vgextend /dev/sdc", "lvextend", "resize2fs"],
            false,
            &["/dev/sdb"],
        );
    }

    #[test]
    fn a_system_disk_without_partitions_does_not_count_as_added() {
        let whole = |s: &mut Survey| {
            s.disks = vec![Disk { mounts: vec!["/".into()], ..blank("/dev/sda") }];
            s.pvs = vec![pv("/dev/sda", "vg", 10 * GIB)];
        };
        check("whole disk, one missing", 1, whole, &[], true, &[]);
        check("whole disk, none planned", 0, whole, &[], false, &[]);
        check(
            "whole disk, one joined",
            1,
            |s| {
                whole(s);
                s.disks.push(blank("/dev/sdb"));
                s.pvs.push(pv("/dev/sdb", "vg", 5 * GIB));
            },
            &[],
            false,
            &[],
        );
    }

    #[test]
    fn another_layout_is_refused_with_a_reason() {
        let check = |edit: fn(&mut Survey), expected: &str| {
            let mut survey = base();
            survey.disks.push(blank("/dev/sdb"));
            edit(&mut survey);
            let refusal = decide(&spec(1), &survey, &BTreeSet::new()).expect_err(expected);
            assert_eq!(refusal.why, expected);
            assert!(refusal.next.contains("image"), "{refusal:?}");
        };
        check(|s| s.group = None, "there is no volume group vg");
        check(|s| s.volume = None, "there is no logical volume vg/lv");
        check(
            |s| {
                if let Some(volume) = &mut s.volume {
                    volume.mounts.clear();
                }
            },
            "vg/lv is not mounted on /",
        );
    }
}
