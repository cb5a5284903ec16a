//! The server's half of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding, as RethinkDB speaks it.

use std::num::NonZeroU32;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    digest, hmac, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};

/// Rounds for a password; an empty one gets a single round, as with the real server.
const ROUNDS: u32 = 4096;

/// What a server keeps of a password.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Password {
    salt: Vec<u8>,
    rounds: u32,
    salted: Vec<u8>,
    empty: bool,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}

impl Password {
    /// Keeps a password.
    pub fn new(text: &str) -> Self {
        // All servers of a cluster start with the same empty password; it needs no salt to agree on.
        let (salt, rounds) =
            if text.is_empty() { (vec![0; 16], 1) } else { (random::<16>().to_vec(), ROUNDS) };
        let mut salted = vec![0; digest::SHA256_OUTPUT_LEN];
        let count = NonZeroU32::new(rounds).expect("one or more rounds");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, &salt, text.as_bytes(), &mut salted);
        Self { salt, rounds, salted, empty: text.is_empty() }
    }

    /// Whether it is the empty one.
    pub fn is_empty(&self) -> bool {
        self.empty
    }
}

/// Why a driver is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    /// The protocol's number for it.
    pub code: u32,
    /// The real server's words for it.
    pub message: &'static str,
}

fn denied(code: u32, message: &'static str) -> Denied {
    Denied { code, message }
}

/// An exchange between its two messages.
#[derive(Debug)]
pub struct Exchange {
    first_bare: String,
    server_first: String,
    nonce: String,
    password: Option<Password>,
}

/// Answers the driver's first message.
///
/// # Errors
/// The message is malformed.
pub fn first(
    message: &str,
    password_of: impl FnOnce(&str) -> Option<Password>,
) -> Result<(Exchange, String), Denied> {
    let encoding = || denied(10, "Invalid encoding");
    let rest = message.strip_prefix("n,").ok_or(denied(15, "Channel binding is not supported"))?;
    let (_, bare) = rest.split_once(',').ok_or_else(encoding)?;
    let (mut user, mut nonce) = (None, None);
    for (name, value) in attributes(bare)? {
        match name {
            'n' => user = Some(value.replace("=2C", ",").replace("=3D", "=")),
            'r' => nonce = Some(value.to_owned()),
            'm' => return Err(denied(11, "Extensions not supported")),
            _ => return Err(encoding()),
        }
    }
    let (Some(user), Some(nonce)) = (user, nonce) else { return Err(encoding()) };
    let known = password_of(&user);
    // An unknown user is told so only at the end; until then it looks like any other.
    let shown = known.clone().unwrap_or_else(|| Password {
        salt: random::<16>().to_vec(),
        rounds: ROUNDS,
        salted: Vec::new(),
        empty: false,
    });
    let nonce = format!("{nonce}{}", STANDARD.encode(random::<18>()));
    let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(&shown.salt), shown.rounds);
    let exchange =
        Exchange { first_bare: bare.into(), server_first: server_first.clone(), nonce, password: known };
    Ok((exchange, server_first))
}

impl Exchange {
    /// Checks the driver's proof; the answer proves that this server knew the password.
    ///
    /// # Errors
    /// The driver does not know the password, or the message is malformed.
    pub fn finish(self, message: &str) -> Result<String, Denied> {
        let encoding = || denied(10, "Invalid encoding");
        let password = self.password.ok_or(denied(17, "Unknown user"))?;
        let mut proof = None;
        let (mut bound, mut fresh) = (false, false);
        for (name, value) in attributes(message)? {
            match name {
                'c' if value == "biws" => bound = true,
                'r' if value == self.nonce => fresh = true,
                'r' => return Err(denied(20, "Other error")),
                'p' => proof = Some(value),
                'm' => return Err(denied(11, "Extensions not supported")),
                _ => return Err(encoding()),
            }
        }
        let proof = proof.filter(|_| bound && fresh).ok_or_else(encoding)?;
        let without_proof = message.split(",p=").next().unwrap_or_default();
        let signed = format!("{},{},{without_proof}", self.first_bare, self.server_first);
        let client_key = mac(&password.salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = mac(stored_key.as_ref(), signed.as_bytes());
        let expected: Vec<u8> =
            client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
        let given = STANDARD.decode(proof).map_err(|_| encoding())?;
        if !same(&given, &expected) {
            return Err(denied(12, "Wrong password"));
        }
        let server_key = mac(&password.salted, b"Server Key");
        Ok(format!("v={}", STANDARD.encode(mac(server_key.as_ref(), signed.as_bytes()))))
    }
}

/// Whether both are the same; its time says nothing of where they differ.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.iter().zip(right).fold(left.len() ^ right.len(), |all, (l, r)| all | usize::from(l ^ r)) == 0
}

fn mac(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

fn attributes(message: &str) -> Result<Vec<(char, &str)>, Denied> {
    let encoding = || denied(10, "Invalid encoding");
    let mut found: Vec<(char, &str)> = Vec::new();
    for part in message.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(encoding)?;
        let mut letters = name.chars();
        let (Some(letter), None) = (letters.next(), letters.next()) else { return Err(encoding()) };
        if found.iter().any(|(there, _)| *there == letter) {
            return Err(encoding());
        }
        found.push((letter, value));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677 section 3, with its salt and nonces put in place.
    #[test]
    fn the_example_of_the_rfc() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let mut salted = vec![0; 32];
        let rounds = NonZeroU32::new(4096).expect("positive");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, b"pencil", &mut salted);
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
        let exchange = Exchange {
            first_bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".into(),
            server_first: format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
            nonce: nonce.clone(),
            password: Some(Password { salt, rounds: 4096, salted, empty: false }),
        };
        let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(exchange.finish(&last), Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".into()));
    }

    #[test]
    fn malformed_messages_are_refused() {
        for (message, code) in
            [("y,,n=a,r=b", 15), ("n,", 10), ("n,,n=a", 10), ("n,,n=a,r=b,m=c", 11), ("n,,n=a,n=b,r=c", 10)]
        {
            let refused = first(message, |_| None).expect_err(message);
            assert_eq!(refused.code, code, "{message}");
        }
    }
}
