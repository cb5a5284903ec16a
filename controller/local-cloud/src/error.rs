use std::path::PathBuf;

use crate::backing::BackingError;

/// The cloud cannot serve, or cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// Another process serves this directory.
    #[error("another cloud serves {}: pid {pid}; stop it, or set FLEET_HOME to use another directory", dir.display())]
    Taken {
        /// The directory.
        dir: PathBuf,
        /// Its process.
        pid: String,
    },
    /// A file cannot be used.
    #[error("{doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The state file is not one of ours, or damaged.
    #[error("{} is damaged; `fleetctl cloud reset` removes everything and starts afresh", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How.
        #[source]
        source: serde_json::Error,
    },
    /// No port can be listened on.
    #[error("listen on 127.0.0.1:{port}")]
    Listen {
        /// Which.
        port: u16,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Certificates cannot be made or used.
    #[error("certificate of the cloud")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The backing cannot take up its work.
    #[error("take up what was running")]
    Backing(#[source] BackingError),
    /// A cloud runs but does not answer.
    #[error("ask the cloud at {endpoint}")]
    Ask {
        /// Its address.
        endpoint: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CloudError {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }

    pub(crate) fn certificate(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Certificate(error.into())
    }
}
