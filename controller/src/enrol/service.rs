//! Enrolment as performed: the policy decides, conditional writes make one winner, the authority signs.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::STANDARD};
use fleet_model::{Clock, NodeName, Timestamp};
use fleet_proto::{
    refusal::{Refusal, RefusalKind},
    v1::{self, enrolment_server},
};
use fleet_store::Expected;
use rustls_pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::{
    ca::{Ca, CaError, Leaf, NODE_LIFE, NODE_RENEWAL, RequestedKey, Serial, renew_at},
    policy::{self, Decision},
    revoke::{Revoked, Why},
    token::TokenHash,
};
use crate::{
    first_boot::reports::FirstBoots,
    records::{EnrolmentRecord, Held, Issued, RecordError, Records, RetiredRecord, TokenRecord, keys},
    session::{registry::Registry, service::busy, stream::Desk},
    tls::peer::Connections,
};

/// Enrolments under way at once; beyond it agents are asked to come back.
const UNDER_WAY: usize = 512;
/// How often a decision is made anew because somebody else was faster.
pub(super) const ATTEMPTS: usize = 8;
/// A lost answer is replayed with the same certificate while it has this much life left.
const REPLAY_LEFT: Duration = Duration::from_secs(NODE_LIFE.as_secs() / 2);
/// A session being cut is told why; its connection is severed this much later, told or not.
const CUT_GRACE: Duration = Duration::from_millis(250);
/// Unexpired certificates of one node. Renewal makes two a day; whoever asks for more loses the oldest.
const MOST: usize = 8;
/// Pause between two renewals of a node that has so many: what is withdrawn is remembered for as long as it was good.
const RENEWED_AGAIN: Duration = Duration::from_secs(60);
/// Longest failing line taken from a first boot, in bytes; as the protocol says.
const FAILURE: usize = 2048;

/// Everything about who is who.
#[derive(Debug)]
pub struct Enrolment {
    pub(super) records: Records,
    pub(super) ca: Arc<Ca>,
    revoked: Revoked,
    connections: Connections,
    pub(super) desk: Arc<Desk>,
    pub(super) clock: Arc<dyn Clock>,
    session_addresses: ArcSwap<Vec<String>>,
    /// Owns what must not end with the request that began it.
    tasks: TaskTracker,
}

/// Why a certificate was not given.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The policy said no.
    #[error("refused: {}", .refusal.message)]
    Refused {
        /// What the agent hears.
        refusal: Refusal,
        /// Whom it was about, if that is known.
        node: Option<NodeName>,
    },
    /// The desired state lacks what was asked for.
    #[error("node `{0}` has no task that asks for a certificate")]
    NotAsked(NodeName),
    /// Too many were given already.
    #[error("node `{0}` was given too many certificates for its services")]
    TooMany(NodeName),
    /// The store failed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The authority failed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Others were faster again and again.
    #[error("too many enrolments of one node at once")]
    Contended,
}

impl From<EnrolError> for Status {
    fn from(error: EnrolError) -> Self {
        match error {
            EnrolError::Refused { refusal, .. } => refusal.into(),
            EnrolError::Contended => busy(),
            EnrolError::NotAsked(_) => Refusal::new(
                RefusalKind::RefusalForbidden,
                error.to_string(),
                "services get certificates where the plan has a `rethinkdb` or `todo` task",
            )
            .into(),
            EnrolError::TooMany(_) => Refusal::new(
                RefusalKind::RefusalForbidden,
                error.to_string(),
                "see why its certificate task asks again and again; `fleetctl replace` begins anew",
            )
            .into(),
            EnrolError::Ca(CaError::Request(why)) => Refusal::new(
                RefusalKind::RefusalBadRequest,
                format!("the certificate request cannot be used: {why}"),
                "use an agent of this controller's version",
            )
            .into(),
            EnrolError::Record(error) => internal(&error),
            EnrolError::Ca(error) => internal(&error),
        }
    }
}

/// Logged where it is handled; the caller hears only that it was not their fault.
fn internal(error: &dyn std::error::Error) -> Status {
    tracing::error!(error = %fleet_model::chain(error), "enrolment failed");
    Status::internal("the controller could not complete this; its log says why")
}

impl Enrolment {
    /// Over these records and this authority.
    pub fn new(
        records: Records,
        ca: Arc<Ca>,
        revoked: Revoked,
        connections: Connections,
        desk: Arc<Desk>,
        tasks: TaskTracker,
    ) -> Self {
        let clock = desk.clock.clone();
        let session_addresses = ArcSwap::default();
        Self { records, ca, revoked, connections, desk, clock, session_addresses, tasks }
    }

