//! Keys: ed25519 by ring.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleet_model::Secret;
use ring::{
    digest, rand,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};

/// Around a private key; the document between is one long line, which readers of PEM take.
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----\n";
const END: &str = "\n-----END PRIVATE KEY-----\n";

/// Why something is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ed25519 key: {0}")]
pub struct BadKey(&'static str);

/// A public key: 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

/// The first eight bytes of a public key's SHA-256: finds the key, proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl PublicKey {
    /// Its short name.
    pub fn id(&self) -> KeyId {
        let sum = digest::digest(&digest::SHA256, &self.0);
        let mut id = [0; 8];
        id.copy_from_slice(&sum.as_ref()[..8]);
        KeyId(id)
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

/// A private key; kept by the releaser.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new key, and what to keep of it: PKCS#8 in PEM.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<(Self, Secret), BadKey> {
        let document = Ed25519KeyPair::generate_pkcs8(&rand::SystemRandom::new())
            .map_err(|_| BadKey("the system gives no randomness"))?;
        let pem = Secret::new(format!("{BEGIN}{}{END}", STANDARD.encode(document.as_ref())));
        Ok((Self::from_pem(&pem)?, pem))
    }

    /// From what [`generate`](Self::generate) gave.
    ///
    /// # Errors
    /// It is not that.
    pub fn from_pem(pem: &Secret) -> Result<Self, BadKey> {
        let body = pem.reveal().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let document = body.and_then(|body| STANDARD.decode(body).ok());
        let pair = document.and_then(|document| Ed25519KeyPair::from_pkcs8(&document).ok());
        pair.map(Self).ok_or(BadKey("the private key cannot be read"))
    }

    /// What others need to check its signatures.
    pub fn public(&self) -> PublicKey {
        let mut public = [0; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(public)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;
    fn from_str(text: &str) -> Result<Self, BadKey> {
        unhex(text).map(Self).ok_or(BadKey("a public key is 64 lower-case hexadecimal digits"))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = BadKey;
    fn try_from(text: String) -> Result<Self, BadKey> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        hex(&key.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = BadKey;
    fn from_str(text: &str) -> Result<Self, BadKey> {
        unhex(text).map(Self).ok_or(BadKey("a key id is 16 lower-case hexadecimal digits"))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes from lower-case digits.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}
