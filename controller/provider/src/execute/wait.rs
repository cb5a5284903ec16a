//! Waiting until something is settled or gone; what is gone leaves the index.

use fleet_mcp::{
    Id,
    types::{Server, State},
};
use tokio::time::Instant;

use super::{Failure, Run, act::Done, looks::Kind, timing::Rhythm};
use crate::{cloud::Change, event::Step};

/// How waiting ended.
pub(super) enum Settled<T> {
    /// It is normal and idle.
    Normal(T),
    /// It failed: in which state, and why.
    Failed(T, String),
    /// It is not there any more.
    Gone,
}

/// What is waited for the end of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    /// The operation, if we know which it is and since when.
    operation: Option<&'static str>,
    at: Instant,
}

impl Began {
    /// Whatever is under way, and since when nobody knows.
    pub(super) fn some_time_ago() -> Self {
        Self { operation: None, at: Instant::now() }
    }

    /// `change` was just accepted, or found to have been.
    pub(super) fn by<T>(change: &Change, done: &Done<T>) -> Self {
        match done {
            Done::Accepted(_) => Self { operation: Some(change.name()), at: Instant::now() },
            Done::Found(_) => Self::some_time_ago(),
        }
    }
}

impl Run {
    /// Waits until it is settled, and takes note of what it then is.
    pub(super) async fn settle<T: Kind>(
        &self,
        step: &Step,
        id: &Id<T>,
        began: Began,
    ) -> Result<Settled<T>, Failure> {
        let settled = self.settled(step, id, began).await?;
        if matches!(settled, Settled::Gone) {
            self.journal.gone(T::WORD, id.as_str()).await?;
        }
        let mut view = self.view();
        match &settled {
            Settled::Normal(found) | Settled::Failed(found, _) => found.clone().put(&mut view),
            Settled::Gone => T::remove(&mut view, id),
        }
        drop(view);
        Ok(settled)
    }

    /// Waits for a server that must be there and sound.
    pub(super) async fn sound_server(
        &self,
        step: &Step,
        id: &Id<Server>,
        began: Began,
    ) -> Result<Server, Failure> {
        match self.settle(step, id, began).await? {
            Settled::Normal(server) => Ok(server),
            Settled::Failed(_, why) => Err(Failure(format!(
                "the server is {why}; look at it at the cloud, delete it there or have it repaired, and run again"
            ))),
            Settled::Gone => Err(Failure("the server is gone; run again to make it anew".into())),
        }
    }

    async fn settled<T: Kind>(&self, step: &Step, id: &Id<T>, began: Began) -> Result<Settled<T>, Failure> {
        let mut rhythm = match began.operation {
            Some(operation) => self.timing().rhythm(operation, &self.pace),
            None => Rhythm::now(&self.pace),
        };
        let (mut missed, mut told) = (false, None);
        loop {
            let due = began.at + rhythm.next();
            let (looked, found) = T::looks(self).at(self, id, due, due + rhythm.slack()).await?;
            let after = looked.saturating_duration_since(began.at);
            if found.as_ref().is_none_or(Kind::is_idle)
                && let Some(operation) = began.operation
            {
                self.timing().learn(operation, after, missed);
            }
            let Some(found) = found else { return Ok(Settled::Gone) };
            if found.is_idle() {
                return Ok(Settled::Normal(found));
            }
            let state = found.state().clone();
            if state.is_failed() {
                let reason = found.failure().map(|why| format!(" ({why})")).unwrap_or_default();
                return Ok(Settled::Failed(found, format!("{state}{reason}")));
            }
            if after > self.pace.settle {
                let minutes = self.pace.settle.as_secs() / 60;
                return Err(Failure(format!(
                    "still {state} after {minutes} minutes; see what the cloud does, and run again"
                )));
            }
            if told.as_ref() != Some(&state) {
                self.waiting(step, in_words(&state)).await;
                told = Some(state);
            }
            rhythm.missed(after);
            missed = true;
        }
    }
}

fn in_words(state: &State) -> String {
    match state {
        State::PendingAdd => "being made".into(),
        State::PendingChange | State::Normal => "being changed".into(),
        State::PendingDelete | State::PendingClean => "being deleted".into(),
        other => other.to_string(),
    }
}
