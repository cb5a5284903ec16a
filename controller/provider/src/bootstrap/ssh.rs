//! One SSH connection to a server: host key, login, one command at a time with input, its output line by line.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use fleet_model::{Secret, chain};
use russh::{
    ChannelMsg, Disconnect, Preferred,
    client::{self, AuthResult, Handle},
    keys::{
        Algorithm, EcdsaCurve, HashAlg, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate,
        agent::client::AgentClient, load_secret_key, ssh_key::Fingerprint,
    },
};
use tokio::time::timeout;

/// Longest wait for a TCP connection or for the SSH greeting; an emulated guest greets within seconds of
/// listening.
const GREETING: Duration = Duration::from_secs(20);
/// Longest wait for a login: PAM on an emulated, still booting guest takes its time.
const LOGIN: Duration = Duration::from_secs(60);
/// Longest line kept of what a server prints, in bytes; more is cut.
const LINE_MAX: usize = 4096;
/// Types of host keys that are asked for; every server of this decade has one of these.
const HOST_KEYS: [Algorithm; 4] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
];

/// Why SSH did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// Nothing listens there yet, or the greeting did not come.
    #[error("reach {0}")]
    Unreachable(SocketAddr, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server said no to user and password.
    #[error("{0} refused the initial password")]
    Password(SocketAddr),
    /// The server shows a key that is none of those it is known by. Nothing was sent to it.
    #[error("{address} shows host key {shown}, and is not known by that")]
    HostKey {
        /// Which.
        address: SocketAddr,
        /// The fingerprint of what it shows.
        shown: String,
    },
    /// The server said no to every key.
    #[error("{address} lets `{user}` in by none of the operator's keys ({tried})")]
    Keys {
        /// Which.
        address: SocketAddr,
        /// Who wanted in.
        user: String,
        /// What was tried, in words.
        tried: String,
    },
    /// By which key the server first let somebody in could not be read or noted.
    #[error("the server's host key")]
    FirstKey(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke half-way.
    #[error("SSH connection to {0} broke")]
    Broken(SocketAddr, #[source] russh::Error),
}

/// Remembers by which key a new server first let somebody in: the API does not tell it, so whoever takes the password
/// first is believed, and nobody else afterwards. Not whoever answers first: a guest that is still set up may make its
/// keys anew. The password it sees is this server's alone; identity proper starts at enrolment.
#[async_trait]
pub trait FirstKey: fmt::Debug + Send + Sync {
    /// The key, as OpenSSH writes one, if the server let somebody in before.
    async fn known(&self) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>>;
    /// Remembers it.
    async fn keep(&self, key: String) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Which host key is taken.
#[derive(Clone, Debug)]
pub enum HostKeys {
    /// Whichever.
    First,
    /// One of these, else nothing is sent.
    Known(Vec<Pin>),
}

/// What a host key is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// All of it.
    Key(PublicKey),
    /// Its SHA-256.
    Digest(Fingerprint),
}

impl Pin {
    /// Reads `SHA256:…`, or type and base64 of a public key; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with("SHA256:") {
            return text.parse().ok().map(Self::Digest);
        }
        // A comment or an option says nothing about the key.
        PublicKey::from_openssh(text).ok().map(|key| Self::Key(PublicKey::from(key.key_data().clone())))
    }

    /// Whether both are known by the same key.
    pub fn is_of(&self, other: &Self) -> bool {
        match (self, other) {
            (pin, Self::Key(key)) | (Self::Key(key), pin) => pin.fits(key),
            (Self::Digest(one), Self::Digest(other)) => one == other,
        }
    }

    fn fits(&self, shown: &PublicKey) -> bool {
        match self {
            Self::Key(key) => key.key_data() == shown.key_data(),
            Self::Digest(digest) => shown.fingerprint(HashAlg::Sha256) == *digest,
        }
    }
}

/// Where the operator's keys are; the private halves are used from there and never kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Socket of the operator's agent.
    pub agent: Option<PathBuf>,
    /// Files with private keys.
    pub files: Vec<PathBuf>,
}

/// Judges the key a server shows, and remembers it.
struct Gate {
    known: HostKeys,
    shown: Arc<Mutex<Option<PublicKey>>>,
}

