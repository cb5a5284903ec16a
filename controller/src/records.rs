//! What the controller remembers, typed: one record per key, one writer per record.
//!
//! ```text
//! fleet/record              FleetRecord      the fleet and its plan; written by Apply and Down
//! fleet/run                 RunRecord        the last run; written by the driver
//! fleet/expiry              ExpiryRecord     when the fleet ends by itself; written by the driver
//! ca/authority              (enrol::ca)      certificates and sealed keys, the fleet's and its services'
//! token/<sha256>            TokenRecord      enrolment tokens, hashed
//! enrolment/<node>          EnrolmentRecord  which key and machine the node is; written by enrolment
//! key/<sha256>              the node a known key belongs to
//! retired/<sha256>          RetiredRecord    keys that never come back
//! permit/<permit>           (permit::policy) leases of permits
//! founded/<instance>        (permit::policy) clusters that were founded
//! replacing/<node>          ReplacingRecord  nodes whose server is to be destroyed and made anew
//! desired/<node>            v1::Desired      written by the controller alone
//! addresses/<node>          Addresses        written from the cloud API alone
//! arrived/<node>            Timestamp        when its server was first seen
//! host-key/<node>           String           the key its server showed first; written by first boots
//! observed/<node>           ObservedRecord   written from the agent's reports alone
//! releaser/trust            TrustRecord      whom releases are taken from; written by `releases`
//! release/<sha256>          ReleaseRecord    signed releases by their agent; written by `releases`
//! rollout/…                 (rollout::archive) rollouts, their lease, and the stopped line
//! password/<node>           sealed
//! revoked/<serial>          RevokedRecord
//! ```

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use fleet_model::{NodeName, Timestamp};
use fleet_plan::resolved::Cloud;
use fleet_proto::v1;
use fleet_provider::event::Addresses;
use fleet_store::{Expected, Key, KeyError, Store, StoreError, Versioned};
use prost::Message;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store failed, or a condition did not hold.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored cannot be understood: written by a newer controller, or damaged.
    #[error("record `{key}` cannot be understood; was it written by a newer controller?")]
    Damaged {
        /// The record.
        key: Key,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A name that cannot be part of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl RecordError {
    /// Whether somebody else changed the record meanwhile: read again and decide anew.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(StoreError::Conflict { .. }))
    }
}

/// The fleet as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetRecord {
    /// Mark of this fleet on its cloud resources, drawn once.
    pub id: String,
    /// When the controller first ran.
    pub created: Timestamp,
    /// Desired state; `None` before the first `up` and after `down`.
    pub plan: Option<PlanRecord>,
    /// Where its resources are; kept after `down`, so that another `down` can prove there are none.
    #[serde(default)]
    pub cloud: Option<Cloud>,
    /// Whether the last `up` was to stop once servers are started; a replacement goes as far.
    #[serde(default)]
    pub provision_only: bool,
}

impl FleetRecord {
    /// Whether what the fleet has is in another cloud than this one. It cannot move: all of that would be forgotten. Once
    /// it is down there is nothing to forget.
    pub fn is_elsewhere(&self, cloud: &Cloud) -> bool {
        self.plan.is_some() && self.cloud.as_ref().is_some_and(|held| held != cloud)
    }
}

/// A plan as the operator gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Where the text came from; for messages.
    pub file: String,
    /// The text.
    pub text: String,
    /// `--set name=value`.
    pub parameters: BTreeMap<String, String>,
    /// Files the plan names, as the operator's host had them.
    #[serde(default)]
    pub artifacts: Vec<ArtifactRecord>,
    /// What `operator` means among the plan's keys.
    #[serde(default)]
    pub operator_keys: Vec<String>,
    /// What `operator` means in `from`.
    #[serde(default)]
    pub operator_addresses: Vec<String>,
    /// The todo application's program as this controller had it, if the plan has a `todo` task: another one is brought
    /// to the nodes by the next `up`, not by a controller that was started anew.
    #[serde(default)]
    pub todo: Option<ArtifactRecord>,
}

/// A file that a plan names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRecord {
    /// As written in the plan.
    pub name: String,
    /// Of its bytes, lower-case hex.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

impl From<ArtifactRecord> for v1::Artifact {
    fn from(record: ArtifactRecord) -> Self {
        let ArtifactRecord { name, sha256, size } = record;
        Self { name, sha256, size }
    }
}

