//! Added disks join the root volume group; the root logical volume and its file system grow online.
//!
//! Looking is in [`survey`], deciding in [`decide`] (pure), doing here. The one thing never done is writing
//! to a disk that carries anything: see [`decide`] for what counts as carrying something.
//!
//! A new physical volume gets an UUID drawn and journalled before `pvcreate`, so that after a crash an
//! orphan of ours can be told from somebody else's.

pub mod decide;
pub mod fake;
pub mod survey;

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use fleet_proto::v1::LvmTask;
use fleet_task::{Command, Finding, Node, Task, TaskError, TaskId};
use rand::Rng;

use decide::{Decision, Step};
use survey::Survey;

/// How long growing a file system may take.
const GROW: Duration = Duration::from_secs(600);
/// How long check, apply and check may take together, emulated machines included.
const DEADLINE: Duration = Duration::from_secs(900);

/// Keeps the root volume on all disks.
#[derive(Clone, Debug)]
pub struct Lvm {
    id: TaskId,
    spec: LvmTask,
}

impl Lvm {
    /// Storage as `spec` says.
    pub fn new(id: TaskId, spec: LvmTask) -> Self {
        Self { id, spec }
    }

    async fn decide(&self, node: &Node) -> Result<(Survey, Decision), TaskError> {
        let survey = survey::take(node, &self.spec).await?;
        // UUIDs of physical volumes we set out to make.
        let ours: BTreeSet<String> = node.journal().recall_all(&self.id).into_keys().collect();
        let decision = decide::decide(&self.spec, &survey, &ours)
            .map_err(|refusal| TaskError::Refused { why: refusal.why, next: refusal.next })?;
        Ok((survey, decision))
    }

    async fn take(&self, node: &Node, step: &Step) -> Result<(), TaskError> {
        let group = self.spec.volume_group.as_str();
        let command = match step {
            Step::CreatePv { disk } => {
                let uuid = draw_uuid(&mut rand::rng());
                node.journal().remember(&self.id, &uuid, disk)?;
                // Without --yes: were there a signature after all, it asks, hears no answer and stops.
                Command::new("pvcreate", ["--uuid", uuid.as_str(), "--norestorefile", disk])
            }
            Step::ExtendVg { disk } => Command::new("vgextend", [group, disk]),
            Step::ResizePv { pv } => Command::new("pvresize", [pv]),
            Step::ExtendLv { lv } => Command::new("lvextend", ["-l", "+100%FREE", lv]),
            Step::GrowFileSystem { lv } => Command::new("resize2fs", [lv]).within(GROW),
        };
        tracing::info!(%command, "storage step");
        node.run(&command).await?;
        Ok(())
    }

