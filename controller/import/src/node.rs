//! Nodes as blueprints list them: their class, their settings, their names.

use fleet_plan::{Tree, Value};

use crate::{
    machine::Reader,
    place::Defaults,
    tree::{get, items, key as key_of, lay, nothing},
};

/// Most nodes of one range.
const MAX_RANGE: u32 = 10_000;

/// A node, or several by a range of names.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) key: Tree,
    /// As our plan writes it.
    pub(crate) name: String,
    /// The names it stands for: plumbery's and ours.
    pub(crate) names: Vec<(String, String)>,
    pub(crate) class: Option<String>,
    pub(crate) own: Tree,
    /// The class below its own settings.
    pub(crate) laid: Tree,
    pub(crate) cloud_config: Tree,
    /// Where its own part of that begins.
    pub(crate) tasks_from: Option<usize>,
    pub(crate) public: bool,
}

impl Node {
    /// Reads an item of `nodes`: a name with settings, or a name alone.
    pub(crate) fn read(item: &Tree, defaults: &Defaults, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let empty = nothing(item);
        let (key, own) = match &item.value {
            Value::Map(entries) => {
                let (key, own) = entries.first()?;
                for (other, _) in entries.iter().skip(1) {
                    let instead = "begin it with `- `, or indent its settings; plumbery does not read it";
                    reader.notes.lost(&other.span, "a second key beside a node's name", instead);
                }
                (key, own)
            }
            _ => (item, &empty),
        };
        let name = reader.own_text(key, "a node's name")?;
        reader.mapping(own, "a node");
        let own = if matches!(own.value, Value::Map(_)) { own.clone() } else { nothing(key) };
        let class = get(&own, "default").and_then(|tree| Some((tree, reader.source.text_of(tree)?)));
        let class = class.map(|(tree, name)| (tree, reader.parameters.put_in(&name)));
        let mut laid = nothing(&own);
        let mut cloud_config = defaults.cloud_config.clone().unwrap_or_else(|| nothing(&own));
        let mut known = None;
        if let Some((tree, class)) = class {
            match defaults.classes.get(&class) {
                Some((_, settings)) => {
                    laid = settings.clone();
                    if let Some(config) = get(settings, "cloud-config") {
                        reader.mapping(config, "`cloud-config`");
                        lay(&mut cloud_config, config);
                    }
                    known = Some(class);
                }
                None => {
                    let instead = "nothing has this name under `defaults`; plumbery takes none either";
                    reader.notes.lost(&tree.span, format!("class `{class}`"), instead);
                }
            }
        }
        if let Some(config) = get(&own, "cloud-config") {
            reader.mapping(config, "`cloud-config`");
            lay(&mut cloud_config, config);
        }
        let tasks_from = key_of(&own, "cloud-config").map(|key| reader.source.line_of(key));
        let mut own = own;
        if let Value::Map(entries) = &mut own.value {
            entries.retain(|(key, _)| !matches!(&key.value, Value::Text(word) if word == "default" || word == "cloud-config"));
        }
        lay(&mut laid, &own);
        let public = get(&laid, "glue").map(items).unwrap_or_default().iter().any(|line| {
            let line = reader.source.text_of(line).unwrap_or_default();
            let line = reader.parameters.put_in(&line);
            line.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case("internet"))
        });
        Some(Node {
            key: key.clone(),
            name,
            names: Vec::new(),
            class: known,
            own,
            laid,
            cloud_config,
            tasks_from,
            public,
        })
    }

    /// Takes names our plans take: host names, each once in the fleet. `false` if there are none for it.
    pub(crate) fn rename(
        &mut self,
        location: &str,
        taken: &mut Vec<String>,
        reader: &mut Reader<'_, '_>,
    ) -> bool {
        let value = reader.parameters.put_in(&self.name);
        let theirs = expand(&value);
        let fine = |name: &str| name.parse::<fleet_model::NodeName>().is_ok();
        let free = |names: &[String], taken: &[String]| {
            names.iter().all(|name| fine(name) && !taken.contains(&name.to_ascii_lowercase()))
        };
        let mut own = self.name.clone();
        let mut ours = theirs.clone();
        if let Some((before, first, last, after)) = range(&value) {
            // Plumbery takes zeros off, our plans keep them.
            own = format!("{before}[{first}..{last}]{after}");
            if self.name.contains("{{") && own == value {
                own.clone_from(&self.name);
            }
        }
        for prefix in ["", location] {
            if free(&ours, taken) {
                break;
            }
            let plain = |text: &str| text.replace(['_', '.', ' '], "-");
            let value = match range(&value) {
                Some((before, first, last, after)) => {
                    format!("{}[{first}..{last}]{}", plain(before), plain(after))
                }
                None => plain(&value),
            };
            let value = value.trim_matches('-');
            let value = if prefix.is_empty() { value.to_owned() } else { format!("{prefix}-{value}") };
            ours = expand(&value);
            own = value;
        }
        if ours.is_empty() || !free(&ours, taken) {
            let instead = "letters, digits and inner hyphens, each name once in the fleet; it is left out";
            reader.notes.lost(&self.key.span, format!("node `{value}`"), instead);
            return false;
        }
        if ours != theirs {
            let instead = format!("named `{own}`: names are host names, each once in the fleet");
            reader.notes.changed(&self.key.span, format!("node `{value}`"), instead);
        }
        taken.extend(ours.iter().map(|name| name.to_ascii_lowercase()));
        self.name = own;
        self.names = theirs.into_iter().zip(ours).collect();
        true
    }
}

fn range(name: &str) -> Option<(&str, u32, u32, &str)> {
    let (before, rest) = name.split_once('[')?;
    let (numbers, after) = rest.split_once(']')?;
    let (first, last) = numbers.split_once("..")?;
    Some((before, first.parse().ok()?, last.parse().ok()?, after))
}

/// The names a range stands for; none if there are none, or too many.
fn expand(name: &str) -> Vec<String> {
    match range(name) {
        None => vec![name.to_owned()],
        Some((_, first, last, _)) if last < first || last - first >= MAX_RANGE => Vec::new(),
        Some((before, first, last, after)) => {
            (first..=last).map(|number| format!("{before}{number}{after}")).collect()
        }
    }
}
