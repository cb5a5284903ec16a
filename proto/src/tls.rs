//! TLS both ends share: an identity that can be swapped while running, and client configurations.
//!
//! TLS 1.3 only, ring only, no resumption anywhere: a resumed session skips the client certificate, so a
//! revoked agent would get back in.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why TLS material could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The private key does not parse, or does not belong to the certificate.
    #[error("load private key and certificate")]
    Key(#[source] rustls::Error),
    /// A certificate of the trust bundle does not parse.
    #[error("load trust bundle")]
    Trust(#[source] rustls::Error),
    /// The platform's TLS library refused the settings.
    #[error("configure TLS")]
    Config(#[source] rustls::Error),
}

/// The cryptography of this project: ring, never the process-wide default.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// An identity that live configurations follow: swapping it affects the next handshake.
#[derive(Debug)]
pub struct IdentitySlot(ArcSwap<CertifiedKey>);

impl IdentitySlot {
    /// A slot holding this chain (leaf first) and its key.
    ///
    /// # Errors
    /// [`TlsError::Key`] if the key does not parse or does not match the leaf.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(certified(chain, key)?)))
    }

    /// Replaces the identity. Connections already open keep the old one.
    ///
    /// # Errors
    /// [`TlsError::Key`]; the old identity stays.
    pub fn swap(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        self.0.store(Arc::new(certified(chain, key)?));
        Ok(())
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsError> {
    CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Key)
}

impl ResolvesClientCert for IdentitySlot {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for IdentitySlot {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Trust in exactly these certificates (DER).
///
/// # Errors
/// [`TlsError::Trust`] if one of them does not parse.
pub fn roots(bundle: &[CertificateDer<'_>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in bundle {
        roots.add(certificate.clone().into_owned()).map_err(TlsError::Trust)?;
    }
    Ok(roots)
}

/// A client that trusts `bundle` and shows `identity`, if it has one. ALPN is `h2`.
///
/// # Errors
/// [`TlsError`] if the bundle does not parse.
pub fn client(
    bundle: &[CertificateDer<'_>],
    identity: Option<Arc<IdentitySlot>>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Config)?
        .with_root_certificates(roots(bundle)?);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
