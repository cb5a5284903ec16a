//! Carries a seed to a new server and runs cloud-init there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use fleet_model::{NodeName, Secret, chain};
use sha2::{Digest, Sha256};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::ssh::{FirstKey, Ssh, SshError};

/// Pause between looks at a server that does not listen yet: short, since a look costs one SYN.
const LOOK_AGAIN: Duration = Duration::from_millis(700);
/// A server that is still being customised may refuse its password for a moment after sshd is up.
const PASSWORD_GRACE: Duration = Duration::from_secs(45);
/// Longest the seed and cloud-init may take once logged in.
pub const FIRST_BOOT: Duration = Duration::from_secs(15 * 60);
/// Lines of output remembered for the case that cloud-init fails.
const TAIL: usize = 12;

/// Where a new server is reached.
#[derive(Debug)]
pub struct SshTarget {
    /// The node's name, for cloud-init's instance id and host name.
    pub node: NodeName,
    /// Addresses, tried in turn until one answers.
    pub addresses: Vec<SocketAddr>,
    /// `root`.
    pub user: String,
    /// Initial password.
    pub password: Secret,
    /// By which key it was first seen.
    pub first_key: Arc<dyn FirstKey>,
    /// Longest wait for SSH to answer.
    pub boot_deadline: Duration,
}

/// How far a first boot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootStage {
    /// Waiting for SSH; why the last look failed.
    Reaching(String),
    /// Logged in.
    Connected,
    /// The seed is on the node; cloud-init is starting.
    SeedWritten,
    /// One line of cloud-init's own output.
    Line(String),
    /// The script has read its seed.
    SeedRead,
    /// The agent is in place, digest checked.
    AgentUnpacked,
    /// The agent's unit is running.
    AgentStarted,
}

/// Why a first boot did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// SSH never answered.
    #[error(
        "SSH did not answer on {address} within {} s (last: {last}); look at its console, then run `fleetctl up` again",
        after.as_secs()
    )]
    NeverBooted {
        /// Last address tried.
        address: SocketAddr,
        /// How long was waited.
        after: Duration,
        /// Last error.
        last: String,
    },
    /// There is no address to reach it by.
    #[error(
        "the server has no address this host can reach; give the node `internet:` or pass `fleetctl user-data` to it by hand"
    )]
    NoAddress,
    /// SSH answered and said no.
    #[error(
        "{0} refused the initial root password; it was changed behind our back: delete the server and run `fleetctl up` again"
    )]
    PasswordRefused(SocketAddr),
    /// Something else answers than did at first. No password was sent to it.
    #[error(
        "{address} shows host key {shown}, and another one answered there first: it may be another machine, and was sent \
         nothing; compare that with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the server's console; \
         `fleetctl replace {node}` makes the server anew"
    )]
    HostKey {
        /// Where.
        address: SocketAddr,
        /// The fingerprint of what it shows.
        shown: String,
        /// The node.
        node: NodeName,
    },
    /// Its host key cannot be noted.
    #[error(
        "by which key the new server is known cannot be read or noted: {0}; see that the store works and run `fleetctl up` again"
    )]
    FirstKey(String),
    /// The connection broke while the seed was pushed or cloud-init ran.
    #[error("the SSH connection broke during first boot: {0}; run `fleetctl up` again")]
    Broken(String),
    /// cloud-init or our script failed; the line is the node's.
    #[error("first boot failed on the node: {0}; correct that and run `fleetctl up` again")]
    Failed(String),
    /// It did not end.
    #[error("first boot did not end within {} s; see /var/log/cloud-init-output.log on the node", .0.as_secs())]
    TooLong(Duration),
    /// The run was told to stop.
    #[error("stopped before the first boot was done; run `fleetctl up` again")]
    Stopped,
}

/// Reaches a new server, writes the seed, runs cloud-init, reports each stage.
///
/// # Errors
/// [`BootstrapError`]. The server stays as it is: pushing again is safe, with a new token in the seed.
///
/// # Cancel safety
/// Dropping the future, or `stop`, closes the connection; cloud-init may go on on the node, and the next
/// push starts it over.
pub async fn push(
    target: &SshTarget,
    document: &[u8],
    events: &mpsc::Sender<BootStage>,
    stop: &CancellationToken,
) -> Result<(), BootstrapError> {
    tokio::select! {
        // Both sides only wait or speak SSH; see above for what a drop leaves behind.
        () = stop.cancelled() => Err(BootstrapError::Stopped),
        done = drive(target, document, events) => done,
    }
}

