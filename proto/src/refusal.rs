//! How a "no" travels: a gRPC status whose details are an encoded [`Refusal`].

use prost::Message;
use tonic::{Code, Status};

pub use crate::v1::{Refusal, RefusalKind};

impl Refusal {
    /// A refusal of `kind` with what happened and what to do next.
    pub fn new(kind: RefusalKind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), hint: hint.into(), ..Self::default() }
    }

    /// Whether asking again later, unchanged, can succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind(), RefusalKind::RefusalBusy | RefusalKind::RefusalClockSkew)
    }

    /// The refusal a status carries, if it carries one.
    pub fn from_status(status: &Status) -> Option<Self> {
        if status.details().is_empty() { None } else { Self::decode(status.details()).ok() }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind() {
            RefusalKind::RefusalUnknown => Code::NotFound,
            RefusalKind::RefusalExpired | RefusalKind::RefusalUsed | RefusalKind::RefusalRevoked => {
                Code::Unauthenticated
            }
            RefusalKind::RefusalRetired | RefusalKind::RefusalForbidden => Code::PermissionDenied,
            RefusalKind::RefusalClone => Code::AlreadyExists,
            RefusalKind::RefusalClockSkew | RefusalKind::RefusalVersion => Code::FailedPrecondition,
            RefusalKind::RefusalBusy => Code::ResourceExhausted,
            RefusalKind::RefusalBadRequest => Code::InvalidArgument,
            RefusalKind::RefusalUnspecified => Code::Unknown,
        };
        Status::with_details(code, refusal.message.clone(), refusal.encode_to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_status() {
        let refusal = Refusal::new(RefusalKind::RefusalUsed, "token was used", "ask for a new one");
        assert_eq!(Refusal::from_status(&Status::from(refusal.clone())), Some(refusal));
        assert_eq!(Refusal::from_status(&Status::internal("plain")), None);
    }
}
