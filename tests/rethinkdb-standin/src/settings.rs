//! The instance file and the command line, as `rethinkdb` takes them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use crate::{names, reql::datum};

/// What the program is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Say what it is.
    Version,
    /// Make a data directory.
    Create(Settings),
    /// Serve an existing data directory.
    Serve(Settings),
    /// Make the directory if it is not there, then serve.
    CreateAndServe(Settings),
}

/// Files of a port's TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Private key, PEM.
    pub key: PathBuf,
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Certificates that the other side must descend from.
    pub ca: Option<PathBuf>,
}

/// How a server is set up.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Its name.
    pub server_name: Option<String>,
    /// Its tags, `default` besides.
    pub server_tags: Vec<String>,
    /// Where its data is.
    pub directory: PathBuf,
    /// Addresses of the cluster port.
    pub bind_cluster: Vec<IpAddr>,
    /// Addresses of the driver port.
    pub bind_driver: Vec<IpAddr>,
    /// Addresses of the console.
    pub bind_http: Vec<IpAddr>,
    /// Port for servers.
    pub cluster_port: u16,
    /// Port for drivers.
    pub driver_port: u16,
    /// Port of the console; none without one.
    pub http_port: Option<u16>,
    /// Servers to dial.
    pub join: Vec<String>,
    /// What others are told to dial.
    pub canonical_addresses: Vec<String>,
    /// TLS between servers.
    pub cluster_tls: Option<TlsFiles>,
    /// TLS of the console.
    pub http_tls: Option<TlsFiles>,
    /// TLS for drivers.
    pub driver_tls: Option<TlsFiles>,
    /// Cache, megabytes.
    pub cache_size_mb: Option<f64>,
    /// Password of the admin at first start.
    pub initial_password: Option<String>,
    /// Options that are accepted and without effect here.
    pub ignored: Vec<String>,
}

/// Options of the real server that take a value and mean nothing here.
const IGNORED: &[&str] = &[
    "log-file",
    "io-threads",
    "cores",
    "pid-file",
    "runuser",
    "rungroup",
    "reql-http-proxy",
    "web-static-directory",
    "join-delay",
    "cluster-reconnect-timeout",
    "tls-min-protocol",
    "tls-ciphers",
    "tls-ecdh-curve",
    "tls-dhparams",
];
/// Options of the real server without a value that mean nothing here.
const IGNORED_FLAGS: &[&str] = &["no-update-check", "direct-io", "no-direct-io", "daemon", "no-default-bind"];
const FLAGS: &[&str] = &["no-http-admin"];
const ONCE: &[&str] = &[
    "server-name",
    "directory",
    "cluster-port",
    "driver-port",
    "http-port",
    "port-offset",
    "cache-size",
    "initial-password",
    "cluster-tls-key",
    "cluster-tls-cert",
    "cluster-tls-ca",
    "http-tls-key",
    "http-tls-cert",
    "driver-tls-key",
    "driver-tls-cert",
    "driver-tls-ca",
];
const MANY: &[&str] =
    &["server-tag", "join", "canonical-address", "bind", "bind-cluster", "bind-driver", "bind-http"];

/// Options as they were given: name and value.
#[derive(Debug, Default)]
struct Given(Vec<(String, String)>);

