//! Real machines: QEMU guests in network namespaces.
//!
//! [`Machines`] is the backing. [`image`] builds what servers boot, [`vm`](self) runs them, `net` and `filter`
//! join and separate them. [`preflight()`] says what the host lacks; [`reset()`] removes every trace.
//! Everything of one cloud lies in its folder; the only things outside it are namespaces, one link of the host
//! and a claim on the public addresses, all of which a reboot removes.

mod accelerator;
mod copies;
mod filter;
mod guest;
pub mod image;
mod marker;
mod names;
mod namespace;
mod net;
#[cfg(test)]
mod network_tests;
mod preflight;
mod process;
mod qcow2;
mod qemu;
mod qmp;
mod reset;
mod run;
mod vm;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use self::{
    copies::Copies,
    image::{Image, Recipe},
    names::Names,
    net::Network,
    qemu::Accelerator,
    vm::Vms,
};
pub use self::{
    net::PublicRange,
    preflight::{Missing, preflight},
    reset::reset,
};
use crate::backing::{Backing, BackingError, DomainSpec, Id, ServerSpec, Stop, World};

/// Where a cloud lives and what it may use.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of this cloud; machines and networks use `servers/` and `net/` in it.
    pub cloud: PathBuf,
    /// Folder for images, shared by all clouds.
    pub cache: PathBuf,
    /// Start of all names of namespaces and links; at most five letters and digits.
    pub prefix: String,
    /// Addresses that play the Internet.
    pub public: PublicRange,
    /// Debian mirror for the image; none is the host's own.
    pub mirror: Option<String>,
}

impl Settings {
    /// The usual settings, with the mirror from `FLEET_MIRROR` if that is set.
    pub fn new(cloud: impl Into<PathBuf>, cache: impl Into<PathBuf>) -> Self {
        Self {
            cloud: absolute(cloud.into()),
            cache: absolute(cache.into()),
            prefix: "flc".into(),
            public: PublicRange::default(),
            mirror: std::env::var("FLEET_MIRROR").ok().filter(|mirror| !mirror.is_empty()),
        }
    }

    fn servers(&self) -> PathBuf {
        self.cloud.join("servers")
    }

    fn copies(&self) -> Copies {
        Copies::of(&self.cloud)
    }
}

/// Names are derived from the folder and QEMU leaves the working directory: both need the whole path.
fn absolute(path: PathBuf) -> PathBuf {
    let path = std::path::absolute(&path).unwrap_or(path);
    path.canonicalize().unwrap_or(path)
}

/// Real machines behind the API.
#[derive(Debug)]
pub struct Machines {
    settings: Settings,
    network: Network,
    vms: Vms,
    /// Domains as last applied: starting a server needs its gateways.
    domains: Mutex<BTreeMap<Id, DomainSpec>>,
    ready: OnceCell<(Image, Accelerator)>,
}

impl Machines {
    /// Touches nothing yet.
    pub fn new(settings: Settings) -> Self {
        let names = Names::new(&settings.prefix, &settings.cloud);
        Self {
            network: Network::new(names.clone(), settings.public, settings.cloud.clone()),
            vms: Vms::new(settings.servers(), settings.copies(), names, settings.public.host),
            domains: Mutex::default(),
            ready: OnceCell::new(),
            settings,
        }
    }

    /// Accelerator in use, once [`Backing::prepare`] has found it.
    pub fn accelerator(&self) -> Option<&'static str> {
        self.ready.get().map(|(_, accelerator)| accelerator.name())
    }

    /// What the serial console of a server printed so far.
    pub fn console_log(&self, id: &str) -> PathBuf {
        self.vms.files(id).console_log()
    }

    fn domains(&self) -> MutexGuard<'_, BTreeMap<Id, DomainSpec>> {
        // Single inserts and removals: a panic cannot leave the map half-changed.
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ready(
        &self,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<&(Image, Accelerator), BackingError> {
        self.ready
            .get_or_try_init(|| async {
                let Settings { cache, mirror, .. } = &self.settings;
                let image = image::ensure(cache, &Recipe, mirror.as_deref(), progress).await?;
                let (used, cloud) = (image.clone(), self.settings.cloud.clone());
                let pruning = tokio::task::spawn_blocking(move || {
                    let is_served = |cloud: &Path| crate::is_served(cloud).unwrap_or(true);
                    image::prune(&used, &cloud, is_served)
                });
                // Room is all it makes; without it everything works as well.
                if let Ok(Err(error)) = pruning.await {
                    tracing::warn!(%error, "old machine images not removed");
                }
                let accelerator = accelerator::choose(cache, &image, progress).await?;
                Ok((image, accelerator))
            })
            .await
    }

    async fn ready_quietly(&self) -> Result<&(Image, Accelerator), BackingError> {
        self.ready(&|line| tracing::info!("{line}")).await
    }

    /// Ids of known servers whose machine runs.
    fn running_now(&self) -> Vec<Id> {
        self.vms.known().into_iter().filter(|id| self.vms.is_running(id)).collect()
    }
}

