//! How to reach the cloud: `access.json`, and whether one serves a directory at all.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    net::Ipv4Addr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use fleet_mcp::Secret;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use rand::{Rng, distr::Alphanumeric};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::{api::Entry, durable, error::CloudError, tls};

/// Who calls by default; the password is what protects the cloud.
const USERNAME: &str = "fleet";
/// Characters of the random password: 24 letters and digits are more than 140 bits.
const PASSWORD_LENGTH: usize = 24;
/// How long the directory may be held by one who only looks whether a cloud serves it, or by a process that was killed
/// and whose threads are still on their way out.
const HELD_FOR_MOMENTS: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long a look at a running cloud may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach a cloud; the content of `access.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `https://127.0.0.1:PORT`.
    pub endpoint: String,
    /// The cloud's own authority, PEM.
    pub ca_file: PathBuf,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// `machines` or `none`.
    pub backing: String,
    /// Address of this host as servers reach it, if they can.
    pub host_address: Option<Ipv4Addr>,
    /// The serving process.
    pub pid: u32,
}

impl Access {
    /// Reads the directory's `access.json`; `None` if there is none. Whether the cloud runs is another
    /// question: see [`is_served`].
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn load(dir: &Path) -> Result<Option<Self>, CloudError> {
        let path = dir.join("access.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| CloudError::Damaged { path, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CloudError::file("read", path)(error)),
        }
    }

    /// What `HTTPS_PROXY` has to be for clients that keep the host names of the real service.
    pub fn proxy(&self) -> String {
        self.endpoint.replacen("https://", "http://", 1)
    }

    /// Settings of a client for this cloud.
    ///
    /// # Errors
    /// The authority's file cannot be read.
    pub fn client_settings(&self) -> Result<fleet_mcp::Settings, CloudError> {
        let credentials =
            fleet_mcp::Credentials { username: self.username.clone(), password: self.password.clone() };
        let mut settings = fleet_mcp::Settings::new(&self.endpoint, credentials);
        let pem = std::fs::read(&self.ca_file).map_err(CloudError::file("read", &self.ca_file))?;
        settings.extra_ca_pem = Some(pem);
        Ok(settings)
    }

    pub(crate) fn store(&self, dir: &Path) -> Result<(), CloudError> {
        let path = dir.join("access.json");
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|source| CloudError::Damaged { path: path.clone(), source })?;
        durable::replace(&path, &bytes).map_err(CloudError::file("write", path))
    }

    /// The port it last listened on.
    pub(crate) fn port(&self) -> Option<u16> {
        self.endpoint.rsplit(':').next()?.parse().ok()
    }
}

/// New credentials.
pub(crate) fn credentials() -> (String, Secret) {
    let password: String =
        rand::rng().sample_iter(Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect();
    (USERNAME.to_owned(), Secret::new(password))
}

/// Held while a cloud serves a directory; released by the kernel however the process ends.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, never read")] Flock<File>);

/// Takes the directory, or says who has it.
pub(crate) async fn lock(dir: &Path) -> Result<Lock, CloudError> {
    let path = dir.join("serve.lock");
    let mut file = open_lock(&path).map_err(CloudError::file("open", &path))?;
    let started = Instant::now();
    loop {
        let (mut held, errno) = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                let pid = std::process::id().to_string();
                let noted = lock
                    .set_len(0)
                    .and_then(|()| lock.rewind())
                    .and_then(|()| lock.write_all(pid.as_bytes()));
                noted.map_err(CloudError::file("write", &path))?;
                return Ok(Lock(lock));
            }
            Err(held) => held,
        };
        if errno != Errno::EWOULDBLOCK {
            return Err(CloudError::file("lock", path)(errno.into()));
        }
        if started.elapsed() > HELD_FOR_MOMENTS {
            let mut pid = String::new();
            // Only for the message; the lock itself is what counts.
            if held.read_to_string(&mut pid).is_err() || pid.is_empty() {
                "unknown".clone_into(&mut pid);
            }
            return Err(CloudError::Taken { dir: dir.to_owned(), pid });
        }
        file = held;
        sleep(LOOK_AGAIN).await;
    }
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether a process serves this directory right now.
///
/// # Errors
/// The lock cannot be looked at.
pub fn is_served(dir: &Path) -> Result<bool, CloudError> {
    let path = dir.join("serve.lock");
    let file = match OpenOptions::new().read(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(CloudError::file("open", path)(error)),
    };
    // Shared, so that two who look at the same time do not take each other for a cloud.
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(CloudError::file("lock", path)(errno.into())),
    }
}