impl Given {
    fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn one(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn port(&self, name: &str, default: u16, offset: u16) -> Result<u16, String> {
        let Some(text) = self.one(name) else { return Ok(default.saturating_add(offset)) };
        text.parse().map_err(|_| format!("option `{name}`: `{text}` is not a port"))
    }

    fn hosts(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let mut hosts: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        // What is said of one port counts for it alone.
        let given: Vec<&str> = self.all(name).collect();
        let given = if given.is_empty() { self.all("bind").collect() } else { given };
        for text in given {
            if text == "all" {
                return Ok(vec![Ipv6Addr::UNSPECIFIED.into()]);
            }
            let host =
                text.parse().map_err(|_| format!("option `{name}`: `{text}` is not an address or `all`"))?;
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        Ok(hosts)
    }

    fn tls(&self, port: &str, needs_ca: bool) -> Result<Option<TlsFiles>, String> {
        let file = |what: &str| self.one(&format!("{port}-tls-{what}")).map(PathBuf::from);
        match (file("key"), file("cert"), file("ca")) {
            (None, None, None) => Ok(None),
            (Some(_), Some(_), None) if needs_ca => Err(together(port, needs_ca)),
            (Some(key), Some(cert), ca) => Ok(Some(TlsFiles { key, cert, ca })),
            _ => Err(together(port, needs_ca)),
        }
    }
}

fn together(port: &str, needs_ca: bool) -> String {
    if needs_ca {
        return format!(
            "--{port}-tls-key, --{port}-tls-cert, and --{port}-tls-ca must be specified together."
        );
    }
    format!("--{port}-tls-key and --{port}-tls-cert must be specified together.")
}

/// Reads the command line and the file it names.
///
/// # Errors
/// What is wrong, for the person who wrote it.
pub fn read(args: &[String]) -> Result<Action, String> {
    let (word, rest) = match args.split_first() {
        Some((first, rest)) if !first.starts_with('-') => (Some(first.as_str()), rest),
        _ => (None, args),
    };
    if rest.iter().any(|arg| arg == "--version" || arg == "-v") {
        return Ok(Action::Version);
    }
    let mut given = command_line(rest)?;
    if let Some(path) = given.one("config-file").map(PathBuf::from) {
        let text = std::fs::read_to_string(&path)
            .map_err(|_| format!("Trouble reading config file '{}'", path.display()))?;
        // What is on the command line counts more, so it stays in front.
        given.0.extend(file(&path, &text)?.0);
    }
    let settings = settings(&given)?;
    match word {
        Some("serve") => Ok(Action::Serve(settings)),
        Some("create") => Ok(Action::Create(settings)),
        None => Ok(Action::CreateAndServe(settings)),
        Some(other) => Err(format!("the stand-in does not know the command `{other}`")),
    }
}

fn command_line(args: &[String]) -> Result<Given, String> {
    let mut given = Given::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = match arg.as_str() {
            "-d" => "directory",
            "-n" => "server-name",
            "-t" => "server-tag",
            "-j" => "join",
            long => long.strip_prefix("--").ok_or_else(|| format!("unexpected unnamed value '{arg}'"))?,
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        if name != "config-file" {
            check_name(name).map_err(|()| format!("unrecognized option '--{name}'"))?;
        }
        let value = match value {
            Some(value) => value,
            None if is_flag(name) => String::new(),
            None => {
                args.next().cloned().ok_or_else(|| format!("option '--{name}' is missing its parameter"))?
            }
        };
        given.0.push((name.into(), value));
    }
    Ok(given)
}

fn file(path: &Path, text: &str) -> Result<Given, String> {
    let mut given = Given::default();
    let bad = |line: usize, why: String| {
        format!(
            "Error in the configuration file {0}: Config file {0}: parse error at line {line}: {why}",
            path.display()
        )
    };
    // The real server counts lines from 0.
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, _)) if is_flag(name.trim()) => {
                return Err(bad(at, format!("option '{}' takes no value", name.trim())));
            }
            Some((name, value)) => (name.trim(), value.trim()),
            None if is_flag(line) => (line, ""),
            None => return Err(bad(at, format!("missing '=' in '{line}'"))),
        };
        check_name(name).map_err(|()| bad(at, format!("unrecognized option name '{name}'")))?;
        if !MANY.contains(&name) && given.one(name).is_some() {
            return Err(bad(at, format!("option '{name}' specified too many times")));
        }
        given.0.push((name.into(), value.into()));
    }
    Ok(given)
}

fn is_flag(name: &str) -> bool {
    FLAGS.contains(&name) || IGNORED_FLAGS.contains(&name)
}

fn check_name(name: &str) -> Result<(), ()> {
    let known = [IGNORED, IGNORED_FLAGS, FLAGS, ONCE, MANY].concat();
    if known.contains(&name) { Ok(()) } else { Err(()) }
}

