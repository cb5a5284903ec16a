//! What is on disk: state, credentials, lock.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{Cloud, DEADLINE, PACE, domain, server_request, vlan};
use async_trait::async_trait;
use fleet_local_cloud::{
    Access, CloudError, Settings,
    backing::{Backing, BackingError, DomainSpec, Id, NoBacking, ServerSpec, Stop, World},
    is_served, serve, status,
};
use fleet_mcp::{
    Filter, McpError,
    resource::ServerCall,
    types::{NetworkDomain, Server, State},
    wait::until_normal,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn state_credentials_and_port_survive_a_restart() {
    let cloud = Cloud::start().await;
    let client = cloud.client();
    let domain = domain(&client, "EU7").await;
    let vlan = vlan(&client, &domain, "10.60.0.0").await;
    let mut request = server_request(&client, &domain, &vlan, "web").await;
    request.start = true;
    let server = client.deploy_server(&request).await.expect("accepted");
    let before = until_normal(&client, &server, PACE, DEADLINE, |_| {}).await.expect("made");
    let access = cloud.access.clone();
    let dir = cloud.stop().await;
    assert!(!is_served(dir.path()).expect("a lock"));
    assert_eq!(status(dir.path()).await.expect("files"), None);

    let cloud = Cloud::over(dir, Arc::new(NoBacking::default()), |_| {}).await;
    assert_eq!(Access { pid: access.pid, ..cloud.access.clone() }, access);
    // The same client goes on: address, authority and password are the same.
    assert_eq!(client.get(&server).await.expect("there"), before);
    let status = status(cloud.dir.path()).await.expect("an answer").expect("served");
    assert_eq!((status.backing.as_str(), status.pid), ("none", std::process::id()));
    let shown: Vec<_> = status.servers.iter().map(|server| (server.name.as_str(), server.started)).collect();
    assert_eq!(shown, [("web", true)]);
    cloud.stop().await;
}

#[tokio::test]
async fn one_cloud_per_directory() {
    let cloud = Cloud::start().await;
    let second = serve(
        Settings::new(cloud.dir.path()),
        Arc::new(NoBacking::default()),
        CancellationToken::new(),
        |_| panic!("must not become ready"),
    );
    let error = second.await.expect_err("taken");
    assert!(
        matches!(&error, CloudError::Taken { pid, .. } if *pid == std::process::id().to_string()),
        "{error}"
    );
    cloud.stop().await;
}

#[tokio::test]
async fn a_damaged_state_is_said_to_be() {
    let cloud = Cloud::start().await;
    let dir = cloud.stop().await;
    std::fs::write(dir.path().join("state.json"), b"{").expect("written");
    let served =
        serve(Settings::new(dir.path()), Arc::new(NoBacking::default()), CancellationToken::new(), |_| {
            panic!("must not become ready")
        });
    let error = served.await.expect_err("damaged").to_string();
    assert!(error.contains("state.json is damaged") && error.contains("cloud reset"), "{error}");
}

/// A backing whose work can be held up and made to fail.
struct Held {
    inner: NoBacking,
    gate: Semaphore,
    broken: Mutex<Option<&'static str>>,
    /// Panics once at this.
    defective: Mutex<Option<&'static str>>,
}

impl Held {
    fn new() -> Arc<Self> {
        let (broken, defective) = (Mutex::new(None), Mutex::new(None));
        Arc::new(Self { inner: NoBacking::default(), gate: Semaphore::new(0), broken, defective })
    }

    fn panic_at(&self, what: &'static str) {
        *self.defective.lock().expect("no panic") = Some(what);
    }

    fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    async fn pass(&self, what: &'static str) -> Result<(), BackingError> {
        let _permit = self.gate.acquire().await.expect("never closed");
        let panics = self.defective.lock().expect("no panic").take_if(|at| *at == what).is_some();
        assert!(!panics, "a defect, wanted by a test");
        if *self.broken.lock().expect("no panic") == Some(what) {
            return Err(BackingError::Deadline { doing: what.to_owned(), after_s: 1 });
        }
        Ok(())
    }
}

#[async_trait]
impl Backing for Held {
    async fn adopt(&self, world: &World) -> Result<Vec<Id>, BackingError> {
        self.inner.adopt(world).await
    }
    async fn prepare(&self, _progress: &(dyn Fn(String) + Send + Sync)) -> Result<(), BackingError> {
        Ok(())
    }
    async fn apply_domain(&self, _domain: &DomainSpec) -> Result<(), BackingError> {
        self.pass("domain").await
    }
    async fn remove_domain(&self, _id: &str) -> Result<(), BackingError> {
        self.pass("remove domain").await
    }
    async fn apply_server(&self, _server: &ServerSpec) -> Result<(), BackingError> {
        self.pass("files").await
    }
    async fn start(&self, server: &ServerSpec) -> Result<(), BackingError> {
        self.pass("start").await?;
        self.inner.start(server).await
    }
    async fn stop(&self, id: &str, how: Stop) -> Result<(), BackingError> {
        self.pass("stop").await?;
        self.inner.stop(id, how).await
    }
    async fn reset(&self, _id: &str) -> Result<(), BackingError> {
        Ok(())
    }
    async fn remove_server(&self, id: &str) -> Result<(), BackingError> {
        self.inner.remove_server(id).await
    }
    async fn clone_server(&self, _server: &ServerSpec, _image: &str) -> Result<(), BackingError> {
        self.pass("clone").await
    }
    async fn remove_image(&self, _image: &str) -> Result<(), BackingError> {
        self.pass("remove image").await
    }
    async fn running(&self) -> Result<Vec<Id>, BackingError> {
        let panics = self.defective.lock().expect("no panic").take_if(|at| *at == "running").is_some();
        assert!(!panics, "a defect, wanted by a test");
        self.inner.running().await
    }
    fn console(&self, _id: &str) -> Option<std::path::PathBuf> {
        None
    }
    fn host_address(&self) -> Option<std::net::Ipv4Addr> {
        None
    }
    fn kind(&self) -> &'static str {
        "held"
    }
}

