//! What can go wrong, as variants a caller can act upon.

use std::{fmt, time::Duration};

/// What the service said when it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `DEPLOY_VLAN`.
    pub operation: String,
    /// The response code, or `HTTP 503` where there was none.
    pub code: String,
    /// The service's text.
    pub message: String,
    /// For the operator of the cloud.
    pub request_id: Option<String>,
    /// How long the service wants to be left alone before the call is sent again, if it says.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.code)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        match self.retry_after {
            Some(after) => write!(f, " (it asks to wait {} s)", after.as_secs()),
            None => Ok(()),
        }
    }
}

/// Any other error, kept as a source.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    /// Another operation is under way on the resource (`RESOURCE_BUSY`), and still was after all retries.
    #[error("{0}")]
    Busy(Refusal),
    /// The resource does not exist (any more).
    #[error("{0}")]
    NotFound(Refusal),
    /// The name, or the address range, is taken.
    #[error("{0}")]
    NameNotUnique(Refusal),
    /// Something else still uses the resource.
    #[error("{0}")]
    HasDependency(Refusal),
    /// It already is as asked.
    #[error("{0}")]
    NoChange(Refusal),
    /// The server is on and must be off.
    #[error("{0}")]
    ServerStarted(Refusal),
    /// The server is off and must be on.
    #[error("{0}")]
    ServerStopped(Refusal),
    /// A limit of the account or of the platform is reached.
    #[error("{0}")]
    Quota(Refusal),
    /// User name or password is wrong (401).
    #[error("{operation}: the cloud does not accept the user name or password (401)")]
    Unauthorized {
        /// What was attempted.
        operation: String,
    },
    /// The account may not do this (403).
    #[error("{operation}: the cloud does not let this account do it (403)")]
    Forbidden {
        /// What was attempted.
        operation: String,
    },
    /// There were too many calls, and this one was turned away at the door (429).
    #[error("{0}")]
    Throttled(Refusal),
    /// The service is in trouble: a 5xx, a call it says it did not get in time (408), `UNEXPECTED_ERROR`,
    /// `RETRYABLE_SYSTEM_ERROR`.
    #[error("{0}")]
    Transient(Refusal),
    /// The service refused for another reason.
    #[error("{0}")]
    Rejected(Refusal),
    /// No answer.
    #[error("{operation}: {}", if *.sent { "no answer from the cloud" } else { "cannot reach the cloud" })]
    Transport {
        /// What was attempted.
        operation: String,
        /// Whether the request may have reached the service, and so may have had its effect.
        sent: bool,
        /// Why.
        #[source]
        source: Source,
    },
    /// An answer that cannot be understood.
    #[error("{operation}: cannot understand the cloud's answer")]
    Decode {
        /// What was attempted.
        operation: String,
        /// Whether it was a change that the service said it accepted.
        accepted: bool,
        /// Why.
        #[source]
        source: Source,
    },
    /// The client cannot be made of its settings.
    #[error("settings of the cloud client: {what}")]
    Settings {
        /// What is wrong with them.
        what: String,
        /// Why.
        #[source]
        source: Source,
    },
}

impl McpError {
    /// The error for a refusal: HTTP status and envelope.
    pub(crate) fn refused(status: u16, refusal: Refusal) -> Self {
        match status {
            401 => return Self::Unauthorized { operation: refusal.operation },
            403 => return Self::Forbidden { operation: refusal.operation },
            429 => return Self::Throttled(refusal),
            // Who says so may be a proxy that knows nothing of what became of the call behind it.
            408 => return Self::Transient(refusal),
            _ => {}
        }
        match refusal.code.as_str() {
            "RESOURCE_BUSY" => Self::Busy(refusal),
            "RESOURCE_NOT_FOUND" => Self::NotFound(refusal),
            "NAME_NOT_UNIQUE" | "IP_ADDRESS_NOT_UNIQUE" => Self::NameNotUnique(refusal),
            "HAS_DEPENDENCY" => Self::HasDependency(refusal),
            "NO_CHANGE" => Self::NoChange(refusal),
            "SERVER_STARTED" => Self::ServerStarted(refusal),
            "SERVER_STOPPED" => Self::ServerStopped(refusal),
            "EXCEEDS_LIMIT" | "OUT_OF_RESOURCES" | "NO_IP_ADDRESS_AVAILABLE" => Self::Quota(refusal),
            "AUTHORIZATION_FAILURE" => Self::Forbidden { operation: refusal.operation },
            "UNEXPECTED_ERROR"
            | "RETRYABLE_SYSTEM_ERROR"
            | "SYSTEM_ERROR"
            | "INFRASTRUCTURE_IN_MAINTENANCE" => Self::Transient(refusal),
            _ if status >= 500 => Self::Transient(refusal),
            _ => Self::Rejected(refusal),
        }
    }

