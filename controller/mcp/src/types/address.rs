use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An IPv6 address in the API's form: all eight groups, no `::`, no leading zeros. Any form is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6(pub Ipv6Addr);

impl fmt::Display for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, group) in self.0.segments().into_iter().enumerate() {
            if index > 0 {
                f.write_str(":")?;
            }
            write!(f, "{group:x}")?;
        }
        Ok(())
    }
}

impl FromStr for Ipv6 {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Serialize for Ipv6 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv6 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.trim().parse().map_err(|_| D::Error::custom(format!("`{text}` is not an IPv6 address")))
    }
}

/// An address in a firewall rule: one address, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// Any address.
    Any,
    /// This one, or the network it starts.
    Ip(IpAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("ANY"),
            Self::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Ip(IpAddr::V6(address)) => write!(f, "{}", Ipv6(*address)),
        }
    }
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("any") { Ok(Self::Any) } else { text.parse().map(Self::Ip) }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.trim().parse().map_err(|_| D::Error::custom(format!("`{text}` is neither an address nor ANY")))
    }
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prefix4 {
    /// Network address.
    pub address: Ipv4Addr,
    /// Prefix length.
    pub prefix_size: u8,
}

/// An IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prefix6 {
    /// Network address.
    pub address: Ipv6,
    /// Prefix length.
    pub prefix_size: u8,
}

/// Addresses in an address list: one, a range or a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressRange {
    /// First address.
    pub begin: Address,
    /// Last address of a range.
    pub end: Option<Address>,
    /// Prefix length of a network.
    pub prefix_size: Option<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_written_in_full_and_read_in_any_form() {
        let check = |text: &str, full: &str| {
            assert_eq!(text.parse::<Ipv6>().expect("an address").to_string(), full);
        };
        check("2001:db8:0:1101::", "2001:db8:0:1101:0:0:0:0");
        check("2001:0db8:0000:1101:0000:0000:0000:0001", "2001:db8:0:1101:0:0:0:1");
        check("::1", "0:0:0:0:0:0:0:1");
    }

    #[test]
    fn rule_addresses() {
        assert_eq!("any".parse(), Ok(Address::Any));
        assert_eq!("2001:db8::".parse::<Address>().expect("an address").to_string(), "2001:db8:0:0:0:0:0:0");
        assert!("10.0.0.0/8".parse::<Address>().is_err());
    }
}
