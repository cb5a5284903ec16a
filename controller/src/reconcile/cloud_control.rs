//! The cloud as it is: the CloudControl API.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use fleet_hosts::{Access, Hosts};
use fleet_model::{FleetName, NodeName, Timestamp};
use fleet_plan::{ResolvedPlan, resolved::Cloud};
use fleet_provider::{
    Images, Leave,
    event::{Addresses, Event},
    orphans::Orphan,
    provider::{Outcome, Preview, Provider, ProviderError},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::provision::{Provision, ProvisionError, Provisioners};
use crate::{
    records::Records,
    settings::{CloudAccess, CloudAccessSource},
    vault::SealedVault,
};

/// Providers that speak the CloudControl API, and those of machines that are there already.
#[derive(Debug)]
pub struct CloudControl {
    /// The fleet.
    pub fleet: FleetName,
    /// The controller's folder: what is noted there of the operator's SSH is read for each run.
    pub dir: PathBuf,
    /// How to reach the cloud; asked for each run.
    pub access: Arc<dyn CloudAccessSource>,
    /// Where the journal goes.
    pub records: Records,
    /// Initial passwords.
    pub vault: Arc<SealedVault>,
    /// The time.
    pub clock: Arc<dyn fleet_model::Clock>,
    /// Who is asked before a member of a database is restarted.
    pub leave: Arc<dyn Leave>,
    /// The cloud last reached; runs share its account and its images while the way there is the same.
    pub reached: Mutex<Option<Reached>>,
}

/// A cloud, and what does not change from run to run.
#[derive(Clone, Debug)]
pub struct Reached {
    access: CloudAccess,
    client: Arc<fleet_mcp::Client>,
    images: Arc<Images>,
}

impl CloudControl {
    fn reach(&self, access: CloudAccess) -> Result<Reached, ProvisionError> {
        // Whole at every moment, so a poisoned lock is still good.
        let mut held = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reached) = held.as_ref().filter(|reached| reached.access == access) {
            return Ok(reached.clone());
        }
        let client = Arc::new(client(access.clone())?);
        Ok(held.insert(Reached { access, client, images: Arc::default() }).clone())
    }
}

impl Provisioners for CloudControl {
    fn open(&self, cloud: &Cloud, fleet_id: &str) -> Result<Arc<dyn Provision>, ProvisionError> {
        if *cloud == Cloud::Hosts {
            return Ok(Arc::new(Hosts::new(
                self.records.store().clone(),
                self.fleet.clone(),
                fleet_id.to_owned(),
                Access::read(&self.dir),
            )));
        }
        let access = self.access.access(cloud).map_err(|error| ProvisionError(error.to_string()))?;
        let Reached { client, images, .. } = self.reach(access)?;
        let provider = Provider::new(
            client,
            self.records.store().clone(),
            self.vault.clone(),
            self.fleet.clone(),
            fleet_id.to_owned(),
            self.clock.clone(),
        );
        Ok(Arc::new(provider.with_images(images).with_leave(self.leave.clone())))
    }
}

/// A client of the cloud, as providers want it.
///
/// # Errors
/// [`ProvisionError`] if its settings make no client.
pub fn client(access: CloudAccess) -> Result<fleet_mcp::Client, ProvisionError> {
    let credentials = fleet_mcp::Credentials {
        username: access.username,
        password: fleet_mcp::Secret::new(access.password.reveal()),
    };
    let mut settings = fleet_mcp::Settings::new(access.endpoint, credentials);
    settings.extra_ca_pem = access.ca_pem;
    // The provider waits itself, where others can use the call's place and the wait is shown.
    settings.retry.busy_for = std::time::Duration::ZERO;
    fleet_mcp::Client::new(settings)
        .map_err(|error| ProvisionError(format!("{}; {}", fleet_model::chain(&error), error.hint())))
}

impl From<ProviderError> for ProvisionError {
    fn from(error: ProviderError) -> Self {
        Self(format!("{}; {}", fleet_model::chain(&error), error.hint()))
    }
}

#[async_trait]
impl Provision for Provider {
    async fn preview(
        &self,
        plan: &ResolvedPlan,
        replace: &BTreeSet<NodeName>,
    ) -> Result<Preview, ProvisionError> {
        Ok(Self::preview(self, plan, replace).await?)
    }
    async fn orphans(&self, plan: Option<&ResolvedPlan>) -> Result<Vec<Orphan>, ProvisionError> {
        Ok(Self::orphans(self, plan).await?)
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
        plan: &ResolvedPlan,
        node: &NodeName,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError> {
        Ok(Self::destroy_node(self, plan, node, events, stop).await?)
    }
    async fn destroy(
        &self,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
    ) -> Result<Outcome, ProvisionError> {
        Ok(Self::destroy(self, events, stop).await?)
    }
    async fn time(&self) -> Result<Option<Timestamp>, ProvisionError> {
        Ok(Self::time(self).await?)
    }
    async fn addresses(&self, plan: &ResolvedPlan) -> Result<BTreeMap<NodeName, Addresses>, ProvisionError> {
        Ok(Self::addresses(self, plan).await?)
    }
}
