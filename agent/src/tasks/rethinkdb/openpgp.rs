//! Which keys a file of OpenPGP keys holds, so that a pinned one can be told from all others.
//!
//! Only what that takes: armour (RFC 4880, section 6.2), packet headers (section 4.2), fingerprints of version 4 keys
//! (section 12.2). Whether a key signs anything is apt's to find out.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Largest file looked at; a key has a few thousand bytes.
pub(super) const LARGEST: usize = 1 << 20;
/// Packet tags (section 4.3): what only belongs to keys in private hands, and what a key begins with.
const SECRET_KEY: u8 = 5;
const PUBLIC_KEY: u8 = 6;
const SECRET_SUBKEY: u8 = 7;

/// Why a file is no file of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("it is too large for a key")]
    Large,
    #[error("its armour is damaged")]
    Armour,
    #[error("it is no OpenPGP file, or is cut off")]
    Packet,
    #[error("it holds a key of version {0}, whose fingerprint this agent cannot tell")]
    Version(u8),
    #[error("it holds a secret key")]
    Secret,
}

/// The keys without armour, whether they came in one or not.
pub(super) fn binary(bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
    if bytes.len() > LARGEST {
        return Err(KeyError::Large);
    }
    if !bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP ") {
        return Ok(bytes.to_vec());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| KeyError::Armour)?;
    let mut keys = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while lines.any(|line| line == "-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        // Headers end with an empty line.
        lines.by_ref().find(|line| line.is_empty()).ok_or(KeyError::Armour)?;
        let mut body = String::new();
        loop {
            match lines.next().ok_or(KeyError::Armour)? {
                "-----END PGP PUBLIC KEY BLOCK-----" => break,
                // A checksum against damage on the way; what counts here is the fingerprint.
                line if line.starts_with('=') => (),
                line => body.push_str(line),
            }
        }
        keys.extend(STANDARD.decode(body).map_err(|_| KeyError::Armour)?);
    }
    if keys.is_empty() { Err(KeyError::Armour) } else { Ok(keys) }
}

/// Fingerprints of the primary keys, in upper-case hex.
pub(super) fn fingerprints(mut keys: &[u8]) -> Result<Vec<String>, KeyError> {
    let mut found = Vec::new();
    while !keys.is_empty() {
        let (tag, body, rest) = packet(keys).ok_or(KeyError::Packet)?;
        match (tag, body.first()) {
            (SECRET_KEY | SECRET_SUBKEY, _) => return Err(KeyError::Secret),
            (PUBLIC_KEY, Some(4)) => found.push(fingerprint(body).ok_or(KeyError::Packet)?),
            (PUBLIC_KEY, Some(version)) => return Err(KeyError::Version(*version)),
            (PUBLIC_KEY, None) => return Err(KeyError::Packet),
            _ => (),
        }
        keys = rest;
    }
    Ok(found)
}

fn fingerprint(body: &[u8]) -> Option<String> {
    let length = u16::try_from(body.len()).ok()?;
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(&[0x99]);
    digest.update(&length.to_be_bytes());
    digest.update(body);
    Some(digest.finish().as_ref().iter().map(|byte| format!("{byte:02X}")).collect())
}

/// Tag and body of the first packet, and what follows it. Partial lengths are for data, never for keys.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let number =
        |n: usize| Some(rest.get(..n)?.iter().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte)));
    let (tag, length, head) = match first {
        0xc0.. => {
            let (length, head) = match *rest.first()? {
                short @ 0..=191 => (usize::from(short), 1),
                long @ 192..=223 => (((usize::from(long) - 192) << 8) + usize::from(*rest.get(1)?) + 192, 2),
                255 => (number(5)? & 0xffff_ffff, 5),
                _ => return None,
            };
            (first & 0x3f, length, head)
        }
        0x80..0xc0 => {
            let head = match first & 3 {
                0 => 1,
                1 => 2,
                2 => 4,
                _ => return None,
            };
            ((first >> 2) & 0xf, number(head)?, head)
        }
        _ => return None,
    };
    let body = rest.get(head..)?;
    Some((tag, body.get(..length)?, &body[length..]))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet in the old form, with a two-byte length.
    pub(in super::super) fn old(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&[0x81 | (tag << 2), length[0], length[1]], body].concat()
    }

    pub(in super::super) fn armoured(keys: &[u8]) -> String {
        let body = STANDARD.encode(keys);
        let lines: Vec<&str> =
            (0..body.len()).step_by(64).map(|at| &body[at..(at + 64).min(body.len())]).collect();
        format!(
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: x\n\n{}\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n",
            lines.join("\n")
        )
    }

    #[test]
    fn primary_keys_are_told_and_nothing_else_counts() {
        let body = [4, 1, 2, 3, 4, 22, 9, 9];
        let one = old(PUBLIC_KEY, &body);
        // SHA-1 of 99 0008 04 01020304 16 0909.
        let expected = fingerprint(&body).expect("short");
        assert_eq!(expected.len(), 40);
        let ring = [one.clone(), old(13, b"a name"), old(2, b"a signature"), old(14, &body)].concat();
        assert_eq!(fingerprints(&ring), Ok(vec![expected.clone()]));
        // In the new form.
        let new = [&[0xc0 | PUBLIC_KEY, 8][..], &body].concat();
        assert_eq!(fingerprints(&[one, new].concat()), Ok(vec![expected.clone(), expected]));
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let check = |bytes: &[u8], expected| assert_eq!(fingerprints(bytes), Err(expected), "{bytes:?}");
        check(&old(PUBLIC_KEY, &[6, 0]), KeyError::Version(6));
        check(&old(PUBLIC_KEY, &[3, 0]), KeyError::Version(3));
        check(&old(PUBLIC_KEY, &[]), KeyError::Packet);
        check(&old(SECRET_KEY, &[4, 0]), KeyError::Secret);
        check(b"<html>not found</html>", KeyError::Packet);
        check(&old(PUBLIC_KEY, &[4, 0])[..4], KeyError::Packet);
        assert_eq!(binary(&vec![0; LARGEST + 1]), Err(KeyError::Large));
    }

    #[test]
    fn armour_comes_off() {
        let key = old(PUBLIC_KEY, &[4; 200]);
        assert_eq!(binary(&key), Ok(key.clone()));
        assert_eq!(binary(armoured(&key).as_bytes()), Ok(key.clone()));
        let two = format!("{}{}", armoured(&key), armoured(&key));
        assert_eq!(
            binary(two.as_bytes()),
            Ok([key.clone(), key.clone()].concat()),
            "nothing hides behind the first"
        );
        let cut = &armoured(&key)[..150];
        assert_eq!(binary(cut.as_bytes()), Err(KeyError::Armour));
        assert_eq!(binary(b"-----BEGIN PGP MESSAGE-----\n\nAAAA\n"), Err(KeyError::Armour));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = binary(&bytes).and_then(|keys| fingerprints(&keys));
            let _ = fingerprints(&old(PUBLIC_KEY, &bytes));
        }
    }
}