impl From<v1::Artifact> for ArtifactRecord {
    fn from(artifact: v1::Artifact) -> Self {
        let v1::Artifact { name, sha256, size } = artifact;
        Self { name, sha256, size }
    }
}

impl From<v1::PlanDocument> for PlanRecord {
    fn from(document: v1::PlanDocument) -> Self {
        Self {
            file: document.file,
            text: document.text,
            parameters: document.parameters.into_iter().collect(),
            artifacts: document.artifacts.into_iter().map(Into::into).collect(),
            operator_keys: document.operator_keys,
            operator_addresses: document.operator_addresses,
            todo: None,
        }
    }
}

/// When the fleet ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryRecord {
    /// By the wall clock.
    pub at: Timestamp,
    /// Whether it has: the fleet was taken down because of it.
    #[serde(default)]
    pub done: bool,
}

/// The last run of `Apply` or `Down`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Counts runs of this fleet.
    pub number: u64,
    /// What it was for.
    pub kind: RunKind,
    /// When it began.
    pub started: Timestamp,
    /// How it ended; `None` while it is under way, and for ever if the controller was killed.
    pub end: Option<RunEnd>,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// `fleetctl up`.
    Apply,
    /// `fleetctl down`.
    Down,
    /// `fleetctl replace`.
    Replace,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// When.
    pub at: Timestamp,
    /// Whether everything was as planned.
    pub ok: bool,
    /// One line each, cause and next step.
    pub problems: Vec<String>,
}

/// A token, known by its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The one node it is for.
    pub node: NodeName,
    /// When it stops being of use.
    pub expires: Timestamp,
    /// Hash of the public key that used it, once one has.
    pub used_by: Option<String>,
    /// When that was.
    #[serde(default)]
    pub used_at: Option<Timestamp>,
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRecord {
    /// SHA-256 of its public key, hex.
    pub key: String,
    /// Of the machine that enrolled: see `Hello.machine`.
    pub machine: String,
    /// When it first enrolled with this key.
    pub since: Timestamp,
    /// Certificates that may still be in use, oldest first.
    pub certificates: Vec<Issued>,
    /// The newest certificate, DER in base64: replayed when its answer was lost.
    pub leaf: String,
    /// How often it came back with an expired certificate since the last ordinary renewal.
    #[serde(default)]
    pub returns: u32,
    /// Certificates of its services that may still be in use, oldest first.
    #[serde(default)]
    pub services: Vec<Issued>,
    /// Tells this enrolment from others of the node, however often its key is renewed.
    #[serde(default)]
    pub id: String,
}

impl EnrolmentRecord {
    /// Everything that has to be withdrawn with it.
    pub fn issued(&self) -> Vec<Issued> {
        self.certificates.iter().chain(&self.services).cloned().collect()
    }
}

/// A certificate that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Serial number, hex.
    pub serial: String,
    /// When it runs out.
    pub not_after: Timestamp,
}

/// A certificate that was withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedRecord {
    /// Whose it was.
    pub node: NodeName,
    /// After this it needs no entry any more.
    pub not_after: Timestamp,
    /// Whether its node was retired with it.
    #[serde(default)]
    pub retired: bool,
}

/// A node whose server is to be destroyed; gone once that is done and its identity is retired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacingRecord {
    /// Since when.
    pub since: Timestamp,
}

/// A key that will never be let in again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredRecord {
    /// Whose it was.
    pub node: NodeName,
    /// Since when.
    pub at: Timestamp,
}

/// What was last seen of a node, kept so that a restarted controller knows it.
#[derive(Clone, PartialEq, Message)]
pub struct ObservedRecord {
    /// The agent's version.
    #[prost(string, tag = "1")]
    pub agent_version: String,
    /// When it was last heard of.
    #[prost(int64, tag = "2")]
    pub last_seen_ms: i64,
    /// Task results and health.
    #[prost(message, optional, tag = "3")]
    pub observed: Option<v1::Observed>,
    /// Facts.
    #[prost(message, optional, tag = "4")]
    pub facts: Option<v1::Facts>,
    /// SHA-256 of the agent that runs, as it said last; empty if it never did.
    #[prost(string, tag = "5")]
    pub running_sha256: String,
    /// SHA-256 of the agent it could go back to; empty if there is none.
    #[prost(string, tag = "6")]
    pub other_sha256: String,
}