async fn drive(
    target: &SshTarget,
    document: &[u8],
    events: &mpsc::Sender<BootStage>,
) -> Result<(), BootstrapError> {
    let ssh = reach(target, events).await?;
    tell(events, BootStage::Connected);
    let done = match timeout(FIRST_BOOT, carry(&ssh, &first_boot(target, document), document, events)).await {
        Ok(done) => done,
        Err(_) => Err(BootstrapError::TooLong(FIRST_BOOT)),
    };
    ssh.close().await;
    done
}

/// Progress is for watching: when nobody keeps up, work goes on and the stage is dropped.
fn tell(events: &mpsc::Sender<BootStage>, stage: BootStage) {
    let _ = events.try_send(stage);
}

async fn reach(target: &SshTarget, events: &mpsc::Sender<BootStage>) -> Result<Ssh, BootstrapError> {
    let started = Instant::now();
    let mut refused_since = None;
    let mut last = (*target.addresses.first().ok_or(BootstrapError::NoAddress)?, String::new());
    loop {
        for &address in &target.addresses {
            match Ssh::login(address, &target.user, &target.password, &*target.first_key).await {
                Ok(ssh) => return Ok(ssh),
                Err(SshError::HostKey { address, shown }) => {
                    return Err(BootstrapError::HostKey { address, shown, node: target.node.clone() });
                }
                Err(SshError::FirstKey(why)) => return Err(BootstrapError::FirstKey(chain(&*why))),
                Err(SshError::Password(address)) => {
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > PASSWORD_GRACE {
                        return Err(BootstrapError::PasswordRefused(address));
                    }
                    last = (address, "initial password not accepted yet".to_owned());
                }
                Err(error) => last = (address, chain(&error)),
            }
        }
        if started.elapsed() > target.boot_deadline {
            let (address, last) = last;
            return Err(BootstrapError::NeverBooted { address, after: target.boot_deadline, last });
        }
        tell(events, BootStage::Reaching(last.1.clone()));
        sleep(LOOK_AGAIN).await;
    }
}

/// Runs `command`, which takes a seed on its standard input and runs it; tells what it says.
///
/// # Errors
/// [`BootstrapError`] if it does not end with the agent started.
pub async fn carry(
    ssh: &Ssh,
    command: &str,
    document: &[u8],
    events: &mpsc::Sender<BootStage>,
) -> Result<(), BootstrapError> {
    let (mut tail, mut failure, mut started) = (Vec::new(), None, false);
    let exit = ssh
        .run(command, document, |line| {
            if let Some(word) = line.strip_prefix("fleet-first-boot: ") {
                match word.split_once(' ').unwrap_or((word, "")) {
                    ("seed-written", _) => tell(events, BootStage::SeedWritten),
                    ("seed-read", _) => tell(events, BootStage::SeedRead),
                    ("agent-unpacked", _) => tell(events, BootStage::AgentUnpacked),
                    ("agent-started", _) => {
                        started = true;
                        tell(events, BootStage::AgentStarted);
                    }
                    ("failed", why) => failure = Some(why.to_owned()),
                    _ => {}
                }
            } else if !line.trim().is_empty() {
                if tail.len() == TAIL {
                    tail.remove(0);
                }
                tail.push(line.to_owned());
                tell(events, BootStage::Line(line.to_owned()));
            }
        })
        .await
        .map_err(|error| BootstrapError::Broken(chain(&error)))?;
    match (failure, exit.status) {
        (Some(line), _) => Err(BootstrapError::Failed(line)),
        (None, Some(0)) if started => Ok(()),
        (None, Some(0)) => Err(BootstrapError::Failed(
            "cloud-init ended well but did not run the seed; is `scripts-user` missing in its final stage?"
                .to_owned(),
        )),
        (None, Some(status)) => {
            let line = tail.iter().rev().find(|line| looks_like_failure(line)).or(tail.last());
            let line = line.map_or("it said nothing", String::as_str);
            Err(BootstrapError::Failed(format!("it ended with status {status}: {line}")))
        }
        (None, None) => Err(BootstrapError::Broken("the server closed it".to_owned())),
    }
}

/// cloud-init prints its outcome last; the line that says why comes before.
fn looks_like_failure(line: &str) -> bool {
    ["error", "fail", "Traceback", "No space left"].iter().any(|word| line.contains(word))
}

