//! A machine that is there already.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// Port of SSH where nothing else is said.
pub const SSH: u16 = 22;

/// A machine that is there already: where it answers, and who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Address or name, without brackets.
    pub address: String,
    /// Port of SSH.
    pub port: u16,
    /// Who logs in: `root`, or somebody who may become root by `sudo` without a password.
    pub login: String,
    /// The key it shows; `None` leaves it to the operator's known hosts.
    pub key: Option<HostKey>,
    /// Address in a private network of its location.
    pub private: Option<Ipv4Addr>,
    /// Address by which the fleet's other nodes reach it.
    pub ipv6: Option<Ipv6Addr>,
}

impl Host {
    /// Its address, if that is no name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.parse().ok()
    }

    /// Whether it has, or may turn out to have, an IPv4 address.
    pub fn may_have_ipv4(&self) -> bool {
        self.ip().is_none_or(|ip| ip.is_ipv4())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.address.contains(':')) {
            (SSH, _) => f.write_str(&self.address),
            (port, true) => write!(f, "[{}]:{port}", self.address),
            (port, false) => write!(f, "{}:{port}", self.address),
        }
    }
}

/// What tells a machine from one that pretends to be it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKey {
    /// Its public key: type and base64.
    Key(String),
    /// The key's fingerprint: `SHA256:` and base64.
    Fingerprint(String),
}
