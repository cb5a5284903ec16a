//! Locations, domains and networks: what documents and blueprints say.

mod value;

use std::collections::BTreeMap;

use fleet_plan::Tree;

use crate::{
    emit::{Entry, Out},
    machine::Reader,
    node::Node,
    tree::{entries, get, items, key as key_of, lay, nothing},
};

pub(crate) use value::{Api, label_of};
use value::{api, label, subnet};

/// What holds for all documents.
#[derive(Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) domain: Option<Tree>,
    pub(crate) ethernet: Option<Tree>,
    pub(crate) cloud_config: Option<Tree>,
    /// Where that begins.
    pub(crate) tasks_from: Option<usize>,
    /// Settings of locations, by key.
    pub(crate) location: BTreeMap<String, Tree>,
    /// Classes of nodes: key and settings.
    pub(crate) classes: BTreeMap<String, (Tree, Tree)>,
}

/// A data centre.
#[derive(Debug)]
pub(crate) struct Location {
    /// As our plan writes it, and with parameters put in.
    pub(crate) id: (String, String),
    pub(crate) domain: Domain,
    pub(crate) networks: Vec<Network>,
    /// Texts for people about it: where, and the text.
    pub(crate) information: Vec<(Tree, String)>,
    pub(crate) from: Vec<usize>,
}

/// A network domain.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) name: (String, String),
    pub(crate) service: Option<String>,
    pub(crate) remark: Vec<String>,
    pub(crate) from: Vec<usize>,
}

/// A network.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: (String, String),
    pub(crate) subnet: String,
    pub(crate) accept: Vec<Tree>,
    pub(crate) accept_from: Option<usize>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) remark: Vec<String>,
    pub(crate) from: Vec<usize>,
}

/// What one blueprint adds to a location.
struct Piece<'a> {
    id: (&'a String, &'a String),
    line: usize,
    key: &'a Tree,
    domain: Domain,
    network: Network,
    nodes: Vec<Node>,
}

/// Locations as they are read; the first API decides which cloud the fleet is in.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) locations: Vec<Location>,
    pub(crate) api: Option<Api>,
}

