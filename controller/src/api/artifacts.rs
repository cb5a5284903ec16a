//! Artifacts as operators bring them, and plans that need them.

use std::{collections::BTreeSet, time::Duration};

use fleet_model::chain;
use fleet_plan::{ResolvedPlan, resolved::Work};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1,
};
use futures::{Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc};
use tonic::Status;

use super::bad_request;
use crate::{
    artifacts::{ArtifactError, Artifacts},
    records::{ArtifactRecord, PlanRecord},
    session::service::busy,
};

/// Artifacts taken in at once: they share one disk.
const AT_ONCE: usize = 4;
/// Longest pause between two chunks.
const STALLED: Duration = Duration::from_secs(60);
/// Chunks waiting for the disk.
const AHEAD: usize = 4;

/// What plans bring along.
#[derive(Debug)]
pub(super) struct Shelf {
    artifacts: Artifacts,
    /// The todo application's program, or why there is none.
    todo: Result<v1::Artifact, String>,
    keeping: Semaphore,
}

impl Shelf {
    pub(super) fn new(artifacts: Artifacts, todo: Result<v1::Artifact, String>) -> Self {
        Self { artifacts, todo, keeping: Semaphore::new(AT_ONCE) }
    }

    /// Those of `wanted` that have to be brought: they are not here, or were damaged here.
    pub(super) async fn missing(&self, wanted: Vec<v1::Artifact>) -> Result<Vec<v1::Artifact>, Status> {
        let artifacts = self.artifacts.clone();
        let looking = tokio::task::spawn_blocking(move || artifacts.missing(&wanted)).await;
        Ok(looking.map_err(|_| stopping())??)
    }

    /// Takes one artifact in.
    pub(super) async fn keep(
        &self,
        mut chunks: impl Stream<Item = Result<v1::KeepChunk, Status>> + Unpin,
    ) -> Result<(), Status> {
        let _place = self.keeping.try_acquire().map_err(|_| busy())?;
        let first = next(&mut chunks).await?.ok_or_else(|| nameless("nothing came"))?;
        let announced = first.artifact.ok_or_else(|| nameless("the first message names no artifact"))?;
        if self.missing(vec![announced.clone()]).await?.is_empty() {
            return Ok(());
        }
        let artifacts = self.artifacts.clone();
        let (sender, mut receiver) = mpsc::channel::<Option<Vec<u8>>>(AHEAD);
        // The disk may block, so it has a thread; it ends with the sender at the latest.
        let writing = tokio::task::spawn_blocking(move || {
            let mut draft = artifacts.draft(&announced)?;
            while let Some(message) = receiver.blocking_recv() {
                match message {
                    Some(bytes) => draft.write(&bytes)?,
                    None => return draft.finish(),
                }
            }
            // Whoever sent went away: nothing is kept, and nobody is there to be told.
            Ok(())
        });
        // Fails once the thread has: then it says why below.
        let mut open = sender.send(Some(first.data)).await.is_ok();
        while open {
            let message = next(&mut chunks).await?.map(|chunk| chunk.data);
            let last = message.is_none();
            open = sender.send(message).await.is_ok() && !last;
        }
        drop(sender);
        match writing.await {
            Ok(kept) => Ok(kept?),
            Err(_) => Err(stopping()),
        }
    }

    /// The todo application's program for the nodes of `plan`, if it has a task for it and there is one.
    pub(super) fn todo(&self, plan: &ResolvedPlan) -> Option<ArtifactRecord> {
        self.todo.as_ref().ok().filter(|_| wants_todo(plan)).cloned().map(Into::into)
    }

    /// Whether everything is here that `plan` brings to its nodes.
    ///
    /// # Errors
    /// A refusal that names all that is missing, and the next step.
    pub(super) async fn complete(&self, plan: &ResolvedPlan, record: &PlanRecord) -> Result<(), Status> {
        if let Err(why) = &self.todo
            && record.todo.is_none()
            && wants_todo(plan)
        {
            return Err(bad_request(
                format!("the plan has a `todo` task, and this controller has no program for it: {why}"),
                "`cargo xtask build` makes `fleet-todo`; put it beside the controller's program, or start the \
                 controller with --todo FILE",
            ));
        }
        let brought: Vec<v1::Artifact> =
            record.artifacts.iter().chain(&record.todo).cloned().map(Into::into).collect();
        let named: BTreeSet<String> = brought.iter().map(|artifact| artifact.name.clone()).collect();
        let unnamed = plan.files().into_iter().filter(|file| !named.contains(*file)).map(str::to_owned);
        let absent = self.missing(brought).await?.into_iter().map(|artifact| artifact.name);
        let lacking: Vec<String> = unnamed.chain(absent).map(|name| format!("`{name}`")).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(bad_request(
            format!("the controller does not hold files that the plan names: {}", lacking.join(", ")),
            "run `fleetctl up` where these files are: it brings them along",
        ))
    }
}

fn wants_todo(plan: &ResolvedPlan) -> bool {
    let mut works = plan.nodes().flat_map(|placed| &placed.node.tasks).map(|task| &task.work);
    works.any(|work| matches!(work, Work::Todo(_)))
}

async fn next(
    chunks: &mut (impl Stream<Item = Result<v1::KeepChunk, Status>> + Unpin),
) -> Result<Option<v1::KeepChunk>, Status> {
    let next = tokio::time::timeout(STALLED, chunks.next()).await;
    next.map_err(|_| Status::deadline_exceeded("no more of the artifact came"))?.transpose()
}

fn stopping() -> Status {
    Status::unavailable("the controller is stopping")
}

fn nameless(what: &str) -> Status {
    bad_request(what, "use a command line of this controller's version")
}

impl From<ArtifactError> for Status {
    fn from(error: ArtifactError) -> Self {
        let hint = match &error {
            ArtifactError::NoRoom { .. } => {
                "make room on the disk of the controller's state, then run the command again"
            }
            ArtifactError::TooLarge { .. } => "name a smaller file in the plan",
            ArtifactError::Size { .. } | ArtifactError::Differs { .. } => {
                "the file changed while it was sent, or was damaged on its way; run the command again"
            }
            ArtifactError::NoDigest(_) | ArtifactError::Unknown(_) => {
                "use a command line of this controller's version"
            }
            ArtifactError::File { .. } => {
                let why = chain(&error);
                tracing::error!(error = why, "artifact not kept");
                return Self::internal(why);
            }
        };
        Refusal::new(RefusalKind::RefusalBadRequest, error.to_string(), hint).into()
    }
}
