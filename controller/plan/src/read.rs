//! Typed readings of the tree. Each says what it wanted and goes on with `None`.

use std::ops::RangeInclusive;

use crate::{
    problem::{Reporter, Span},
    suggest::{quoted, suggest},
    syntax::{Tree, Value},
};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl<T> At<T> {
    pub(crate) fn new(value: T, span: &Span) -> Self {
        Self { value, span: span.clone() }
    }

    pub(crate) fn map<U>(self, with: impl FnOnce(T) -> U) -> At<U> {
        At { value: with(self.value), span: self.span }
    }
}

/// The entries of one mapping. Keys asked for are the known ones; what is left over is reported at the end.
pub(crate) struct Fields<'t> {
    what: String,
    span: Span,
    entries: &'t [(Tree, Tree)],
    known: Vec<&'static str>,
}

impl<'t> Fields<'t> {
    /// The mapping `tree`; `what` names it in messages: `a node`.
    pub(crate) fn of(tree: &'t Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<Self> {
        let Value::Map(entries) = &tree.value else {
            wanted(tree, what, "a mapping", reporter);
            return None;
        };
        for (index, (key, _)) in entries.iter().enumerate() {
            let Value::Text(name) = &key.value else {
                let hint = is_reference(tree).then(|| QUOTE_HINT.to_owned());
                reporter.problem(&key.span, format!("a key of {what} must be text"), hint);
                continue;
            };
            if entries[..index].iter().any(|(earlier, _)| earlier == key) {
                reporter.problem(&key.span, format!("`{name}` is given twice in {what}"), None);
            }
        }
        Some(Self { what: what.to_owned(), span: tree.span.clone(), entries, known: Vec::new() })
    }

    /// Where the mapping begins.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The value of `key`, if given; a key with nothing behind it is reported.
    pub(crate) fn get(&mut self, key: &'static str, reporter: &mut Reporter<'_>) -> Option<&'t Tree> {
        self.known.push(key);
        let (at, value) =
            self.entries.iter().find(|(name, _)| matches!(&name.value, Value::Text(t) if t == key))?;
        if value.value == Value::Null {
            reporter.problem(
                &at.span,
                format!("`{key}` of {} has no value", self.what),
                "write one, or remove the line".to_owned(),
            );
            return None;
        }
        Some(value)
    }

    /// Whether `key` is given, with or without a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| matches!(&name.value, Value::Text(text) if text == key))
    }

    /// The value of `key`; its absence is reported.
    pub(crate) fn require(
        &mut self,
        key: &'static str,
        hint: &str,
        reporter: &mut Reporter<'_>,
    ) -> Option<&'t Tree> {
        if !self.has(key) {
            self.known.push(key);
            reporter.problem(&self.span, format!("{} has no `{key}`", self.what), hint.to_owned());
            return None;
        }
        self.get(key, reporter)
    }

    /// Reports every key nobody asked for.
    pub(crate) fn finish(self, reporter: &mut Reporter<'_>) {
        for (key, _) in self.entries {
            if let Value::Text(name) = &key.value
                && !self.known.contains(&name.as_str())
            {
                let hint = suggest(name, self.known.iter().copied());
                reporter.problem(&key.span, format!("unknown key `{name}` in {}", self.what), hint);
            }
        }
    }
}

/// The items of a list.
pub(crate) fn list<'t>(tree: &'t Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<&'t [Tree]> {
    match &tree.value {
        Value::List(items) => Some(items),
        _ => {
            wanted(tree, what, "a list", reporter);
            None
        }
    }
}

/// Text; a number or a boolean is taken as it is written.
pub(crate) fn text(tree: &Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<At<String>> {
    let text = any_text(tree, what, reporter)?;
    if text.value.contains("{{") {
        reporter.problem(
            &text.span,
            format!("{what} may not refer to nodes"),
            "only `information` and the texts of tasks may; parameters are `{{ parameter.NAME }}`".to_owned(),
        );
        return None;
    }
    Some(text)
}

/// Text that may hold references to nodes.
pub(crate) fn any_text(tree: &Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<At<String>> {
    match &tree.value {
        Value::Text(text) => Some(At::new(text.clone(), &tree.span)),
        Value::Bool(_) | Value::Integer(_) | Value::Number => {
            let written = reporter.source().get(tree.span.clone()).unwrap_or_default();
            Some(At::new(written.to_owned(), &tree.span))
        }
        _ => {
            wanted(tree, what, "text", reporter);
            None
        }
    }
}

/// A whole number within `range`; text that spells one is fine, since parameters are put in as text.
pub(crate) fn integer(
    tree: &Tree,
    what: &str,
    range: RangeInclusive<u32>,
    reporter: &mut Reporter<'_>,
) -> Option<At<u32>> {
    let number = match &tree.value {
        Value::Integer(number) => Some(*number),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    };
    let Some(number) = number else {
        wanted(tree, what, "a whole number", reporter);
        return None;
    };
    match u32::try_from(number) {
        Ok(number) if range.contains(&number) => Some(At::new(number, &tree.span)),
        _ => {
            reporter.problem(
                &tree.span,
                format!("{what} is {number}, out of range"),
                format!("{} to {}", range.start(), range.end()),
            );
            None
        }
    }
}

/// One of a few words, whatever their case; gives the word as listed.
pub(crate) fn choice(
    tree: &Tree,
    what: &str,
    words: &[&'static str],
    reporter: &mut Reporter<'_>,
) -> Option<At<&'static str>> {
    let given = text(tree, what, reporter)?;
    match words.iter().find(|word| word.eq_ignore_ascii_case(&given.value)) {
        Some(word) => Some(given.map(|_| *word)),
        None => {
            let hint = format!("one of {}", quoted(words));
            reporter.problem(&tree.span, format!("{what} cannot be `{}`", given.value), hint);
            None
        }
    }
}

const QUOTE_HINT: &str = "put quotes around references: \"{{ parameter.NAME }}\"";

/// Reports that `tree` is of the wrong kind.
pub(crate) fn wanted(tree: &Tree, what: &str, kind: &str, reporter: &mut Reporter<'_>) {
    let got = match &tree.value {
        Value::Unknown => return,
        Value::Text(text) if text.chars().count() <= 40 => format!("`{text}`"),
        other => other.kind().to_owned(),
    };
    let hint = is_reference(tree).then(|| QUOTE_HINT.to_owned());
    reporter.problem(&tree.span, format!("{what} must be {kind}, not {got}"), hint);
}

/// `{{ x }}` without quotes is YAML for a mapping whose key is a mapping.
fn is_reference(tree: &Tree) -> bool {
    matches!(&tree.value, Value::Map(entries) if matches!(entries.first(), Some((key, _)) if matches!(key.value, Value::Map(_))))
}