#[tokio::test]
async fn operations_half_done_are_resumed_by_the_next_process() {
    let held = Held::new();
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    let short = |settings: &mut Settings| settings.drain = Duration::from_millis(50);
    let cloud = Cloud::over(dir, held, short).await;
    let client = cloud.client();
    let request = fleet_mcp::types::DeployNetworkDomain {
        datacenter_id: "EU7".into(),
        name: "held".into(),
        description: None,
        plan: fleet_mcp::types::DomainType::Essentials,
    };
    let domain = client.deploy_network_domain(&request).await.expect("accepted");
    assert_eq!(client.get::<NetworkDomain>(&domain).await.expect("there").state, State::PendingAdd);
    let dir = cloud.stop().await;
    let cloud = Cloud::over(dir, Arc::new(NoBacking::default()), |_| {}).await;
    until_normal::<NetworkDomain>(&client, &domain, PACE, DEADLINE, |_| {}).await.expect("settled");
    cloud.stop().await;
}

#[tokio::test]
async fn a_defect_holds_nothing_up_for_ever() {
    let held = Held::new();
    held.open();
    held.panic_at("domain");
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    let cloud = Cloud::over(dir, held.clone(), |_| {}).await;
    let client = cloud.client();
    // What was being made has failed, and can be removed: nothing is taken to be under way for it any more.
    let request = fleet_mcp::types::DeployNetworkDomain {
        datacenter_id: "EU7".into(),
        name: "defect".into(),
        description: None,
        plan: fleet_mcp::types::DomainType::Essentials,
    };
    let defect = client.deploy_network_domain(&request).await.expect("accepted");
    let failed = until_normal::<NetworkDomain>(&client, &defect, PACE, DEADLINE, |_| {}).await;
    let text = failed.expect_err("it cannot be made").to_string();
    assert!(text.contains("FAILED_ADD"), "{text}");
    client.delete(&defect).await.expect("accepted");
    let gone = async {
        while client.get::<NetworkDomain>(&defect).await.is_ok() {
            tokio::time::sleep(PACE.first).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("removed");
    let domain = domain(&client, "EU7").await;
    let vlan = vlan(&client, &domain, "10.60.0.0").await;
    held.panic_at("files");
    let server =
        client.deploy_server(&server_request(&client, &domain, &vlan, "web").await).await.expect("accepted");
    let failed = until_normal::<Server>(&client, &server, PACE, DEADLINE, |_| {}).await;
    let text = failed.expect_err("it cannot be made").to_string();
    assert!(text.contains("defect"), "{text}");
    client.server_call(ServerCall::Clean, &server).await.expect("accepted");

    // Which servers run is looked at again, too: one that shut itself down is noticed.
    let server =
        client.deploy_server(&server_request(&client, &domain, &vlan, "web").await).await.expect("accepted");
    until_normal::<Server>(&client, &server, PACE, DEADLINE, |_| {}).await.expect("made");
    client.server_call(ServerCall::Start, &server).await.expect("accepted");
    until_normal::<Server>(&client, &server, PACE, DEADLINE, |_| {}).await.expect("runs");
    held.panic_at("running");
    held.inner.stop(server.as_str(), Stop::PowerOff).await.expect("off");
    let noticed = async {
        while client.get::<Server>(&server).await.expect("there").started {
            tokio::time::sleep(PACE.first).await;
        }
    };
    tokio::time::timeout(DEADLINE, noticed).await.expect("noticed");
    cloud.stop().await;
}

#[tokio::test]
async fn what_the_backing_cannot_do_becomes_a_failed_state_with_its_reason() {
    let held = Held::new();
    held.open();
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    let cloud = Cloud::over(dir, held.clone(), |_| {}).await;
    let client = cloud.client();
    let domain = domain(&client, "EU7").await;
    let vlan = vlan(&client, &domain, "10.60.0.0").await;
    let server =
        client.deploy_server(&server_request(&client, &domain, &vlan, "web").await).await.expect("accepted");
    until_normal(&client, &server, PACE, DEADLINE, |_| {}).await.expect("made");
    *held.broken.lock().expect("no panic") = Some("start");
    client.server_call(ServerCall::Start, &server).await.expect("accepted");
    let error = until_normal(&client, &server, PACE, DEADLINE, |_| {}).await.expect_err("fails").to_string();
    assert!(error.contains("FAILED_CHANGE: start: not done after 1 s"), "{error}");
    // The next attempt may go well.
    *held.broken.lock().expect("no panic") = None;
    client.server_call(ServerCall::Start, &server).await.expect("accepted");
    assert!(until_normal(&client, &server, PACE, DEADLINE, |_| {}).await.expect("runs").started);

    *held.broken.lock().expect("no panic") = Some("domain");
    let request = fleet_mcp::types::DeployVlan {
        network_domain_id: domain.clone(),
        name: "broken".into(),
        description: None,
        private_ipv4_base_address: "10.61.0.0".parse().expect("an address"),
        private_ipv4_prefix_size: None,
        gateway_addressing: None,
    };
    let broken = client.deploy_vlan(&request).await.expect("accepted");
    let error = until_normal(&client, &broken, PACE, DEADLINE, |_| {}).await.expect_err("fails").to_string();
    assert!(error.contains("FAILED_ADD: domain"), "{error}");
    *held.broken.lock().expect("no panic") = None;
    client.delete(&broken).await.expect("accepted");
    fleet_mcp::wait::until_gone(&client, &broken, PACE, DEADLINE, |_| {}).await.expect("gone");
    cloud.stop().await;
}

#[tokio::test]
async fn a_guest_that_powers_itself_off_is_shown_as_off() {
    let backing = Arc::new(NoBacking::default());
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    let cloud = Cloud::over(dir, backing.clone(), |_| {}).await;
    let client = cloud.client();
    let domain = domain(&client, "EU7").await;
    let vlan = vlan(&client, &domain, "10.60.0.0").await;
    let mut request = server_request(&client, &domain, &vlan, "web").await;
    request.start = true;
    let server = client.deploy_server(&request).await.expect("accepted");
    assert!(until_normal(&client, &server, PACE, DEADLINE, |_| {}).await.expect("made").started);
    backing.stop(server.as_str(), Stop::PowerOff).await.expect("off");
    let off = async {
        let started = Filter::all().and("started", true);
        while !client.list::<Server>(&started).await.expect("a list").is_empty() {
            tokio::time::sleep(PACE.first).await;
        }
    };
    tokio::time::timeout(DEADLINE, off).await.expect("noticed");
    let error = client.server_call(ServerCall::PowerOff, &server).await.expect_err("off");
    assert!(matches!(error, McpError::ServerStopped(_)), "{error:?}");
    cloud.stop().await;
}
