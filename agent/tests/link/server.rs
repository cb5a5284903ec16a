//! A small controller for these tests: a CA, an enrolment listener, a session listener.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use fleet_proto::{
    tls,
    v1::{
        self,
        agents_server::{Agents, AgentsServer},
        enrolment_server::{Enrolment, EnrolmentServer},
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::server::Connected};

/// How the enrolment listener treats the next call.
#[derive(Clone, Debug)]
pub enum Next {
    /// Does the work, then answers as if it had broken.
    LoseAnswer,
    /// Says no.
    Refuse(v1::Refusal),
}

/// What the server has seen and what it shall do.
#[derive(Debug)]
pub struct State {
    /// CSRs of all enrolment calls, with their tokens.
    pub enrolments: Vec<(String, Vec<u8>)>,
    /// CSRs of all renewals.
    pub renewals: Vec<Vec<u8>>,
    /// How to treat the next enrolments; the ordinary way when empty.
    pub script: VecDeque<Next>,
    /// How long certificates last, and when agents are told to renew them.
    pub life: (Duration, Duration),
    /// Serial numbers shown in sessions, as DER of the whole leaf.
    pub shown: Vec<Vec<u8>>,
    /// Whether the session listener accepts.
    pub away: bool,
    /// Artifacts by digest: what is sent.
    pub artifacts: BTreeMap<String, Vec<u8>>,
    /// Bytes after which the next fetches break off.
    pub cuts: VecDeque<usize>,
    /// Fetches that are told to come again later, and after how many milliseconds.
    pub busy: VecDeque<u64>,
    /// Fetches so far: digest and offset.
    pub fetches: Vec<(String, u64)>,
    /// Names service certificates are made for.
    pub service_names: Vec<String>,
    /// CSRs of all service certificates.
    pub certified: Vec<Vec<u8>>,
    /// TLS handshakes that came to nothing.
    pub handshakes_failed: u32,
}

/// One open session.
pub struct Session {
    /// What the agent said first.
    pub hello: v1::Hello,
    /// What it says.
    pub heard: mpsc::Receiver<v1::FromAgent>,
    /// What it is told.
    pub tell: mpsc::Sender<Result<v1::ToAgent, Status>>,
}

/// The controller.
pub struct Controller {
    /// What it has seen and shall do.
    state: Arc<Mutex<State>>,
    /// Where agents enrol.
    pub enrol: SocketAddr,
    /// Sessions as they open.
    pub sessions: mpsc::Receiver<Session>,
    ca: Arc<Authority>,
    slot: Arc<tls::IdentitySlot>,
    _tasks: JoinSet<()>,
}

/// The fleet of these tests.
pub const FLEET: &str = "Web";

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test fleet");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("ca") }
    }

    fn server(&self, from: SystemTime) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let mut params =
            CertificateParams::new(vec![format!("controller.{}", FLEET.to_lowercase())]).expect("san");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = from.into();
        params.not_after = (from + Duration::from_secs(86_400)).into();
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("sign");
        (vec![certificate.der().clone()], key)
    }

    fn node(&self, csr: &[u8], life: Duration) -> Vec<u8> {
        let der = CertificateSigningRequestDer::from(csr.to_vec());
        let mut request = CertificateSigningRequestParams::from_der(&der).expect("csr");
        let now = SystemTime::now();
        request.params.not_before = (now - Duration::from_secs(300)).into();
        request.params.not_after = (now + life).into();
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let name = format!("spiffe://{FLEET}/node/n1");
        request.params.subject_alt_names = vec![SanType::URI(name.try_into().expect("ascii"))];
        request.signed_by(&self.issuer).expect("sign").der().to_vec()
    }
}

impl Authority {
    fn service(&self, csr: &[u8], names: Vec<String>) -> Vec<u8> {
        let der = CertificateSigningRequestDer::from(csr.to_vec());
        let mut request = CertificateSigningRequestParams::from_der(&der).expect("csr");
        let names = CertificateParams::new(names).expect("names");
        request.params.subject_alt_names = names.subject_alt_names;
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).expect("sign").der().to_vec()
    }
}