#[async_trait]
impl Backing for Machines {
    async fn adopt(&self, world: &World) -> Result<Vec<Id>, BackingError> {
        self.network.ensure_backbone().await?;
        for domain in &world.domains {
            self.apply_domain(domain).await?;
        }
        let known: BTreeMap<&str, &ServerSpec> =
            world.servers.iter().map(|(server, _)| (server.id.as_str(), server)).collect();
        for id in self.vms.known() {
            match known.get(id.as_str()) {
                None => {
                    tracing::warn!(server = id, "removing a server the state does not know");
                    self.vms.remove(&id).await?;
                }
                // A crash between start and plug leaves a card unplugged; a new bridge has no ports.
                Some(server) if self.vms.is_running(&id) => {
                    self.network.plug(&server.domain, &server.nics).await?
                }
                Some(_) => {}
            }
        }
        self.settings.copies().keep(&world.images)?;
        self.network.remove_strays(&world.domains).await?;
        Ok(self.running_now())
    }

    async fn prepare(&self, progress: &(dyn Fn(String) + Send + Sync)) -> Result<(), BackingError> {
        self.ready(progress).await.map(drop)
    }

    async fn apply_domain(&self, domain: &DomainSpec) -> Result<(), BackingError> {
        self.network.apply(domain).await?;
        self.domains().insert(domain.id.clone(), domain.clone());
        Ok(())
    }

    async fn remove_domain(&self, id: &str) -> Result<(), BackingError> {
        self.network.remove(id).await?;
        self.domains().remove(id);
        Ok(())
    }

    async fn apply_server(&self, server: &ServerSpec) -> Result<(), BackingError> {
        let (image, _) = self.ready_quietly().await?;
        self.vms.apply(server, image).await
    }

    async fn start(&self, server: &ServerSpec) -> Result<(), BackingError> {
        let (image, accelerator) = self.ready_quietly().await?;
        let domain = self.domains().get(&server.domain).cloned();
        let Some(domain) = domain else {
            return Err(BackingError::Host {
                what: format!(
                    "server {} is in network domain {}, which is not there",
                    server.id, server.domain
                ),
                fix: "create the network domain first".into(),
            });
        };
        self.vms.start(server, &domain, image, *accelerator).await?;
        self.network.plug(&server.domain, &server.nics).await
    }

    async fn stop(&self, id: &str, how: Stop) -> Result<(), BackingError> {
        self.vms.stop(id, how).await
    }

    async fn reset(&self, id: &str) -> Result<(), BackingError> {
        self.vms.reset(id).await
    }

    async fn remove_server(&self, id: &str) -> Result<(), BackingError> {
        self.vms.remove(id).await
    }

    async fn clone_server(&self, server: &ServerSpec, image: &str) -> Result<(), BackingError> {
        self.vms.copy(server, image).await
    }

    async fn remove_image(&self, image: &str) -> Result<(), BackingError> {
        self.settings.copies().remove(image)
    }

    async fn running(&self) -> Result<Vec<Id>, BackingError> {
        Ok(self.running_now())
    }

    fn console(&self, id: &str) -> Option<PathBuf> {
        let socket = self.vms.files(id).console();
        Path::exists(&socket).then_some(socket)
    }

    fn host_address(&self) -> Option<Ipv4Addr> {
        Some(self.settings.public.host)
    }

    fn kind(&self) -> &'static str {
        "machines"
    }
}
