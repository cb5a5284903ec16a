//! Everybody's latest report, while a run goes on.

use std::time::Duration;

use fleet_model::Timestamp;

use crate::{
    OnDrift, Outcome, Report, TaskId,
    phases::{Phases, Planned},
};

pub(crate) struct Board(pub(crate) Vec<Report>);

impl Board {
    pub(crate) fn new(phases: &Phases, previous: &[Report], at: Timestamp) -> Self {
        let fresh = |id: &TaskId| Report::new(id.clone(), Outcome::Waiting("its turn".into()), at);
        let of =
            |id: &TaskId| previous.iter().find(|old| old.task == *id).cloned().unwrap_or_else(|| fresh(id));
        Self(phases.names().map(of).collect())
    }

    pub(crate) fn set(&mut self, task: &TaskId, outcome: Outcome, at: Timestamp) {
        self.put(Report::new(task.clone(), outcome, at));
    }

    pub(crate) fn put(&mut self, report: Report) {
        if let Some(place) = self.0.iter_mut().find(|old| old.task == report.task) {
            *place = report;
        }
    }

    /// What is settled stays so while it is looked at again; anything else is at work.
    pub(crate) fn start(&mut self, task: &TaskId, at: Timestamp) {
        if !self.of(task).is_some_and(Report::is_settled) {
            self.set(task, Outcome::Running, at);
        }
    }

    /// Whether later phases wait for this task.
    pub(crate) fn holds(&self, planned: &Planned) -> bool {
        match self.of(planned.task.id()).map(|report| &report.outcome) {
            Some(Outcome::Unchanged | Outcome::Changed(_)) => false,
            Some(Outcome::Drifted { .. }) => planned.terms.on_drift != OnDrift::Report,
            Some(Outcome::Waiting(_)) => planned.task.holds(),
            _ => true,
        }
    }

    /// Whoever is still "running" when its phase is over did not report.
    pub(crate) fn give_up(&mut self, task: &TaskId, stopping: bool, at: Timestamp) {
        if self.of(task).is_some_and(|report| report.outcome == Outcome::Running) {
            let outcome = if stopping {
                Outcome::Waiting("the agent to start again; it was stopped half way".into())
            } else {
                Outcome::Failed(
                    "it ended abnormally; next: look at the agent's log and report a defect".into(),
                )
            };
            self.set(task, outcome, at);
        }
    }

    fn of(&self, task: &TaskId) -> Option<&Report> {
        self.0.iter().find(|report| report.task == *task)
    }
}

impl Report {
    fn new(task: TaskId, outcome: Outcome, at: Timestamp) -> Self {
        Self { task, outcome, warnings: Vec::new(), missing_members: None, at, took: Duration::ZERO }
    }
}
