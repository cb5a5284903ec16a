//! Starting stand-ins on loopback, and waiting for things to be so.

use std::{
    env, fs,
    fs::File,
    future::Future,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use fleet_reql::{Connection, Options, db};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Waits until `look` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let over = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < over, "not within {DEADLINE:?}: {what}");
        sleep(LOOK_EVERY).await;
    }
}

/// The server under test: one that was named, or a stand-in that lives as long as this.
pub struct UnderTest {
    /// Where drivers are served.
    pub address: SocketAddr,
    _own: Option<Standin>,
}

/// The server under test, ready.
pub async fn under_test() -> UnderTest {
    if let Ok(named) = env::var("FLEET_RETHINKDB") {
        let address = named.parse().expect("FLEET_RETHINKDB is ADDRESS:PORT");
        return UnderTest { address, _own: None };
    }
    let own = Standin::new("only", None, &[]);
    own.connect().await;
    UnderTest { address: own.address(), _own: Some(own) }
}

/// A certificate authority of a test.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes key and certificate of a member, and the certificates of those `trusted`, into a folder.
    fn issue(&self, trusted: &[&Self], folder: &Path) {
        let key = KeyPair::generate().unwrap();
        // Members are known by their certificate, not by a name in it.
        let mut params = CertificateParams::new(vec!["member.example".to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
        let trusted: String = trusted.iter().map(|authority| authority.0.pem()).collect();
        fs::write(folder.join("ca.pem"), trusted).unwrap();
    }
}

/// Ports no one listens on, below those the system gives to whoever dials: a stand-in that is dead for a moment, or
/// has still to join, finds its own free.
fn free_ports<const N: usize>() -> [u16; N] {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 17_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at a time do not try the same ones first.
    let start = (std::process::id() % 170) as u16 * 100;
    std::array::from_fn(|_| {
        let tries = std::iter::repeat_with(|| {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            FIRST + (u32::from(start) + u32::from(step)).rem_euclid(u32::from(COUNT)) as u16
        });
        let mut tries = tries.take(usize::from(COUNT));
        tries.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
    })
}

/// A running stand-in; it is killed when this is dropped.
pub struct Standin {
    pub name: String,
    folder: TempDir,
    driver_port: u16,
    cluster_port: u16,
    http_port: u16,
    child: Option<Child>,
}

impl Standin {
    /// Starts a new one with an empty data directory. `tls` is who issues its certificate, and whom it trusts.
    pub fn new(name: &str, tls: Option<(&Authority, &Authority)>, join: &[&Standin]) -> Self {
        let [driver_port, cluster_port, http_port] = free_ports();
        Self::at(name, tls, join, [driver_port, cluster_port, http_port])
    }

    /// Starts a new one, with an empty data directory, in the place of one that is no more.
    pub fn instead_of(self, tls: Option<(&Authority, &Authority)>, join: &[&Standin]) -> Self {
        let ports = [self.driver_port, self.cluster_port, self.http_port];
        let name = self.name.clone();
        drop(self);
        Self::at(&name, tls, join, ports)
    }

    fn at(name: &str, tls: Option<(&Authority, &Authority)>, join: &[&Standin], ports: [u16; 3]) -> Self {
        let [driver_port, cluster_port, http_port] = ports;
        let folder = TempDir::new().unwrap();
        let path = folder.path().display();
        let mut file = format!(
            "server-name={name}\nserver-tag=at_{name}\ndirectory={path}/data\ndriver-port={driver_port}\n\
             cluster-port={cluster_port}\nhttp-port={http_port}\ncanonical-address=127.0.0.1:{cluster_port}\n\
             cache-size=64\nno-update-check\n"
        );
        for other in join {
            file += &format!("join=127.0.0.1:{}\n", other.cluster_port);
        }
        if let Some((issuer, trusted)) = tls {
            issuer.issue(&[trusted], folder.path());
            file += &format!(
                "cluster-tls-key={path}/key.pem\ncluster-tls-cert={path}/cert.pem\ncluster-tls-ca={path}/ca.pem\n\
                 http-tls-key={path}/key.pem\nhttp-tls-cert={path}/cert.pem\n"
            );
        }
        fs::write(folder.path().join("standin.conf"), file).unwrap();
        let mut standin =
            Self { name: name.into(), folder, driver_port, cluster_port, http_port, child: None };
        let made = standin.command("create").output().unwrap();
        assert!(made.status.success(), "create: {}", String::from_utf8_lossy(&made.stderr));
        standin.start();
        standin
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rethinkdb-standin"));
        command
            .arg(word)
            .arg("--config-file")
            .arg(self.folder.path().join("standin.conf"))
            .stdin(Stdio::null());
        command
    }

    /// Starts it on the data it has.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command("serve");
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Starts it anew with another certificate, trusting these.
    pub fn certified_by(&mut self, issuer: &Authority, trusted: &[&Authority]) {
        self.kill();
        issuer.issue(trusted, self.folder.path());
        self.start();
    }

    /// Ends it as a power cut would: no warning, no farewell.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Everything it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The console's page, over https as its authority vouches for it.
    pub async fn page(&self) -> String {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.folder.path().join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(("127.0.0.1", self.http_port)).await.unwrap();
        let name = ServerName::try_from("member.example").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: member.example\r\n\r\n").await.unwrap();
        let mut page = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut page)).await.expect("in time").unwrap();
        page
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.driver_port))
    }

    /// A connection, as soon as there can be one.
    pub async fn connect(&self) -> Connection {
        until(&format!("{} serves drivers; it says:\n{}", self.name, self.log()), || async {
            Connection::open(self.address(), &Options::default()).await.ok()
        })
        .await
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.log());
        }
    }
}

/// Rows of a table of the database `rethinkdb`.
pub async fn system(connection: &Connection, table: &str) -> Vec<Value> {
    connection.run(db("rethinkdb").table(table).all()).await.unwrap()
}

/// Waits until every one of these servers sees all of them connected to each other, and nothing is wrong.
pub async fn whole(members: &[&Standin]) {
    for asked in members {
        let connection = asked.connect().await;
        until(&format!("{} sees {} servers in one cluster", asked.name, members.len()), || async {
            let servers = system(&connection, "server_status").await;
            let linked = |server: &Value| {
                let others = server["network"]["connected_to"].as_object().unwrap();
                others.len() == members.len() - 1 && others.values().all(|linked| linked == true)
            };
            (servers.len() == members.len() && servers.iter().all(linked)).then_some(())
        })
        .await;
    }
}
