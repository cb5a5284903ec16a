//! Trading a token for a certificate.

use std::{fs, io, sync::Arc, time::Duration};

use fleet_model::{FleetName, NodeName, Secret};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    tls,
    v1::{self, enrolment_client::EnrolmentClient},
};
use fleet_task::atomic;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use tokio::time::Instant;
use tonic::{Request, Status};

use super::{Credentials, Holdings, IdentityError, Key, credentials::Origin, machine::hex};
use crate::{
    Places,
    dial::{DialError, Dialler},
    offset::ControllerTime,
};

/// How long the controller may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How often enrolment is tried again after a refusal that only a new seed can heal.
const REFUSED_PAUSE: Duration = Duration::from_secs(300);

/// How to enrol, as the seed wrote it.
#[derive(Clone, Debug)]
pub struct Seed {
    fleet: FleetName,
    node: NodeName,
    token: Secret,
    enrol_addresses: Vec<String>,
    trust: Vec<CertificateDer<'static>>,
    release_root: Option<String>,
}

#[derive(Deserialize)]
struct SeedFile {
    fleet: FleetName,
    node: NodeName,
    token: String,
    enrol_addresses: Vec<String>,
    trust_bundle: String,
    /// Signed; a controller that knows of no releases leaves it out.
    release_root: Option<String>,
}

/// Why the node has no certificate yet.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Something on the node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The controller said no, and why.
    #[error("the controller refused: {}", .0.message)]
    Refused(Refusal),
    /// The call failed without a reason of ours.
    #[error("ask the controller")]
    Call(#[source] Box<Status>),
    /// The controller did not answer in time.
    #[error("the controller did not answer within {} s", ANSWER.as_secs())]
    Late,
}

impl EnrolError {
    /// What a person can do about it.
    pub fn next_step(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Dial(error) => error.next_step().into(),
            Self::Identity(_) => {
                "look at the agent's folder on the node, or run `fleetctl up` for a new seed".into()
            }
            Self::Call(_) | Self::Late => "look at the controller's log; the agent tries again".into(),
        }
    }

    /// The least time to wait before trying again.
    pub(crate) fn pause(&self) -> Duration {
        match self {
            Self::Refused(refusal) if refusal.kind() == RefusalKind::RefusalBusy => {
                Duration::from_millis(refusal.retry_after_ms.min(60_000))
            }
            Self::Refused(refusal) if !refusal.is_retryable() => REFUSED_PAUSE,
            _ => Duration::ZERO,
        }
    }

    pub(crate) fn from_status(status: Status) -> Self {
        match Refusal::from_status(&status) {
            Some(refusal) => Self::Refused(refusal),
            None => Self::Call(Box::new(status)),
        }
    }
}

impl Seed {
    /// The seed on this node, if one is there.
    ///
    /// # Errors
    /// [`IdentityError`] if it is there and makes no sense.
    pub fn load(places: &Places) -> Result<Option<Self>, IdentityError> {
        let path = places.enrol();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        let damaged = |why: String| IdentityError::Damaged { path: path.clone(), why };
        let file: SeedFile = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let trust = CertificateDer::pem_slice_iter(file.trust_bundle.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| damaged(format!("trust_bundle: {error}")))?;
        if trust.is_empty() {
            return Err(damaged("trust_bundle holds no certificate".into()));
        }
        Ok(Some(Self {
            fleet: file.fleet,
            node: file.node,
            token: Secret::new(file.token),
            enrol_addresses: file.enrol_addresses,
            trust,
            release_root: file.release_root,
        }))
    }

    /// The fleet it is for.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Whether these credentials were obtained with this seed: then it is spent.
    pub(crate) fn made(&self, credentials: &Credentials) -> bool {
        credentials.token_digest == self.token_digest()
    }

    fn token_digest(&self) -> String {
        hex(ring::digest::digest(&ring::digest::SHA256, self.token.reveal().as_bytes()).as_ref())
    }

