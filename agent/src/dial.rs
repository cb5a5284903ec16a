//! From an address to an open TLS connection and a channel over it.
//!
//! Numeric addresses are parsed, names asked of hickory; never `getaddrinfo`, which a static binary cannot
//! use safely. Every address of every name is tried in turn.

use std::{
    error::Error as _,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet_model::FleetName;
use hickory_resolver::TokioResolver;
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// How long one address may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the TLS handshake may take; a controller under load queues them.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a name may take.
const RESOLVE: Duration = Duration::from_secs(5);
/// Asked of a silent peer, so that a dead one is found.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long it may take to answer that.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// Bytes a peer may send ahead of us; small, since messages are.
const WINDOW: u32 = 65_535;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address to dial.
    #[error("there is no address to dial")]
    NoAddress,
    /// An address that is neither `address:port` nor `name:port`.
    #[error("`{0}` is not an address with a port")]
    BadAddress(String),
    /// A name could not be resolved.
    #[error("resolve `{name}`: {why}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver said.
        why: String,
    },
    /// Nobody accepted.
    #[error("connect to {address}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The handshake failed.
    #[error("agree on TLS with {address}")]
    Handshake {
        /// With whom.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The controller's certificate is fine, but not at the time this node's clock shows.
    #[error(
        "this node's clock is at least {seconds} s {direction}: it shows {shows}, and the controller's \
         certificate is {limit}"
    )]
    Skew {
        /// By at least how much.
        seconds: u64,
        /// `behind` or `ahead`.
        direction: &'static str,
        /// What the node's clock shows.
        shows: fleet_model::Timestamp,
        /// Until or from when the certificate is good.
        limit: String,
    },
    /// HTTP/2 could not be started on the connection.
    #[error("start HTTP/2 with {address}")]
    Http {
        /// With whom.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// The fleet's name makes no server name.
    #[error("`{0}` makes no server name")]
    ServerName(String),
}

impl DialError {
    /// What a person can do about it.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Skew { .. } => "set this node's clock (chrony does it when it reaches a time server)",
            Self::Resolve { .. } => "check the node's /etc/resolv.conf",
            Self::Connect { .. } => "check that the controller runs and that the node may reach that address",
            Self::Handshake { .. } => "check that this address is this fleet's controller",
            _ => "check the controller's addresses",
        }
    }
}

/// Dials controllers of one fleet.
#[derive(Clone, Debug)]
pub(crate) struct Dialler {
    name: ServerName<'static>,
}

impl Dialler {
    /// Whatever address is dialled, the certificate must be that of `controller.<fleet>`.
    pub(crate) fn new(fleet: &FleetName) -> Result<Self, DialError> {
        let name = format!("controller.{}", fleet.as_str().to_ascii_lowercase());
        let name = ServerName::try_from(name.clone()).map_err(|_| DialError::ServerName(name))?;
        Ok(Self { name })
    }

    /// A channel to the first of `addresses` that answers; the error is the most telling of those seen.
    ///
    /// # Cancel safety
    /// Dropping the future closes whatever was half open.
    pub(crate) async fn dial(
        &self,
        addresses: &[String],
        tls: Arc<ClientConfig>,
    ) -> Result<Channel, DialError> {
        let mut worst = DialError::NoAddress;
        for text in addresses {
            let candidates = match resolve(text).await {
                Ok(candidates) => candidates,
                Err(error) => {
                    worst = telling(worst, error);
                    continue;
                }
            };
            for address in candidates {
                match self.open(address, tls.clone()).await {
                    Ok(channel) => return Ok(channel),
                    Err(error) => {
                        tracing::debug!(%address, %error, "no connection");
                        worst = telling(worst, error);
                    }
                }
            }
        }
        Err(worst)
    }

    async fn open(&self, address: SocketAddr, tls: Arc<ClientConfig>) -> Result<Channel, DialError> {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let connect = |source| DialError::Connect { address, source };
        let plain = tokio::time::timeout(CONNECT, TcpStream::connect(address))
            .await
            .map_err(|_| connect(late()))?
            .map_err(connect)?;
        plain.set_nodelay(true).map_err(connect)?;
        let handshake = TlsConnector::from(tls).connect(self.name.clone(), plain);
        let stream = tokio::time::timeout(HANDSHAKE, handshake)
            .await
            .map_err(|_| DialError::Handshake { address, source: late() })?
            .map_err(|source| skew(&source).unwrap_or(DialError::Handshake { address, source }))?;
        over(stream).await.map_err(|source| DialError::Http { address, source })
    }
}

