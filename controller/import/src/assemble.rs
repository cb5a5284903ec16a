//! All parts together: texts, tasks in their layers, sections in their order.

use std::ops::Range;

use fleet_plan::{BUILT_IN_TASKS, LONGEST_TASK_NAME, TASK_KINDS, Tree};

use crate::{
    cloud::{self, Task, Work},
    directory::Directory,
    emit::{Entry, Item, Out},
    form::Scope,
    machine::{IMAGE, Network as OwnNetwork, Reader},
    node::Node,
    parameter::word,
    place::{Api, Defaults, Location, Network, Places, label_of},
    tree::{entries, get, items, key as key_of},
};

/// A node with what was made of it.
struct Made<'p> {
    location: usize,
    network: usize,
    node: &'p Node,
    information: String,
    tasks: Vec<Item>,
}

/// Sections `information`, `defaults`, `classes` and `locations`.
pub(crate) struct Sections {
    pub(crate) information: Option<Entry>,
    pub(crate) defaults: Option<Entry>,
    pub(crate) classes: Option<Entry>,
    pub(crate) locations: Entry,
}

/// Puts together what was read.
pub(crate) fn assemble(
    information: Option<&Tree>,
    defaults: &Defaults,
    places: &Places,
    reader: &mut Reader<'_, '_>,
) -> Sections {
    let mut directory = Directory::default();
    for location in &places.locations {
        for node in location.networks.iter().flat_map(|network| &network.nodes) {
            for (theirs, ours) in &node.names {
                directory.add(&location.id.1, theirs, ours, node.public);
            }
        }
    }
    let (mut made, works) = nodes(places, &directory, reader);
    let lists = tasks(&made, works, reader);
    let mut secure = false;
    for (made, list) in made.iter_mut().zip(lists) {
        if list.iter().any(|task| task.kind == "rethinkdb") {
            secure = true;
            let said = secured(&made.information);
            if said != made.information {
                let instead = "https: the application and the console of the cluster speak TLS";
                let at = key_of(&made.node.laid, "information").unwrap_or(&made.node.key);
                reader.notes.changed(&at.span, "http addresses of the application and the console", instead);
                made.information = said;
            }
            console(made.node, reader);
        }
        made.tasks = named(list);
    }
    let common = split_common(&mut made);
    let mut below = vec![];
    if let Some(first) = made.iter().find(|made| get(&made.node.laid, "appliance").is_none()) {
        reader.notes.changed(&first.node.key.span, "a node without an appliance", format!("image `{IMAGE}`"));
        below.push(Entry::new("image", Out::text(IMAGE)));
    }
    if !common.is_empty() {
        const ORDER: &str =
            "What the agent of every node does, in this order; those of classes and nodes come after.";
        let mut tasks = Entry::new("tasks", Out::List(common)).remark(ORDER);
        tasks.from.extend(defaults.tasks_from);
        below.push(tasks);
    }
    let classes = classes(defaults, &mut made, reader);
    let locations = places.locations.iter().enumerate().map(|(index, location)| {
        let networks = location.networks.iter().enumerate().map(|(at, network)| {
            let nodes = made.iter().filter(|made| (made.location, made.network) == (index, at));
            let nodes: Vec<Item> = nodes.map(|made| node_item(made, network, reader)).collect();
            let nodes = if nodes.is_empty() { vec![] } else { vec![Entry::new("nodes", Out::List(nodes))] };
            let accept = accept(network, location, places, reader);
            Item { value: Out::Map(network.entries(accept, nodes)), from: Vec::new() }
        });
        let networks: Vec<Item> = networks.collect();
        let mut domain = vec![Entry::new("name", Out::text(&location.domain.name.0))];
        domain
            .extend(location.domain.service.iter().map(|service| Entry::new("service", Out::text(service))));
        let mut domain = Entry::new("domain", Out::Map(domain).inline());
        domain.from.clone_from(&location.domain.from);
        domain.remark.clone_from(&location.domain.remark);
        let mut id = Entry::new("id", Out::text(&location.id.0));
        id.from.clone_from(&location.from);
        let networks = Entry::new("networks", Out::List(networks));
        Item { value: Out::Map(vec![id, domain, networks]), from: Vec::new() }
    });
    let locations: Vec<Item> = locations.collect();
    let locations = if locations.is_empty() { Out::list([]) } else { Out::List(locations) };
    let section =
        |name: &str, entries: Vec<Entry>| (!entries.is_empty()).then(|| Entry::new(name, Out::Map(entries)));
    let mut information = whole_information(information, places, &directory, reader);
    if let Some(Entry { value: Out::Text(text), .. }) = information.as_mut().filter(|_| secure) {
        *text = secured(text);
    }
    Sections {
        information,
        defaults: section("defaults", below),
        classes: section("classes", classes),
        locations: Entry::new("locations", locations),
    }
}

