//! From settings to a running server.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{
        mesh,
        message::Process,
        metadata::{DatabaseEntry, Metadata, UserEntry},
        tls,
    },
    console, names,
    server::{self, Identity, Server, VERSION, now},
    settings::Settings,
    wire::{self, scram::Password},
};

/// Makes the data directory; a database `test` too if asked for, as the first server of a cluster has it.
///
/// # Errors
/// One is there already, or the file system refuses.
pub fn create(settings: &Settings, with_test_database: bool) -> io::Result<()> {
    let directory = &settings.directory;
    if server::exists(directory) {
        let path = directory.display();
        return Err(io::Error::other(format!("The path '{path}' already exists.  Delete it and try again.")));
    }
    let id = uuid::Uuid::new_v4().to_string();
    let mut tags: BTreeSet<String> = settings.server_tags.iter().cloned().collect();
    tags.insert("default".into());
    let name = settings.server_name.clone().unwrap_or_else(|| format!("standin_{}", &id[..8]));
    let mut metadata = Metadata::default();
    let mut admin = server::no_password();
    if let Some(password) = &settings.initial_password {
        admin = UserEntry { version: 1, password: Password::new(password) };
    }
    metadata.users.insert("admin".into(), admin);
    if with_test_database {
        let entry = DatabaseEntry { version: 1, name: Some("test".into()) };
        metadata.databases.insert(uuid::Uuid::new_v4().to_string(), entry);
    }
    server::create(directory, &Identity { id, name, tags: tags.into_iter().collect() }, &metadata)
}

/// Serves an existing data directory until told to stop.
///
/// # Errors
/// A file or a port cannot be had.
pub async fn run(settings: Settings, stop: CancellationToken) -> io::Result<()> {
    let directory = settings.directory.display().to_string();
    if !server::exists(&settings.directory) {
        return Err(io::Error::other(format!(
            "The directory '{directory}' does not exist, run 'rethinkdb create -d \"{directory}\"' and try again."
        )));
    }
    let _only = hold(&settings.directory)?;
    let cluster_tls = settings.cluster_tls.as_ref().map(tls::cluster).transpose()?;
    let driver_tls = settings.driver_tls.as_ref().map(tls::server).transpose()?;
    let http_tls = settings.http_tls.as_ref().map(tls::server).transpose()?;
    for name in &settings.join {
        names::resolve(name)?;
    }
    let cluster_listeners = bind(&settings.bind_cluster, settings.cluster_port).await?;
    println!("Running {VERSION}: not RethinkDB, but a stand-in for tests.");
    println!("Loading data from directory {directory}");
    for option in &settings.ignored {
        println!("warn: option `{option}` has no effect on the stand-in");
    }
    let advertised = advertised(&settings);
    let addresses = advertised.iter().map(|(host, port)| names::join(host, *port)).collect();
    let facts = facts(&settings, advertised);
    let server = Server::open(settings, facts, addresses, cluster_tls, stop.clone())?;
    let settings = &server.settings;
    println!("Listening for intracluster connections on port {}", settings.cluster_port);
    for listener in cluster_listeners {
        server.tasks.spawn(mesh::accept(Arc::clone(&server), listener));
    }
    server.tasks.spawn(mesh::dial(Arc::clone(&server)));
    if !joined(&server).await {
        return Err(io::Error::other("ended before it was connected to any peer"));
    }
    println!("Listening for client driver connections on port {}", settings.driver_port);
    for listener in bind(&settings.bind_driver, settings.driver_port).await? {
        server.tasks.spawn(wire::connection::accept(Arc::clone(&server), listener, driver_tls.clone()));
    }
    if let Some(port) = settings.http_port {
        println!("Listening for administrative HTTP connections on port {port}");
        for listener in bind(&settings.bind_http, port).await? {
            server.tasks.spawn(console::accept(Arc::clone(&server), listener, http_tls.clone()));
        }
    }
    println!("Server ready, \"{}\" {}", server.presence().name, server.id);
    stop.cancelled().await;
    server.tasks.close();
    // Nothing is half-written whenever this ends; waiting only lets answers out.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), server.tasks.wait()).await;
    Ok(())
}

