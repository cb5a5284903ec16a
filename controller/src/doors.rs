//! What is behind each listener, by the path of the call.

use std::sync::Arc;

use fleet_proto::{
    rescue::rescue_server::RescueServer,
    v1::{
        agents_server::AgentsServer, enrolment_server::EnrolmentServer, operator_server::OperatorServer,
        releases_server::ReleasesServer, rollouts_server::RolloutsServer,
    },
};
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::{Status, body::Body, codegen::Service};

use crate::{
    api::OperatorService,
    enrol::{revoke::Revoked, service::EnrolmentService},
    first_boot,
    releases::ReleasesService,
    rescue::RescueService,
    rollout::RolloutsService,
    session::service::AgentsService,
    tls::{listen::Door, peer::Peer},
};

/// Largest message from an agent: facts of a node with hundreds of disks fit many times.
const FROM_AGENTS: usize = 256 * 1024;
/// Largest enrolment request: a token, a CSR, a greeting.
const FROM_STRANGERS: usize = 16 * 1024;
/// Largest message from an operator: a plan, or a release with its chain of roots.
const FROM_OPERATORS: usize = 1024 * 1024;

/// Behind the enrolment listener.
#[derive(Clone)]
pub struct EnrolDoor {
    service: Arc<EnrolmentService>,
    enrolment: EnrolmentServer<EnrolmentService>,
    rescue: RescueServer<RescueService>,
}

impl EnrolDoor {
    /// Serves enrolment, and releases to those whom no other door lets in; nothing else.
    pub fn new(service: EnrolmentService, rescue: RescueService) -> Self {
        let service = Arc::new(service);
        let enrolment = EnrolmentServer::from_arc(service.clone()).max_decoding_message_size(FROM_STRANGERS);
        let rescue = RescueServer::new(rescue).max_decoding_message_size(FROM_STRANGERS);
        Self { service, enrolment, rescue }
    }
}

impl Door for EnrolDoor {
    fn call(&self, _: Option<&Arc<Peer>>, request: Request<Incoming>) -> BoxFuture<'static, Response<Body>> {
        if request.uri().path() == first_boot::http::PATH {
            let service = self.service.clone();
            return async move { first_boot::http::answer(&service, request).await }.boxed();
        }
        let path = request.uri().path();
        if path.starts_with("/fleet.v1.Enrolment/") {
            answered(self.enrolment.clone().call(request))
        } else if path.starts_with("/fleet.rescue.v1.Rescue/") {
            answered(self.rescue.clone().call(request))
        } else {
            refuse(Status::unimplemented("this listener serves enrolment only"))
        }
    }
}

/// Behind the session listener.
#[derive(Clone)]
pub struct SessionDoor {
    agents: AgentsServer<AgentsService>,
    operator: OperatorServer<OperatorService>,
    releases: ReleasesServer<ReleasesService>,
    rollouts: RolloutsServer<RolloutsService>,
    revoked: Revoked,
}

impl SessionDoor {
    /// Serves agents and operators; which is which, the handlers decide from the certificate.
    pub fn new(
        agents: AgentsService,
        operator: OperatorService,
        releases: ReleasesService,
        rollouts: RolloutsService,
        revoked: Revoked,
    ) -> Self {
        Self {
            agents: AgentsServer::new(agents).max_decoding_message_size(FROM_AGENTS),
            operator: OperatorServer::new(operator).max_decoding_message_size(FROM_OPERATORS),
            releases: ReleasesServer::new(releases).max_decoding_message_size(FROM_OPERATORS),
            rollouts: RolloutsServer::new(rollouts).max_decoding_message_size(FROM_OPERATORS),
            revoked,
        }
    }
}

impl Door for SessionDoor {
    fn call(
        &self,
        peer: Option<&Arc<Peer>>,
        mut request: Request<Incoming>,
    ) -> BoxFuture<'static, Response<Body>> {
        let Some(peer) = peer else { return refuse(Status::unauthenticated("a certificate is needed here")) };
        // Looked at before every call: a connection outlives the handshake that let it in.
        if let Some(why) = self.revoked.why(&peer.serial) {
            return refuse(why.refusal().into());
        }
        request.extensions_mut().insert(peer.clone());
        let path = request.uri().path();
        if path.starts_with("/fleet.v1.Agents/") {
            answered(self.agents.clone().call(request))
        } else if path.starts_with("/fleet.v1.Operator/") {
            answered(self.operator.clone().call(request))
        } else if path.starts_with("/fleet.v1.Releases/") {
            answered(self.releases.clone().call(request))
        } else if path.starts_with("/fleet.v1.Rollouts/") {
            answered(self.rollouts.clone().call(request))
        } else {
            refuse(Status::unimplemented("no such service"))
        }
    }
}

fn answered<E>(
    call: impl Future<Output = Result<Response<Body>, E>> + Send + 'static,
) -> BoxFuture<'static, Response<Body>>
where
    E: std::fmt::Display + Send,
{
    call.map(|outcome| match outcome {
        Ok(response) => response,
        // The services' error type has no values; this arm only satisfies the types.
        Err(error) => Status::internal(error.to_string()).into_http(),
    })
    .boxed()
}

fn refuse(status: Status) -> BoxFuture<'static, Response<Body>> {
    std::future::ready(status.into_http()).boxed()
}
