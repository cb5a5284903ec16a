//! One SSH connection to a new server: password login, one command with input, its output line by line.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fleet_model::Secret;
use russh::{
    ChannelMsg, Disconnect,
    client::{self, AuthResult, Handle},
};
use tokio::time::timeout;

/// Longest wait for a TCP connection or for the SSH greeting; an emulated guest greets within seconds of
/// listening.
const GREETING: Duration = Duration::from_secs(20);
/// Longest wait for a login: PAM on an emulated, still booting guest takes its time.
const LOGIN: Duration = Duration::from_secs(60);
/// Longest line kept of what a server prints, in bytes; more is cut.
const LINE_MAX: usize = 4096;

/// Why SSH did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum SshError {
    /// Nothing listens there yet, or the greeting did not come.
    #[error("reach {0}")]
    Unreachable(SocketAddr, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server said no to user and password.
    #[error("{0} refused the initial password")]
    Password(SocketAddr),
    /// The connection broke half-way.
    #[error("SSH connection to {0} broke")]
    Broken(SocketAddr, #[source] russh::Error),
}

/// A new server has a host key nobody has seen before and the API does not tell it: the first key is taken.
/// The password it sees is this server's alone; identity proper starts at enrolment.
struct FirstContact;

impl client::Handler for FirstContact {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _key: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// A logged-in connection.
pub(super) struct Ssh {
    address: SocketAddr,
    handle: Handle<FirstContact>,
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Exit {
    /// Exit status; `None` if a signal ended it or the connection closed first.
    pub status: Option<u32>,
}

impl Ssh {
    /// Connects and logs in.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; nothing was run.
    pub(super) async fn login(address: SocketAddr, user: &str, password: &Secret) -> Result<Self, SshError> {
        let config = Arc::new(client::Config {
            inactivity_timeout: None,
            keepalive_interval: Some(Duration::from_secs(15)),
            keepalive_max: 8,
            nodelay: true,
            ..client::Config::default()
        });
        let mut handle = match timeout(GREETING, client::connect(config, address, FirstContact)).await {
            Ok(Ok(handle)) => handle,
            Ok(Err(error)) => return Err(SshError::Unreachable(address, error.into())),
            Err(elapsed) => return Err(SshError::Unreachable(address, elapsed.into())),
        };
        match timeout(LOGIN, handle.authenticate_password(user, password.reveal())).await {
            Ok(Ok(AuthResult::Success)) => Ok(Self { address, handle }),
            Ok(Ok(AuthResult::Failure { .. })) => Err(SshError::Password(address)),
            Ok(Err(error)) => Err(SshError::Broken(address, error)),
            Err(elapsed) => Err(SshError::Unreachable(address, elapsed.into())),
        }
    }

    /// Runs `command` with `input` on its standard input; every line of its output goes to `line`.
    pub(super) async fn run(
        &self,
        command: &str,
        input: &[u8],
        mut line: impl FnMut(&str),
    ) -> Result<Exit, SshError> {
        let broken = |error| SshError::Broken(self.address, error);
        let mut channel = self.handle.channel_open_session().await.map_err(broken)?;
        channel.exec(true, command).await.map_err(broken)?;
        channel.data(input).await.map_err(broken)?;
        channel.eof().await.map_err(broken)?;
        let (mut partial, mut status) = (Vec::new(), None);
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } => {
                    for &byte in data.iter() {
                        if byte == b'\n' {
                            line(&String::from_utf8_lossy(&partial));
                            partial.clear();
                        } else if partial.len() < LINE_MAX {
                            partial.push(byte);
                        }
                    }
                }
                ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
                _ => {}
            }
        }
        if !partial.is_empty() {
            line(&String::from_utf8_lossy(&partial));
        }
        Ok(Exit { status })
    }

    /// Says goodbye; failing to is of no consequence.
    pub(super) async fn close(self) {
        let _ = timeout(GREETING, self.handle.disconnect(Disconnect::ByApplication, "", "")).await;
    }
}
