//! The `Agents` service: sessions and renewals, for nodes only.

use std::{sync::Arc, time::Duration};

use fleet_model::NodeName;
use fleet_proto::{
    PROTOCOL,
    refusal::{Refusal, RefusalKind},
    v1::{self, agents_server::Agents, from_agent, to_agent},
};
use rand::Rng;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::stream::{Desk, SessionStream};
use crate::{
    artifacts::{
        ArtifactError, Digest,
        named::named,
        transfer::{Chunks, TransferError, Transfers},
    },
    authority::{caller, node},
    enrol::{policy, service::Enrolment},
    tls::peer::Peer,
};

/// How long an agent may take to greet.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Greetings and renewals under way at once; beyond it agents are asked to come back.
const UNDER_WAY: usize = 2_048;

/// Sessions and renewals.
#[derive(Debug)]
pub struct AgentsService {
    desk: Arc<Desk>,
    enrolment: Arc<Enrolment>,
    transfers: Transfers,
    under_way: Semaphore,
    max_sessions: u64,
}

impl AgentsService {
    /// Serves at most `max_sessions` sessions.
    pub fn new(desk: Arc<Desk>, enrolment: Arc<Enrolment>, transfers: Transfers, max_sessions: u64) -> Self {
        Self { desk, enrolment, transfers, under_way: Semaphore::new(UNDER_WAY), max_sessions }
    }

    async fn open(
        &self,
        node: &NodeName,
        peer: Arc<Peer>,
        mut inbound: Streaming<v1::FromAgent>,
    ) -> Result<SessionStream, Status> {
        let _place = self.under_way.try_acquire().map_err(|_| busy())?;
        if self.desk.registry.sessions() >= self.max_sessions {
            return Err(busy());
        }
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no greeting came"))??;
        let Some(v1::FromAgent { message: Some(from_agent::Message::Hello(hello)) }) = first else {
            return Err(Refusal::new(
                RefusalKind::RefusalBadRequest,
                "a session begins with a greeting",
                "use an agent of this controller's version",
            )
            .into());
        };
        let now = self.desk.clock.now();
        // Clocks apart do no harm to a session whose certificate is valid: they are reported as a fact.
        if let Some(refusal) = policy::version(&hello) {
            return Err(refusal.into());
        }
        let (live, pace) = self.desk.registry.enter(node, &hello, peer)?;
        tracing::debug!(%node, session = live.id, agent = hello.agent_version, "session opened");
        let welcome = v1::Welcome {
            controller_version: fleet_proto::VERSION.to_owned(),
            protocol: hello.protocol_max.min(PROTOCOL.1),
            controller_time_ms: now.as_millis(),
            heartbeat_ms: millis(pace.heartbeat),
            facts_ms: millis(pace.facts),
        };
        let welcome = v1::ToAgent { message: Some(to_agent::Message::Welcome(welcome)) };
        Ok(SessionStream::new(self.desk.clone(), live, inbound, welcome))
    }
}

#[tonic::async_trait]
impl Agents for AgentsService {
    type SessionStream = SessionStream;
    type FetchStream = Chunks;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<SessionStream>, Status> {
        let peer = caller(&request)?;
        let node = node(&peer)?.clone();
        let stream = self.open(&node, peer, request.into_inner()).await.inspect_err(|status| {
            tracing::info!(%node, message = status.message(), "session refused");
        })?;
        Ok(Response::new(stream))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Credentials>, Status> {
        let peer = caller(&request)?;
        let node = node(&peer)?;
        let _place = self.under_way.try_acquire().map_err(|_| busy())?;
        let credentials = self.enrolment.renew(node, &peer.serial, &request.into_inner().csr).await?;
        Ok(Response::new(credentials))
    }

    async fn certify(
        &self,
        request: Request<v1::CertifyRequest>,
    ) -> Result<Response<v1::ServiceCredentials>, Status> {
        let peer = caller(&request)?;
        let node = node(&peer)?;
        let _place = self.under_way.try_acquire().map_err(|_| busy())?;
        let credentials = self.enrolment.certify(node, &peer.serial, &request.into_inner().csr).await?;
        Ok(Response::new(credentials))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Chunks>, Status> {
        let peer = caller(&request)?;
        let node = node(&peer)?;
        let v1::FetchRequest { sha256, offset } = request.into_inner();
        let desired = self.desk.registry.desired(node);
        let may = desired.is_some_and(|desired| named(&desired).any(|artifact| artifact.sha256 == sha256))
            || self.desk.rollouts.may_fetch(node, &sha256);
        // Said alike of what is kept for others and of what is not: nobody learns what there is.
        let digest = sha256.parse::<Digest>().ok().filter(|_| may).ok_or_else(|| {
            Refusal::new(
                RefusalKind::RefusalForbidden,
                format!(
                    "neither the desired state of node `{node}` nor an order to it names such an artifact"
                ),
                "the agent asks again once it has its newest desired state and order",
            )
        })?;
        Ok(Response::new(self.transfers.begin(node, &digest, offset).await?))
    }
}

impl From<TransferError> for Status {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Busy => busy(),
            TransferError::Offset { .. } => Refusal::new(
                RefusalKind::RefusalBadRequest,
                error.to_string(),
                "delete what has come of it and fetch it whole",
            )
            .into(),
            TransferError::Artifact(ArtifactError::Unknown(_)) => Refusal::new(
                RefusalKind::RefusalUnknown,
                error.to_string(),
                "run `fleetctl up` with the plan again: it brings the files the plan names",
            )
            .into(),
            TransferError::Artifact(error) => {
                tracing::error!(error = fleet_model::chain(&error), "artifact not given");
                Status::internal("the controller cannot read this artifact; its log says why")
            }
        }
    }
}

/// "Come back in a while": spread, so that those sent away do not return together.
pub(crate) fn busy() -> Status {
    let mut refusal = Refusal::new(
        RefusalKind::RefusalBusy,
        "the controller has its hands full",
        "come back after the given time; the agent does so by itself",
    );
    refusal.retry_after_ms = rand::rng().random_range(500..3_000);
    refusal.into()
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
