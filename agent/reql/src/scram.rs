//! SCRAM-SHA-256 (RFC 5802 with RFC 7677), the client's half. No I/O.

use std::num::NonZeroU32;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::{digest, hmac, pbkdf2};

/// More rounds than any server uses would only burn this process's time.
const MOST_ROUNDS: u32 = 1_000_000;
/// Without channel binding; `biws` is its base64.
const HEADER: &str = "n,,";

/// What is wrong with the server's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramError {
    #[error("the server's first message cannot be read")]
    First,
    #[error("the server changed our nonce")]
    Nonce,
    #[error("the server asks for a number of rounds nobody needs")]
    Rounds,
    #[error("the server's final message cannot be read")]
    Final,
    #[error("the server does not know the password: its signature is wrong")]
    Signature,
}

/// The exchange after our first message.
pub(crate) struct Scram {
    nonce: String,
    first_bare: String,
}

impl Scram {
    /// Begins with a nonce of printable characters other than comma.
    pub(crate) fn new(user: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={user},r={nonce}");
        Self { nonce, first_bare }
    }

    /// Our first message.
    pub(crate) fn first(&self) -> String {
        format!("{HEADER}{}", self.first_bare)
    }

    /// Our second message, and how the server's last one is judged.
    pub(crate) fn answer(
        &self,
        password: &str,
        server_first: &str,
    ) -> Result<(String, Expected), ScramError> {
        let mut fields = server_first.split(',');
        let mut field = |name| fields.next().and_then(|field| field.strip_prefix(name));
        let nonce = field("r=").ok_or(ScramError::First)?;
        let salt = field("s=").and_then(|salt| BASE64.decode(salt).ok()).ok_or(ScramError::First)?;
        let rounds: u32 = field("i=").and_then(|rounds| rounds.parse().ok()).ok_or(ScramError::First)?;
        // The server's part must be there too, or an old exchange could be played back.
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Nonce);
        }
        let rounds = NonZeroU32::new(rounds).filter(|n| n.get() <= MOST_ROUNDS).ok_or(ScramError::Rounds)?;

        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &mut salted);
        let without_proof = format!("c={},r={nonce}", BASE64.encode(HEADER));
        let signed = format!("{},{server_first},{without_proof}", self.first_bare);

        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = sign(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> =
            client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
        let server_key = sign(&salted, b"Server Key");
        let expected = Expected { server_key: server_key.as_ref().to_vec(), signed };
        Ok((format!("{without_proof},p={}", BASE64.encode(proof)), expected))
    }
}

/// What only a server that knows the password can sign.
pub(crate) struct Expected {
    server_key: Vec<u8>,
    signed: String,
}

impl Expected {
    /// Judges the server's last message.
    pub(crate) fn check(&self, server_final: &str) -> Result<(), ScramError> {
        let signature = server_final.split(',').next().and_then(|field| field.strip_prefix("v="));
        let signature = signature.and_then(|text| BASE64.decode(text).ok()).ok_or(ScramError::Final)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.server_key);
        // In constant time.
        hmac::verify(&key, self.signed.as_bytes(), &signature).map_err(|_| ScramError::Signature)
    }
}

fn sign(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of RFC 7677, section 3.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn scram() -> Scram {
        Scram::new("user", NONCE.into())
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(scram().first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (answer, expected) = scram().answer("pencil", SERVER_FIRST).expect("answers");
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(expected.check(SERVER_FINAL), Ok(()));
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_found_out() {
        let (_, expected) = scram().answer("other", SERVER_FIRST).expect("answers");
        assert_eq!(expected.check(SERVER_FINAL), Err(ScramError::Signature));
        let (_, expected) = scram().answer("pencil", SERVER_FIRST).expect("answers");
        for (text, error) in [
            ("", ScramError::Final),
            ("v=", ScramError::Signature),
            ("v=!", ScramError::Final),
            ("e=other-error", ScramError::Final),
            ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G0=", ScramError::Signature),
        ] {
            assert_eq!(expected.check(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_server_that_plays_tricks_is_refused() {
        for (text, error) in [
            ("", ScramError::First),
            ("r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=4096", ScramError::Nonce),
            ("r=another,s=W22Z,i=4096", ScramError::Nonce),
            ("r=rOprNGfwEbeRWgbNEkqO1,s=W22Z,i=0", ScramError::Rounds),
            ("r=rOprNGfwEbeRWgbNEkqO1,s=W22Z,i=4294967295", ScramError::Rounds),
            ("r=rOprNGfwEbeRWgbNEkqO1,s=W22Z,i=many", ScramError::First),
            ("r=rOprNGfwEbeRWgbNEkqO1,s=*,i=1", ScramError::First),
            ("m=x,r=rOprNGfwEbeRWgbNEkqO1,s=W22Z,i=1", ScramError::First),
        ] {
            assert_eq!(scram().answer("pencil", text).map(|_| ()).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(Scram::new("a=b,c", "x".into()).first(), "n,,n=a=3Db=2Cc,r=x");
    }
}
