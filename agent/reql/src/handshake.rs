//! The V1_0 handshake: our version, then four JSON messages that each end in a zero byte.

use std::io;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    ReqlError,
    scram::{Scram, ScramError},
};

/// `VersionDummy.Version.V1_0` of the public `ql2.proto`.
const V1_0: u32 = 0x34c2_bdc3;
/// The server's messages have some hundred bytes.
const MOST_BYTES: usize = 8 * 1024;
/// As many random bytes as the nonce of the RFC's example.
const NONCE_BYTES: usize = 18;

#[derive(Deserialize)]
struct Message {
    success: bool,
    error: Option<String>,
    error_code: Option<u32>,
    authentication: Option<String>,
    server_version: Option<String>,
}

/// Speaks the handshake; returns the server's version.
pub(crate) async fn shake(
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    user: &str,
    password: &str,
) -> Result<String, ReqlError> {
    let mut random = [0; NONCE_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| handshake("no random numbers"))?;
    let scram = Scram::new(user, BASE64.encode(random));

    // Both at once: the server's greeting decides nothing for us.
    let mut opening = V1_0.to_le_bytes().to_vec();
    let first = json!({
        "protocol_version": 0, "authentication_method": "SCRAM-SHA-256", "authentication": scram.first(),
    });
    opening.extend_from_slice(first.to_string().as_bytes());
    opening.push(0);
    to.write_all(&opening).await.map_err(lost)?;
    let version = receive(from).await?.server_version.unwrap_or_default();

    let server_first = authentication(receive(from).await?)?;
    let (answer, expected) = scram.answer(password, &server_first).map_err(wrong)?;
    let mut proof = json!({ "authentication": answer }).to_string().into_bytes();
    proof.push(0);
    to.write_all(&proof).await.map_err(lost)?;
    let server_final = authentication(receive(from).await?)?;
    expected.check(&server_final).map_err(wrong)?;
    Ok(version)
}

async fn receive(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Message, ReqlError> {
    let mut bytes = Vec::new();
    from.take(MOST_BYTES as u64).read_until(0, &mut bytes).await.map_err(lost)?;
    if bytes.pop() != Some(0) {
        let ended = bytes.len() + 1 < MOST_BYTES;
        return Err(match ended {
            true => lost(io::ErrorKind::UnexpectedEof.into()),
            false => handshake("the server's message has no end"),
        });
    }
    let Ok(message) = serde_json::from_slice::<Message>(&bytes) else {
        // Servers that do not know our version answer in plain words.
        let text = String::from_utf8_lossy(&bytes);
        return match text.trim().strip_prefix("ERROR:") {
            Some(words) => Err(ReqlError::Refused { message: words.trim().to_owned(), code: None }),
            None => Err(handshake("the server's message is not JSON")),
        };
    };
    if message.success {
        return Ok(message);
    }
    let words = message.error.unwrap_or_else(|| "no reason given".into());
    Err(ReqlError::Refused { message: words, code: message.error_code })
}

fn authentication(message: Message) -> Result<String, ReqlError> {
    message.authentication.ok_or(handshake("the server's message lacks its part"))
}

fn handshake(what: &'static str) -> ReqlError {
    ReqlError::Handshake(what.into())
}

fn lost(error: io::Error) -> ReqlError {
    ReqlError::Gone { reason: format!("during the handshake: {error}").into(), sent: false }
}

fn wrong(error: ScramError) -> ReqlError {
    ReqlError::Handshake(error.to_string().into())
}
