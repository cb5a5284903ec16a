//! A controller on loopback and agents that speak to it through real TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fleet_controller::{
    Controller, ControllerError, Listeners, Ready, Settings,
    home::{self, OperatorFile},
    settings::{CloudAccess, CloudAccessError, CloudAccessSource},
};
use fleet_model::{Clock, FleetName, ManualClock, NodeName, SystemClock};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    tls::{IdentitySlot, client},
    v1::{
        self, agents_client::AgentsClient, enrolment_client::EnrolmentClient, from_agent,
        operator_client::OperatorClient, to_agent,
    },
};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::world::World;

pub const FLEET: &str = "Reference";
/// Nothing here takes long; what takes this long never comes.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn fleet() -> FleetName {
    FLEET.parse().expect("a name")
}

pub fn node(name: &str) -> NodeName {
    name.parse().expect("a name")
}

/// No cloud: these tests never ask for one.
#[derive(Debug)]
pub struct NoCloud;

impl CloudAccessSource for NoCloud {
    fn access(&self, _: &fleet_plan::resolved::Cloud) -> Result<CloudAccess, CloudAccessError> {
        Err(CloudAccessError { what: "no cloud here".to_owned(), next_step: "none".to_owned() })
    }
}

/// A controller that serves on loopback.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub ready: Ready,
    pub enrolment: Arc<fleet_controller::enrol::service::Enrolment>,
    pub desk: Arc<fleet_controller::session::stream::Desk>,
    pub bundle: Vec<CertificateDer<'static>>,
    pub stop: CancellationToken,
    running: JoinHandle<Result<(), ControllerError>>,
}

/// A controller and tokens for some nodes.
pub async fn start(nodes: &[&str]) -> (Fixture, Vec<String>) {
    let dir = tempfile::tempdir().expect("a folder");
    start_in(dir, nodes, |_| {}).await
}

/// A controller in a world of its own.
pub async fn start_with(dir: tempfile::TempDir, world: &World) -> Fixture {
    let adjust = |settings: &mut Settings| settings.timing = world.timing;
    start_whole(dir, &[], adjust, |controller| world.put_around(controller)).await.0
}

/// The same with other settings.
pub async fn start_adjusted(
    dir: tempfile::TempDir,
    world: &World,
    adjust: impl FnOnce(&mut Settings),
) -> Fixture {
    let adjust = |settings: &mut Settings| {
        settings.timing = world.timing;
        adjust(settings);
    };
    start_whole(dir, &[], adjust, |controller| world.put_around(controller)).await.0
}

pub async fn start_in(
    dir: tempfile::TempDir,
    nodes: &[&str],
    adjust: impl FnOnce(&mut Settings),
) -> (Fixture, Vec<String>) {
    start_whole(dir, nodes, adjust, |controller| controller).await
}

async fn start_whole(
    dir: tempfile::TempDir,
    nodes: &[&str],
    adjust: impl FnOnce(&mut Settings),
    world: impl FnOnce(Controller) -> Controller,
) -> (Fixture, Vec<String>) {
    // Clients judge certificates by the host's clock, so ours starts there.
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let mut settings = Settings::new(fleet(), dir.path().to_owned(), Arc::new(NoCloud));
    adjust(&mut settings);
    let controller = world(Controller::open(settings, clock.clone()).await.expect("opens"));
    let mut tokens = Vec::new();
    for name in nodes {
        let token = controller.issue_token(&node(name)).await.expect("issued");
        tokens.push(token.text.reveal().to_owned());
    }
    let (enrolment, desk, bundle) =
        (controller.enrolment().clone(), controller.desk().clone(), controller.ca().bundle());
    let listeners = Listeners { session: vec![bind().await], enrol: vec![bind().await] };
    let stop = CancellationToken::new();
    let (sender, receiver) = oneshot::channel();
    let running = tokio::spawn(controller.serve(listeners, stop.clone(), move |ready| {
        sender.send(ready).ok();
    }));
    let ready = receiver.await.expect("serves");
    (Fixture { dir, clock, ready, enrolment, desk, bundle, stop, running }, tokens)
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

impl Fixture {
    /// Stops the controller and gives its folder back.
    pub async fn stop(self) -> tempfile::TempDir {
        self.stop.cancel();
        timeout(DEADLINE, self.running).await.expect("stops").expect("no panic").expect("no error");
        self.dir
    }

    pub fn enrolment_client(&self) -> EnrolmentClient<Channel> {
        EnrolmentClient::new(channel(self.ready.enrol[0], &self.bundle, None))
    }

    pub fn operator_client(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.operator_channel())
    }

    pub fn operator_channel(&self) -> Channel {
        let OperatorFile { cert, key, bundle } =
            home::operator(self.dir.path()).expect("reads").expect("written on first start");
        let identity = IdentitySlot::new(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate")],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key"),
        );
        let bundle = vec![CertificateDer::from_pem_slice(bundle.as_bytes()).expect("a certificate")];
        let identity = Arc::new(identity.expect("they belong together"));
        channel(self.ready.session[0], &bundle, Some(identity))
    }

    /// Waits until `done` of what the registry says.
    pub async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let mut watch = self.desk.registry.watch();
        let looking = async {
            while !done() {
                watch.changed().await.expect("the registry lives");
            }
        };
        timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"));
    }
}

