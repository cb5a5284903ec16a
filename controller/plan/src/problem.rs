//! Problems of a plan, as data; whoever prints draws them.

use std::{collections::BTreeSet, fmt, ops::Range};

/// Part of the plan's text, in bytes.
pub(crate) type Span = Range<usize>;

/// One thing wrong with a plan, or, as a warning, one thing that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, in bytes of the plan's text; always within it and on character boundaries.
    pub span: Range<usize>,
    /// Line of the first character, from 1.
    pub line: usize,
    /// Column of the first character, from 1, in characters.
    pub column: usize,
    /// What is wrong, without position.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
    /// The line of text it is about, without its line break.
    pub excerpt: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// Everything wrong with one plan, in the order of its text. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// Name of the file, for messages.
    pub file: String,
    /// The plan's whole text, so that excerpts can be drawn.
    pub source: String,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is probably not meant, besides.
    pub warnings: Vec<Problem>,
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    /// Plain text, legible without colour: message, excerpt with a marker, hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all =
            self.problems.iter().map(|p| ("error", p)).chain(self.warnings.iter().map(|p| ("warning", p)));
        for (index, (severity, problem)) in all.enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "{severity}: {}, {problem}", self.file)?;
            // A span may go on over several lines; the marker stays within the first.
            let width = self.source[problem.span.clone()].lines().next().unwrap_or("").chars().count().max(1);
            writeln!(f, "{:5} | {}", problem.line, problem.excerpt)?;
            write!(f, "      | {}{}", " ".repeat(problem.column - 1), "^".repeat(width))?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

/// Collects problems while the plan is read, so that the first does not hide the others.
pub(crate) struct Reporter<'a> {
    source: &'a str,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    // A class used by ten nodes is wrong once; an alias replayed often is wrong where it is defined.
    seen: BTreeSet<(usize, String)>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(source: &'a str) -> Self {
        Self { source, problems: Vec::new(), warnings: Vec::new(), seen: BTreeSet::new() }
    }

    pub(crate) fn source(&self) -> &'a str {
        self.source
    }

    /// Something that must be corrected.
    pub(crate) fn problem(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        if let Some(problem) = self.place(span, message.into(), hint.into()) {
            self.problems.push(problem);
        }
    }

    /// Something that is probably not meant.
    pub(crate) fn warning(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        if let Some(warning) = self.place(span, message.into(), hint.into()) {
            self.warnings.push(warning);
        }
    }

    /// Problems and warnings, each in the order of the text.
    pub(crate) fn finish(mut self) -> (Vec<Problem>, Vec<Problem>) {
        self.problems.sort_by_key(|problem| problem.span.start);
        self.warnings.sort_by_key(|problem| problem.span.start);
        (self.problems, self.warnings)
    }

    fn place(&mut self, span: &Span, message: String, hint: Option<String>) -> Option<Problem> {
        let start = floor_boundary(self.source, span.start);
        let end = floor_boundary(self.source, span.end).max(start);
        if !self.seen.insert((start, message.clone())) {
            return None;
        }
        // What a message quotes may go over lines; a message is one.
        let message = message.split(['\n', '\r']).map(str::trim).collect::<Vec<_>>().join(" ");
        let before = &self.source[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Some(Problem {
            span: start..end,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message,
            hint,
            excerpt: self.source[line_start..].lines().next().unwrap_or("").to_owned(),
        })
    }
}

/// The last character boundary at or before `at`, within the text.
fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_draws() {
        let source = "a: 1\nüb: zwei\n";
        let mut reporter = Reporter::new(source);
        reporter.problem(&(10..14), "`zwei` is not a number", "write 2".to_owned());
        reporter.problem(&(0..1), "first", None);
        reporter.problem(&(0..1), "first", None);
        reporter.warning(&(5..7), "odd", None);
        let (problems, warnings) = reporter.finish();
        let all = Problems { file: "x.yaml".into(), source: source.into(), problems, warnings };
        assert_eq!(
            all.to_string(),
            "error: x.yaml, line 1, column 1: first\n    1 | a: 1\n      | ^\n\
             error: x.yaml, line 2, column 5: `zwei` is not a number\n    2 | üb: zwei\n      |     ^^^^\n  hint: write 2\n\
             warning: x.yaml, line 2, column 1: odd\n    2 | üb: zwei\n      | ^"
        );
    }

    #[test]
    fn spans_stay_within_the_text() {
        let mut reporter = Reporter::new("é");
        reporter.problem(&(1..99), "inside a character", None);
        let (problems, _) = reporter.finish();
        assert_eq!(problems[0].span, 0..2);
    }
}
