//! What an import has to say: where, what it was, what became of it.

use std::{collections::BTreeMap, fmt, ops::Range};

use crate::source::Source;

/// What became of a part of the plan that was not carried over as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Said in another way; the aim is met.
    Changed,
    /// Without counterpart: somebody has to look.
    Lost,
}

impl Fate {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Lost => "lost",
        }
    }
}

/// One thing to know about an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What became of it.
    pub fate: Fate,
    /// Line of the plumbery plan, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// Further lines of which the same is to be said.
    pub also: Vec<usize>,
    /// What it was.
    pub what: String,
    /// What was done instead, or what to do.
    pub instead: String,
    /// The line of text, without its break and the space around it.
    pub excerpt: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if !self.also.is_empty() {
            let also: Vec<String> = self.also.iter().map(usize::to_string).collect();
            write!(f, " (also {})", also.join(", "))?;
        }
        write!(f, ": {}; {}", self.what, self.instead)
    }
}

/// Collects notes. A class used by ten nodes is noted once.
pub(crate) struct Notes<'s> {
    source: &'s Source,
    found: Vec<(Range<usize>, Note)>,
}

impl<'s> Notes<'s> {
    pub(crate) fn new(source: &'s Source) -> Self {
        Self { source, found: Vec::new() }
    }

    /// Something without counterpart; `instead` says what to do.
    pub(crate) fn lost(&mut self, at: &Range<usize>, what: impl Into<String>, instead: impl Into<String>) {
        self.add(Fate::Lost, at, what.into(), instead.into());
    }

    /// Something said in another way; `instead` says how.
    pub(crate) fn changed(&mut self, at: &Range<usize>, what: impl Into<String>, instead: impl Into<String>) {
        self.add(Fate::Changed, at, what.into(), instead.into());
    }

    fn add(&mut self, fate: Fate, at: &Range<usize>, what: String, instead: String) {
        if self.found.iter().any(|(span, note)| {
            span.start == at.start && note.fate == fate && note.what == what && note.instead == instead
        }) {
            return;
        }
        let (line, column) = self.source.place(at.start);
        let excerpt = self.source.line(line).trim().to_owned();
        let note = Note { fate, line, column, also: Vec::new(), what, instead, excerpt };
        self.found.push((at.clone(), note));
    }

    /// All of them in the order of the text; those that say the same of several lines are one.
    pub(crate) fn finish(mut self) -> Vec<Note> {
        self.found.sort_by_key(|(span, _)| span.start);
        let mut notes: Vec<Note> = Vec::new();
        let mut known: BTreeMap<(Fate, String, String), usize> = BTreeMap::new();
        for (_, note) in self.found {
            match known.get(&(note.fate, note.what.clone(), note.instead.clone())) {
                Some(&at) => {
                    if notes[at].line != note.line && !notes[at].also.contains(&note.line) {
                        notes[at].also.push(note.line);
                    }
                }
                None => {
                    known.insert((note.fate, note.what.clone(), note.instead.clone()), notes.len());
                    notes.push(note);
                }
            }
        }
        notes
    }
}