/// A channel that dials lazily, verifying `controller.<fleet>` whatever the address.
pub fn channel(
    address: SocketAddr,
    bundle: &[CertificateDer<'static>],
    identity: Option<Arc<IdentitySlot>>,
) -> Channel {
    let connector = TlsConnector::from(Arc::new(client(bundle, identity).expect("a configuration")));
    let name = ServerName::try_from("controller.reference").expect("a name");
    Endpoint::from_static("http://controller.reference").connect_with_connector_lazy(service_fn(move |_| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let tcp = TcpStream::connect(address).await?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    }))
}

/// An agent as far as the controller can tell.
pub struct Agent {
    pub key: KeyPair,
    pub machine: String,
    pub credentials: v1::Credentials,
}

pub fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).expect("a request").der().to_vec()
}

pub fn hello(fixture: &Fixture, machine: &str) -> v1::Hello {
    v1::Hello {
        agent_version: fleet_proto::VERSION.to_owned(),
        protocol_min: 1,
        protocol_max: 1,
        boot_nonce: "nonce".to_owned(),
        machine: machine.to_owned(),
        node_time_ms: fixture.clock.now().as_millis(),
        generation: 0,
        capabilities: Vec::new(),
    }
}

pub async fn enrol(
    fixture: &Fixture,
    token: &str,
    key: &KeyPair,
    hello: v1::Hello,
) -> Result<v1::Credentials, Status> {
    let request = v1::EnrolRequest { token: token.to_owned(), csr: csr(key), hello: Some(hello) };
    Ok(fixture.enrolment_client().enrol(request).await?.into_inner())
}

impl Agent {
    pub async fn home(fixture: &Fixture, token: &str, machine: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let credentials = enrol(fixture, token, &key, hello(fixture, machine)).await.expect("enrols");
        Self { key, machine: machine.to_owned(), credentials }
    }

    pub fn identity(&self) -> Arc<IdentitySlot> {
        let chain = self.credentials.certificate_chain.iter().map(|der| der.clone().into()).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        Arc::new(IdentitySlot::new(chain, key).expect("they belong together"))
    }

    pub fn channel(&self, fixture: &Fixture) -> Channel {
        channel(fixture.ready.session[0], &fixture.bundle, Some(self.identity()))
    }

    pub async fn session(&self, fixture: &Fixture) -> Result<Session, Status> {
        self.session_with(fixture, hello(fixture, &self.machine)).await
    }

    pub async fn session_with(&self, fixture: &Fixture, hello: v1::Hello) -> Result<Session, Status> {
        Session::open(self.channel(fixture), hello).await
    }
}

/// An open session, the agent's side.
pub struct Session {
    pub up: mpsc::Sender<v1::FromAgent>,
    pub down: Streaming<v1::ToAgent>,
    pub welcome: v1::Welcome,
}

impl Session {
    pub async fn open(channel: Channel, hello: v1::Hello) -> Result<Self, Status> {
        let (up, receiver) = mpsc::channel(16);
        up.send(v1::FromAgent { message: Some(from_agent::Message::Hello(hello)) }).await.expect("open");
        let mut client = AgentsClient::new(channel);
        let response = client.session(ReceiverStream::new(receiver));
        let mut down = timeout(DEADLINE, response).await.expect("answers")?.into_inner();
        let first = timeout(DEADLINE, down.message()).await.expect("greets")?;
        match first.and_then(|message| message.message) {
            Some(to_agent::Message::Welcome(welcome)) => Ok(Self { up, down, welcome }),
            other => panic!("expected a welcome, got {other:?}"),
        }
    }

    pub async fn say(&self, message: from_agent::Message) {
        self.up.send(v1::FromAgent { message: Some(message) }).await.expect("open");
    }

    pub async fn next(&mut self) -> Result<Option<to_agent::Message>, Status> {
        let next = timeout(DEADLINE, self.down.message()).await.expect("something comes");
        Ok(next?.and_then(|message| message.message))
    }

    /// Why the session ended; anything still said before is skipped.
    pub async fn end(mut self) -> Option<Status> {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }
}

/// The kind of refusal a status carries.
pub fn kind(status: &Status) -> RefusalKind {
    Refusal::from_status(status).unwrap_or_else(|| panic!("no refusal in {status:?}")).kind()
}
