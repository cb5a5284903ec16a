//! A plumbery plan as text: its documents as trees with places, and its comments.
//!
//! Plumbery puts parameters in before it reads YAML, so that its plans say `cpu: {{ parameter.cpu }}` without quotes,
//! which is a mapping to YAML. References are therefore masked while YAML is read, by letters that take as many
//! bytes, so that places stay true.

use std::{collections::BTreeMap, ops::Range};

use fleet_plan::{Problem, Tree, Value};

/// Letters of two bytes each, to stand for `{{` and `}}`; the first pair the plan does not use is taken.
const MASKS: [(char, char); 4] = [('«', '»'), ('Ƣ', 'ƣ'), ('Ɏ', 'ɏ'), ('ʢ', 'ʡ')];

/// The text with what can be found in it.
#[derive(Debug)]
pub(crate) struct Source {
    text: String,
    /// Start of every line.
    lines: Vec<usize>,
    /// Documents with something in them.
    pub(crate) documents: Vec<Tree>,
    pub(crate) comments: Comments,
}

impl Source {
    /// Reads every document.
    ///
    /// # Errors
    /// The first document that is not YAML, its places those of the whole text.
    pub(crate) fn read(text: &str) -> Result<Self, Vec<Problem>> {
        let lines: Vec<usize> = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1))
            .collect();
        let mask = MASKS.into_iter().find(|(open, close)| !text.contains([*open, *close]));
        let masked = mask.map_or_else(|| text.to_owned(), |mask| put_on(text, mask));
        let mut documents = Vec::new();
        for part in split(&masked) {
            // All before is blank, so that places are those of the whole text.
            let mut document: String = masked[..part.start]
                .chars()
                .flat_map(|c| std::iter::repeat_n(if c == '\n' { '\n' } else { ' ' }, c.len_utf8()))
                .collect();
            document.push_str(&unmarked(&masked[part]));
            let mut tree = fleet_plan::tree(&document)?;
            if let Some(mask) = mask {
                take_off(&mut tree, mask);
            }
            if tree.value != Value::Null {
                documents.push(tree);
            }
        }
        let comments = Comments::read(text, &lines, &documents);
        Ok(Self { text: text.to_owned(), lines, documents, comments })
    }

    /// Line and column of a byte, both from 1.
    pub(crate) fn place(&self, at: usize) -> (usize, usize) {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines[line - 1];
        (line, self.text[start..at].chars().count() + 1)
    }

    /// The text of a line, from 1.
    pub(crate) fn line(&self, line: usize) -> &str {
        let start = line.checked_sub(1).and_then(|line| self.lines.get(line)).copied();
        start.and_then(|start| self.text[start..].lines().next()).unwrap_or_default()
    }

    /// The place of a line's first byte.
    pub(crate) fn start_of(&self, line: usize) -> Range<usize> {
        let start =
            line.checked_sub(1).and_then(|line| self.lines.get(line)).copied().unwrap_or(self.text.len());
        start..start
    }

    /// Line a part begins in.
    pub(crate) fn line_of(&self, tree: &Tree) -> usize {
        self.place(tree.span.start).0
    }

    /// A scalar as it is written, if it is one.
    pub(crate) fn text_of(&self, tree: &Tree) -> Option<String> {
        match &tree.value {
            Value::Text(text) => Some(text.clone()),
            Value::Bool(_) | Value::Integer(_) | Value::Number => {
                self.text.get(tree.span.clone()).map(|text| text.trim().to_owned())
            }
            _ => None,
        }
    }

    /// Where in `tree` the piece of text stands; block texts are indented, so that their offsets cannot be computed.
    pub(crate) fn locate(&self, tree: &Tree, piece: &str) -> Range<usize> {
        let first = piece.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        self.text
            .get(tree.span.clone())
            .and_then(|within| within.find(first))
            .map_or_else(|| tree.span.clone(), |at| tree.span.start + at..tree.span.start + at + first.len())
    }
}

/// Documents: what lies between lines that begin with `---` or `...`, which YAML allows nowhere else.
fn split(text: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut begin, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let marker = ["---", "..."].iter().any(|marker| {
            line.strip_prefix(marker).is_some_and(|rest| rest.trim_start() != rest || rest.is_empty())
        });
        if marker && at > begin {
            parts.push(begin..at);
            begin = at;
        }
        at += line.len();
    }
    parts.push(begin..text.len());
    parts
}

/// The document without its marker and directives, as long as before.
fn unmarked(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for (index, line) in document.split_inclusive('\n').enumerate() {
        let rest =
            (index == 0).then(|| line.strip_prefix("---").or_else(|| line.strip_prefix("..."))).flatten();
        match rest {
            Some(rest) => {
                out.push_str("   ");
                out.push_str(rest);
            }
            None if line.starts_with("%YAML") || line.starts_with("%TAG") => {
                out.push('#');
                out.push_str(&line[1..]);
            }
            None => out.push_str(line),
        }
    }
    out
}

/// Masks `{{ … }}` within lines, the inner ones first.
fn put_on(text: &str, (open, close): (char, char)) -> String {
    let (open, close) = (open.to_string(), close.to_string());
    let mut masked = text.to_owned();
    // Each turn masks one level; nobody nests deeper.
    for _ in 0..3 {
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(end) = masked[from..].find("}}").map(|at| from + at) {
            if let Some(start) = masked[from..end].rfind("{{").map(|at| from + at)
                && is_reference(&masked[start + 2..end])
            {
                found.push((start, end));
            }
            from = end + 2;
        }
        if found.is_empty() {
            break;
        }
        for (start, end) in found {
            masked.replace_range(start..start + 2, &open);
            masked.replace_range(end..end + 2, &close);
        }
    }
    masked
}

