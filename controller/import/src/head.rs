//! The first of several documents: what holds for all of them.

use std::collections::BTreeMap;

use fleet_plan::Tree;

use crate::{
    machine::Reader,
    place::Defaults,
    tree::{entries, get, items},
};

/// What the first document says besides parameters.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) information: Option<Tree>,
    /// Lines for the top of our plan.
    pub(crate) remarks: Vec<String>,
    pub(crate) defaults: Defaults,
}

/// Settings of locations that may stand under `defaults`.
const OF_LOCATIONS: [&str; 5] = ["locationId", "regionId", "apiHost", "basement", "information"];

impl Head {
    pub(crate) fn read(document: &Tree, reader: &mut Reader<'_, '_>) -> Self {
        let mut found = Self { information: get(document, "information").cloned(), ..Self::default() };
        reader.mapping(document, "a first document");
        for (key, value) in entries(document) {
            let word = reader.source.text_of(key).unwrap_or_default();
            match word.as_str() {
                "information" => {}
                "parameters" => reader.mapping(value, "`parameters`"),
                "links" => {
                    reader.mapping(value, "`links`");
                    for (name, link) in entries(value) {
                        let text = |tree| reader.source.text_of(tree).unwrap_or_default();
                        found.remarks.push(format!("{}: {}", text(name), text(link)));
                    }
                    reader.notes.changed(&key.span, "`links`", "comments");
                }
                "defaults" => {
                    reader.mapping(value, "`defaults`");
                    found.defaults = defaults(value, reader);
                }
                "keys" => {
                    for item in items(value) {
                        let file = reader.source.text_of(item).unwrap_or_default();
                        let instead = format!("`--operator-key {file}` of `up`, for `operator` of `access`");
                        reader.notes.changed(&item.span, format!("key file `{file}`"), instead);
                    }
                }
                "actions" => actions(value, reader),
                "buildPolisher" => {
                    reader.notes.lost(&key.span, "`buildPolisher`", "`up` does all there is to do");
                }
                "safeMode" => {
                    let on = reader.source.text_of(value).is_some_and(|word| word == "true");
                    let instead = "`up --preview` shows what would be done";
                    if on {
                        reader.notes.lost(&key.span, "`safeMode`", instead);
                    } else {
                        reader.notes.changed(&key.span, "`safeMode: false`", instead);
                    }
                }
                "blueprints" | "locationId" | "regionId" | "apiHost" | "basement" => {
                    let instead = "it belongs into a document of its own; plumbery does not read it here";
                    reader.notes.lost(
                        &key.span,
                        format!("`{word}` in the first of several documents"),
                        instead,
                    );
                }
                _ => reader.notes.lost(&key.span, format!("`{word}`"), "plumbery does not know it either"),
            }
        }
        found
    }
}

fn defaults(section: &Tree, reader: &mut Reader<'_, '_>) -> Defaults {
    let mut found = Defaults { location: BTreeMap::new(), ..Defaults::default() };
    for (key, value) in entries(section) {
        let Some(word) = reader.source.text_of(key) else { continue };
        match word.as_str() {
            "cloud-config" => {
                found.cloud_config = Some(value.clone());
                found.tasks_from = Some(reader.source.line_of(key));
            }
            "domain" => found.domain = Some(value.clone()),
            "ethernet" => found.ethernet = Some(value.clone()),
            "blueprints" => {
                reader.notes.lost(&key.span, "`blueprints` under `defaults`", "a fleet comes up as a whole");
            }
            "ipv4" => {
                let instead = "every node with `internet` has an address, and no more are reserved";
                reader.notes.changed(&key.span, "number of public addresses", instead);
            }
            "prepare" | "beachhead" => {
                let instead = "nodes without a public address dial the controller themselves; it must be in their reach";
                reader.notes.lost(&key.span, "a beachhead", instead);
            }
            _ if OF_LOCATIONS.contains(&word.as_str()) => {
                found.location.insert(word, value.clone());
            }
            _ if matches!(value.value, fleet_plan::Value::Map(_)) => {
                found.classes.insert(word, (key.clone(), value.clone()));
            }
            _ => {
                let instead = "say it of each location, or make it a class of nodes";
                reader.notes.lost(&key.span, format!("`{word}` under `defaults`"), instead);
            }
        }
    }
    found
}

/// Polishers: what each of them did is a command of ours, or no longer a step of its own.
fn actions(list: &Tree, reader: &mut Reader<'_, '_>) {
    for item in items(list) {
        let (key, settings) = entries(item).first().map_or((item, None), |(key, value)| (key, Some(value)));
        let word = reader.source.text_of(key).unwrap_or_default();
        let what = format!("action `{word}`");
        match word.as_str() {
            "configure" | "prepare" | "polish" | "finalize" | "start" | "build" => {
                reader.notes.changed(&key.span, what, "`up` does it, in the order things need");
            }
            "information" => {
                reader.notes.changed(&key.span, what, "`up` shows it, and `fleetctl information` later")
            }
            "ping" | "spit" => reader.notes.changed(&key.span, what, "`fleetctl status`"),
            "inventory" | "ansible" => {
                reader.notes.lost(
                    &key.span,
                    what,
                    "`fleetctl status --output json` lists nodes and addresses",
                );
            }
            "backup" => reader.notes.lost(
                &key.span,
                what,
                "order it at the platform, or back up with tasks of your own",
            ),
            "rub" => reader.notes.lost(&key.span, what, "tasks say what a node is"),
            _ => reader.notes.lost(
                &key.span,
                what,
                "tasks say what a node is; there are no steps of one's own",
            ),
        }
        for (setting, value) in settings.map(entries).unwrap_or_default() {
            let name = reader.source.text_of(setting).unwrap_or_default();
            let text = reader.source.text_of(value).unwrap_or_default();
            let instead = if name == "key" {
                format!("`--operator-key {text}` of `up`")
            } else {
                "redirect the standard output of the command".to_owned()
            };
            reader.notes.lost(&setting.span, format!("`{name}` of action `{word}`"), instead);
        }
    }
}
