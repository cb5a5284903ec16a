//! TLS for the three ports. Between servers a certificate of the CA is all that counts: names are not checked,
//! as with the real server, because members are known by where they are dialled.

use std::{io, path::Path, sync::Arc};

use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use crate::settings::TlsFiles;

/// The TLS of a cluster port, both ways.
#[derive(Clone)]
pub struct ClusterTls {
    /// For links others open.
    pub server: Arc<ServerConfig>,
    /// For links of ours.
    pub client: Arc<ClientConfig>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let named = |why: &dyn std::fmt::Display| io::Error::other(format!("{}: {why}", path.display()));
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|why| named(&why))?.collect();
    let found = found.map_err(|why| named(&why))?;
    if found.is_empty() {
        return Err(named(&"holds no certificate"));
    }
    Ok(found)
}

fn key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|why| io::Error::other(format!("{}: {why}", path.display())))
}

fn roots(path: &Path) -> io::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|why| io::Error::other(format!("{}: {why}", path.display())))?;
    }
    Ok(Arc::new(roots))
}

/// TLS for drivers or browsers; asks for a client certificate if the files name a CA.
///
/// # Errors
/// A file is missing or is not what it should be.
pub fn server(files: &TlsFiles) -> io::Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match &files.ca {
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider());
            builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_single_cert(certificates(&files.cert)?, key(&files.key)?).map_err(io::Error::other)?;
    // A resumed session would skip the client's certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Mutual TLS between servers.
///
/// # Errors
/// A file is missing or is not what it should be.
pub fn cluster(files: &TlsFiles) -> io::Result<ClusterTls> {
    let Some(ca) = &files.ca else {
        return Err(io::Error::other(
            "--cluster-tls-key, --cluster-tls-cert, and --cluster-tls-ca must be specified together.",
        ));
    };
    let chain = WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider()).build();
    let verifier = Arc::new(AnyName(chain.map_err(io::Error::other)?));
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(certificates(&files.cert)?, key(&files.key)?)
        .map_err(io::Error::other)?;
    client.resumption = Resumption::disabled();
    Ok(ClusterTls { server: server(files)?, client: Arc::new(client) })
}

/// Checks everything about a server's certificate but its name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: the chain is good.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
