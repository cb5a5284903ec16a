//! From sections to a [`ResolvedPlan`]: defaults applied, ranges of names expanded, references checked.

use std::collections::{BTreeMap, BTreeSet};

use fleet_model::NodeName;

use crate::{
    check,
    document::{Document, RawLocation, RawNetwork, RawNode, Subnet},
    hosts, internet,
    parameter::locate,
    problem::Reporter,
    read::At,
    resolved::{Cloud, Location, Network, NetworkRef, Node, ResolvedPlan, Template},
    settings::{Settings, one_cpu},
    suggest::suggest,
    task::{self, RawTask},
    template::{Attribute, NotAReference, Part, Reference, Target, parts},
};

/// Most names one range may stand for.
const MAX_RANGE: u32 = 10_000;

/// Resolves everything it can, so that as many problems as possible come out of one run. `None` only if there is
/// nothing sensible to return; the caller has the problems then.
pub(crate) fn resolve(document: &Document, reporter: &mut Reporter<'_>) -> Option<ResolvedPlan> {
    check::locations(document, reporter);
    hosts::check(document, reporter);
    let mut used = BTreeSet::new();
    let mut placed = Vec::new();
    let locations: Vec<Location> = document
        .locations
        .iter()
        .filter_map(|location| resolve_location(document, location, &mut used, &mut placed, reporter))
        .collect();
    for class in document.classes.values().filter(|class| !used.contains(&class.name.value)) {
        reporter.warning(&class.name.span, format!("no node is of class `{}`", class.name.value), None);
    }
    if document.nodes().next().is_none() {
        let of = if document.has_hosts() { "location" } else { "network" };
        reporter.problem(
            &document.top,
            "the fleet has no nodes",
            format!("list some under `nodes` of a {of}"),
        );
    }
    check::names(&placed, reporter);
    check::rules(document, &locations, reporter);
    task::fleet(&placed, reporter);
    let directory = Directory::new(&locations);
    for node in &placed {
        let texts = node.tasks.iter().flat_map(|task| &task.texts);
        for text in std::iter::once(&node.information).chain(texts) {
            directory.check(text, Some(&node.name.value), reporter);
        }
    }
    let information = document
        .information
        .clone()
        .map_or_else(|| At::new(Template::default(), &(0..0)), |text| text.map(Template));
    directory.check(&information, None, reporter);
    document.rollout.check(&locations, reporter);
    Some(ResolvedPlan {
        fleet: document.fleet.clone()?,
        cloud: document.cloud.clone().unwrap_or(Cloud::Local),
        information: information.value,
        recheck: document.recheck,
        expires: document.expires,
        rollout: document.rollout.policy.clone(),
        locations,
    })
}

/// A node with the places that later checks point to.
pub(crate) struct PlacedNode {
    pub(crate) name: At<NodeName>,
    pub(crate) information: At<Template>,
    pub(crate) tasks: Vec<RawTask>,
}

fn resolve_location(
    document: &Document,
    location: &RawLocation,
    used: &mut BTreeSet<String>,
    placed: &mut Vec<PlacedNode>,
    reporter: &mut Reporter<'_>,
) -> Option<Location> {
    let networks: Vec<Network> = location
        .networks
        .iter()
        .map(|network| {
            let nodes: Vec<Node> = network
                .nodes
                .iter()
                .flat_map(|node| resolve_node(document, node, used, placed, reporter))
                .collect();
            // A wrong subnet is reported; this one only stands in for it.
            let subnet = network
                .subnet
                .as_ref()
                .map_or(Subnet { address: std::net::Ipv4Addr::UNSPECIFIED, prefix: 16 }, |subnet| {
                    subnet.value
                });
            if nodes.len() > subnet.capacity() {
                reporter.problem(
                    &network.name.span,
                    format!("network `{}` has {} nodes", network.name.value, nodes.len()),
                    format!("/{} holds {}", subnet.prefix, subnet.capacity()),
                );
            }
            Network {
                name: network.name.value.clone(),
                address: subnet.address,
                prefix: subnet.prefix,
                accept: accepted(document, location, network, reporter),
                nodes,
            }
        })
        .collect();
    Some(Location {
        id: location.id.value.clone(),
        domain: location.domain.as_ref()?.value.clone(),
        networks,
    })
}

