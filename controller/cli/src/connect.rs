//! The operator's connection to a controller: mutual TLS with the identity the controller left in its folder.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_model::{FleetName, chain};
use fleet_proto::{
    tls::{self, IdentitySlot},
    v1::{PingReply, PingRequest, operator_client::OperatorClient, rollouts_client::RolloutsClient},
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::failure::{Exit, Failure};

/// A controller on this host answers within milliseconds; one that does not in this time is not there.
const CONNECT: Duration = Duration::from_secs(5);

/// A connected operator.
pub type Operator = OperatorClient<Channel>;

/// `controller.json`: where the controller listens.
#[derive(Debug, Deserialize)]
struct Whereabouts {
    pid: i32,
    session: SocketAddr,
}

/// `operator.json`: who the operator is and whom to trust, PEM.
#[derive(Deserialize)]
struct Identity {
    cert: String,
    key: String,
    bundle: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No controller has served from this folder, or it has left nothing behind.
    #[error("no controller serves {0}")]
    None(PathBuf),
    /// A file of it cannot be used.
    #[error("read {0}")]
    File(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It does not answer.
    #[error("the controller at {0} does not answer")]
    Silent(SocketAddr, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Connects and asks who is there.
///
/// # Errors
/// [`ConnectError`]; nothing was changed.
pub async fn connect(dir: &Path, fleet: &FleetName) -> Result<(Operator, PingReply), ConnectError> {
    let (channel, reply) = reach(dir, fleet).await?;
    Ok((OperatorClient::new(channel), reply))
}

/// The same for the service of rollouts.
///
/// # Errors
/// [`ConnectError`]; nothing was changed.
pub async fn rollouts(dir: &Path, fleet: &FleetName) -> Result<RolloutsClient<Channel>, ConnectError> {
    Ok(RolloutsClient::new(reach(dir, fleet).await?.0))
}

/// The same for whoever needs more than the operator's service.
///
/// # Errors
/// [`ConnectError`]; nothing was changed.
pub async fn reach(dir: &Path, fleet: &FleetName) -> Result<(Channel, PingReply), ConnectError> {
    let whereabouts: Whereabouts = read(&dir.join("controller.json"), dir)?;
    let identity: Identity = read(&dir.join("operator.json"), dir)?;
    let channel = open(&whereabouts, &identity, fleet, dir).await?;
    let mut operator = OperatorClient::new(channel.clone());
    let ping = operator.ping(PingRequest {});
    match tokio::time::timeout(CONNECT, ping).await {
        Ok(Ok(reply)) => Ok((channel, reply.into_inner())),
        Ok(Err(status)) => Err(ConnectError::Silent(whereabouts.session, status.into())),
        Err(elapsed) => Err(ConnectError::Silent(whereabouts.session, elapsed.into())),
    }
}

/// Process id of the controller that serves this folder, as it left it.
pub fn pid(dir: &Path) -> Option<i32> {
    read::<Whereabouts>(&dir.join("controller.json"), dir).ok().map(|found| found.pid)
}

/// What went wrong with a call, with the refusal's own hint if it carries one.
pub fn refused(status: &tonic::Status) -> Failure {
    let exit = if status.code() == tonic::Code::Unavailable { Exit::Unreachable } else { Exit::Failed };
    match fleet_proto::refusal::Refusal::from_status(status) {
        Some(refusal) => Failure::new(exit, refusal.message).hint(refusal.hint),
        None => Failure::new(exit, format!("the controller answered: {}", status.message()))
            .hint("its log is beside its state; `fleetctl doctor` says where"),
    }
}

fn read<T: serde::de::DeserializeOwned>(file: &Path, dir: &Path) -> Result<T, ConnectError> {
    let bytes = std::fs::read(file).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => ConnectError::None(dir.to_owned()),
        _ => ConnectError::File(file.to_owned(), why.into()),
    })?;
    serde_json::from_slice(&bytes).map_err(|why| ConnectError::File(file.to_owned(), why.into()))
}

async fn open(
    whereabouts: &Whereabouts,
    identity: &Identity,
    fleet: &FleetName,
    dir: &Path,
) -> Result<Channel, ConnectError> {
    let file = || dir.join("operator.json");
    let bad = |why: Box<dyn std::error::Error + Send + Sync>| ConnectError::File(file(), why);
    let certificates =
        |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain_pem = certificates(&identity.cert).map_err(|why| bad(why.into()))?;
    let bundle = certificates(&identity.bundle).map_err(|why| bad(why.into()))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|why| bad(why.into()))?;
    let slot = IdentitySlot::new(chain_pem, key).map_err(|why| bad(why.into()))?;
    let config = Arc::new(tls::client(&bundle, Some(Arc::new(slot))).map_err(|why| bad(why.into()))?);
    let name = ServerName::try_from(format!("controller.{}", fleet.as_str().to_lowercase()))
        .map_err(|why| bad(why.into()))?;
    let address = whereabouts.session;
    let connector = service_fn(move |_| {
        let (config, name) = (Arc::clone(&config), name.clone());
        async move {
            let plain = TcpStream::connect(address).await?;
            plain.set_nodelay(true)?;
            let link = TlsConnector::from(config).connect(name, plain).await?;
            Ok::<_, io::Error>(TokioIo::new(link))
        }
    });
    let endpoint = Endpoint::from_static("http://controller")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let channel = endpoint.connect_with_connector(connector);
    match tokio::time::timeout(CONNECT, channel).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(why)) => Err(ConnectError::Silent(address, why.into())),
        Err(elapsed) => Err(ConnectError::Silent(address, elapsed.into())),
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let hint = match &error {
            ConnectError::None(_) | ConnectError::Silent(..) => {
                "`fleetctl up PLAN` starts the controller and goes on where it was"
            }
            ConnectError::File(..) => {
                "the file belongs to the fleet's state: restore it, or start the controller anew"
            }
        };
        Failure::new(Exit::Unreachable, chain(&error)).hint(hint)
    }
}
