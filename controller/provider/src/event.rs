//! What a run tells whoever watches it.

use fleet_model::NodeName;

/// What is done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// It is not there yet.
    Create,
    /// It is there and differs.
    Change,
    /// It is there and should not be.
    Destroy,
    /// It is destroyed and made anew.
    Replace,
    /// It is there already and ours, or about to be, and the journal does not know it yet.
    Adopt,
    /// It is somebody's machine that was taken, and is given back.
    Release,
}

/// One provider action on one resource, as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub verb: Verb,
    /// Kind of resource in words: `network domain`, `vlan`, `server`, `disk`, `nat rule`, `firewall rule`, …; what is
    /// done to power says so itself: `power on`, `power off`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Data centre.
    pub location: String,
    /// Why, or what about it changes; empty where the rest says all.
    pub detail: String,
    /// It was as planned once, and somebody changed it since.
    pub outside: bool,
}

impl Step {
    /// Whether it is about a node's machine as a whole: a server that is made, or a host that is taken.
    pub fn is_machine(&self) -> bool {
        matches!(self.kind, "server" | "host")
    }
}

/// Progress of a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step began, waits (busy, polled, retried; why is in the text), ended.
    Step(Step, StepState),
    /// The node's server is started and has these addresses; everything it depends on is settled.
    Provisioned(NodeName, Addresses),
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepState {
    /// The call is about to be sent.
    Started,
    /// Not done yet, and why.
    Waiting(String),
    /// Settled.
    Done,
    /// Failed for good, and why: cause and next step in one line.
    Failed(String),
}

/// Addresses the cloud gave a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Addresses {
    /// Public IPv4 address, if the plan asks for one.
    pub public_ipv4: Option<std::net::Ipv4Addr>,
    /// Private IPv4 address.
    pub private_ipv4: Option<std::net::Ipv4Addr>,
    /// Private IPv6 address.
    pub ipv6: Option<std::net::Ipv6Addr>,
}
