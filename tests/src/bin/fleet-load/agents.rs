//! Simulated agents: real identities, real sessions, no node work.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use fleet_agent::Backoff;
use fleet_proto::{
    PROTOCOL,
    refusal::Refusal,
    tls::{self, IdentitySlot},
    v1::{
        self, agents_client::AgentsClient, command, enrolment_client::EnrolmentClient, from_agent, to_agent,
    },
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _};
use tokio::{
    net::TcpSocket,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::controller::{FLEET, Serving};

/// Enrolments under way at once.
const AT_ONCE: usize = 128;
/// Source addresses the agents are spread over, so that ports do not run out.
const SOURCES: usize = 16;
/// How long one attempt to open a session may take.
const OPENING: Duration = Duration::from_secs(30);

/// One simulated node: how it dials.
#[derive(Clone)]
pub struct Agent {
    number: usize,
    tls: Arc<ClientConfig>,
}

/// Keys and requests made beforehand: what is measured is the controller.
pub struct Applicant {
    number: usize,
    key: KeyPair,
    csr: Vec<u8>,
    token: String,
}

impl Applicant {
    /// One for each token.
    pub fn all(tokens: &[String]) -> anyhow::Result<Vec<Self>> {
        let one = |(number, token): (usize, &String)| {
            let key = KeyPair::generate()?;
            let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
            Ok(Self { number, key, csr, token: token.clone() })
        };
        tokens.iter().enumerate().map(one).collect()
    }

    async fn enrol(self, at: SocketAddr, tls: Arc<ClientConfig>) -> anyhow::Result<Agent> {
        let mut client = EnrolmentClient::new(dial(self.number, at, tls).await?);
        let request = v1::EnrolRequest { token: self.token, csr: self.csr, hello: Some(hello(self.number)) };
        let answer = client.enrol(request).await?.into_inner();
        let der = |list: Vec<Vec<u8>>| list.into_iter().map(CertificateDer::from).collect::<Vec<_>>();
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der()).into();
        let slot = Arc::new(IdentitySlot::new(der(answer.certificate_chain), key)?);
        let tls = Arc::new(tls::client(&der(answer.trust_bundle), Some(slot))?);
        Ok(Agent { number: self.number, tls })
    }
}

/// Enrols all, each over a connection of its own, as nodes do.
pub async fn enrol(applicants: Vec<Applicant>, serving: &Serving) -> anyhow::Result<Vec<Agent>> {
    let bundle = CertificateDer::pem_slice_iter(serving.bundle.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let tls = Arc::new(tls::client(&bundle, None)?);
    let at = serving.enrol;
    stream::iter(applicants)
        .map(|applicant| applicant.enrol(at, tls.clone()))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

fn hello(number: usize) -> v1::Hello {
    v1::Hello {
        agent_version: fleet_agent::VERSION.into(),
        protocol_min: PROTOCOL.0,
        protocol_max: PROTOCOL.1,
        boot_nonce: format!("start-{number}"),
        machine: format!("machine-{number}"),
        node_time_ms: fleet_model::Clock::now(&fleet_model::SystemClock).as_millis(),
        generation: 0,
        capabilities: Vec::new(),
    }
}

/// A connection of agent `number` to the listener at `at`.
pub async fn dial(number: usize, at: SocketAddr, tls: Arc<ClientConfig>) -> anyhow::Result<Channel> {
    let socket = TcpSocket::new_v4()?;
    let source = u8::try_from(2 + number % SOURCES)?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, source), 0)))?;
    let plain = socket.connect(at).await?;
    plain.set_nodelay(true)?;
    let name = ServerName::try_from(format!("controller.{FLEET}"))?;
    let stream = TlsConnector::from(tls).connect(name, plain).await?;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    let endpoint = Endpoint::from_static("http://controller")
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535);
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// All agents at work, and what is known of them.
pub struct Crowd {
    size: usize,
    counts: watch::Receiver<Counts>,
    /// Raised to have every agent drop its session and dial again.
    storm: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

/// Sessions open now, and opened ever.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    up: usize,
    opened: usize,
}

impl Crowd {
    /// Lets all agents dial at once.
    pub fn start(agents: &[Agent], at: SocketAddr) -> Self {
        let (storm, storms) = watch::channel(0);
        let (up, counts) = watch::channel(Counts::default());
        let up = Arc::new(up);
        let mut tasks = JoinSet::new();
        for agent in agents {
            let life = Life { agent: agent.clone(), at, up: up.clone(), storms: storms.clone() };
            tasks.spawn(life.live());
        }
        Self { size: agents.len(), counts, storm, _tasks: tasks }
    }

