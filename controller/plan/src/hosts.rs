//! Machines that are there already, as plans with `cloud: hosts` write them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    document::{Document, RawNode},
    problem::{Reporter, Span},
    read::{At, Fields, text},
    resolved::{Host, HostKey, SSH},
    settings::Settings,
    syntax::Tree,
    task,
};

/// Who logs in where nothing is said.
const ROOT: &str = "root";
/// Longest host name (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;
/// Characters of a SHA-256 in base64 without padding.
const FINGERPRINT: usize = 43;

/// What only a node with a machine of its own says, each with its place.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawHost {
    address: Option<At<(String, u16)>>,
    key: Option<At<Option<HostKey>>>,
    private: Option<At<Option<Ipv4Addr>>>,
    ipv6: Option<At<Option<Ipv6Addr>>>,
}

impl RawHost {
    /// Takes its keys out of a node's. What is wrong counts as given.
    pub(crate) fn read(fields: &mut Fields<'_>, reporter: &mut Reporter<'_>) -> Self {
        let address = fields
            .get("address", reporter)
            .map(|tree| At::new(address(tree, reporter).unwrap_or_else(|| (String::new(), SSH)), &tree.span));
        let key = fields.get("hostKey", reporter).map(|tree| At::new(host_key(tree, reporter), &tree.span));
        let private =
            fields.get("private", reporter).map(|tree| At::new(private(tree, reporter), &tree.span));
        let ipv6 = fields.get("ipv6", reporter).map(|tree| At::new(ipv6(tree, reporter), &tree.span));
        Self { address, key, private, ipv6 }
    }

    /// Where each stands that is given.
    fn given(&self) -> impl Iterator<Item = (&'static str, &Span)> {
        [
            ("address", self.address.as_ref().map(|at| &at.span)),
            ("hostKey", self.key.as_ref().map(|at| &at.span)),
            ("private", self.private.as_ref().map(|at| &at.span)),
            ("ipv6", self.ipv6.as_ref().map(|at| &at.span)),
        ]
        .into_iter()
        .filter_map(|(key, span)| Some((key, span?)))
    }
}

/// The login of a node, as `login:` of a layer gives it.
pub(crate) fn login(tree: &Tree, reporter: &mut Reporter<'_>) -> String {
    let Some(login) = text(tree, "`login`", reporter) else { return String::new() };
    // What useradd takes, and nothing that ssh or a shell might read as something else.
    let fine = login.value.len() <= 32
        && login.value.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && login.value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.".contains(&b));
    if !fine {
        let hint = "`root`, or an account that may use `sudo` without a password".to_owned();
        reporter.problem(&login.span, format!("`{}` cannot log in", login.value), hint);
    }
    login.value
}

/// Checks that a plan says of machines what fits its cloud: theirs alone if they are there already, none of it if they
/// are made.
pub(crate) fn check(document: &Document, reporter: &mut Reporter<'_>) {
    let layers = || {
        let nodes = document.nodes().map(|node| &node.settings);
        std::iter::once(&document.defaults)
            .chain(document.classes.values().map(|class| &class.settings))
            .chain(nodes)
    };
    if document.has_hosts() {
        layers().for_each(|settings| refuse_hardware(settings, reporter));
        apart(document, reporter);
        return;
    }
    let logins = layers().filter_map(|settings| settings.login.as_ref()).map(|at| ("login", &at.span));
    for (key, span) in logins.chain(document.nodes().flat_map(|node| node.host.given())) {
        reporter.problem(
            span,
            format!("`{key}` is for machines that are there already"),
            "write `cloud: hosts` to take those; this plan's servers are made".to_owned(),
        );
    }
}

/// What is as it is on a machine that is there already.
fn refuse_hardware(settings: &Settings, reporter: &mut Reporter<'_>) {
    let given = [
        ("image", settings.image.as_ref().map(|at| &at.span)),
        ("cpu", settings.cpu.as_ref().map(|at| &at.span)),
        ("memoryGb", settings.memory_gb.as_ref().map(|at| &at.span)),
        ("disks", settings.disks.as_ref().map(|at| &at.span)),
        ("monitoring", settings.monitoring.as_ref().map(|at| &at.span)),
    ];
    for (key, span) in given.into_iter().filter_map(|(key, span)| Some((key, span?))) {
        reporter.problem(
            span,
            format!("`{key}` means nothing with `cloud: hosts`"),
            "the machine is there already, and stays as it is: remove the line".to_owned(),
        );
    }
    if let Some(internet) = &settings.internet {
        reporter.problem(
            &internet.span,
            "`internet` means nothing with `cloud: hosts`",
            "what reaches the machine is up to its own network: open the ports there, and remove the line"
                .to_owned(),
        );
    }
}

