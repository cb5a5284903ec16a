//! How many full mutual TLS 1.3 handshakes this machine does, client and server sharing it: the floor under
//! every figure about sessions.

use std::{sync::Arc, time::Duration};

use fleet_proto::tls::{self, IdentitySlot};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How long to measure.
const SPAN: Duration = Duration::from_secs(4);
/// Handshakes under way at once.
const AT_ONCE: usize = 32;

/// Handshakes a second.
pub async fn rate() -> anyhow::Result<f64> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let leaf = |name: &str| {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &ca)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        anyhow::Ok(Arc::new(IdentitySlot::new(vec![certificate.der().clone()], key)?))
    };
    let bundle = [ca.der().clone()];
    let roots = Arc::new(tls::roots(&bundle)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, tls::provider()).build()?;
    let mut server = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(leaf("server")?);
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let connector = TlsConnector::from(Arc::new(tls::client(&bundle, Some(leaf("client")?))?));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((plain, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            open.spawn(async move {
                // One byte back: in TLS 1.3 only the server knows when both sides are done.
                if let Ok(mut stream) = acceptor.accept(plain).await {
                    let _ = stream.write_all(b"!").await;
                    let _ = stream.flush().await;
                }
            });
            while open.try_join_next().is_some() {}
        }
        Ok(0)
    });
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        let connector = connector.clone();
        clients.spawn(async move {
            let mut done = 0_u32;
            while started.elapsed() < SPAN {
                let plain = TcpStream::connect(at).await?;
                plain.set_nodelay(true)?;
                let mut stream = connector.connect(ServerName::try_from("server")?, plain).await?;
                stream.read_u8().await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(client) = clients.join_next().await {
        done += client??;
    }
    drop::<JoinSet<anyhow::Result<u32>>>(tasks);
    Ok(f64::from(done) / started.elapsed().as_secs_f64())
}
