//! A whole controller: opens the state, serves both listeners, keeps house, stops in order.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use fleet_model::{Clock, NodeName};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    tls::{IdentitySlot, TlsError},
    v1,
};
use fleet_store::{EmbeddedStore, Store, StoreError};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::OperatorService,
    artifacts::{ArtifactError, Artifacts, Transfers},
    doors::{EnrolDoor, SessionDoor},
    enrol::{
        ca::{Ca, CaError},
        revoke::Revoked,
        service::{Enrolment, EnrolmentService},
        token::{self, Token, TokenError},
    },
    first_boot::{FirstBoot, OverSsh, reports::FirstBoots},
    home::{ControllerFile, Home, HomeError},
    house,
    identities::{refresh_operator, server_identity},
    permit::{inbox::Inbox, keeper::Keeper},
    reconcile::{
        board::Board,
        cloud_control::CloudControl,
        driver::{Driver, Tools},
        expiry,
        home::Homecoming,
        orphans,
        provision::Provisioners,
        restart::{Members, Turns},
    },
    records::{EnrolmentRecord, ObservedRecord, RecordError, Records, keys},
    releases::{Releases, ReleasesService},
    rescue::RescueService,
    rollout::{self, RolloutsService},
    sealing::{Sealing, SealingError},
    session::{dispatch::Dispatch, registry::Registry, service::AgentsService, stream::Desk},
    settings::Settings,
    tls::{
        self,
        listen::{HANDSHAKES, Listen, WAITING, raise_open_files},
        peer::Connections,
        verifier::{Verifier, VerifierError},
    },
    vault::SealedVault,
};

/// Enrolment connections open at once: each lives for seconds.
const ENROL_OPEN: usize = 4096;
/// Longest life of an enrolment connection.
const ENROL_AGE: Duration = Duration::from_secs(120);
/// How long stopping may take once everything was told to.
const STOP: Duration = Duration::from_secs(8);

