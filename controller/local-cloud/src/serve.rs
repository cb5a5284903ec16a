//! The process: lock, certificate, listener, connections.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use fleet_model::{Clock, SystemClock};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::{self, Access},
    api::Service,
    backing::Backing,
    driver::Driver,
    error::CloudError,
    proxy,
    settings::Settings,
    state::State,
    time, tls,
};

/// Connections at once; the rest waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take for its handshake, and for the head of a request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// First byte of a TLS handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// Pause after an accept that failed, so that running out of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the cloud in `settings.dir` until `stop` is cancelled. `ready` is told how to reach it once it can be
/// reached; the same is in `access.json` by then.
///
/// # Errors
/// Another process serves the directory, or it, its files or the port cannot be used, or the backing cannot
/// take up what was running.
///
/// # Cancel safety
/// Cancel `stop` rather than dropping this: dropping it leaves operations half done. They are resumed by the
/// next call.
pub async fn serve(
    settings: Settings,
    backing: Arc<dyn Backing>,
    stop: CancellationToken,
    ready: impl FnOnce(&Access),
) -> Result<(), CloudError> {
    let dir = settings.dir.clone();
    make_dir(&dir)?;
    let _lock = access::lock(&dir).await?;
    let tls = TlsAcceptor::from(Arc::new(tls::server(&dir)?));
    // The directory's own path may be relative; clients run elsewhere.
    let dir = dir.canonicalize().map_err(CloudError::file("find", &dir))?;
    let file = dir.join("state.json");
    let mut rng = StdRng::from_os_rng();
    let state = load(&file, &settings, &mut rng)?;
    let running = backing.adopt(&state.world()).await.map_err(CloudError::Backing)?;

    let earlier = Access::load(&dir)?;
    let (listener, port) = listen(settings.port, earlier.as_ref().and_then(Access::port)).await?;
    let (username, password) =
        earlier.map_or_else(access::credentials, |earlier| (earlier.username, earlier.password));
    let access = Access {
        endpoint: format!("https://127.0.0.1:{port}"),
        ca_file: dir.join("ca.pem"),
        username,
        password,
        backing: backing.kind().to_owned(),
        host_address: backing.host_address(),
        pid: std::process::id(),
    };
    access.store(&dir)?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (calls, queue) = Driver::queue();
    let service = Arc::new(Service::new(
        calls,
        access.username.clone(),
        access.password.clone(),
        state.organisation.clone(),
        clock.clone(),
        settings.region.clone(),
    ));
    let drain = settings.drain;
    let mut driver = Driver::new(state, file, backing, settings, clock, rng, access.username.clone());
    driver.adopt(&running);
    // The driver outlives the connections, so that calls under way get their answers.
    let driver_stop = CancellationToken::new();
    let driving = tokio::spawn(driver.run(queue, driver_stop.clone()));

    let telling = access.host_address.map(|host| tokio::spawn(time::tell(host, stop.clone())));
    tracing::info!(endpoint = access.endpoint, backing = access.backing, "cloud is ready");
    ready(&access);
    accept(listener, tls, service, stop, drain).await;
    driver_stop.cancel();
    if let Err(error) = driving.await {
        tracing::error!(%error, "the cloud's driver failed");
    }
    if let Some(telling) = telling
        && let Err(error) = telling.await
    {
        tracing::error!(%error, "telling servers the time failed");
    }
    tracing::info!("cloud has stopped");
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), CloudError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(CloudError::file("create", dir))
}

fn load(file: &Path, settings: &Settings, rng: &mut StdRng) -> Result<State, CloudError> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| CloudError::Damaged { path: file.to_owned(), source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(State::new(settings.public_ipv4, rng))
        }
        Err(error) => Err(CloudError::file("read", file)(error)),
    }
}

/// Listens on the port asked for; else on the one used before, so that clients find the cloud where it was;
/// else on any.
async fn listen(wanted: Option<u16>, earlier: Option<u16>) -> Result<(TcpListener, u16), CloudError> {
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let listener = match (wanted, earlier) {
        (Some(port), _) => bind(port).await.map_err(|source| CloudError::Listen { port, source })?,
        (None, Some(port)) => match bind(port).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(port, %error, "the earlier port is taken; using another");
                bind(0).await.map_err(|source| CloudError::Listen { port: 0, source })?
            }
        },
        (None, None) => bind(0).await.map_err(|source| CloudError::Listen { port: 0, source })?,
    };
    let port = listener.local_addr().map_err(|source| CloudError::Listen { port: 0, source })?.port();
    Ok((listener, port))
}

/// Accepts until told to stop, then lets calls under way end, within bounds.
async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    service: Arc<Service>,
    stop: CancellationToken,
    drain: Duration,
) {
    let connections = TaskTracker::new();
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let kill = CancellationToken::new();
    loop {
        // Both arms are cancel-safe: a connection that is not accepted stays in the kernel's queue.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = async {
                // Never closed, so a permit always comes.
                let permit = limit.clone().acquire_owned().await.ok();
                (permit, listener.accept().await)
            } => accepted,
        };
        let (permit, stream) = match accepted {
            (permit, Ok((stream, _))) => (permit, stream),
            (_, Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, service, stop, kill) = (tls.clone(), service.clone(), stop.clone(), kill.clone());
        connections.spawn(async move {
            tokio::select! {
                () = kill.cancelled() => {}
                () = converse(stream, tls, service, stop) => {}
            }
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        kill.cancel();
        connections.wait().await;
    }
}

/// Serves one connection to its end: TLS at once, or a proxy's client that asks for a tunnel to this API first.
async fn converse(stream: TcpStream, tls: TlsAcceptor, service: Arc<Service>, stop: CancellationToken) {
    // Without this, small answers wait for the other side's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection is gone before its handshake");
        return;
    }
    let mut first = [0];
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => talk(stream, tls, service, None, stop).await,
        Ok(Ok(1)) => {
            let tunnel = tokio::select! {
                () = stop.cancelled() => None,
                tunnel = proxy::tunnel(stream) => tunnel,
            };
            if let Some((region, stream)) = tunnel {
                talk(stream, tls, service, Some(region), stop).await;
            }
        }
        _ => tracing::debug!("connection ended before it said anything"),
    }
}

/// Serves the API on one stream. `region` is the one a tunnel leads to.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    tls: TlsAcceptor,
    service: Arc<Service>,
    region: Option<&'static str>,
    stop: CancellationToken,
) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await else {
        tracing::debug!("handshake failed or took too long");
        return;
    };
    let answer = service_fn(move |request| {
        let service = service.clone();
        async move { service.serve(request, region).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            // The call under way is answered, then the connection closes.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}
