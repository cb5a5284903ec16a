//! The plan's sections as they are written, before anything is laid over or looked up.

use std::{collections::BTreeMap, net::Ipv4Addr, ops::RangeInclusive, time::Duration};

use fleet_model::FleetName;

use crate::{
    hosts::RawHost,
    parameter::is_word,
    problem::Reporter,
    read::{At, Fields, any_text, choice, list, text, wanted},
    resolved::{Cloud, Domain, Service},
    rollout::RawPolicy,
    settings::{Settings, service},
    syntax::{Tree, Value},
    task,
};

/// How often an agent may look at its tasks: looking is cheap, yet not free, and a day is as good as never.
const RECHECK: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(24 * 3600);

/// How long a fleet with an end may last: shorter is over before it is up, longer is no end.
const EXPIRES: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(365 * 24 * 3600);

/// API hosts of the platform's geographic regions.
const REGIONS: [(&str, &str); 8] = [
    ("dd-na", "https://api-na.dimensiondata.com"),
    ("dd-eu", "https://api-eu.dimensiondata.com"),
    ("dd-au", "https://api-au.dimensiondata.com"),
    ("dd-au-gov", "https://api-canberra.dimensiondata.com"),
    ("dd-af", "https://api-mea.dimensiondata.com"),
    ("dd-ap", "https://api-ap.dimensiondata.com"),
    ("dd-latam", "https://api-latam.dimensiondata.com"),
    ("dd-canada", "https://api-canada.dimensiondata.com"),
];

/// A whole plan, as written.
pub(crate) struct Document {
    pub(crate) fleet: Option<FleetName>,
    pub(crate) cloud: Option<Cloud>,
    pub(crate) information: Option<At<String>>,
    pub(crate) recheck: Option<Duration>,
    pub(crate) expires: Option<Duration>,
    pub(crate) rollout: RawPolicy,
    pub(crate) defaults: Settings,
    pub(crate) classes: BTreeMap<String, Class>,
    pub(crate) locations: Vec<RawLocation>,
    /// Where to point when something is missing altogether.
    pub(crate) top: crate::problem::Span,
}

/// A class of nodes.
pub(crate) struct Class {
    pub(crate) name: At<String>,
    pub(crate) settings: Settings,
}

/// A location, as written.
pub(crate) struct RawLocation {
    pub(crate) id: At<String>,
    pub(crate) domain: Option<At<Domain>>,
    pub(crate) networks: Vec<RawNetwork>,
}

/// A network, as written.
pub(crate) struct RawNetwork {
    pub(crate) name: At<String>,
    pub(crate) subnet: Option<At<Subnet>>,
    pub(crate) accept: Vec<At<String>>,
    pub(crate) nodes: Vec<RawNode>,
}

/// A node, as written; its name may be a range.
pub(crate) struct RawNode {
    pub(crate) name: At<String>,
    pub(crate) class: Option<At<String>>,
    pub(crate) settings: Settings,
    /// Its machine, if that is there already.
    pub(crate) host: RawHost,
}

/// An IPv4 subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