impl Places {
    /// Reads one document about a location.
    pub(crate) fn read(
        &mut self,
        document: &Tree,
        defaults: &Defaults,
        any_api: bool,
        reader: &mut Reader<'_, '_>,
    ) {
        reader.mapping(document, "a document");
        let setting = |key: &str| get(document, key).or_else(|| defaults.location.get(key));
        let Some(at) = setting("locationId") else {
            let instead = "say `locationId`; it is left out";
            reader.notes.lost(&document.span, "a document without a location", instead);
            return;
        };
        let Some(id) = reader.own_text(at, "a location") else { return };
        let value = reader.parameters.put_in(&id);
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            reader.notes.lost(
                &at.span,
                format!("location `{value}`"),
                "letters, digits and `-`: `EU7`; it is left out",
            );
            return;
        }
        let api = api(&value, setting("regionId"), setting("apiHost"), at, reader);
        if !any_api && let (Some(api), Some(known)) = (&api, &self.api) {
            if api != known {
                let instead = "a fleet lives behind one API: import it as a plan of its own";
                reader.notes.lost(
                    &at.span,
                    format!("location `{value}`, which is behind another API"),
                    instead,
                );
                return;
            }
        } else if self.api.is_none() {
            self.api = api;
        }
        let line = reader.source.line_of(at);
        self.keys(document, reader);
        let mut texts = Vec::new();
        if let Some(text) = setting("information") {
            texts.push(text.clone());
        }
        for item in get(document, "blueprints").map(items).unwrap_or_default() {
            self.blueprint(item, (&id, &value), defaults, line, &mut texts, reader);
        }
        let Some(location) = self.locations.iter_mut().find(|location| location.id.1 == value) else {
            return;
        };
        location.information.extend(texts.into_iter().map(|tree| {
            let lines = items(&tree).iter().filter_map(|item| reader.source.text_of(item));
            let text = lines.collect::<Vec<_>>().join("\n");
            (tree.clone(), text)
        }));
    }

    /// Keys of a document that say nothing about places.
    fn keys(&self, document: &Tree, reader: &mut Reader<'_, '_>) {
        for (key, value) in entries(document) {
            let word = reader.source.text_of(key).unwrap_or_default();
            let (what, instead) = match word.as_str() {
                "locationId" | "regionId" | "apiHost" | "blueprints" | "information" => continue,
                "basement" => {
                    reader.notes.changed(&key.span, "`basement`", "what is needed first is made first");
                    continue;
                }
                "prepare" => {
                    for item in items(value) {
                        let instead = "nodes without a public address dial the controller themselves; it must be in their reach";
                        reader.notes.lost(&item.span, "a beachhead", instead);
                    }
                    continue;
                }
                "defaults" | "parameters" | "actions" | "keys" | "links" | "buildPolisher" | "safeMode" => (
                    format!("`{word}` of a location"),
                    "it belongs into the first of several documents; plumbery does not read it here",
                ),
                _ => (format!("`{word}` of a location"), "plumbery does not know it either"),
            };
            reader.notes.lost(&key.span, what, instead);
        }
    }

    fn blueprint(
        &mut self,
        item: &Tree,
        id: (&String, &String),
        defaults: &Defaults,
        line: usize,
        texts: &mut Vec<Tree>,
        reader: &mut Reader<'_, '_>,
    ) {
        let Some((key, blueprint)) = entries(item).first() else {
            reader.notes.lost(
                &item.span,
                "a blueprint that is no mapping",
                "`- NAME: {domain: …, ethernet: …, nodes: …}`",
            );
            return;
        };
        for (other, _) in entries(item).iter().skip(1) {
            reader.notes.lost(
                &other.span,
                "a second blueprint in one item",
                "begin it with `- `; plumbery does not read it",
            );
        }
        let name = reader.source.text_of(key).unwrap_or_default();
        if reader.source.text_of(blueprint).is_some() {
            let instead = "a fleet comes up as a whole";
            reader.notes.lost(&key.span, format!("`{name}`, an alias of blueprints"), instead);
            return;
        }
        for (key, value) in entries(blueprint) {
            let word = reader.source.text_of(key).unwrap_or_default();
            match word.as_str() {
                "domain" | "ethernet" => reader.mapping(value, &format!("`{word}`")),
                "nodes" => {}
                "information" => texts.push(value.clone()),
                "balancers" => {
                    for balancer in items(value) {
                        let label = entries(balancer).first().and_then(|(key, _)| reader.source.text_of(key));
                        let what = format!("balancer `{}`", label.unwrap_or_default());
                        reader.notes.lost(
                            &balancer.span,
                            what,
                            "fleets have no balancers; open the nodes, or run one on a node",
                        );
                    }
                }
                "listeners" | "pool" => {
                    reader.notes.lost(
                        &key.span,
                        format!("`{word}` of a blueprint"),
                        "fleets have no balancers",
                    );
                }
                "multicloud" => {
                    reader.notes.lost(
                        &key.span,
                        "`multicloud`",
                        "a fleet is one plan; plumbery does not act on it either",
                    );
                }
                _ => reader.notes.lost(
                    &key.span,
                    format!("`{word}` of a blueprint"),
                    "plumbery does not know it either",
                ),
            }
        }
        let section = |below: &Option<Tree>, name: &str| {
            let mut laid = below.clone().unwrap_or_else(|| nothing(blueprint));
            if let Some(above) = get(blueprint, name) {
                lay(&mut laid, above);
            }
            laid
        };
        let (domain, ethernet) =
            (section(&defaults.domain, "domain"), section(&defaults.ethernet, "ethernet"));
        let Some(network) = self.network(&ethernet, key, line, blueprint, reader) else { return };
        let Some(domain) = self.domain(&domain, key, reader) else { return };
        let nodes = get(blueprint, "nodes").map(items).unwrap_or_default();
        let nodes: Vec<Node> = nodes.iter().filter_map(|item| Node::read(item, defaults, reader)).collect();
        self.put(Piece { id, line, key, domain, network, nodes }, reader);
    }

    /// Puts a network and its nodes where they belong: blueprints may share networks, and domains.
    fn put(&mut self, piece: Piece<'_>, reader: &mut Reader<'_, '_>) {
        let Piece { id, line, key, domain, network, nodes } = piece;
        let Some(at) = self.locations.iter().position(|location| location.id.1 == *id.1) else {
            let id = (id.0.clone(), id.1.clone());
            let (networks, information) = (Vec::new(), Vec::new());
            self.locations.push(Location { id, domain, networks, information, from: vec![line] });
            return self.put_network(self.locations.len() - 1, network, nodes);
        };
        let known = &mut self.locations[at].domain;
        if known.name.1 != domain.name.1 {
            let name = &known.name.1;
            let instead = format!(
                "a location has one domain, and its network is put into `{name}`; or keep it as a plan of its own"
            );
            reader.notes.lost(&key.span, format!("a second domain, `{}`", domain.name.1), instead);
        } else if known.service.is_none() {
            known.service = domain.service;
        }
        self.put_network(at, network, nodes);
    }

    fn put_network(&mut self, at: usize, network: Network, nodes: Vec<Node>) {
        let networks = &mut self.locations[at].networks;
        match networks.iter_mut().find(|known| known.name.1.eq_ignore_ascii_case(&network.name.1)) {
            Some(known) => {
                known.accept.extend(network.accept);
                known.nodes.extend(nodes);
            }
            None => networks.push(Network { nodes, ..network }),
        }
    }

    fn domain(&self, domain: &Tree, key: &Tree, reader: &mut Reader<'_, '_>) -> Option<Domain> {
        let Some(at) = get(domain, "name") else {
            let instead = "say the `name` of its `domain`; it is left out";
            reader.notes.lost(&key.span, "a blueprint without a network domain", instead);
            return None;
        };
        let name = label(at, "a domain", reader)?;
        let mut found =
            Domain { name, service: None, remark: Vec::new(), from: vec![reader.source.line_of(at)] };
        for (key, value) in entries(domain) {
            let word = reader.source.text_of(key).unwrap_or_default();
            let text = reader.source.text_of(value).unwrap_or_default();
            match word.as_str() {
                "name" => {}
                "service" => {
                    let service = reader.parameters.put_in(&text).to_ascii_lowercase();
                    if matches!(service.as_str(), "essentials" | "advanced") {
                        found.service = Some(service);
                    } else {
                        let instead = "`essentials` or `advanced`";
                        reader.notes.lost(&value.span, format!("service `{service}` of a domain"), instead);
                    }
                }
                "description" => {
                    found.remark.push(reader.parameters.put_in(&text));
                    reader.notes.changed(&key.span, "description of a domain", "a comment");
                }
                "ipv4" if text == "transient" => {
                    let instead =
                        "nodes without `internet` dial the controller themselves; it must be in their reach";
                    reader.notes.lost(&value.span, "public addresses while preparing only", instead);
                }
                "ipv4" => {
                    let instead = "every node with `internet` has an address, and no more are reserved";
                    reader.notes.changed(&key.span, "number of public addresses", instead);
                }
                _ => reader.notes.lost(
                    &key.span,
                    format!("`{word}` of a domain"),
                    "plumbery does not know it either",
                ),
            }
        }
        Some(found)
    }

    fn network(
        &self,
        ethernet: &Tree,
        key: &Tree,
        line: usize,
        blueprint: &Tree,
        reader: &mut Reader<'_, '_>,
    ) -> Option<Network> {
        let Some(at) = get(ethernet, "name") else {
            if get(blueprint, "nodes").is_some() {
                let instead = "say `name` and `subnet` of its `ethernet`; it is left out";
                reader.notes.lost(&key.span, "a blueprint without an Ethernet network", instead);
            } else {
                reader.notes.changed(
                    &key.span,
                    "a blueprint without network and nodes",
                    "nothing is made of it",
                );
            }
            return None;
        };
        let name = label(at, "a network", reader)?;
        let subnet = match get(ethernet, "subnet") {
            Some(tree) => subnet(tree, reader)?,
            None => {
                let instead = "say its `subnet`; it is left out";
                reader.notes.lost(&at.span, format!("network `{}` without a subnet", name.1), instead);
                return None;
            }
        };
        let mut found = Network {
            name,
            subnet,
            accept: get(ethernet, "accept").map(items).unwrap_or_default().to_vec(),
            accept_from: key_of(ethernet, "accept").map(|key| reader.source.line_of(key)),
            nodes: Vec::new(),
            remark: Vec::new(),
            // Comments of the blueprint are about its network: our plans have no blueprints.
            from: vec![reader.source.line_of(key), reader.source.line_of(at)],
        };
        found.from.retain(|at| *at != line);
        for (key, value) in entries(ethernet) {
            let word = reader.source.text_of(key).unwrap_or_default();
            match word.as_str() {
                "name" | "subnet" | "accept" => {}
                "description" => {
                    let text = reader.source.text_of(value).unwrap_or_default();
                    found.remark.push(reader.parameters.put_in(&text));
                    reader.notes.changed(&key.span, "description of a network", "a comment");
                }
                "reserved" => {
                    let instead = "the platform gives out addresses from the seventh up; keep others in a network of their own";
                    reader.notes.lost(&key.span, "reserved addresses", instead);
                }
                "destroy" => {
                    let instead = "`down` asks before it deletes anything; there is no lock";
                    reader.notes.lost(&key.span, "`destroy: never` of a network", instead);
                }
                _ => reader.notes.lost(
                    &key.span,
                    format!("`{word}` of a network"),
                    "plumbery does not know it either",
                ),
            }
        }
        Some(found)
    }
}

impl Places {
    /// Gives nodes the names our plans take: host names, each once in the fleet.
    pub(crate) fn name_nodes(&mut self, reader: &mut Reader<'_, '_>) {
        let mut taken: Vec<String> = Vec::new();
        for location in &mut self.locations {
            let id = location.id.1.clone();
            for network in &mut location.networks {
                network.nodes.retain_mut(|node| node.rename(&id, &mut taken, reader));
            }
        }
    }
}

impl Network {
    /// As our plan writes it; `accept` and `nodes` are for those who know the rest of the plan.
    pub(crate) fn entries(&self, accept: Vec<Out>, nodes: Vec<Entry>) -> Vec<Entry> {
        let mut first = Entry::new("name", Out::text(&self.name.0));
        first.from.clone_from(&self.from);
        first.remark.clone_from(&self.remark);
        let mut entries = vec![first, Entry::new("subnet", Out::text(&self.subnet))];
        if !accept.is_empty() {
            let mut accept = Entry::new("accept", Out::list(accept));
            accept.from.extend(self.accept_from);
            entries.push(accept);
        }
        entries.extend(nodes);
        entries
    }
}
