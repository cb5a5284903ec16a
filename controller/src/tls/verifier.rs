//! Whom a handshake lets in: signed by the fleet's authority, named in this fleet, not withdrawn.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use fleet_model::FleetName;
use fleet_proto::tls::{TlsError, provider, roots};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::peer::Peer;
use crate::enrol::revoke::Revoked;

/// Why there is no verifier.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// The trust bundle does not parse.
    #[error(transparent)]
    Trust(#[from] TlsError),
    /// The library refuses it.
    #[error("build the client verifier")]
    Build(#[source] VerifierBuilderError),
}

/// Verifies client certificates; the trust bundle can be swapped while running.
pub struct Verifier {
    fleet: FleetName,
    authority: ArcSwap<Authority>,
    revoked: Revoked,
}

struct Authority(Arc<dyn ClientCertVerifier>);

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Lets in whom `bundle` signed and `revoked` does not hold.
    ///
    /// # Errors
    /// [`VerifierError`] if the bundle cannot be used.
    pub fn new(
        fleet: FleetName,
        bundle: &[CertificateDer<'_>],
        revoked: Revoked,
    ) -> Result<Self, VerifierError> {
        Ok(Self { fleet, authority: ArcSwap::from_pointee(authority(bundle)?), revoked })
    }

    /// Trusts `bundle` from the next handshake on.
    ///
    /// # Errors
    /// [`VerifierError`] if the bundle cannot be used; the old one stays.
    pub fn trust(&self, bundle: &[CertificateDer<'_>]) -> Result<(), VerifierError> {
        self.authority.store(Arc::new(authority(bundle)?));
        Ok(())
    }
}

fn authority(bundle: &[CertificateDer<'_>]) -> Result<Authority, VerifierError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(bundle)?), provider())
        .build()
        .map_err(VerifierError::Build)?;
    Ok(Authority(verifier))
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Our clients have one certificate each and need no hint.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.authority.load().0.verify_client_cert(end_entity, intermediates, now)?;
        let peer = Peer::read(&self.fleet, end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))?;
        if self.revoked.contains(&peer.serial) {
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authority.load().0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.load().0.supported_verify_schemes()
    }
}
