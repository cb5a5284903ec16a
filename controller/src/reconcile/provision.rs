//! The cloud as runs see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use fleet_model::{NodeName, Timestamp};
use fleet_plan::{ResolvedPlan, resolved::Cloud};
use fleet_provider::{
    event::{Addresses, Event},
    orphans::Orphan,
    provider::{Outcome, Preview},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The cloud could not do its part: cause and next step in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProvisionError(pub String);

/// What runs need of a provider; see `fleet_provider::provider` for what each does.
#[async_trait]
pub trait Provision: Send + Sync {
    /// What `apply` would do, after `destroy_node` of each node in `replace`.
    async fn preview(
        &self,
        plan: &ResolvedPlan,
        replace: &BTreeSet<NodeName>,
    ) -> Result<Preview, ProvisionError>;
    /// What in the cloud nobody answers for, as far as this fleet knows.
    async fn orphans(&self, plan: Option<&ResolvedPlan>) -> Result<Vec<Orphan>, ProvisionError>;
    /// Makes the cloud what the plan says.
    async fn apply(
        &self,
        plan: &ResolvedPlan,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError>;
    /// Destroys the server of one of the plan's nodes and leaves everything else.
    async fn destroy_node(
        &self,
        plan: &ResolvedPlan,
        node: &NodeName,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError>;
    /// Removes everything of the fleet, and proves it.
    async fn destroy(
        &self,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError>;
    /// The cloud's clock, if it says.
    async fn time(&self) -> Result<Option<Timestamp>, ProvisionError> {
        Ok(None)
    }
    /// Addresses of every node that has a server.
    async fn addresses(&self, plan: &ResolvedPlan) -> Result<BTreeMap<NodeName, Addresses>, ProvisionError>;
}

/// Opens a provider for each run.
pub trait Provisioners: Send + Sync + fmt::Debug {
    /// A provider for this cloud, whose resources carry `fleet_id`.
    ///
    /// # Errors
    /// [`ProvisionError`] if there is no way to reach the cloud.
    fn open(&self, cloud: &Cloud, fleet_id: &str) -> Result<Arc<dyn Provision>, ProvisionError>;
}
