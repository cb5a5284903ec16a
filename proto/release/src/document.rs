//! The one form of all documents: kind, signatures, body.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    key::{KeyId, SigningKey, hex, unhex},
    refusal::{Kind, Refusal},
    root::Role,
};

/// Largest document read; a manifest has about 1 KB.
pub const MAX_BYTES: usize = 256 * 1024;

/// A body of one kind.
pub trait Body: Serialize + DeserializeOwned {
    /// Its kind.
    const KIND: Kind;
    /// What the form alone cannot say; text for a person if it does not hold.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self) -> Result<(), String>;
}

/// A document whose form is right; nothing of its body has been read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    kind: Kind,
    signatures: BTreeMap<KeyId, [u8; 64]>,
    body: Vec<u8>,
}

/// Who may sign beside the role in question.
#[derive(Clone, Copy)]
pub(crate) enum Also<'a> {
    /// Nobody.
    Nobody,
    /// This role: old and new keys sign a new root together.
    Those(&'a Role),
    /// Keys no longer known; only for a root that came by a trusted way.
    Anybody,
}

impl Signed {
    /// A document with no signature yet.
    ///
    /// # Errors
    /// The body does not hold.
    pub fn new<B: Body>(body: &B) -> Result<Self, Refusal> {
        let malformed = |why| Refusal::Malformed { kind: B::KIND, why };
        body.check().map_err(malformed)?;
        let body = serde_json::to_vec(body).map_err(|error| malformed(error.to_string()))?;
        Ok(Self { kind: B::KIND, signatures: BTreeMap::new(), body })
    }

    /// Adds the signature of `key`.
    pub fn sign(&mut self, key: &SigningKey) {
        let signature = key.sign(&self.message());
        if let Ok(signature) = signature.try_into() {
            self.signatures.insert(key.public().id(), signature);
        }
    }

    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = head(self.kind);
        for (id, signature) in &self.signatures {
            text.push_str(&format!("{id} {}\n", hex(signature)));
        }
        text.push('\n');
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// From the bytes that came.
    ///
    /// # Errors
    /// They are not exactly a document of this `kind`.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = |why: &str| Refusal::Malformed { kind, why: why.to_owned() };
        if bytes.len() > MAX_BYTES {
            return Err(malformed("it is too large"));
        }
        let end =
            bytes.windows(2).position(|pair| pair == b"\n\n").ok_or_else(|| malformed("it has no body"))?;
        let (top, body) = (&bytes[..end + 1], &bytes[end + 2..]);
        let top = std::str::from_utf8(top).map_err(|_| malformed("its first lines are not text"))?;
        let lines =
            top.strip_prefix(&head(kind)).ok_or_else(|| malformed("its first line names something else"))?;
        let mut signatures = BTreeMap::new();
        for line in lines.lines() {
            let parts = line.split_once(' ');
            let read = parts.and_then(|(id, signature)| Some((id.parse().ok()?, unhex(signature)?)));
            let (id, signature) = read.ok_or_else(|| malformed("a signature line is not one"))?;
            signatures.insert(id, signature);
        }
        let document = Self { kind, signatures, body: body.to_vec() };
        if document.encode() != bytes {
            return Err(malformed("its signature lines are not in order"));
        }
        Ok(document)
    }

    /// Who signed, found good or not.
    pub fn signers(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.signatures.keys().copied()
    }

    /// What it says, whoever signed it: for showing, never for acting upon.
    ///
    /// # Errors
    /// It is not in the one form that is read.
    pub fn claim<B: Body>(&self) -> Result<B, Refusal> {
        self.body()
    }

    /// Whether enough keys of `role` signed, and nobody else but `also`.
    pub(crate) fn signed_by(&self, role: &Role, also: Also<'_>) -> Result<(), Refusal> {
        let message = self.message();
        let find = |role: &Role, id| role.keys.iter().find(|key| key.id() == id).cloned();
        let mut good = 0;
        for (id, signature) in &self.signatures {
            let own = find(role, *id);
            let counts = own.is_some();
            let key = match (own, also) {
                (None, Also::Those(role)) => find(role, *id),
                (None, Also::Anybody) => continue,
                (own, _) => own,
            };
            let key = key.ok_or(Refusal::UnknownKey { kind: self.kind, key: *id })?;
            if !key.verifies(&message, signature) {
                return Err(Refusal::WrongSignature { kind: self.kind, key: *id });
            }
            good += u32::from(counts);
        }
        if good < role.threshold {
            return Err(Refusal::TooFewSignatures { kind: self.kind, good, needed: role.threshold });
        }
        Ok(())
    }

    /// The body. Only asked for once signatures are found good.
    pub(crate) fn body<B: Body>(&self) -> Result<B, Refusal> {
        let malformed = |why| Refusal::Malformed { kind: B::KIND, why };
        if self.kind != B::KIND {
            return Err(malformed(format!("it is a {}", self.kind)));
        }
        let body: B = serde_json::from_slice(&self.body).map_err(|error| malformed(error.to_string()))?;
        let again = serde_json::to_vec(&body).map_err(|error| malformed(error.to_string()))?;
        if again != self.body {
            return Err(malformed("its body is not in the one form that is read".to_owned()));
        }
        body.check().map_err(malformed)?;
        Ok(body)
    }

    fn message(&self) -> Vec<u8> {
        let mut message = head(self.kind).into_bytes();
        message.extend_from_slice(&self.body);
        message
    }
}

fn head(kind: Kind) -> String {
    format!("fleet-release 1 {kind}\n")
}
