//! Host names without the C library's name service, which a static program must not use: literal addresses and
//! `/etc/hosts`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Port other servers listen on unless told otherwise.
pub const CLUSTER_PORT: u16 = 29015;

/// Splits `[v6]:port`, `v4:port`, `host:port`, or any of these without a port.
///
/// # Errors
/// It is none of these.
pub fn split(text: &str) -> Result<(String, u16), String> {
    let bad = || format!("`{text}` is not HOST, HOST:PORT or [IPV6]:PORT");
    let port = |port: &str| port.parse().ok().filter(|port| *port != 0).ok_or_else(bad);
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text.into(), CLUSTER_PORT));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
        host.parse::<Ipv6Addr>().map_err(|_| bad())?;
        return match rest.strip_prefix(':') {
            Some(given) => Ok((host.into(), port(given)?)),
            None if rest.is_empty() => Ok((host.into(), CLUSTER_PORT)),
            None => Err(bad()),
        };
    }
    match text.split_once(':') {
        Some((host, given)) if !host.is_empty() => Ok((host.into(), port(given)?)),
        None if !text.is_empty() => Ok((text.into(), CLUSTER_PORT)),
        _ => Err(bad()),
    }
}

/// Puts host and port together so that [`split`] takes them apart again.
pub fn join(host: &str, port: u16) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Addresses of a host and port.
///
/// # Errors
/// The name is neither an address nor in `/etc/hosts`.
pub fn resolve(text: &str) -> io::Result<Vec<SocketAddr>> {
    let (host, port) = split(text).map_err(io::Error::other)?;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut found = in_hosts(&hosts, &host);
    if found.is_empty() && host == "localhost" {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    if found.is_empty() {
        return Err(io::Error::other(format!(
            "`{host}` is not in /etc/hosts; the stand-in asks no name server"
        )));
    }
    Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let lines = hosts.lines().filter_map(|line| line.split('#').next());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        let good = [
            ("[2001:db8::1]:29016", "2001:db8::1", 29016),
            ("[2001:db8::1]", "2001:db8::1", 29015),
            ("2001:db8::1", "2001:db8::1", 29015),
            ("192.0.2.1:5", "192.0.2.1", 5),
            ("seed", "seed", 29015),
            ("seed:7", "seed", 7),
        ];
        for (text, host, port) in good {
            assert_eq!(split(text), Ok((host.to_owned(), port)), "{text}");
            assert_eq!(split(&join(host, port)), Ok((host.to_owned(), port)), "{text}");
        }
        for text in ["", ":5", "seed:", "seed:0", "seed:99999", "[seed]:5", "[::1", "[::1]5"] {
            assert!(split(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_come_from_the_hosts_file() {
        let hosts = "127.0.0.1 localhost\n2001:db8::7\tseed Seed2 # not this\n";
        assert_eq!(in_hosts(hosts, "SEED2"), ["2001:db8::7".parse::<IpAddr>().expect("an address")]);
        assert!(in_hosts(hosts, "this").is_empty());
    }
}