/// A value and the version it was read at.
#[derive(Clone, Debug)]
pub struct Held<T> {
    /// The value.
    pub value: T,
    /// For the conditional write that follows.
    pub version: u64,
}

/// The records over one store.
#[derive(Clone, Debug)]
pub struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    /// Over this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The store underneath.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The record at `key`.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be read or understood.
    pub async fn get<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<Held<T>>, RecordError> {
        match self.store.get(key).await? {
            Some(entry) => Ok(Some(Held { value: parse(key, &entry)?, version: entry.version })),
            None => Ok(None),
        }
    }

    /// Writes a record if `expected` holds.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be written; see [`RecordError::is_conflict`].
    pub async fn put<T: Serialize>(
        &self,
        key: &Key,
        value: &T,
        expected: Expected,
    ) -> Result<u64, RecordError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|source| RecordError::Damaged { key: key.clone(), source: source.into() })?;
        Ok(self.store.put(key, Bytes::from(bytes), expected).await?)
    }

    /// Writes a protobuf record, whatever was there.
    ///
    /// # Errors
    /// [`RecordError`] if it cannot be written.
    pub async fn put_message(&self, key: &Key, value: &impl Message) -> Result<u64, RecordError> {
        Ok(self.store.put(key, Bytes::from(value.encode_to_vec()), Expected::Any).await?)
    }

    /// Deletes a record, whatever it holds.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails.
    pub async fn delete(&self, key: &Key) -> Result<(), RecordError> {
        Ok(self.store.delete(key, Expected::Any).await?)
    }

    /// Deletes a record if it is still as it was read.
    ///
    /// # Errors
    /// [`RecordError`] if the store fails; see [`RecordError::is_conflict`].
    pub async fn delete_if(&self, key: &Key, version: u64) -> Result<(), RecordError> {
        Ok(self.store.delete(key, Expected::Version(version)).await?)
    }

    /// Every record below `prefix`, by the last segment of its key.
    ///
    /// # Errors
    /// [`RecordError`] if one cannot be read or understood.
    pub async fn list<T: DeserializeOwned>(&self, prefix: &Key) -> Result<Vec<(String, T)>, RecordError> {
        let entries = self.store.list(prefix).await?;
        entries.into_iter().map(|(key, entry)| Ok((key.last().to_owned(), parse(&key, &entry)?))).collect()
    }

    /// Every protobuf record of a node below `prefix`.
    ///
    /// # Errors
    /// [`RecordError`] if one cannot be read or understood.
    pub async fn list_messages<T: Message + Default>(
        &self,
        prefix: &Key,
    ) -> Result<Vec<(NodeName, T)>, RecordError> {
        let entries = self.store.list(prefix).await?;
        let damaged = |key: &Key, source: Box<dyn std::error::Error + Send + Sync>| RecordError::Damaged {
            key: key.clone(),
            source,
        };
        entries
            .into_iter()
            .map(|(key, entry)| {
                let node = key.last().parse().map_err(|error| damaged(&key, Box::new(error)))?;
                let value = T::decode(entry.value).map_err(|error| damaged(&key, Box::new(error)))?;
                Ok((node, value))
            })
            .collect()
    }

    /// Addresses the cloud gave each node.
    ///
    /// # Errors
    /// [`RecordError`] if they cannot be read.
    pub async fn addresses(&self) -> Result<BTreeMap<NodeName, Addresses>, RecordError> {
        let mut found = BTreeMap::new();
        for (node, addresses) in self.list(&keys::addresses()).await? {
            if let Ok(node) = node.parse() {
                found.insert(node, addresses);
            }
        }
        Ok(found)
    }
}

fn parse<T: DeserializeOwned>(key: &Key, entry: &Versioned) -> Result<T, RecordError> {
    serde_json::from_slice(&entry.value)
        .map_err(|source| RecordError::Damaged { key: key.clone(), source: source.into() })
}

/// Where each record lies.
pub mod keys {
    use fleet_model::NodeName;
    use fleet_store::Key;

    use crate::permit::Permit;

    fn fixed(path: &str) -> Key {
        Key::new(path).expect("our own keys are paths")
    }