    /// What nodes are told to dial from now on.
    pub fn set_session_addresses(&self, addresses: Vec<String>) {
        self.session_addresses.store(Arc::new(addresses));
    }

    /// Trades a token and a request for a certificate; without a token, returns an expired identity to the
    /// holder of its known key.
    ///
    /// # Errors
    /// [`EnrolError`], most often a typed refusal.
    pub async fn enrol(&self, request: &v1::EnrolRequest) -> Result<v1::Credentials, EnrolError> {
        let key = RequestedKey::from_csr(&request.csr)?;
        let ask = policy::Request { key: key.hash(), hello: request.hello.as_ref() };
        let machine = request.hello.as_ref().map(|hello| hello.machine.as_str()).unwrap_or_default();
        for _ in 0..ATTEMPTS {
            let outcome = if request.token.is_empty() {
                self.returning(&key, &ask).await
            } else {
                self.with_token(&request.token, &key, &ask, machine).await
            };
            match outcome {
                // Somebody was faster: look again and decide anew.
                Err(EnrolError::Record(error)) if error.is_conflict() => {}
                outcome => return outcome,
            }
        }
        Err(EnrolError::Contended)
    }

    async fn with_token(
        &self,
        text: &str,
        key: &RequestedKey,
        ask: &policy::Request<'_>,
        machine: &str,
    ) -> Result<v1::Credentials, EnrolError> {
        let now = self.clock.now();
        let hash = TokenHash::of(text);
        let token = match &hash {
            Some(hash) => self.records.get::<TokenRecord>(&keys::token(hash.as_str())).await?,
            None => None,
        };
        let enrolment = match &token {
            Some(token) => self.records.get(&keys::enrolment(&token.value.node)).await?,
            None => None,
        };
        let known = enrolment.as_ref().map(|held: &Held<EnrolmentRecord>| &held.value);
        let retired = self.retired(key).await?;
        match policy::with_token(token.as_ref().map(|held| &held.value), known, retired.as_ref(), ask, now) {
            Decision::Refuse(refusal) => {
                let node = token.map(|held| held.value.node);
                return Err(EnrolError::Refused { refusal, node });
            }
            Decision::Replay => {}
            Decision::Grant => {
                let (Some(hash), Some(held)) = (&hash, &token) else { return Err(EnrolError::Contended) };
                let used_by = Some(key.hash().to_owned());
                let used = TokenRecord { used_by, used_at: Some(now), ..held.value.clone() };
                let expected = Expected::Version(held.version);
                self.records.put(&keys::token(hash.as_str()), &used, expected).await?;
            }
        }
        let Some(token) = token else { return Err(EnrolError::Contended) };
        self.enter(&token.value.node, key, machine, enrolment, now).await
    }

    async fn returning(
        &self,
        key: &RequestedKey,
        ask: &policy::Request<'_>,
    ) -> Result<v1::Credentials, EnrolError> {
        let now = self.clock.now();
        let node = self.records.get::<NodeName>(&keys::known_key(key.hash())).await?.map(|held| held.value);
        let enrolment = match &node {
            Some(node) => self.records.get::<EnrolmentRecord>(&keys::enrolment(node)).await?,
            None => None,
        };
        let known = node.as_ref().zip(enrolment.as_ref().map(|held| &held.value));
        let retired = self.retired(key).await?;
        if let Decision::Refuse(refusal) = policy::returning(known, retired.as_ref(), ask, now) {
            return Err(EnrolError::Refused { refusal, node });
        }
        let Some((node, held)) = node.zip(enrolment) else { return Err(EnrolError::Contended) };
        let mut record = held.value;
        if let Some(leaf) = replayed(&record, now) {
            return Ok(self.credentials(&node, &leaf, now));
        }
        // One that has not run out yet is only an answer that was lost.
        if record.certificates.iter().all(|issued| issued.not_after <= now) {
            record.returns += 1;
        }
        let leaf = self.issue(&node, key, &mut record, now)?;
        self.records.put(&keys::enrolment(&node), &record, Expected::Version(held.version)).await?;
        tracing::info!(%node, returns = record.returns, "node returned with an expired certificate");
        Ok(self.credentials(&node, &leaf, now))
    }

