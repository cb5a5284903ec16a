//! What is to be run: phases in order, each with tasks and the terms they are run under.

use std::sync::Arc;

use crate::{Task, TaskId};

/// What is done about a task that had converged and differs again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDrift {
    /// It is applied again.
    #[default]
    Repair,
    /// It is shown; later phases go on.
    Report,
    /// It is shown; later phases wait.
    Hold,
}

/// How the engine treats a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What is done about drift.
    pub on_drift: OnDrift,
    /// Digest of what the task is to bring about. Having converged is remembered with it, so that another wish is
    /// not mistaken for drift; `None` means nothing is remembered, and every difference is a first one.
    pub wish: Option<String>,
}

/// A task in its place.
#[derive(Clone)]
pub(crate) struct Planned {
    pub(crate) task: Arc<dyn Task>,
    pub(crate) terms: Terms,
}

/// Phases in order, each with tasks that may run together.
#[derive(Clone, Default)]
pub struct Phases(pub(crate) Vec<(String, Vec<Planned>)>);

impl Phases {
    /// No phases yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `task` to the phase of that name, which takes its place where it first appears.
    pub fn add(&mut self, phase: &str, task: Arc<dyn Task>) {
        self.add_under(phase, task, Terms::default());
    }

    /// The same under these terms.
    pub fn add_under(&mut self, phase: &str, task: Arc<dyn Task>, terms: Terms) {
        let planned = Planned { task, terms };
        match self.0.iter_mut().find(|(name, _)| name == phase) {
            Some((_, tasks)) => tasks.push(planned),
            None => self.0.push((phase.to_owned(), vec![planned])),
        }
    }

    /// The same with one more phase.
    #[must_use]
    pub fn then(mut self, phase: &str, tasks: impl IntoIterator<Item = Arc<dyn Task>>) -> Self {
        tasks.into_iter().for_each(|task| self.add(phase, task));
        self
    }

    /// The names of all tasks, in order.
    pub fn names(&self) -> impl Iterator<Item = &TaskId> {
        self.0.iter().flat_map(|(_, tasks)| tasks).map(|planned| planned.task.id())
    }
}
