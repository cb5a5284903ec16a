//! Typed, documented parameters, and putting their values in place of `{{ parameter.NAME }}`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    problem::{Reporter, Span},
    read::{Fields, any_text, list, text, wanted},
    suggest::{quoted, suggest},
    syntax::{Tree, Value},
    template::{Part, parts},
};

/// What a parameter may be.
enum Kind {
    Integer { minimum: i64, maximum: i64 },
    Text,
    Choice(Vec<String>),
    Boolean,
}

impl Kind {
    /// Why `value` does not fit, and what would.
    fn check(&self, value: &str) -> Result<(), (String, String)> {
        match self {
            Self::Text => Ok(()),
            Self::Boolean if matches!(value, "true" | "false") => Ok(()),
            Self::Boolean => Err(("is not a boolean".into(), "`true` or `false`".into())),
            Self::Choice(words) if words.iter().any(|word| word == value) => Ok(()),
            Self::Choice(words) => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                Err(("is not a choice".into(), format!("one of {}", quoted(&words))))
            }
            Self::Integer { minimum, maximum } => match value.parse::<i64>() {
                Ok(number) if (*minimum..=*maximum).contains(&number) => Ok(()),
                Ok(_) => Err(("is out of range".into(), range_words(*minimum, *maximum))),
                Err(_) => Err(("is not a whole number".into(), range_words(*minimum, *maximum))),
            },
        }
    }
}

fn range_words(minimum: i64, maximum: i64) -> String {
    match (minimum, maximum) {
        (i64::MIN, i64::MAX) => "any whole number".into(),
        (i64::MIN, maximum) => format!("at most {maximum}"),
        (minimum, i64::MAX) => format!("at least {minimum}"),
        (minimum, maximum) => format!("{minimum} to {maximum}"),
    }
}

/// The plan's parameters with their values.
#[derive(Default)]
pub(crate) struct Parameters {
    // `None`: declared, but wrongly; uses of it are not a second problem.
    values: BTreeMap<String, (Span, Option<String>)>,
    used: BTreeSet<String>,
}

impl Parameters {
    /// Reads the section `parameters` and lays the operator's settings over the defaults.
    pub(crate) fn read(
        section: Option<&Tree>,
        set: &BTreeMap<String, String>,
        reporter: &mut Reporter<'_>,
    ) -> Self {
        let mut values = BTreeMap::new();
        match section.map(|section| (section, &section.value)) {
            None => {}
            Some((_, Value::Map(entries))) => {
                for (key, declaration) in entries {
                    let Some(name) = text(key, "the name of a parameter", reporter) else { continue };
                    if values.contains_key(&name.value) {
                        reporter.problem(
                            &key.span,
                            format!("parameter `{}` is declared twice", name.value),
                            None,
                        );
                        continue;
                    }
                    if !is_word(&name.value) {
                        reporter.problem(
                            &key.span,
                            format!("`{}` cannot name a parameter", name.value),
                            "letters, digits and `_`, a letter first: `diskPerNode`".to_owned(),
                        );
                    }
                    let value = declared(declaration, key, &name.value, set.get(&name.value), reporter);
                    values.insert(name.value, (key.span.clone(), value));
                }
            }
            Some((section, _)) => wanted(section, "`parameters`", "a mapping", reporter),
        }
        let here = section.map_or(0..0, |section| section.span.clone());
        for name in set.keys().filter(|name| !values.contains_key(*name)) {
            let hint = if values.is_empty() {
                Some("this plan has no parameters".to_owned())
            } else {
                let known: Vec<&str> = values.keys().map(String::as_str).collect();
                Some(format!("parameters of this plan: {}", quoted(&known)))
            };
            reporter.problem(&here, format!("--set names unknown parameter `{name}`"), hint);
        }
        Self { values, used: BTreeSet::new() }
    }

    /// Replaces `{{ parameter.NAME }}` in every text below `tree`.
    pub(crate) fn put_in(&mut self, tree: &mut Tree, reporter: &mut Reporter<'_>) {
        match &mut tree.value {
            Value::List(items) => items.iter_mut().for_each(|item| self.put_in(item, reporter)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| self.put_in(value, reporter)),
            Value::Text(text) if text.contains("{{") => {
                tree.value = self.expand(text, &tree.span, reporter).map_or(Value::Unknown, Value::Text);
            }
            _ => {}
        }
    }

    /// Says which parameters nothing uses.
    pub(crate) fn finish(self, reporter: &mut Reporter<'_>) {
        for (name, (span, _)) in self.values.iter().filter(|(name, _)| !self.used.contains(*name)) {
            reporter.warning(span, format!("nothing uses parameter `{name}`"), None);
        }
    }

