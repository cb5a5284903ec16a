//! Version 1.0 of the handshake: magic number, then three JSON messages each way, each ended by a zero byte.

use std::{io, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::scram::{self, Denied, Password};

/// Version 1.0.
const MAGIC: u32 = 0x34c2_bdc3;
/// Longest message of a driver.
const MESSAGE_MAX: usize = 2048;
/// How long a driver may take for its handshake.
const PATIENCE: Duration = Duration::from_secs(20);
/// The version that drivers look at; what it really is stands elsewhere.
const SERVER_VERSION: &str = "2.4.4";

/// Lets a driver in, or tells it why not.
///
/// # Errors
/// The driver was not let in, or has gone.
pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    password_of: impl FnOnce(&str) -> Option<Password>,
) -> io::Result<()> {
    timeout(PATIENCE, converse(stream, password_of)).await?
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    password_of: impl FnOnce(&str) -> Option<Password>,
) -> io::Result<()> {
    if stream.read_u32_le().await? != MAGIC {
        let text = b"ERROR: Received an unsupported protocol version. This port is for RethinkDB queries. Does your \
                     client driver version not match the server?\n\0";
        stream.write_all(text).await?;
        stream.shutdown().await?;
        return Err(io::Error::other("not the protocol of a driver"));
    }
    let versions = json!({
        "success": true, "max_protocol_version": 0, "min_protocol_version": 0, "server_version": SERVER_VERSION,
    });
    say(stream, &versions).await?;
    let told = authenticate(stream, password_of).await?;
    if let Err(Denied { code, message }) = told {
        say(stream, &json!({ "success": false, "error": message, "error_code": code })).await?;
        stream.shutdown().await?;
        return Err(io::Error::other(message));
    }
    Ok(())
}

async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    password_of: impl FnOnce(&str) -> Option<Password>,
) -> io::Result<Result<(), Denied>> {
    let first = match hear(stream).await? {
        Ok(message) => message,
        Err(denied) => return Ok(Err(denied)),
    };
    let begun = method(&first).and_then(|text| scram::first(text, password_of));
    let (exchange, answer) = match begun {
        Ok(begun) => begun,
        Err(denied) => return Ok(Err(denied)),
    };
    say(stream, &json!({ "success": true, "authentication": answer })).await?;
    let last = match hear(stream).await? {
        Ok(message) => message,
        Err(denied) => return Ok(Err(denied)),
    };
    match authentication(&last).and_then(|text| exchange.finish(text)) {
        Ok(answer) => say(stream, &json!({ "success": true, "authentication": answer })).await.map(Ok),
        Err(denied) => Ok(Err(denied)),
    }
}

fn method(message: &Value) -> Result<&str, Denied> {
    let denied = |code, message| Denied { code, message };
    match message["protocol_version"].as_f64() {
        None => return Err(denied(1, "Expected a number for `protocol_version`.")),
        Some(0.0) => {}
        Some(_) => return Err(denied(2, "Unsupported `protocol_version`.")),
    }
    match message["authentication_method"].as_str() {
        None => return Err(denied(3, "Expected a string for `authentication_method`.")),
        Some("SCRAM-SHA-256") => {}
        Some(_) => return Err(denied(4, "Unsupported `authentication_method`.")),
    }
    authentication(message)
}

fn authentication(message: &Value) -> Result<&str, Denied> {
    message["authentication"]
        .as_str()
        .ok_or(Denied { code: 5, message: "Expected a string for `authentication`." })
}

async fn hear<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Result<Value, Denied>> {
    let mut text = Vec::new();
    loop {
        match stream.read_u8().await? {
            0 => break,
            byte => text.push(byte),
        }
        if text.len() >= MESSAGE_MAX {
            return Ok(Err(Denied { code: 7, message: "Limited read buffer size." }));
        }
    }
    Ok(serde_json::from_slice(&text).map_err(|_| Denied { code: 8, message: "Invalid JSON object." }))
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, message: &Value) -> io::Result<()> {
    let mut text = message.to_string().into_bytes();
    text.push(0);
    stream.write_all(&text).await?;
    stream.flush().await
}