    /// Makes `key` the node's identity, withdrawing what an earlier key held: first, so that a node never has two,
    /// whenever this is cut. The key is known first too, so that what is enrolled can always return.
    async fn enter(
        &self,
        node: &NodeName,
        key: &RequestedKey,
        machine: &str,
        held: Option<Held<EnrolmentRecord>>,
        now: Timestamp,
    ) -> Result<v1::Credentials, EnrolError> {
        let expected = held.as_ref().map_or(Expected::Absent, |held| Expected::Version(held.version));
        let mut replaced = Vec::new();
        let mut record = match held.map(|held| held.value) {
            Some(record) if record.key == key.hash() => {
                if let Some(leaf) = replayed(&record, now) {
                    return Ok(self.credentials(node, &leaf, now));
                }
                record
            }
            other => {
                replaced = other.map(|other| other.issued()).unwrap_or_default();
                EnrolmentRecord {
                    key: key.hash().to_owned(),
                    machine: machine.to_owned(),
                    since: now,
                    certificates: Vec::new(),
                    leaf: String::new(),
                    returns: 0,
                    services: Vec::new(),
                    id: uuid::Uuid::new_v4().to_string(),
                }
            }
        };
        let leaf = self.issue(node, key, &mut record, now)?;
        self.records.put(&keys::known_key(key.hash()), node, Expected::Any).await?;
        let serials = self.revoked.revoke(&self.records, node, &replaced, &Why::Withdrawn, now).await?;
        self.records.put(&keys::enrolment(node), &record, expected).await?;
        self.cut(node, serials, &Why::Withdrawn, "another machine enrolled under this name");
        tracing::info!(%node, serial = %leaf.serial, "enrolled");
        self.desk.registry.set_enrolled(node, true);
        Ok(self.credentials(node, &leaf, now))
    }

    /// The next certificate for a node that has one.
    ///
    /// # Errors
    /// [`EnrolError`], a typed refusal if the node was removed or its certificate is not the node's any more.
    pub async fn renew(
        &self,
        node: &NodeName,
        serial: &Serial,
        csr: &[u8],
    ) -> Result<v1::Credentials, EnrolError> {
        let key = RequestedKey::from_csr(csr)?;
        for _ in 0..ATTEMPTS {
            let now = self.clock.now();
            let held = self.records.get::<EnrolmentRecord>(&keys::enrolment(node)).await?;
            let Some(held) = held.filter(|held| current(&held.value, serial)) else {
                return Err(stale(node));
            };
            let mut record = held.value;
            if hurries(&record, now) {
                return Err(EnrolError::Contended);
            }
            let before = (record.key != key.hash()).then(|| record.key.clone());
            record.key = key.hash().to_owned();
            record.returns = 0;
            let leaf = self.issue(node, &key, &mut record, now)?;
            let beyond = record.certificates.len().saturating_sub(MOST);
            let dropped: Vec<Issued> = record.certificates.drain(..beyond).collect();
            let expected = Expected::Version(held.version);
            if before.is_some() {
                // First, so that what is enrolled can always return.
                self.records.put(&keys::known_key(key.hash()), node, Expected::Any).await?;
            }
            // Withdrawn first: what is in no record could not be withdrawn any more.
            if !dropped.is_empty() {
                self.revoked.prune(&self.records, now).await?;
            }
            let serials = self.revoked.revoke(&self.records, node, &dropped, &Why::Withdrawn, now).await?;
            match self.records.put(&keys::enrolment(node), &record, expected).await {
                Err(error) if error.is_conflict() => continue,
                other => other?,
            };
            self.cut(node, serials, &Why::Withdrawn, "it has newer ones");
            // Nobody can return with it: only the record's key may.
            if let Some(before) = before {
                self.records.delete(&keys::known_key(&before)).await?;
            }
            tracing::info!(%node, serial = %leaf.serial, "renewed");
            return Ok(self.credentials(node, &leaf, now));
        }
        Err(EnrolError::Contended)
    }

    /// Withdraws everything a node could come back with, and forgets who it was.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; calling again finishes what was begun.
    pub async fn remove(&self, node: &NodeName, why: &str) -> Result<(), RecordError> {
        loop {
            let Some(held) = self.records.get::<EnrolmentRecord>(&keys::enrolment(node)).await? else {
                self.desk.registry.set_enrolled(node, false);
                return Ok(());
            };
            let now = self.clock.now();
            let issued = held.value.issued();
            let serials = self.revoked.revoke(&self.records, node, &issued, &Why::Withdrawn, now).await?;
            self.cut(node, serials, &Why::Withdrawn, why);
            self.records.delete(&keys::known_key(&held.value.key)).await?;
            // As in `retire`: whatever was given meanwhile goes in the next round.
            match self.records.delete_if(&keys::enrolment(node), held.version).await {
                Err(error) if error.is_conflict() => {}
                other => other?,
            }
        }
    }

