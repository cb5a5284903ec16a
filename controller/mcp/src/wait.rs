//! Polling until a resource is settled or gone.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Client, Id, McpError, resource::Stateful, types::State};

/// How fast to poll: quickly at first, since the local cloud is fast, then ever more slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// First pause.
    pub first: Duration,
    /// Longest pause.
    pub ceiling: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first: Duration::from_millis(150), ceiling: Duration::from_secs(2) }
    }
}

impl Pace {
    /// The pause after this one.
    fn next(self, pause: Duration) -> Duration {
        pause.saturating_mul(3).checked_div(2).unwrap_or(self.ceiling).min(self.ceiling)
    }
}

/// Waiting ended without what was waited for.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// It failed, and waiting longer will not help.
    #[error("{kind} `{id}` is {state}{}", reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Failed {
        /// Kind of resource.
        kind: &'static str,
        /// Its id.
        id: String,
        /// `FAILED_ADD` and the like.
        state: State,
        /// Why, if the service says so.
        reason: Option<String>,
    },
    /// It is not there (any more).
    #[error("{kind} `{id}` is gone")]
    Gone {
        /// Kind of resource.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// It was not settled in time.
    #[error("{kind} `{id}` is still {last} after {} s", after.as_secs())]
    Deadline {
        /// Kind of resource.
        kind: &'static str,
        /// Its id.
        id: String,
        /// What it was when last seen, or why it could not be seen.
        last: String,
        /// How long was waited.
        after: Duration,
    },
    /// The service could not be asked.
    #[error("look at {kind} `{id}`")]
    Api {
        /// Kind of resource.
        kind: &'static str,
        /// Its id.
        id: String,
        /// Why.
        #[source]
        source: Box<McpError>,
    },
}

/// Waits until the resource is normal. `seen` is told what each poll found.
///
/// # Errors
/// It failed, is gone, did not settle within `deadline`, or cannot be asked for.
///
/// # Cancel safety
/// Only reads; may be dropped at any time.
pub async fn until_normal<T: Stateful>(
    client: &Client,
    id: &Id<T>,
    pace: Pace,
    deadline: Duration,
    mut seen: impl FnMut(&T) + Send,
) -> Result<T, WaitError> {
    let settle = |found: Option<T>| {
        let found = found.ok_or_else(|| gone::<T>(id))?;
        seen(&found);
        if found.state().is_failed() {
            return Err(failed(id, &found));
        }
        Ok(if found.state().is_normal() { Ok(found) } else { Err(found.state().to_string()) })
    };
    poll(client, id, pace, deadline, settle).await
}

/// Waits until the resource is gone. `seen` is told what each poll found.
///
/// # Errors
/// Its deletion failed, did not end within `deadline`, or it cannot be asked for.
///
/// # Cancel safety
/// Only reads; may be dropped at any time.
pub async fn until_gone<T: Stateful>(
    client: &Client,
    id: &Id<T>,
    pace: Pace,
    deadline: Duration,
    mut seen: impl FnMut(&T) + Send,
) -> Result<(), WaitError> {
    let settle = |found: Option<T>| {
        let Some(found) = found else { return Ok(Ok(())) };
        seen(&found);
        if found.state().is_failed() {
            return Err(failed(id, &found));
        }
        Ok(Err(found.state().to_string()))
    };
    poll(client, id, pace, deadline, settle).await
}

fn gone<T: Stateful>(id: &Id<T>) -> WaitError {
    WaitError::Gone { kind: T::KIND, id: id.to_string() }
}

fn failed<T: Stateful>(id: &Id<T>, found: &T) -> WaitError {
    WaitError::Failed {
        kind: T::KIND,
        id: id.to_string(),
        state: found.state().clone(),
        reason: found.failure().map(str::to_owned),
    }
}

/// Looks again and again until `settle` says what came of it: an end, or in words what there is now.
async fn poll<T: Stateful, R>(
    client: &Client,
    id: &Id<T>,
    pace: Pace,
    deadline: Duration,
    mut settle: impl FnMut(Option<T>) -> Result<Result<R, String>, WaitError> + Send,
) -> Result<R, WaitError> {
    let started = Instant::now();
    let mut pause = pace.first;
    let too_late =
        |last: String| WaitError::Deadline { kind: T::KIND, id: id.to_string(), last, after: deadline };
    let mut last = "unknown".to_owned();
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, client.find(id)).await {
            Ok(Ok(found)) => match settle(found)? {
                Ok(end) => return Ok(end),
                Err(now) => last = now,
            },
            // Trouble passes; the deadline bounds how long we hope.
            Ok(Err(error)) if error.is_retryable() => last = format!("unknown ({error})"),
            Ok(Err(source)) => {
                return Err(WaitError::Api { kind: T::KIND, id: id.to_string(), source: source.into() });
            }
            Err(_elapsed) => return Err(too_late(last)),
        }
        let left = deadline.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(too_late(last));
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = pace.next(pause);
    }
}
