//! One key that signs certificates, as it is stored and in memory.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use fleet_model::{FleetName, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::ca::{BACKDATED, CaError, Leaf, Serial};
use crate::sealing::Sealing;

/// Life of an authority.
const LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// An authority as stored.
#[derive(Serialize, Deserialize)]
pub(super) struct Sealed {
    certificate: String,
    pub(super) sealed_key: String,
}

/// An authority, its key in memory.
pub(super) struct Authority {
    pub(super) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Sealed {
    /// A new one, its key sealed for `purpose`.
    pub(super) fn make(
        fleet: &FleetName,
        whose: &str,
        purpose: &str,
        sealing: &Sealing,
        now: Timestamp,
    ) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CaError::Sign)?;
        let (mut params, _) = params(now, LIFE)?;
        params.distinguished_name.push(DnType::CommonName, format!("{fleet} {whose} authority"));
        params.subject_alt_names = vec![uri(format!("spiffe://{fleet}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(CaError::Sign)?;
        Ok(Self {
            certificate: STANDARD.encode(certificate.der()),
            sealed_key: STANDARD.encode(sealing.seal(purpose, key.serialized_der())?),
        })
    }
}

impl Authority {
    pub(super) fn open(sealed: &Sealed, purpose: &str, sealing: &Sealing) -> Result<Self, CaError> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| CaError::Damaged);
        let certificate = CertificateDer::from(decode(&sealed.certificate)?);
        let key = sealing.open_sealed(purpose, &decode(&sealed.sealed_key)?)?;
        let key =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &PKCS_ECDSA_P256_SHA256)
                .map_err(|_| CaError::Damaged)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| CaError::Damaged)?;
        Ok(Self { certificate, issuer })
    }

    /// Signs a certificate for a key.
    pub(super) fn issue(
        &self,
        key: &impl PublicKeyData,
        sans: Vec<SanType>,
        usages: &[ExtendedKeyUsagePurpose],
        life: Duration,
        now: Timestamp,
    ) -> Result<Leaf, CaError> {
        // No subject: the URI is the name. (RFC 5280, section 4.1.2.6 allows that.)
        let (mut params, serial) = params(now, life)?;
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

/// For a certificate without a subject, from a little before now.
fn params(now: Timestamp, life: Duration) -> Result<(CertificateParams, Serial), CaError> {
    let serial = Serial::draw()?;
    let at = |moment: Timestamp| {
        // Before 1970 or absurdly far ahead only if this host's clock is; then certificates are of no use anyway.
        let secs = u64::try_from(moment.as_secs()).unwrap_or(0).min(200_000_000_000);
        date_time_ymd(1970, 1, 1) + Duration::from_secs(secs)
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = at(now.before(BACKDATED));
    params.not_after = at(now.after(life));
    params.serial_number = Some(SerialNumber::from_slice(&serial.bytes()));
    Ok((params, serial))
}

pub(super) fn uri(text: String) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into().map_err(CaError::Sign)?))
}
