//! Writes YAML: block style, short parts in one line, comments above what they are about.

use crate::source::Comments;

/// Longest line of a part written in one line.
const WIDTH: usize = 110;

/// A part of the plan to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    /// Text, quoted as needed.
    Text(String),
    /// A number or a boolean.
    Plain(String),
    List(Vec<Item>),
    Map(Vec<Entry>),
    /// In one line if it fits.
    Inline(Box<Out>),
}

/// An item of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) value: Out,
    pub(crate) from: Vec<usize>,
}

/// An entry of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Out,
    /// Lines of the plumbery plan it came from, for their comments.
    pub(crate) from: Vec<usize>,
    /// A comment of ours.
    pub(crate) remark: Vec<String>,
}

impl Out {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn plain(value: impl ToString) -> Self {
        Self::Plain(value.to_string())
    }

    pub(crate) fn inline(self) -> Self {
        Self::Inline(Box::new(self))
    }

    /// A list of texts.
    pub(crate) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::list(texts.into_iter().map(|text| Self::Text(text.into())))
    }

    pub(crate) fn list(items: impl IntoIterator<Item = Out>) -> Self {
        Self::List(items.into_iter().map(|value| Item { value, from: Vec::new() }).collect()).inline()
    }

    /// A number if it is one, else text: a parameter, most likely.
    pub(crate) fn number(text: &str) -> Self {
        let number = !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit());
        if number && (text == "0" || !text.starts_with('0')) { Self::plain(text) } else { Self::text(text) }
    }
}

impl Entry {
    pub(crate) fn new(key: impl Into<String>, value: Out) -> Self {
        Self { key: key.into(), value, from: Vec::new(), remark: Vec::new() }
    }

    /// It came from this line.
    pub(crate) fn from(mut self, line: usize) -> Self {
        self.from.push(line);
        self
    }

    /// Says something above it.
    pub(crate) fn remark(mut self, text: impl Into<String>) -> Self {
        self.remark.push(text.into());
        self
    }
}

/// Writes a document; takes comments as it goes. An empty line stands between entries of the top.
pub(crate) fn write(entries: &[Entry], comments: &mut Comments) -> String {
    let mut out = String::new();
    for (index, entry) in entries.iter().enumerate() {
        let apart =
            !entry.remark.is_empty() || !is_short(entry) || index > 0 && !is_short(&entries[index - 1]);
        if index > 0 && apart {
            out.push('\n');
        }
        write_entry(entry, 0, true, comments, &mut out);
    }
    out
}

fn is_short(entry: &Entry) -> bool {
    one_line(&entry.value).is_some()
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', depth));
}

fn above(from: &[usize], remark: &[String], depth: usize, comments: &mut Comments, out: &mut String) {
    let taken: Vec<String> = from.iter().flat_map(|line| comments.take_above(*line)).collect();
    for comment in taken.iter().chain(remark).flat_map(|text| text.lines()) {
        indent(depth, out);
        out.push_str(if comment.is_empty() { "#" } else { "# " });
        out.extend(comment.chars().filter(|c| !c.is_control()));
        out.push('\n');
    }
}

fn beside(from: &[usize], comments: &mut Comments, out: &mut String) {
    if let Some(comment) = from.iter().find_map(|line| comments.take_beside(*line)) {
        out.push_str(" # ");
        out.extend(comment.chars().filter(|c| !c.is_control()));
    }
    out.push('\n');
}

/// `fresh` says that the line is empty so far.
fn write_entry(entry: &Entry, depth: usize, fresh: bool, comments: &mut Comments, out: &mut String) {
    if fresh {
        above(&entry.from, &entry.remark, depth, comments, out);
        indent(depth, out);
    }
    out.push_str(&scalar(&entry.key, false));
    out.push(':');
    write_value(&entry.value, depth, &entry.from, comments, out);
}