fn settings(given: &Given) -> Result<Settings, String> {
    if let Some(name) = given.one("server-name").into_iter().find(|name| !datum::is_name(name)) {
        return Err(format!("server-name '{name}' is invalid.  (Use A-Z, a-z, 0-9, _ and - only)"));
    }
    if let Some(tag) = given.all("server-tag").find(|tag| !datum::is_name(tag)) {
        return Err(format!("--server-tag option '{tag}' is invalid.  (Use A-Z, a-z, 0-9, _ and - only)"));
    }
    let offset = given.port("port-offset", 0, 0)?;
    let join: Result<Vec<String>, String> =
        given.all("join").map(|text| address(text, names::CLUSTER_PORT)).collect();
    let cluster_port = given.port("cluster-port", names::CLUSTER_PORT, offset)?;
    let canonical: Result<Vec<String>, String> =
        given.all("canonical-address").map(|text| address(text, cluster_port)).collect();
    let cache = match given.one("cache-size") {
        None | Some("auto") => None,
        Some(text) => Some(
            text.parse::<f64>()
                .ok()
                .filter(|size| *size >= 0.0)
                .ok_or_else(|| format!("ERROR: cache-size should be a number or 'auto', got '{text}'"))?,
        ),
    };
    let mut ignored: Vec<String> = given
        .0
        .iter()
        .filter(|(name, _)| IGNORED.contains(&name.as_str()) || IGNORED_FLAGS.contains(&name.as_str()))
        .map(|(name, _)| name.clone())
        .collect();
    ignored.sort();
    Ok(Settings {
        server_name: given.one("server-name").map(str::to_owned),
        server_tags: given.all("server-tag").map(str::to_owned).collect(),
        directory: given.one("directory").unwrap_or("rethinkdb_data").into(),
        bind_cluster: given.hosts("bind-cluster")?,
        bind_driver: given.hosts("bind-driver")?,
        bind_http: given.hosts("bind-http")?,
        cluster_port,
        driver_port: given.port("driver-port", 28015, offset)?,
        http_port: match given.one("no-http-admin") {
            Some(_) => None,
            None => Some(given.port("http-port", 8080, offset)?),
        },
        join: join?,
        canonical_addresses: canonical?,
        cluster_tls: given.tls("cluster", true)?,
        http_tls: given.tls("http", false)?,
        driver_tls: given.tls("driver", false)?,
        cache_size_mb: cache,
        initial_password: given.one("initial-password").filter(|text| *text != "auto").map(str::to_owned),
        ignored,
    })
}

fn address(text: &str, default_port: u16) -> Result<String, String> {
    let (host, port) = names::split(text)?;
    // `split` fills in the usual port, which is not this server's if it was given another.
    let has_port = text.ends_with(&format!(":{port}")) && text.parse::<Ipv6Addr>().is_err();
    Ok(names::join(&host, if has_port { port } else { default_port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        settings(&file(Path::new("x.conf"), text)?)
    }

    #[test]
    fn an_instance_file_as_the_agent_writes_it() {
        let text = "# made\nserver-name=EU7rethinkSeed\nserver-tag=EU7\nserver-tag=x\ndirectory=/var/lib/rethinkdb/fleet\n\
                    bind-cluster=all\nbind-http=all\njoin=[2001:db8::2]:29015\njoin=[2001:db8::3]\njoin=seed\n\
                    canonical-address=[2001:db8::1]:29015\ncluster-tls-key=/k\ncluster-tls-cert=/c\ncluster-tls-ca=/a\n\
                    http-tls-key=/k\nhttp-tls-cert=/c\ncache-size=64\nno-update-check\n";
        let settings = parse(text).expect("parses");
        assert_eq!(settings.server_tags, ["EU7", "x"]);
        assert_eq!(settings.join, ["[2001:db8::2]:29015", "[2001:db8::3]:29015", "seed:29015"]);
        assert_eq!(
            settings.bind_driver,
            ["127.0.0.1".parse::<IpAddr>().expect("v4"), Ipv6Addr::LOCALHOST.into()]
        );
        assert_eq!(settings.bind_cluster, [IpAddr::from(Ipv6Addr::UNSPECIFIED)]);
        assert_eq!(settings.cluster_tls.expect("TLS").ca, Some("/a".into()));
        assert_eq!((settings.cluster_port, settings.http_port), (29015, Some(8080)));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("bogus=1", "line 0: unrecognized option name 'bogus'"),
            ("directory=/a\ndirectory=/b", "specified too many times"),
            ("server-name", "missing '='"),
            ("no-http-admin=1", "option 'no-http-admin' takes no value"),
            ("join=fd12::1:29015", "is not HOST"),
            ("server-name=x.y", "is invalid.  (Use A-Z, a-z, 0-9, _ and - only)"),
            ("cluster-tls-key=/k\ncluster-tls-cert=/c", "must be specified together"),
            ("http-tls-key=/k", "--http-tls-key and --http-tls-cert must be specified together"),
            ("driver-port=x", "`x` is not a port"),
            ("bind=everything", "is not an address or `all`"),
            ("join=[::1", "is not HOST"),
            ("cache-size=big", "cache-size"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_command_line_counts_more_than_the_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.conf");
        std::fs::write(&path, "driver-port=1\nserver-name=file\n").expect("writes");
        let args = ["serve", "--config-file", &path.to_string_lossy(), "--driver-port=2"].map(str::to_owned);
        let Ok(Action::Serve(settings)) = read(&args) else { panic!("must be `serve`") };
        assert_eq!((settings.driver_port, settings.server_name.as_deref()), (2, Some("file")));
        assert_eq!(read(&["--version".to_owned()]), Ok(Action::Version));
        assert!(read(&["--bogus".to_owned()]).is_err());
    }
}
