//! YAML text to a tree that remembers where everything stood.
//!
//! The tree takes any shape of document: what keys mean, and which are allowed, is decided later and all at once.
//! Only text that is not YAML stops here.

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    RenderOptions, SnippetMode, Spanned,
    options::{DuplicateKeyPolicy, NonFiniteFloatPolicy},
};

use crate::problem::{Reporter, Span};

/// Longest plan read; a plan of a thousand nodes has some 200 KB.
const MAX_BYTES: usize = 1 << 20;

/// Most nodes of the tree that YAML aliases may add: plenty for shared settings, too few to exhaust memory.
const MAX_REPLAYED: usize = 20_000;

/// Deepest nesting read; a plan has some ten levels, and each one read takes room on the stack.
const MAX_DEPTH: usize = 32;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Bytes of the text; a block collection has those of its first part.
    pub span: Span,
    /// What stands there.
    pub value: Value,
}

/// What YAML knows.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, or `null`.
    Null,
    /// `true` or `false`; `yes` is text.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number that is no integer of 64 bits; nothing in a plan wants one.
    Number,
    /// Text, quoted or not.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// A mapping, in the order of the file; a key may be there twice.
    Map(Vec<(Tree, Tree)>),
    /// What a parameter would have given that is wrong or unknown; reported there, so nobody else complains.
    Unknown,
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Value {
    /// In words, for "must be a number, not a list".
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null | Self::Unknown => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "a whole number",
            Self::Number => "a number with a fraction",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads one YAML document; reports why when it is none.
pub(crate) fn parse(reporter: &mut Reporter<'_>) -> Option<Tree> {
    let source = reporter.source();
    if source.len() > MAX_BYTES {
        reporter.problem(
            &(0..0),
            format!("the plan has {} bytes", source.len()),
            format!("at most {MAX_BYTES} are read"),
        );
        return None;
    }
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(source, options) {
        Ok(raw) => Some(plant(raw)),
        Err(error) => {
            let span = error.location().map_or(0..0, |at| {
                let start = offset(source, at.line(), at.column());
                let rest = source[start..].chars().next().map_or(0, char::len_utf8);
                start..start + rest
            });
            let user = serde_saphyr::UserMessageFormatter;
            let mut render = RenderOptions::new(&user);
            render.snippets = SnippetMode::Off;
            let text = error.render_with_options(render);
            // The position is ours to tell; theirs comes last.
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
            reporter.problem(&span, format!("not YAML: {text}"), yaml_hint(text));
            None
        }
    }
}

fn yaml_hint(message: &str) -> Option<String> {
    let hint = if message.contains("YAML document expected") {
        "a plan is one document: remove the `---` between them"
    } else if message.contains("mapping values are not allowed") {
        "look at the indentation, and quote texts that hold `: `"
    } else if message.contains("tab") {
        "indent with spaces"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

/// Byte offset of a line and column, both from 1 and in characters.
fn offset(source: &str, line: u64, column: u64) -> usize {
    let lines = source.split_inclusive('\n');
    let before: usize =
        lines.take(usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX)).map(str::len).sum();
    let rest = &source[before..];
    let column = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
    before + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at)
}

/// What the deserializer gives; turned into [`Tree`] so that nothing else knows the YAML crate.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

fn plant(raw: Spanned<Raw>) -> Tree {
    let at = raw.defined.span();
    let start = at.byte_offset().and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
    let len = at.byte_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    let span: Range<usize> = start..start.saturating_add(len);
    match raw.value {
        Raw::Scalar(value) => Tree { span, value },
        Raw::List(items) => {
            let items: Vec<Tree> = items.into_iter().map(plant).collect();
            Tree { span: or_first(span, items.first()), value: Value::List(items) }
        }
        Raw::Map(entries) => {
            let entries: Vec<(Tree, Tree)> =
                entries.into_iter().map(|(key, value)| (plant(key), plant(value))).collect();
            Tree { span: or_first(span, entries.first().map(|(key, _)| key)), value: Value::Map(entries) }
        }
    }
}

/// A block collection has no width of its own: its first part stands for it.
fn or_first(span: Span, first: Option<&Tree>) -> Span {
    if span.is_empty() { first.map_or(span, |first| first.span.clone()) } else { span }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any YAML value")
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Null))
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Bool(value)))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Integer(value)))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
                Ok(Raw::Scalar(i64::try_from(value).map_or(Value::Number, Value::Integer)))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Number))
            }
            fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Text(value.to_owned())))
            }
            fn visit_string<E>(self, value: String) -> Result<Raw, E> {
                Ok(Raw::Scalar(Value::Text(value)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Raw::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Raw::Map(map))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(source: &str) -> Tree {
        parse(&mut Reporter::new(source)).expect("valid")
    }

    #[test]
    fn remembers_where_things_stand() {
        let source = "# é\nlist:\n  - 10.0.0.0/24\n  - yes\nmap: {a: 0x10}\n";
        let Value::Map(entries) = tree(source).value else { panic!("a map") };
        let Value::List(items) = &entries[0].1.value else { panic!("a list") };
        assert_eq!(&source[items[0].span.clone()], "10.0.0.0/24");
        assert_eq!(items[1].value, Value::Text("yes".into()), "yes is not a boolean");
        let Value::Map(inner) = &entries[1].1.value else { panic!("a map") };
        assert_eq!(&source[inner[0].0.span.clone()], "a");
        assert_eq!(inner[0].1.value, Value::Integer(16));
    }

    #[test]
    fn duplicate_keys_reach_us() {
        let Value::Map(entries) = tree("a: 1\na: 2\n").value else { panic!("a map") };
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn text_that_is_not_yaml_is_one_problem() {
        let check = |source: &str, line, expected: &str| {
            let mut reporter = Reporter::new(source);
            assert!(parse(&mut reporter).is_none());
            let (problems, _) = reporter.finish();
            assert_eq!(problems.len(), 1);
            assert_eq!((problems[0].line, problems[0].message.as_str()), (line, expected));
        };
        check("a: [1\n", 1, "not YAML: unclosed bracket '['");
        check("a: 1\n b: 2\n", 2, "not YAML: mapping values are not allowed in this context");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..9 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
        }
        assert!(parse(&mut Reporter::new(&bomb)).is_none());
    }
}
