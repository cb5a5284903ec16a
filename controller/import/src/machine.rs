//! Settings of nodes: image, CPU, memory, disks, connections, and all that plumbery knows besides.

use fleet_plan::Tree;

use crate::{
    emit::{Entry, Out},
    note::Notes,
    parameter::Parameters,
    source::Source,
    tree::{entries, items},
};

/// Image that agents and tasks are made for.
pub(crate) const IMAGE: &str = "Debian 12";

/// What reading settings needs.
pub(crate) struct Reader<'a, 's> {
    pub(crate) source: &'s Source,
    pub(crate) parameters: &'a Parameters,
    pub(crate) notes: &'a mut Notes<'s>,
}

/// Names of networks as `glue` may have them.
pub(crate) struct Network<'a> {
    pub(crate) name: &'a str,
}

impl<'s> Reader<'_, 's> {
    /// Entries of a class or a node for its `settings`; those of `own` only, with values of `laid`, where lists of
    /// the class come before those of the node.
    pub(crate) fn settings(&mut self, own: &Tree, laid: &Tree, network: Option<&Network<'_>>) -> Vec<Entry> {
        let mut found = Vec::new();
        for (key, _) in entries(own) {
            let Some(word) = self.source.text_of(key) else { continue };
            let Some(value) = crate::tree::get(laid, &word) else { continue };
            // The same key twice: the last one counts.
            if found.iter().any(|(known, _)| *known == word) {
                continue;
            }
            let entry = self.setting(&word, key, value, network);
            found.push((word, entry));
        }
        let order = ["description", "image", "cpu", "memoryGb", "disks", "monitoring", "internet"];
        let mut entries: Vec<Entry> = found.into_iter().filter_map(|(_, entry)| entry).collect();
        entries.sort_by_key(|entry| order.iter().position(|key| *key == entry.key));
        entries
    }

    fn setting(
        &mut self,
        word: &str,
        key: &Tree,
        value: &Tree,
        network: Option<&Network<'_>>,
    ) -> Option<Entry> {
        let line = self.source.line_of(key);
        let named = |name: &str, out: Out| Some(Entry::new(name, out).from(line));
        match word {
            // Read with the rest of the plan.
            "information" | "cloud-config" => None,
            "default" => {
                self.notes.changed(
                    &key.span,
                    "`default` within a class",
                    "plumbery has no classes of classes",
                );
                None
            }
            "description" => named("description", self.plain(value, "a description")?),
            "appliance" => named("image", self.image(value)?),
            "cpu" => named("cpu", self.cpu(value)?),
            "memory" => named("memoryGb", self.number(value, 1..=256, "`memory`")?),
            "disks" => {
                let disks = self.disks(value);
                if disks.is_empty() { None } else { named("disks", Out::list(disks)) }
            }
            "glue" => {
                let open = self.glue(value, network)?;
                named("internet", Out::list(open))
            }
            "monitoring" => {
                let written = self.source.text_of(value).unwrap_or_default();
                let plan = self.parameters.put_in(&written).to_ascii_lowercase();
                if !matches!(plan.as_str(), "essentials" | "advanced") {
                    self.notes.lost(
                        &value.span,
                        format!("monitoring `{plan}`"),
                        "`essentials`, `advanced` or `none`",
                    );
                    return None;
                }
                named("monitoring", Out::text(if written.contains("{{") { written } else { plan }))
            }
            _ => {
                let (what, instead) = match word {
                    "backup" => {
                        ("backup by the platform", "order it there, or back up with tasks of your own")
                    }
                    "prepare" => {
                        self.prepare(value);
                        return None;
                    }
                    "windows" => ("Windows", "there is no agent for Windows"),
                    "running" => {
                        ("`running: always`", "`down` asks before it stops anything; there is no lock")
                    }
                    "destroy" => {
                        ("`destroy: never`", "`down` asks before it deletes anything; there is no lock")
                    }
                    "balancers" | "pool" => ("load balancing", "fleets have no balancers"),
                    _ => {
                        self.notes.lost(
                            &key.span,
                            format!("`{word}` of a node"),
                            "plumbery does not know it either",
                        );
                        return None;
                    }
                };
                self.notes.lost(&key.span, what, instead);
                None
            }
        }
    }

    /// Tells of what should be a mapping and is none; nothing of it is read.
    pub(crate) fn mapping(&mut self, tree: &Tree, what: &str) {
        if !matches!(tree.value, fleet_plan::Value::Map(_) | fleet_plan::Value::Null) {
            self.notes.lost(
                &tree.span,
                format!("{what} that is no mapping"),
                "plumbery cannot read it either",
            );
        }
    }

    /// Text in which parameters may stand, and nothing else.
    fn plain(&mut self, tree: &Tree, what: &str) -> Option<Out> {
        let text = self.own_text(tree, what)?;
        Some(Out::text(text))
    }

    /// Text with the names our parameters have; `None` if it refers to anything else.
    pub(crate) fn own_text(&mut self, tree: &Tree, what: &str) -> Option<String> {
        let Some(text) = self.source.text_of(tree) else {
            self.notes.lost(&tree.span, format!("{what} that is no text"), "write text");
            return None;
        };
        match only_parameters(&text, self.parameters) {
            Some(text) => Some(text),
            None => {
                self.notes.lost(
                    &tree.span,
                    format!("{what} that refers to nodes"),
                    "only parameters may stand there",
                );
                None
            }
        }
    }

    fn image(&mut self, tree: &Tree) -> Option<Out> {
        let written = self.own_text(tree, "an appliance")?;
        let name = self.parameters.put_in(&written).trim().to_owned();
        let lower = name.to_ascii_lowercase();
        let starts = |words: &[&str]| words.iter().any(|word| lower.starts_with(word));
        if starts(&["win", "windows"]) {
            self.notes.lost(&tree.span, format!("appliance `{name}`"), "there is no agent for Windows");
        } else if starts(&["debian 12", "debian-12"]) || lower.is_empty() {
            return Some(Out::text(if lower.is_empty() { IMAGE.to_owned() } else { written }));
        } else if starts(&["ubuntu", "debian"]) {
            let instead = format!(
                "image `{IMAGE}`, which agents and tasks are made for; its packages may have other names"
            );
            self.notes.changed(&tree.span, format!("appliance `{name}`"), instead);
            return Some(Out::text(IMAGE));
        } else if starts(&["centos", "redhat", "red hat", "rhel", "sles", "suse", "oracle", "fedora"]) {
            let instead = format!(
                "image `{IMAGE}`, which agents and tasks are made for; look at every package and service"
            );
            self.notes.lost(&tree.span, format!("appliance `{name}`"), instead);
            return Some(Out::text(IMAGE));
        } else {
            let what = format!("appliance `{name}`");
            self.notes.changed(
                &tree.span,
                what,
                "kept; agents need Linux with systemd, and tasks Debian's packages",
            );
        }
        Some(Out::text(written))
    }

    /// `n [cores] [speed]`.
    fn cpu(&mut self, tree: &Tree) -> Option<Out> {
        let written = self.own_text(tree, "`cpu`")?;
        let words = words(&written);
        let value = |word: &String| self.parameters.put_in(word).trim().to_owned();
        let values: Vec<String> = words.iter().map(value).collect();
        // A parameter may hold all of it.
        let values: Vec<&str> = values.iter().flat_map(|value| value.split_whitespace()).collect();
        let whole = values.len() == words.len();
        let count: Option<u32> = values.first().and_then(|word| word.parse().ok());
        let cores: u32 = values.get(1).map_or(Some(1), |word| word.parse().ok()).unwrap_or(0);
        let speed = values.get(2).copied().unwrap_or("standard").to_ascii_lowercase();
        let fits =
            count.is_some_and(|count| (1..=32).contains(&count) && cores > 0 && count.is_multiple_of(cores));
        if !fits || !(1..=2).contains(&cores) || !["standard", "highperformance"].contains(&speed.as_str()) {
            let instead =
                "`{count: 2, coresPerSocket: 1, speed: standard}`; nodes have one CPU unless told otherwise";
            self.notes.lost(&tree.span, format!("cpu `{written}`"), instead);
            return None;
        }
        let as_written = |index: usize, value: &str| {
            Out::number(if whole { words.get(index).map_or(value, String::as_str) } else { value })
        };
        let count = as_written(0, values.first().copied().unwrap_or("1"));
        if cores == 1 && speed == "standard" && words.len() < 2 {
            return Some(count);
        }
        let mut entries = vec![Entry::new("count", count)];
        if let Some(word) = values.get(1) {
            entries.push(Entry::new("coresPerSocket", as_written(1, word)));
        }
        if values.len() > 2 {
            entries.push(Entry::new("speed", as_written(2, &speed)));
        }
        Some(Out::Map(entries).inline())
    }

    pub(crate) fn number(
        &mut self,
        tree: &Tree,
        range: std::ops::RangeInclusive<u32>,
        what: &str,
    ) -> Option<Out> {
        let written = self.own_text(tree, what)?;
        let value = self.parameters.put_in(&written);
        match value.trim().parse::<u32>() {
            Ok(number) if range.contains(&number) => Some(Out::number(written.trim())),
            _ => {
                let instead = format!("{} to {}", range.start(), range.end());
                self.notes.lost(&tree.span, format!("{what} `{value}`"), instead);
                None
            }
        }
    }

    /// `id size [speed]`.
    fn disks(&mut self, tree: &Tree) -> Vec<Out> {
        // By id: where, size and speed.
        let mut found: Vec<(u32, String, Option<String>)> = Vec::new();
        for item in items(tree) {
            let Some(written) = self.own_text(item, "a disk") else { continue };
            let parts: Vec<String> = match words(&written) {
                // One parameter that holds it all.
                parts if parts.len() == 1 => {
                    self.parameters.put_in(&written).split_whitespace().map(str::to_owned).collect()
                }
                parts => parts,
            };
            let value =
                |index: usize| parts.get(index).map(|word| self.parameters.put_in(word).to_ascii_lowercase());
            let id = value(0).and_then(|word| word.parse::<u32>().ok());
            let size =
                value(1).and_then(|word| word.parse::<u32>().ok()).filter(|size| (10..=1000).contains(size));
            let speed = value(2).unwrap_or_else(|| "standard".to_owned());
            let known = ["standard", "highperformance", "economy"].contains(&speed.as_str());
            let (Some(id), Some(_), true) = (id, size, known) else {
                let instead = "`{sizeGb: 100, speed: standard}`, 10 to 1000 GB";
                self.notes.lost(&item.span, format!("disk `{written}`"), instead);
                continue;
            };
            if id == 0 {
                let instead = "an added disk, which the root volume takes in";
                self.notes.lost(&item.span, "a size for the system disk, which is the image's", instead);
                continue;
            }
            let speed =
                parts.get(2).map(|word| if word.contains("{{") { word.clone() } else { speed.clone() });
            found.retain(|(known, ..)| *known != id);
            found.push((id, parts[1].clone(), speed));
        }
        found.sort_by_key(|(id, ..)| *id);
        if found.iter().zip(1..).any(|((id, ..), index)| *id != index) {
            self.notes.changed(&tree.span, "numbers of disks with gaps", "disks are numbered in their order");
        }
        let disk = |(_, size, speed): (u32, String, Option<String>)| {
            let mut entries = vec![Entry::new("sizeGb", Out::number(&size))];
            entries.extend(speed.map(|speed| Entry::new("speed", Out::text(speed))));
            Out::Map(entries).inline()
        };
        found.into_iter().map(disk).collect()
    }

    /// What is open to the Internet; other lines of `glue` are noted.
    fn glue(&mut self, tree: &Tree, network: Option<&Network<'_>>) -> Option<Vec<Out>> {
        let mut open: Option<Vec<String>> = None;
        for item in items(tree) {
            let Some(written) = self.source.text_of(item) else {
                self.notes.lost(&item.span, "`glue` that is no text", "`internet: [icmp, 22]`");
                continue;
            };
            let line = self.parameters.put_in(&written);
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if first.eq_ignore_ascii_case("internet") {
                if written.contains("{{") {
                    self.notes.changed(
                        &item.span,
                        format!("`{written}`"),
                        format!("`{line}`: the value is fixed"),
                    );
                }
                let open = open.get_or_insert_default();
                let mut words: Vec<&str> = words.collect();
                if words.is_empty() {
                    words.push("any");
                }
                for word in words {
                    match opening(word) {
                        Some(word) if open.contains(&word) => {}
                        Some(word) => open.push(word),
                        None => {
                            let what = format!("opening `{word}`");
                            self.notes.lost(&item.span, what, "`icmp`, `22`, `tcp:8000-8100` or `udp:53`");
                        }
                    }
                }
                continue;
            }
            let primary =
                first.eq_ignore_ascii_case("primary") || network.is_some_and(|network| network.name == first);
            if primary || words.clone().next().is_none() && first.is_empty() {
                let instead = "the platform gives nodes their addresses; refer to them: `{{ NAME.private }}`";
                self.notes.lost(&item.span, format!("fixed address `{line}`"), instead);
            } else {
                let instead = "nodes have one network; `accept` lets others in";
                self.notes.lost(&item.span, format!("second network `{line}`"), instead);
            }
        }
        open.map(|open| open.iter().map(|word| Out::number(word)).collect())
    }

    /// Scripts run and files put over SSH.
    fn prepare(&mut self, tree: &Tree) {
        for item in items(tree) {
            let line = self.source.text_of(item).unwrap_or_default();
            let mut words = line.split_whitespace();
            let (word, file) = (words.next().unwrap_or_default(), words.next().unwrap_or("FILE"));
            let instead = match word {
                "put" | "put_raw" => {
                    let to = words.next().map_or_else(|| format!("/root/{file}"), str::to_owned);
                    format!("`file: {{source: {file}, path: {to}}}`")
                }
                "run" | "run_raw" => {
                    format!(
                        "`file: {{source: {file}, path: /usr/local/sbin/…, mode: \"0755\"}}`, then a `command` with `creates` or `unless`"
                    )
                }
                "echo" => "agents report what they do".to_owned(),
                _ => "tasks say what a node is, `command` is the last resort".to_owned(),
            };
            self.notes.lost(&item.span, format!("prepare `{line}`"), instead);
        }
    }
}

