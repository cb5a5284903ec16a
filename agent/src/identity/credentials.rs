//! What the node holds: certificates, whom to trust, where to dial. One file, replaced in one step.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleet_model::{FleetName, NodeName, Timestamp};
use fleet_proto::{
    tls::{self, IdentitySlot, TlsError},
    v1,
};
use fleet_task::atomic::{self, AtomicError};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::Key;
use crate::{Places, contact::Named};

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(AtomicError),
    /// A key or request could not be made.
    #[error("make a key or a certificate request")]
    Crypto(#[source] rcgen::Error),
    /// Key and certificates do not make a TLS identity.
    #[error("use the certificate")]
    Tls(#[source] TlsError),
    /// The controller's answer lacks something.
    #[error("the controller's answer has no {0}")]
    Answer(&'static str),
}

/// One certificate with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The fleet.
    pub fleet: FleetName,
    /// This node's name in it.
    pub node: NodeName,
    /// File name of the private key, beside this file.
    pub key_file: String,
    /// DER in base64, leaf first.
    pub certificate_chain: Vec<String>,
    /// DER in base64.
    pub trust_bundle: Vec<String>,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// When to ask for the next one, by the controller's clock.
    pub renew_at: Timestamp,
    /// Where to dial for the session.
    pub session_addresses: Vec<String>,
    /// Where it enrolled; asked again when sessions are refused without a reason.
    pub enrol_addresses: Vec<String>,
    /// SHA-256 of the token it enrolled with, in hex: tells a seed that was used from a new one.
    pub token_digest: String,
}

impl Credentials {
    /// Who this is.
    pub(crate) fn named(&self) -> Named {
        Named { fleet: self.fleet.clone(), node: self.node.clone() }
    }

    /// Reads a controller's answer. Addresses and token digest come from `before` where the answer has none.
    ///
    /// # Errors
    /// [`IdentityError::Answer`] if something is missing.
    pub(crate) fn from_answer(
        answer: &v1::Credentials,
        key: &Key,
        before: &Origin,
    ) -> Result<Self, IdentityError> {
        let encode = |certificates: &[Vec<u8>]| certificates.iter().map(|der| STANDARD.encode(der)).collect();
        if answer.certificate_chain.is_empty() {
            return Err(IdentityError::Answer("certificate"));
        }
        if answer.trust_bundle.is_empty() {
            return Err(IdentityError::Answer("trust bundle"));
        }
        let session_addresses = match answer.session_addresses.as_slice() {
            [] => before.session_addresses.clone(),
            addresses => addresses.to_vec(),
        };
        if session_addresses.is_empty() {
            return Err(IdentityError::Answer("session address"));
        }
        let key_file =
            key.file().file_name().and_then(|name| name.to_str()).ok_or(IdentityError::Answer("key"))?;
        Ok(Self {
            fleet: before.fleet.clone(),
            node: answer.node.parse().map_err(|_| IdentityError::Answer("node name"))?,
            key_file: key_file.to_owned(),
            certificate_chain: encode(&answer.certificate_chain),
            trust_bundle: encode(&answer.trust_bundle),
            not_after: Timestamp::from_millis(answer.not_after_ms),
            renew_at: Timestamp::from_millis(answer.renew_at_ms),
            session_addresses,
            enrol_addresses: before.enrol_addresses.clone(),
            token_digest: before.token_digest.clone(),
        })
    }

    /// What the next credentials inherit from these.
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            fleet: self.fleet.clone(),
            session_addresses: self.session_addresses.clone(),
            enrol_addresses: self.enrol_addresses.clone(),
            token_digest: self.token_digest.clone(),
        }
    }

    /// TLS with this identity towards this fleet's controllers.
    ///
    /// # Errors
    /// [`IdentityError`] if a file is damaged or key and certificate do not belong together.
    pub(crate) fn tls(&self, places: &Places) -> Result<Arc<ClientConfig>, IdentityError> {
        let slot = IdentitySlot::new(self.decode(&self.certificate_chain, places)?, self.key(places)?.der())
            .map_err(IdentityError::Tls)?;
        let config = tls::client(&self.decode(&self.trust_bundle, places)?, Some(Arc::new(slot)))
            .map_err(IdentityError::Tls)?;
        Ok(Arc::new(config))
    }

    /// TLS that shows nobody who we are, as the enrolment listener wants it.
    pub(crate) fn anonymous_tls(&self, places: &Places) -> Result<Arc<ClientConfig>, IdentityError> {
        let bundle = self.decode(&self.trust_bundle, places)?;
        Ok(Arc::new(tls::client(&bundle, None).map_err(IdentityError::Tls)?))
    }

    /// The private key of this certificate.
    ///
    /// # Errors
    /// [`IdentityError`] if it is missing or damaged.
    pub(crate) fn key(&self, places: &Places) -> Result<Key, IdentityError> {
        let file = places.state().join(&self.key_file);
        Key::open(file.clone())?.ok_or_else(|| IdentityError::Read {
            path: file,
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    fn decode(
        &self,
        list: &[String],
        places: &Places,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        list.iter()
            .map(|text| {
                STANDARD.decode(text).map(CertificateDer::from).map_err(|error| IdentityError::Damaged {
                    path: places.credentials(),
                    why: error.to_string(),
                })
            })
            .collect()
    }
}

/// What credentials take over from the seed or from the ones before them.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) fleet: FleetName,
    pub(crate) session_addresses: Vec<String>,
    pub(crate) enrol_addresses: Vec<String>,
    pub(crate) token_digest: String,
}

/// All credentials on this node: the newest, and the ones before it until the newest has worked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// What the node uses.
    pub current: Credentials,
    /// What it falls back to if a controller does not take the current ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Credentials>,
}

impl Holdings {
    /// What the node holds; `None` if it never enrolled.
    ///
    /// # Errors
    /// [`IdentityError`] if the file is there and cannot be used.
    pub fn load(places: &Places) -> Result<Option<Self>, IdentityError> {
        let path = places.credentials();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(holdings) => Ok(Some(holdings)),
            Err(error) => Err(IdentityError::Damaged { path, why: error.to_string() }),
        }
    }

    /// Replaces what is on disk, then deletes keys nothing refers to any more.
    ///
    /// # Errors
    /// [`IdentityError::Write`]; then the old holdings stand.
    pub(crate) fn store(&self, places: &Places) -> Result<(), IdentityError> {
        let bytes = serde_json::to_vec_pretty(self).expect("text and numbers always become JSON");
        atomic::write(&places.credentials(), &bytes, 0o600).map_err(IdentityError::Write)?;
        self.sweep(places);
        Ok(())
    }

    /// Deletes key files of certificates that are gone. Failing to is harmless and tried again next time.
    fn sweep(&self, places: &Places) {
        let kept = |name: &str| {
            std::iter::once(&self.current)
                .chain(&self.previous)
                .any(|credentials| credentials.key_file == name)
        };
        for entry in fs::read_dir(places.state()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if (name == "key" || name.starts_with("key-")) && !kept(&name) {
                let _ = atomic::remove(Path::new(&entry.path()));
            }
        }
    }
}