/// Each machine is one node, and each address one machine's.
fn apart(document: &Document, reporter: &mut Reporter<'_>) {
    let (mut places, mut ipv6s): (BTreeMap<_, _>, BTreeMap<_, _>) = Default::default();
    for node in document.nodes() {
        let name = &node.name.value;
        if let Some(at) = node.host.address.as_ref().filter(|at| !at.value.0.is_empty())
            && let Some(earlier) = places.insert(at.value.clone(), name)
        {
            let message = format!("node `{name}` has the address of node `{earlier}`");
            reporter.problem(&at.span, message, "one machine is one node".to_owned());
        }
        if let Some((at, address)) = node.host.ipv6.as_ref().and_then(|at| Some((at, at.value?)))
            && let Some(earlier) = ipv6s.insert(address, name)
        {
            let message = format!("node `{name}` has the `ipv6` of node `{earlier}`");
            reporter.problem(&at.span, message, "it is how the others reach this one node".to_owned());
        }
    }
    for location in &document.locations {
        let mut privates = BTreeMap::new();
        for node in location.networks.iter().flat_map(|network| &network.nodes) {
            if let Some((at, address)) = node.host.private.as_ref().and_then(|at| Some((at, at.value?)))
                && let Some(earlier) = privates.insert(address, &node.name.value)
            {
                let message =
                    format!("node `{}` has the `private` address of node `{earlier}`", node.name.value);
                let hint = "private addresses may repeat in other locations only".to_owned();
                reporter.problem(&at.span, message, hint);
            }
        }
    }
}

/// The machine of a node; reports what it lacks.
pub(crate) fn resolve(raw: &RawNode, settings: &Settings, reporter: &mut Reporter<'_>) -> Option<Host> {
    let name = &raw.name;
    if name.value.contains('[') {
        let hint = "write each node with its own `address`".to_owned();
        reporter.problem(&name.span, "a range of names is no machine that is there already", hint);
        return None;
    }
    let Some(address) = &raw.host.address else {
        let hint =
            "where its SSH answers: `address: 203.0.113.7`, or with a port: `203.0.113.7:2222`".to_owned();
        reporter.problem(&name.span, format!("node `{}` has no `address`", name.value), hint);
        return None;
    };
    let literal = address.value.0.parse::<IpAddr>().ok();
    let ipv6 = raw.host.ipv6.as_ref().map(|at| at.value).unwrap_or(match literal {
        Some(IpAddr::V6(own)) => Some(own),
        _ => None,
    });
    if let Some(task) = settings.tasks.iter().find(|task| task.kind == "rethinkdb")
        && ipv6.is_none()
        && raw.host.ipv6.is_none()
    {
        reporter.problem(
            &name.span,
            format!("node `{}` has `{}` and no `ipv6`", name.value, task.name.value),
            "servers of a cluster talk over IPv6: give the address by which the other nodes reach this one"
                .to_owned(),
        );
    }
    Some(Host {
        address: address.value.0.clone(),
        port: address.value.1,
        login: settings.login.as_ref().map_or_else(|| ROOT.to_owned(), |login| login.value.clone()),
        key: raw.host.key.as_ref().and_then(|at| at.value.clone()),
        private: raw.host.private.as_ref().and_then(|at| at.value),
        ipv6,
    })
}

