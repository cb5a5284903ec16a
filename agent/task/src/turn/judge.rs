//! What came of an apply, told by the look after it: pure.

use crate::{Finding, TaskError};

/// What two looks and an apply between them amount to.
pub(super) struct Stage {
    pub(super) verdict: Verdict,
    /// What differed before and does not any more.
    pub(super) done: Vec<String>,
}

/// How it goes on.
pub(super) enum Verdict {
    /// Nothing differs any more; it may wait for something.
    Settled(Finding),
    /// What still differs needs a permit the apply did not need.
    Next(Finding),
    /// The apply could not do its work; what the last look found.
    Stuck(TaskError, Finding),
    /// The apply says it worked, and it did not; what the look after it found.
    Differs(String, Finding),
}

/// Judges an apply by the look after it.
pub(super) fn judge(
    first: Finding,
    applied: Result<(), TaskError>,
    second: Result<Finding, TaskError>,
) -> Stage {
    let mut second = match second {
        Ok(second) => second,
        Err(look) => {
            // The apply's own trouble explains more than the look that failed after it.
            let error = applied.err().unwrap_or(look);
            return Stage { verdict: Verdict::Stuck(error, first), done: Vec::new() };
        }
    };
    let done = first.drift.iter().filter(|line| !second.drift.contains(line)).cloned().collect();
    let verdict = match applied {
        _ if second.drift.is_empty() => {
            if let Err(error) = applied
                && !matches!(error, TaskError::NotYet(_))
            {
                second
                    .warnings
                    .push(format!("it is as desired although applying it complained: {}", error.explain()));
            }
            Verdict::Settled(second)
        }
        Err(error) => Verdict::Stuck(error, second),
        Ok(()) if second.permit.is_some() && second.permit != first.permit => Verdict::Next(second),
        Ok(()) => {
            let why = format!(
                "still differs after it was applied: {}; next: something on the node undoes it or hides it",
                second.drift.join(", ")
            );
            Verdict::Differs(why, second)
        }
    };
    Stage { verdict, done }
}
