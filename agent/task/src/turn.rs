//! One task's turn in a run: look, decide, move, look again.

mod judge;

use std::{sync::Arc, time::Duration};

use fleet_model::Clock;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    Finding, JournalError, Node, OnDrift, Outcome, Permission, Report, TaskError, TaskId,
    journal::{Intent, Standing},
    phases::Planned,
    report::age,
};
use judge::{Verdict, judge};

/// After this many interruptions in a row an apply is suspected of causing them (a reboot loop).
pub(crate) const MAX_INTERRUPTIONS: u32 = 3;
/// Applies one after the other, each opening the way for the next one's permit. More would be a task that goes round
/// in circles.
const MAX_STAGES: usize = 4;
/// Most lines remembered of what was changed before a task converged.
const MAX_CHANGES: usize = 40;

/// How long a permit is kept over failures: long enough for a restart with all its attempts.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// One task being worked on.
pub(crate) struct Turn {
    pub(crate) planned: Planned,
    pub(crate) node: Node,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) generation: u64,
    pub(crate) asked_for: bool,
    /// A person asked for drift to be repaired whatever the policy.
    pub(crate) repair: bool,
    pub(crate) begun: mpsc::Sender<TaskId>,
}

/// How a turn ended.
struct End {
    outcome: Outcome,
    /// By the last look; nothing, if none came to an end.
    found: Finding,
}

impl Turn {
    pub(crate) async fn work(self) -> Report {
        let (id, started) = (self.id().clone(), Instant::now());
        let deadline = self.planned.task.deadline();
        let End { outcome, found } = match tokio::time::timeout(deadline, self.converge()).await {
            Ok(end) => end,
            Err(_) => {
                self.close();
                let why = format!(
                    "it did not end within {} s; next: look at what it runs on the node (`systemctl status fleet-agent`)",
                    deadline.as_secs()
                );
                self.failed(&mut self.node.journal().standing(&id), why, Finding::default())
            }
        };
        match &outcome {
            Outcome::Failed(why) => tracing::warn!(task = %id, %why, "task failed"),
            Outcome::Changed(what) => tracing::info!(task = %id, ?what, "task changed the node"),
            Outcome::Waiting(what) => tracing::info!(task = %id, for_what = %what, "task waits"),
            Outcome::Drifted { lines, .. } => tracing::info!(task = %id, ?lines, "task has drifted"),
            Outcome::Unchanged | Outcome::Running => tracing::debug!(task = %id, "task unchanged"),
        }
        let Finding { warnings, missing_members, .. } = found;
        Report { task: id, outcome, warnings, missing_members, at: self.clock.now(), took: started.elapsed() }
    }

    async fn converge(&self) -> End {
        let journal = self.node.journal();
        let interrupted = journal.interrupted(self.id());
        let mut standing = journal.standing(self.id());
        standing.repairing |= self.repair;
        let first = match self.look().await {
            Ok(finding) => finding,
            Err(error) => return self.stuck(&mut standing, error, Finding::default()),
        };
        if first.drift.is_empty() {
            if let Some(intent) = interrupted
                && first.waiting.is_none()
            {
                self.close();
                note(&mut standing.changed, finished(&intent));
            }
            return self.settled(&mut standing, first);
        }
        if self.had_converged(&standing) {
            let since = *standing.differs_since.get_or_insert_with(|| self.clock.now());
            if self.planned.terms.on_drift != OnDrift::Repair && !standing.repairing && interrupted.is_none()
            {
                if let Err(error) = self.keep(&standing) {
                    tracing::warn!(task = %self.id(), %error, "since when it differs is not remembered");
                }
                let outcome = Outcome::Drifted { lines: first.drift.clone(), since };
                return End { outcome, found: first };
            }
        }
        let interruptions = match &interrupted {
            Some(intent) if intent.generation == self.generation && !self.asked_for => {
                intent.interruptions + 1
            }
            _ => 0,
        };
        if interruptions >= MAX_INTERRUPTIONS {
            let why = format!(
                "its apply was cut off {interruptions} times in a row ({}); next: see in the node's log what \
                 stopped it, then run `fleet-agent --once` there",
                first.drift.join(", ")
            );
            return self.failed(&mut standing, why, first);
        }
        let resumed = interrupted.is_some();
        self.stages(standing, first, interruptions, resumed).await
    }

    /// Applies until nothing differs, or until what still differs is not a matter of another permit.
    async fn stages(
        &self,
        mut standing: Standing,
        mut finding: Finding,
        interruptions: u32,
        resumed: bool,
    ) -> End {
        for _ in 0..MAX_STAGES {
            if let Some(wait) = self.permitted(&mut standing, finding.permit.as_deref()) {
                return match wait {
                    Ok(what) => self.waiting(&mut standing, what, finding),
                    Err(error) => self.failed(&mut standing, TaskError::from(error).explain(), finding),
                };
            }
            let intent = Intent {
                begun: self.clock.now(),
                generation: self.generation,
                drift: finding.drift.clone(),
                interruptions,
            };
            let disturbed = standing.disturbed;
            if finding.permit.is_some() && !finding.gentle {
                standing.disturbed.get_or_insert_with(|| self.clock.now());
            }
            let begun = self.keep(&standing).and_then(|()| self.node.journal().begin(self.id(), intent));
            if let Err(error) = begun {
                // Nothing was begun after all.
                standing.disturbed = disturbed;
                return self.failed(&mut standing, TaskError::from(error).explain(), finding);
            }
            // Only tells the board; a full channel means it is being told anyway.
            let _ = self.begun.try_send(self.id().clone());
            let applied = self.planned.task.apply(&self.node).await;
            let second = self.look().await;
            self.close();
            let stage = judge(finding, applied, second);
            let told = self.planned.task.done();
            note(&mut standing.changed, if told.is_empty() { stage.done } else { told });
            match stage.verdict {
                Verdict::Settled(second) => {
                    if resumed && second.waiting.is_none() {
                        let line = "an earlier apply of this was interrupted and has been resumed";
                        note(&mut standing.changed, [line.to_owned()]);
                    }
                    return self.settled(&mut standing, second);
                }
                Verdict::Next(second) => finding = second,
                Verdict::Stuck(error, found) => return self.stuck(&mut standing, error, found),
                Verdict::Differs(why, found) => return self.failed(&mut standing, why, found),
            }
        }
        let why = format!(
            "still differs after {MAX_STAGES} applies: {}; next: something on the node undoes it",
            finding.drift.join(", ")
        );
        self.failed(&mut standing, why, finding)
    }