impl Document {
    /// Reads every section, reporting as it goes.
    pub(crate) fn read(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<Self> {
        if tree.value == Value::Null {
            reporter.problem(&tree.span, "the plan is empty", "a plan begins with `fleet: NAME`".to_owned());
            return None;
        }
        let mut fields = Fields::of(tree, "the plan", reporter)?;
        let fleet = fields
            .require("fleet", "add `fleet: NAME`", reporter)
            .and_then(|tree| text(tree, "`fleet`", reporter))
            .and_then(|name| {
                let parsed = name.value.parse();
                parsed
                    .map_err(|error: fleet_model::NameError| {
                        reporter.problem(&name.span, error.to_string(), None)
                    })
                    .ok()
            });
        let cloud = match fields.get("cloud", reporter) {
            None => Some(Cloud::Local),
            Some(tree) => cloud(tree, reporter),
        };
        let information =
            fields.get("information", reporter).and_then(|tree| any_text(tree, "`information`", reporter));
        let recheck = fields
            .get("recheck", reporter)
            .and_then(|tree| task::duration(tree, "`recheck`", RECHECK, reporter));
        let expires = fields
            .get("expires", reporter)
            .and_then(|tree| task::duration(tree, "`expires`", EXPIRES, reporter));
        let rollout = fields
            .get("rollout", reporter)
            .map_or_else(RawPolicy::default, |tree| RawPolicy::read(tree, reporter));
        // Read by `Parameters` already.
        fields.get("parameters", &mut Reporter::new(""));
        let defaults = match fields.get("defaults", reporter) {
            None => Settings::default(),
            Some(tree) => settings(tree, "`defaults`", reporter),
        };
        let classes =
            fields.get("classes", reporter).map_or_else(BTreeMap::new, |tree| classes(tree, reporter));
        let locations = fields
            .require("locations", "list the places with their nodes", reporter)
            .and_then(|tree| list(tree, "`locations`", reporter))
            .map_or_else(Vec::new, |items| {
                let read = if cloud == Some(Cloud::Hosts) { place } else { location };
                items.iter().filter_map(|item| read(item, reporter)).collect()
            });
        let top = fields.span().clone();
        fields.finish(reporter);
        Some(Self { fleet, cloud, information, recheck, expires, rollout, defaults, classes, locations, top })
    }
}

impl Document {
    /// Whether its machines are there already.
    pub(crate) fn has_hosts(&self) -> bool {
        self.cloud == Some(Cloud::Hosts)
    }

    /// Every node, as written.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &RawNode> {
        self.locations.iter().flat_map(|location| &location.networks).flat_map(|network| &network.nodes)
    }
}

fn settings(tree: &Tree, what: &str, reporter: &mut Reporter<'_>) -> Settings {
    let Some(mut fields) = Fields::of(tree, what, reporter) else { return Settings::default() };
    let settings = Settings::read(&mut fields, reporter);
    fields.finish(reporter);
    settings
}