impl client::Handler for Gate {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
        Ok(match &self.known {
            HostKeys::First => true,
            HostKeys::Known(pins) => pins.iter().any(|pin| pin.fits(key)),
        })
    }
}

/// How a try to connect failed.
enum Refused {
    /// For good, as far as this server goes.
    Error(SshError),
    /// By its host key; that, unless it has none of the type that was asked for.
    Key(Option<PublicKey>),
}

/// A connection; logged in once a login succeeded.
pub struct Ssh {
    address: SocketAddr,
    handle: Handle<Gate>,
    /// What the server showed.
    host_key: Option<PublicKey>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Exit {
    /// Exit status; `None` if a signal ended it or the connection closed first.
    pub status: Option<u32>,
}

impl Ssh {
    /// Connects and logs in to a new server.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; nothing was run.
    pub(super) async fn login(
        address: SocketAddr,
        user: &str,
        password: &Secret,
        first: &dyn FirstKey,
    ) -> Result<Self, SshError> {
        let keys = match first.known().await.map_err(SshError::FirstKey)? {
            Some(known) => {
                let pin = Pin::parse(&known);
                HostKeys::Known(vec![
                    pin.ok_or_else(|| SshError::FirstKey("what is noted is no key".into()))?,
                ])
            }
            None => HostKeys::First,
        };
        let mut ssh = Self::connect(address, &keys).await?;
        match timeout(LOGIN, ssh.handle.authenticate_password(user, password.reveal())).await {
            Ok(Ok(AuthResult::Success)) => {}
            Ok(Ok(AuthResult::Failure { .. })) => return Err(SshError::Password(address)),
            Ok(Err(error)) => return Err(SshError::Broken(address, error)),
            Err(elapsed) => return Err(SshError::Unreachable(address, elapsed.into())),
        }
        if matches!(keys, HostKeys::First) {
            ssh.keep_key(first).await?;
        }
        Ok(ssh)
    }

    /// Has the key that this server showed remembered.
    async fn keep_key(&self, first: &dyn FirstKey) -> Result<(), SshError> {
        let shown = self.host_key.as_ref().map(|key| PublicKey::from(key.key_data().clone()).to_openssh());
        match shown {
            Some(Ok(shown)) => first.keep(shown).await.map_err(SshError::FirstKey),
            Some(Err(error)) => Err(SshError::FirstKey(error.into())),
            None => Err(SshError::Broken(self.address, russh::Error::UnknownKey)),
        }
    }