    fn id(&self) -> &TaskId {
        self.planned.task.id()
    }

    async fn look(&self) -> Result<Finding, TaskError> {
        self.planned.task.check(&self.node).await
    }

    fn had_converged(&self, standing: &Standing) -> bool {
        self.planned.terms.wish.is_some() && standing.converged == self.planned.terms.wish
    }

    /// What stands in the way of applying: `None` when no permit is needed or it is held. That it was asked for is on
    /// disk before it is, so that it is given back also after a restart.
    fn permitted(
        &self,
        standing: &mut Standing,
        wanted: Option<&str>,
    ) -> Option<Result<String, JournalError>> {
        let wanted = wanted?;
        if standing.permit.as_deref() != Some(wanted) {
            self.release(standing);
            standing.permit = Some(wanted.to_owned());
        }
        if let Err(error) = self.keep(standing) {
            return Some(Err(error));
        }
        match self.node.controller().permit(wanted, self.id()) {
            Permission::Held => None,
            Permission::Waiting(what) => Some(Ok(what)),
        }
    }

    fn release(&self, standing: &mut Standing) {
        if let Some(permit) = standing.permit.take() {
            self.node.controller().release(&permit);
        }
        standing.disturbed = None;
    }

    /// Nothing differs: converged, or waiting.
    fn settled(&self, standing: &mut Standing, mut found: Finding) -> End {
        if let Some(what) = found.waiting.take() {
            return self.waiting(standing, what, found);
        }
        let mut changed = std::mem::take(&mut standing.changed);
        if let Some(since) = standing.differs_since.take()
            && !changed.is_empty()
        {
            let known = age(self.clock.now().since(since));
            changed.push(format!("this had drifted, and was known to for {known} before it was repaired"));
        }
        self.release(standing);
        standing.repairing = false;
        standing.converged.clone_from(&self.planned.terms.wish);
        if let Err(error) = self.keep(standing) {
            tracing::warn!(task = %self.id(), %error, "that it converged is not remembered");
        }
        let outcome = if changed.is_empty() { Outcome::Unchanged } else { Outcome::Changed(changed) };
        End { outcome, found }
    }

    /// Not yet. A permit stays with it until its lease ends, and what was done so far is not forgotten.
    fn waiting(&self, standing: &mut Standing, what: String, found: Finding) -> End {
        if let Err(error) = self.keep(standing) {
            tracing::warn!(task = %self.id(), %error, "what was done so far is not remembered");
        }
        End { outcome: Outcome::Waiting(what), found }
    }

    fn stuck(&self, standing: &mut Standing, error: TaskError, found: Finding) -> End {
        match error {
            TaskError::NotYet(what) => self.waiting(standing, what, found),
            error => self.failed(standing, error.explain(), found),
        }
    }

    /// It could not be done. Whatever was begun under a permit may have left the node half way through a restart: one
    /// that is away, and others must not go away beside it. Its permit is kept until it has converged, but not for
    /// ever: what fails again and again is not half way through anything, and others wait for their turn.
    fn failed(&self, standing: &mut Standing, why: String, found: Finding) -> End {
        if standing.disturbed.is_none_or(|since| self.clock.now().since(since) > KEPT) {
            self.release(standing);
        }
        standing.repairing = false;
        if let Err(error) = self.keep(standing) {
            tracing::warn!(task = %self.id(), %error, "that it failed is not remembered");
        }
        End { outcome: Outcome::Failed(why), found }
    }

    fn keep(&self, standing: &Standing) -> Result<(), JournalError> {
        self.node.journal().stand(self.id(), standing)
    }

    /// The apply is over, whatever came of it. Failing to say so costs one more look after a restart.
    fn close(&self) {
        if let Err(error) = self.node.journal().end(self.id()) {
            tracing::warn!(task = %self.id(), %error, "the journal keeps an apply that is over");
        }
    }
}

/// Adds lines not there yet, up to the limit.
fn note(changed: &mut Vec<String>, lines: impl IntoIterator<Item = String>) {
    for line in lines {
        if changed.len() < MAX_CHANGES && !changed.contains(&line) {
            changed.push(line);
        }
    }
}

fn finished(intent: &Intent) -> Vec<String> {
    let mut lines = intent.drift.clone();
    lines.push(format!("begun {}, interrupted, and found complete", intent.begun));
    lines
}

#[cfg(test)]
mod tests;
