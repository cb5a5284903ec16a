//! The controller under test, as a process of its own: both sides.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use fleet_controller::{
    Controller, Listeners, Settings,
    settings::{CloudAccess, CloudAccessError, CloudAccessSource},
};
use fleet_model::{FleetName, NodeName, SystemClock};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpListener, TcpSocket},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

/// The fleet that is simulated.
pub const FLEET: &str = "load";
/// Tokens issued at once.
const AT_ONCE: usize = 256;
/// Connections waiting to be accepted; the kernel's own ceiling.
const BACKLOG: u32 = 4096;
/// How long a controller may take to start.
const START: Duration = Duration::from_secs(120);

/// Name of the simulated node with this number.
pub fn node(number: usize) -> NodeName {
    format!("n{number}").parse().expect("letters and digits")
}

/// What a controller says once it serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serving {
    /// Where sessions are served.
    pub session: SocketAddr,
    /// Where enrolment is served.
    pub enrol: SocketAddr,
    /// One for each node it was asked to make tokens for.
    pub tokens: Vec<String>,
    /// Whom to trust, PEM.
    pub bundle: String,
}

/// A running controller.
pub struct Running {
    child: Child,
    /// Where and how.
    pub serving: Serving,
}

impl Running {
    /// Starts one over the state in `dir`, with `tokens` fresh tokens; at `serving`'s addresses again if given.
    pub async fn start(dir: &Path, tokens: usize, at: Option<&Serving>) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (session, enrol) = at.map_or((any, any), |serving| (serving.session, serving.enrol));
        let mut child = Command::new(std::env::current_exe()?)
            .arg("controller")
            .arg(dir)
            .args([session.to_string(), enrol.to_string(), tokens.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the controller")?;
        let stdout = child.stdout.take().context("its output")?;
        let line = tokio::time::timeout(START, BufReader::new(stdout).lines().next_line()).await;
        let Some(line) = line.context("the controller does not start")?? else {
            bail!("the controller ended at once");
        };
        Ok(Self { child, serving: serde_json::from_str(&line)? })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// SIGKILL, and gone.
    pub async fn kill(mut self) -> anyhow::Result<Serving> {
        self.child.kill().await?;
        Ok(self.serving)
    }
}

/// The process under test: `controller DIR SESSION ENROL TOKENS`.
pub fn child(dir: PathBuf, mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut next = |what| args.next().context(what);
    let session: SocketAddr = next("a session address")?.parse()?;
    let enrol: SocketAddr = next("an enrolment address")?.parse()?;
    let tokens: usize = next("a number of tokens")?.parse()?;
    // What `fleetctl serve` runs on.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let fleet: FleetName = FLEET.parse()?;
        let settings = Settings::new(fleet, dir, Arc::new(NoCloud));
        let controller = Controller::open(settings, Arc::new(SystemClock)).await?;
        let issue = |number| {
            let controller = &controller;
            async move { controller.issue_token(&node(number)).await.map(|token| token.text.reveal().to_owned()) }
        };
        let tokens = stream::iter(0..tokens).map(issue).buffered(AT_ONCE).try_collect().await?;
        let bundle = controller.ca().bundle_pem();
        let listeners = Listeners { session: vec![listen(session)?], enrol: vec![listen(enrol)?] };
        let stop = CancellationToken::new();
        controller
            .serve(listeners, stop, |ready| {
                let serving = Serving { session: ready.session[0], enrol: ready.enrol[0], tokens, bundle };
                let line = serde_json::to_string(&serving).expect("addresses and text always become JSON");
                let mut out = std::io::stdout();
                // If nobody reads this, nobody measures.
                let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            })
            .await?;
        Ok(())
    })
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(BACKLOG)?)
}

/// Nothing is provisioned here.
#[derive(Debug)]
struct NoCloud;

impl CloudAccessSource for NoCloud {
    fn access(&self, _: &fleet_plan::resolved::Cloud) -> Result<CloudAccess, CloudAccessError> {
        Err(CloudAccessError {
            what: "this controller only carries load".into(),
            next_step: "use fleetctl".into(),
        })
    }
}
