//! `fleetctl serve`: the controller of one fleet.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_controller::{
    Listeners, Settings,
    artifacts::Limits,
    settings::{CloudAccess, CloudAccessError, CloudAccessSource},
};
use fleet_model::{Secret, SystemClock, chain};
use fleet_plan::resolved::Cloud;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::cloud;
use crate::{
    args::{Global, Serve},
    failure::{Exit, Failure},
    home::Home,
    log, notify,
};

/// Where programs for nodes lie once installed from a package.
const INSTALLED: &str = "/usr/lib/fleet";
/// Ports taken at the first start: agents remember them.
const PORTS_FILE: &str = "ports.json";

/// Ports of one fleet's controller.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Ports {
    session: u16,
    enrol: u16,
}

pub async fn run(global: &Global, args: Serve) -> Result<Exit, Failure> {
    log::start();
    let home = Home::of(global)?;
    let Some(fleet) = global.fleet.clone() else {
        return Err(Failure::new(Exit::Input, "a controller serves one fleet").hint("name it with --fleet"));
    };
    if let Some(endpoint) = &args.cloud_endpoint {
        home.note_cloud(&fleet, &Cloud::Mcp { endpoint: endpoint.clone() })?;
    }
    if !args.advertise.is_empty() {
        // `up` takes it for where the operator is, unless told otherwise.
        home.note_advertised(&fleet, &args.advertise)?;
    }
    let dir = home.fleet(&fleet);
    let local = home.cloud_of(&fleet)?.is_none_or(|cloud| cloud == Cloud::Local);
    let guests_reach: Vec<IpAddr> = if local {
        cloud::access(&home).and_then(|access| access.host_address).map(IpAddr::V4).into_iter().collect()
    } else if args.advertise.is_empty() {
        home.reach(&fleet)
    } else {
        Vec::new()
    };
    let listen = listen_addresses(&args, &guests_reach);
    let mut settings = Settings::new(fleet, dir.clone(), Arc::new(Access { home: home.clone() }));
    settings.advertise = advertised(&args, &listen);
    let agent = find_agent(args.agent.as_deref())?;
    settings.supervisor = Some(find_supervisor(&agent)?);
    settings.agent = Some(agent);
    settings.todo = find_todo(args.todo.as_deref())?;
    settings.timing.boot = Duration::from_secs(args.boot_deadline);
    settings.transfers = Limits::of_rate(args.transfer_rate << 20);
    // Looked at before anything is bound: a folder that is taken is a better reason than a port that is.
    drop(
        fleet_controller::home::Home::open(&dir)
            .map_err(|error| Failure::new(Exit::Failed, chain(&error)))?,
    );
    let listeners = bind(&dir, &listen, Ports { session: args.session_port, enrol: args.enrol_port }).await?;
    let stop = stop_signal()?;
    let watchdog = tokio::spawn(notify::watchdog(stop.clone()));
    let served = fleet_controller::run(settings, listeners, Arc::new(SystemClock), stop.clone(), |_| {
        notify::ready();
    });
    let served = served.await;
    notify::stopping();
    stop.cancel();
    // It only sleeps and writes to a socket: it cannot have failed in a way that matters now.
    let _ = watchdog.await;
    served.map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    Ok(Exit::Ok)
}

/// Loopback for the operator, and the addresses nodes know this host by.
fn listen_addresses(args: &Serve, guests_reach: &[IpAddr]) -> Vec<IpAddr> {
    if !args.listen.is_empty() {
        return args.listen.clone();
    }
    let mut listen = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    if guests_reach.is_empty() && !args.advertise.is_empty() {
        // A cloud elsewhere: its nodes come from anywhere, and mutual TLS is what keeps others out.
        return vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    }
    listen.extend(guests_reach.iter().filter(|address| !address.is_loopback()));
    listen
}

fn advertised(args: &Serve, listen: &[IpAddr]) -> Vec<IpAddr> {
    if !args.advertise.is_empty() {
        return args.advertise.clone();
    }
    let outward: Vec<IpAddr> = listen
        .iter()
        .copied()
        .filter(|address| !address.is_loopback() && !address.is_unspecified())
        .collect();
    if outward.is_empty() { listen.to_vec() } else { outward }
}

/// Binds every address on the ports asked for, else on those of the last start, else on free ones.
async fn bind(dir: &Path, listen: &[IpAddr], asked: Ports) -> Result<Listeners, Failure> {
    let file = dir.join(PORTS_FILE);
    let kept: Ports =
        fs::read(&file).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let or = |asked: u16, kept: u16| if asked == 0 { kept } else { asked };
    let session = bind_all(listen, or(asked.session, kept.session)).await?;
    let enrol = bind_all(listen, or(asked.enrol, kept.enrol)).await?;
    let port = |listeners: &[TcpListener]| {
        listeners.first().and_then(|first| first.local_addr().ok()).map(|a| a.port())
    };
    let ports = Ports { session: port(&session).unwrap_or(0), enrol: port(&enrol).unwrap_or(0) };
    let json = serde_json::to_vec(&ports).expect("two numbers make JSON");
    fs::write(&file, json)
        .map_err(|why| Failure::new(Exit::Failed, format!("write {}: {why}", file.display())))?;
    Ok(Listeners { session, enrol })
}

