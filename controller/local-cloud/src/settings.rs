//! What the operator of the local cloud may choose.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, time::Duration};

/// Settings of one cloud.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its files live: `access.json`, `ca.pem`, `state.json`, `serve.lock`, `servers/…`.
    pub dir: PathBuf,
    /// Port on 127.0.0.1. `None` takes the one used before, or any.
    pub port: Option<u16>,
    /// How long operations take at least.
    pub delays: Delays,
    /// Where the platform says no.
    pub quotas: Quotas,
    /// What the documents of the platform leave open.
    pub choices: Choices,
    /// Region that answers callers who use no API host name but the address: `dd-eu` shows EU6, EU7, EU8 and
    /// EU9. All regions are served, each under its own host names.
    pub region: String,
    /// Public IPv4 network, /24. `.1` is the host's side, source addresses of network domains are taken from
    /// its end, address blocks from its start.
    pub public_ipv4: Ipv4Addr,
    /// Backing operations under way at once.
    pub parallel: usize,
    /// How often the backing is asked which servers still run.
    pub poll: Duration,
    /// How long open calls and operations may take to end once told to stop.
    pub drain: Duration,
}

impl Settings {
    /// The usual settings, with files in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            port: None,
            delays: Delays::default(),
            quotas: Quotas::default(),
            choices: Choices::default(),
            region: "dd-eu".to_owned(),
            public_ipv4: Ipv4Addr::new(198, 51, 100, 0),
            parallel: 8,
            poll: Duration::from_secs(2),
            drain: Duration::from_secs(5),
        }
    }
}

/// How long operations take at least, whatever the backing does. All zero unless set.
#[derive(Clone, Debug, Default)]
pub struct Delays {
    /// For operations not named below.
    pub default: Duration,
    /// By the API's name of the operation: `DEPLOY_SERVER`, `DELETE_VLAN`, …
    pub by_operation: BTreeMap<String, Duration>,
}

impl Delays {
    /// How long `operation` takes at least.
    pub fn of(&self, operation: &str) -> Duration {
        self.by_operation.get(operation).copied().unwrap_or(self.default)
    }
}

/// Limits of the platform. The defaults are those the real one is known for, but for the smallest disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Network domains per data centre.
    pub domains: usize,
    /// VLANs per network domain.
    pub vlans: usize,
    /// Servers per network domain.
    pub servers: usize,
    /// Firewall rules per network domain.
    pub rules: usize,
    /// Public addresses per server of a network domain.
    pub public_per_server: usize,
    /// CPUs per server.
    pub cpus: u32,
    /// Memory per server, GiB.
    pub memory_gb: u32,
    /// Static routes per network domain.
    pub routes: usize,
    /// IP address lists, and port lists, per network domain.
    pub lists: usize,
    /// Network cards per server besides the primary one.
    pub additional_nics: usize,
    /// Storage per server besides the system disk, GiB.
    pub storage_gb: u32,
    /// Smallest disk, GiB. The real platform wants 10.
    pub min_disk_gb: u32,
    /// Largest disk, GiB.
    pub max_disk_gb: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            domains: 20,
            vlans: 50,
            servers: 500,
            rules: 1000,
            public_per_server: 3,
            cpus: 32,
            memory_gb: 256,
            routes: 100,
            lists: 1000,
            additional_nics: 9,
            storage_gb: 14_000,
            min_disk_gb: 1,
            max_disk_gb: 1000,
        }
    }
}

/// Where documents and clients of the platform are silent or contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// First address handed out in a VLAN, counted from its network address. Only 1 to 3 are known to be kept;
    /// seen in the wild: 7, 8 and 13.
    pub first_host: u32,
    /// Whether a server in the making is shown as deployed.
    pub deployed_while_adding: bool,
    /// Whether the guest tools of new servers are current. If not, `updateVmwareTools` keeps a server busy once;
    /// otherwise it is always `NO_CHANGE`.
    pub tools_are_current: bool,
    /// Whether names of firewall rules that differ in case only are the same.
    pub rule_names_ignore_case: bool,
    /// Whether `reconfigureServer` answers `OK`, as it once did, though the server is busy afterwards.
    pub reconfigure_answers_ok: bool,
    /// Fewest characters of an administrator's password.
    pub shortest_password: usize,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            first_host: 7,
            deployed_while_adding: false,
            tools_are_current: true,
            rule_names_ignore_case: true,
            reconfigure_answers_ok: false,
            shortest_password: 1,
        }
    }
}

impl Choices {
    /// Whether two names of firewall rules are one.
    pub(crate) fn same_rule_name(&self, a: &str, b: &str) -> bool {
        if self.rule_names_ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
    }
}
