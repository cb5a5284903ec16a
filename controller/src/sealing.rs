//! Secrets at rest: sealed with a key that lies outside the store.
//!
//! A copy of the store alone (a backup, a stolen disk image of one folder) gives away neither the CA's key nor
//! a server's password.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rand::{TryRngCore, rngs::OsRng};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Name of the key's file in the controller's folder.
const FILE: &str = "sealing.key";
/// Name under which systemd may hand us the key (`LoadCredential=`, `LoadCredentialEncrypted=`).
const CREDENTIAL: &str = "fleet-sealing-key";
const KEY_LEN: usize = 32;

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// The key's file cannot be read or made.
    #[error("sealing key {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file does not hold a key.
    #[error("sealing key {}: expected 32 bytes in base64", .0.display())]
    NotAKey(PathBuf),
    /// The operating system gives no randomness.
    #[error("draw random bytes")]
    Random(#[source] rand::rand_core::OsError),
    /// Sealed with another key, for another purpose, or damaged.
    #[error("open sealed `{0}`: it was sealed with another key, or is damaged")]
    Open(String),
}

/// Seals and opens small secrets.
#[derive(Clone)]
pub struct Sealing(std::sync::Arc<LessSafeKey>);

impl std::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealing(…)")
    }
}

impl Sealing {
    /// The key of the controller whose folder is `dir`: systemd's credential if there is one, else the file
    /// `sealing.key`, made on first use.
    ///
    /// # Errors
    /// [`SealingError`] if there is a key that cannot be read, or none can be made.
    pub fn open(dir: &Path) -> Result<Self, SealingError> {
        let credential =
            std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(CREDENTIAL));
        match credential {
            Some(path) if path.exists() => Self::read(&path),
            _ => Self::read_or_make(&dir.join(FILE)),
        }
    }

    fn read_or_make(path: &Path) -> Result<Self, SealingError> {
        if !path.exists() {
            make(path)?;
        }
        Self::read(path)
    }

    fn read(path: &Path) -> Result<Self, SealingError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SealingError::File { path: path.to_owned(), source })?;
        let not_a_key = || SealingError::NotAKey(path.to_owned());
        let bytes = STANDARD.decode(text.trim()).map_err(|_| not_a_key())?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| not_a_key())?;
        Ok(Self(std::sync::Arc::new(LessSafeKey::new(key))))
    }

    /// Seals `secret` for `purpose`; it opens only for the same purpose, so that sealed values cannot be
    /// swapped for one another.
    ///
    /// # Errors
    /// [`SealingError::Random`] without randomness.
    pub fn seal(&self, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, SealingError> {
        // Random nonces of 96 bits are safe for some 2^32 secrets under one key; a fleet has thousands.
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = secret.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(purpose.as_bytes()),
                &mut sealed,
            )
            .expect("secrets are far below the cipher's limit of 256 GiB");
        let mut whole = nonce.to_vec();
        whole.append(&mut sealed);
        Ok(whole)
    }

    /// Opens what [`Self::seal`] made for the same purpose.
    ///
    /// # Errors
    /// [`SealingError::Open`] if it was not.
    pub fn open_sealed(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SealingError> {
        let failed = || SealingError::Open(purpose.to_owned());
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(failed)?;
        let mut rest = rest.to_vec();
        let opened = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(purpose.as_bytes()), &mut rest)
            .map_err(|_| failed())?;
        Ok(opened.to_vec())
    }
}

/// Random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], SealingError> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(SealingError::Random)?;
    Ok(bytes)
}

fn make(path: &Path) -> Result<(), SealingError> {
    let failed = |source| SealingError::File { path: path.to_owned(), source };
    let text = STANDARD.encode(random::<KEY_LEN>()?);
    // Written whole before it gets its name: a crash leaves no half key that would lock everything away.
    let draft = path.with_extension("key.new");
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_sealed_opens_for_its_purpose_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let sealing = Sealing::open(dir.path()).expect("a key is made");
        let sealed = sealing.seal("ca", b"secret").expect("seals");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(sealing.open_sealed("ca", &sealed).expect("opens"), b"secret");
        assert!(sealing.open_sealed("password/web", &sealed).is_err());
        let mut damaged = sealed.clone();
        *damaged.last_mut().expect("not empty") ^= 1;
        assert!(sealing.open_sealed("ca", &damaged).is_err());
        assert!(sealing.open_sealed("ca", &sealed[..5]).is_err());
    }

    #[test]
    fn the_key_is_private_and_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let sealed = Sealing::open(dir.path()).expect("made").seal("p", b"s").expect("seals");
        let mode = dir.path().join(FILE).metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Sealing::open(dir.path()).expect("read");
        assert_eq!(again.open_sealed("p", &sealed).expect("opens"), b"s");
    }

    #[test]
    fn a_damaged_key_is_an_error_not_a_new_key() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join(FILE), "short").expect("writes");
        assert!(matches!(Sealing::open(dir.path()), Err(SealingError::NotAKey(_))));
    }
}