/// Every node with its text, and what its cloud-config makes of it.
fn nodes<'p>(
    places: &'p Places,
    directory: &Directory,
    reader: &mut Reader<'_, '_>,
) -> (Vec<Made<'p>>, Vec<Work>) {
    let (mut made, mut works) = (Vec::new(), Vec::new());
    for (index, location) in places.locations.iter().enumerate() {
        for (at, network) in location.networks.iter().enumerate() {
            for node in &network.nodes {
                let parameters = reader.parameters;
                let scope = Scope {
                    parameters,
                    directory,
                    location: Some((&location.id.1, &location.id.0)),
                    node: Some(node.public),
                };
                let information = get(&node.laid, "information").map(|tree| text(tree, scope, reader));
                let names: Vec<String> = node.names.iter().map(|(theirs, _)| theirs.clone()).collect();
                works.push(match entries(&node.cloud_config) {
                    [] => Work::default(),
                    _ => cloud::translate(&node.cloud_config, scope, &names, reader),
                });
                let information = information.unwrap_or_default();
                made.push(Made { location: index, network: at, node, information, tasks: Vec::new() });
            }
        }
    }
    (made, works)
}

/// A text for people; what cannot be said stands in parentheses.
fn text(tree: &Tree, scope: Scope<'_>, reader: &mut Reader<'_, '_>) -> String {
    let lines: Vec<String> = items(tree).iter().filter_map(|line| reader.source.text_of(line)).collect();
    let said = scope.translate(lines.join("\n").trim_end());
    for gap in &said.gaps {
        let place = items(tree)
            .iter()
            .find(|line| reader.source.text_of(line).is_some_and(|line| line.contains(&gap.whole)));
        let place = reader.source.locate(place.unwrap_or(tree), &gap.whole);
        reader.notes.lost(&place, format!("`{}` in a text for people", gap.whole), gap.instead);
    }
    if said.text.is_empty() { said.text } else { said.text + "\n" }
}

/// Tells that our plans open the console, which asks for no password, to the operator alone unless told otherwise.
fn console(node: &Node, reader: &mut Reader<'_, '_>) {
    for line in get(&node.laid, "glue").map(items).unwrap_or_default() {
        let text = reader.source.text_of(line).unwrap_or_default();
        let text = reader.parameters.put_in(&text);
        let mut words = text.split_whitespace();
        let internet = words.next().is_some_and(|word| word.eq_ignore_ascii_case("internet"));
        if internet && words.any(|word| word == "8080" || word == "tcp:8080") {
            let instead = "open to the operator alone; `{port: 8080, from: [any]}` if everybody is meant";
            reader.notes.changed(&line.span, "RethinkDB's console open to everybody", instead);
        }
    }
}

/// The application and the console of the cluster speak TLS.
fn secured(text: &str) -> String {
    let mut out = String::new();
    let mut pieces = text.split("http://").peekable();
    while let Some(piece) = pieces.next() {
        out.push_str(piece);
        let Some(next) = pieces.peek() else { break };
        let port = next.strip_prefix("{{").and_then(|rest| rest.split_once("}}")).map(|(_, rest)| rest);
        let ours = port.is_some_and(|rest| rest.starts_with(":5000") || rest.starts_with(":8080"));
        out.push_str(if ours { "https://" } else { "http://" });
    }
    out
}

/// The fleet's text: that of the plan, then those of locations and blueprints.
fn whole_information(
    head: Option<&Tree>,
    places: &Places,
    directory: &Directory,
    reader: &mut Reader<'_, '_>,
) -> Option<Entry> {
    let parameters = reader.parameters;
    let mut whole = String::new();
    let mut from = Vec::new();
    if let Some(tree) = head {
        whole.push_str(&text(tree, Scope { parameters, directory, location: None, node: None }, reader));
        from.push(reader.source.line_of(tree));
    }
    for location in &places.locations {
        for (tree, _) in &location.information {
            let here = Some((location.id.1.as_str(), location.id.0.as_str()));
            let more = text(tree, Scope { parameters, directory, location: here, node: None }, reader);
            if !whole.contains(&more) {
                reader.notes.changed(
                    &tree.span,
                    "text about a location or a blueprint",
                    "in the fleet's `information`",
                );
                whole.push_str(&more);
            }
        }
    }
    let mut entry = Entry::new("information", Out::text(whole.clone()));
    entry.from = from;
    (!whole.trim().is_empty()).then_some(entry)
}

