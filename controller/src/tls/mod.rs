//! Connections: our own accept loop, because peers must be verified, revoked and cut in ways no ready-made
//! server offers.
//!
//! [`listen`] accepts, shakes hands and serves HTTP/2; [`verifier`] lets in whom the fleet's authority signed and
//! nobody withdrew; [`peer`] is who that turned out to be. TLS 1.3 only, and no resumption anywhere: a resumed
//! session skips the client's certificate, so a revoked agent would get back in.

pub mod listen;
pub mod peer;
pub mod stream;
pub mod verifier;

use std::sync::Arc;

use fleet_model::Clock;
use fleet_proto::tls::{IdentitySlot, provider};
use rustls::{
    ServerConfig,
    pki_types::UnixTime,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

/// Server side of TLS: shows `identity`, asks for a client certificate if there is a verifier.
///
/// # Errors
/// [`rustls::Error`] if the library refuses TLS 1.3.
pub fn server(
    identity: Arc<IdentitySlot>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    clock: Arc<dyn Clock>,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_details(provider(), Arc::new(Time(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Shown(identity)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Certificates are judged by the same clock as everything else.
#[derive(Debug)]
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.now().as_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs)))
    }
}

/// The identity slot as rustls wants it, shared with whoever renews it.
#[derive(Debug)]
struct Shown(Arc<IdentitySlot>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        ResolvesServerCert::resolve(&*self.0, hello)
    }
}