    /// Whether the same call may well succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Throttled(_) | Self::Transient(_) | Self::Transport { .. })
    }

    /// Whether a change may have had its effect all the same: look before repeating it.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Transient(_) => true,
            Self::Transport { sent, .. } => *sent,
            Self::Decode { accepted, .. } => *accepted,
            _ => false,
        }
    }

    /// Whether the resource is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// How long the service wants to be left alone, if it says.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal()?.retry_after
    }

    /// What the service said, if it said anything.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Busy(refusal)
            | Self::NotFound(refusal)
            | Self::NameNotUnique(refusal)
            | Self::HasDependency(refusal)
            | Self::NoChange(refusal)
            | Self::ServerStarted(refusal)
            | Self::ServerStopped(refusal)
            | Self::Quota(refusal)
            | Self::Throttled(refusal)
            | Self::Transient(refusal)
            | Self::Rejected(refusal) => Some(refusal),
            Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::Transport { .. }
            | Self::Decode { .. }
            | Self::Settings { .. } => None,
        }
    }

    /// What to try next, in one sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Busy(_) => "another operation runs on it: wait until it is done, then repeat",
            Self::NotFound(_) => "it was deleted, or the id belongs to another region or account",
            Self::NameNotUnique(_) => "choose another name or range, or remove the one that is there",
            Self::HasDependency(_) => "remove what still uses it first",
            Self::NoChange(_) => "nothing to do",
            Self::ServerStarted(_) => "shut the server down first",
            Self::ServerStopped(_) => "start the server first",
            Self::Quota(_) => "ask for less, remove what is not needed, or have the limit raised",
            Self::Unauthorized { .. } => "check user name and password of the cloud account",
            Self::Forbidden { .. } => "check the account's roles, and that the region is the account's own",
            Self::Throttled(_) => {
                "the cloud takes no more calls for now: repeat the command in a while, it will continue"
            }
            Self::Transient(_) => "the cloud is in trouble: repeat the command in a while, it will continue",
            Self::Rejected(_) => "correct what the message names",
            Self::Transport { sent: false, .. } => {
                "check the address of the cloud, this machine's network and, for the local cloud, that it runs"
            }
            Self::Transport { .. } => "repeat the command: it looks before it changes anything",
            Self::Decode { .. } => "check that the address is that of a CloudControl API",
            Self::Settings { .. } => "correct the setting",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> McpError {
        let refusal = Refusal {
            operation: "DEPLOY_VLAN".into(),
            code: code.into(),
            message: "no".into(),
            request_id: None,
            retry_after: None,
        };
        McpError::refused(status, refusal)
    }

    #[test]
    fn codes_become_variants() {
        let check = |status, code: &str, retryable, ambiguous| {
            let error = refused(status, code);
            assert_eq!((error.is_retryable(), error.is_ambiguous()), (retryable, ambiguous), "{error:?}");
        };
        check(400, "RESOURCE_BUSY", true, false);
        check(400, "RESOURCE_NOT_FOUND", false, false);
        check(400, "UNEXPECTED_ERROR", true, true);
        check(400, "EXCEEDS_LIMIT", false, false);
        check(400, "SOMETHING_NEW", false, false);
        check(503, "HTTP 503", true, true);
        check(401, "whatever", false, false);
        check(404, "HTTP 404", false, false);
        // Turned away, so nothing came of it; and one that may have come through.
        check(429, "HTTP 429", true, false);
        check(429, "SOMETHING_NEW", true, false);
        check(408, "HTTP 408", true, true);
    }

    #[test]
    fn display_names_operation_code_and_cause() {
        assert_eq!(refused(400, "RESOURCE_BUSY").to_string(), "DEPLOY_VLAN: RESOURCE_BUSY: no");
        assert!(refused(401, "").to_string().contains("401"));
        let unreachable =
            McpError::Transport { operation: "LIST_VLAN".into(), sent: false, source: "refused".into() };
        assert_eq!(unreachable.to_string(), "LIST_VLAN: cannot reach the cloud");
    }
}