fn cloud(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<Cloud> {
    if matches!(tree.value, Value::Text(_)) {
        let word = choice(tree, "`cloud`", &["local", "hosts"], reporter)?;
        return Some(if word.value == "hosts" { Cloud::Hosts } else { Cloud::Local });
    }
    let Value::Map(_) = tree.value else {
        wanted(tree, "`cloud`", "`local`, `hosts` or a mapping with `mcp`", reporter);
        return None;
    };
    let mut fields = Fields::of(tree, "`cloud`", reporter)?;
    let mcp =
        fields.require("mcp", "`cloud: local`, `cloud: hosts`, or `cloud: {mcp: {region: dd-eu}}`", reporter);
    fields.finish(reporter);
    let tree = mcp?;
    let mut fields = Fields::of(tree, "`mcp`", reporter)?;
    let region = fields.get("region", reporter);
    let endpoint = fields.get("endpoint", reporter);
    let cloud = match (region, endpoint) {
        (Some(region), None) => {
            let ids: Vec<&'static str> = REGIONS.iter().map(|(id, _)| *id).collect();
            choice(region, "`region`", &ids, reporter).and_then(|id| {
                let (_, endpoint) = REGIONS.iter().find(|(known, _)| *known == id.value)?;
                Some(Cloud::Mcp { endpoint: (*endpoint).to_owned() })
            })
        }
        (None, Some(endpoint)) => endpoint_of(endpoint, reporter).map(|endpoint| Cloud::Mcp { endpoint }),
        _ => {
            let hint = "`region: dd-eu`, or `endpoint: https://HOST`".to_owned();
            reporter.problem(&tree.span, "`mcp` wants either `region` or `endpoint`", hint);
            None
        }
    };
    fields.finish(reporter);
    cloud
}

fn endpoint_of(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<String> {
    let url = text(tree, "`endpoint`", reporter)?;
    let host = url.value.strip_prefix("https://").unwrap_or("").trim_end_matches('/');
    let fine =
        !host.is_empty() && !host.contains(|c: char| c == '/' || c == '@' || c == '?' || c.is_whitespace());
    if !fine {
        reporter.problem(
            &url.span,
            format!("`{}` is no API address", url.value),
            "`https://HOST` or `https://HOST:PORT`, without a path".to_owned(),
        );
        return None;
    }
    Some(format!("https://{host}"))
}

fn classes(tree: &Tree, reporter: &mut Reporter<'_>) -> BTreeMap<String, Class> {
    let mut classes = BTreeMap::new();
    let Value::Map(entries) = &tree.value else {
        wanted(tree, "`classes`", "a mapping", reporter);
        return classes;
    };
    for (key, value) in entries {
        let Some(name) = text(key, "the name of a class", reporter) else { continue };
        if !is_word(&name.value) {
            let hint = "letters, digits, `-` and `_`, a letter first: `rethink-node`".to_owned();
            reporter.problem(&key.span, format!("`{}` cannot name a class", name.value), hint);
        }
        let settings = match value.value {
            Value::Null => Settings::default(),
            _ => settings(value, &format!("class `{}`", name.value), reporter),
        };
        if classes.contains_key(&name.value) {
            reporter.problem(&key.span, format!("class `{}` is given twice", name.value), None);
            continue;
        }
        classes.insert(name.value.clone(), Class { name, settings });
    }
    classes
}

fn location_id(fields: &mut Fields<'_>, reporter: &mut Reporter<'_>) -> Option<At<String>> {
    fields.require("id", "the data centre: `EU7`", reporter).and_then(|tree| {
        let id = text(tree, "`id`", reporter)?;
        if !id.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') || id.value.is_empty() {
            let hint = "letters, digits and `-`: `EU7`".to_owned();
            reporter.problem(&id.span, format!("`{}` cannot be a data centre", id.value), hint);
        }
        Some(id)
    })
}

/// A location of machines that are there already: a name and its nodes. It stands as one network, within which private
/// addresses mean something.
fn place(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<RawLocation> {
    let mut fields = Fields::of(tree, "a location", reporter)?;
    let id = location_id(&mut fields, reporter).unwrap_or_else(|| At::new(String::new(), fields.span()));
    for key in ["domain", "networks"] {
        if fields.has(key) {
            let tree = fields.get(key, reporter);
            reporter.problem(
                tree.map_or(fields.span(), |tree| &tree.span),
                format!("`{key}` means nothing with `cloud: hosts`"),
                "networks of machines that are there already are not ours: put `nodes` right below the location"
                    .to_owned(),
            );
        }
    }
    let nodes = fields
        .require("nodes", "list its machines", reporter)
        .and_then(|tree| list(tree, "`nodes`", reporter))
        .map_or_else(Vec::new, |items| items.iter().filter_map(|item| node(item, reporter)).collect());
    fields.finish(reporter);
    let domain = id.clone().map(|name| Domain { name, service: Service::Essentials });
    let network = RawNetwork { name: id.clone(), subnet: None, accept: Vec::new(), nodes };
    Some(RawLocation { id, domain: Some(domain), networks: vec![network] })
}

fn location(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<RawLocation> {
    let mut fields = Fields::of(tree, "a location", reporter)?;
    let id = location_id(&mut fields, reporter);
    let domain = fields
        .require("domain", "its network domain: `{name: NAME, service: essentials}`", reporter)
        .and_then(|tree| domain(tree, reporter));
    let networks = fields
        .require("networks", "list its networks", reporter)
        .and_then(|tree| list(tree, "`networks`", reporter))
        .map_or_else(Vec::new, |items| items.iter().filter_map(|item| network(item, reporter)).collect());
    let id = id.unwrap_or_else(|| At::new(String::new(), fields.span()));
    fields.finish(reporter);
    Some(RawLocation { id, domain, networks })
}

/// A name, or a mapping.
fn domain(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<At<Domain>> {
    if let Value::Text(_) = tree.value {
        let name = label(tree, "the name of a domain", reporter)?;
        return Some(name.map(|name| Domain { name, service: Service::Essentials }));
    }
    let mut fields = Fields::of(tree, "`domain`", reporter)?;
    let name = fields
        .require("name", "unique in the data centre", reporter)
        .and_then(|tree| label(tree, "`name` of a domain", reporter));
    let service = fields.get("service", reporter).map(|tree| service(tree, "`service`", reporter));
    fields.finish(reporter);
    let service = service.flatten().unwrap_or(Service::Essentials);
    name.map(|name| name.map(|name| Domain { name, service }))
}

fn network(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<RawNetwork> {
    let mut fields = Fields::of(tree, "a network", reporter)?;
    let name = fields
        .require("name", "unique in the location", reporter)
        .and_then(|tree| label(tree, "`name` of a network", reporter));
    let subnet = fields.require("subnet", "`10.60.0.0/24`", reporter).and_then(|tree| subnet(tree, reporter));
    let accept = fields
        .get("accept", reporter)
        .and_then(|tree| list(tree, "`accept`", reporter))
        .map_or_else(Vec::new, |items| {
            items.iter().filter_map(|item| text(item, "an accepted network", reporter)).collect()
        });
    let nodes = fields
        .get("nodes", reporter)
        .and_then(|tree| list(tree, "`nodes`", reporter))
        .map_or_else(Vec::new, |items| items.iter().filter_map(|item| node(item, reporter)).collect());
    let name = name.unwrap_or_else(|| At::new(String::new(), fields.span()));
    fields.finish(reporter);
    Some(RawNetwork { name, subnet, accept, nodes })
}

fn node(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<RawNode> {
    let mut fields = Fields::of(tree, "a node", reporter)?;
    let name = fields
        .require("name", "its host name, unique in the fleet", reporter)
        .and_then(|tree| text(tree, "`name` of a node", reporter));
    let class = fields.get("class", reporter).and_then(|tree| text(tree, "`class`", reporter));
    let settings = Settings::read(&mut fields, reporter);
    let host = RawHost::read(&mut fields, reporter);
    fields.finish(reporter);
    Some(RawNode { name: name?, class, settings, host })
}

/// Name of a domain or network: what the API shows, and what references can hold.
fn label(tree: &Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<At<String>> {
    const LONGEST: usize = 60;
    let name = text(tree, what, reporter)?;
    let fine = name.value.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.value.len() <= LONGEST
        && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !fine {
        let hint = format!("a letter, then letters, digits, `_`, `.` and `-`, at most {LONGEST}");
        reporter.problem(&name.span, format!("{what} cannot be `{}`", name.value), hint);
    }
    Some(name)
}

fn subnet(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<At<Subnet>> {
    let written = text(tree, "`subnet`", reporter)?;
    let parsed = written
        .value
        .split_once('/')
        .and_then(|(address, prefix)| Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?)));
    let Some((address, prefix)) = parsed else {
        let hint = "an address and a prefix: `10.60.0.0/24`".to_owned();
        reporter.problem(&written.span, format!("`{}` is no subnet", written.value), hint);
        return None;
    };
    if !(16..=28).contains(&prefix) {
        reporter.problem(
            &written.span,
            format!("subnet `{}` has prefix /{prefix}", written.value),
            "/16 to /28".to_owned(),
        );
        return None;
    }
    let subnet = Subnet { address, prefix };
    if subnet.first() != u32::from(address) {
        let base = Ipv4Addr::from(subnet.first());
        let hint = format!("did you mean `{base}/{prefix}`?");
        reporter.problem(
            &written.span,
            format!("`{}` is inside a subnet, not its base", written.value),
            hint,
        );
        return None;
    }
    if !address.is_private() {
        let hint = "within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16".to_owned();
        reporter.problem(&written.span, format!("subnet `{}` is not private", written.value), hint);
        return None;
    }
    Some(At::new(subnet, &written.span))
}

impl Subnet {
    /// First address, as a number.
    pub(crate) fn first(self) -> u32 {
        u32::from(self.address) & (u32::MAX << (32 - u32::from(self.prefix)))
    }

    /// Last address, as a number.
    pub(crate) fn last(self) -> u32 {
        self.first() | (u32::MAX >> u32::from(self.prefix))
    }

    /// How many nodes fit: from the seventh address, before which the platform may keep all for itself, to the one
    /// before the broadcast address.
    pub(crate) fn capacity(self) -> usize {
        usize::try_from(self.last() - self.first()).unwrap_or(usize::MAX).saturating_sub(7)
    }
}
