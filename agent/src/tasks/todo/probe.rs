//! A real request to the application: https on this node, by the services' authority.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fleet_model::chain;
use fleet_proto::tls;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// How long the whole request may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Most of an answer that is read.
const LARGEST: u64 = 64 << 10;
/// Of HTTP/1.0, whose answers end with their connection and come in no pieces.
const REQUEST: &[u8] = b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n";

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It serves, and the database is there.
    Serves,
    /// It serves its page and says that the database is away, and why.
    NoDatabase(String),
    /// Nobody answers.
    Silent(String),
    /// Somebody answers who is not this node's application.
    Foreign(String),
}

/// Asks the application how it is.
#[async_trait]
pub(super) trait Probe: Send + Sync + fmt::Debug {
    /// On this port, showing a certificate one of `trust` has signed.
    async fn ask(&self, port: u16, trust: Vec<CertificateDer<'static>>) -> Health;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Https;

#[async_trait]
impl Probe for Https {
    async fn ask(&self, port: u16, trust: Vec<CertificateDer<'static>>) -> Health {
        match tokio::time::timeout(ANSWER, ask(port, &trust)).await {
            Ok(Ok(answer)) => judge(&answer),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Health::Foreign(chain(&error)),
            Ok(Err(error)) => Health::Silent(chain(&error)),
            Err(_) => Health::Silent(format!("no answer within {} s", ANSWER.as_secs())),
        }
    }
}

async fn ask(port: u16, trust: &[CertificateDer<'static>]) -> io::Result<Vec<u8>> {
    let config = config(trust).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let plain = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, plain).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    match stream.take(LARGEST).read_to_end(&mut answer).await {
        // Whether it says farewell is of no interest once it has answered.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(answer),
    }
}

fn judge(answer: &[u8]) -> Health {
    #[derive(Deserialize)]
    struct Body {
        database: String,
        #[serde(default)]
        reason: String,
    }
    let text = String::from_utf8_lossy(answer);
    let status = text.split_whitespace().nth(1).unwrap_or_default();
    let body = text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str::<Body>(body).ok());
    match (text.starts_with("HTTP/1."), status, body) {
        (true, "200", Some(Body { database, .. })) if database == "ok" => Health::Serves,
        (true, "503", Some(Body { reason, .. })) => Health::NoDatabase(reason),
        _ => {
            let line: String = text.lines().next().unwrap_or("nothing").chars().take(80).collect();
            Health::Foreign(format!("it says `{}`", line.escape_debug()))
        }
    }
}

/// TLS towards this node's own services, whose certificates the fleet's authority has signed.
pub(crate) fn config(trust: &[CertificateDer<'static>]) -> Result<ClientConfig, tls::TlsError> {
    let roots = Arc::new(tls::roots(trust)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, tls::provider())
        .build()
        .map_err(|error| tls::TlsError::Trust(Error::General(error.to_string())))?;
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls::TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ByAuthority(verifier)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Checks everything but the name: the certificate is for the node's names, and the request goes to loopback, which
/// only this node answers.
#[derive(Debug)]
struct ByAuthority(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ByAuthority {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(leaf, between, name, ocsp, now) {
            // Names are looked at last, when all else is fine.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("ca")
    }

    /// Answers one request, with a certificate for `n1`.
    async fn serve(by: &CertifiedIssuer<'static, KeyPair>, answer: &'static str) -> u16 {
        let key = KeyPair::generate().expect("key");
        let leaf =
            CertificateParams::new(vec!["n1".into()]).expect("name").signed_by(&key, by).expect("sign");
        let config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .expect("certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move {
            let (plain, _) = listener.accept().await.expect("accept");
            if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(plain).await {
                let mut asked = [0; REQUEST.len()];
                stream.read_exact(&mut asked).await.expect("request");
                assert_eq!(asked, REQUEST);
                stream.write_all(answer.as_bytes()).await.expect("answer");
                // Closed without a farewell, as some servers do.
            }
        });
        port
    }

    const OK: &str =
        "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"database\":\"ok\",\"node\":\"n1\"}";

    #[tokio::test]
    async fn answers_are_understood() {
        let ca = authority();
        let check = async |answer, expected: Health| {
            let port = serve(&ca, answer).await;
            assert_eq!(Https.ask(port, vec![ca.der().clone()]).await, expected);
        };
        check(OK, Health::Serves).await;
        let away = "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"database\":\"away\",\"reason\":\"no-table\"}";
        check(away, Health::NoDatabase("no-table".into())).await;
        check("HTTP/1.0 404 Not Found\r\n\r\n", Health::Foreign("it says `HTTP/1.0 404 Not Found`".into()))
            .await;
        check("HTTP/1.0 200 OK\r\n\r\nhello", Health::Foreign("it says `HTTP/1.0 200 OK`".into())).await;
        check("", Health::Foreign("it says `nothing`".into())).await;
    }

    #[tokio::test]
    async fn a_certificate_of_somebody_else_is_foreign() {
        let (ca, other) = (authority(), authority());
        let port = serve(&other, OK).await;
        let health = Https.ask(port, vec![ca.der().clone()]).await;
        assert!(matches!(&health, Health::Foreign(_)), "{health:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        drop(listener);
        let ca = authority();
        assert!(matches!(Https.ask(port, vec![ca.der().clone()]).await, Health::Silent(_)));
    }
}
