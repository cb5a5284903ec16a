//! Answers that go on: progress of a run, status after every change.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use fleet_model::{FleetName, NodeName};
use fleet_proto::v1;
use futures::{Stream, StreamExt, stream::BoxStream};
use tonic::Status;

use super::fleet_status;
use crate::{
    reconcile::{board::Board, progress::Listener},
    session::stream::Desk,
};

/// At most four messages a second: nobody reads faster.
const PACE: Duration = Duration::from_millis(250);
/// Silence is not a change anybody announces, so a status is sent now and then anyway.
const ANYWAY: Duration = Duration::from_secs(15);

/// Progress of a run; dropping it leaves the run alone.
pub struct ProgressStream(BoxStream<'static, Result<v1::Progress, Status>>);

impl ProgressStream {
    pub(super) fn new(listener: Listener) -> Self {
        let told = futures::stream::unfold(listener, |mut listener| async move {
            let next = listener.next().await?;
            Some((Ok(next), listener))
        });
        Self(told.boxed())
    }
}

impl Stream for ProgressStream {
    type Item = Result<v1::Progress, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

/// Status at once, then after every change.
pub struct StatusStream(BoxStream<'static, Result<v1::FleetStatus, Status>>);

impl StatusStream {
    pub(super) fn new(fleet: FleetName, board: Arc<Board>, desk: Arc<Desk>, only: Option<NodeName>) -> Self {
        let mut watch = desk.registry.watch();
        // What is there already counts as news once.
        watch.mark_changed();
        let statuses = futures::stream::unfold((watch, true), move |(mut watch, first)| {
            let (fleet, board, desk, only) = (fleet.clone(), board.clone(), desk.clone(), only.clone());
            async move {
                // Lapsed is as good as changed, closed is the end.
                if let Ok(Err(_)) = tokio::time::timeout(ANYWAY, watch.changed()).await {
                    return None;
                }
                if !first {
                    tokio::time::sleep(PACE).await;
                }
                watch.borrow_and_update();
                let status = fleet_status(&fleet, &board, &desk, only.as_ref());
                Some((Ok(status), (watch, false)))
            }
        });
        Self(statuses.boxed())
    }
}

impl Stream for StatusStream {
    type Item = Result<v1::FleetStatus, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}