/// What a running cloud says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `machines` or `none`.
    pub backing: String,
    /// Its process.
    pub pid: u32,
    /// How many network domains it holds.
    pub network_domains: usize,
    /// Its servers.
    pub servers: Vec<ServerStatus>,
}

/// A server as status output shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its data centre.
    pub datacenter: String,
    /// `NORMAL`, `PENDING_ADD`, …
    pub state: String,
    /// Whether it is powered on.
    pub started: bool,
    /// Why it failed.
    pub failure: Option<String>,
    /// Private IPv4 address.
    pub private_ipv4: Option<String>,
    /// Private IPv6 address.
    pub ipv6: Option<String>,
    /// Unix socket with its serial console.
    pub console: Option<PathBuf>,
}

/// Asks the cloud that serves `dir`; `None` if none does.
///
/// # Errors
/// Files cannot be read, or a cloud serves the directory but does not answer.
pub async fn status(dir: &Path) -> Result<Option<Status>, CloudError> {
    let (true, Some(access)) = (is_served(dir)?, Access::load(dir)?) else { return Ok(None) };
    ask(&access, "fleet/status").await.map(Some)
}

/// The last calls a running cloud has answered, oldest first.
///
/// # Errors
/// It does not answer.
pub async fn log(access: &Access) -> Result<Vec<Entry>, CloudError> {
    #[derive(Deserialize)]
    struct Log {
        calls: Vec<Entry>,
    }
    ask::<Log>(access, "fleet/log").await.map(|log| log.calls)
}

async fn ask<T: serde::de::DeserializeOwned>(access: &Access, path: &str) -> Result<T, CloudError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| CloudError::Ask {
        endpoint: access.endpoint.clone(),
        source,
    };
    let pem = std::fs::read(&access.ca_file).map_err(CloudError::file("read", &access.ca_file))?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client(&pem)?)
        // It is on this host; a proxy somewhere else cannot reach it.
        .no_proxy()
        .timeout(ASK_TIMEOUT)
        .build()
        .map_err(|error| failed(error.into()))?;
    let answer = client
        .get(format!("{}/{path}", access.endpoint))
        .basic_auth(&access.username, Some(access.password.reveal()))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| failed(error.into()))?;
    let body = answer.bytes().await.map_err(|error| failed(error.into()))?;
    serde_json::from_slice(&body).map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_cloud_per_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!is_served(dir.path()).expect("no lock yet"));
        let held = lock(dir.path()).await.expect("free");
        assert!(is_served(dir.path()).expect("a lock"));
        let error = lock(dir.path()).await.expect_err("taken").to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(held);
        assert!(!is_served(dir.path()).expect("a free lock"));
    }

    #[tokio::test]
    async fn who_only_looks_keeps_no_cloud_from_its_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = open_lock(&dir.path().join("serve.lock")).expect("a file");
        let look = Flock::lock(file, FlockArg::LockShared).expect("free");
        let (held, ()) = tokio::join!(lock(dir.path()), async move {
            // The other side has met it by now: both are polled in turn.
            tokio::task::yield_now().await;
            drop(look);
        });
        held.expect("the look has ended");
    }

    #[test]
    fn access_is_private_and_kept() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let (username, password) = credentials();
        let access = Access {
            endpoint: "https://127.0.0.1:4321".into(),
            ca_file: dir.path().join("ca.pem"),
            username,
            password,
            backing: "none".into(),
            host_address: None,
            pid: 1,
        };
        access.store(dir.path()).expect("written");
        assert_eq!(Access::load(dir.path()).expect("read").as_ref(), Some(&access));
        assert_eq!(access.port(), Some(4321));
        let mode = std::fs::metadata(dir.path().join("access.json")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{access:?}").contains(access.password.reveal()));
    }
}