/// Why a controller did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The folder is taken or unusable.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The sealing key cannot be used.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// The certificate authority cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Our own identity cannot be used.
    #[error(transparent)]
    Identity(#[from] TlsError),
    /// The folder of artifacts cannot be used.
    #[error("artifacts")]
    Artifacts(#[from] ArtifactError),
    /// TLS cannot be set up.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// Client certificates cannot be verified.
    #[error(transparent)]
    Verifier(#[from] VerifierError),
    /// There is nothing to listen on.
    #[error("listeners: {0}")]
    Listeners(&'static str),
    /// A socket does not know its own address.
    #[error("address of a listener")]
    Address(#[source] std::io::Error),
}

/// Sockets to serve, bound by the caller.
#[derive(Debug)]
pub struct Listeners {
    /// For agents and operators, mutual TLS. The first one is announced to operators on this host.
    pub session: Vec<TcpListener>,
    /// For enrolment, no client certificate.
    pub enrol: Vec<TcpListener>,
}

/// What a controller that serves says of itself.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Where sessions are served.
    pub session: Vec<SocketAddr>,
    /// Where enrolment is served.
    pub enrol: Vec<SocketAddr>,
    /// What agents are told to dial for sessions.
    pub session_addresses: Vec<String>,
    /// What agents are told to dial for enrolment.
    pub enrol_addresses: Vec<String>,
}

/// Runs a controller until `stop`; `ready` is called once it serves.
///
/// # Errors
/// [`ControllerError`] if it cannot start.
pub async fn run(
    settings: Settings,
    listeners: Listeners,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    ready: impl FnOnce(Ready) + Send,
) -> Result<(), ControllerError> {
    Controller::open(settings, clock).await?.serve(listeners, stop, ready).await
}

/// A controller whose state is open and locked, not serving yet.
///
/// Also the door for tools that prepare state before a controller runs, such as a load generator: open,
/// [`issue_token`](Self::issue_token) or [`ca`](Self::ca), drop.
#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    home: Home,
    records: Records,
    ca: Arc<Ca>,
    revoked: Revoked,
    connections: Connections,
    desk: Arc<Desk>,
    enrolment: Arc<Enrolment>,
    first_boots: Arc<FirstBoots>,
    board: Arc<Board>,
    vault: Arc<SealedVault>,
    provisioners: Arc<dyn Provisioners>,
    first_boot: Arc<dyn FirstBoot>,
    artifacts: Artifacts,
    /// The todo application's program, or why there is none.
    todo: Result<v1::Artifact, String>,
    permits: Arc<Keeper>,
    releases: Arc<Releases>,
    rollouts: Arc<rollout::Driver>,
    /// Owns everything that runs.
    tasks: TaskTracker,
}

impl Controller {
    /// Opens the state in the settings' folder; on first use makes authority and operator identity.
    ///
    /// # Errors
    /// [`ControllerError`], above all if another controller has it open.
    pub async fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, ControllerError> {
        let home = Home::open(&settings.dir)?;
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&home.path("store.db"), clock.clone())?);
        let records = Records::new(store);
        let sealing = Sealing::open(&settings.dir)?;
        let ca = Arc::new(Ca::open(&settings.fleet, &records, &sealing, clock.now()).await?);
        refresh_operator(&home, &ca, clock.now())?;
        let revoked = Revoked::load(&records, clock.now()).await?;
        let connections = Connections::default();
        let registry = remembered(&records, clock.clone()).await?;
        let permits = Inbox::default();
        let desk = Arc::new(Desk {
            registry,
            dispatch: Dispatch::default(),
            permits,
            rollouts: Default::default(),
            clock,
        });
        let artifacts = Artifacts::open(&home.path("artifacts"), desk.clock.clone())?;
        let todo = todo(&settings, &artifacts).await;
        let tasks = TaskTracker::new();
        let enrolment = Arc::new(Enrolment::new(
            records.clone(),
            ca.clone(),
            revoked.clone(),
            connections.clone(),
            desk.clone(),
            tasks.clone(),
        ));
        let vault = Arc::new(SealedVault::new(records.clone(), sealing));
        let board = Arc::new(Board::load(records.clone(), desk.clone(), todo.clone().ok()).await?);
        let releases =
            Releases::load(records.clone(), artifacts.clone(), desk.clock.clone(), settings.fleet.clone());
        let releases = Arc::new(releases.await?);
        let archive = rollout::archive::Archive::new(records.clone());
        rollout::note::adopt(&settings.dir, &archive).await?;
        let rollouts = rollout::core::Core::new(
            archive,
            Arc::new(rollout::floor::Sessions::new(
                desk.clone(),
                board.clone(),
                records.clone(),
                settings.timing.failed,
            )),
            releases.clone(),
            holder(&settings),
        );
        Ok(Self {
            board: board.clone(),
            rollouts: Arc::new(rollout::Driver::new(desk.clone(), rollouts, settings.dir.clone())),
            permits: Arc::new(Keeper::load(records.clone(), desk.clone()).await?),
            releases,
            provisioners: Arc::new(CloudControl {
                fleet: settings.fleet.clone(),
                dir: settings.dir.clone(),
                access: settings.cloud.clone(),
                records: records.clone(),
                vault: vault.clone(),
                clock: desk.clock.clone(),
                leave: Arc::new(Members {
                    board: board.clone(),
                    turns: Turns::new(desk.clone(), settings.timing.converge),
                }),
                reached: Default::default(),
            }),
            first_boot: Arc::new(OverSsh::new(
                settings.fleet.clone(),
                settings.agent.clone(),
                settings.supervisor.clone(),
                settings.dir.clone(),
                records.clone(),
            )),
            first_boots: Arc::default(),
            settings,
            home,
            records,
            ca,
            revoked,
            connections,
            desk,
            enrolment,
            vault,
            artifacts,
            todo,
            tasks,
        })
    }

    /// The same with another way to reach clouds and servers; for tests and rehearsals.
    #[must_use]
    pub fn with_world(mut self, provisioners: Arc<dyn Provisioners>, first_boot: Arc<dyn FirstBoot>) -> Self {
        (self.provisioners, self.first_boot) = (provisioners, first_boot);
        self
    }

    /// The fleet's authority, for issuing certificates in bulk: [`Ca::issue_node`].
    pub fn ca(&self) -> &Arc<Ca> {
        &self.ca
    }

    /// Who is who; for enrolling, retiring and removing nodes.
    pub fn enrolment(&self) -> &Arc<Enrolment> {
        &self.enrolment
    }

    /// Who is there.
    pub fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// A single-use token for `node`, good for the settings' token life.
    ///
    /// # Errors
    /// [`TokenError`] if it cannot be drawn or stored.
    pub async fn issue_token(&self, node: &NodeName) -> Result<Token, TokenError> {
        token::issue(&self.records, node, self.desk.clock.now(), self.settings.timing.token).await
    }

    /// Serves until `stop`; `ready` is called once it does.
    ///
    /// # Errors
    /// [`ControllerError`] if it cannot start serving.
    pub async fn serve(
        self,
        listeners: Listeners,
        stop: CancellationToken,
        ready: impl FnOnce(Ready) + Send,
    ) -> Result<(), ControllerError> {
        raise_open_files();
        let ready_with = addresses(&self.settings, &listeners)?;
        self.enrolment.set_session_addresses(ready_with.session_addresses.clone());
        let identity = Arc::new(server_identity(&self.ca, self.desk.clock.now())?);
        let tasks = self.tasks.clone();
        let driver = Arc::new(self.driver(ready_with.enrol_addresses.clone(), &tasks, &stop));
        tasks.spawn(orphans::watch(driver.clone(), stop.clone()));
        tasks.spawn(expiry::watch(driver.clone(), stop.clone()));
        // Before anybody is let in, so that what is under way is known when they come.
        tasks.spawn(self.rollouts.clone().run(stop.clone()));
        self.listen(listeners, driver, &identity, &tasks, &stop)?;
        tasks.spawn(house::keep(self.desk.clone(), self.connections.clone(), stop.clone()));
        tasks.spawn(self.permits.clone().run(stop.clone()));
        let (board, stopping) = (self.board.clone(), stop.clone());
        tasks.spawn(async move { board.overtake(&stopping).await });
        let (artifacts, board) = (self.artifacts.clone(), self.board.clone());
        tasks.spawn(house::sweep_artifacts(artifacts, board, stop.clone()));
        tasks.spawn(house::write_behind(self.desk.clone(), self.records.clone(), stop.clone()));
        tasks.spawn(house::renew_identity(identity, self.ca.clone(), self.desk.clock.clone(), stop.clone()));

        self.home.announce(&ControllerFile {
            pid: std::process::id(),
            session: ready_with.session[0],
            enrol_port: ready_with.enrol[0].port(),
        })?;
        let Ready { session, enrol, .. } = &ready_with;
        tracing::info!(fleet = %self.settings.fleet, ?session, ?enrol, "serving");
        ready(ready_with);

        stop.cancelled().await;
        self.drain(&tasks).await;
        Ok(())
    }

    fn driver(&self, enrol_addresses: Vec<String>, tasks: &TaskTracker, stop: &CancellationToken) -> Driver {
        let homecoming = Homecoming {
            board: self.board.clone(),
            desk: self.desk.clone(),
            records: self.records.clone(),
            ca: self.ca.clone(),
            vault: self.vault.clone(),
            first_boot: self.first_boot.clone(),
            first_boots: self.first_boots.clone(),
            releases: self.releases.clone(),
            enrol_addresses: Arc::new(enrol_addresses),
            timing: self.settings.timing,
        };
        let tools = Tools {
            fleet_name: self.settings.fleet.clone(),
            homecoming,
            enrolment: self.enrolment.clone(),
            provisioners: self.provisioners.clone(),
            permits: self.permits.clone(),
            artifacts: self.artifacts.clone(),
            rollouts: self.rollouts.clone(),
        };
        Driver::new(tools, tasks.clone(), stop.clone())
    }

    fn listen(
        &self,
        listeners: Listeners,
        driver: Arc<Driver>,
        identity: &Arc<IdentitySlot>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<(), ControllerError> {
        let fleet = &self.settings.fleet;
        let verifier = Arc::new(Verifier::new(fleet.clone(), &self.ca.bundle(), self.revoked.clone())?);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let waiting = Arc::new(Semaphore::new(WAITING));
        let acceptor = |verifier| -> Result<TlsAcceptor, ControllerError> {
            let config = tls::server(identity.clone(), verifier, self.desk.clock.clone())
                .map_err(ControllerError::Tls)?;
            Ok(TlsAcceptor::from(Arc::new(config)))
        };
        let max_sessions = usize::try_from(self.settings.max_sessions).unwrap_or(usize::MAX);
        let limits = self.settings.transfers;
        let transfers = Transfers::new(self.artifacts.clone(), limits, tasks.clone());
        let agents = AgentsService::new(
            self.desk.clone(),
            self.enrolment.clone(),
            transfers,
            self.settings.max_sessions,
        );
        let (artifacts, todo) = (self.artifacts.clone(), self.todo.clone());
        let session = Listen {
            fleet: fleet.clone(),
            acceptor: acceptor(Some(verifier))?,
            door: SessionDoor::new(
                agents,
                OperatorService::new(fleet.clone(), driver, artifacts, todo),
                ReleasesService::new(
                    self.releases.clone(),
                    self.board.clone(),
                    self.desk.clone(),
                    self.rollouts.clone(),
                ),
                RolloutsService::new(self.rollouts.clone()),
                self.revoked.clone(),
            ),
            handshakes: handshakes.clone(),
            waiting: waiting.clone(),
            // More connections than sessions: operators, renewals, sessions that are being replaced.
            open: Arc::new(Semaphore::new(max_sessions.saturating_mul(2).min(Semaphore::MAX_PERMITS))),
            max_age: None,
            connections: self.connections.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let service = EnrolmentService::new(self.enrolment.clone(), self.first_boots.clone());
        // Places of its own: strangers who come here take none from nodes.
        let rescue = RescueService::new(
            rollout::archive::Archive::new(self.records.clone()),
            self.releases.clone(),
            Transfers::new(self.artifacts.clone(), limits.quarter(), tasks.clone()),
        );
        let enrol = Listen {
            fleet: fleet.clone(),
            acceptor: acceptor(None)?,
            door: EnrolDoor::new(service, rescue),
            handshakes,
            waiting,
            open: Arc::new(Semaphore::new(ENROL_OPEN)),
            max_age: Some(ENROL_AGE),
            connections: self.connections.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        for listener in listeners.session {
            tasks.spawn(session.clone().run(listener));
        }
        for listener in listeners.enrol {
            tasks.spawn(enrol.clone().run(listener));
        }
        Ok(())
    }

    async fn drain(&self, tasks: &TaskTracker) {
        tracing::info!("stopping");
        let mut refusal =
            Refusal::new(RefusalKind::RefusalBusy, "the controller is stopping", "come back later");
        refusal.retry_after_ms = 1_000;
        self.desk.registry.end_all(&refusal.into());
        tasks.close();
        if tokio::time::timeout(STOP, tasks.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "stopped without waiting any longer");
        }
        let dirty = self.desk.registry.take_dirty(usize::MAX);
        house::write(&self.records, dirty).await;
        self.home.withdraw();
    }
}

/// Who drives this fleet's rollouts, as other controllers on the same store see it. The folder is locked while a
/// controller runs, so that one started anew on it need not wait for the lease of the one that died.
fn holder(settings: &Settings) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), settings.dir.display())
}

