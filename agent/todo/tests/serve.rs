//! A whole server on loopback: TLS, an open stream, and an orderly end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use fleet_todo::{
    listen::listen,
    serve::{self, TlsError},
};
use futures::{StreamExt, stream};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{self, Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// Far longer than anything here takes, and shorter than the server keeps a connection that nobody ends.
const SOON: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    client: TlsConnector,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn start(router: Router) -> Server {
    let folder = tempfile::tempdir().expect("folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("writes");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
    let tls = serve::tls(&cert, &key).expect("reads");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("listens");
    let address = listener.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve::serve(listener, tls, router, stop.clone()));
    Server { address, client: TlsConnector::from(Arc::new(client)), stop, task }
}

impl Server {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        self.client.connect(name, stream).await.expect("shakes hands")
    }

    async fn ask(&self, path: &str) -> TlsStream<TcpStream> {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        stream
    }
}

/// Reads until this has come.
async fn hear(stream: &mut TlsStream<TcpStream>, wanted: &str) {
    let mut heard = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&heard).contains(wanted) {
        let n = timeout(SOON, stream.read(&mut buffer)).await.expect("in time").expect("reads");
        assert_ne!(n, 0, "ended before {wanted}: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&buffer[..n]);
    }
}

#[tokio::test]
async fn requests_under_way_are_finished_and_endless_ones_are_cut() {
    let arrived = CancellationToken::new();
    let go_on = CancellationToken::new();
    let (here, there) = (arrived.clone(), go_on.clone());
    let slow = move || async move {
        here.cancel();
        there.cancelled().await;
        "done"
    };
    let endless = async || {
        Body::from_stream(stream::iter(["first"]).map(Ok::<_, std::io::Error>).chain(stream::pending()))
    };
    let server = start(Router::new().route("/slow", get(slow)).route("/endless", get(endless)));
    let idle = server.connect().await;
    let mut stream = server.ask("/endless").await;
    hear(&mut stream, "first").await;
    let mut request = server.ask("/slow").await;
    timeout(SOON, arrived.cancelled()).await.expect("arrives");

    server.stop.cancel();
    tokio::task::yield_now().await;
    go_on.cancel();
    hear(&mut request, "done").await;
    timeout(SOON, server.task).await.expect("ends").expect("well");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
    drop((idle, stream));
}

#[tokio::test]
async fn connections_nobody_waits_on_do_not_hold_up_the_end() {
    let server = start(Router::new().route("/", get(async || "hello")));
    let silent = TcpStream::connect(server.address).await.expect("connects");
    let idle = server.connect().await;
    let mut half = server.connect().await;
    half.write_all(b"GET / HT").await.expect("writes");
    let mut used = server.ask("/").await;
    hear(&mut used, "hello").await;
    // From here on time passes only where somebody waits for it, and nobody does.
    time::pause();
    let began = Instant::now();
    server.stop.cancel();
    timeout(SOON, server.task).await.expect("ends").expect("well");
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop((silent, idle, half, used));
}

#[tokio::test]
async fn who_speaks_no_tls_hinders_nobody() {
    let server = start(Router::new().route("/", get(async || "hello")));
    let mut plain = TcpStream::connect(server.address).await.expect("connects");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("writes");
    let mut stream = server.ask("/").await;
    hear(&mut stream, "hello").await;
    server.stop.cancel();
    timeout(SOON, server.task).await.expect("ends").expect("well");
}

#[test]
fn certificates_that_do_not_serve() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name);
    let make = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (one, other) = (make(), make());
    std::fs::write(path("cert"), one.cert.pem()).expect("writes");
    std::fs::write(path("key"), one.signing_key.serialize_pem()).expect("writes");
    std::fs::write(path("other"), other.signing_key.serialize_pem()).expect("writes");
    std::fs::write(path("junk"), "junk").expect("writes");
    assert!(serve::tls(&path("cert"), &path("key")).is_ok());
    for (cert, key) in [("none", "key"), ("cert", "none"), ("cert", "junk")] {
        let error = serve::tls(&path(cert), &path(key)).expect_err("is no pair");
        assert!(matches!(error, TlsError::File { .. }), "{cert} {key}: {error:?}");
    }
    for (cert, key) in [("cert", "other"), ("junk", "key")] {
        let error = serve::tls(&path(cert), &path(key)).expect_err("is no pair");
        assert!(matches!(error, TlsError::Certificate(_)), "{cert} {key}: {error:?}");
    }
}
