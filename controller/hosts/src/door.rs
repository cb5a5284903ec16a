//! Into a machine: its address looked up, its host key checked, one of the logins tried, everything done as root.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use fleet_model::{NodeName, chain};
use fleet_plan::resolved::HostKey;
use fleet_provider::bootstrap::ssh::{HostKeys, Pin, Ssh, SshError};
use tokio::time::timeout;

use crate::{
    access::Access,
    held::Place,
    look::{self, Seen, Standing},
    mark::Mark,
    script::{as_root, quoted},
};

/// Longest wait for a name's addresses.
const RESOLVE: Duration = Duration::from_secs(10);
/// Longest a short script may take there.
const SCRIPT: Duration = Duration::from_secs(120);

/// Why a machine is not let into, or does not do as told: cause and next step in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct DoorError {
    /// Cause and next step.
    pub why: String,
    /// Of which kind.
    pub kind: Closed,
}

/// Kinds of closed doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Nothing answers there: later it may.
    Away,
    /// Something answers that is not known to be the machine.
    Stranger,
    /// It is the machine, and what was under way there broke off: it may go on.
    Broken,
    /// It is the machine, and something is in the way that somebody has to remove.
    Shut,
}

impl DoorError {
    fn away(why: String) -> Self {
        Self { why, kind: Closed::Away }
    }
    fn broken(why: String) -> Self {
        Self { why, kind: Closed::Broken }
    }
    pub(crate) fn shut(why: String) -> Self {
        Self { why, kind: Closed::Shut }
    }
}

/// An open door: root may do things there.
pub struct Entrance {
    ssh: Ssh,
    login: String,
}

/// Opens the door of a machine.
///
/// # Errors
/// [`DoorError`]; nothing was done there.
pub async fn open(place: &Place, access: &Access) -> Result<Entrance, DoorError> {
    let host = &place.host;
    let known = match &host.key {
        Some(HostKey::Key(text) | HostKey::Fingerprint(text)) => match Pin::parse(text) {
            Some(pin) => {
                if access.revoked().map_err(DoorError::shut)?.iter().any(|revoked| pin.is_of(revoked)) {
                    return Err(DoorError::shut(format!(
                        "its `hostKey` {text} is revoked in your known hosts: whoever shows it may be anybody; give the \
                         machine a new one, and write that"
                    )));
                }
                HostKeys::Known(vec![pin])
            }
            None => return Err(DoorError::shut(format!("`hostKey` {text} is no key; correct the plan"))),
        },
        None => access.known(&host.address, host.port).map_err(DoorError::shut)?,
    };
    let mut last = String::new();
    for address in resolve(&host.address, host.port).await? {
        for login in &place.logins {
            let mut ssh = match Ssh::connect(address, &known).await {
                Ok(ssh) => ssh,
                Err(SshError::HostKey { shown, .. }) => return Err(stranger(place, &known, &shown)),
                Err(error) => {
                    last = chain(&error);
                    break;
                }
            };
            match ssh.enter(login, &access.keys()).await {
                Ok(()) => return Ok(Entrance { ssh, login: login.clone() }),
                Err(error @ SshError::Keys { .. }) if login == place.logins.last().unwrap_or(login) => {
                    return Err(DoorError::shut(format!(
                        "{}; put your public key into its `authorized_keys` (`ssh-copy-id`), or `ssh-add` the right \
                         one where you run fleetctl",
                        chain(&error)
                    )));
                }
                Err(SshError::Keys { .. }) => {}
                Err(error) => {
                    last = chain(&error);
                    break;
                }
            }
        }
    }
    Err(DoorError::away(format!(
        "SSH does not answer: {last}; see that it runs and can be reached from here"
    )))
}

async fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>, DoorError> {
    let failed = |why: String| DoorError::away(format!("the name `{name}` leads nowhere: {why}"));
    let found = timeout(RESOLVE, tokio::net::lookup_host((name, port)));
    let found = found.await.map_err(|_| failed("no answer in time".to_owned()))?;
    let all: Vec<SocketAddr> = found.map_err(|error| failed(error.to_string()))?.collect();
    if all.is_empty() { Err(failed("it has no address".to_owned())) } else { Ok(all) }
}

