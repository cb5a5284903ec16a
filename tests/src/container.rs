//! Nodes that boot in a second: containers with their own systemd and sshd, on a network that nobody else sees.
//!
//! The network is that of the thread that asked for it, and of everything the thread starts from then on, so that what
//! tests beside this one find of namespaces, links and routes on the host is what they left there.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use crate::{
    eventually,
    groups::{self, PREFIX},
};

/// A second is usual; whoever waits longer shares two cores with the builds of others.
const BOOT: Duration = Duration::from_secs(60);
/// What a container has no use for, and would wait for or fail at.
const IDLE: [&str; 6] = [
    "chrony.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "lvm2-monitor.service",
    "lvm2-lvmpolld.socket",
    "e2scrub_reap.service",
];

/// How many networks this test has had.
static NETWORKS: AtomicU8 = AtomicU8::new(0);

/// A network of this thread's own: a bridge that containers hang on. It is gone with the thread and all it started.
#[derive(Debug)]
pub struct Network {
    folder: PathBuf,
    debian: PathBuf,
    /// Tells it from others of this test.
    number: u8,
}

impl Network {
    /// Where this host is on it.
    pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    /// Takes the calling thread there.
    ///
    /// # Panics
    /// Only root may; or there is no Debian to be had for containers.
    #[track_caller]
    pub fn of_this_thread() -> Self {
        // While there is a way to a mirror.
        let folder = crate::program("fleetctl").with_file_name("../tmp/fleet-work");
        let debian = crate::debian(&folder).expect("a Debian");
        sweep(&folder);
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("root may have a network of its own");
        for line in [
            "link set lo up".to_owned(),
            "link add fleet0 type bridge".to_owned(),
            format!("address add {}/24 dev fleet0", Self::HOST),
            "link set fleet0 up".to_owned(),
        ] {
            let done = Command::new("ip").args(line.split(' ')).status().expect("ip starts");
            assert!(done.success(), "ip {line}");
        }
        Self { folder, debian, number: NETWORKS.fetch_add(1, Ordering::Relaxed) }
    }
}

/// A node in a container. Dropping it ends it as a power cut would, and removes its files.
#[derive(Debug)]
pub struct Container {
    name: String,
    /// What it is called on the host: of all tests' and networks' containers this one.
    label: String,
    address: Ipv4Addr,
    /// Its files; they are there while it is off, too.
    root: tempfile::TempDir,
    /// A control group of its own in each hierarchy.
    groups: Vec<PathBuf>,
    nspawn: Option<Child>,
}

impl Container {
    /// A Debian that lets the holder of this public key in as root; off. The number makes its address.
    ///
    /// # Panics
    /// There is no room for it.
    #[track_caller]
    pub fn new(network: &Network, name: &str, number: u8, key: &str) -> Self {
        let Network { folder, debian, number: net } = network;
        let label = format!("{PREFIX}{}-{net}-{name}", std::process::id());
        let prefix = format!("{label}-");
        let root = tempfile::Builder::new().prefix(&prefix).tempdir_in(folder).expect("a folder");
        let done = Command::new("tar").arg("-C").arg(root.path()).arg("-xf").arg(debian).status();
        assert!(done.expect("tar starts").success(), "unpack a Debian");
        let [a, b, c, _] = Network::HOST.octets();
        let address = Ipv4Addr::new(a, b, c, 10 + number);
        let groups = groups::named(&label);
        let this = Self { name: name.to_owned(), label, address, root, groups, nspawn: None };
        this.furnish(*net, number, key);
        this
    }

