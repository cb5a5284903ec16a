//! One request over HTTP, plain or by TLS of the fleet's authority.

use std::{io, net::SocketAddr, sync::Arc};

use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{dial, tasks::todo::probe};

/// Most of an answer that is read.
const LARGEST: u64 = 256 << 10;

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    tls: bool,
    /// `host:port`, as it is dialled.
    address: String,
    /// As the certificate is asked for.
    host: String,
    path: String,
}

impl Url {
    /// `http://HOST[:PORT][/PATH]`, or the same with `https`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (tls, rest) = match text.split_once("://")? {
            ("http", rest) => (false, rest),
            ("https", rest) => (true, rest),
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let clean =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@');
        if !clean(authority) || !(path.is_empty() || clean(path)) {
            return None;
        }
        let ported = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let host = ported.map_or(authority, |(host, _)| host);
        let port = ported.map_or(if tls { "443" } else { "80" }, |(_, port)| port);
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        Some(Self { tls, address: format!("{host}:{port}"), host: bare, path })
    }

    /// Of this node's own loopback.
    pub(super) fn own(port: u16, path: &str) -> Self {
        let host = "127.0.0.1".to_owned();
        Self { tls: true, address: format!("{host}:{port}"), host, path: path.to_owned() }
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks once. Whoever answers by TLS must show a certificate that one of `trust` has signed.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn ask(
    method: &str,
    url: &Url,
    json: Option<&str>,
    trust: &[CertificateDer<'static>],
) -> io::Result<Answer> {
    let addresses = dial::resolve(&url.address).await.map_err(io::Error::other)?;
    let plain = connect(&addresses).await?;
    let Url { host, path, .. } = url;
    let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n");
    if let Some(json) = json {
        request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len());
    }
    request += "\r\n";
    request += json.unwrap_or_default();
    let bytes = if url.tls {
        let wrong =
            |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        let config = probe::config(trust).map_err(|error| wrong(&error))?;
        let name = ServerName::try_from(host.clone()).map_err(|error| wrong(&error))?;
        talk(TlsConnector::from(Arc::new(config)).connect(name, plain).await?, &request).await?
    } else {
        talk(plain, &request).await?
    };
    let text = String::from_utf8_lossy(&bytes);
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.get(..3)?.parse().ok());
    let status =
        status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok(Answer { status, body })
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    match stream.take(LARGEST).read_to_end(&mut answer).await {
        // Whether it says farewell is of no interest once it has answered.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_what_is_none() {
        let check = |text: &str, tls: bool, address: &str, host: &str, path: &str| {
            let (address, host, path) = (address.into(), host.into(), path.into());
            assert_eq!(Url::parse(text), Some(Url { tls, address, host, path }), "{text}");
        };
        check("http://a", false, "a:80", "a", "/");
        check("https://127.0.0.1:5000/health?x=1", true, "127.0.0.1:5000", "127.0.0.1", "/health?x=1");
        check("http://[::1]:80/", false, "[::1]:80", "::1", "/");
        check("https://[::1]/", true, "[::1]:443", "::1", "/");
        for wrong in
            ["", "a", "ftp://a", "http://", "http:///x", "http://a b/", "http://u@a/", "http://a/\r\nX: y"]
        {
            assert_eq!(Url::parse(wrong), None, "{wrong:?}");
        }
    }
}