    fn of(prefix: &str, name: &str) -> Key {
        // Node names are DNS labels, hashes and serials are hex: all of them are key segments.
        fixed(prefix).join(name).expect("names, hashes and serials are key segments")
    }

    macro_rules! single {
        ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {
            $($(#[$doc])* pub fn $name() -> Key { fixed($path) })*
        };
    }

    single! {
        /// The fleet.
        fleet = "fleet/record";
        /// The last run.
        run = "fleet/run";
        /// When the fleet ends by itself.
        expiry = "fleet/expiry";
        /// The certificate authority.
        authority = "ca/authority";
        /// Above all tokens.
        tokens = "token";
        /// Above all enrolments.
        enrolments = "enrolment";
        /// Above all desired states.
        desireds = "desired";
        /// Above all that nodes are to do.
        works = "work";
        /// Above all addresses.
        addresses = "addresses";
        /// Above all moments servers were first seen.
        arrivals = "arrived";
        /// Above all observations.
        observeds = "observed";
        /// Above all withdrawn certificates.
        revocations = "revoked";
        /// Above all leases of permits.
        permits = "permit";
        /// Above all clusters that were founded.
        foundations = "founded";
        /// Above all initial passwords.
        passwords = "password";
        /// Whom releases are taken from.
        releaser = "releaser/trust";
        /// Above all releases.
        releases = "release";
        /// Above all nodes that are being replaced.
        replacings = "replacing";
        /// Who stopped the line.
        line = "rollout/line";
        /// Who drives the rollouts.
        rollout_lease = "rollout/lease";
        /// Above all rollouts.
        rollouts = "rollout/head";
        /// Above all their states.
        rollout_pages = "rollout/state";
        /// Above what was bad on nodes.
        bads = "rollout/bad";
    }

    /// A token by the hex of its hash.
    pub fn token(hash: &str) -> Key {
        of("token", hash)
    }
    /// A node's enrolment.
    pub fn enrolment(node: &NodeName) -> Key {
        of("enrolment", node.as_str())
    }
    /// The node a key belongs to, by the hex of the key's hash.
    pub fn known_key(hash: &str) -> Key {
        of("key", hash)
    }
    /// A permit's lease.
    pub fn permit(permit: &Permit) -> Key {
        // Instances are made of letters, digits and `-_.`: all of them are key segments.
        of("permit", &permit.to_string())
    }
    /// A cluster that was founded.
    pub fn founded(instance: &str) -> Key {
        of("founded", instance)
    }
    /// A node that is being replaced.
    pub fn replacing(node: &NodeName) -> Key {
        of("replacing", node.as_str())
    }
    /// A release, by the hex of its agent's hash.
    pub fn release(sha256: &str) -> Key {
        of("release", sha256)
    }
    /// A rollout by its number.
    pub fn rollout(id: &str) -> Key {
        of("rollout/head", id)
    }
    /// A page of a rollout's state.
    pub fn rollout_page(snapshot: &str, page: u32) -> Key {
        of("rollout/state", &format!("{snapshot}/{page}"))
    }
    /// Releases that were bad on a node.
    pub fn bad(node: &NodeName) -> Key {
        of("rollout/bad", node.as_str())
    }
    /// A key that was retired, by the hex of its hash.
    pub fn retired(hash: &str) -> Key {
        of("retired", hash)
    }
    /// A node's desired state.
    pub fn desired(node: &NodeName) -> Key {
        of("desired", node.as_str())
    }
    /// What a node is to do.
    pub fn work(node: &NodeName) -> Key {
        of("work", node.as_str())
    }
    /// A node's addresses.
    pub fn node_addresses(node: &NodeName) -> Key {
        of("addresses", node.as_str())
    }
    /// When a node's server was first seen.
    pub fn arrived(node: &NodeName) -> Key {
        of("arrived", node.as_str())
    }
    /// By which host key a node's server was first seen.
    pub fn host_key(node: &NodeName) -> Key {
        of("host-key", node.as_str())
    }
    /// What was last seen of a node.
    pub fn observed(node: &NodeName) -> Key {
        of("observed", node.as_str())
    }
    /// A node's sealed initial password.
    pub fn password(node: &NodeName) -> Key {
        of("password", node.as_str())
    }
    /// A withdrawn certificate by the hex of its serial number.
    pub fn revoked(serial: &str) -> Key {
        of("revoked", serial)
    }
}
