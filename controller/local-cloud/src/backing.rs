//! What stands behind the API: the seam between the pure life-cycle state and real machines.
//!
//! The API's state machine ([`crate::state`]) decides; a backing realises. Every method is idempotent: the
//! state calls it again after a restart or a failure, with the same specification, and the second call finds
//! the work done. Specifications are whole, never deltas.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use async_trait::async_trait;
use fleet_model::Secret;

/// Why a backing could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The host lacks something; the text says what and the command that fixes it.
    #[error("{what}; {fix}")]
    Host {
        /// What is missing.
        what: String,
        /// What to type.
        fix: String,
    },
    /// A program of the host failed; `stderr` holds its last lines.
    #[error("{doing}: `{program}` failed: {stderr}")]
    Program {
        /// What it was run for.
        doing: String,
        /// The program, without its arguments.
        program: String,
        /// What it said.
        stderr: String,
    },
    /// A file or socket could not be used.
    #[error("{doing}")]
    Io {
        /// What was attempted, with the path.
        doing: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The machine did not do it in time.
    #[error("{doing}: not done after {after_s} s")]
    Deadline {
        /// What was waited for.
        doing: String,
        /// How long, in seconds.
        after_s: u64,
    },
}

/// Ids are the API's: lower-case UUIDs. They name namespaces, links and files through a short hash.
pub type Id = String;

/// One network domain: router, firewall and its VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSpec {
    /// Id of the network domain.
    pub id: Id,
    /// Source address of outbound traffic with no NAT rule; in the public range.
    pub snat: Ipv4Addr,
    /// Its VLANs.
    pub vlans: Vec<VlanSpec>,
    /// 1:1 address translations.
    pub nat: Vec<NatSpec>,
    /// Firewall rules in the order they are evaluated, default rules included; disabled ones left out.
    /// Filters what enters a VLAN from outside it. What no rule matches: see [`crate::backing`] users'
    /// guide in `machines/filter.rs`.
    pub rules: Vec<RuleSpec>,
}

/// One VLAN: a bridge in its domain's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanSpec {
    /// Id of the VLAN.
    pub id: Id,
    /// Private IPv4 network and prefix length.
    pub ipv4: (Ipv4Addr, u8),
    /// Router's address in it.
    pub ipv4_gateway: Ipv4Addr,
    /// IPv6 network; always /64, unique over all domains, routed between them over the backbone.
    pub ipv6: Ipv6Addr,
    /// Router's address in it.
    pub ipv6_gateway: Ipv6Addr,
}

/// One 1:1 address translation, all ports, both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatSpec {
    /// Private address.
    pub internal: Ipv4Addr,
    /// Public address, reachable from the host.
    pub external: Ipv4Addr,
}

/// One firewall rule. Inbound rules for translated hosts match the *public* address as destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// The API's name; becomes the comment in the packet filter.
    pub name: String,
    /// `ACCEPT_DECISIVELY` or `DROP`.
    pub accept: bool,
    /// IPv6 or IPv4.
    pub ipv6: bool,
    /// `None` is any protocol (`IP`).
    pub protocol: Option<Protocol>,
    /// Sources; empty is any.
    pub source: Vec<Match>,
    /// Source ports; empty is any.
    pub source_ports: Vec<(u16, u16)>,
    /// Destinations; empty is any.
    pub destination: Vec<Match>,
    /// Destination ports; empty is any.
    pub destination_ports: Vec<(u16, u16)>,
}

/// Transport protocol of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// ICMP, or ICMPv6 in an IPv6 rule.
    Icmp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Addresses a rule matches: a network, or a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Network address and prefix length (32 or 128 for one host).
    Network(std::net::IpAddr, u8),
    /// First and last address.
    Range(std::net::IpAddr, std::net::IpAddr),
}

/// One server. Its first disks are made from an image; SCSI id 0 is the guest's `/dev/sda`, 1 `/dev/sdb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Id of the server.
    pub id: Id,
    /// Name shown by the API; the guest's first host name.
    pub name: String,
    /// Id of its network domain.
    pub domain: Id,
    /// The image of the customer's that its first disks are copies of; without one they are the platform's.
    pub image: Option<Id>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disks by SCSI id, ascending; 0 is the system disk. A size only ever grows.
    pub disks: Vec<DiskSpec>,
    /// Network cards, primary first.
    pub nics: Vec<NicSpec>,
    /// Root's password, set at first boot; only its hash may reach a disk.
    pub root_password: Option<Secret>,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Id of the disk.
    pub id: Id,
    /// SCSI id, 0 to 14 but 7.
    pub scsi_id: u8,
    /// Size in GiB.
    pub size_gb: u32,
}

/// One network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicSpec {
    /// Id of the card.
    pub id: Id,
    /// VLAN it is in.
    pub vlan: Id,
    /// `00:50:56:…`.
    pub mac: String,
    /// Address the guest configures.
    pub ipv4: Ipv4Addr,
    /// Address the guest configures; in the VLAN's /64.
    pub ipv6: Ipv6Addr,
}

/// Everything the state holds; given once at start.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// All domains.
    pub domains: Vec<DomainSpec>,
    /// All servers, with whether the state believes them running.
    pub servers: Vec<(ServerSpec, bool)>,
    /// The customer's images.
    pub images: Vec<Id>,
}