/// Tasks of every node, with those that hang together across nodes.
fn tasks(made: &[Made<'_>], works: Vec<Work>, reader: &mut Reader<'_, '_>) -> Vec<Vec<Task>> {
    let ours = |made: &Made<'_>| made.node.names.iter().map(|(_, ours)| ours.clone()).collect::<Vec<_>>();
    let members: Vec<(Vec<String>, &Work)> = made
        .iter()
        .zip(&works)
        .filter(|(_, work)| work.member.is_some())
        .map(|(made, work)| (ours(made), work))
        .collect();
    let is_member = |name: &String| members.iter().any(|(names, _)| names.contains(name));
    let joined = members.iter().filter_map(|(_, work)| work.member.as_ref()?.joins.clone()).find(is_member);
    let seed = joined.clone().or_else(|| members.first().and_then(|(names, _)| names.first().cloned()));
    // A server that joins nobody is a cluster of its own, unless others join it.
    let belongs = |names: &[String], work: &Work| {
        work.member.as_ref().is_some_and(|member| {
            let joins = member.joins.as_ref().is_some_and(&is_member);
            joins || (names.len() == 1 && seed.as_ref() == names.first())
        })
    };
    let count: usize =
        members.iter().filter(|(names, work)| belongs(names, work)).map(|(names, _)| names.len()).sum();
    let setup: Option<Range<usize>> = works.iter().find_map(|work| work.setup.clone());
    let mut lists = Vec::new();
    for (made, work) in made.iter().zip(&works) {
        let names = ours(made);
        let mut list = work.tasks();
        match (&work.member, &seed) {
            (Some(member), Some(seed)) if belongs(&names, work) => {
                let mut settings = vec![Entry::new("seed", Out::text(seed))];
                settings.extend(member.cache_mb.iter().map(|size| Entry::new("cacheMb", Out::number(size))));
                list.push(Task::new("rethinkdb", settings));
            }
            (Some(member), _) => {
                let instead = "`rethinkdb` makes one cluster of all servers: say `rethinkdb: {seed: NODE}`, or leave it out";
                reader.notes.lost(
                    &member.at,
                    format!("a RethinkDB server of its own on `{}`", made.node.name),
                    instead,
                );
            }
            (None, _) => {}
        }
        let serves = list.iter().any(|task| task.kind == "rethinkdb");
        if let Some(at) =
            setup.as_ref().filter(|_| serves && seed.as_ref() == names.first() && names.len() == 1)
        {
            let copies = if count >= 3 { 3 } else { 1 };
            let settings = vec![
                Entry::new("name", Out::text("todo")),
                Entry::new("table", Out::text("tasks")),
                Entry::new("replicas", Out::plain(copies)),
            ];
            reader.notes.changed(at, "a database with one copy of each row", format!("{copies} of each"));
            list.push(Task::new("database", settings));
        }
        if let Some(at) = &work.todo {
            if serves {
                let settings = [("port", "5000"), ("database", "todo"), ("table", "tasks")];
                let settings = settings.map(|(key, value)| Entry::new(key, Out::number(value)));
                list.push(Task::new("todo", settings.to_vec()));
            } else {
                let instead = "`todo` works on the node's own server: give the node `rethinkdb` too";
                reader.notes.lost(at, format!("the todo application on `{}`", made.node.name), instead);
            }
        }
        lists.push(list);
    }
    if let (Some(at), None) = (&setup, &seed) {
        reader.notes.lost(at, "the application's database", "`database` belongs to the seed of a cluster");
    }
    lists
}

/// Tasks as they are written, each with a name of its own on the node.
fn named(tasks: Vec<Task>) -> Vec<Item> {
    let mut taken: Vec<String> = Vec::new();
    let several = |kind: &str| tasks.iter().filter(|task| task.kind == kind).count() > 1;
    let crowded: Vec<bool> = tasks.iter().map(|task| several(task.kind)).collect();
    let mut out = Vec::new();
    for (task, crowded) in tasks.into_iter().zip(crowded) {
        let mut name = if crowded { slug(&task.called) } else { task.kind.to_owned() };
        // Another layer may bring more of the kind; only the kind alone goes without a name.
        if taken.contains(&name)
            || BUILT_IN_TASKS.contains(&name.as_str())
            || (name != task.kind && TASK_KINDS.contains(&name.as_str()))
        {
            let stem = format!("{}-{name}", task.kind);
            let stem = &stem[..stem.len().min(LONGEST_TASK_NAME - 5)];
            name = stem.to_owned();
            let mut number = 2;
            while taken.contains(&name) {
                name = format!("{stem}-{number}");
                number += 1;
            }
        }
        let mut entries = Vec::new();
        if name != task.kind {
            entries.push(Entry::new("name", Out::text(&name)));
        }
        entries.push(Entry::new(task.kind, Out::Map(task.settings).inline()));
        taken.push(name);
        out.push(Item { value: Out::Map(entries), from: task.from });
    }
    out
}

/// A path, a unit or a program as the name of a task.
fn slug(text: &str) -> String {
    let text = text.strip_suffix(".service").unwrap_or(text);
    let words: Vec<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '.')
        .filter(|word| !word.is_empty())
        .collect();
    let mut name = words.join("-").trim_matches('.').to_owned();
    name.truncate(LONGEST_TASK_NAME - 10);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        name.insert_str(0, "task-");
    }
    name
}

