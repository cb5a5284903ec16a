//! From a listening socket to the router: TLS, limits, and an orderly end.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::guests::{Guest, Guests};

/// For the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request; also how long an idle connection is kept.
const HEAD: Duration = Duration::from_secs(30);
/// After so long even an open event stream begins anew, so that no dead one is kept for ever.
const LIFE: Duration = Duration::from_secs(60 * 60);
/// How long requests under way may take once this program shall stop.
const DRAIN: Duration = Duration::from_millis(1500);
/// Without file descriptors, for one, accepting fails at once and for a while.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds something else.
    #[error("read {what} from {path}", path = path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key are none, or not of each other.
    #[error("use the certificate")]
    Certificate(#[source] rustls::Error),
}

/// Reads certificate chain and key.
///
/// # Errors
/// When either is missing, unreadable, or not of the other.
pub fn tls(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let file = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { what, path, source }
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(file("the certificate", certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(file("the key", key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(TlsError::Certificate)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves until stopped; returns once every connection is closed, at the latest after a short grace.
pub async fn serve(listener: TcpListener, tls: ServerConfig, router: Router, stop: CancellationToken) {
    let tls = TlsAcceptor::from(Arc::new(tls));
    let guests = Arc::new(Guests::default());
    let tasks = TaskTracker::new();
    // Cancelled when the grace is over.
    let abort = CancellationToken::new();
    loop {
        // Accepted whoever it is: only then it can be told whether there is a place for them. Both are cancel-safe.
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Some(guest) = guests.admit(from) else { continue };
        let one = connection(stream, guest, tls.clone(), router.clone(), stop.clone());
        let abort = abort.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = one => (),
                () = abort.cancelled() => (),
            }
        });
    }
    drop(listener);
    tasks.close();
    if timeout(DRAIN, tasks.wait()).await.is_err() {
        abort.cancel();
        tasks.wait().await;
    }
}

/// One connection, from its handshake to its end. What goes wrong with it is its peer's affair.
async fn connection(
    stream: TcpStream,
    guest: Arc<Guest>,
    tls: TlsAcceptor,
    router: Router,
    stop: CancellationToken,
) {
    // Events are small, and somebody watches.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::select! {
        done = timeout(HANDSHAKE, tls.accept(stream)) => done,
        // Nothing was asked yet.
        () = stop.cancelled() => return,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return,
    };
    // Browsers open connections ahead of need. One that never carried a request is not waited for.
    let used = AtomicBool::new(false);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        used.store(true, Ordering::Relaxed);
        // For what takes more than a connection.
        request.extensions_mut().insert(guest.clone());
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let mut old = pin!(sleep(LIFE));
    let mut stopping = false;
    loop {
        // Polling a connection again goes on where it was.
        tokio::select! {
            result = served.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                if !used.load(Ordering::Relaxed) {
                    return;
                }
                stopping = true;
                served.as_mut().graceful_shutdown();
            }
            () = old.as_mut() => return,
        }
    }
}
