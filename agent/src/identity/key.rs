//! The node's private keys: made here, never sent anywhere.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use fleet_task::atomic;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::IdentityError;

/// A private key (P-256) in a file only its owner can read.
pub struct Key {
    pair: KeyPair,
    file: PathBuf,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Key {
    /// The key in `file`; made and stored durably first if there is none. Stored before anybody hears of it,
    /// so that a retried enrolment shows the same key.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open_or_make(file: PathBuf) -> Result<Self, IdentityError> {
        if let Some(key) = Self::open(file.clone())? {
            return Ok(key);
        }
        let key = Self { pair: generate()?, file };
        key.store()?;
        Ok(key)
    }

    /// A new key in `folder`, in a file named after its public half.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn make_in(folder: &Path) -> Result<Self, IdentityError> {
        let pair = generate()?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &pair.subject_public_key_info());
        let mark: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let key = Self { pair, file: folder.join(format!("key-{mark}")) };
        key.store()?;
        Ok(key)
    }

    /// The key in `file`, if there is one.
    ///
    /// # Errors
    /// [`IdentityError`] if it is there and cannot be used.
    pub fn open(file: PathBuf) -> Result<Option<Self>, IdentityError> {
        let pem = match fs::read_to_string(&file) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Read { path: file, source }),
        };
        match KeyPair::from_pem(&pem) {
            Ok(pair) => Ok(Some(Self { pair, file })),
            Err(error) => Err(IdentityError::Damaged { path: file, why: error.to_string() }),
        }
    }

    /// PKCS#10, DER. The controller takes the public key from it and nothing else.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn request(&self, node: &str) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node);
        let request = params.serialize_request(&self.pair).map_err(IdentityError::Crypto)?;
        Ok(request.der().to_vec())
    }

    /// The private key as rustls takes it.
    pub(crate) fn der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()
    }

    /// Its file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn store(&self) -> Result<(), IdentityError> {
        atomic::write(&self.file, self.pair.serialize_pem().as_bytes(), 0o600).map_err(IdentityError::Write)
    }
}

fn generate() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Crypto)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn made_once_private_and_the_same_ever_after() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("key");
        let first = Key::open_or_make(file.clone()).expect("make");
        assert_eq!(fs::metadata(&file).expect("meta").mode() & 0o777, 0o600);
        let again = Key::open_or_make(file).expect("open");
        assert_eq!(first.pair.serialize_der(), again.pair.serialize_der());
        let text = format!("{first:?}");
        assert!(!text.contains("PRIVATE"), "{text}");
    }

    #[test]
    fn a_damaged_key_is_named_and_not_replaced() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("key");
        fs::write(&file, "-----BEGIN PRIVATE").expect("damage");
        let error = Key::open_or_make(file.clone()).expect_err("damaged");
        assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
        assert_eq!(fs::read_to_string(file).expect("read"), "-----BEGIN PRIVATE");
    }
}