/// HTTP/2 over a connection that is already open. The channel cannot reconnect: when it breaks, the
/// session is over and the agent dials anew, with its own pace and its newest certificate.
async fn over(stream: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
    let once = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    // The name is never resolved; it only fills `:authority`.
    Endpoint::from_static("http://controller")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect_with_connector(connector)
        .await
}

/// `address:port` as it stands, or every address of `name:port`.
pub(crate) async fn resolve(text: &str) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let bad = || DialError::BadAddress(text.to_owned());
    let (name, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    if name.is_empty() || name.contains(['[', ']', ':']) {
        return Err(bad());
    }
    let failed = |why: String| DialError::Resolve { name: name.to_owned(), why };
    // Built anew each time: /etc/resolv.conf is read once per resolver, and on a first boot it changes.
    let resolver = TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(|error| failed(error.to_string()))?;
    let found = tokio::time::timeout(RESOLVE, resolver.lookup_ip(name))
        .await
        .map_err(|_| failed(format!("no answer within {} s", RESOLVE.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Of two errors the one to show: skew explains everything, a refused handshake more than a silent address.
fn telling(held: DialError, new: DialError) -> DialError {
    let weight = |error: &DialError| match error {
        DialError::Skew { .. } => 3,
        DialError::Handshake { .. } | DialError::Http { .. } => 2,
        DialError::NoAddress => 0,
        _ => 1,
    };
    if weight(&new) >= weight(&held) { new } else { held }
}

/// Whether a failed handshake is really a wrong clock. The certificate was checked in full by webpki at the
/// time this node's clock shows; only its dates were wrong.
fn skew(error: &io::Error) -> Option<DialError> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let tls = inner.or_else(|| error.source().and_then(|source| source.downcast_ref()))?;
    let rustls::Error::InvalidCertificate(what) = tls else { return None };
    let at = |time: &UnixTime| {
        fleet_model::Timestamp::from_millis(i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 1000) * 1000)
    };
    let (time, limit, direction, word) = match what {
        CertificateError::NotValidYetContext { time, not_before } => {
            (time, not_before, "behind", "good from")
        }
        CertificateError::ExpiredContext { time, not_after } => (time, not_after, "ahead", "good until"),
        _ => return None,
    };
    Some(DialError::Skew {
        seconds: time.as_secs().abs_diff(limit.as_secs()),
        direction,
        shows: at(time),
        limit: format!("{word} {}", at(limit)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numeric_addresses_need_no_resolver() {
        for (text, expected) in
            [("127.0.0.1:7001", "127.0.0.1:7001"), ("[2001:db8::1]:7001", "[2001:db8::1]:7001")]
        {
            let found = resolve(text).await.expect(text);
            assert_eq!(found, [expected.parse().expect("address")]);
        }
    }

    #[tokio::test]
    async fn nonsense_is_named() {
        for text in ["", "controller", "controller:", "controller:x", "2001:db8::1:x", ":7001", "[::1:7001"] {
            let error = resolve(text).await.expect_err(text);
            assert!(matches!(error, DialError::BadAddress(_)), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_wrong_clock_is_named_as_such() {
        let secs = |secs| UnixTime::since_unix_epoch(Duration::from_secs(secs));
        let check = |what: CertificateError, expected: &str| {
            let error = io::Error::other(rustls::Error::InvalidCertificate(what));
            let text = skew(&error).map(|error| error.to_string()).unwrap_or_default();
            assert!(text.starts_with(expected), "{text}");
        };
        check(
            CertificateError::NotValidYetContext { time: secs(1000), not_before: secs(4600) },
            "this node's clock is at least 3600 s behind: it shows 1970-01-01T00:16:40.000Z",
        );
        check(
            CertificateError::ExpiredContext { time: secs(4600), not_after: secs(1000) },
            "this node's clock is at least 3600 s ahead",
        );
        check(CertificateError::UnknownIssuer, "");
    }

    #[test]
    fn the_most_telling_error_is_kept() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let refused =
            || DialError::Connect { address, source: io::Error::from(io::ErrorKind::ConnectionRefused) };
        let handshake = DialError::Handshake { address, source: io::Error::from(io::ErrorKind::InvalidData) };
        let kept = telling(telling(DialError::NoAddress, handshake), refused());
        assert!(matches!(kept, DialError::Handshake { .. }), "{kept}");
    }
}