fn stranger(place: &Place, known: &HostKeys, shown: &str) -> DoorError {
    let place = &place.host;
    let check = "compare that with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the machine itself";
    let why = match (&place.key, known) {
        (None, HostKeys::Known(pins)) if pins.is_empty() => format!(
            "it is not known yet: {place} shows host key {shown}; {check}, then write `hostKey: {shown}` at the node, or \
             log in once with ssh"
        ),
        (Some(_), _) => format!(
            "{place} shows host key {shown}, and the plan says another: it may be another machine; {check}, and correct \
             `hostKey` if it is the right one"
        ),
        (None, _) => format!(
            "{place} shows host key {shown}, and your known hosts have another: it may be another machine; {check}, and \
             `ssh-keygen -R` the old one if it is the right one"
        ),
    };
    DoorError { why, kind: Closed::Stranger }
}

impl Entrance {
    /// Where it leads.
    pub const fn address(&self) -> SocketAddr {
        self.ssh.address()
    }

    /// Runs a script as root; every line it says goes to `line`.
    ///
    /// # Errors
    /// [`DoorError`] if it cannot be run to an end. It may go on there.
    pub async fn run(&self, script: &str, mut line: impl FnMut(&str)) -> Result<(), DoorError> {
        let mut last = String::new();
        let command = as_root(script, &self.login);
        let running = self.ssh.run(&command, b"", |said| {
            if !said.trim().is_empty() {
                said.trim().clone_into(&mut last);
            }
            line(said);
        });
        let exit = match timeout(SCRIPT, running).await {
            Ok(Ok(exit)) => exit,
            Ok(Err(error)) => return Err(DoorError::broken(chain(&error))),
            Err(_) => return Err(DoorError::broken(format!("it took longer than {} s", SCRIPT.as_secs()))),
        };
        match exit.status {
            Some(0) => Ok(()),
            None => Err(DoorError::broken("the connection closed half-way".to_owned())),
            Some(_) if self.login != "root" && last.starts_with("sudo") => Err(DoorError::shut(format!(
                "`{}` does not become root there ({last}); allow `sudo` without a password, or `login: root`",
                self.login
            ))),
            Some(status) => Err(DoorError::shut(format!("it failed there with status {status}: {last}"))),
        }
    }

    /// Looks at the machine.
    ///
    /// # Errors
    /// [`DoorError`] if that broke off.
    pub async fn look(&self) -> Result<Seen, DoorError> {
        let mut seen = Seen::default();
        self.run(look::SCRIPT, |line| {
            seen.read(line);
        })
        .await?;
        Ok(seen)
    }

    /// Looks, and judges whether the machine can be the node's that `mark` names.
    ///
    /// # Errors
    /// [`DoorError`]: why not.
    pub async fn judge(
        &self,
        mark: &Mark,
        nodes: &BTreeSet<NodeName>,
    ) -> Result<(Seen, Standing), DoorError> {
        let seen = self.look().await?;
        let standing = look::judge(&seen, mark, nodes, std::env::consts::ARCH).map_err(DoorError::shut)?;
        Ok((seen, standing))
    }

    /// Writes the mark, whole or not at all.
    ///
    /// # Errors
    /// [`DoorError`] if it cannot be written.
    pub async fn put_mark(&self, mark: &Mark) -> Result<(), DoorError> {
        let line = quoted(&mark.line());
        let file = crate::mark::FILE;
        let script = format!(
            "umask 077; mkdir -p /etc/fleet-agent && printf '%s\\n' {line} >{file}.new && sync {file}.new && mv -f \
             {file}.new {file}"
        );
        self.run(&script, |_| {}).await
    }

    /// The connection, for what takes its time.
    pub(crate) const fn ssh(&self) -> &Ssh {
        &self.ssh
    }

    /// Who came in.
    pub(crate) fn login(&self) -> &str {
        &self.login
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.ssh.close().await;
    }
}