/// Shell that writes the NoCloud seed, the document being its standard input, and runs cloud-init on it.
///
/// A first boot whose watcher was killed goes on; the next one waits for its end rather than pull the seed from
/// under it. The document is taken in whole before that, so that a connection that hangs holds nobody up, and one cut
/// short is not run, nor does it stay: there is a token in it. The instance id changes with the document, and what an
/// earlier one left cached is forgotten, so that a new seed counts as a new instance.
///
/// cloud-init runs now, without a reboot, and is installed first where the image lacks it. Two of its four stages
/// do: reading the seed needs no network, and nothing in it waits for the configuration stage; on an emulated
/// processor each stage is ten seconds of Python. Network configuration stays the image's. The script need not
/// report what is seen here. The host key stays: by it the server is known from the first look on. The seed goes away afterwards, so that a reboot finds cloud-init idle.
fn first_boot(target: &SshTarget, document: &[u8]) -> String {
    let digest = Sha256::digest(document);
    let instance = u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
    let (node, size) = (&target.node, document.len());
    format!(
        "exec 2>&1 9>/run/fleet-first-boot.lock; export FLEET_WATCHED=1; \
         new=$(mktemp /run/fleet-seed.XXXXXX) || exit 1; \
         trap 'rm -f $new' EXIT; trap 'exit 1' HUP INT PIPE TERM; \
         cat >$new && [ \"$(wc -c <$new)\" -eq {size} ] || exit 1; \
         flock -w 600 9 || {{ echo 'fleet-first-boot: failed an earlier first boot does not end'; exit 1; }}; \
         d=/var/lib/cloud/seed/nocloud-net; \
         (umask 077; mkdir -p $d /etc/cloud/cloud.cfg.d && cat $new >$d/user-data && rm -f $new && \
         printf 'instance-id: fleet-{node}-{instance:016x}\\nlocal-hostname: {node}\\n' >$d/meta-data && \
         printf 'network: {{config: disabled}}\\nssh_deletekeys: false\\n' >/etc/cloud/cloud.cfg.d/99-fleet.cfg) || exit 1; \
         echo fleet-first-boot: seed-written; \
         if ! command -v cloud-init >/dev/null; then \
         DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 update && \
         DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install cloud-init || exit 1; \
         fi; \
         rm -rf /var/lib/cloud/instance; cloud-init init && cloud-init modules --mode=final; status=$?; rm -rf $d; exit $status"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> SshTarget {
        SshTarget {
            node: "db-1".parse().unwrap(),
            addresses: vec!["127.0.0.1:9".parse().unwrap()],
            user: "root".to_owned(),
            password: Secret::new("pw"),
            first_key: Arc::new(NeverSeen),
            boot_deadline: Duration::ZERO,
        }
    }

    #[derive(Debug)]
    struct NeverSeen;

    #[async_trait::async_trait]
    impl FirstKey for NeverSeen {
        async fn known(&self) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
            Ok(None)
        }
        async fn keep(&self, key: String) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            panic!("nobody shows {key}")
        }
    }

    #[test]
    fn a_new_document_is_a_new_instance() {
        assert_ne!(first_boot(&target(), b"one"), first_boot(&target(), b"two"));
        assert_eq!(first_boot(&target(), b"one"), first_boot(&target(), b"one"));
    }

    #[test]
    fn a_document_cut_short_is_neither_run_nor_kept() {
        use std::{
            io::Write as _,
            process::{Command, Stdio},
        };
        let sandbox = tempfile::tempdir().unwrap();
        let run = sandbox.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let script =
            first_boot(&target(), b"a whole document").replace("/run/", &format!("{}/", run.display()));
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdin.take().unwrap().write_all(b"a whole").unwrap();
        let output = shell.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing was begun");
        let left: Vec<_> = std::fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("fleet-seed")), "{left:?}");
    }

    #[tokio::test]
    async fn a_server_that_never_boots_is_named_with_its_last_error() {
        let (events, _watch) = mpsc::channel(1);
        let error = push(&target(), b"", &events, &CancellationToken::new()).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, BootstrapError::NeverBooted { .. }), "{text}");
        assert!(text.contains("127.0.0.1:9") && text.contains("refused"), "{text}");
    }

    #[tokio::test]
    async fn stop_ends_the_wait() {
        let (events, _watch) = mpsc::channel(1);
        let stop = CancellationToken::new();
        stop.cancel();
        let mut target = target();
        target.boot_deadline = Duration::from_secs(3600);
        assert!(matches!(push(&target, b"", &events, &stop).await, Err(BootstrapError::Stopped)));
    }
}
