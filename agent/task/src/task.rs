//! The unit of node work.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::{CommandError, JournalError, Node, atomic::AtomicError};

/// Name of a task, unique in the desired state and stable between generations.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(String);

impl TaskId {
    /// Wraps a name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a look at the node found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// What differs from desired and `apply` would change, one line each. Empty means converged.
    pub drift: Vec<String>,
    /// What the task waits for; it is neither converged nor to be applied further until that comes.
    pub waiting: Option<String>,
    /// What is worth a person's attention though it is not this task's to change.
    pub warnings: Vec<String>,
    /// Names of servers that should be in the database cluster and are not; `None` if the look saw no cluster.
    pub missing_members: Option<Vec<String>>,
    /// Permit of the controller that `apply` needs; it is asked for first, and given back once converged.
    pub permit: Option<String>,
    /// Whether what is done under it takes nothing away from anybody, should it fail half way: then it is given back at
    /// once, and others have their turn.
    pub gentle: bool,
}

impl Finding {
    /// Nothing differs.
    pub fn converged() -> Self {
        Self::default()
    }

    /// These things differ.
    pub fn drift(lines: impl IntoIterator<Item = String>) -> Self {
        Self { drift: lines.into_iter().collect(), ..Self::default() }
    }

    /// The same, to be applied only with this permit.
    #[must_use]
    pub fn with_permit(mut self, permit: impl Into<String>) -> Self {
        self.permit = Some(permit.into());
        self
    }

    /// Nothing to change before `what` has come.
    pub fn waiting(what: impl Into<String>) -> Self {
        Self { waiting: Some(what.into()), ..Self::default() }
    }

    /// Whether nothing differs and nothing is waited for.
    pub fn is_converged(&self) -> bool {
        self.drift.is_empty() && self.waiting.is_none()
    }
}

/// Why a task could not look or move. `Display` says what failed; [`TaskError::next_step`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] AtomicError),
    /// The journal could not be written; nothing is changed without it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The task refuses: what was asked or what it found is not something it may touch.
    #[error("{why}")]
    Refused {
        /// What is in the way.
        why: String,
        /// What a person can do about it.
        next: String,
    },
    /// It cannot be done before something has come; no failure, and looked at again soon.
    #[error("waits for {0}")]
    NotYet(String),
    /// A program answered something this task does not understand.
    #[error("understand the answer of `{program}`: {detail}")]
    Answer {
        /// The program.
        program: String,
        /// What was wrong with it.
        detail: String,
    },
}

impl TaskError {
    /// What a person can do about it.
    pub fn next_step(&self) -> String {
        match self {
            Self::Refused { next, .. } => next.clone(),
            Self::Command(error) => error.next_step(),
            Self::Write(error) => error.next_step(),
            Self::Journal(error) => error.next_step(),
            Self::Read { path, .. } => {
                format!("look at {path} on the node; the task is tried again by itself")
            }
            Self::NotYet(what) => format!("wait for {what}; the task is tried again by itself"),
            Self::Answer { program, .. } => {
                format!("run `{program}` on the node by hand and compare its version with Debian 12's")
            }
        }
    }

    /// The error, its causes and the next step, in one line.
    pub fn explain(&self) -> String {
        format!("{}; next: {}", fleet_model::chain(self), self.next_step())
    }
}

/// One piece of node work.
#[async_trait]
pub trait Task: Send + Sync {
    /// Its name.
    fn id(&self) -> &TaskId;

    /// Looks, never touches.
    async fn check(&self, node: &Node) -> Result<Finding, TaskError>;

    /// Moves the node towards "converged"; safe to repeat, also after it was cut off anywhere.
    async fn apply(&self, node: &Node) -> Result<(), TaskError>;

    /// What the last `apply` did, one line each, where that says more than what differed before it.
    fn done(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether later phases wait, too, for what the last look waits for.
    fn holds(&self) -> bool {
        true
    }

    /// How long check, apply and check may take together.
    fn deadline(&self) -> Duration {
        Duration::from_secs(300)
    }
}