/// Takes off the tasks all nodes begin with, if they are of several kinds at all.
fn split_common(made: &mut [Made<'_>]) -> Vec<Item> {
    let mut owners: Vec<Option<&String>> = Vec::new();
    for one in made.iter() {
        let owner = one.node.class.as_ref();
        if owner.is_none() || !owners.contains(&owner) {
            owners.push(owner);
        }
    }
    if owners.len() < 2 {
        return Vec::new();
    }
    take_common(made.iter_mut().map(|made| &mut made.tasks).collect())
}

/// Takes off what all lists begin with.
fn take_common(mut lists: Vec<&mut Vec<Item>>) -> Vec<Item> {
    let Some((first, rest)) = lists.split_first() else { return Vec::new() };
    let length =
        (0..first.len()).take_while(|at| rest.iter().all(|list| list.get(*at) == first.get(*at))).count();
    let mut common = Vec::new();
    for list in &mut lists {
        common = list.drain(..length).collect();
    }
    common
}

/// Classes that nodes are of, in the order of the plan.
fn classes(defaults: &Defaults, made: &mut [Made<'_>], reader: &mut Reader<'_, '_>) -> Vec<Entry> {
    let mut known: Vec<(&String, &(Tree, Tree))> = defaults.classes.iter().collect();
    known.sort_by_key(|(_, (key, _))| key.span.start);
    let mut found = Vec::new();
    for (name, (key, settings)) in known {
        let mut nodes: Vec<&mut Made<'_>> =
            made.iter_mut().filter(|made| made.node.class.as_ref() == Some(name)).collect();
        if nodes.is_empty() {
            reader.notes.changed(&key.span, format!("class `{name}`, of which there is no node"), "left out");
            continue;
        }
        let mut entries = reader.settings(settings, settings, None);
        // The same text for all of them is the class's, and no node's any more.
        let said = nodes[0].information.clone();
        if !said.is_empty() && nodes.iter().all(|made| made.information == said) {
            entries.push(informed(said, settings, reader));
            nodes.iter_mut().for_each(|made| made.information.clear());
        }
        let tasks = take_common(nodes.into_iter().map(|made| &mut made.tasks).collect());
        if !tasks.is_empty() {
            let mut tasks = Entry::new("tasks", Out::List(tasks));
            tasks.from.extend(key_of(settings, "cloud-config").map(|key| reader.source.line_of(key)));
            entries.push(tasks);
        }
        found.push(Entry::new(class_name(name), Out::Map(entries)).from(reader.source.line_of(key)));
    }
    found
}

/// A text for people, with the comments of where it was.
fn informed(text: String, settings: &Tree, reader: &Reader<'_, '_>) -> Entry {
    let mut entry = Entry::new("information", Out::text(text));
    entry.from.extend(key_of(settings, "information").map(|key| reader.source.line_of(key)));
    entry
}

fn class_name(name: &str) -> String {
    word(name, 'c', "-_")
}

fn node_item(made: &Made<'_>, network: &Network, reader: &mut Reader<'_, '_>) -> Item {
    let node = made.node;
    let mut entries = vec![Entry::new("name", Out::text(&node.name))];
    entries.extend(node.class.iter().map(|class| Entry::new("class", Out::text(class_name(class)))));
    let own = OwnNetwork { name: &network.name.1 };
    entries.extend(reader.settings(&node.own, &node.laid, Some(&own)));
    if !made.information.is_empty() {
        entries.push(informed(made.information.clone(), &node.own, reader));
    }
    if !made.tasks.is_empty() {
        let mut tasks = Entry::new("tasks", Out::List(made.tasks.clone()));
        tasks.from.extend(node.tasks_from);
        entries.push(tasks);
    }
    let short = entries.iter().all(|entry| matches!(entry.key.as_str(), "name" | "class"));
    let map = Out::Map(entries);
    Item { value: if short { map.inline() } else { map }, from: vec![reader.source.line_of(&node.key)] }
}

/// Networks that are let in, by where they are.
fn accept(network: &Network, location: &Location, places: &Places, reader: &mut Reader<'_, '_>) -> Vec<Out> {
    let mut found: Vec<String> = Vec::new();
    for item in &network.accept {
        let Some(own) = reader.own_text(item, "an accepted network") else { continue };
        let value = reader.parameters.put_in(&own);
        let steps: Vec<&str> = value.split("::").collect();
        let (at, name) = match steps.as_slice() {
            [name] => (location.id.1.as_str(), *name),
            [at, name] | [_, at, name] => (*at, *name),
            _ => ("", ""),
        };
        let name = label_of(name);
        let there = places.locations.iter().find(|location| location.id.1 == at);
        let that = there.and_then(|there| {
            there.networks.iter().find(|network| network.name.1 == name).map(|network| (there, network))
        });
        let Some((there, that)) = that else {
            let instead = "left out: the plan has no such network, and plumbery skips it";
            reader.notes.changed(&item.span, format!("accepted network `{value}`"), instead);
            continue;
        };
        if std::ptr::eq(that, network) {
            let instead = "left out: nodes of one network reach each other anyway";
            reader.notes.changed(&item.span, "a network that accepts itself", instead);
            continue;
        }
        let reference = format!("{}::{}", there.id.0, that.name.0);
        if !found.contains(&reference) {
            found.push(reference);
        }
    }
    found.into_iter().map(Out::Text).collect()
}

/// `cloud` for what the locations say; the local cloud if they say nothing.
pub(crate) fn cloud(api: Option<&Api>) -> Entry {
    let inner = match api {
        None => return Entry::new("cloud", Out::text("local")),
        Some(Api::Region(region)) => Entry::new("region", Out::text(region)),
        Some(Api::Endpoint(url)) => Entry::new("endpoint", Out::text(url)),
    };
    let mcp = Entry::new("mcp", Out::Map(vec![inner]));
    Entry::new("cloud", Out::Map(vec![mcp]).inline())
}

/// Name of the first network domain.
pub(crate) fn first_domain(places: &Places) -> Option<&str> {
    places.locations.first().map(|location| location.domain.name.1.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        let check = |text: &str, expected: &str| assert_eq!(slug(text), expected);
        check("/etc/nginx/conf.d/site.conf", "etc-nginx-conf.d-site.conf");
        check("nginx.service", "nginx");
        check("…", "task-");
    }

    #[test]
    fn addresses_of_ours_are_secured() {
        let check = |text: &str, expected: &str| assert_eq!(secured(text), expected);
        check("a http://{{ node.public }}:5000/ b", "a https://{{ node.public }}:5000/ b");
        check(
            "http://{{ x.public }}:8080, http://{{ x.public }}:80",
            "https://{{ x.public }}:8080, http://{{ x.public }}:80",
        );
        check("http://example.org:5000", "http://example.org:5000");
    }

    #[test]
    fn common_tasks_are_taken_off() {
        let list = |words: &str| -> Vec<Item> {
            words.chars().map(|c| Item { value: Out::text(c.to_string()), from: Vec::new() }).collect()
        };
        let (mut a, mut b) = (list("abc"), list("abd"));
        assert_eq!(take_common(vec![&mut a, &mut b]), list("ab"));
        assert_eq!((a, b), (list("c"), list("d")));
    }
}