/// An address or a name, with a port or without: `203.0.113.7`, `[2001:db8::7]:2222`, `web.example.org`.
fn address(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<(String, u16)> {
    let written = text(tree, "`address`", reporter)?;
    match parse_address(&written.value) {
        Ok(found) => Some(found),
        Err((why, hint)) => {
            reporter.problem(&written.span, format!("`{}` is no address: {why}", written.value), hint);
            None
        }
    }
}

fn parse_address(text: &str) -> Result<(String, u16), (String, String)> {
    let usual = || "`203.0.113.7`, `[2001:db8::7]:2222` or `web.example.org`".to_owned();
    if let Some((login, host)) = text.split_once('@') {
        let hint = format!("`address: {host}` and `login: {login}`");
        return Err(("it names who logs in".to_owned(), hint));
    }
    if text.contains("://") || text.contains('/') {
        return Err(("it is no host".to_owned(), usual()));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) =
            rest.split_once(']').ok_or_else(|| ("its bracket is not closed".to_owned(), usual()))?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(("brackets are for IPv6".to_owned(), usual()));
        }
        match rest {
            "" => (host, None),
            _ => (host, Some(rest.strip_prefix(':').unwrap_or(rest))),
        }
    } else if text.parse::<Ipv6Addr>().is_ok() {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => SSH,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| (format!("`{port}` is no port"), "1 to 65535".to_owned()))?,
    };
    // Each address in one spelling, so that none is given twice.
    if let Ok(ip) = host.parse::<IpAddr>() {
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(("nobody in particular answers there".to_owned(), usual()));
        }
        return Ok((ip.to_string(), port));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    // What looks like an IPv4 address and is none is a slip, not a name.
    let numbers = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numbers || name.len() > LONGEST_NAME || !name.split('.').all(label) {
        return Err(("neither an IP address nor a host name".to_owned(), usual()));
    }
    Ok((name.to_ascii_lowercase(), port))
}

fn host_key(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<HostKey> {
    const HINT: &str = "as `ssh-keyscan -t ed25519 ADDRESS` shows it, checked on the machine itself: \"ssh-ed25519 AAAA…\"; or its \
         fingerprint: SHA256:…";
    let written = text(tree, "`hostKey`", reporter)?;
    let line = written.value.trim();
    if let Some(digest) = line.strip_prefix("SHA256:") {
        let digest = digest.trim_end_matches('=');
        let fine = digest.len() == FINGERPRINT
            && digest.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b));
        if fine {
            return Some(HostKey::Fingerprint(format!("SHA256:{digest}")));
        }
        let message = "a fingerprint has 43 characters after `SHA256:`";
        reporter.problem(&written.span, message, HINT.to_owned());
        return None;
    }
    if let Err(why) = task::is_key(line) {
        reporter.problem(&written.span, format!("`hostKey` {why}"), HINT.to_owned());
        return None;
    }
    if line.starts_with("ssh-rsa") || line.starts_with("sk-") {
        let hint = "servers have an ed25519 key besides: `ssh-keyscan -t ed25519 ADDRESS`".to_owned();
        reporter.problem(&written.span, "`hostKey` is of a type that is not checked here", hint);
        return None;
    }
    let words: Vec<&str> = line.split_ascii_whitespace().take(2).collect();
    Some(HostKey::Key(words.join(" ")))
}

fn private(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<Ipv4Addr> {
    let written = text(tree, "`private`", reporter)?;
    let found = written.value.parse::<Ipv4Addr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
    if found.is_none() {
        let hint = "an IPv4 address of the machine in a network of its location: `10.0.0.7`".to_owned();
        reporter.problem(&written.span, format!("`{}` is no private address", written.value), hint);
    }
    found
}

fn ipv6(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<Ipv6Addr> {
    let written = text(tree, "`ipv6`", reporter)?;
    let usable = |ip: &Ipv6Addr| {
        !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local())
    };
    let found = written.value.parse::<Ipv6Addr>().ok().filter(usable);
    if found.is_none() {
        let hint =
            "one by which the other nodes reach it, without a prefix or a zone: `2001:db8::7`".to_owned();
        reporter.problem(&written.span, format!("`{}` is no such address", written.value), hint);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        let check = |text: &str, expected: Option<(&str, u16)>| {
            let found = parse_address(text).ok();
            assert_eq!(found.as_ref().map(|(host, port)| (host.as_str(), *port)), expected, "{text}");
        };
        check("203.0.113.7", Some(("203.0.113.7", 22)));
        check("203.0.113.7:2222", Some(("203.0.113.7", 2222)));
        check("2001:DB8:0::7", Some(("2001:db8::7", 22)));
        check("[2001:db8::7]", Some(("2001:db8::7", 22)));
        check("[2001:db8::7]:2222", Some(("2001:db8::7", 2222)));
        check("Web.Example.org.", Some(("web.example.org", 22)));
        check("web:22", Some(("web", 22)));
        for wrong in [
            "",
            ":22",
            "web:",
            "web:0",
            "web:65536",
            "root@web",
            "ssh://web",
            "203.0.113",
            "203.0.113.700",
            "0.0.0.0",
            "::",
            "[web]:22",
            "[2001:db8::7",
            "[2001:db8::7]2222x",
            "we b",
            "-web",
            "a..b",
            "224.0.0.1",
            "wéb",
        ] {
            check(wrong, None);
        }
    }
}