impl Controller {
    /// Starts one whose own certificate is valid from `from` on.
    pub async fn start_valid_from(from: SystemTime) -> Self {
        let ca = Arc::new(Authority::new());
        let (chain, key) = ca.server(from);
        let slot = Arc::new(
            tls::IdentitySlot::new(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
                .expect("slot"),
        );
        let roots = Arc::new(tls::roots(&[ca.issuer.der().clone()]).expect("roots"));
        let config = |mutual: bool| {
            let builder = ServerConfig::builder_with_provider(tls::provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("versions");
            let builder = if mutual {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), tls::provider());
                builder.with_client_cert_verifier(verifier.build().expect("verifier"))
            } else {
                builder.with_no_client_auth()
            };
            let mut config = builder.with_cert_resolver(slot.clone());
            config.send_tls13_tickets = 0;
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config)
        };
        let state = Arc::new(Mutex::new(State {
            enrolments: Vec::new(),
            renewals: Vec::new(),
            script: VecDeque::new(),
            life: (Duration::from_secs(86_400), Duration::from_secs(57_600)),
            shown: Vec::new(),
            away: false,
            artifacts: BTreeMap::new(),
            cuts: VecDeque::new(),
            busy: VecDeque::new(),
            fetches: Vec::new(),
            service_names: vec!["n1".into()],
            certified: Vec::new(),
            handshakes_failed: 0,
        }));
        let mut tasks = JoinSet::new();
        let (opened, sessions) = mpsc::channel(8);
        let session_listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let service = Service {
            state: state.clone(),
            ca: ca.clone(),
            session: session_listener.local_addr().expect("address"),
            opened,
        };
        let enrol_listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let enrol = enrol_listener.local_addr().expect("address");
        let router = tonic::transport::Server::builder().add_service(EnrolmentServer::new(service.clone()));
        let incoming = accept(enrol_listener, config(false), state.clone(), For::Enrolment, &mut tasks);
        tasks.spawn(async move { router.serve_with_incoming(incoming).await.expect("serve") });
        let router = tonic::transport::Server::builder().add_service(AgentsServer::new(service));
        let incoming = accept(session_listener, config(true), state.clone(), For::Sessions, &mut tasks);
        tasks.spawn(async move { router.serve_with_incoming(incoming).await.expect("serve") });
        Self { state, enrol, sessions, ca, slot, _tasks: tasks }
    }

    /// Starts one.
    pub async fn start() -> Self {
        Self::start_valid_from(SystemTime::now() - Duration::from_secs(300)).await
    }

    /// Shows another certificate from now on.
    pub fn certificate_valid_from(&self, from: SystemTime) {
        let (chain, key) = self.ca.server(from);
        self.slot.swap(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()).expect("swap");
    }

    /// What it has seen and shall do.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What agents trust, PEM.
    pub fn bundle(&self) -> String {
        self.ca.issuer.pem()
    }

    /// The next session that opens.
    pub async fn session(&mut self) -> Session {
        tokio::time::timeout(Duration::from_secs(20), self.sessions.recv())
            .await
            .expect("in time")
            .expect("running")
    }
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    ca: Arc<Authority>,
    session: SocketAddr,
    opened: mpsc::Sender<Session>,
}

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn credentials(&self, csr: &[u8]) -> v1::Credentials {
        let (life, renew) = self.state().life;
        let now = millis(SystemTime::now());
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).expect("short");
        v1::Credentials {
            certificate_chain: vec![self.ca.node(csr, life)],
            trust_bundle: vec![self.ca.issuer.der().to_vec()],
            not_after_ms: now + ms(life),
            renew_at_ms: now + ms(renew),
            controller_time_ms: now,
            session_addresses: vec![self.session.to_string()],
            node: "n1".into(),
        }
    }
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the year 292277026")
}

#[tonic::async_trait]
impl Enrolment for Service {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::Credentials>, Status> {
        let request = request.into_inner();
        let next = {
            let mut state = self.state();
            state.enrolments.push((request.token, request.csr.clone()));
            state.script.pop_front()
        };
        match next {
            Some(Next::Refuse(refusal)) => Err(refusal.into()),
            Some(Next::LoseAnswer) => Err(Status::unavailable("the answer is lost")),
            None => Ok(Response::new(self.credentials(&request.csr))),
        }
    }