    /// Ends a node's identity for good: its key and certificates are never let in again, and hear why. The name is
    /// free: identity is the key, and whoever brings a fresh token enrols under it.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; calling again finishes what was begun.
    pub async fn retire(&self, node: &NodeName) -> Result<(), RecordError> {
        loop {
            let Some(held) = self.records.get::<EnrolmentRecord>(&keys::enrolment(node)).await? else {
                self.desk.registry.set_enrolled(node, false);
                return Ok(());
            };
            let (now, why) = (self.clock.now(), Why::Retired(node.clone()));
            let record = RetiredRecord { node: node.clone(), at: now };
            self.records.put(&keys::retired(&held.value.key), &record, Expected::Any).await?;
            let issued = held.value.issued();
            let serials = self.revoked.revoke(&self.records, node, &issued, &why, now).await?;
            self.cut(node, serials, &why, "its identity was retired for good");
            self.records.delete(&keys::known_key(&held.value.key)).await?;
            // Only as it was read: a renewal meanwhile made another certificate, which is withdrawn in the next round.
            let deleted = self.records.delete_if(&keys::enrolment(node), held.version).await;
            match deleted {
                Err(error) if error.is_conflict() => {}
                other => other?,
            }
        }
    }

    async fn retired(&self, key: &RequestedKey) -> Result<Option<RetiredRecord>, RecordError> {
        Ok(self.records.get(&keys::retired(key.hash())).await?.map(|held| held.value))
    }

    /// Ends what is open under withdrawn certificates. From now on every call is refused anyway; the pause before
    /// connections are severed only lets the reason reach the agent.
    fn cut(&self, node: &NodeName, serials: Vec<Serial>, why: &Why, text: &str) {
        if serials.is_empty() {
            return;
        }
        tracing::info!(%node, certificates = serials.len(), why = text, "certificates withdrawn");
        end_sessions(&self.desk.registry, node, &serials, why, text);
        let connections = self.connections.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(CUT_GRACE).await;
            connections.cut(|peer| serials.contains(&peer.serial));
        });
    }

    fn issue(
        &self,
        node: &NodeName,
        key: &RequestedKey,
        record: &mut EnrolmentRecord,
        now: Timestamp,
    ) -> Result<Leaf, EnrolError> {
        let leaf = self.ca.issue_node(node, key, now)?;
        record.certificates.retain(|issued| issued.not_after > now);
        record.certificates.push(Issued { serial: leaf.serial.to_string(), not_after: leaf.not_after });
        record.leaf = STANDARD.encode(&leaf.der);
        Ok(leaf)
    }

    fn credentials(&self, node: &NodeName, leaf: &Leaf, now: Timestamp) -> v1::Credentials {
        v1::Credentials {
            certificate_chain: vec![leaf.der.to_vec()],
            trust_bundle: self.ca.bundle().iter().map(|certificate| certificate.to_vec()).collect(),
            not_after_ms: leaf.not_after.as_millis(),
            renew_at_ms: renew_at(now, leaf.not_after, NODE_RENEWAL, &mut rand::rng()).as_millis(),
            controller_time_ms: now.as_millis(),
            session_addresses: Vec::clone(&self.session_addresses.load()),
            node: node.to_string(),
        }
    }
}

/// The certificate already given for this key, if it is worth giving again.
fn replayed(record: &EnrolmentRecord, now: Timestamp) -> Option<Leaf> {
    let newest = record.certificates.last()?;
    (newest.not_after.since(now) > REPLAY_LEFT).then_some(())?;
    Some(Leaf {
        der: CertificateDer::from(STANDARD.decode(&record.leaf).ok()?),
        serial: Serial::from_hex(&newest.serial)?,
        not_after: newest.not_after,
    })
}

/// Whether a node renews faster than anybody needs.
fn hurries(record: &EnrolmentRecord, now: Timestamp) -> bool {
    let good = record.certificates.iter().filter(|issued| issued.not_after > now);
    let newest = record.certificates.last().map(|issued| issued.not_after.since(now));
    good.count() >= MOST && newest.is_some_and(|left| left + RENEWED_AGAIN > NODE_LIFE)
}