/// What comes after `key:`.
fn write_value(value: &Out, depth: usize, from: &[usize], comments: &mut Comments, out: &mut String) {
    let column = out.len() - out.rfind('\n').map_or(0, |at| at + 1);
    if let Some(line) = one_line(value).filter(|line| is_flat(value) || column + line.len() < WIDTH) {
        out.push(' ');
        out.push_str(&line);
        beside(from, comments, out);
        return;
    }
    match value {
        Out::Inline(inner) => write_value(inner, depth, from, comments, out),
        Out::Text(text) => {
            let (head, body) = text.strip_suffix('\n').map_or(("|-", text.as_str()), |body| ("|", body));
            out.push(' ');
            out.push_str(head);
            out.push('\n');
            for line in body.split('\n') {
                if !line.is_empty() {
                    indent(depth + 2, out);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
        Out::Plain(word) => {
            out.push(' ');
            out.push_str(word);
            out.push('\n');
        }
        Out::Map(entries) => {
            beside(from, comments, out);
            entries.iter().for_each(|entry| write_entry(entry, depth + 2, true, comments, out));
        }
        Out::List(items) => {
            beside(from, comments, out);
            items.iter().for_each(|item| write_item(item, depth + 2, comments, out));
        }
    }
}

fn write_item(item: &Item, depth: usize, comments: &mut Comments, out: &mut String) {
    let inner = match &item.value {
        Out::Inline(inner) if one_line(&item.value).is_none_or(|line| depth + line.len() > WIDTH) => inner,
        value => value,
    };
    let mut from = item.from.clone();
    if let Out::Map(entries) = inner
        && let Some(first) = entries.first()
    {
        from.extend(&first.from);
        above(&from, &first.remark, depth, comments, out);
    } else {
        above(&from, &[], depth, comments, out);
    }
    indent(depth, out);
    out.push('-');
    match inner {
        Out::Map(entries) if !entries.is_empty() => {
            out.push(' ');
            for (index, entry) in entries.iter().enumerate() {
                let mut entry = entry.clone();
                if index == 0 {
                    entry.from.extend(&item.from);
                }
                write_entry(&entry, depth + 2, index > 0, comments, out);
            }
        }
        value => write_value(value, depth, &from, comments, out),
    }
}

fn is_flat(value: &Out) -> bool {
    match value {
        Out::Text(_) | Out::Plain(_) => true,
        Out::Inline(inner) => is_flat(inner),
        Out::List(items) => items.is_empty(),
        Out::Map(entries) => entries.is_empty(),
    }
}

/// The value in one line, if it may be.
fn one_line(value: &Out) -> Option<String> {
    match value {
        Out::Text(text) if is_block(text) => None,
        Out::Text(text) => Some(scalar(text, false)),
        Out::Plain(word) => Some(word.clone()),
        Out::List(items) if items.is_empty() => Some("[]".to_owned()),
        Out::Map(entries) if entries.is_empty() => Some("{}".to_owned()),
        Out::Inline(inner) => flow(inner),
        Out::List(_) | Out::Map(_) => None,
    }
}

fn flow(value: &Out) -> Option<String> {
    let parts: Option<Vec<String>> = match value {
        Out::List(items) => {
            items.iter().map(|item| item.from.is_empty().then(|| flow(&item.value)).flatten()).collect()
        }
        Out::Map(entries) => entries
            .iter()
            .map(|entry| {
                let value = entry.remark.is_empty().then(|| flow(&entry.value)).flatten()?;
                Some(format!("{}: {value}", scalar(&entry.key, true)))
            })
            .collect(),
        Out::Inline(inner) => return flow(inner),
        Out::Text(text) if !is_block(text) => return Some(scalar(text, true)),
        _ => return one_line(value),
    };
    let parts = parts?.join(", ");
    Some(if matches!(value, Out::List(_)) { format!("[{parts}]") } else { format!("{{{parts}}}") })
}

/// Whether a text is best written as a block: several lines that YAML gives back as they are.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    text.contains('\n')
        && !body.is_empty()
        && !body.starts_with([' ', '\n', '\t'])
        && !body.ends_with('\n')
        && body.split('\n').all(|line| !line.trim_end().is_empty() || line.is_empty())
        && text.chars().all(|c| (c == '\n' || c == '\t' || !c.is_control()) && !is_odd(c))
}

/// Breaks lines, marks byte order, or is no character of YAML.
fn is_odd(c: char) -> bool {
    matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// A scalar in one line, without quotes if no reader takes it for anything else; in brackets and braces that is less.
fn scalar(text: &str, in_flow: bool) -> String {
    let signs: &[u8] = if in_flow { b" _./@+-:=" } else { b" _./@+-:=,;()'!?" };
    // No number of any YAML has a slash in it.
    let subnet = text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('/') && !text.contains(':');
    let plain = (text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') || subnet)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || signs.contains(&b))
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !["null", "true", "false", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || is_odd(c) => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use fleet_plan::Value;
    use proptest::prelude::*;

    use super::*;
    use crate::tree::get;

    fn written(value: Out) -> String {
        write(&[Entry::new("key", value)], &mut Comments::default())
    }

    #[test]
    fn short_parts_take_one_line() {
        let map =
            Out::Map(vec![Entry::new("a", Out::plain(1)), Entry::new("b", Out::texts(["x", "{{ y }}"]))]);
        assert_eq!(written(map.clone().inline()), "key: {a: 1, b: [x, \"{{ y }}\"]}\n");
        assert_eq!(written(map.clone()), "key:\n  a: 1\n  b: [x, \"{{ y }}\"]\n");
        let list = Out::List(vec![Item { value: map, from: Vec::new() }]);
        assert_eq!(written(list), "key:\n  - a: 1\n    b: [x, \"{{ y }}\"]\n");
        assert_eq!(written(Out::text("a\n\n  b\n")), "key: |\n  a\n\n    b\n");
        assert_eq!(written(Out::text(" a\nb")), "key: \" a\\nb\"\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in any::<String>(), lines in "([a-z# :{}\t-]{0,6}\n){0,4}[a-z ]{0,3}") {
            for text in [text, lines] {
                for value in [Out::text(&text), Out::texts([&text]), Out::Map(vec![Entry::new("key", Out::text(&text))])] {
                    let yaml = written(value);
                    let tree = fleet_plan::tree(&yaml).unwrap_or_else(|why| panic!("{yaml:?}: {why:?}"));
                    let mut inner = &get(&tree, "key").expect("key").value;
                    loop {
                        inner = match inner {
                            Value::List(items) => &items[0].value,
                            Value::Map(entries) => &entries[0].1.value,
                            other => break prop_assert_eq!(other, &Value::Text(text.clone()), "{:?}", yaml),
                        };
                    }
                }
            }
        }
    }
}
