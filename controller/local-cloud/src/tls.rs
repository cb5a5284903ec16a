//! The cloud's own authority and certificate.
//!
//! The authority signs one certificate and its key is then forgotten; certificate and key are kept, so that
//! clients may keep `ca.pem`.

use std::{path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{durable, error::CloudError, hosts};

/// Years the authority and its certificate are good for: longer than any local cloud lives.
const FIRST_YEAR: i32 = 2020;
const LAST_YEAR: i32 = 2060;

/// What the listener uses; made on first use, then kept in `dir`.
pub(crate) fn server(dir: &Path) -> Result<ServerConfig, CloudError> {
    let (ca, own) = (dir.join("ca.pem"), dir.join("tls.pem"));
    let kept = std::fs::read(&own).ok().filter(|_| ca.exists());
    if let Some(config) = kept.and_then(|pem| config(&pem).ok()) {
        return Ok(config);
    }
    let (ca_pem, own_pem) = generate().map_err(CloudError::certificate)?;
    // The private part first: a crash in between leaves a pair that is made anew.
    let _ = std::fs::remove_file(&ca);
    durable::replace(&own, own_pem.as_bytes()).map_err(CloudError::file("write", own))?;
    durable::replace_public(&ca, ca_pem.as_bytes()).map_err(CloudError::file("write", ca))?;
    config(own_pem.as_bytes())
}

/// A client that trusts this authority only.
pub(crate) fn client(ca_pem: &[u8]) -> Result<ClientConfig, CloudError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        let certificate = certificate.map_err(CloudError::certificate)?;
        roots.add(certificate).map_err(CloudError::certificate)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(CloudError::certificate)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn config(pem: &[u8]) -> Result<ServerConfig, CloudError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(CloudError::certificate)?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(CloudError::certificate)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(CloudError::certificate)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(CloudError::certificate)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The authority's certificate, and our certificate followed by its key.
fn generate() -> Result<(String, String), rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "fleet local cloud authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.not_before = rcgen::date_time_ymd(FIRST_YEAR, 1, 1);
    authority.not_after = rcgen::date_time_ymd(LAST_YEAR, 1, 1);
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;

    let mut names = vec!["localhost".to_owned()];
    // For clients that keep the names of the real service.
    names.extend(hosts::names().map(str::to_owned));
    let mut own = CertificateParams::new(names)?;
    own.distinguished_name.push(DnType::CommonName, "fleet local cloud");
    own.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    own.use_authority_key_identifier_extension = true;
    own.not_before = authority.not_before;
    own.not_after = authority.not_after;
    let own_key = KeyPair::generate()?;
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let certificate = own.signed_by(&own_key, &issuer)?;
    Ok((authority_certificate.pem(), certificate.pem() + &own_key.serialize_pem()))
}