/// How a running server is brought down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ask the guest, as `shutdownServer` does; fails with [`BackingError::Deadline`] if it does not.
    Graceful,
    /// Pull the plug, as `powerOffServer` does.
    PowerOff,
}

/// What stands behind the API.
#[async_trait]
pub trait Backing: Send + Sync {
    /// Called once before anything else: re-adopts what still runs of `world`, makes its networks anew where
    /// they are gone, removes strays. Returns the ids of the servers that are running.
    async fn adopt(&self, world: &World) -> Result<Vec<Id>, BackingError>;

    /// Prepares everything a first server would wait for (machine image, accelerator probe). `progress`
    /// takes one line for people at each step. A no-op when done before.
    async fn prepare(&self, progress: &(dyn Fn(String) + Send + Sync)) -> Result<(), BackingError>;

    /// Makes the domain's namespace, links, addresses, translation and filter match; creates what is missing
    /// and removes VLANs no longer in it.
    async fn apply_domain(&self, domain: &DomainSpec) -> Result<(), BackingError>;

    /// Removes the domain with all its links. Fine if it is not there.
    async fn remove_domain(&self, id: &str) -> Result<(), BackingError>;

    /// Makes the server's disks and files match; creates, grows and deletes. Does not start it. A running
    /// server sees new disks at once.
    async fn apply_server(&self, server: &ServerSpec) -> Result<(), BackingError>;

    /// Powers on. Returns once the virtual machine runs; the guest may still be booting. Fine if running.
    async fn start(&self, server: &ServerSpec) -> Result<(), BackingError>;

    /// Powers off. Returns once the virtual machine is gone. Fine if stopped.
    async fn stop(&self, id: &str, how: Stop) -> Result<(), BackingError>;

    /// Hard reset of a running server.
    async fn reset(&self, id: &str) -> Result<(), BackingError>;

    /// Powers off and deletes disks and files. Fine if it is not there.
    async fn remove_server(&self, id: &str) -> Result<(), BackingError>;

    /// Copies a stopped server's disks into an image that later servers may name.
    async fn clone_server(&self, server: &ServerSpec, image: &str) -> Result<(), BackingError>;

    /// Deletes such an image. Servers made from it keep their disks. Fine if it is not there.
    async fn remove_image(&self, image: &str) -> Result<(), BackingError>;

    /// Ids of the servers running right now; polled by the state to notice guests that shut themselves down.
    async fn running(&self) -> Result<Vec<Id>, BackingError>;

    /// Path of the Unix socket with the server's serial console, if the backing has one.
    fn console(&self, id: &str) -> Option<PathBuf>;

    /// Address of this host as guests reach it, if guests can. The controller advertises it.
    fn host_address(&self) -> Option<Ipv4Addr>;

    /// One word for status output: `machines` or `none`.
    fn kind(&self) -> &'static str;
}

/// State only: no machine behind it, everything succeeds at once.
#[derive(Debug, Default)]
pub struct NoBacking {
    running: std::sync::Mutex<std::collections::BTreeSet<Id>>,
}

impl NoBacking {
    fn running_set(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeSet<Id>> {
        // A panic while holding this lock cannot leave the set half-changed.
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Backing for NoBacking {
    async fn adopt(&self, world: &World) -> Result<Vec<Id>, BackingError> {
        let running: Vec<Id> = world
            .servers
            .iter()
            .filter(|(_, running)| *running)
            .map(|(server, _)| server.id.clone())
            .collect();
        self.running_set().extend(running.iter().cloned());
        Ok(running)
    }

    async fn prepare(&self, _progress: &(dyn Fn(String) + Send + Sync)) -> Result<(), BackingError> {
        Ok(())
    }

    async fn apply_domain(&self, _domain: &DomainSpec) -> Result<(), BackingError> {
        Ok(())
    }

    async fn remove_domain(&self, _id: &str) -> Result<(), BackingError> {
        Ok(())
    }

    async fn apply_server(&self, _server: &ServerSpec) -> Result<(), BackingError> {
        Ok(())
    }

    async fn start(&self, server: &ServerSpec) -> Result<(), BackingError> {
        self.running_set().insert(server.id.clone());
        Ok(())
    }

    async fn stop(&self, id: &str, _how: Stop) -> Result<(), BackingError> {
        self.running_set().remove(id);
        Ok(())
    }

    async fn reset(&self, _id: &str) -> Result<(), BackingError> {
        Ok(())
    }

    async fn remove_server(&self, id: &str) -> Result<(), BackingError> {
        self.running_set().remove(id);
        Ok(())
    }

    async fn clone_server(&self, _server: &ServerSpec, _image: &str) -> Result<(), BackingError> {
        Ok(())
    }

    async fn remove_image(&self, _image: &str) -> Result<(), BackingError> {
        Ok(())
    }

    async fn running(&self) -> Result<Vec<Id>, BackingError> {
        Ok(self.running_set().iter().cloned().collect())
    }

    fn console(&self, _id: &str) -> Option<PathBuf> {
        None
    }

    fn host_address(&self) -> Option<Ipv4Addr> {
        None
    }

    fn kind(&self) -> &'static str {
        "none"
    }
}
