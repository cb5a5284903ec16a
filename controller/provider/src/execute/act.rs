//! One change: intent, call, outcome; and a look wherever the answer leaves it open.

use std::{future::Future, sync::atomic::Ordering};

use fleet_mcp::McpError;
use tokio::time::{Instant, sleep};

use super::{Failure, Run};
use crate::{cloud::Change, event::Step};

/// What a change is about, for the journal.
#[derive(Default)]
pub(super) struct About {
    /// Network domain, for kinds without a name.
    pub(super) domain: Option<String>,
    /// Ids before the call, for kinds without a name.
    pub(super) before: Vec<String>,
}

/// How a change came about.
#[derive(Debug)]
pub(super) enum Done<T> {
    /// The cloud accepted it, and perhaps said the id of what is new.
    Accepted(Option<String>),
    /// It was found done by looking.
    Found(T),
}

/// How a change came about that makes something without a name.
pub(super) enum Unnamed<T> {
    /// It is there.
    Made(T),
    /// The cloud accepted the change, yet shows nothing.
    Unlisted,
    /// Nothing came of it, for certain.
    Refused(Failure),
}

impl Run {
    /// A read, repeated a few times while the cloud is in trouble.
    pub(super) async fn read<T, F, R>(&self, read: F) -> Result<T, McpError>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T, McpError>>,
    {
        let started = Instant::now();
        let mut pause = self.pace.first;
        let mut attempt = 1;
        loop {
            let result = {
                let _slot = self.calls.acquire().await.expect("slots are never closed");
                read().await
            };
            let error = match result {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let again = match &error {
                McpError::Busy(_) => started.elapsed() < self.pace.busy,
                error => error.is_retryable() && attempt < self.pace.reads,
            };
            if !again || !self.is_worth_waiting(&error) {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "read is repeated");
            attempt += 1;
            sleep(pause.max(error.retry_after().unwrap_or_default())).await;
            pause = self.pace.next(pause);
        }
    }

    /// Whether the cloud asks to be left alone no longer than it may be busy.
    fn is_worth_waiting(&self, error: &McpError) -> bool {
        error.retry_after().is_none_or(|after| after <= self.pace.busy)
    }

    /// Sends `change` until it has had its effect, once. `look` says whether it has: after an answer that was lost,
    /// or that says the cloud is in trouble, nothing is sent again before it was asked.
    pub(super) async fn act<T, L, R>(
        &self,
        step: &Step,
        about: About,
        change: &Change,
        look: L,
    ) -> Result<Done<T>, Failure>
    where
        L: Fn() -> R,
        R: Future<Output = Result<Option<T>, McpError>>,
    {
        let intent = self.journal.intend(change.name(), step, about.domain, about.before).await?;
        let result = self.send(step, change, look).await;
        let what = match &result {
            Ok(Done::Accepted(_)) => "accepted".to_owned(),
            Ok(Done::Found(_)) => "found by looking".to_owned(),
            Err(Failure(why)) => format!("failed: {why}"),
        };
        self.journal.finish(intent, what).await?;
        result
    }

    /// The same for what has no name and no mark: blocks of addresses and translations. What was made is in the index
    /// before the intent is closed, and an intent is closed only once it is known what came of it, by the answer if `told`
    /// can read it there, else by a look: after a kill, or a cloud that fell silent in between, the next run finds it
    /// open.
    pub(super) async fn act_unnamed<T, L, R>(
        &self,
        step: &Step,
        about: About,
        change: &Change,
        (look, told): (L, impl FnOnce(String) -> Option<T>),
        (kind, id): (&'static str, fn(&T) -> &str),
    ) -> Result<Unnamed<T>, Failure>
    where
        L: Fn() -> R,
        R: Future<Output = Result<Option<T>, McpError>>,
    {
        let intent = self.journal.intend(change.name(), step, about.domain, about.before).await?;
        let found = match self.send(step, change, &look).await {
            Ok(Done::Found(found)) => Some(found),
            Ok(Done::Accepted(new)) => match new.and_then(told) {
                Some(made) => Some(made),
                None => self.read(&look).await?,
            },
            Err(Failure(why)) => match self.read(&look).await {
                // It came about all the same, as an answer that was lost did not tell.
                Ok(Some(found)) => Some(found),
                Ok(None) => {
                    self.journal.finish(intent, format!("failed: {why}")).await?;
                    return Ok(Unnamed::Refused(Failure(why)));
                }
                Err(_) => return Err(Failure(why)),
            },
        };
        let Some(found) = found else { return Ok(Unnamed::Unlisted) };
        self.journal.made(kind, id(&found)).await?;
        self.journal.finish(intent, "made").await?;
        Ok(Unnamed::Made(found))
    }

    /// Looks for what was made until it would be listed: sent again too soon, it would be there twice.
    async fn look_on<T, L, R>(&self, look: &L) -> Result<Option<T>, McpError>
    where
        L: Fn() -> R,
        R: Future<Output = Result<Option<T>, McpError>>,
    {
        let until = Instant::now() + self.pace.unlisted;
        let mut pause = self.pace.first;
        loop {
            if let Some(found) = self.read(look).await? {
                return Ok(Some(found));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            sleep(pause).await;
            pause = self.pace.next(pause);
        }
    }

    async fn send<T, L, R>(&self, step: &Step, change: &Change, look: L) -> Result<Done<T>, Failure>
    where
        L: Fn() -> R,
        R: Future<Output = Result<Option<T>, McpError>>,
    {
        let started = Instant::now();
        let mut pause = self.pace.first;
        let mut attempt = 1;
        loop {
            let result = {
                let _slot = self.calls.acquire().await.expect("slots are never closed");
                self.changes.fetch_add(1, Ordering::Relaxed);
                self.cloud.change(change).await
            };
            let error = match result {
                // Without an id, only looking tells which it is.
                Ok(None) if change.is_create() => {
                    return Ok(self.look_on(&look).await?.map_or(Done::Accepted(None), Done::Found));
                }
                Ok(id) => return Ok(Done::Accepted(id)),
                Err(error) => error,
            };
            tracing::debug!(call = change.name(), name = step.name, %error, attempt, "change not accepted");
            let again = match &error {
                McpError::Busy(_) => started.elapsed() < self.pace.busy,
                // Something else is still being deleted; the order of work has seen to the rest.
                McpError::HasDependency(_) => attempt < self.pace.attempts,
                error => (error.is_ambiguous() || error.is_retryable()) && attempt < self.pace.attempts,
            };
            let again = again && self.is_worth_waiting(&error);
            // The name is taken, the server is started, the thing is gone: perhaps by an earlier attempt of ours.
            let perhaps_done = error.is_ambiguous()
                || matches!(
                    error,
                    McpError::Busy(_)
                        | McpError::NameNotUnique(_)
                        | McpError::NotFound(_)
                        | McpError::NoChange(_)
                        | McpError::ServerStarted(_)
                        | McpError::ServerStopped(_)
                        | McpError::Transport { .. }
                );
            if again {
                self.waiting(step, error.to_string()).await;
                sleep(pause.max(error.retry_after().unwrap_or_default())).await;
                pause = self.pace.next(pause);
            }
            let found = match perhaps_done {
                true if error.is_ambiguous() && change.is_create() => self.look_on(&look).await?,
                true => self.read(&look).await?,
                false => None,
            };
            if let Some(found) = found {
                return Ok(Done::Found(found));
            }
            if !again {
                return Err(error.into());
            }
            attempt += 1;
        }
    }
}