    async fn report(&self, _: Request<v1::FirstBootReport>) -> Result<Response<v1::ReportAck>, Status> {
        Ok(Response::new(v1::ReportAck::default()))
    }
}

#[tonic::async_trait]
impl Agents for Service {
    type SessionStream = ReceiverStream<Result<v1::ToAgent, Status>>;
    type FetchStream = ReceiverStream<Result<v1::Chunk, Status>>;

    async fn certify(
        &self,
        request: Request<v1::CertifyRequest>,
    ) -> Result<Response<v1::ServiceCredentials>, Status> {
        let csr = request.into_inner().csr;
        let names = {
            let mut state = self.state();
            state.certified.push(csr.clone());
            state.service_names.clone()
        };
        let now = millis(SystemTime::now());
        Ok(Response::new(v1::ServiceCredentials {
            certificate_chain: vec![self.ca.service(&csr, names)],
            trust_bundle: vec![self.ca.issuer.der().to_vec()],
            not_after_ms: now + 86_400_000,
            renew_at_ms: now + 57_600_000,
        }))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let v1::FetchRequest { sha256, offset } = request.into_inner();
        let (bytes, cut) = {
            let mut state = self.state();
            state.fetches.push((sha256.clone(), offset));
            if let Some(retry_after_ms) = state.busy.pop_front() {
                let refusal = v1::Refusal::new(v1::RefusalKind::RefusalBusy, "hands full", "come again");
                return Err(v1::Refusal { retry_after_ms, ..refusal }.into());
            }
            let Some(bytes) = state.artifacts.get(&sha256).cloned() else {
                let refusal = v1::Refusal::new(v1::RefusalKind::RefusalUnknown, "no such artifact", "none");
                return Err(refusal.into());
            };
            (bytes, state.cuts.pop_front())
        };
        let rest = bytes[usize::try_from(offset).expect("small")..].to_vec();
        let (send, receive) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut sent = 0;
            for piece in rest.chunks(1000) {
                if cut.is_some_and(|cut| sent >= cut) {
                    let _ = send.send(Err(Status::unavailable("cut"))).await;
                    return;
                }
                sent += piece.len();
                if send.send(Ok(v1::Chunk { data: piece.to_vec() })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut up = request.into_inner();
        let Some(v1::FromAgent { message: Some(v1::from_agent::Message::Hello(hello)) }) =
            up.message().await?
        else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (tell, told) = mpsc::channel(8);
        let welcome = v1::Welcome {
            controller_time_ms: millis(SystemTime::now()),
            protocol: 1,
            heartbeat_ms: 1000,
            facts_ms: 60_000,
            ..v1::Welcome::default()
        };
        let welcome = v1::ToAgent { message: Some(v1::to_agent::Message::Welcome(welcome)) };
        tell.send(Ok(welcome)).await.expect("room");
        let (hear, heard) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok(Some(message)) = up.message().await {
                if hear.send(message).await.is_err() {
                    return;
                }
            }
        });
        self.opened.send(Session { hello, heard, tell }).await.expect("the test listens");
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Credentials>, Status> {
        let csr = request.into_inner().csr;
        self.state().renewals.push(csr.clone());
        Ok(Response::new(self.credentials(&csr)))
    }
}

/// What a listener is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Enrolment,
    Sessions,
}

fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    state: Arc<Mutex<State>>,
    what: For,
    tasks: &mut JoinSet<()>,
) -> ReceiverStream<io::Result<Tls>> {
    let (send, receive) = mpsc::channel(8);
    tasks.spawn(async move {
        while let Ok((plain, _)) = listener.accept().await {
            let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
            if what == For::Sessions && lock().away {
                continue;
            }
            let Ok(stream) = TlsAcceptor::from(config.clone()).accept(plain).await else {
                lock().handshakes_failed += 1;
                continue;
            };
            // Only sessions ask for a certificate.
            if let Some([leaf, ..]) = stream.get_ref().1.peer_certificates() {
                lock().shown.push(leaf.to_vec());
            }
            if send.send(Ok(Tls(stream))).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receive)
}

struct Tls(TlsStream<TcpStream>);

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
