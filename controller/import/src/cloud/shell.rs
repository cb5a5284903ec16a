//! Lines of a shell, as far as they can be understood without one.

use crate::form::{Part, parts};

/// One command of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// As it is written.
    pub(super) raw: String,
    /// Its words, quotes taken off, without `sudo`.
    pub(super) words: Vec<String>,
    /// Whether it is nothing but a program and its arguments.
    pub(super) simple: bool,
}

/// Words that make a line a program of its own.
const KEYWORDS: [&str; 16] = [
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "function",
    "{", "}", "!",
];

/// The commands of a line or several, done one after the other; a line with branches or loops is one step that is not
/// simple.
pub(super) fn steps(line: &str) -> Vec<Step> {
    let steps = cut(line);
    let whole = line.contains("||")
        || line.contains("<<")
        || steps.iter().any(|step| step.words.first().is_some_and(|word| KEYWORDS.contains(&word.as_str())));
    if whole {
        let words = steps.into_iter().flat_map(|step| step.words).collect();
        return vec![Step { raw: line.trim().to_owned(), words, simple: false }];
    }
    steps
}

fn cut(line: &str) -> Vec<Step> {
    let mut reader = Reader::default();
    for part in parts(line) {
        match part {
            Part::Form { whole, .. } => {
                reader.step.raw.push_str(whole);
                reader.word.get_or_insert_default().push_str(whole);
            }
            Part::Text(text) => reader.read(text),
        }
    }
    reader.end_step();
    reader.steps
}

#[derive(Default)]
struct Reader {
    steps: Vec<Step>,
    step: Step,
    word: Option<String>,
    quote: Option<char>,
    odd: bool,
}

impl Reader {
    fn read(&mut self, text: &str) {
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            if self.quote.is_none() {
                let joined = c == '&' && rest.peek() == Some(&'&');
                if joined || c == ';' || c == '\n' {
                    if joined {
                        rest.next();
                    }
                    self.end_step();
                    continue;
                }
                if c == '#' && self.word.is_none() {
                    // To the end of the line.
                    while rest.next_if(|c| *c != '\n').is_some() {}
                    continue;
                }
            }
            self.step.raw.push(c);
            match self.quote {
                Some(quote) if c == quote => self.quote = None,
                Some('"') if matches!(c, '$' | '`' | '\\') => {
                    self.odd = true;
                    self.push(c);
                }
                Some(_) => self.push(c),
                None if matches!(c, '"' | '\'') => {
                    self.quote = Some(c);
                    self.word.get_or_insert_default();
                }
                None if c.is_whitespace() => self.end_word(),
                None => {
                    self.odd |= "|&<>()$`*?[]{}~\\".contains(c);
                    self.push(c);
                }
            }
        }
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if self.step.words.is_empty() && word == "sudo" {
            return;
        }
        // A variable set for one command.
        self.odd |= self.step.words.is_empty() && word.contains('=');
        self.step.words.push(word);
    }

    fn end_step(&mut self) {
        self.end_word();
        let mut step = std::mem::take(&mut self.step);
        step.raw = step.raw.trim().to_owned();
        step.simple = !std::mem::take(&mut self.odd) && self.quote.take().is_none();
        if !step.words.is_empty() {
            self.steps.push(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_into_steps() {
        let check = |line: &str, expected: &[(&[&str], bool)]| {
            let steps = steps(line);
            let found: Vec<(Vec<&str>, bool)> = steps
                .iter()
                .map(|step| (step.words.iter().map(String::as_str).collect(), step.simple))
                .collect();
            let expected: Vec<(Vec<&str>, bool)> =
                expected.iter().map(|(words, simple)| (words.to_vec(), *simple)).collect();
            assert_eq!(found, expected, "{line}");
        };
        check("service x start", &[(&["service", "x", "start"], true)]);
        check("sudo a \"b c\" 'd'", &[(&["a", "b c", "d"], true)]);
        check("a && b; c\n# no\nd", &[(&["a"], true), (&["b"], true), (&["c"], true), (&["d"], true)]);
        check("a | b", &[(&["a", "|", "b"], false)]);
        check("a > b", &[(&["a", ">", "b"], false)]);
        check("a \"$b\"", &[(&["a", "$b"], false)]);
        check("a '$b'", &[(&["a", "$b"], true)]);
        check("X=1 a", &[(&["X=1", "a"], false)]);
        check("join {{ EU7::a.ipv6 }}", &[(&["join", "{{ EU7::a.ipv6 }}"], true)]);
        check("if a; then b; fi", &[(&["if", "a", "then", "b", "fi"], false)]);
        check("a || b && c", &[(&["a", "||", "b", "c"], false)]);
        check("a 'b", &[(&["a", "b"], false)]);
        check("  ", &[]);
    }
}