/// One node, or several if its name is a range.
fn resolve_node(
    document: &Document,
    raw: &RawNode,
    used: &mut BTreeSet<String>,
    placed: &mut Vec<PlacedNode>,
    reporter: &mut Reporter<'_>,
) -> Vec<Node> {
    let below = match &raw.class {
        None => document.defaults.clone(),
        Some(class) => {
            used.insert(class.value.clone());
            match document.classes.get(&class.value) {
                Some(found) => found.settings.clone().over(&document.defaults),
                None => {
                    let hint = suggest(&class.value, document.classes.keys().map(String::as_str))
                        .unwrap_or_else(|| "this plan has no `classes`".to_owned());
                    reporter.problem(&class.span, format!("unknown class `{}`", class.value), hint);
                    // Its settings are unknown, so that a missing image is no second problem.
                    let image = Some(At::new(String::new(), &class.span));
                    Settings { image, ..Settings::default() }.over(&document.defaults)
                }
            }
        }
    };
    let settings = raw.settings.clone().over(&below);
    let names = match expand(&raw.name.value) {
        Ok(names) => names,
        Err((message, hint)) => {
            reporter.problem(&raw.name.span, message, hint);
            Vec::new()
        }
    };
    let host = if document.has_hosts() { hosts::resolve(raw, &settings, reporter) } else { None };
    if settings.image.is_none() && !document.has_hosts() {
        reporter.problem(
            &raw.name.span,
            format!("node `{}` has no `image`", raw.name.value),
            "say it at the node, in its class or in `defaults`: `image: Debian 12`".to_owned(),
        );
    } else if let Some(image) = settings.image.as_ref().filter(|image| image.value.trim().is_empty()) {
        // Reported unless a placeholder for something reported already.
        if reporter.source().get(image.span.clone()).is_some_and(|text| text == "''" || text == "\"\"") {
            reporter.problem(
                &image.span,
                "`image` is empty",
                "part of an image's name: `Debian 12`".to_owned(),
            );
        }
    }
    let console = settings.tasks.iter().any(|task| task.kind == "rethinkdb");
    let open = settings
        .internet
        .clone()
        .and_then(|at| at.value)
        .map(|open| internet::resolve(&open, console, reporter));
    names
        .into_iter()
        .map(|name| {
            let placed_name = At::new(name.clone(), &raw.name.span);
            task::node(&placed_name, &settings.tasks, reporter);
            let information =
                settings.information.clone().unwrap_or_else(|| At::new(Template::default(), &(0..0)));
            placed.push(PlacedNode {
                name: placed_name,
                information: information.clone(),
                tasks: settings.tasks.clone(),
            });
            let plain = settings.clone();
            Node {
                name,
                description: plain.description.map_or_else(String::new, |text| text.value),
                image: plain.image.map_or_else(String::new, |text| text.value.trim().to_owned()),
                cpu: plain.cpu.map_or_else(one_cpu, |cpu| cpu.value),
                memory_gb: plain.memory_gb.map_or(1, |memory| memory.value),
                disks: plain.disks.map_or_else(Vec::new, |disks| disks.value),
                monitoring: plain.monitoring.and_then(|monitoring| monitoring.value),
                internet: open.clone(),
                information: information.value,
                labels: plain.labels.clone(),
                tasks: plain.tasks.iter().filter_map(RawTask::task).collect(),
                host: host.clone(),
            }
        })
        .collect()
}

/// `web[1..3]` is `web1`, `web2`, `web3`; zeros in front are kept: `web[01..10]`.
fn expand(name: &str) -> Result<Vec<NodeName>, (String, Option<String>)> {
    let rules = || Some("letters, digits and inner hyphens, at most 63: it becomes a host name".to_owned());
    let plain = |name: &str| name.parse::<NodeName>().map_err(|error| (error.to_string(), rules()));
    let Some((before, rest)) = name.split_once('[') else { return Ok(vec![plain(name)?]) };
    let wrong = || (format!("`{name}` is no range of names"), Some("`web[1..3]`".to_owned()));
    let (range, after) = rest.split_once(']').ok_or_else(wrong)?;
    let (first, last) = range.split_once("..").ok_or_else(wrong)?;
    let width = first.len();
    let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else { return Err(wrong()) };
    if first > last || last - first >= MAX_RANGE {
        return Err(wrong());
    }
    (first..=last).map(|number| plain(&format!("{before}{number:0width$}{after}"))).collect()
}

fn accepted(
    document: &Document,
    location: &RawLocation,
    network: &RawNetwork,
    reporter: &mut Reporter<'_>,
) -> Vec<NetworkRef> {
    let mut refs: Vec<NetworkRef> = Vec::new();
    for entry in &network.accept {
        let (at, name) = entry.value.split_once("::").unwrap_or((&location.id.value, &entry.value));
        let Some(found) = document.locations.iter().find(|location| location.id.value == at) else {
            let hint = suggest(at, document.locations.iter().map(|location| location.id.value.as_str()));
            reporter.problem(&entry.span, format!("`{}` names unknown location `{at}`", entry.value), hint);
            continue;
        };
        if !found.networks.iter().any(|network| network.name.value == name) {
            let hint = suggest(name, found.networks.iter().map(|network| network.name.value.as_str()));
            reporter.problem(&entry.span, format!("`{at}` has no network `{name}`"), hint);
            continue;
        }
        let reference = NetworkRef { location: at.to_owned(), network: name.to_owned() };
        if reference.location == location.id.value && reference.network == network.name.value {
            let hint = "nodes of one network reach each other anyway".to_owned();
            reporter.warning(&entry.span, format!("network `{name}` accepts itself"), hint);
        } else if refs.contains(&reference) {
            reporter.warning(&entry.span, format!("`{}` is accepted twice", entry.value), None);
        } else {
            refs.push(reference);
        }
    }
    refs
}