    fn furnish(&self, net: u8, number: u8, key: &str) {
        let put = |path: &str, text: &str| {
            let path = self.path(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
            fs::write(path, text).expect("written");
        };
        put("root/.ssh/authorized_keys", key);
        fs::set_permissions(self.path("root/.ssh"), fs::Permissions::from_mode(0o700)).expect("private");
        put("etc/hostname", &format!("{}\n", self.name));
        put("etc/machine-id", &format!("{:028x}{net:02x}{number:02x}\n", std::process::id()));
        put(
            "etc/systemd/network/10-fleet.network",
            &format!(
                "[Match]\nName=host0\n[Network]\nAddress={}/24\nGateway={}\nLinkLocalAddressing=no\n",
                self.address,
                Network::HOST
            ),
        );
        let units = self.path("etc/systemd/system");
        let wanted = units.join("multi-user.target.wants");
        fs::create_dir_all(&wanted).expect("a folder");
        symlink("/lib/systemd/system/systemd-networkd.service", wanted.join("systemd-networkd.service"))
            .expect("enabled");
        for unit in IDLE {
            // Some Debians enable it by a link of that name.
            fs::remove_file(units.join(unit)).ok();
            symlink("/dev/null", units.join(unit)).expect("masked");
        }
        // Of all who unpack the same archive otherwise.
        let host_key = self.path("etc/ssh/ssh_host_ed25519_key");
        fs::remove_file(&host_key).ok();
        let done = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", &self.name, "-f"])
            .arg(&host_key)
            .status();
        assert!(done.expect("ssh-keygen starts").success(), "a host key");
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is on the [`Network`].
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its host key, as OpenSSH writes one.
    pub fn host_key(&self) -> String {
        let line = fs::read_to_string(self.path("etc/ssh/ssh_host_ed25519_key.pub")).expect("its host key");
        line.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
    }

    /// A file of it, on or off.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join(inside.trim_start_matches('/'))
    }

    /// Switches it on and waits until it can be logged into.
    ///
    /// # Panics
    /// It does not boot.
    #[track_caller]
    pub fn start(&mut self) {
        self.switch_on();
        self.booted();
    }

    /// Switches it on.
    ///
    /// # Panics
    /// The host lacks what a container takes.
    #[track_caller]
    pub fn switch_on(&mut self) {
        let log = fs::File::create(self.root.path().with_extension("console")).expect("a log");
        // The shell takes its place in the groups before it becomes systemd-nspawn.
        let mut enter = String::new();
        for group in &self.groups {
            fs::create_dir_all(group).expect("a control group");
            enter.push_str(&format!("echo $$ >'{}/cgroup.procs' && ", group.display()));
        }
        let mut nspawn = Command::new("sh");
        nspawn.args(["-c", &format!("{enter} exec \"$@\""), "sh", "setpriv", "--pdeathsig", "KILL", "--"]);
        nspawn.args(["systemd-nspawn", "--boot", "--quiet"]);
        nspawn.args(["--register=no", "--keep-unit", "--network-bridge=fleet0", "--console=pipe"]);
        nspawn.arg(format!("--hostname={}", self.name)).arg(format!("--machine={}", self.label));
        nspawn.arg("--directory").arg(self.root.path()).stdin(Stdio::null());
        nspawn.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.nspawn = Some(nspawn.spawn().expect("systemd-nspawn starts"));
    }

    /// Waits until it can be logged into.
    ///
    /// # Panics
    /// It does not boot.
    #[track_caller]
    pub fn booted(&self) {
        let door = SocketAddr::from((self.address, 22));
        let quick = Duration::from_millis(500);
        eventually(&format!("{} boots", self.name), BOOT, || TcpStream::connect_timeout(&door, quick).ok());
    }

    /// The process that is the first one inside.
    fn init(&self) -> Option<u32> {
        let nspawn = self.nspawn.as_ref()?.id();
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Cuts its power: every process ends at once, with no word to any of them.
    pub fn cut(&mut self) {
        if let Some(init) = self.init().and_then(|pid| i32::try_from(pid).ok()) {
            // SAFETY: kill takes two integers and touches no memory of ours. The process is a child of our child, which
            // has not waited for it while it lives, so the id is still its own.
            unsafe { libc::kill(init, libc::SIGKILL) };
        }
        if let Some(mut nspawn) = self.nspawn.take() {
            // It ends once the first process inside is gone.
            nspawn.wait().expect("it is ours to wait for");
        }
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.nspawn.is_some()
    }

    /// Runs `line` inside, in a shell of root's.
    ///
    /// # Panics
    /// It is off.
    #[track_caller]
    pub fn run(&self, line: &str) -> Output {
        let init = self.init().unwrap_or_else(|| panic!("{} is off", self.name));
        Command::new("nsenter")
            .args(["--target", &init.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--root", "--wd=/", "--", "sh", "-c", line])
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .output()
            .expect("nsenter starts")
    }

    /// The same, and it has to succeed; what it printed.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn expect(&self, line: &str) -> String {
        let done = self.run(line);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}: `{line}`: {}\n{said}{errors}", self.name, done.status);
        said
    }

    /// Gives all of it together no more memory than `bytes`, or its `unit` where the host's memory is that of a newer
    /// kernel's groups; nothing ends the limit but [`Container::ease`].
    ///
    /// # Panics
    /// Its host has no way to limit memory.
    #[track_caller]
    pub fn squeeze(&self, unit: &str, bytes: u64) {
        match self.memory() {
            Some(group) => {
                let file = group.join("memory.limit_in_bytes");
                fs::write(&file, bytes.to_string()).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
            }
            None => drop(self.expect(&format!("systemctl set-property --runtime {unit} MemoryMax={bytes}"))),
        }
    }

    /// Ends what [`Container::squeeze`] began.
    ///
    /// # Panics
    /// See there.
    #[track_caller]
    pub fn ease(&self, unit: &str) {
        match self.memory() {
            Some(group) => fs::write(group.join("memory.limit_in_bytes"), "-1").expect("no limit any more"),
            None => {
                drop(self.expect(&format!("systemctl set-property --runtime {unit} MemoryMax=infinity")));
            }
        }
    }

    fn memory(&self) -> Option<&PathBuf> {
        self.groups.iter().find(|group| group.join("memory.limit_in_bytes").exists())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() && self.is_on() {
            let console = fs::read_to_string(self.root.path().with_extension("console")).unwrap_or_default();
            eprintln!("--- {}: its console\n{console}", self.name);
            let journal = self.run("journalctl --no-pager -q -o cat -u fleet-agent -n 60");
            eprintln!("--- {}: its agent\n{}", self.name, String::from_utf8_lossy(&journal.stdout));
        }
        self.cut();
        fs::remove_file(self.root.path().with_extension("console")).ok();
        for group in &self.groups {
            groups::forget(group);
        }
    }
}

/// Ends containers whose test was killed, and removes their files.
fn sweep(folder: &Path) {
    groups::sweep();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // Beside each folder systemd-nspawn has a lock of that name.
        let name = name.to_str().map(|name| name.trim_start_matches(".#"));
        if name.is_some_and(groups::is_abandoned) {
            fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path())).ok();
        }
    }
}
