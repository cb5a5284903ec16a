//! A kind of work this agent does not know.

use async_trait::async_trait;
use fleet_task::{Finding, Node, Task, TaskError, TaskId};

/// Fails, and says who must move first.
#[derive(Debug)]
pub(super) struct Unknown(TaskId);

impl Unknown {
    pub(super) fn new(id: TaskId) -> Self {
        Self(id)
    }

    fn refusal() -> TaskError {
        TaskError::Refused {
            why: format!("agent {} does not know this kind of task", crate::VERSION),
            next: "update the agent on this node first".into(),
        }
    }
}

#[async_trait]
impl Task for Unknown {
    fn id(&self) -> &TaskId {
        &self.0
    }

    async fn check(&self, _node: &Node) -> Result<Finding, TaskError> {
        Err(Self::refusal())
    }

    async fn apply(&self, _node: &Node) -> Result<(), TaskError> {
        Err(Self::refusal())
    }
}