/// Keeps the todo application's program as an artifact. Lacking it is no trouble until a plan needs it.
async fn todo(settings: &Settings, artifacts: &Artifacts) -> Result<v1::Artifact, String> {
    let Some(file) = settings.todo.clone() else {
        return Err("it was started without one".to_owned());
    };
    let artifacts = artifacts.clone();
    let adopting = tokio::task::spawn_blocking(move || artifacts.adopt(&file, "fleet-todo"));
    let adopted = adopting.await.map_err(|_| "the controller is stopping".to_owned())?;
    adopted
        .map_err(|error| fleet_model::chain(&error))
        .inspect_err(|why| tracing::warn!(why, "no todo program"))
}

/// Reads what the store remembers of every node.
pub(crate) async fn remembered(records: &Records, clock: Arc<dyn Clock>) -> Result<Registry, RecordError> {
    let registry = Registry::new(clock);
    for (node, record) in records.list_messages::<ObservedRecord>(&keys::observeds()).await? {
        registry.remember(node, record);
    }
    for (node, desired) in records.list_messages::<v1::Desired>(&keys::desireds()).await? {
        registry.set_desired(&node, Arc::new(desired));
    }
    for (node, _) in records.list::<EnrolmentRecord>(&keys::enrolments()).await? {
        if let Ok(node) = node.parse() {
            registry.set_enrolled(&node, true);
        }
    }
    Ok(registry)
}

