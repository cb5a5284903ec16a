//! The node's name: in `/etc/hostname` for the next boot, in the kernel for this one.

use std::fs;

use async_trait::async_trait;
use fleet_model::NodeName;
use fleet_task::{Finding, Node, Task, TaskError, TaskId};

const FILE: &str = "/etc/hostname";
/// Writing here is sethostname(2), and works the same below another root folder (proc(5)).
const KERNEL: &str = "/proc/sys/kernel/hostname";

/// Keeps the node's name.
#[derive(Clone, Debug)]
pub struct Hostname {
    id: TaskId,
    wanted: String,
}

impl Hostname {
    /// The node is to be called `wanted`.
    pub fn new(id: TaskId, wanted: String) -> Self {
        Self { id, wanted }
    }

    fn wanted(&self) -> Result<NodeName, TaskError> {
        self.wanted.parse().map_err(|error| TaskError::Refused {
            why: format!("not a host name: {error}"),
            next: "give the node another name in the plan".into(),
        })
    }
}

/// The first name in a file of `hostname(5)`'s form: comments and blank lines do not count.
fn name_in(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.next().unwrap_or_default().to_owned()
}

#[async_trait]
impl Task for Hostname {
    fn id(&self) -> &TaskId {
        &self.id
    }

    async fn check(&self, node: &Node) -> Result<Finding, TaskError> {
        let wanted = self.wanted()?;
        let mut drift = Vec::new();
        let filed = node.read(FILE)?.map(|bytes| name_in(&bytes)).unwrap_or_default();
        if filed != wanted.as_str() {
            drift.push(format!("{FILE} says `{filed}`, to become `{wanted}`"));
        }
        // Below another root there may be no kernel to name.
        if let Some(bytes) = node.read(KERNEL)? {
            let current = name_in(&bytes);
            if current != wanted.as_str() {
                drift.push(format!("the host is called `{current}`, to become `{wanted}`"));
            }
        }
        Ok(Finding::drift(drift))
    }

    async fn apply(&self, node: &Node) -> Result<(), TaskError> {
        let wanted = self.wanted()?;
        let line = format!("{wanted}\n");
        if node.read(FILE)?.map(|bytes| name_in(&bytes)).as_deref() != Some(wanted.as_str()) {
            node.write(FILE, line.as_bytes(), 0o644)?;
        }
        let kernel = node.path(KERNEL);
        if kernel.exists() {
            // Not a file to replace: a write to it is the call.
            fs::write(&kernel, &line).map_err(|source| TaskError::Refused {
                why: format!("the kernel does not take the name `{wanted}`: {source}"),
                next: format!("see whether {KERNEL} can be written on the node"),
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::tests::Rig;

    #[tokio::test]
    async fn file_and_kernel_follow() {
        let rig = Rig::new(&[(FILE, "debian\n"), (KERNEL, "debian\n")]);
        let task = Hostname::new(TaskId::new("hostname"), "EU7rethinkSeed".into());
        let changes = rig.changed(&task).await;
        assert_eq!(
            changes,
            [
                "/etc/hostname says `debian`, to become `EU7rethinkSeed`",
                "the host is called `debian`, to become `EU7rethinkSeed`",
            ]
        );
        assert_eq!(rig.text(FILE), "EU7rethinkSeed\n");
        assert_eq!(rig.text(KERNEL), "EU7rethinkSeed\n");
        rig.unchanged(&task).await;
    }

    #[tokio::test]
    async fn a_missing_file_is_made_and_comments_do_not_count() {
        let rig = Rig::new(&[]);
        let task = Hostname::new(TaskId::new("hostname"), "a".into());
        rig.changed(&task).await;
        assert_eq!(rig.text(FILE), "a\n");
        let rig = Rig::new(&[(FILE, "# set by hand\n\n a \n")]);
        rig.unchanged(&task).await;
    }

    #[tokio::test]
    async fn nonsense_is_refused_before_anything_is_written() {
        let rig = Rig::new(&[(FILE, "debian\n")]);
        let task = Hostname::new(TaskId::new("hostname"), "no name".into());
        let why = rig.failed(&task).await;
        assert!(why.contains("not a host name") && why.contains("next: "), "{why}");
        assert_eq!(rig.text(FILE), "debian\n");
    }
}