    /// Trades the token for a certificate and stores it. Safe to repeat after a lost answer: the key is on
    /// disk before it is shown to anybody.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub(crate) async fn enrol(
        &self,
        places: &Places,
        hello: v1::Hello,
    ) -> Result<(Holdings, ControllerTime), EnrolError> {
        if let Some(root) = &self.release_root {
            crate::update::trust_seed(places, root);
        }
        let key = Key::open_or_make(places.key())?;
        let tls = Arc::new(tls::client(&self.trust, None).map_err(IdentityError::Tls)?);
        let origin = Origin {
            fleet: self.fleet.clone(),
            session_addresses: Vec::new(),
            enrol_addresses: self.enrol_addresses.clone(),
            token_digest: self.token_digest(),
        };
        let request = v1::EnrolRequest {
            token: self.token.reveal().to_owned(),
            csr: key.request(self.node.as_str())?,
            hello: Some(hello),
        };
        let (answer, time) = ask(&self.enrol_addresses, &self.fleet, tls, request).await?;
        let current = Credentials::from_answer(&answer, &key, &origin)?;
        let holdings = Holdings { current, previous: None };
        holdings.store(places)?;
        Ok((holdings, time))
    }
}

/// Deletes the seed: its token is spent.
pub(crate) fn forget_seed(places: &Places) {
    if let Err(error) = atomic::remove(&places.enrol()) {
        // Harmless: the token is spent, and the seed is recognised as such at the next start.
        tracing::warn!(%error, "the spent seed stays on disk");
    }
}

/// Returns with the known key and no token: for a certificate that ran out while the node was off, and to
/// learn the reason when sessions are refused without one.
///
/// # Errors
/// [`EnrolError`]; a refusal says why.
pub(crate) async fn come_back(
    places: &Places,
    credentials: &Credentials,
    hello: v1::Hello,
) -> Result<(Holdings, ControllerTime), EnrolError> {
    let key = credentials.key(places)?;
    let request = v1::EnrolRequest {
        token: String::new(),
        csr: key.request(credentials.node.as_str())?,
        hello: Some(hello),
    };
    let tls = credentials.anonymous_tls(places)?;
    let (answer, time) = ask(&credentials.enrol_addresses, &credentials.fleet, tls, request).await?;
    let current = Credentials::from_answer(&answer, &key, &credentials.origin())?;
    let holdings = Holdings { current, previous: None };
    holdings.store(places)?;
    Ok((holdings, time))
}

async fn ask(
    addresses: &[String],
    fleet: &FleetName,
    tls: Arc<ClientConfig>,
    request: v1::EnrolRequest,
) -> Result<(v1::Credentials, ControllerTime), EnrolError> {
    let channel = Dialler::new(fleet)?.dial(addresses, tls).await?;
    let asked = Instant::now();
    let mut client = EnrolmentClient::new(channel);
    let answer = tokio::time::timeout(ANSWER, client.enrol(Request::new(request)))
        .await
        .map_err(|_| EnrolError::Late)?
        .map_err(EnrolError::from_status)?
        .into_inner();
    let time = ControllerTime::heard(answer.controller_time_ms, asked);
    Ok((answer, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(text: &str) -> Result<Option<Seed>, IdentityError> {
        let root = tempfile::tempdir().expect("folder");
        let places = Places::below(root.path());
        fs::create_dir_all(root.path().join("etc/fleet-agent")).expect("etc");
        fs::write(places.enrol(), text).expect("seed");
        Seed::load(&places)
    }

    #[test]
    fn a_seed_that_makes_no_sense_says_where() {
        let check = |text: &str, expected: &str| {
            let error = seed(text).expect_err(text).to_string();
            assert!(error.contains("enrol.json") && error.contains(expected), "{error}");
        };
        check("{", "EOF");
        check("{}", "missing field `fleet`");
        let rest = r#""node":"n1","token":"t","enrol_addresses":["127.0.0.1:1"]"#;
        check(&format!(r#"{{"fleet":"no name!",{rest},"trust_bundle":""}}"#), "no name!");
        check(&format!(r#"{{"fleet":"f",{rest},"trust_bundle":""}}"#), "holds no certificate");
        check(
            &format!(r#"{{"fleet":"f",{rest},"trust_bundle":"-----BEGIN CERTIFICATE-----\nAAAA\n"}}"#),
            "trust_bundle",
        );
    }

    #[test]
    fn how_long_to_pause_is_a_question_to_the_error() {
        let refusal =
            |kind| EnrolError::Refused(Refusal { retry_after_ms: 250, ..Refusal::new(kind, "", "") });
        let check = |error: EnrolError, expected| assert_eq!(error.pause(), expected, "{error:?}");
        check(refusal(RefusalKind::RefusalBusy), Duration::from_millis(250));
        check(refusal(RefusalKind::RefusalClockSkew), Duration::ZERO);
        check(refusal(RefusalKind::RefusalUsed), REFUSED_PAUSE);
        check(EnrolError::Late, Duration::ZERO);
        check(EnrolError::Dial(DialError::NoAddress), Duration::ZERO);
    }
}