/// Who is where, for checking references.
struct Directory<'a> {
    nodes: BTreeMap<&'a str, (&'a str, &'a Node)>,
    locations: Vec<&'a str>,
}

impl<'a> Directory<'a> {
    fn new(locations: &'a [Location]) -> Self {
        let nodes = locations.iter().flat_map(|location| {
            location
                .networks
                .iter()
                .flat_map(|network| &network.nodes)
                .map(|node| (node.name.as_str(), (location.id.as_str(), node)))
        });
        Self {
            nodes: nodes.collect(),
            locations: locations.iter().map(|location| location.id.as_str()).collect(),
        }
    }

    /// Reports references that mean nothing; `this` is what `node` stands for.
    fn check(&self, text: &At<Template>, this: Option<&NodeName>, reporter: &mut Reporter<'_>) {
        for part in parts(&text.value.0) {
            let (whole, inner) = match part {
                Part::Text(_) => continue,
                Part::Unclosed(rest) => {
                    let rest = rest.lines().next().unwrap_or(rest);
                    let at = locate(reporter.source(), &text.span, rest);
                    reporter.problem(&at, "`{{` is not closed", "`{{ node.public }}`".to_owned());
                    continue;
                }
                Part::Reference { whole, inner } => (whole, inner),
            };
            if let Err((message, hint)) = self.reference(inner, this) {
                let at = locate(reporter.source(), &text.span, whole);
                reporter.problem(&at, message, hint);
            }
        }
    }

    fn reference(&self, inner: &str, this: Option<&NodeName>) -> Result<(), (String, Option<String>)> {
        let reference = Reference::parse(inner).map_err(|why| match why {
            NotAReference::Shape => (
                format!("`{{{{ {inner} }}}}` refers to nothing"),
                Some("`node.public`, `NAME.ipv6`, `LOCATION::NAME.ipv6`, `parameter.NAME`".to_owned()),
            ),
            NotAReference::Attribute(word) => {
                (format!("nodes have no `{word}`"), suggest(&word, Attribute::WORDS))
            }
        })?;
        let name = match &reference.target {
            Target::This => this.map(NodeName::as_str).ok_or_else(|| {
                (
                    "`node` means nothing outside a node".to_owned(),
                    Some("name one: `{{ NAME.public }}`".to_owned()),
                )
            })?,
            Target::Named { name, .. } => name,
        };
        let Some((at, node)) = self.nodes.get(name) else {
            return Err((format!("unknown node `{name}`"), suggest(name, self.nodes.keys().copied())));
        };
        if let Target::Named { location: Some(location), .. } = &reference.target
            && location != at
        {
            let hint = if self.locations.contains(&location.as_str()) {
                Some(format!("it is in `{at}`"))
            } else {
                suggest(location, self.locations.iter().copied())
            };
            return Err((format!("node `{name}` is not in `{location}`"), hint));
        }
        let (has, hint) = match (reference.attribute, &node.host) {
            (Attribute::Name, _) | (Attribute::Private | Attribute::Ipv6, None) => (true, ""),
            (Attribute::Public, None) => {
                (node.internet.is_some(), "give it `internet`, or use `private` or `ipv6`")
            }
            (Attribute::Public, Some(host)) => {
                (host.may_have_ipv4(), "its `address` is IPv6: use `ipv6`, or give it an address of IPv4")
            }
            (Attribute::Private, Some(host)) => (host.private.is_some(), "give it `private: ADDRESS`"),
            (Attribute::Ipv6, Some(host)) => (host.ipv6.is_some(), "give it `ipv6: ADDRESS`"),
        };
        if !has {
            let what = match reference.attribute {
                Attribute::Public => "public address",
                Attribute::Private => "private address",
                Attribute::Ipv6 | Attribute::Name => "IPv6 address",
            };
            return Err((format!("node `{name}` has no {what}"), Some(hint.to_owned())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_expand() {
        let check = |name: &str, expected: Option<&[&str]>| {
            let names = expand(name).ok();
            let names = names.as_ref().map(|names| names.iter().map(NodeName::as_str).collect::<Vec<_>>());
            assert_eq!(names.as_deref(), expected, "{name}");
        };
        check("web", Some(&["web"]));
        check("web[1..3]", Some(&["web1", "web2", "web3"]));
        check("w[09..10]-x", Some(&["w09-x", "w10-x"]));
        check("w[3..1]", None);
        check("w[1..", None);
        check("w[1..99999999]", None);
        check("w_1", None);
    }
}
