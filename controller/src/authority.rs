//! Who may call what: decided from the certificate alone, denied unless said otherwise.

use std::sync::Arc;

use fleet_model::NodeName;
use fleet_proto::refusal::{Refusal, RefusalKind};
use tonic::{Request, Status};

use crate::tls::peer::{Identity, Peer};

/// The caller, from the connection's certificate.
///
/// # Errors
/// A refusal if the connection showed none.
pub fn caller<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
    request.extensions().get::<Arc<Peer>>().cloned().ok_or_else(|| forbidden("callers without a certificate"))
}

/// The node that calls.
///
/// # Errors
/// A refusal if it is not a node.
pub fn node(peer: &Peer) -> Result<&NodeName, Status> {
    match &peer.identity {
        Identity::Node(node) => Ok(node),
        Identity::Operator(_) | Identity::Controller(_) => Err(forbidden("callers that are not nodes")),
    }
}

/// The operator that calls.
///
/// # Errors
/// A refusal if it is not an operator.
pub fn operator<T>(request: &Request<T>) -> Result<String, Status> {
    match &caller(request)?.identity {
        Identity::Operator(name) => Ok(name.clone()),
        Identity::Node(_) | Identity::Controller(_) => Err(forbidden("callers that are not operators")),
    }
}

fn forbidden(whom: &str) -> Status {
    Refusal::new(
        RefusalKind::RefusalForbidden,
        format!("this call is closed to {whom}"),
        "use the identity made for it",
    )
    .into()
}
