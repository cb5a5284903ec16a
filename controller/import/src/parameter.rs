//! Parameters: types made ours, values at hand where a decision needs one.

use std::collections::BTreeMap;

use fleet_plan::{Tree, Value};

use crate::{
    emit::{Entry, Out},
    form::{Part, parts},
    note::Notes,
    source::Source,
    tree::{entries, get, items},
};

/// The parameters of a plan.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    /// By plumbery's name: ours, and the value at hand.
    known: BTreeMap<String, (String, Option<String>)>,
    /// The section of our plan.
    pub(crate) entries: Vec<Entry>,
    /// Values given for parameters that are not there.
    pub(crate) unknown: Vec<String>,
}

impl Parameters {
    /// Reads the section; `set` are values to be the defaults from now on.
    pub(crate) fn read(
        section: Option<&Tree>,
        set: &BTreeMap<String, String>,
        source: &Source,
        notes: &mut Notes<'_>,
    ) -> Self {
        let mut found = Self::default();
        for (key, declaration) in section.map(entries).unwrap_or_default() {
            let Some(name) = source.text_of(key) else { continue };
            let own = word(&name, 'p', "-_");
            if own != name {
                notes.changed(&key.span, format!("parameter `{name}`"), format!("named `{own}`"));
            }
            if found.known.contains_key(&name) || found.known.values().any(|(known, _)| *known == own) {
                notes.lost(&key.span, format!("parameter `{name}` is there twice"), "keep one of them");
                continue;
            }
            let default = get(declaration, "default").and_then(|tree| source.text_of(tree));
            let value = set.get(&name).cloned().or(default);
            let information = get(declaration, "information").map_or_else(String::new, |tree| {
                let lines = items(tree).iter().filter_map(|item| source.text_of(item));
                lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join(" ")
            });
            let information = if information.is_empty() { name.clone() } else { information };
            let mut entries = vec![Entry::new("information", Out::text(information))];
            entries.extend(kind(declaration, key, &name, value.as_deref(), source, notes));
            if let Some(value) = &value {
                let integer = entries.iter().any(|entry| entry.value == Out::text("integer"));
                entries
                    .push(Entry::new("default", if integer { Out::number(value) } else { Out::text(value) }));
            } else {
                let how = format!("give it a `default`, or say --set {name}=VALUE");
                notes.lost(&key.span, format!("parameter `{name}` has no value"), how);
            }
            for (other, _) in crate::tree::entries(declaration) {
                let other_name = source.text_of(other).unwrap_or_default();
                if !["information", "type", "default"].contains(&other_name.as_str()) {
                    let what = format!("`{other_name}` of parameter `{name}`");
                    notes.lost(&other.span, what, "parameters have `information`, `type` and `default`");
                }
            }
            found.entries.push(Entry::new(own.clone(), Out::Map(entries)).from(source.line_of(key)));
            found.known.insert(name, (own, value));
        }
        found.unknown = set.keys().filter(|name| !found.known.contains_key(*name)).cloned().collect();
        found
    }

    /// Our name of a parameter.
    pub(crate) fn name(&self, name: &str) -> Option<&str> {
        self.known.get(name).map(|(own, _)| own.as_str())
    }

    /// The text with every parameter that has a value put in, the inner ones first.
    pub(crate) fn put_in(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // Each turn resolves one level of nesting.
        for _ in 0..4 {
            let next: String = parts(&text)
                .map(|part| match part {
                    Part::Form { whole, inner } => inner
                        .strip_prefix("parameter.")
                        .and_then(|name| self.known.get(name)?.1.clone())
                        .unwrap_or_else(|| whole.to_owned()),
                    Part::Text(text) => text.to_owned(),
                })
                .collect();
            if next == text {
                break;
            }
            text = next;
        }
        text
    }
}

/// `type` with what belongs to it.
fn kind(
    declaration: &Tree,
    key: &Tree,
    name: &str,
    value: Option<&str>,
    source: &Source,
    notes: &mut Notes<'_>,
) -> Vec<Entry> {
    let of = |word: &str| vec![Entry::new("type", Out::text(word))];
    let Some(tree) = get(declaration, "type") else { return of("text") };
    if let Value::List(list) = &tree.value {
        let words: Vec<String> = list.iter().filter_map(|item| source.text_of(item)).collect();
        if let [range] = words.as_slice()
            && let Some((low, high)) = range.split_once("..")
            && let (Ok(low), Ok(high)) = (low.trim().parse::<i64>(), high.trim().parse::<i64>())
            && let Some(Ok(value)) = value.map_or(Some(Ok(low)), |value| Some(value.parse::<i64>()))
        {
            if !(low..=high).contains(&value) {
                let instead = "its bounds are widened to hold it";
                notes.changed(
                    &key.span,
                    format!("parameter `{name}` is {value}, outside of {low} to {high}"),
                    instead,
                );
            }
            let mut entries = of("integer");
            entries.push(Entry::new("minimum", Out::plain(low.min(value))));
            entries.push(Entry::new("maximum", Out::plain(high.max(value))));
            return entries;
        }
        let mut choices: Vec<String> = words.into_iter().filter(|word| !word.contains("{{")).collect();
        if choices.is_empty() {
            return of("text");
        }
        if let Some(value) = value.filter(|value| choices.iter().all(|choice| choice != value)) {
            let instead = "it is added to them";
            notes.changed(
                &key.span,
                format!("parameter `{name}` is `{value}`, none of its choices"),
                instead,
            );
            choices.push(value.to_owned());
        }
        let mut entries = of("choice");
        entries.push(Entry::new("choices", Out::texts(choices)));
        return entries;
    }
    let word = source.text_of(tree).unwrap_or_default();
    match word.trim().to_ascii_lowercase().as_str() {
        "integer" | "int" | "number" if value.is_none_or(|value| value.parse::<i64>().is_ok()) => {
            of("integer")
        }
        "bool" | "boolean" if value.is_none_or(|value| matches!(value, "true" | "false")) => of("boolean"),
        // Lists of the platform's locations and so on; any text will do, and the plan's own checks see the rest.
        "str" | "string" | "text" | "locations.list" => of("text"),
        _ => {
            notes.changed(&tree.span, format!("type `{word}` of parameter `{name}`"), "`text`");
            of("text")
        }
    }
}

/// A word of letters, digits and some signs, a letter first.
pub(crate) fn word(name: &str, first: char, signs: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
    let replacement = signs.chars().next().unwrap_or('-');
    let mut word: String = name.trim().chars().map(|c| if fine(c) { c } else { replacement }).collect();
    if !word.starts_with(|c: char| c.is_ascii_alphabetic()) {
        word.insert(0, first);
    }
    word
}
