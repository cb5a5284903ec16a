//! Looking for what nobody answers for: when an operator asks, and now and then, so that status can tell.

use std::{sync::Arc, time::Duration};

use fleet_model::chain;
use fleet_provider::{
    mark::Marked,
    orphans::{Orphan, own},
};
use tokio_util::sync::CancellationToken;

use super::driver::{Driver, Tools};
use crate::records::RecordError;

/// How often the cloud is looked at: a few dozen reads, for what changes once in a month.
const EVERY: Duration = Duration::from_secs(300);

/// The cloud could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// What is known of the fleet cannot be read.
    #[error("{}", chain(.0))]
    Record(#[from] RecordError),
    /// The cloud does not answer: cause and next step.
    #[error("{0}")]
    Cloud(String),
}

/// Looks, and notes for status how much of it is this fleet's affair. `None` if the fleet never had a cloud.
///
/// # Errors
/// [`LookError`].
pub async fn look(tools: &Tools) -> Result<Option<Vec<Orphan>>, LookError> {
    let fleet = tools.fleet().await?.value;
    let Some(cloud) = &fleet.cloud else { return Ok(None) };
    let provision = tools.provisioners.open(cloud, &fleet.id).map_err(|error| LookError::Cloud(error.0))?;
    let board = &tools.homecoming.board;
    let plan = board.plan();
    let found = provision.orphans(plan.as_deref()).await.map_err(|error| LookError::Cloud(error.0))?;
    let ours = Marked { fleet: tools.fleet_name.to_string(), id: fleet.id.clone() };
    board.set_orphans(own(&found, &ours), tools.clock().now());
    Ok(Some(found))
}

/// Looks now and then until `stop`, but not while a run changes things.
pub async fn watch(driver: Arc<Driver>, stop: CancellationToken) {
    // Cancel safe: a look only reads, and nothing is under way while it sleeps.
    while tokio::time::timeout(EVERY, stop.cancelled()).await.is_err() {
        if driver.is_running() {
            continue;
        }
        if let Err(error) = look(driver.tools()).await {
            tracing::info!(%error, "not looked for orphans");
        }
    }
}