/// Waits until any server is connected, if there are some to join: as the real one, which serves no driver before.
/// Whether it came to that before the end.
async fn joined(server: &Server) -> bool {
    let me: BTreeSet<_> = server.hello().addresses.into_iter().collect();
    if server.settings.join.iter().all(|address| me.contains(address)) {
        return true;
    }
    println!("Attempting connection to {} peers...", server.settings.join.len());
    let mut changed = server.changes();
    while server.connected().len() < 2 {
        tokio::select! {
            () = server.stop.cancelled() => return false,
            _ = changed.changed() => {}
        }
    }
    true
}

/// One process at a time may use a directory; the lock ends with the process, however that ends.
fn hold(directory: &Path) -> io::Result<std::fs::File> {
    let file = std::fs::File::create(directory.join("lock"))?;
    file.try_lock().map_err(|_| {
        io::Error::other(format!(
            "Directory '{}' is already in use, perhaps by another instance of rethinkdb.",
            directory.display()
        ))
    })?;
    Ok(file)
}

async fn bind(hosts: &[IpAddr], port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in mesh::bind_addresses(hosts, port) {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 still has all its IPv4 addresses, and a loopback of them.
            Err(why) if is_no_ipv6(&why) && address.ip().is_unspecified() => {
                listeners.push(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?);
            }
            Err(why) if is_no_ipv6(&why) && address.is_ipv6() && address.ip().is_loopback() => {}
            Err(why) if why.kind() == io::ErrorKind::AddrNotAvailable => {
                return Err(io::Error::other(format!("Could not find bind ip address '{}'", address.ip())));
            }
            Err(why) => return Err(io::Error::new(why.kind(), format!("bind {address}: {why}"))),
        }
    }
    Ok(listeners)
}

/// The kernel has no IPv6, or no address of it.
fn is_no_ipv6(why: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    why.raw_os_error() == Some(EAFNOSUPPORT) || why.kind() == io::ErrorKind::AddrNotAvailable
}

/// What others are told to dial: what the settings say, else every address of this machine the port is bound to.
fn advertised(settings: &Settings) -> Vec<(String, u16)> {
    let given: Vec<(String, u16)> =
        settings.canonical_addresses.iter().filter_map(|text| names::split(text).ok()).collect();
    if !given.is_empty() {
        return given;
    }
    let bound = settings
        .bind_cluster
        .iter()
        .flat_map(|host| if host.is_unspecified() { local_addresses() } else { vec![*host] });
    bound.map(|host| (host.to_string(), settings.cluster_port)).collect()
}

/// Addresses of this machine, from the kernel's tables.
fn local_addresses() -> Vec<IpAddr> {
    let mut found: BTreeSet<IpAddr> = BTreeSet::from([Ipv4Addr::LOCALHOST.into()]);
    // IPv6: 32 hex digits, index, prefix length, scope, flags, name.
    for line in std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().lines() {
        if let Some(bits) = line.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok()) {
            found.insert(IpAddr::V6(bits.into()));
        }
    }
    // IPv4: the line after an address in the table of local routes says that it is one.
    let table = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let mut before = "";
    for line in table.lines() {
        if line.trim_start().starts_with("/32 host LOCAL")
            && let Some(address) = before.trim_start().strip_prefix("|-- ").and_then(|text| text.parse().ok())
        {
            found.insert(address);
        }
        before = line;
    }
    found.into_iter().collect()
}

fn facts(settings: &Settings, canonical_addresses: Vec<(String, u16)>) -> Process {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let cache = settings.cache_size_mb.unwrap_or(100.0);
    Process {
        argv: std::env::args().collect(),
        pid: std::process::id(),
        cache_size_mb: cache,
        time_started: now(),
        version: VERSION.into(),
        hostname: hostname.trim().into(),
        canonical_addresses,
        cluster_port: settings.cluster_port,
        driver_port: settings.driver_port,
        http_port: settings.http_port,
    }
}
