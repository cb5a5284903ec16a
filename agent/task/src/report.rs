//! What came of a task.

use std::time::Duration;

use fleet_model::Timestamp;
use fleet_proto::v1;

use crate::TaskId;

/// Longest reason sent to the controller, in bytes; a longer one is cut.
const MAX_REASON: usize = 2048;

/// How a task ended, or that it is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Being checked or applied right now.
    Running,
    /// Nothing differed.
    Unchanged,
    /// These things were changed, and a second look agrees.
    Changed(Vec<String>),
    /// It could not be done; why, and the next step.
    Failed(String),
    /// Not yet; for what.
    Waiting(String),
}

/// One task's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which task.
    pub task: TaskId,
    /// What came of it.
    pub outcome: Outcome,
    /// What needs a person's attention although the outcome is fine.
    pub warnings: Vec<String>,
    /// When this became so.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// Whether the node is as the task wants it.
    pub fn is_converged(&self) -> bool {
        matches!(self.outcome, Outcome::Unchanged | Outcome::Changed(_))
    }
}

impl From<&Report> for v1::TaskReport {
    /// Warnings of a converged task travel as its reason: on the wire, *unchanged* or *changed* with a
    /// reason means "fine, but look at this".
    fn from(report: &Report) -> Self {
        let (result, reason, changes) = match &report.outcome {
            Outcome::Running => (v1::TaskResult::Running, String::new(), Vec::new()),
            Outcome::Unchanged => (v1::TaskResult::Unchanged, String::new(), Vec::new()),
            Outcome::Changed(what) => (v1::TaskResult::Changed, String::new(), what.clone()),
            Outcome::Failed(why) => (v1::TaskResult::Failed, why.clone(), Vec::new()),
            Outcome::Waiting(what) => (v1::TaskResult::Waiting, what.clone(), Vec::new()),
        };
        let mut parts = vec![reason];
        parts.extend(report.warnings.iter().cloned());
        parts.retain(|part| !part.is_empty());
        Self {
            name: report.task.to_string(),
            result: result.into(),
            reason: cut(parts.join("; ")),
            changes,
            at_ms: report.at.as_millis(),
            took_ms: u32::try_from(report.took.as_millis()).unwrap_or(u32::MAX),
            ..Self::default()
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_travel_as_the_reason() {
        let report = Report {
            task: TaskId::new("lvm"),
            outcome: Outcome::Unchanged,
            warnings: vec!["/dev/sdc was left alone".into()],
            at: Timestamp::from_millis(7),
            took: Duration::from_millis(3),
        };
        let wire = v1::TaskReport::from(&report);
        assert_eq!(wire.result(), v1::TaskResult::Unchanged);
        assert_eq!(wire.reason, "/dev/sdc was left alone");
        assert_eq!((wire.at_ms, wire.took_ms), (7, 3));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let text = cut("é".repeat(MAX_REASON));
        assert!(text.len() <= MAX_REASON + '…'.len_utf8());
        assert!(text.ends_with("é…"));
    }
}
