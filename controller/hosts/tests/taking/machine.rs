//! A machine that speaks SSH and runs what it is told below a folder of its own.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use fleet_hosts::Access;
use russh::{
    Channel, ChannelId, ChannelMsg,
    keys::{
        Algorithm, EcdsaCurve, HashAlg, PrivateKey,
        signature::rand_core::{TryCryptoRng, TryRng},
        ssh_key::LineEnding,
    },
    server::{self, Auth, ChannelOpenHandle, Config, Msg, Session, VerifiedPublicKey},
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, process::Command};

/// The operator: a folder with a key in it.
pub struct Operator {
    dir: tempfile::TempDir,
    pub key: PrivateKey,
}

impl Operator {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let key = new_key(Algorithm::Ed25519);
        key.write_openssh_file(dir.path().join("id_ed25519"), LineEnding::LF).expect("written");
        Self { dir, key }
    }

    /// How this operator gets in; `known` are lines of known hosts.
    pub fn access(&self, known: &str) -> Access {
        let file = self.dir.path().join("known_hosts");
        fs::write(&file, known).expect("written");
        Access { agent: None, keys: vec![self.dir.path().join("id_ed25519")], known_hosts: vec![file] }
    }
}

/// The machine. Dropping it takes it off the network.
pub struct Machine {
    pub root: tempfile::TempDir,
    pub port: u16,
    /// Its host keys: ed25519, then ecdsa.
    pub keys: [PrivateKey; 2],
    /// Times somebody wanted to log in.
    pub asked: Arc<AtomicU32>,
    serving: tokio::task::JoinHandle<()>,
}

impl Machine {
    /// A sound machine that lets this operator in, as whoever.
    pub async fn new(operator: &Operator) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        for dir in ["etc/systemd/system", "run/systemd/system", "var/lib", "usr/local/lib", "bin"] {
            fs::create_dir_all(root.path().join(dir)).expect("a folder");
        }
        let machine = uuid(&mut rand::rng());
        fs::write(root.path().join("etc/machine-id"), format!("{machine}\n")).expect("written");
        fs::write(root.path().join("etc/os-release"), "PRETTY_NAME='Debian of the tests'\n")
            .expect("written");
        fs::write(root.path().join("etc/hosts"), "127.0.0.1 localhost\n").expect("written");
        let keys = [new_key(Algorithm::Ed25519), new_key(Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 })];
        let config = Arc::new(Config {
            auth_rejection_time: std::time::Duration::ZERO,
            keys: keys.to_vec(),
            ..Config::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(AtomicU32::new(0));
        let shell = Shell {
            root: root.path().to_owned(),
            lets_in: operator.key.clone(),
            asked: asked.clone(),
            open: Arc::default(),
        };
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (config, shell) = (config.clone(), shell.clone());
                tokio::spawn(async move {
                    // A client that goes away is no news.
                    if let Ok(session) = server::run_stream(config, stream, shell).await {
                        let _ = session.await;
                    }
                });
            }
        });
        let this = Self { root, port, keys, asked, serving };
        this.program("id", "echo 0");
        this.program("systemctl", r#"echo "$*" >>ROOT/systemctl.log; [ "$1" != is-active ]"#);
        this.program("sudo", r#"[ "$1 $2" = '-n --' ] || exit 9; shift 2; exec "$@""#);
        this
    }

    /// A program of the machine; `ROOT` is its folder.
    pub fn program(&self, name: &str, text: &str) {
        let file = self.root.path().join("bin").join(name);
        let text = text.replace("ROOT", &self.root.path().display().to_string());
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("written");
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("allowed");
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// The fingerprint of its usual host key.
    pub fn fingerprint(&self) -> String {
        self.keys[0].public_key().fingerprint(HashAlg::Sha256).to_string()
    }

    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Takes it off the network.
    pub async fn off(&mut self) {
        self.serving.abort();
        // Its listener is closed once the task is gone.
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Randomness as keys want it.
struct Random;

impl TryRng for Random {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(rand::random())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(rand::random())
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.iter_mut().for_each(|byte| *byte = rand::random());
        Ok(())
    }
}

impl TryCryptoRng for Random {}

fn new_key(algorithm: Algorithm) -> PrivateKey {
    PrivateKey::random(&mut Random, algorithm).expect("a key")
}

fn uuid(random: &mut impl rand::Rng) -> String {
    (0..16).map(|_| format!("{:02x}", random.random::<u8>())).collect()
}

/// One connection's end.
#[derive(Clone)]
struct Shell {
    root: PathBuf,
    lets_in: PrivateKey,
    asked: Arc<AtomicU32>,
    open: Arc<Mutex<HashMap<ChannelId, Channel<Msg>>>>,
}

impl server::Handler for Shell {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let known = key.public_key.key_data() == self.lets_in.public_key().key_data();
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.open.lock().expect("no panic").insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)?;
        let channel = self.open.lock().expect("no panic").remove(&channel).expect("open");
        tokio::spawn(run(self.root.clone(), String::from_utf8_lossy(command).into_owned(), channel));
        Ok(())
    }
}

/// Runs a command with its absolute paths moved below the machine's folder.
async fn run(root: PathBuf, command: String, mut channel: Channel<Msg>) {
    let mut input = Vec::new();
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => input.extend_from_slice(&data),
            ChannelMsg::Eof => break,
            _ => {}
        }
    }
    let mut process = Command::new("sh")
        .args(["-c", &moved(&command, &root)])
        .env("PATH", format!("{}:/usr/bin:/bin", root.join("bin").display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh");
    // A command that reads nothing is fine.
    let _ = process.stdin.take().expect("piped").write_all(&input).await;
    let output = process.wait_with_output().await.expect("runs");
    // The client may be gone.
    let _ = channel.data(output.stdout.as_slice()).await;
    let _ = channel.extended_data(1, output.stderr.as_slice()).await;
    // One whose shell was killed says nothing.
    let status = output.status.code().and_then(|code| u32::try_from(code).ok());
    if let Some(status) = status.filter(|status| *status < 128) {
        let _ = channel.exit_status(status).await;
    }
    let _ = channel.eof().await;
    let _ = channel.close().await;
}

fn moved(text: &str, root: &std::path::Path) -> String {
    let root = root.display();
    ["/etc/", "/run/", "/var/lib/", "/usr/local/lib/"]
        .iter()
        .fold(text.to_owned(), |text, path| text.replace(path, &format!("{root}{path}")))
}