fn addresses(settings: &Settings, listeners: &Listeners) -> Result<Ready, ControllerError> {
    let locals = |listeners: &[TcpListener]| {
        listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()
    };
    let session = locals(&listeners.session).map_err(ControllerError::Address)?;
    let enrol = locals(&listeners.enrol).map_err(ControllerError::Address)?;
    if session.is_empty() || enrol.is_empty() {
        return Err(ControllerError::Listeners("one for sessions and one for enrolment are needed"));
    }
    Ok(Ready {
        session_addresses: advertised(&settings.advertise, &session),
        enrol_addresses: advertised(&settings.advertise, &enrol),
        session,
        enrol,
    })
}

/// What agents dial: each advertised address with the port of the listener that has it. With nothing
/// advertised, the listeners themselves.
fn advertised(advertise: &[IpAddr], locals: &[SocketAddr]) -> Vec<String> {
    if advertise.is_empty() {
        return locals.iter().map(ToString::to_string).collect();
    }
    advertise
        .iter()
        .filter_map(|ip| {
            let exact = locals.iter().find(|local| local.ip() == *ip);
            let local = exact.or_else(|| locals.iter().find(|local| local.ip().is_unspecified()));
            local.or(locals.first()).map(|local| SocketAddr::new(*ip, local.port()).to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_reachable_addresses() {
        let check = |advertise: &[&str], locals: &[&str], wanted: &[&str]| {
            let advertise: Vec<IpAddr> = advertise.iter().map(|ip| ip.parse().expect("an IP")).collect();
            let locals: Vec<SocketAddr> = locals.iter().map(|at| at.parse().expect("an address")).collect();
            assert_eq!(advertised(&advertise, &locals), wanted);
        };
        check(&[], &["127.0.0.1:7"], &["127.0.0.1:7"]);
        check(&["198.51.100.1"], &["127.0.0.1:7", "198.51.100.1:8"], &["198.51.100.1:8"]);
        check(&["198.51.100.1"], &["127.0.0.1:7", "0.0.0.0:9"], &["198.51.100.1:9"]);
        check(&["198.51.100.1"], &["127.0.0.1:7"], &["198.51.100.1:7"]);
        check(&["2001:db8::1"], &["[::]:7"], &["[2001:db8::1]:7"]);
    }
}
