//! What reaches a node's public address, and where it may come from.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::ResolvedPlan;

/// What reaches a node's public address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Internet {
    /// Openings; anything else is filtered.
    pub open: Vec<Opening>,
}

/// One opening in the firewall, IPv4.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opening {
    /// What is let in.
    pub traffic: Traffic,
    /// Where from, each once; never empty, and [`Source::Any`] stands alone.
    pub from: Vec<Source>,
}

/// What a firewall can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Traffic {
    /// Any ICMP.
    Icmp,
    /// TCP ports, first and last.
    Tcp(u16, u16),
    /// UDP ports, first and last.
    Udp(u16, u16),
}

/// Where traffic comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Anywhere.
    Any,
    /// Where the operator is, until [`ResolvedPlan::place_operator`] has said where.
    Operator,
    /// An IPv4 network by its base and prefix length; a host has 32.
    Cidr(Ipv4Addr, u8),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Operator => f.write_str("operator"),
            Self::Cidr(address, 32) => write!(f, "{address}"),
            Self::Cidr(address, prefix) => write!(f, "{address}/{prefix}"),
        }
    }
}

/// Why a text names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchSource {
    /// Not an address, with or without a prefix.
    #[error("not an IPv4 address or network")]
    Shape,
    /// An address within a network rather than its base.
    #[error("inside a network, not its base; did you mean `{0}`?")]
    Inside(Source),
}

impl FromStr for Source {
    type Err = NoSuchSource;

    /// Reads `192.0.2.7` or `192.0.2.0/24`; the whole Internet is [`Source::Any`].
    fn from_str(text: &str) -> Result<Self, NoSuchSource> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| NoSuchSource::Shape)?;
        let prefix: u8 = prefix.parse().map_err(|_| NoSuchSource::Shape)?;
        let mask = match prefix {
            0 => 0,
            1..=32 => u32::MAX << (32 - prefix),
            _ => return Err(NoSuchSource::Shape),
        };
        let base = Ipv4Addr::from(u32::from(address) & mask);
        let network = if prefix == 0 { Self::Any } else { Self::Cidr(base, prefix) };
        if base == address { Ok(network) } else { Err(NoSuchSource::Inside(network)) }
    }
}

/// A plan opens something to the operator alone, and nobody said where the operator is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorUnknown {
    /// No address was given.
    #[error("the plan opens {0} to the operator alone, and the operator's address is not known")]
    Nowhere(String),
    /// What was given is no address.
    #[error("`{0}` is no address of the operator: {1}")]
    NoAddress(String, NoSuchSource),
    /// Everybody was given.
    #[error("`{0}` is the whole Internet, not where the operator is")]
    Everyone(String),
}

impl OperatorUnknown {
    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Nowhere(_) | Self::NoAddress(..) => {
                "say where you are with --operator ADDRESS (IPv4, or a network such as 192.0.2.0/24)"
            }
            Self::Everyone(_) => {
                "say where you are with --operator ADDRESS; a port that everyone may reach says so in the plan, \
                 with `from: [any]`"
            }
        }
    }
}

impl Internet {
    /// Whether something is open to the operator, wherever that is.
    fn wants_operator(&self) -> bool {
        self.open.iter().any(|opening| opening.from.contains(&Source::Operator))
    }
}

impl ResolvedPlan {
    /// The first opening that is for the operator and not placed yet, in words.
    pub fn wants_operator_address(&self) -> Option<String> {
        self.nodes().find_map(|placed| {
            let internet = placed.node.internet.as_ref().filter(|internet| internet.wants_operator())?;
            let opening = internet.open.iter().find(|opening| opening.from.contains(&Source::Operator))?;
            Some(format!("{} of node `{}`", opening.traffic, placed.node.name))
        })
    }

    /// Puts the operator's addresses in the place of `operator` in all openings.
    ///
    /// # Errors
    /// [`OperatorUnknown`] if there is none and one is needed, or one is no address or everybody's; the plan is as it
    /// was then.
    pub fn place_operator<A: AsRef<str>>(&mut self, addresses: &[A]) -> Result<(), OperatorUnknown> {
        let parse = |text: &A| {
            let text = text.as_ref().trim();
            // What the plan keeps for one must not be opened to all by a slip elsewhere. IPv6's word for all as well.
            if is_everyone(text) {
                return Err(OperatorUnknown::Everyone(text.to_owned()));
            }
            text.parse::<Source>().map_err(|why| OperatorUnknown::NoAddress(text.to_owned(), why))
        };
        let sources: Vec<Source> = addresses.iter().map(parse).collect::<Result<_, _>>()?;
        if sources.is_empty()
            && let Some(what) = self.wants_operator_address()
        {
            return Err(OperatorUnknown::Nowhere(what));
        }
        let networks = self.locations.iter_mut().flat_map(|location| &mut location.networks);
        let nodes = networks.flat_map(|network| &mut network.nodes);
        for opening in nodes.filter_map(|node| node.internet.as_mut()).flat_map(|internet| &mut internet.open)
        {
            let placed = std::mem::take(&mut opening.from).into_iter().flat_map(|source| match source {
                Source::Operator => sources.clone(),
                other => vec![other],
            });
            opening.from = distinct(placed);
        }
        Ok(())
    }
}

/// Whether a text is a network that holds every address, of either kind.
fn is_everyone(text: &str) -> bool {
    text == "any"
        || text
            .split_once('/')
            .is_some_and(|(address, prefix)| address.parse::<IpAddr>().is_ok() && prefix.parse() == Ok(0_u8))
}

/// Each source once, in order; anywhere covers all others.
pub(crate) fn distinct(sources: impl IntoIterator<Item = Source>) -> Vec<Source> {
    let mut found = Vec::new();
    for source in sources {
        if source == Source::Any {
            return vec![Source::Any];
        }
        if !found.contains(&source) {
            found.push(source);
        }
    }
    found
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |f: &mut fmt::Formatter<'_>, word: &str, first: u16, last: u16| {
            if first == last {
                write!(f, "{word} port {first}")
            } else {
                write!(f, "{word} ports {first} to {last}")
            }
        };
        match *self {
            Self::Icmp => f.write_str("ICMP"),
            Self::Tcp(first, last) => ports(f, "TCP", first, last),
            Self::Udp(first, last) => ports(f, "UDP", first, last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sources() {
        let cidr = |address: [u8; 4], prefix| Ok(Source::Cidr(address.into(), prefix));
        let check = |text: &str, expected: Result<Source, NoSuchSource>| {
            assert_eq!(text.parse::<Source>(), expected, "{text}");
        };
        check("192.0.2.7", cidr([192, 0, 2, 7], 32));
        check("192.0.2.0/24", cidr([192, 0, 2, 0], 24));
        check("0.0.0.0/0", Ok(Source::Any));
        check("192.0.2.7/24", Err(NoSuchSource::Inside(Source::Cidr([192, 0, 2, 0].into(), 24))));
        check("192.0.2.0/33", Err(NoSuchSource::Shape));
        check("2001:db8::1", Err(NoSuchSource::Shape));
        check("any", Err(NoSuchSource::Shape));
        check("", Err(NoSuchSource::Shape));
    }

    #[test]
    fn anywhere_covers_the_rest() {
        let host = Source::Cidr([192, 0, 2, 7].into(), 32);
        assert_eq!(distinct([host, Source::Operator, host]), [host, Source::Operator]);
        assert_eq!(distinct([host, Source::Any]), [Source::Any]);
    }
}