/// One port on every address; with port 0, the one the first address got.
async fn bind_all(addresses: &[IpAddr], mut port: u16) -> Result<Vec<TcpListener>, Failure> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let address = SocketAddr::new(address, port);
        let listener = TcpListener::bind(address).await.map_err(|why| {
            let hint = match why.kind() {
                io::ErrorKind::AddrInUse => {
                    "another program has it; choose ports with --session-port and --enrol-port"
                }
                io::ErrorKind::AddrNotAvailable => "is the local cloud up? `fleetctl doctor` says",
                _ => "choose other addresses with --listen",
            };
            Failure::new(Exit::Failed, format!("listen on {address}: {why}")).hint(hint)
        })?;
        port = listener.local_addr().map_or(port, |bound| bound.port());
        listeners.push(listener);
    }
    Ok(listeners)
}

/// The agent's binary: as told, beside this program, or as installed.
pub fn find_agent(told: Option<&Path>) -> Result<PathBuf, Failure> {
    find("fleet-agent", told).map_err(|tried| {
        Failure::new(Exit::Input, format!("no agent binary at {tried}"))
            .hint("`cargo xtask build` makes one; --agent or FLEET_AGENT names another place")
    })
}

/// What starts the agent on nodes: beside the agent.
fn find_supervisor(agent: &Path) -> Result<PathBuf, Failure> {
    find("fleet-supervisor", Some(&agent.with_file_name("fleet-supervisor"))).map_err(|tried| {
        Failure::new(Exit::Input, format!("no supervisor binary at {tried}"))
            .hint("it belongs beside the agent; `cargo xtask build` makes both")
    })
}

/// The todo application's binary, likewise; only plans with that application need it.
pub fn find_todo(told: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    match find("fleet-todo", told) {
        Ok(file) => Ok(Some(file)),
        Err(_) if told.is_none() => Ok(None),
        Err(tried) => Err(Failure::new(Exit::Input, format!("no todo binary at {tried}"))
            .hint("`cargo xtask build` makes one; --todo or FLEET_TODO names its place")),
    }
}

/// A program for nodes; an error says where it was looked for.
fn find(name: &str, told: Option<&Path>) -> Result<PathBuf, String> {
    let beside = std::env::current_exe().ok().map(|this| this.with_file_name(name));
    let candidates = match told {
        Some(told) => vec![told.to_owned()],
        None => beside.into_iter().chain([Path::new(INSTALLED).join(name)]).collect(),
    };
    candidates.iter().find(|file| file.is_file()).cloned().ok_or_else(|| {
        candidates.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" or ")
    })
}

/// Cancelled by SIGTERM or SIGINT.
pub fn stop_signal() -> Result<CancellationToken, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|why| Failure::new(Exit::Failed, format!("listen for signals: {why}")));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    // Ends with the process; it holds nothing.
    tokio::spawn(async move {
        tokio::select! {
            // Cancel-safe: a signal not received by one arm is received by the other.
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        cancel.cancel();
    });
    Ok(stop)
}

/// A client of a cloud, for commands that look at it themselves.
pub fn client(home: &Home, which: &Cloud) -> Result<Arc<dyn fleet_provider::cloud::Cloud>, Failure> {
    let access = Access { home: home.clone() }
        .access(which)
        .map_err(|error| Failure::new(Exit::Unreachable, error.what).hint(error.next_step))?;
    let client = fleet_controller::reconcile::cloud_control::client(access)
        .map_err(|error| Failure::new(Exit::Unreachable, error.0))?;
    Ok(Arc::new(client))
}

/// How this controller reaches its cloud: asked anew for each run, so a cloud that was restarted is found.
#[derive(Debug)]
struct Access {
    home: Home,
}

impl CloudAccessSource for Access {
    fn access(&self, which: &Cloud) -> Result<CloudAccess, CloudAccessError> {
        match which {
            Cloud::Local => self.local(),
            Cloud::Mcp { endpoint } => mcp(endpoint),
            Cloud::Hosts => Err(CloudAccessError {
                what: "machines that are there already have no cloud".to_owned(),
                next_step: "they are reached by their addresses".to_owned(),
            }),
        }
    }
}

impl Access {
    fn local(&self) -> Result<CloudAccess, CloudAccessError> {
        let missing = |what: String| CloudAccessError {
            what,
            next_step: "`fleetctl up` starts the local cloud, `fleetctl doctor` says what is wrong"
                .to_owned(),
        };
        let access = cloud::access(&self.home)
            .ok_or_else(|| missing(format!("no local cloud in {}", self.home.cloud().display())))?;
        let ca = fs::read(&access.ca_file)
            .map_err(|why| missing(format!("read {}: {why}", access.ca_file.display())))?;
        Ok(CloudAccess {
            endpoint: access.endpoint,
            ca_pem: Some(ca),
            username: access.username,
            password: Secret::new(access.password.reveal()),
        })
    }
}

fn mcp(endpoint: &str) -> Result<CloudAccess, CloudAccessError> {
    let variable = |name: &str| {
        std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or_else(|| CloudAccessError {
            what: format!("{name} is not set"),
            next_step: "put user and password of the MCP account in MCP_USERNAME and MCP_PASSWORD, then \
                        `fleetctl up` again; a running controller has to be restarted to see them"
                .to_owned(),
        })
    };
    Ok(CloudAccess {
        endpoint: endpoint.to_owned(),
        ca_pem: None,
        username: variable("MCP_USERNAME")?,
        password: Secret::new(variable("MCP_PASSWORD")?),
    })
}
