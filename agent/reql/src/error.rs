//! What can go wrong between us and a server.

use std::{borrow::Cow, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

/// Why a query, or a connection, came to nothing. Cheap to clone: one lost connection fails many queries.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReqlError {
    /// No TCP connection.
    #[error("connect to RethinkDB at {address}")]
    Connect {
        /// What was dialled.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The server does not let us in: wrong password, unknown user, another protocol version.
    #[error("RethinkDB refused the handshake: {message}")]
    Refused {
        /// The server's own words.
        message: String,
        /// The server's error code; 10 to 20 concern user and password.
        code: Option<u32>,
    },
    /// What answered is not a RethinkDB server that knows our password.
    #[error("handshake with RethinkDB: {0}")]
    Handshake(Cow<'static, str>),
    /// The connection ended. A write in flight may have happened.
    #[error("the connection to RethinkDB is gone: {reason}")]
    Gone {
        /// What ended it.
        reason: Arc<str>,
        /// Whether the query left this process; one that did not has certainly not happened.
        sent: bool,
    },
    /// No answer in time. A write in flight may have happened.
    #[error("no answer from RethinkDB within {after:?}")]
    Timeout {
        /// How long it was waited for.
        after: Duration,
        /// Whether the query left this process; one that did not has certainly not happened.
        sent: bool,
    },
    /// The server refused the query or failed in it.
    #[error(transparent)]
    Server(Arc<ServerError>),
    /// The answer is not what the caller, or the protocol, expects.
    #[error("unexpected answer from RethinkDB: {0}")]
    Decode(Arc<str>),
    /// The query is larger than we send.
    #[error("a query of {bytes} bytes is more than the {limit} allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

impl ReqlError {
    /// Whether the query may have taken effect all the same.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Gone { sent, .. } | Self::Timeout { sent, .. } => *sent,
            Self::Server(error) => error.kind == ServerErrorKind::OpIndeterminate,
            Self::Decode(_) => true,
            Self::Connect { .. } | Self::Refused { .. } | Self::Handshake(_) | Self::TooLarge { .. } => false,
        }
    }

    /// Whether the same query may well succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Gone { .. } | Self::Timeout { .. } => true,
            Self::Server(error) => error.kind.is_retryable(),
            Self::Refused { .. } | Self::Handshake(_) | Self::Decode(_) | Self::TooLarge { .. } => false,
        }
    }

    /// Which kind of error the server reported, if it was the server.
    pub fn server_kind(&self) -> Option<ServerErrorKind> {
        match self {
            Self::Server(error) => Some(error.kind),
            _ => None,
        }
    }

    pub(crate) fn decode(what: impl fmt::Display) -> Self {
        Self::Decode(what.to_string().into())
    }
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RethinkDB: {message} ({kind})")]
pub struct ServerError {
    /// Which kind.
    pub kind: ServerErrorKind,
    /// The server's own words.
    pub message: String,
}

/// Kinds of error answers: the response type, refined by `ErrorType` of the public `ql2.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerErrorKind {
    /// The server did not understand the client (`CLIENT_ERROR`).
    Client,
    /// The query is no valid one (`COMPILE_ERROR`).
    Compile,
    /// A fault of the server (`INTERNAL`).
    Internal,
    /// A limit of the server was reached (`RESOURCE_LIMIT`).
    ResourceLimit,
    /// The query does not fit the data (`QUERY_LOGIC`).
    QueryLogic,
    /// Something that is not there was asked for (`NON_EXISTENCE`).
    NonExistence,
    /// Certainly not done: no such table, no primary replica, … (`OP_FAILED`).
    OpFailed,
    /// Done or not, nobody knows (`OP_INDETERMINATE`).
    OpIndeterminate,
    /// The query raised it itself (`USER`).
    User,
    /// This user may not do that (`PERMISSION_ERROR`).
    Permission,
    /// A kind younger than this driver.
    Other(u32),
}

impl ServerErrorKind {
    /// The kind of a runtime error, by the number in the answer.
    pub(crate) fn of_runtime(number: Option<u32>) -> Self {
        match number {
            Some(1_000_000) => Self::Internal,
            Some(2_000_000) => Self::ResourceLimit,
            Some(3_000_000) => Self::QueryLogic,
            Some(3_100_000) => Self::NonExistence,
            Some(4_100_000) => Self::OpFailed,
            Some(4_200_000) => Self::OpIndeterminate,
            Some(5_000_000) => Self::User,
            Some(6_000_000) => Self::Permission,
            other => Self::Other(other.unwrap_or(0)),
        }
    }

    fn is_retryable(self) -> bool {
        matches!(self, Self::Internal | Self::ResourceLimit | Self::OpFailed | Self::OpIndeterminate)
    }
}

impl fmt::Display for ServerErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Client => "CLIENT_ERROR",
            Self::Compile => "COMPILE_ERROR",
            Self::Internal => "INTERNAL",
            Self::ResourceLimit => "RESOURCE_LIMIT",
            Self::QueryLogic => "QUERY_LOGIC",
            Self::NonExistence => "NON_EXISTENCE",
            Self::OpFailed => "OP_FAILED",
            Self::OpIndeterminate => "OP_INDETERMINATE",
            Self::User => "USER",
            Self::Permission => "PERMISSION_ERROR",
            Self::Other(number) => return write!(f, "error {number}"),
        };
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_may_have_happened() {
        let gone = |sent| ReqlError::Gone { reason: "cut".into(), sent };
        let timeout = |sent| ReqlError::Timeout { after: Duration::from_secs(1), sent };
        let server = |number| {
            let kind = ServerErrorKind::of_runtime(Some(number));
            ReqlError::Server(Arc::new(ServerError { kind, message: String::new() }))
        };
        let check = |error: ReqlError, happened, retryable| {
            assert_eq!((error.may_have_happened(), error.is_retryable()), (happened, retryable), "{error:?}");
        };
        check(gone(true), true, true);
        check(gone(false), false, true);
        check(timeout(true), true, true);
        check(timeout(false), false, true);
        check(server(4_100_000), false, true);
        check(server(4_200_000), true, true);
        check(server(6_000_000), false, false);
        check(server(3_100_000), false, false);
        check(ReqlError::Refused { message: "Wrong password".into(), code: Some(12) }, false, false);
        assert_eq!(server(4_200_000).server_kind(), Some(ServerErrorKind::OpIndeterminate));
        assert_eq!(server(4_100_000).to_string(), "RethinkDB:  (OP_FAILED)");
    }
}
