//! The controller's own identities: the one it serves with, and the one it leaves for its operator.

use std::time::Duration;

use fleet_model::Timestamp;
use fleet_proto::tls::IdentitySlot;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{
    enrol::ca::{Ca, pem},
    home::{Home, OperatorFile},
    serve::ControllerError,
};

/// Name of the operator whose identity lies in the controller's folder.
const OPERATOR: &str = "local";

/// Makes the operator's identity if there is none, if it is another authority's, or if it runs out soon.
pub(crate) fn refresh_operator(home: &Home, ca: &Ca, now: Timestamp) -> Result<(), ControllerError> {
    let bundle = ca.bundle_pem();
    if home.operator()?.is_some_and(|held| held.bundle == bundle && !runs_out(&held.cert, now)) {
        return Ok(());
    }
    let (leaf, key) = ca.issue_operator(OPERATOR, now)?;
    let file = OperatorFile { cert: pem("CERTIFICATE", &leaf.der), key: key.serialize_pem(), bundle };
    home.set_operator(&file)?;
    tracing::info!("operator identity written");
    Ok(())
}

/// Whether less than a month of a certificate is left; one that cannot be read has run out.
fn runs_out(cert_pem: &str, now: Timestamp) -> bool {
    const LEFT: Duration = Duration::from_secs(30 * 24 * 3600);
    let Ok((_, parsed)) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()) else { return true };
    let Ok(certificate) = parsed.parse_x509() else { return true };
    certificate.validity().not_after.timestamp() < now.after(LEFT).as_secs()
}

/// A fresh identity to serve with.
pub(crate) fn server_identity(ca: &Ca, now: Timestamp) -> Result<IdentitySlot, ControllerError> {
    let (leaf, key) = ca.issue_server(&uuid::Uuid::new_v4().to_string(), now)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(IdentitySlot::new(vec![leaf.der], key)?)
}