    /// The text with parameters put in; `None` if one of them has no usable value.
    fn expand(&mut self, text: &str, span: &Span, reporter: &mut Reporter<'_>) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut complete = true;
        for part in parts(text) {
            match part {
                Part::Text(text) | Part::Unclosed(text) => out.push_str(text),
                Part::Reference { whole, inner } => match inner.strip_prefix("parameter.") {
                    None => out.push_str(whole),
                    Some(name) => {
                        self.used.insert(name.to_owned());
                        match self.values.get(name) {
                            Some((_, Some(value))) => out.push_str(value),
                            Some((_, None)) => complete = false,
                            None => {
                                let at = locate(reporter.source(), span, whole);
                                let hint = suggest(name, self.values.keys().map(String::as_str));
                                reporter.problem(&at, format!("unknown parameter `{name}`"), hint);
                                complete = false;
                            }
                        }
                    }
                },
            }
        }
        complete.then_some(out)
    }
}

/// Where within `span` the text `part` stands. Block texts are re-indented by YAML, so that their offsets cannot
/// be computed; a reference however never spans lines and is written as it is read.
pub(crate) fn locate(source: &str, span: &Span, part: &str) -> Span {
    source
        .get(span.clone())
        .and_then(|within| within.find(part))
        .map_or_else(|| span.clone(), |at| span.start + at..span.start + at + part.len())
}

/// Whether a text can name a parameter or a class.
pub(crate) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn declared(
    tree: &Tree,
    key: &Tree,
    name: &str,
    set: Option<&String>,
    reporter: &mut Reporter<'_>,
) -> Option<String> {
    let what = format!("parameter `{name}`");
    let mut fields = Fields::of(tree, &what, reporter)?;
    if let Some(tree) = fields.require("information", "say in one line what it is for", reporter) {
        any_text(tree, &format!("`information` of {what}"), reporter);
    }
    let kind_tree = fields.require("type", "`integer`, `text`, `choice` or `boolean`", reporter);
    let kind_word = kind_tree.and_then(|tree| {
        crate::read::choice(
            tree,
            &format!("`type` of {what}"),
            &["integer", "text", "choice", "boolean"],
            reporter,
        )
    });
    let kind = match kind_word.map(|word| word.value) {
        Some("integer") => {
            let mut bound = |key, otherwise| match fields.get(key, reporter).map(|tree| (tree, &tree.value)) {
                None => otherwise,
                Some((_, Value::Integer(number))) => *number,
                Some((tree, _)) => {
                    wanted(tree, &format!("`{key}` of {what}"), "a whole number", reporter);
                    otherwise
                }
            };
            let (minimum, maximum) = (bound("minimum", i64::MIN), bound("maximum", i64::MAX));
            if minimum > maximum {
                reporter.problem(&key.span, format!("{what}: `minimum` is above `maximum`"), None);
            }
            Some(Kind::Integer { minimum, maximum })
        }
        Some("choice") => {
            let words = fields.require("choices", "list the words allowed", reporter).and_then(|tree| {
                let items = list(tree, &format!("`choices` of {what}"), reporter)?;
                Some(
                    items
                        .iter()
                        .filter_map(|item| text(item, "a choice", reporter))
                        .map(|word| word.value)
                        .collect(),
                )
            });
            words.map(Kind::Choice)
        }
        Some("boolean") => Some(Kind::Boolean),
        Some(_) => Some(Kind::Text),
        None => {
            // Known keys of every type, so that only really unknown ones are reported.
            for key in ["minimum", "maximum", "choices"] {
                fields.get(key, reporter);
            }
            None
        }
    };
    let default = fields
        .get("default", reporter)
        .and_then(|tree| text(tree, &format!("`default` of {what}"), reporter));
    fields.finish(reporter);
    let kind = kind?;
    if let Some(default) = &default
        && let Err((why, hint)) = kind.check(&default.value)
    {
        reporter.problem(&default.span, format!("default `{}` of {what} {why}", default.value), hint);
        return None;
    }
    match (set, default) {
        (Some(given), _) => match kind.check(given) {
            Ok(()) => Some(given.clone()),
            Err((why, hint)) => {
                reporter.problem(&key.span, format!("--set {name}={given}: `{given}` {why}"), hint);
                None
            }
        },
        (None, Some(default)) => Some(default.value),
        (None, None) => {
            reporter.problem(
                &key.span,
                format!("{what} has no value"),
                format!("give it a `default`, or say --set {name}=VALUE"),
            );
            None
        }
    }
}
