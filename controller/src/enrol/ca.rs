//! The fleet's certificate authorities, its own and its services': a P-256 key each, names as URI SANs, explicit random
//! serials.
//!
//! Names are the controller's decision: from a CSR only the public key is taken.

use std::{fmt, ops::Range, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use fleet_model::{FleetName, NodeName, Timestamp};
use fleet_store::{Expected, StoreError};
use rand::Rng;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde::{Deserialize, Serialize};

use super::{
    authority::{Authority, Sealed, uri},
    hex,
    services::{ServiceLeaf, Services, ServicesRecord},
    sha256_hex,
};
use crate::{
    records::{RecordError, Records, keys},
    sealing::{Sealing, SealingError, random},
};

/// Certificates begin this long before they are issued: clocks of nodes are a little off.
pub const BACKDATED: Duration = Duration::from_secs(5 * 60);
/// Life of a node's certificate.
pub const NODE_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Life of the controller's own certificate; swapped while running.
pub const SERVER_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Life of an operator's certificate: it lies in a file that nobody renews behind their back.
pub const OPERATOR_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Life of a certificate for a node's services. RethinkDB asks nobody whether one was withdrawn: running out is what
/// shuts a retired node out. Short for that; long enough for a controller that is down over a long weekend: renewed at
/// half, there are always three days left. Each renewal is a restart.
pub const SERVICE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// When the holder of a node's certificate asks for the next, in parts of its life. Spread, so that nodes enrolled
/// together do not renew together.
pub const NODE_RENEWAL: Range<f64> = 0.60..0.72;
/// The same for services.
pub const SERVICE_RENEWAL: Range<f64> = 0.45..0.55;
/// What the sealed keys are sealed for.
const PURPOSE: &str = "ca/authority";
const SERVICES_PURPOSE: &str = "ca/services";

/// Why the authority could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The store failed.
    #[error("certificate authority in the store")]
    Record(#[from] RecordError),
    /// The key cannot be sealed or opened.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// What is stored is no authority.
    #[error("the stored certificate authority is damaged")]
    Damaged,
    /// Making or signing a certificate failed.
    #[error("sign certificate")]
    Sign(#[source] rcgen::Error),
    /// A name that no service may have.
    #[error("`{0}` cannot be a name of a service")]
    Name(String),
    /// The request for a certificate cannot be used.
    #[error("certificate request: {0}")]
    Request(&'static str),
}

/// A certificate just made.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Its serial number.
    pub serial: Serial,
    /// When it runs out.
    pub not_after: Timestamp,
}

/// A certificate's serial number: 16 random bytes, the first one neither zero nor above 127.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    pub(super) fn draw() -> Result<Self, SealingError> {
        let mut bytes = random::<16>()?;
        // DER integers are signed and have no leading zeros: this keeps every serial 16 bytes long.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Ok(Self(bytes))
    }

    pub(super) const fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// From a certificate's raw serial number; ours are always 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From hex, as the store has it.
    pub fn from_hex(text: &str) -> Option<Self> {
        Some(Self(u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?.to_be_bytes()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// A public key taken from a CSR whose signature proved possession of the private one.
#[derive(Debug)]
pub struct RequestedKey {
    key: SubjectPublicKeyInfo,
    hash: String,
}

impl RequestedKey {
    /// Takes the public key out of a PKCS#10 request, and nothing else.
    ///
    /// # Errors
    /// [`CaError::Request`] if it does not parse, is not signed by its own key, or its key is neither P-256 nor
    /// Ed25519.
    pub fn from_csr(der: &[u8]) -> Result<Self, CaError> {
        let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|_| CaError::Request("it does not parse, or its signature is wrong"))?;
        Self::new(&csr.public_key)
    }

    /// Wraps a public key that is known by other means; for tools that make both halves themselves.
    ///
    /// # Errors
    /// [`CaError::Request`] if the key is neither P-256 nor Ed25519.
    pub fn new(key: &impl PublicKeyData) -> Result<Self, CaError> {
        if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519].contains(&key.algorithm()) {
            return Err(CaError::Request("its key is neither P-256 nor Ed25519"));
        }
        let info = key.subject_public_key_info();
        let key = SubjectPublicKeyInfo::from_der(&info)
            .map_err(|_| CaError::Request("its public key does not parse"))?;
        Ok(Self { hash: sha256_hex(&info), key })
    }

    /// SHA-256 of the public key, hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// The authorities as stored.
#[derive(Serialize, Deserialize)]
struct AuthorityRecord {
    #[serde(flatten)]
    own: Sealed,
    /// Lacking in what a controller of before wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    services: Option<ServicesRecord>,
}

/// The fleet's certificate authorities, their keys in memory.
pub struct Ca {
    fleet: FleetName,
    own: Authority,
    services: Services,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

impl Ca {
    /// The authorities of this fleet; made on first use.
    ///
    /// # Errors
    /// [`CaError`] if they cannot be read, opened or made.
    pub async fn open(
        fleet: &FleetName,
        records: &Records,
        sealing: &Sealing,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        let key = keys::authority();
        let services = |since| {
            let sealed = Sealed::make(fleet, "services", SERVICES_PURPOSE, sealing, now)?;
            Ok::<_, CaError>(Some(ServicesRecord { sealed, since }))
        };
        loop {
            let (record, expected) = match records.get::<AuthorityRecord>(&key).await? {
                Some(held) if held.value.services.is_some() => {
                    return Self::load(fleet, &held.value, sealing);
                }
                Some(held) => {
                    let record = AuthorityRecord { services: services(Some(now))?, ..held.value };
                    (record, Expected::Version(held.version))
                }
                None => {
                    let own = Sealed::make(fleet, "fleet", PURPOSE, sealing, now)?;
                    (AuthorityRecord { own, services: services(None)? }, Expected::Absent)
                }
            };
            match records.put(&key, &record, expected).await {
                Ok(_) => return Self::load(fleet, &record, sealing),
                // Somebody made them meanwhile: there is only ever one of each, so read theirs.
                Err(RecordError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn load(fleet: &FleetName, record: &AuthorityRecord, sealing: &Sealing) -> Result<Self, CaError> {
        let ServicesRecord { sealed, since } = record.services.as_ref().ok_or(CaError::Damaged)?;
        Ok(Self {
            fleet: fleet.clone(),
            own: Authority::open(&record.own, PURPOSE, sealing)?,
            services: Services {
                authority: Authority::open(sealed, SERVICES_PURPOSE, sealing)?,
                since: *since,
            },
        })
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// What controllers, agents and operators trust in each other.
    pub fn bundle(&self) -> Vec<CertificateDer<'static>> {
        vec![self.own.certificate.clone()]
    }

    /// The bundle as PEM.
    pub fn bundle_pem(&self) -> String {
        pem("CERTIFICATE", &self.own.certificate)
    }

    /// A certificate for a node, good for proving who it is to the controller and nothing else.
    ///
    /// # Errors
    /// [`CaError`] if signing fails.
    pub fn issue_node(&self, node: &NodeName, key: &RequestedKey, now: Timestamp) -> Result<Leaf, CaError> {
        let sans = vec![self.id("node", node.as_str())?];
        self.own.issue(&key.key, sans, &[ExtendedKeyUsagePurpose::ClientAuth], NODE_LIFE, now)
    }

    /// A certificate for the services of a node, for both ends of their connections, and whom they are to trust. Its
    /// URI is no identity here: it opens no door of the controller.
    ///
    /// # Errors
    /// [`CaError::Name`] if a name cannot be certified, [`CaError`] if signing fails.
    pub fn issue_service(
        &self,
        node: &NodeName,
        names: &[String],
        key: &RequestedKey,
        now: Timestamp,
    ) -> Result<ServiceLeaf, CaError> {
        let mut sans = vec![self.id("service", node.as_str())?];
        for name in names {
            sans.push(self.service_name(name)?);
        }
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let (signs, trust) = self.services.at(&self.own, now);
        Ok(ServiceLeaf { leaf: signs.issue(&key.key, sans, &usages, SERVICE_LIFE, now)?, trust })
    }

    fn service_name(&self, name: &str) -> Result<SanType, CaError> {
        if let Ok(address) = name.parse() {
            return Ok(SanType::IpAddress(address));
        }
        let label = |label: &str| {
            let inner =
                label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            !label.is_empty() && label.len() <= 63 && inner
        };
        // Agents know the controller by its DNS name: whoever could show that one could take its place.
        let controller = name.eq_ignore_ascii_case(&server_name(&self.fleet));
        match name.try_into() {
            Ok(dns) if !controller && name.split('.').all(label) => Ok(SanType::DnsName(dns)),
            _ => Err(CaError::Name(name.to_owned())),
        }
    }

    /// A key and certificate for an operator.
    ///
    /// # Errors
    /// [`CaError`] if making the key or signing fails.
    pub fn issue_operator(&self, name: &str, now: Timestamp) -> Result<(Leaf, KeyPair), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Sign)?;
        let sans = vec![self.id("operator", name)?];
        let leaf = self.own.issue(&key, sans, &[ExtendedKeyUsagePurpose::ClientAuth], OPERATOR_LIFE, now)?;
        Ok((leaf, key))
    }

    /// A key and certificate for a controller: `controller.<fleet>` whatever address it is dialled at.
    ///
    /// # Errors
    /// [`CaError`] if making the key or signing fails.
    pub fn issue_server(&self, id: &str, now: Timestamp) -> Result<(Leaf, KeyPair), CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Sign)?;
        let dns = server_name(&self.fleet).try_into().map_err(CaError::Sign)?;
        let sans = vec![SanType::DnsName(dns), self.id("controller", id)?];
        let leaf = self.own.issue(&key, sans, &[ExtendedKeyUsagePurpose::ServerAuth], SERVER_LIFE, now)?;
        Ok((leaf, key))
    }

    fn id(&self, kind: &str, name: &str) -> Result<SanType, CaError> {
        uri(format!("spiffe://{}/{kind}/{name}", self.fleet))
    }
}

/// The DNS name every controller of this fleet answers to.
pub fn server_name(fleet: &FleetName) -> String {
    format!("controller.{}", fleet.as_str().to_ascii_lowercase())
}

/// When the holder of a certificate issued at `now` should ask for the next, somewhere in these parts of its life.
pub fn renew_at(now: Timestamp, not_after: Timestamp, parts: Range<f64>, rng: &mut impl Rng) -> Timestamp {
    now.after(not_after.since(now).mul_f64(rng.random_range(parts)))
}

/// PEM of one object.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests;
