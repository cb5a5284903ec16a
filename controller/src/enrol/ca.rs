//! The fleet's certificate authority: one P-256 key, names as URI SANs, explicit random serials.
//!
//! Names are the controller's decision: from a CSR only the public key is taken.

use std::{fmt, ops::Range, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use fleet_model::{FleetName, NodeName, Timestamp};
use fleet_store::{Expected, StoreError};
use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::{hex, sha256_hex};
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
/// shuts a retired node out, and an authority of the services' own would do that only by being replaced, with two
/// restarts of every server. Short for that; long enough for a controller that is down over a long weekend: renewed at
/// half, there are always three days left. Each renewal is a restart.
pub const SERVICE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// When the holder of a node's certificate asks for the next, in parts of its life. Spread, so that nodes enrolled
/// together do not renew together.
pub const NODE_RENEWAL: Range<f64> = 0.60..0.72;
/// The same for services.
pub const SERVICE_RENEWAL: Range<f64> = 0.45..0.55;
/// Life of the authority itself.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// What the sealed key is sealed for.
const PURPOSE: &str = "ca/authority";

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
    fn draw() -> Result<Self, SealingError> {
        let mut bytes = random::<16>()?;
        // DER integers are signed and have no leading zeros: this keeps every serial 16 bytes long.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Ok(Self(bytes))
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

/// The authority as stored.
#[derive(Serialize, Deserialize)]
struct AuthorityRecord {
    certificate: String,
    sealed_key: String,
}

/// The fleet's certificate authority, its key in memory.
pub struct Ca {
    fleet: FleetName,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

impl Ca {
    /// The authority of this fleet; made on first use.
    ///
    /// # Errors
    /// [`CaError`] if it cannot be read, opened or made.
    pub async fn open(
        fleet: &FleetName,
        records: &Records,
        sealing: &Sealing,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        let key = keys::authority();
        loop {
            if let Some(held) = records.get::<AuthorityRecord>(&key).await? {
                return Self::load(fleet, &held.value, sealing);
            }
            let record = Self::make(fleet, sealing, now)?;
            match records.put(&key, &record, Expected::Absent).await {
                Ok(_) => return Self::load(fleet, &record, sealing),
                // Somebody made one meanwhile: there is only ever one authority, so read theirs.
                Err(RecordError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn make(fleet: &FleetName, sealing: &Sealing, now: Timestamp) -> Result<AuthorityRecord, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Sign)?;
        let (mut params, _) = params(now, AUTHORITY_LIFE)?;
        params.distinguished_name = name(&format!("{fleet} fleet authority"));
        params.subject_alt_names = vec![uri(format!("spiffe://{fleet}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(CaError::Sign)?;
        Ok(AuthorityRecord {
            certificate: STANDARD.encode(certificate.der()),
            sealed_key: STANDARD.encode(sealing.seal(PURPOSE, key.serialized_der())?),
        })
    }

    fn load(fleet: &FleetName, record: &AuthorityRecord, sealing: &Sealing) -> Result<Self, CaError> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| CaError::Damaged);
        let certificate = CertificateDer::from(decode(&record.certificate)?);
        let key = sealing.open_sealed(PURPOSE, &decode(&record.sealed_key)?)?;
        let key =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &PKCS_ECDSA_P256_SHA256)
                .map_err(|_| CaError::Damaged)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| CaError::Damaged)?;
        Ok(Self { fleet: fleet.clone(), certificate, issuer })
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// What to trust: today the one authority.
    pub fn bundle(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    /// The bundle as PEM.
    pub fn bundle_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// A certificate for a node, good for proving who it is to the controller and nothing else.
    ///
    /// # Errors
    /// [`CaError`] if signing fails.
    pub fn issue_node(&self, node: &NodeName, key: &RequestedKey, now: Timestamp) -> Result<Leaf, CaError> {
        let sans = vec![self.id("node", node.as_str())?];
        self.issue(&key.key, sans, &[ExtendedKeyUsagePurpose::ClientAuth], NODE_LIFE, now)
    }

    /// A certificate for the services of a node, for both ends of their connections. Its URI is no identity here:
    /// it opens no door of the controller.
    ///
    /// # Errors
    /// [`CaError::Name`] if a name cannot be certified, [`CaError`] if signing fails.
    pub fn issue_service(
        &self,
        node: &NodeName,
        names: &[String],
        key: &RequestedKey,
        now: Timestamp,
    ) -> Result<Leaf, CaError> {
        let mut sans = vec![self.id("service", node.as_str())?];
        for name in names {
            sans.push(self.service_name(name)?);
        }
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&key.key, sans, &usages, SERVICE_LIFE, now)
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
        let leaf = self.issue(&key, sans, &[ExtendedKeyUsagePurpose::ClientAuth], OPERATOR_LIFE, now)?;
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
        let leaf = self.issue(&key, sans, &[ExtendedKeyUsagePurpose::ServerAuth], SERVER_LIFE, now)?;
        Ok((leaf, key))
    }

    fn id(&self, kind: &str, name: &str) -> Result<SanType, CaError> {
        uri(format!("spiffe://{}/{kind}/{name}", self.fleet))
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        sans: Vec<SanType>,
        usages: &[ExtendedKeyUsagePurpose],
        life: Duration,
        now: Timestamp,
    ) -> Result<Leaf, CaError> {
        let (mut params, serial) = params(now, life)?;
        // No subject: the URI is the name. (RFC 5280, section 4.1.2.6 allows that.)
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = sans;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(CaError::Sign)?;
        // Certificates count whole seconds; so does what we say about them.
        let not_after = Timestamp::from_millis(now.after(life).as_secs() * 1000);
        Ok(Leaf { der: certificate.der().clone(), serial, not_after })
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

fn params(now: Timestamp, life: Duration) -> Result<(CertificateParams, Serial), CaError> {
    let serial = Serial::draw()?;
    let at = |moment: Timestamp| {
        // Before 1970 or absurdly far ahead only if this host's clock is; then certificates are of no use anyway.
        let secs = u64::try_from(moment.as_secs()).unwrap_or(0).min(200_000_000_000);
        date_time_ymd(1970, 1, 1) + Duration::from_secs(secs)
    };
    let mut params = CertificateParams::default();
    params.not_before = at(now.before(BACKDATED));
    params.not_after = at(now.after(life));
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    Ok((params, serial))
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn uri(text: String) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into().map_err(CaError::Sign)?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_model::SystemClock;
    use fleet_store::MemoryStore;
    use rand::{SeedableRng, rngs::StdRng};
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    use super::*;

    async fn ca() -> (Ca, Records, Sealing, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a folder");
        let sealing = Sealing::open(dir.path()).expect("a key");
        let records = Records::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
        let fleet = "Reference".parse().expect("a name");
        let ca = Ca::open(&fleet, &records, &sealing, NOW).await.expect("an authority");
        (ca, records, sealing, dir)
    }

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_123);

    fn csr(key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::default();
        // A name the node would like to have, which must not get into the certificate.
        params.subject_alt_names = vec![uri("spiffe://Reference/operator/root".to_owned()).expect("a URI")];
        params.serialize_request(key).expect("a request").der().to_vec()
    }

    #[tokio::test]
    async fn the_authority_is_made_once_and_its_key_is_sealed() {
        let (first, records, sealing, _dir) = ca().await;
        let again = Ca::open(first.fleet(), &records, &sealing, NOW).await.expect("the same");
        assert_eq!(first.bundle(), again.bundle());
        let held = records.store().get(&keys::authority()).await.expect("reads").expect("there");
        let record: AuthorityRecord = serde_json::from_slice(&held.value).expect("a record");
        let sealed = STANDARD.decode(record.sealed_key).expect("base64");
        let opened = sealing.open_sealed(PURPOSE, &sealed).expect("opens");
        assert!(PrivatePkcs8KeyDer::from(opened.clone()).secret_pkcs8_der().len() > 100);
        assert!(!sealed.windows(16).any(|window| window == &opened[40..56]));
    }

    #[tokio::test]
    async fn only_the_key_is_taken_from_a_request() {
        let (ca, ..) = ca().await;
        let key = KeyPair::generate().expect("a key");
        let requested = RequestedKey::from_csr(&csr(&key)).expect("a request");
        let node = "web-1".parse().expect("a name");
        let leaf = ca.issue_node(&node, &requested, NOW).expect("issued");
        let (_, parsed) = X509Certificate::from_der(&leaf.der).expect("parses");
        let sans = parsed.subject_alternative_name().expect("one").expect("there").value;
        assert!(
            matches!(&sans.general_names[..], [GeneralName::URI("spiffe://Reference/node/web-1")]),
            "{sans:?}"
        );
        assert_eq!(Serial::from_slice(parsed.raw_serial()), Some(leaf.serial));
        assert_eq!(Serial::from_hex(&leaf.serial.to_string()), Some(leaf.serial));
        let usage = parsed.extended_key_usage().expect("one").expect("there").value;
        assert!(usage.client_auth && !usage.server_auth);
        assert!(!parsed.is_ca());
        assert_eq!(parsed.validity().not_after.timestamp(), leaf.not_after.as_secs());
        assert_eq!(parsed.validity().not_before.timestamp(), NOW.as_secs() - 300);
        assert_eq!(parsed.public_key().raw, key.subject_public_key_info());
    }

    #[tokio::test]
    async fn services_get_their_names_and_never_the_controllers() {
        let (ca, ..) = ca().await;
        let key = KeyPair::generate().expect("a key");
        let requested = RequestedKey::from_csr(&csr(&key)).expect("a request");
        let node = "Web-1".parse().expect("a name");
        let names = ["Web-1", "Web-1.Reference", "web-1", "10.0.0.7", "fd00::7"].map(str::to_owned);
        let leaf = ca.issue_service(&node, &names, &requested, NOW).expect("issued");
        let (_, parsed) = X509Certificate::from_der(&leaf.der).expect("parses");
        let sans = &parsed.subject_alternative_name().expect("one").expect("there").value.general_names;
        let texts: Vec<String> = sans
            .iter()
            .map(|name| match name {
                GeneralName::URI(uri) => (*uri).to_owned(),
                GeneralName::DNSName(dns) => (*dns).to_owned(),
                GeneralName::IPAddress(bytes) => format!("{} bytes", bytes.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        let uri = "spiffe://Reference/service/Web-1";
        assert_eq!(texts, [uri, "Web-1", "Web-1.Reference", "web-1", "4 bytes", "16 bytes"]);
        let usage = parsed.extended_key_usage().expect("one").expect("there").value;
        assert!(usage.client_auth && usage.server_auth);
        assert_eq!(leaf.not_after.since(NOW).as_secs().div_ceil(24 * 3600), 7);
        for name in ["controller.reference", "Controller.Reference", "", "a..b", "*.x", "a b", "-é"] {
            let refused = ca.issue_service(&node, &[name.to_owned()], &requested, NOW);
            assert!(matches!(refused, Err(CaError::Name(_))), "{name}");
        }
    }

    #[tokio::test]
    async fn the_authority_may_sign_leaves_and_nothing_below_them() {
        let (ca, ..) = ca().await;
        let bundle = ca.bundle();
        let (_, parsed) = X509Certificate::from_der(&bundle[0]).expect("parses");
        let constraints = parsed.basic_constraints().expect("one").expect("there").value;
        assert!(constraints.ca);
        assert_eq!(constraints.path_len_constraint, Some(0));
        let usage = parsed.key_usage().expect("one").expect("there").value;
        assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    }

    #[test]
    fn a_request_must_be_signed_by_its_own_key() {
        let key = KeyPair::generate().expect("a key");
        let mut damaged = csr(&key);
        *damaged.last_mut().expect("not empty") ^= 1;
        assert!(RequestedKey::from_csr(&damaged).is_err());
        assert!(RequestedKey::from_csr(b"nonsense").is_err());
        let large = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        assert!(RequestedKey::from_csr(&csr(&large)).is_err(), "P-384 is not among the keys we take");
    }

    #[test]
    fn renewals_are_spread() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut check = |life, parts: Range<f64>, wanted: Range<u64>| {
            let mut at =
                || renew_at(NOW, NOW.after(life), parts.clone(), &mut rng).since(NOW).as_secs() / 3600;
            let hours: Vec<u64> = (0..200).map(|_| at()).collect();
            assert!(hours.iter().all(|hour| wanted.contains(hour)), "{hours:?}");
            assert!(hours.iter().min() < hours.iter().max());
        };
        check(NODE_LIFE, NODE_RENEWAL, 14..18);
        check(SERVICE_LIFE, SERVICE_RENEWAL, 75..93);
    }

    #[test]
    fn a_weekend_without_the_controller_leaves_services_their_certificates() {
        let weekend = Duration::from_secs((6 + 48 + 9) * 3600);
        let left = SERVICE_LIFE.mul_f64(1.0 - SERVICE_RENEWAL.end);
        assert!(left > weekend, "{left:?} are left at the least");
    }
}