/// Whether a certificate is one of the node's present identity.
pub(super) fn current(record: &EnrolmentRecord, serial: &Serial) -> bool {
    let serial = serial.to_string();
    record.certificates.iter().any(|issued| issued.serial == serial)
}

/// What the holder of a certificate hears that is not [`current`] any more.
pub(super) fn stale(node: &NodeName) -> EnrolError {
    let refusal = Refusal::new(
        RefusalKind::RefusalRevoked,
        format!("this certificate is not one of node `{node}` any more"),
        "run `fleetctl up`: it enrols the node anew",
    );
    EnrolError::Refused { refusal, node: Some(node.clone()) }
}

fn end_sessions(registry: &Registry, node: &NodeName, serials: &[Serial], why: &Why, text: &str) {
    let Some(live) = registry.live(node).filter(|live| serials.contains(&live.peer.serial)) else { return };
    let refusal = match why {
        Why::Retired(_) => why.refusal(),
        Why::Withdrawn => Refusal::new(
            RefusalKind::RefusalRevoked,
            format!("the certificate of node `{node}` was withdrawn: {text}"),
            "run `fleetctl up`: it enrols the node anew if it is part of the plan",
        ),
    };
    live.end(refusal.into());
}

/// The `Enrolment` service: the only one that answers callers without a certificate.
#[derive(Debug)]
pub struct EnrolmentService {
    enrolment: Arc<Enrolment>,
    first_boots: Arc<FirstBoots>,
    under_way: Arc<Semaphore>,
}

impl EnrolmentService {
    /// Serves enrolments and the reports that come before them.
    pub fn new(enrolment: Arc<Enrolment>, first_boots: Arc<FirstBoots>) -> Self {
        Self { enrolment, first_boots, under_way: Arc::new(Semaphore::new(UNDER_WAY)) }
    }
}

#[tonic::async_trait]
impl enrolment_server::Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::Credentials>, Status> {
        let place = self.under_way.clone().try_acquire_owned().map_err(|_| busy())?;
        let (enrolment, request) = (self.enrolment.clone(), request.into_inner());
        let hash = TokenHash::of(&request.token);
        // In a task of its own: whoever asked may hang up half-way, and the node must not be left half enrolled.
        let entering = self.enrolment.tasks.spawn(async move {
            let _place = place;
            enrolment.enrol(&request).await
        });
        let outcome = entering.await.map_err(|error| internal(&error))?;
        if let Err(EnrolError::Refused { refusal, node }) = &outcome {
            tracing::info!(
                kind = refusal.kind().as_str_name(),
                message = refusal.message,
                "enrolment refused"
            );
            let why = format!("{}; {}", refusal.message, refusal.hint);
            if let Some(node) = node {
                self.enrolment.desk.registry.refused(node, why.clone());
            }
            if let Some(hash) = &hash {
                self.first_boots.refused(hash, why);
            }
        }
        Ok(Response::new(outcome?))
    }

    async fn report(&self, request: Request<v1::FirstBootReport>) -> Result<Response<v1::ReportAck>, Status> {
        let _place = self.under_way.try_acquire().map_err(|_| busy())?;
        let report = request.into_inner();
        let now = self.enrolment.clock.now();
        let hash = TokenHash::of(&report.token);
        let token = match &hash {
            Some(hash) => self.enrolment.records.get::<TokenRecord>(&keys::token(hash.as_str())).await,
            None => Ok(None),
        };
        let token = token.map_err(|error| internal(&error))?.map(|held| held.value);
        let Some((hash, token)) = hash.zip(token.filter(|token| token.expires > now)) else {
            return Err(Refusal::new(
                RefusalKind::RefusalUnknown,
                "no such enrolment token, or it ran out",
                "run `fleetctl up` again for a fresh token",
            )
            .into());
        };
        let mut failure = report.failure.clone();
        failure.truncate(failure.floor_char_boundary(FAILURE));
        self.first_boots.reported(&hash, &token.node, report.stage(), failure);
        if let Some(refusal) = policy::skew(report.node_time_ms, now) {
            self.first_boots.refused(&hash, format!("{}; {}", refusal.message, refusal.hint));
        }
        Ok(Response::new(v1::ReportAck { controller_time_ms: now.as_millis() }))
    }
}
