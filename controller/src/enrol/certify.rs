//! Certificates for the services of a node: for its names as the controller knows them.

use fleet_model::NodeName;
use fleet_proto::v1::{self, task_spec::Kind};
use fleet_store::Expected;

use super::{
    ca::{RequestedKey, SERVICE_RENEWAL, Serial, renew_at},
    service::{ATTEMPTS, EnrolError, Enrolment, current, stale},
    services::ServiceLeaf,
};
use crate::records::{EnrolmentRecord, Issued, keys};

/// Unexpired certificates one enrolment may have for its services. One does; new names or a lost answer make
/// another.
const MOST: usize = 64;

/// The names a node's desired state asks to be certified.
fn names(desired: &v1::Desired) -> Option<&[String]> {
    desired.tasks.iter().find_map(|task| match &task.kind {
        Some(Kind::Certificate(certificate)) => Some(certificate.names.as_slice()),
        _ => None,
    })
}

impl Enrolment {
    /// A certificate for the services of `node`, whose identity's certificate is `serial`.
    ///
    /// # Errors
    /// [`EnrolError`], a typed refusal if the node's desired state asks for none.
    pub async fn certify(
        &self,
        node: &NodeName,
        serial: &Serial,
        csr: &[u8],
    ) -> Result<v1::ServiceCredentials, EnrolError> {
        let key = RequestedKey::from_csr(csr)?;
        let desired = self.desk.registry.desired(node);
        let Some(names) = desired.as_deref().and_then(names) else {
            return Err(EnrolError::NotAsked(node.clone()));
        };
        for _ in 0..ATTEMPTS {
            let now = self.clock.now();
            let held = self.records.get::<EnrolmentRecord>(&keys::enrolment(node)).await?;
            let Some(held) = held.filter(|held| current(&held.value, serial)) else {
                return Err(stale(node));
            };
            let mut record = held.value;
            record.services.retain(|issued| issued.not_after > now);
            if record.services.len() >= MOST {
                return Err(EnrolError::TooMany(node.clone()));
            }
            let ServiceLeaf { leaf, trust } = self.ca.issue_service(node, names, &key, now)?;
            record.services.push(Issued { serial: leaf.serial.to_string(), not_after: leaf.not_after });
            // Known before it is given: whatever was given can be withdrawn.
            let expected = Expected::Version(held.version);
            match self.records.put(&keys::enrolment(node), &record, expected).await {
                Err(error) if error.is_conflict() => continue,
                other => other?,
            };
            tracing::info!(%node, serial = %leaf.serial, "service certificate given");
            return Ok(v1::ServiceCredentials {
                certificate_chain: vec![leaf.der.to_vec()],
                trust_bundle: trust.iter().map(|certificate| certificate.to_vec()).collect(),
                not_after_ms: leaf.not_after.as_millis(),
                renew_at_ms: renew_at(now, leaf.not_after, SERVICE_RENEWAL, &mut rand::rng()).as_millis(),
            });
        }
        Err(EnrolError::Contended)
    }
}
