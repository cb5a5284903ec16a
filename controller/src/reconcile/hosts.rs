//! Machines that are there already, as runs see them: a cloud in which nothing is made and nothing destroyed.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use fleet_hosts::{Hosts, HostsError};
use fleet_model::NodeName;
use fleet_plan::ResolvedPlan;
use fleet_provider::{
    event::{Addresses, Event},
    orphans::Orphan,
    provider::{Outcome, Preview},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::provision::{Provision, ProvisionError};

impl From<HostsError> for ProvisionError {
    fn from(error: HostsError) -> Self {
        Self(format!("{}; {}", fleet_model::chain(&error), error.hint()))
    }
}

#[async_trait]
impl Provision for Hosts {
    async fn preview(
        &self,
        plan: &ResolvedPlan,
        replace: &BTreeSet<NodeName>,
    ) -> Result<Preview, ProvisionError> {
        Ok(Self::preview(self, plan, replace).await?)
    }

    /// None: nobody lists machines that are somebody's.
    async fn orphans(&self, _: Option<&ResolvedPlan>) -> Result<Vec<Orphan>, ProvisionError> {
        Ok(Vec::new())
    }

    async fn apply(
        &self,
        plan: &ResolvedPlan,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError> {
        Ok(Self::apply(self, plan, events, stop).await?)
    }

    async fn destroy_node(
        &self,
        _: &ResolvedPlan,
        node: &NodeName,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError> {
        Ok(self.release_node(node, events, stop).await?)
    }

    async fn destroy(
        &self,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError> {
        Ok(Self::destroy(self, events, stop).await?)
    }

    async fn addresses(&self, plan: &ResolvedPlan) -> Result<BTreeMap<NodeName, Addresses>, ProvisionError> {
        Ok(Self::addresses(self, plan).await?)
    }
}
