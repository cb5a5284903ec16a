//! A cloud in this process, with nothing behind it, and clients for it.

use std::{sync::Arc, time::Duration};

use fleet_local_cloud::{
    Access, CloudError, Settings,
    backing::{Backing, NoBacking},
    serve,
};
use fleet_mcp::{Client, Id, client, retry::Retry, types::NetworkDomain, wait::Pace};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How long anything may take in a test.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// How fast tests poll.
pub const PACE: Pace = Pace { first: Duration::from_millis(5), ceiling: Duration::from_millis(50) };

/// A running cloud.
pub struct Cloud {
    pub access: Access,
    pub dir: Arc<tempfile::TempDir>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), CloudError>>,
}

impl Cloud {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        Self::over(dir, Arc::new(NoBacking::default()), change).await
    }

    /// A cloud over a directory that may have been used before.
    pub async fn over(
        dir: Arc<tempfile::TempDir>,
        backing: Arc<dyn Backing>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = Settings::new(dir.path());
        settings.poll = Duration::from_millis(20);
        change(&mut settings);
        let stop = CancellationToken::new();
        let (ready, access) = oneshot::channel();
        let serving = tokio::spawn(serve(settings, backing, stop.clone(), move |access| {
            let _ = ready.send(access.clone());
        }));
        let access = match access.await {
            Ok(access) => access,
            Err(_) => panic!("the cloud did not start: {:?}", serving.await),
        };
        Self { access, dir, stop, serving }
    }

    /// Stops it and hands back its directory.
    pub async fn stop(self) -> Arc<tempfile::TempDir> {
        self.stop.cancel();
        self.serving.await.expect("no panic").expect("a clean end");
        self.dir
    }

    /// A client that gives up quickly.
    pub fn client(&self) -> Client {
        self.client_with(|_| {})
    }

    pub fn client_with(&self, change: impl FnOnce(&mut client::Settings)) -> Client {
        let mut settings = self.access.client_settings().expect("the CA");
        settings.retry = Retry {
            first: Duration::from_millis(5),
            ceiling: Duration::from_millis(20),
            attempts: 4,
            patience: Duration::from_secs(1),
            busy_for: Duration::from_secs(5),
        };
        change(&mut settings);
        Client::new(settings).expect("good settings")
    }

    /// A plain HTTP client for what the typed one does not send.
    pub fn http(&self) -> reqwest::Client {
        let pem = std::fs::read(&self.access.ca_file).expect("the CA");
        let ca = rustls_roots(&pem);
        reqwest::Client::builder().tls_backend_preconfigured(ca).timeout(DEADLINE).build().expect("a client")
    }

    /// A plain HTTP client that takes the cloud for its proxy.
    pub fn http_through_proxy(&self) -> reqwest::Client {
        let pem = std::fs::read(&self.access.ca_file).expect("the CA");
        let builder = reqwest::Client::builder().tls_backend_preconfigured(rustls_roots(&pem));
        let proxy = reqwest::Proxy::all(self.access.proxy()).expect("an address");
        builder.proxy(proxy).timeout(DEADLINE).build().expect("a client")
    }

    /// A client that calls the API under `host`, with the cloud as its proxy.
    pub fn client_through_proxy(&self, host: &str) -> Client {
        self.client_with(|settings| {
            settings.endpoint = format!("https://{host}");
            settings.proxy = Some(self.access.proxy());
        })
    }

    /// Status and body of one call with the right credentials.
    pub async fn raw(&self, method: &str, path: &str, accept: &str, body: &str) -> (u16, String) {
        let request = self
            .http()
            .request(method.parse().expect("a method"), format!("{}{path}", self.access.endpoint))
            .basic_auth(&self.access.username, Some(self.access.password.reveal()))
            .header("Accept", accept)
            .header("Content-Type", "application/xml")
            .body(body.to_owned());
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    pub async fn fault(&self, json: &str) {
        let (status, body) = self.raw("POST", "/fleet/fault", "*/*", json).await;
        assert_eq!(status, 200, "{body}");
    }

    /// The calls the cloud has seen, only those that change something.
    pub async fn changes(&self) -> Vec<Value> {
        let (_, body) = self.raw("GET", "/fleet/log?changing=true", "*/*", "").await;
        let log: Value = serde_json::from_str(&body).expect("JSON");
        log["calls"].as_array().expect("a list").clone()
    }
}

/// A client that finds `name` on this host.
pub fn http_for(pem: &[u8], name: &str, port: u16) -> reqwest::Client {
    let here = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let builder = reqwest::Client::builder().tls_backend_preconfigured(rustls_roots(pem));
    builder.resolve(name, here).timeout(DEADLINE).build().expect("a client")
}

fn rustls_roots(pem: &[u8]) -> rustls::ClientConfig {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.expect("PEM")).expect("a CA");
    }
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A network domain that is settled.
pub async fn domain(client: &Client, datacenter: &str) -> Id<NetworkDomain> {
    let request = fleet_mcp::types::DeployNetworkDomain {
        datacenter_id: datacenter.into(),
        name: "RethinkFox".into(),
        description: Some("a test".into()),
        plan: fleet_mcp::types::DomainType::Essentials,
    };
    let id = client.deploy_network_domain(&request).await.expect("accepted");
    fleet_mcp::wait::until_normal(client, &id, PACE, DEADLINE, |_| {}).await.expect("settled");
    id
}

/// A VLAN that is settled.
pub async fn vlan(client: &Client, domain: &Id<NetworkDomain>, base: &str) -> Id<fleet_mcp::types::Vlan> {
    let request = fleet_mcp::types::DeployVlan {
        network_domain_id: domain.clone(),
        name: format!("net{}", base.replace('.', "_")),
        description: None,
        private_ipv4_base_address: base.parse().expect("an address"),
        private_ipv4_prefix_size: Some(24),
        gateway_addressing: None,
    };
    let id = client.deploy_vlan(&request).await.expect("accepted");
    fleet_mcp::wait::until_normal(client, &id, PACE, DEADLINE, |_| {}).await.expect("settled");
    id
}

/// What a server is asked for with.
pub async fn server_request(
    client: &Client,
    domain: &Id<NetworkDomain>,
    vlan: &Id<fleet_mcp::types::Vlan>,
    name: &str,
) -> fleet_mcp::types::DeployServer {
    use fleet_mcp::types::{CpuRequest, DeployServer, NetworkRequest, NewNic};
    let images = client.images(&fleet_mcp::Filter::in_datacenter("EU7")).await.expect("images");
    let image = images.iter().find(|image| image.name.contains("Ubuntu 14")).expect("the alias");
    DeployServer {
        name: name.into(),
        description: None,
        image_id: image.id.clone(),
        start: false,
        administrator_password: Some(fleet_mcp::Secret::new("correct horse")),
        cpu: Some(CpuRequest { count: Some(2), speed: Some("STANDARD".into()), cores_per_socket: Some(1) }),
        memory_gb: Some(4),
        network_info: NetworkRequest {
            network_domain_id: domain.clone(),
            primary_nic: NewNic { vlan_id: Some(vlan.clone()), ..NewNic::default() },
            additional_nic: vec![],
        },
        primary_dns: None,
        secondary_dns: None,
        ipv4_gateway: None,
        disk: vec![],
    }
}
