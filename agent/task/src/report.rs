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
    /// It had converged, differs again, and is left so: its policy says to show it.
    Drifted {
        /// What differs, one line each.
        lines: Vec<String>,
        /// Since when it is known to.
        since: Timestamp,
    },
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
    /// Names of servers that should be in the database cluster and are not; `None` if the task saw no cluster.
    pub missing_members: Option<Vec<String>>,
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

    /// Whether looking again soon is of no use: it is as wanted, or left as it is on purpose.
    pub fn is_settled(&self) -> bool {
        self.is_converged() || matches!(self.outcome, Outcome::Drifted { .. })
    }
}

impl From<&Report> for v1::TaskReport {
    /// Warnings of a converged task travel as its reason: on the wire, *unchanged* or *changed* with a
    /// reason means "fine, but look at this".
    fn from(report: &Report) -> Self {
        let (mut drift, mut since_ms) = (Vec::new(), 0);
        let (result, reason, changes) = match &report.outcome {
            Outcome::Running => (v1::TaskResult::Running, String::new(), Vec::new()),
            Outcome::Unchanged => (v1::TaskResult::Unchanged, String::new(), Vec::new()),
            Outcome::Changed(what) => (v1::TaskResult::Changed, String::new(), what.clone()),
            Outcome::Failed(why) => (v1::TaskResult::Failed, why.clone(), Vec::new()),
            Outcome::Waiting(what) => (v1::TaskResult::Waiting, what.clone(), Vec::new()),
            Outcome::Drifted { lines, since } => {
                (drift, since_ms) = (lines.clone(), since.as_millis());
                (v1::TaskResult::Drifted, String::new(), Vec::new())
            }
        };
        let mut parts = vec![reason];
        parts.extend(report.warnings.iter().cloned());
        parts.retain(|part| !part.is_empty());
        let missing = report.missing_members.clone();
        Self {
            name: report.task.to_string(),
            result: result.into(),
            reason: cut(parts.join("; ")),
            changes,
            at_ms: report.at.as_millis(),
            took_ms: u32::try_from(report.took.as_millis()).unwrap_or(u32::MAX),
            drift,
            drift_since_ms: since_ms,
            cluster: missing.map(|missing_members| v1::ObservedCluster { missing_members }),
        }
    }
}

/// A length of time as people say it, in its two largest units.
pub fn age(length: Duration) -> String {
    let seconds = length.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 60 => format!("{seconds} s"),
        () if hours == 0 => format!("{minutes} min"),
        () if days == 0 => format!("{hours} h {} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
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
            missing_members: None,
            at: Timestamp::from_millis(7),
            took: Duration::from_millis(3),
        };
        let wire = v1::TaskReport::from(&report);
        assert_eq!(wire.result(), v1::TaskResult::Unchanged);
        assert_eq!(wire.reason, "/dev/sdc was left alone");
        assert_eq!((wire.at_ms, wire.took_ms), (7, 3));
    }

    #[test]
    fn a_whole_cluster_is_told_from_one_nobody_saw() {
        let check = |missing_members: Option<Vec<String>>| {
            let report = Report {
                task: TaskId::new("rethinkdb"),
                outcome: Outcome::Unchanged,
                warnings: Vec::new(),
                missing_members: missing_members.clone(),
                at: Timestamp::from_millis(7),
                took: Duration::ZERO,
            };
            let wire = v1::TaskReport::from(&report);
            assert_eq!(wire.cluster.map(|cluster| cluster.missing_members), missing_members);
        };
        check(None);
        check(Some(Vec::new()));
        check(Some(vec!["b1".into(), "f1".into()]));
    }

    #[test]
    fn drift_travels_with_its_age() {
        let since = Timestamp::from_millis(5);
        let report = Report {
            task: TaskId::new("hosts"),
            outcome: Outcome::Drifted { lines: vec!["a line".into()], since },
            warnings: Vec::new(),
            missing_members: None,
            at: Timestamp::from_millis(7),
            took: Duration::ZERO,
        };
        let wire = v1::TaskReport::from(&report);
        assert_eq!((wire.result(), wire.drift_since_ms), (v1::TaskResult::Drifted, 5));
        assert_eq!(wire.drift, ["a line"]);
    }

    #[test]
    fn ages_are_short() {
        let check = |seconds, expected| assert_eq!(age(Duration::from_secs(seconds)), expected);
        check(0, "0 s");
        check(59, "59 s");
        check(3599, "59 min");
        check(3600 + 125, "1 h 2 min");
        check(86_400 * 3 + 7200, "3 d 2 h");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let text = cut("é".repeat(MAX_REASON));
        assert!(text.len() <= MAX_REASON + '…'.len_utf8());
        assert!(text.ends_with("é…"));
    }
}
