//! What agents' reports mean.

use fleet_proto::v1;

/// What an agent's report means for a node that should be `desired`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Convergence {
    /// Every task is done, for this very generation.
    Converged,
    /// Some tasks failed: the first of them and why.
    Failed(String),
    /// Not there yet: what is waited for.
    Underway(String),
}

/// Holds a report against the desired state.
pub fn convergence(desired: Option<&v1::Desired>, observed: Option<&v1::Observed>) -> Convergence {
    let Some(desired) = desired else { return Convergence::Underway("nothing is desired yet".to_owned()) };
    let Some(observed) = observed.filter(|observed| observed.generation == desired.generation) else {
        return Convergence::Underway(format!("generation {} not reported on yet", desired.generation));
    };
    let mut underway = None;
    for task in &desired.tasks {
        let report = observed.tasks.iter().find(|report| report.name == task.name);
        match report.map(v1::TaskReport::result) {
            Some(v1::TaskResult::Unchanged | v1::TaskResult::Changed) => {}
            Some(v1::TaskResult::Failed) => {
                let reason = report.map(|report| report.reason.as_str()).unwrap_or_default();
                return Convergence::Failed(format!("task `{}` failed: {reason}", task.name));
            }
            Some(v1::TaskResult::Drifted) => match task.on_drift() {
                // Its plan says that this is to be looked at, not waited for; the agent's health shows it.
                v1::OnDrift::Report => {}
                v1::OnDrift::Hold => {
                    let what = report.map(difference).unwrap_or_default();
                    return Convergence::Failed(format!(
                        "task `{}` differs and is held{what}; `fleetctl repair` puts it right",
                        task.name
                    ));
                }
                v1::OnDrift::Repair => {
                    underway.get_or_insert_with(|| format!("task `{}` is about to be repaired", task.name));
                }
            },
            Some(v1::TaskResult::Waiting) => {
                let reason = report.map(|report| report.reason.as_str()).unwrap_or_default();
                underway.get_or_insert_with(|| format!("task `{}` waits: {reason}", task.name));
            }
            Some(v1::TaskResult::Running | v1::TaskResult::Unspecified) | None => {
                underway.get_or_insert_with(|| format!("task `{}` is at work", task.name));
            }
        }
    }
    underway.map_or(Convergence::Converged, Convergence::Underway)
}

/// The first thing that differs, and how many more do.
fn difference(report: &v1::TaskReport) -> String {
    match report.drift.as_slice() {
        [] if report.reason.is_empty() => String::new(),
        [] => format!(": {}", report.reason),
        [only] => format!(": {only}"),
        [first, more @ ..] => format!(": {first}, and {} more", more.len()),
    }
}
