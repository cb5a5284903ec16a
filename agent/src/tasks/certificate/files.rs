//! The three files of the certificate: what is wrong with them, and how they are written.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleet_model::Timestamp;
use fleet_proto::{tls, v1};
use fleet_task::{Node, TaskError, atomic};
use rustls::{
    client::{WebPkiServerVerifier, danger::ServerCertVerifier, verify_server_name},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use crate::identity::{IdentityError, Key};

const FOLDER: &str = "/var/lib/fleet-agent/service";
/// The services' private key: PKCS#8, PEM.
pub(crate) const KEY: &str = "/var/lib/fleet-agent/service/key.pem";
/// Their certificate with what leads to the fleet's authority, leaf first, PEM.
pub(crate) const CERTIFICATE: &str = "/var/lib/fleet-agent/service/cert.pem";
/// Whom they trust, PEM.
pub(crate) const CA: &str = "/var/lib/fleet-agent/service/ca.pem";
/// Line length of PEM (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// Names and addresses a certificate is to hold, at least one.
pub(super) struct Names(Vec<(String, ServerName<'static>)>);

impl Names {
    pub(super) fn parse(names: &[String]) -> Result<Self, TaskError> {
        let bad = |why: String| TaskError::Refused { why, next: "correct the plan".into() };
        if names.is_empty() {
            return Err(bad("a certificate without a name was asked for".into()));
        }
        let parse = |name: &String| match ServerName::try_from(name.clone()) {
            Ok(parsed) => Ok((name.clone(), parsed)),
            Err(_) => Err(bad(format!("`{name}` is neither a host name nor an address"))),
        };
        Ok(Self(names.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// Whether these are the same, in whatever order.
    pub(super) fn are(&self, names: &[String]) -> bool {
        self.0.iter().all(|(name, _)| names.contains(name))
            && names.iter().all(|name| self.0.iter().any(|(mine, _)| mine == name))
    }
}

/// Key, certificate and trust as they are on disk.
pub(super) struct Pair {
    key: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    trust: Option<Vec<u8>>,
    /// Whether somebody else may read the key.
    open: bool,
}

impl Pair {
    pub(super) fn read(node: &Node) -> Result<Self, TaskError> {
        let open = match fs::metadata(node.path(KEY)) {
            Ok(meta) => meta.permissions().mode() & 0o077 != 0,
            Err(_) => false,
        };
        Ok(Self { key: node.read(KEY)?, certificate: node.read(CERTIFICATE)?, trust: node.read(CA)?, open })
    }

    /// What the controller answered, with the node's own key: an error unless services can use it.
    pub(super) fn answered(
        answer: &v1::ServiceCredentials,
        node: &Node,
        names: &Names,
        now: Timestamp,
    ) -> Result<Self, TaskError> {
        let pem = |list: &[Vec<u8>]| list.iter().map(|der| pem_of("CERTIFICATE", der)).collect::<String>();
        let pair = Self {
            key: node.read(KEY)?,
            certificate: Some(pem(&answer.certificate_chain).into_bytes()),
            trust: Some(pem(&answer.trust_bundle).into_bytes()),
            open: false,
        };
        let mut faults = pair.faults(names);
        if faults.is_empty()
            && let Err(why) = verify(answer, names, now)
        {
            faults.push(why);
        }
        if Timestamp::from_millis(answer.not_after_ms) <= now {
            faults.push("it has run out already".into());
        }
        if faults.is_empty() {
            return Ok(pair);
        }
        Err(TaskError::Refused {
            why: format!("the certificate the controller gave cannot be used: {}", faults.join("; ")),
            next: "compare the clocks of node and controller; the task is tried again by itself".into(),
        })
    }

    pub(super) fn is_there(&self) -> bool {
        self.key.is_some() && self.certificate.is_some() && self.trust.is_some()
    }

    /// What keeps the services from using it.
    pub(super) fn faults(&self, names: &Names) -> Vec<String> {
        let mut faults = Vec::new();
        let files = [(KEY, &self.key), (CERTIFICATE, &self.certificate), (CA, &self.trust)];
        faults.extend(
            files.iter().filter(|(_, bytes)| bytes.is_none()).map(|(path, _)| format!("{path} is missing")),
        );
        if self.open {
            faults.push(format!("{KEY} can be read by others"));
        }
        let (Some(key), Some(certificate), Some(trust)) = (&self.key, &self.certificate, &self.trust) else {
            return faults;
        };
        let Ok(key) = PrivateKeyDer::from_pem_slice(key) else {
            faults.push(format!("{KEY} is damaged"));
            return faults;
        };
        let (chain, trust) = (certificates(certificate), certificates(trust));
        if trust.is_empty() || tls::roots(&trust).is_err() {
            faults.push(format!("{CA} is damaged"));
        }
        let Some(Ok(leaf)) = chain.first().map(ParsedCertificate::try_from) else {
            faults.push(format!("{CERTIFICATE} is damaged"));
            return faults;
        };
        let missing = names.0.iter().filter(|(_, name)| verify_server_name(&leaf, name).is_err());
        faults.extend(missing.map(|(name, _)| format!("the certificate is not for `{name}`")));
        drop(leaf);
        if tls::IdentitySlot::new(chain, key).is_err() {
            faults.push("the certificate is not for the key beside it".into());
        }
        faults
    }

    /// Of what the controller gave.
    pub(super) fn digest(&self) -> String {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for part in [&self.certificate, &self.trust] {
            context.update(part.as_deref().unwrap_or_default());
            context.update(&[0]);
        }
        context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Puts certificate and trust in place; the key is there.
    pub(super) fn write(&self, node: &Node) -> Result<(), TaskError> {
        for (path, bytes) in [(CA, &self.trust), (CERTIFICATE, &self.certificate)] {
            node.write(path, bytes.as_deref().unwrap_or_default(), 0o600)?;
        }
        Ok(())
    }
}

/// The node's key for its services, made if there is none that works, and shut.
pub(super) fn key(node: &Node) -> Result<Key, TaskError> {
    let folder = node.path(FOLDER);
    atomic::make_folder(&folder)?;
    atomic::give(&folder, None, 0o700)?;
    let path = node.path(KEY);
    if let Err(IdentityError::Damaged { why, .. }) = Key::open(path.clone()) {
        // Nothing but the certificate hangs on it, and that is asked for anew.
        tracing::warn!(%why, "the services' key is damaged; making another");
        atomic::remove(&path)?;
    }
    let key = Key::open_or_make(path.clone()).map_err(|error| refuse(&error))?;
    atomic::give(&path, None, 0o600)?;
    Ok(key)
}

pub(super) fn refuse(error: &IdentityError) -> TaskError {
    TaskError::Refused { why: fleet_model::chain(error), next: format!("look at {FOLDER} on the node") }
}

/// As a peer of the fleet would check it.
fn verify(answer: &v1::ServiceCredentials, names: &Names, now: Timestamp) -> Result<(), String> {
    let der = |list: &[Vec<u8>]| list.iter().cloned().map(CertificateDer::from).collect::<Vec<_>>();
    let Some((_, name)) = names.0.first() else { return Err("it is for nobody".into()) };
    let (chain, trust) = (der(&answer.certificate_chain), der(&answer.trust_bundle));
    check(&chain, &trust, name, now).map_err(|error| error.to_string())
}

fn check(
    chain: &[CertificateDer<'static>],
    trust: &[CertificateDer<'static>],
    name: &ServerName<'_>,
    now: Timestamp,
) -> Result<(), rustls::Error> {
    let general = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
    let roots = tls::roots(trust).map_err(|error| general(&error))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .build()
        .map_err(|error| general(&error))?;
    let [leaf, between @ ..] = chain else { return Err(general(&"it is empty")) };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(0)));
    verifier.verify_server_cert(leaf, between, name, &[], now).map(drop)
}

/// Whether this certificate was good once and is not any more: whoever shows it is let in nowhere. Both are PEM.
pub(crate) fn ran_out(certificate: &[u8], trust: &[u8], now: Timestamp) -> bool {
    use rustls::{
        CertificateError::{Expired, ExpiredContext},
        Error::InvalidCertificate,
    };
    // Looked at only once everything else is well.
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let result = check(&certificates(certificate), &certificates(trust), &name, now);
    matches!(result, Err(InvalidCertificate(Expired | ExpiredContext { .. })))
}

/// Certificates of a PEM file, up to the first that is damaged.
pub(crate) fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).map_while(Result::ok).collect()
}

fn pem_of(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(PEM_LINE).map(|at| &text[at..(at + PEM_LINE).min(text.len())]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
