//! The operator's side: a no-op to every agent.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use fleet_proto::{
    tls::{self, IdentitySlot},
    v1::{self, operator_client::OperatorClient},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tonic::transport::Channel;

use crate::{agents, controller::Serving};

/// How long the last answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An operator's connection.
pub struct Operator(OperatorClient<Channel>);

impl Operator {
    /// Connects with the identity the controller left in its folder.
    pub async fn connect(dir: &Path, serving: &Serving) -> anyhow::Result<Self> {
        let file =
            fleet_controller::home::operator(dir)?.context("the controller left no operator identity")?;
        let certificates =
            |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let slot = IdentitySlot::new(
            certificates(&file.cert)?,
            PrivateKeyDer::from_pem_slice(file.key.as_bytes())?,
        )?;
        let tls = Arc::new(tls::client(&certificates(&file.bundle)?, Some(Arc::new(slot)))?);
        Ok(Self(OperatorClient::new(agents::dial(0, serving.session, tls).await?)))
    }

    /// Asks all `expected` agents; how long until the last answer.
    pub async fn noop(&mut self, expected: usize) -> anyhow::Result<Duration> {
        let timeout_ms = u32::try_from(TIMEOUT.as_millis())?;
        let reply = self.0.noop(v1::NoopRequest { timeout_ms }).await?.into_inner();
        if usize::try_from(reply.answered)? != expected {
            bail!("{} of {expected} answered; silent: {:?}", reply.answered, reply.silent.first());
        }
        Ok(Duration::from_micros(reply.took_us))
    }
}
