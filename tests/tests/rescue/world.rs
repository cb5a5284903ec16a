//! A controller, a releaser, and a node whose way to the door leads through a relay that may do harm.

use std::{
    fs,
    io::{self, Write as _},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use fleet_controller::{
    Controller, Listeners, Ready, Settings,
    home::{self, OperatorFile},
    settings::{CloudAccess, CloudAccessError, CloudAccessSource},
};
use fleet_model::{Clock, FleetName, SystemClock, Timestamp};
use fleet_proto::{
    rescue::{
        AskReply, AskRequest, FetchRequest, Piece,
        rescue_client::RescueClient,
        rescue_server::{Rescue, RescueServer},
    },
    tls::{self, IdentitySlot},
    v1::{
        self,
        enrolment_client::EnrolmentClient,
        enrolment_server::{Enrolment, EnrolmentServer},
        operator_client::OperatorClient,
        releases_client::ReleasesClient,
        rollouts_client::RolloutsClient,
    },
};
use fleet_release::{Artifact, Body, Manifest, Minimum, Role, Root, Signed, SigningKey};
use fleet_supervisor::{
    agent::Supervised,
    digest::Digest,
    disk::Host,
    install,
    record::{Ask, Slot},
    slots::Slots,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, server::Connected},
};

pub const FLEET: &str = "Reference";
pub const NODE: &str = "n1";
/// Far above whatever this tree calls itself.
pub const VERSION: &str = "77.0.0";
/// Far beyond what anything here takes; passed only when something hangs.
pub const HANGS: Duration = Duration::from_secs(120);

fn fleet() -> FleetName {
    FLEET.parse().expect("a name")
}

/// No cloud: these tests never ask for one.
#[derive(Debug)]
struct NoCloud;

impl CloudAccessSource for NoCloud {
    fn access(&self, _: &fleet_plan::resolved::Cloud) -> Result<CloudAccess, CloudAccessError> {
        Err(CloudAccessError { what: "no cloud here".to_owned(), next_step: "none".to_owned() })
    }
}