/// Words apart; a form with spaces inside is part of one.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for part in crate::form::parts(text) {
        match part {
            crate::form::Part::Form { whole, .. } => word.push_str(whole),
            crate::form::Part::Text(text) => {
                for c in text.chars() {
                    if !c.is_whitespace() {
                        word.push(c);
                    } else if !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                }
            }
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The text with our names of parameters; `None` if there is anything else in braces.
pub(crate) fn only_parameters(text: &str, parameters: &Parameters) -> Option<String> {
    let mut out = String::new();
    for part in crate::form::parts(text) {
        match part {
            crate::form::Part::Text(text) if text.contains("{{") => return None,
            crate::form::Part::Text(text) => out.push_str(text),
            crate::form::Part::Form { inner, .. } => {
                let name = parameters.name(inner.strip_prefix("parameter.")?)?;
                out.push_str(&format!("{{{{ parameter.{name} }}}}"));
            }
        }
    }
    Some(out)
}

/// An opening as our plans write it.
fn opening(word: &str) -> Option<String> {
    let word = word.to_ascii_lowercase();
    let (protocol, ports) = match word.split_once(':') {
        _ if word == "icmp" => return Some(word),
        _ if word == "any" => ("tcp", "any"),
        Some((protocol @ ("tcp" | "udp"), ports)) => (protocol, ports),
        Some(_) => return None,
        None if word == "tcp" || word == "udp" => (word.as_str(), "any"),
        None => ("tcp", word.as_str()),
    };
    let ports = if ports == "any" { "1..65535" } else { ports };
    let (first, last) = ports.split_once("..").or_else(|| ports.split_once('-')).unwrap_or((ports, ports));
    let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
    if first == 0 || last < first {
        return None;
    }
    Some(match (protocol, first == last) {
        ("tcp", true) => first.to_string(),
        (_, true) => format!("{protocol}:{first}"),
        (_, false) => format!("{protocol}:{first}-{last}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings() {
        let check =
            |word: &str, expected: Option<&str>| assert_eq!(opening(word).as_deref(), expected, "{word}");
        check("icmp", Some("icmp"));
        check("ICMP", Some("icmp"));
        check("22", Some("22"));
        check("tcp:80", Some("80"));
        check("udp:137..138", Some("udp:137-138"));
        check("udp:53", Some("udp:53"));
        check("any", Some("tcp:1-65535"));
        check("udp:any", Some("udp:1-65535"));
        check("esp:1", None);
        check("0", None);
        check("9..8", None);
        check("http", None);
    }

    #[test]
    fn forms_are_part_of_words() {
        assert_eq!(words("1 {{ parameter.d }}  standard"), ["1", "{{ parameter.d }}", "standard"]);
        assert_eq!(words(" a-{{ x }}b c"), ["a-{{ x }}b", "c"]);
        assert_eq!(words(""), [""; 0]);
    }
}
