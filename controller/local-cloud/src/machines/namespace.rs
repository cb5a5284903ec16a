//! Work inside network namespaces: the list of them, their switches, and `ip` and `nft` runs.

use std::{fs, io, path::PathBuf};

use nix::sched::{CloneFlags, setns};
use serde::Deserialize;

use super::run::{Doing, Program};
use crate::backing::BackingError;

/// Where `ip netns` keeps the names.
const NAMED: &str = "/run/netns";

/// Path that names a namespace.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(NAMED).join(name)
}

/// Names of all namespaces that start with `prefix`.
pub fn list(prefix: &str) -> Result<Vec<String>, BackingError> {
    let entries = match fs::read_dir(NAMED) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Doing::new(format!("list {NAMED}")).io(source)),
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    Ok(names)
}

/// Sets switches below `/proc/sys/net` of a namespace. Those the kernel does not have are skipped.
pub async fn set_switches(name: &str, switches: Vec<(String, &'static str)>) -> Result<(), BackingError> {
    let place = path(name);
    // A namespace belongs to a thread, so a thread is spent on it. It ends with the closure.
    let work = move || -> io::Result<()> {
        std::thread::spawn(move || -> io::Result<()> {
            setns(fs::File::open(place)?, CloneFlags::CLONE_NEWNET)?;
            for (switch, value) in switches {
                match fs::write(format!("/proc/sys/net/{switch}"), value) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        })
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| Doing::new(format!("set switches of namespace {name}")).io(source))
}

/// Runs lines of `ip` commands in a namespace, or on the host. Stops at the first that fails.
pub async fn ip(namespace: Option<&str>, doing: &str, lines: &str) -> Result<(), BackingError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut program = Program::new("ip");
    if let Some(name) = namespace {
        program = program.args(["-n", name]);
    }
    program.args(["-batch", "-"]).input(lines).run(doing).await?;
    Ok(())
}

/// Replaces packet filter rules in a namespace.
pub async fn nft(namespace: &str, doing: &str, ruleset: String) -> Result<(), BackingError> {
    Program::new("ip").args(["netns", "exec", namespace, "nft", "-f", "-"]).input(ruleset).run(doing).await?;
    Ok(())
}

/// A link as `ip -json address` shows it.
#[derive(Debug, Deserialize)]
pub struct Link {
    /// Its name.
    #[serde(default)]
    pub ifname: String,
    /// Its addresses.
    #[serde(default)]
    pub addr_info: Vec<Address>,
}

/// An address of a link.
#[derive(Debug, Deserialize)]
pub struct Address {
    /// The address.
    #[serde(default)]
    pub local: String,
    /// Its prefix length.
    #[serde(default)]
    pub prefixlen: u8,
    /// `global`, `link`…
    #[serde(default)]
    pub scope: String,
}

/// A route as `ip -json route` shows it.
#[derive(Debug, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: String,
}

/// Links of a namespace, or of the host.
pub async fn links(namespace: Option<&str>) -> Result<Vec<Link>, BackingError> {
    let mut program = Program::new("ip");
    if let Some(name) = namespace {
        program = program.args(["-n", name]);
    }
    let listed = program.args(["-json", "address"]).run("list links").await?;
    parse("list links", &listed)
}

/// Routes of a namespace over one link.
pub async fn routes(namespace: &str, ipv6: bool, link: &str) -> Result<Vec<Route>, BackingError> {
    let family = if ipv6 { "-6" } else { "-4" };
    let listed = Program::new("ip")
        .args(["-n", namespace, "-json", family, "route", "show", "dev", link])
        .run("list routes")
        .await?;
    parse("list routes", &listed)
}

/// `ip` prints nothing at all, or objects with nothing in them, where there is nothing.
fn parse<T: for<'a> Deserialize<'a>>(doing: &str, listed: &str) -> Result<Vec<T>, BackingError> {
    if listed.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(listed).map_err(|source| Doing::new(doing).io(source.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_ip_are_read() {
        assert!(parse::<Link>("test", "\n").expect("reads").is_empty());
        let links: Vec<Link> = parse(
            "test",
            r#"[{},{"ifindex":1,"ifname":"flc-b1","addr_info":[{"family":"inet","local":"10.0.0.1","prefixlen":24,"scope":"global"}]}]"#,
        )
        .expect("reads");
        assert_eq!(links[1].ifname, "flc-b1");
        assert_eq!(links[1].addr_info[0].local, "10.0.0.1");
    }
}
