use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::McpError;

/// Trusts the public authorities and, if given, those in `extra_ca_pem`.
pub(crate) fn config(extra_ca_pem: Option<&[u8]>) -> Result<ClientConfig, McpError> {
    let wrong =
        |what: &str, source: crate::error::Source| McpError::Settings { what: what.to_owned(), source };
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(pem) = extra_ca_pem {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| wrong("the extra CA is not PEM", error.into()))?;
            roots.add(certificate).map_err(|error| wrong("the extra CA is not usable", error.into()))?;
        }
        if roots.len() == before {
            return Err(wrong("the extra CA", "no certificate in it".into()));
        }
    }
    // The provider is named, never taken from the process: who links us may link others.
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("TLS versions", error.into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