    /// Forgets journalled UUIDs that no orphan carries any more.
    fn forget(&self, node: &Node, survey: &Survey) -> Result<(), TaskError> {
        for uuid in node.journal().recall_all(&self.id).into_keys() {
            if !survey.pvs.iter().any(|pv| pv.uuid == uuid && pv.group.is_empty()) {
                node.journal().forget(&self.id, &uuid)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Task for Lvm {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let (_, decision) = self.decide(node).await?;
        Ok(Finding {
            drift: decision.steps.iter().map(ToString::to_string).collect(),
            waiting: decision.waiting,
            warnings: decision.left_alone,
            ..Finding::default()
        })
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        let (survey, decision) = self.decide(node).await?;
        self.forget(node, &survey)?;
        for step in &decision.steps {
            self.take(node, step).await?;
        }
        self.forget(node, &survey::take(node, &self.spec).await?)
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

/// 32 characters in LVM's grouping (lvm2, lib/uuid/uuid.c).
fn draw_uuid(random: &mut impl Rng) -> String {
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut uuid = String::with_capacity(38);
    for group in [6, 4, 4, 4, 4, 4, 6] {
        if !uuid.is_empty() {
            uuid.push('-');
        }
        for _ in 0..group {
            uuid.push(char::from(LETTERS[random.random_range(0..LETTERS.len())]));
        }
    }
    uuid
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use fleet_task::{CommandError, Outcome, Output, Runner};

    use super::{fake::DiskMachine, *};
    use crate::tasks::{support::fake::Debian, tests::Rig};

    const GIB: u64 = 1 << 30;

    fn spec(expected_disks: u32) -> LvmTask {
        LvmTask {
            volume_group: "rootvol00".into(),
            logical_volume: "rootlvol00".into(),
            mount_point: "/".into(),
            expected_disks,
        }
    }

    fn task(expected_disks: u32) -> Lvm {
        Lvm::new(TaskId::new("lvm"), spec(expected_disks))
    }

    /// Disks of a node that can fail and die.
    #[derive(Debug)]
    struct Disks {
        debian: Arc<Debian>,
        machine: DiskMachine,
    }

    #[async_trait]
    impl Runner for Disks {
        async fn output(&self, command: &Command) -> Result<Output, CommandError> {
            Ok(self.debian.asks(command, || self.machine.answer(command)).await)
        }
    }

    /// A node with a blank disk for its root volume to grow on.
    pub(in crate::tasks) fn made() -> (Arc<Debian>, Rig, Arc<dyn Task>) {
        let (debian, rig) = Debian::rig(&[]);
        let machine = DiskMachine::new(10 * GIB).with_disk("/dev/sdb", 20 * GIB);
        let disks = Disks { debian: debian.clone(), machine };
        (debian, rig.run_by(Arc::new(disks)), Arc::new(task(1)))
    }

    fn rig(machine: &Arc<DiskMachine>) -> Rig {
        Rig::with(machine.clone(), &[])
    }

    #[tokio::test]
    async fn an_added_disk_joins_and_the_root_grows() {
        let machine = Arc::new(DiskMachine::new(10 * GIB).with_disk("/dev/sdb", 20 * GIB));
        let rig = rig(&machine);
        let changes = rig.changed(&task(1)).await;
        assert_eq!(
            changes,
            [
                "make /dev/sdb a physical volume",
                "add /dev/sdb to the volume group",
                "grow the logical volume over all free space",
                "grow the file system on it",
            ]
        );
        assert!(machine.file_system() > 29 * GIB, "{machine:?}");
        rig.unchanged(&task(1)).await;
        assert!(rig.node().journal().recall_all(&TaskId::new("lvm")).is_empty());
    }

    #[tokio::test]
    async fn fewer_disks_than_planned_is_waiting() {
        let machine = Arc::new(DiskMachine::new(10 * GIB).with_disk("/dev/sdb", 20 * GIB));
        let report = rig(&machine).run(Arc::new(task(2))).await;
        assert_eq!(report.outcome, Outcome::Waiting("1 more disk: the plan adds 2, 1 is usable".into()));
        assert!(machine.file_system() > 29 * GIB, "what is there is used already");
    }

    #[tokio::test]
    async fn a_disk_that_carries_something_is_left_alone_and_named() {
        let machine = DiskMachine::new(10 * GIB).with_signature("/dev/sdb", 20 * GIB, "ext4");
        let machine = Arc::new(machine);
        let report = rig(&machine).run(Arc::new(task(1))).await;
        assert!(matches!(report.outcome, Outcome::Waiting(_)), "{report:?}");
        assert!(report.warnings[0].contains("/dev/sdb") && report.warnings[0].contains("ext4"), "{report:?}");
        assert_eq!(machine.written(), [""; 0]);
    }

    #[tokio::test]
    async fn a_disk_that_grew_is_used() {
        let machine = Arc::new(DiskMachine::new(10 * GIB).with_disk("/dev/sdb", 20 * GIB));
        let rig = rig(&machine);
        rig.changed(&task(1)).await;
        machine.grow("/dev/sdb", 40 * GIB);
        let changes = rig.changed(&task(1)).await;
        assert_eq!(changes[0], "grow the physical volume /dev/sdb to its disk");
        assert!(machine.file_system() > 49 * GIB, "{machine:?}");
        rig.unchanged(&task(1)).await;
    }

    #[tokio::test]
    async fn somebody_elses_orphan_is_not_ours() {
        let machine = Arc::new(DiskMachine::new(10 * GIB).with_orphan("/dev/sdb", 20 * GIB, "theirs"));
        let report = rig(&machine).run(Arc::new(task(1))).await;
        assert!(report.warnings[0].contains("did not make"), "{report:?}");
        assert_eq!(machine.written(), [""; 0]);
    }

    #[test]
    fn uuids_have_lvms_form() {
        let uuid = draw_uuid(&mut rand::rng());
        let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(groups, [6, 4, 4, 4, 4, 4, 6]);
    }
}