/// The program that is released.
pub fn program() -> Vec<u8> {
    (0..300_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect()
}

/// The host's clock, set forward.
#[derive(Debug, Default)]
pub struct Ahead(AtomicU64);

impl Ahead {
    /// Sets it forward once more.
    pub fn by(&self, more: Duration) {
        self.0.fetch_add(more.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        SystemClock.now().after(Duration::from_secs(self.0.load(Ordering::Relaxed)))
    }
}

/// All of it.
pub struct World {
    /// The controller's.
    pub clock: Arc<Ahead>,
    pub dir: tempfile::TempDir,
    pub ready: Ready,
    bundle: Vec<CertificateDer<'static>>,
    stop: CancellationToken,
    running: JoinHandle<()>,
    pub relay: Arc<Relay>,
    pub node: Node,
}

/// What the relay has seen, and does.
#[derive(Debug, Default)]
pub struct Relay {
    pub asks: AtomicU32,
    pub fetches: AtomicU32,
    /// Connections that are over: whoever made them is through with what it was told.
    pub closed: AtomicU32,
    /// What becomes of an answer on its way.
    pub harm: Mutex<Option<fn(&mut AskReply)>>,
}

impl Relay {
    pub fn asked(&self) -> u32 {
        self.asks.load(Ordering::Relaxed)
    }

    pub fn closed(&self) -> u32 {
        self.closed.load(Ordering::Relaxed)
    }

    pub fn fetched(&self) -> u32 {
        self.fetches.load(Ordering::Relaxed)
    }
}

/// A supervised node in a folder.
pub struct Node {
    pub folder: tempfile::TempDir,
    pub slots: Slots<Host>,
}

impl Node {
    pub fn settings(&self) -> fleet_agent::Settings {
        let mut settings = fleet_agent::Settings::new(self.folder.path().join("root"));
        let slots = self.slots.folder().to_owned();
        settings.supervised = Some(Supervised { slots, slot: Slot::A, trial: None });
        settings
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("root/var/lib/fleet-agent").join(name)
    }

    /// What is asked of the supervisor: version and digest.
    pub fn asked(&mut self) -> Option<(String, Digest)> {
        match self.slots.requested().expect("readable")?.ask {
            Ask::Try { content, .. } => Some((content.version, content.digest)),
            Ask::Return { .. } => None,
        }
    }

    /// Runs an agent with these settings.
    pub fn start(&self, settings: fleet_agent::Settings) -> Running {
        let stop = CancellationToken::new();
        let task = tokio::spawn(fleet_agent::run(settings, stop.clone()));
        Running { stop, task }
    }
}

/// An agent at work.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), fleet_agent::AgentError>>,
}

impl Running {
    /// Waits until it ends by itself, to make room for another version.
    pub async fn leaves(self) {
        let ended = tokio::time::timeout(HANGS, self.task).await.expect("it makes room");
        ended.expect("no panic").expect("in order");
    }

    /// Ends it; it had not ended by itself.
    pub async fn stop(self) {
        assert!(!self.task.is_finished(), "it made room for another version");
        self.stop.cancel();
        self.task.await.expect("no panic").expect("in order");
    }
}

impl World {
    /// A node that is enrolled and was there once, and a release that is published.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let settings = Settings::new(fleet(), dir.path().to_owned(), Arc::new(NoCloud));
        let clock = Arc::new(Ahead::default());
        let controller = Controller::open(settings, clock.clone()).await.expect("opens");
        let token = controller.issue_token(&NODE.parse().expect("a name")).await.expect("issued");
        let (leaf, key) = controller.ca().issue_server("relay", SystemClock.now()).expect("issued");
        let bundle = controller.ca().bundle();
        let bundle_pem = controller.ca().bundle_pem();
        let desk = controller.desk().clone();
        let listeners = Listeners { session: vec![bind().await], enrol: vec![bind().await] };
        let stop = CancellationToken::new();
        let (sender, receiver) = oneshot::channel();
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            controller.serve(listeners, stopped, |ready| drop(sender.send(ready))).await.expect("serves");
        });
        let ready = receiver.await.expect("serves");

        let releaser = SigningKey::generate().expect("a key").0;
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("etc/fleet-agent")).expect("a folder");
        fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").expect("written");
        let seed = serde_json::json!({
            "fleet": FLEET, "node": NODE, "token": token.text.reveal(),
            "enrol_addresses": [ready.enrol[0].to_string()],
            "trust_bundle": bundle_pem,
            "release_root": String::from_utf8(root_of(&releaser)).expect("text"),
        });
        fs::write(root.join("etc/fleet-agent/enrol.json"), seed.to_string()).expect("written");
        let mut slots = Slots::new(folder.path().join("slots"), Host);
        install::adopt(&mut slots, "0.0.1", b"the old agent").expect("adopted");
        let node = Node { folder, slots };

        // Home once, so that the fleet knows it.
        let mut watch = desk.registry.watch();
        let agent = node.start(node.settings());
        let name = NODE.parse().expect("a name");
        while desk.registry.live(&name).is_none() {
            tokio::time::timeout(HANGS, watch.changed()).await.expect("comes home").expect("serves");
        }
        agent.stop().await;

        let relay = Arc::new(Relay::default());
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let slot = Arc::new(IdentitySlot::new(vec![leaf.der], key).expect("they belong together"));
        let address = listen(slot, relay.clone(), channel(ready.enrol[0], &bundle, None)).await;
        // From here on its way to the door leads through the relay; to the rest it does not.
        let credentials = node.path("credentials.json");
        let text = fs::read_to_string(&credentials).expect("there");
        let mut held: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        held["current"]["enrol_addresses"] = serde_json::json!([address]);
        fs::write(&credentials, held.to_string()).expect("written");
        let world = Self { clock, dir, ready, bundle, stop, running, relay, node };
        world.publish(&releaser).await;
        world
    }

    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(HANGS, self.running).await.expect("stops").expect("no panic");
    }

    /// Where nodes enrol, and come back.
    pub fn enrolment(&self) -> EnrolmentClient<Channel> {
        EnrolmentClient::new(channel(self.ready.enrol[0], &self.bundle, None))
    }

    /// The controller's door itself.
    pub fn door(&self) -> RescueClient<Channel> {
        RescueClient::new(channel(self.ready.enrol[0], &self.bundle, None))
    }

    pub async fn ask(&self, node: &str, runs: &str) -> AskReply {
        let request = AskRequest { node: node.to_owned(), runs: runs.to_owned() };
        self.door().ask(request).await.expect("answers").into_inner()
    }

    /// Asks until the answer is an order, or none.
    pub async fn until_ordered(&self, wanted: bool) -> AskReply {
        let looking = async {
            loop {
                let reply = self.ask(NODE, "").await;
                if (reply.order > 0) == wanted {
                    return reply;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(HANGS, looking).await.unwrap_or_else(|_| panic!("an order: {wanted}"))
    }

    pub fn rollouts(&self) -> RolloutsClient<Channel> {
        RolloutsClient::new(self.operator())
    }

    pub async fn start_rollout(&self) {
        let request = v1::StartRollout { release: VERSION.to_owned(), ..v1::StartRollout::default() };
        self.rollouts().start(request).await.expect("starts");
    }

    pub async fn act(&self, act: v1::RolloutActKind) {
        let reason = "a doubt".to_owned();
        let request = v1::RolloutAct { act: act.into(), reason, ..v1::RolloutAct::default() };
        self.rollouts().act(request).await.expect("done");
    }

    fn operator(&self) -> Channel {
        let OperatorFile { cert, key, .. } =
            home::operator(self.dir.path()).expect("reads").expect("written on first start");
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let identity = Arc::new(IdentitySlot::new(chain, key).expect("they belong together"));
        channel(self.ready.session[0], &self.bundle, Some(identity))
    }

    async fn publish(&self, releaser: &SigningKey) {
        let program = program();
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(&program).expect("packs");
        let packed = packer.finish().expect("packs");
        let artifact = v1::Artifact {
            name: "fleet-agent.gz".to_owned(),
            sha256: Digest::of(&packed).to_string(),
            size: packed.len() as u64,
        };
        let first = v1::KeepChunk { artifact: Some(artifact.clone()), data: Vec::new() };
        let rest = packed.chunks(65_536).map(|data| v1::KeepChunk { artifact: None, data: data.to_vec() });
        let chunks: Vec<_> = std::iter::once(first).chain(rest).collect();
        OperatorClient::new(self.operator()).keep(tokio_stream::iter(chunks)).await.expect("kept");
        let now = SystemClock.now();
        let none = "0.0.0".parse().expect("a version");
        let manifest = Manifest {
            version: VERSION.parse().expect("a version"),
            created: now,
            expires: now.after(Duration::from_secs(90 * 86_400)),
            minimum: Minimum { controller: none, agent: none },
            artifacts: vec![Artifact {
                name: "fleet-agent".to_owned(),
                size: program.len() as u64,
                sha256: Digest::of(&program).to_string(),
                packed_size: artifact.size,
                packed_sha256: artifact.sha256,
            }],
        };
        let chain = Some(v1::RootChain { roots: vec![root_of(releaser)] });
        let request = v1::PublishRequest { chain, manifest: sign(&manifest, releaser), permit: vec![] };
        ReleasesClient::new(self.operator()).publish(request).await.expect("kept");
    }
}

/// The same whenever it is asked for.
fn root_of(releaser: &SigningKey) -> Vec<u8> {
    let role = || Role::new(1, [releaser.public()]);
    // To the day, so that both who are given it are given the same.
    let day = SystemClock.now().as_millis() / 86_400_000 * 86_400_000;
    let created = Timestamp::from_millis(day);
    let expires = created.after(Duration::from_secs(365 * 86_400));
    sign(&Root { number: 1, created, expires, root: role(), release: role(), permit: role() }, releaser)
}

fn sign<B: Body>(body: &B, key: &SigningKey) -> Vec<u8> {
    let mut signed = Signed::new(body).expect("sound");
    signed.sign(key);
    signed.encode()
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

fn channel(
    address: std::net::SocketAddr,
    bundle: &[CertificateDer<'static>],
    identity: Option<Arc<IdentitySlot>>,
) -> Channel {
    let connector = TlsConnector::from(Arc::new(tls::client(bundle, identity).expect("a configuration")));
    let name = ServerName::try_from("controller.reference").expect("a name");
    let dial = move |_| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    };
    Endpoint::from_static("http://controller").connect_with_connector_lazy(tower::service_fn(dial))
}

/// Passes calls on; shown as a controller of the fleet, as one that was taken over would be.
#[derive(Clone)]
struct Passing {
    relay: Arc<Relay>,
    on: Channel,
}

#[tonic::async_trait]
impl Enrolment for Passing {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::Credentials>, Status> {
        EnrolmentClient::new(self.on.clone()).enrol(request.into_inner()).await
    }

    async fn report(&self, request: Request<v1::FirstBootReport>) -> Result<Response<v1::ReportAck>, Status> {
        EnrolmentClient::new(self.on.clone()).report(request.into_inner()).await
    }
}

#[tonic::async_trait]
impl Rescue for Passing {
    type FetchStream = Streaming<Piece>;

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskReply>, Status> {
        let mut reply = RescueClient::new(self.on.clone()).ask(request.into_inner()).await?.into_inner();
        if let Some(harm) = *self.relay.harm.lock().expect("sound") {
            harm(&mut reply);
        }
        self.relay.asks.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(reply))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        self.relay.fetches.fetch_add(1, Ordering::Relaxed);
        RescueClient::new(self.on.clone()).fetch(request.into_inner()).await
    }
}

async fn listen(slot: Arc<IdentitySlot>, relay: Arc<Relay>, on: Channel) -> String {
    let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(slot);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = bind().await;
    let address = listener.local_addr().expect("an address").to_string();
    let (send, incoming) = mpsc::channel(8);
    let counts = relay.clone();
    tokio::spawn(async move {
        while let Ok((plain, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(plain).await else { continue };
            if send.send(Ok::<_, io::Error>(Tls(stream, counts.clone()))).await.is_err() {
                return;
            }
        }
    });
    let service = Passing { relay, on };
    let router = tonic::transport::Server::builder()
        .add_service(RescueServer::new(service.clone()))
        .add_service(EnrolmentServer::new(service));
    tokio::spawn(async move { router.serve_with_incoming(ReceiverStream::new(incoming)).await });
    address
}

struct Tls(TlsStream<TcpStream>, Arc<Relay>);

impl Drop for Tls {
    fn drop(&mut self) {
        self.1.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Connected for Tls {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Waits for what changes without a word.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let looking = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANGS, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}