    /// Connects to a server that shows one of these keys.
    ///
    /// # Errors
    /// [`SshError::HostKey`] if it shows another, before anything is sent to it.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect(address: SocketAddr, known: &HostKeys) -> Result<Self, SshError> {
        let HostKeys::Known(pins) = known else {
            return match Self::dial(address, known, Preferred::DEFAULT.key.to_vec()).await {
                Ok(ssh) => Ok(ssh),
                Err(Refused::Error(error)) => Err(error),
                Err(Refused::Key(_)) => Err(SshError::Broken(address, russh::Error::UnknownKey)),
            };
        };
        // A server has a key of each type and shows the type that is asked for: of a digest the type is not known.
        let has = |algorithm: &Algorithm| {
            pins.iter().any(|pin| match pin {
                Pin::Key(key) => key.algorithm() == *algorithm,
                Pin::Digest(_) => true,
            })
        };
        for algorithm in HOST_KEYS.into_iter().filter(has) {
            match Self::dial(address, known, vec![algorithm]).await {
                Ok(ssh) => return Ok(ssh),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::Key(_)) => {}
            }
        }
        // What people are shown is what they would see themselves.
        let shown = match Self::dial(address, &HostKeys::Known(Vec::new()), HOST_KEYS.to_vec()).await {
            Err(Refused::Key(Some(key))) => key.fingerprint(HashAlg::Sha256).to_string(),
            Err(Refused::Error(error)) => return Err(error),
            Ok(_) | Err(Refused::Key(None)) => "of a type that is not checked here".to_owned(),
        };
        Err(SshError::HostKey { address, shown })
    }

    async fn dial(address: SocketAddr, known: &HostKeys, types: Vec<Algorithm>) -> Result<Self, Refused> {
        let config = Arc::new(client::Config {
            inactivity_timeout: None,
            keepalive_interval: Some(Duration::from_secs(15)),
            keepalive_max: 8,
            nodelay: true,
            preferred: Preferred { key: types.into(), ..Preferred::DEFAULT },
            ..client::Config::default()
        });
        let shown = Arc::new(Mutex::new(None));
        let gate = Gate { known: known.clone(), shown: shown.clone() };
        let took = || shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        let unreachable = |error| Refused::Error(SshError::Unreachable(address, error));
        match timeout(GREETING, client::connect(config, address, gate)).await {
            Ok(Ok(handle)) => Ok(Self { address, handle, host_key: took() }),
            Ok(Err(russh::Error::UnknownKey)) => Err(Refused::Key(took())),
            Ok(Err(russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, .. })) => {
                Err(Refused::Key(None))
            }
            Ok(Err(error)) => Err(unreachable(error.into())),
            Err(elapsed) => Err(unreachable(elapsed.into())),
        }
    }

    /// Logs in by one of the operator's keys: those of the agent first, then those in files.
    ///
    /// # Errors
    /// [`SshError::Keys`] if none of them opens, with what was tried.
    pub async fn enter(&mut self, user: &str, keys: &Keys) -> Result<(), SshError> {
        let address = self.address;
        match timeout(LOGIN, self.try_keys(user, keys)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(tried)) => {
                let tried = if tried.is_empty() { "there are none".to_owned() } else { tried.join(", ") };
                Err(SshError::Keys { address, user: user.to_owned(), tried })
            }
            Err(elapsed) => Err(SshError::Unreachable(address, elapsed.into())),
        }
    }

    /// What was tried, if nothing opened.
    async fn try_keys(&mut self, user: &str, keys: &Keys) -> Result<(), Vec<String>> {
        let mut tried = Vec::new();
        if let Some(socket) = &keys.agent {
            match AgentClient::connect_uds(socket).await {
                Ok(mut agent) => {
                    let held = agent.request_identities().await.unwrap_or_default();
                    for identity in held {
                        let key = identity.public_key().into_owned();
                        let hash = if key.algorithm().is_rsa() { Some(HashAlg::Sha512) } else { None };
                        let said = self
                            .handle
                            .authenticate_publickey_with(user, key.clone(), hash, &mut agent)
                            .await;
                        match said {
                            Ok(AuthResult::Success) => return Ok(()),
                            Ok(AuthResult::Failure { .. }) => tried.push(named(&key)),
                            Err(error) => tried.push(format!("{}: {}", named(&key), chain(&error))),
                        }
                    }
                }
                Err(error) => tried.push(format!("agent {}: {}", socket.display(), chain(&error))),
            }
        }
        for file in &keys.files {
            let key = match load_secret_key(file, None) {
                Ok(key) => key,
                Err(russh::keys::Error::KeyIsEncrypted) => {
                    tried.push(format!("{} has a passphrase: `ssh-add` it", file.display()));
                    continue;
                }
                Err(error) => {
                    tried.push(format!("{}: {}", file.display(), chain(&error)));
                    continue;
                }
            };
            let key = PrivateKeyWithHashAlg::new(Arc::new(key), Some(HashAlg::Sha512));
            match self.handle.authenticate_publickey(user, key).await {
                Ok(AuthResult::Success) => return Ok(()),
                Ok(AuthResult::Failure { .. }) => tried.push(file.display().to_string()),
                Err(error) => tried.push(format!("{}: {}", file.display(), chain(&error))),
            }
        }
        Err(tried)
    }

    /// The other end.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs `command` with `input` on its standard input; every line of its output goes to `line`.
    ///
    /// # Errors
    /// [`SshError::Broken`]; what was begun there may go on.
    pub async fn run(
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
    pub async fn close(self) {
        let _ = timeout(GREETING, self.handle.disconnect(Disconnect::ByApplication, "", "")).await;
    }
}

fn named(key: &PublicKey) -> String {
    format!("agent's {}", key.fingerprint(HashAlg::Sha256))
}