fn is_reference(inner: &str) -> bool {
    let inner = inner.trim_matches([' ', '\t', '\\']);
    !inner.is_empty()
        && !inner.contains(": ")
        && !inner.contains(" #")
        && !inner.ends_with(':')
        && !inner.contains(['{', '}', '\n', '"', '\'', ',', '[', ']'])
}

fn take_off(tree: &mut Tree, mask: (char, char)) {
    match &mut tree.value {
        Value::Text(text) if text.contains([mask.0, mask.1]) => {
            *text = text.replace(mask.0, "{{").replace(mask.1, "}}");
        }
        Value::List(items) => items.iter_mut().for_each(|item| take_off(item, mask)),
        Value::Map(entries) => entries.iter_mut().for_each(|(key, value)| {
            take_off(key, mask);
            take_off(value, mask);
        }),
        _ => {}
    }
}

/// Comments by the line they are about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Comments {
    /// Whole lines, above the line.
    above: BTreeMap<usize, Vec<String>>,
    /// At the end of the line.
    beside: BTreeMap<usize, String>,
}

impl Comments {
    fn read(text: &str, lines: &[usize], documents: &[Tree]) -> Self {
        let mut scalars = Vec::new();
        documents.iter().for_each(|tree| gather(tree, &mut scalars));
        scalars.sort_by_key(|span| span.start);
        // Spans of scalars do not overlap, but for aliases, which repeat one.
        let inside = |at: usize| {
            let next = scalars.partition_point(|span| span.start <= at);
            scalars[..next].iter().rev().take(4).any(|span| at < span.end)
        };
        let mut found = Self::default();
        let mut waiting: Vec<String> = Vec::new();
        for (index, start) in lines.iter().enumerate() {
            let line = text[*start..].lines().next().unwrap_or_default();
            let words = line.trim_start();
            let at = start + line.len() - words.len();
            if words.is_empty() || words.starts_with("---") || words.starts_with("...") {
                continue;
            }
            if let Some(comment) = words.strip_prefix('#').filter(|_| !inside(at)) {
                waiting.push(comment.trim().to_owned());
                continue;
            }
            if !waiting.is_empty() {
                found.above.insert(index + 1, std::mem::take(&mut waiting));
            }
            let beside = line.match_indices(" #").map(|(at, _)| at + 1).find(|at| !inside(start + at));
            if let Some(at) = beside {
                found.beside.insert(index + 1, line[at + 1..].trim().to_owned());
            }
        }
        if !waiting.is_empty() {
            found.above.insert(lines.len() + 1, waiting);
        }
        found
    }

    /// Takes the comments above a line; whoever asks first has them.
    pub(crate) fn take_above(&mut self, line: usize) -> Vec<String> {
        self.above.remove(&line).unwrap_or_default()
    }

    /// Takes the comment at the end of a line.
    pub(crate) fn take_beside(&mut self, line: usize) -> Option<String> {
        self.beside.remove(&line)
    }

    /// Lines whose comments nobody took.
    pub(crate) fn left(&self) -> Vec<usize> {
        let mut lines: Vec<usize> = self.above.keys().chain(self.beside.keys()).copied().collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }
}

fn gather(tree: &Tree, spans: &mut Vec<Range<usize>>) {
    match &tree.value {
        Value::List(items) => items.iter().for_each(|item| gather(item, spans)),
        Value::Map(entries) => entries.iter().for_each(|(key, value)| {
            gather(key, spans);
            gather(value, spans);
        }),
        _ => spans.push(tree.span.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::get;

    #[test]
    fn references_need_no_quotes() {
        let text = "# head\n---\na: {{ parameter.x }} # beside\nb:\n  - {{node.public}}:80\n  # above\n  - \"{{ {{ parameter.l }}::n.ipv6 }}\"\nc: {d: {e: 1}}\n";
        let source = Source::read(text).expect("YAML");
        let [document] = source.documents.as_slice() else { panic!("one document") };
        let a = get(document, "a").expect("a");
        assert_eq!(a.value, Value::Text("{{ parameter.x }}".into()));
        assert_eq!(&text[a.span.clone()], "{{ parameter.x }}");
        let Some(Value::List(items)) = get(document, "b").map(|tree| &tree.value) else { panic!("a list") };
        assert_eq!(items[0].value, Value::Text("{{node.public}}:80".into()));
        assert_eq!(items[1].value, Value::Text("{{ {{ parameter.l }}::n.ipv6 }}".into()));
        assert!(matches!(get(document, "c").map(|tree| &tree.value), Some(Value::Map(_))));
        let mut comments = source.comments;
        assert_eq!(comments.take_above(3), ["head"]);
        assert_eq!(comments.take_beside(3).as_deref(), Some("beside"));
        assert_eq!(comments.take_above(7), ["above"]);
        assert_eq!(comments.left(), [0; 0]);
    }

    #[test]
    fn documents_keep_their_places() {
        let text = "---\nä: 1\n--- \n# about b\nb: |\n  # text\n  --- more\n\n...\n---\n";
        let source = Source::read(text).expect("YAML");
        assert_eq!(source.documents.len(), 2);
        let b = get(&source.documents[1], "b").expect("b");
        assert_eq!(b.value, Value::Text("# text\n--- more\n".into()));
        assert_eq!(source.line_of(b), 6, "a block begins below its key");
        assert_eq!(source.comments.left(), [5], "only the comment, not the text that looks like one");
        assert_eq!(source.line(2), "ä: 1");
        assert_eq!(source.place(text.find(": 1").expect("there")), (2, 2));
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let problems = Source::read("---\na: 1\n---\nb: [\n").expect_err("not YAML");
        assert_eq!(problems[0].line, 4);
    }
}