    /// How many sessions were ever opened; for [`all_up`](Self::all_up).
    pub fn opened(&self) -> usize {
        self.counts.borrow().opened
    }

    /// Waits until every agent has a session, all of them opened since `mark` were.
    pub async fn all_up(&mut self, mark: usize, within: Duration) -> anyhow::Result<()> {
        let size = self.size;
        let all = self.counts.wait_for(|counts| counts.up >= size && counts.opened >= mark + size);
        if timeout(within, all).await.is_err() {
            let counts = *self.counts.borrow();
            bail!("after {} s of {size} sessions: {counts:?}, {mark} before", within.as_secs());
        }
        Ok(())
    }

    /// Has every agent drop its session and dial again at once.
    pub fn storm(&self) {
        self.storm.send_modify(|storm| *storm += 1);
    }
}

type Up = Arc<watch::Sender<Counts>>;

/// One session counted as open for as long as this lives.
struct Counted<'a>(&'a Up);

impl<'a> Counted<'a> {
    fn new(up: &'a Up) -> Self {
        up.send_modify(|counts| {
            counts.up += 1;
            counts.opened += 1;
        });
        Self(up)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|counts| counts.up -= 1);
    }
}

/// One agent, for ever.
struct Life {
    agent: Agent,
    at: SocketAddr,
    up: Up,
    storms: watch::Receiver<u64>,
}

impl Life {
    async fn live(mut self) {
        let mut backoff = Backoff::of_sessions();
        loop {
            let result = self.session().await;
            let least = match result {
                // Told to: at once.
                Ok(End::Storm) => {
                    backoff.reset();
                    continue;
                }
                Ok(End::Lost) => {
                    backoff.reset();
                    Duration::ZERO
                }
                Err(error) => {
                    let refusal = error.downcast_ref().and_then(Refusal::from_status);
                    Duration::from_millis(refusal.map_or(0, |refusal| refusal.retry_after_ms))
                }
            };
            let wait = backoff.next(&mut rand::rng());
            tokio::time::sleep(least.max(wait)).await;
        }
    }

    async fn session(&mut self) -> anyhow::Result<End> {
        let opening = async {
            let channel = dial(self.agent.number, self.at, self.agent.tls.clone()).await?;
            let (up, outbound) = mpsc::channel(4);
            say(&up, from_agent::Message::Hello(hello(self.agent.number))).await?;
            let mut client = AgentsClient::new(channel);
            let mut down = client.session(Request::new(ReceiverStream::new(outbound))).await?.into_inner();
            match down.message().await?.and_then(|first| first.message) {
                Some(to_agent::Message::Welcome(welcome)) => anyhow::Ok((up, down, welcome)),
                _ => bail!("no welcome"),
            }
        };
        let (up, mut down, welcome) = timeout(OPENING, opening).await.context("opening")??;
        // In this order: a storm raised once all are counted must find every one of them listening.
        self.storms.mark_unchanged();
        let _counted = Counted::new(&self.up);
        let pace = Duration::from_millis(welcome.heartbeat_ms.max(1000).into());
        let next = || Instant::now() + pace.mul_f64(rand::rng().random_range(0.75..=1.25));
        let mut beat = next();
        loop {
            // All arms wait on streams, channels and timers, and lose nothing when dropped.
            tokio::select! {
                message = down.message() => {
                    let Ok(Some(message)) = message else { return Ok(End::Lost) };
                    if let Some(to_agent::Message::Command(asked)) = message.message
                        && let Some(command::What::Noop(_)) = asked.what
                    {
                        let answer = v1::Answer { id: asked.id, error: String::new() };
                        say(&up, from_agent::Message::Answer(answer)).await?;
                    }
                }
                () = sleep_until(beat) => {
                    beat = next();
                    let node_time_ms = fleet_model::Clock::now(&fleet_model::SystemClock).as_millis();
                    say(&up, from_agent::Message::Heartbeat(v1::Heartbeat { node_time_ms })).await?;
                }
                Ok(()) = self.storms.changed() => return Ok(End::Storm),
            }
        }
    }
}

enum End {
    Lost,
    Storm,
}

async fn say(up: &mpsc::Sender<v1::FromAgent>, message: from_agent::Message) -> anyhow::Result<()> {
    up.send(v1::FromAgent { message: Some(message) }).await.map_err(|_| Status::unavailable("closed").into())
}
