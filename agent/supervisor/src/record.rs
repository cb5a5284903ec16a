//! The records on disk: lines of words, closed by a line with their digest.
//!
//! One form each, and nothing else is read: a record that is not exactly what we would write is no record.

use std::{fmt, str::FromStr};

use crate::digest::Digest;

/// Longest version, id or reason that is kept.
const MAX_TEXT: usize = 200;
/// Failed versions remembered, the newest; more than anybody tries between two good ones.
pub const FAILED_KEPT: usize = 16;

/// One of the two places for an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Folder `a`.
    A,
    /// Folder `b`.
    B,
}

impl Slot {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// Of the program.
    pub digest: Digest,
    /// Of the program, in bytes.
    pub size: u64,
    /// Rises with each filling of a slot of this node.
    pub serial: u64,
    /// As the release calls it; one word.
    pub version: String,
}

/// The idle slot's content is being tried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trial {
    /// Starts so far, the one under way included.
    pub tries: u32,
    /// Orderly stops that gave a start back.
    pub stops: u32,
    /// Conditions, from the request.
    pub terms: Terms,
}

/// Conditions of a trial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Most starts.
    pub tries: u32,
    /// Time to commit after a start or an extension, in milliseconds.
    pub trial_ms: u64,
    /// Most time from a start to its commit, extensions included, in milliseconds.
    pub ceiling_ms: u64,
}

impl Default for Terms {
    /// Three tries of five minutes; a controller may be away for a week.
    fn default() -> Self {
        Self { tries: 3, trial_ms: 300_000, ceiling_ms: 7 * 86_400_000 }
    }
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// It ended by itself.
    Crashed,
    /// Somebody killed it: the kernel, when memory runs out.
    Killed,
    /// It was not ready, or did not commit, in time; or it hung.
    Late,
    /// It is not what its digest says.
    Unsound,
    /// Somebody sent it back.
    Returned,
}

impl Why {
    const ALL: [Self; 5] = [Self::Crashed, Self::Killed, Self::Late, Self::Unsound, Self::Returned];

    fn name(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Killed => "killed",
            Self::Late => "late",
            Self::Unsound => "unsound",
            Self::Returned => "returned",
        }
    }
}

/// A version that did not do, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failed {
    /// Which.
    pub digest: Digest,
    /// Its name.
    pub version: String,
    /// The kind of failure.
    pub why: Why,
    /// What happened; one line.
    pub reason: String,
}

/// All that the supervisor remembers: the file `state`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The slot that runs when nothing is on trial.
    pub active: Slot,
    /// What slot a holds.
    pub a: Option<Content>,
    /// What slot b holds.
    pub b: Option<Content>,
    /// The other slot is on trial.
    pub trial: Option<Trial>,
    /// What the idle slot holds never served here, as far as is known: nobody goes back to that.
    pub untried: bool,
    /// Crashes since the active slot was committed; none once it has proved itself.
    pub probation: Option<u32>,
    /// The request last taken; it is never taken twice.
    pub taken: Option<String>,
    /// Versions that failed here, oldest first, at most [`FAILED_KEPT`].
    pub failed: Vec<Failed>,
}

impl State {
    /// A node with one agent and no past.
    pub fn new(active: Slot, content: Content) -> Self {
        let mut state = Self::bare(active);
        *state.content_mut(active) = Some(content);
        state
    }

    fn bare(active: Slot) -> Self {
        Self {
            active,
            a: None,
            b: None,
            trial: None,
            untried: false,
            probation: None,
            taken: None,
            failed: Vec::new(),
        }
    }

    /// What `slot` holds.
    pub fn content(&self, slot: Slot) -> Option<&Content> {
        match slot {
            Slot::A => self.a.as_ref(),
            Slot::B => self.b.as_ref(),
        }
    }

    /// What `slot` holds.
    pub fn content_mut(&mut self, slot: Slot) -> &mut Option<Content> {
        match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }

    /// The slot that should run: the one on trial, else the active one.
    pub fn current(&self) -> Slot {
        if self.trial.is_some() { self.active.other() } else { self.active }
    }

    /// Why `digest` failed here, if it did.
    pub fn failure(&self, digest: Digest) -> Option<&Failed> {
        self.failed.iter().rev().find(|failed| failed.digest == digest)
    }

    /// As on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut lines = Lines::new("fleet-supervisor-state 1");
        lines.add(format_args!("active {}", self.active));
        for slot in Slot::BOTH {
            if let Some(content) = self.content(slot) {
                lines.add(format_args!("slot {slot} {}", words(content)));
            }
        }
        if let Some(Trial { tries, stops, terms }) = &self.trial {
            let Terms { tries: most, trial_ms, ceiling_ms } = terms;
            lines.add(format_args!("trial {tries} {stops} {most} {trial_ms} {ceiling_ms}"));
        }
        if self.untried {
            lines.add(format_args!("untried {}", self.active.other()));
        }
        if let Some(crashes) = self.probation {
            lines.add(format_args!("probation {crashes}"));
        }
        if let Some(id) = &self.taken {
            lines.add(format_args!("taken {}", word(id)));
        }
        for Failed { digest, version, why, reason } in &self.failed {
            lines.add(format_args!("failed {digest} {} {} {}", word(version), why.name(), line(reason)));
        }
        lines.close()
    }

    /// From disk; nothing if these are not exactly the bytes of a state.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = open(bytes, "fleet-supervisor-state 1")?;
        let active = slot(lines.next()?.strip_prefix("active ")?)?;
        let mut state = Self::bare(active);
        for line in lines {
            let (key, rest) = line.split_once(' ')?;
            match key {
                "slot" => {
                    let (name, rest) = rest.split_once(' ')?;
                    *state.content_mut(slot(name)?) = Some(content(rest)?);
                }
                "trial" => {
                    let (tries, rest) = rest.split_once(' ')?;
                    let (stops, rest) = rest.split_once(' ')?;
                    let (tries, stops) = (tries.parse().ok()?, stops.parse().ok()?);
                    state.trial = Some(Trial { tries, stops, terms: terms(rest)? });
                }
                "untried" => state.untried = true,
                "probation" => state.probation = Some(rest.parse().ok()?),
                "taken" => state.taken = Some(rest.to_owned()),
                "failed" => {
                    let mut words = rest.splitn(4, ' ');
                    let digest = words.next()?.parse().ok()?;
                    let (version, why) = (words.next()?.to_owned(), words.next()?);
                    let why = Why::ALL.into_iter().find(|one| one.name() == why)?;
                    state.failed.push(Failed { digest, version, why, reason: words.next()?.to_owned() });
                }
                _ => return None,
            }
        }
        // One form only: no other order, no repetition, no `+1` or `01` for 1.
        (state.encode() == bytes).then_some(state)
    }
}

/// What the agent asks for: the file `request`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Never used again on this node.
    pub id: String,
    /// What it asks for.
    pub ask: Ask,
}

/// What an agent may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Try what was put into the idle slot.
    Try {
        /// The slot it was put into.
        slot: Slot,
        /// What was put there.
        content: Content,
        /// Conditions of the trial.
        terms: Terms,
        /// Try even if this digest failed here before.
        again: bool,
    },
    /// Go back to what the idle slot holds.
    Return {
        /// Why; one line.
        reason: String,
    },
}

impl Request {
    /// As on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut lines = Lines::new("fleet-supervisor-request 1");
        lines.add(format_args!("id {}", word(&self.id)));
        match &self.ask {
            Ask::Try { slot, content, terms, again } => {
                lines.add(format_args!("try {slot} {}", words(content)));
                lines.add(format_args!("terms {} {} {}", terms.tries, terms.trial_ms, terms.ceiling_ms));
                lines.add(format_args!("again {}", if *again { "yes" } else { "no" }));
            }
            Ask::Return { reason } => lines.add(format_args!("return {}", line(reason))),
        }
        lines.close()
    }

    /// From disk; nothing if these are not exactly the bytes of a request.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = open(bytes, "fleet-supervisor-request 1")?;
        let id = lines.next()?.strip_prefix("id ")?.to_owned();
        let ask = match lines.next()?.split_once(' ')? {
            ("try", rest) => {
                let (name, rest) = rest.split_once(' ')?;
                Ask::Try {
                    slot: slot(name)?,
                    content: content(rest)?,
                    terms: terms(lines.next()?.strip_prefix("terms ")?)?,
                    again: lines.next()? == "again yes",
                }
            }
            ("return", reason) => Ask::Return { reason: reason.to_owned() },
            _ => return None,
        };
        let request = Self { id, ask };
        (request.encode() == bytes).then_some(request)
    }
}

impl Content {
    /// As in the file `slot`.
    pub fn encode(&self) -> Vec<u8> {
        let mut lines = Lines::new("fleet-supervisor-slot 1");
        lines.add(format_args!("slot {}", words(self)));
        lines.close()
    }

    /// From the file `slot`; nothing if these are not exactly the bytes of one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = open(bytes, "fleet-supervisor-slot 1")?;
        let found = content(lines.next()?.strip_prefix("slot ")?)?;
        (found.encode() == bytes).then_some(found)
    }
}

struct Lines(String);

impl Lines {
    fn new(head: &str) -> Self {
        Self(format!("{head}\n"))
    }

    fn add(&mut self, line: fmt::Arguments<'_>) {
        self.0.push_str(&format!("{line}\n"));
    }

    fn close(mut self) -> Vec<u8> {
        let sum = Digest::of(self.0.as_bytes());
        self.add(format_args!("sum {sum}"));
        self.0.into_bytes()
    }
}

/// The lines between head and sum, if both are right.
fn open<'a>(bytes: &'a [u8], head: &str) -> Option<impl Iterator<Item = &'a str>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let body = &text[..text.trim_end_matches('\n').rfind('\n')? + 1];
    let sum = text[body.len()..].strip_prefix("sum ")?.strip_suffix('\n')?;
    (sum.parse() == Ok(Digest::of(body.as_bytes()))).then_some(())?;
    let mut lines = body.lines();
    (lines.next()? == head).then_some(lines)
}

fn words(content: &Content) -> String {
    let Content { digest, size, serial, version } = content;
    format!("{digest} {size} {serial} {}", word(version))
}

fn content(text: &str) -> Option<Content> {
    let mut words = text.split(' ');
    let content = Content {
        digest: words.next()?.parse().ok()?,
        size: words.next()?.parse().ok()?,
        serial: words.next()?.parse().ok()?,
        version: words.next()?.to_owned(),
    };
    words.next().is_none().then_some(content)
}

fn terms(text: &str) -> Option<Terms> {
    let mut words = text.split(' ').map(u64::from_str);
    let tries = u32::try_from(words.next()?.ok()?).ok()?;
    let terms = Terms { tries, trial_ms: words.next()?.ok()?, ceiling_ms: words.next()?.ok()? };
    words.next().is_none().then_some(terms)
}

fn slot(text: &str) -> Option<Slot> {
    Slot::BOTH.into_iter().find(|slot| slot.name() == text)
}

/// `text` as one printable word, so that no text can pose as another line.
pub fn word(text: &str) -> String {
    let word: String =
        text.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).take(MAX_TEXT).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

/// `text` as one line.
pub fn line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect();
    let line = line.trim();
    if line.is_empty() { "-".to_owned() } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> State {
        let content = |text: &str, serial| Content {
            digest: Digest::of(text.as_bytes()),
            size: 3,
            serial,
            version: text.to_owned(),
        };
        let mut state = State::new(Slot::B, content("0.1.0", 1));
        state.a = Some(content("0.2.0", 2));
        state.trial = Some(Trial { tries: 1, stops: 2, terms: Terms::default() });
        state.untried = true;
        state.probation = Some(2);
        state.taken = Some("x-1".to_owned());
        for text in ["0.0.1", "0.0.2"] {
            let reason = format!("{text} crashed: exit status 1");
            state.failed.push(Failed {
                digest: Digest::of(text.as_bytes()),
                version: text.to_owned(),
                why: Why::Late,
                reason,
            });
        }
        state
    }

    fn requests() -> Vec<Request> {
        let content = full().a.expect("content");
        let ask = Ask::Try { slot: Slot::A, content, terms: Terms::default(), again: true };
        let back = Ask::Return { reason: "the new one eats memory".to_owned() };
        vec![Request { id: "1".to_owned(), ask }, Request { id: "2".to_owned(), ask: back }]
    }

    #[test]
    fn records_come_back() {
        let state = full();
        assert_eq!(State::decode(&state.encode()), Some(state.clone()));
        let bare = State::new(Slot::A, state.a.clone().expect("content"));
        assert_eq!(State::decode(&bare.encode()), Some(bare));
        for request in requests() {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        let content = state.a.expect("content");
        assert_eq!(Content::decode(&content.encode()), Some(content));
    }

    #[test]
    fn nothing_but_the_whole_record_is_read() {
        let whole = full().encode();
        for cut in 0..whole.len() {
            assert_eq!(State::decode(&whole[..cut]), None, "cut at {cut}");
            let mut zeroed = whole.clone();
            zeroed[cut..].fill(0);
            assert_eq!(State::decode(&zeroed), None, "zeroed from {cut}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(State::decode(&flipped), None, "bit {bit} of byte {at}");
            }
        }
        assert_eq!(Request::decode(&whole), None);
        assert_eq!(State::decode(&requests()[0].encode()), None);
    }

    #[test]
    fn no_text_poses_as_a_line() {
        let mut state = full();
        state.failed[0].reason = "x\nactive a\u{7}".to_owned();
        state.failed[0].version = "1 2\n3".to_owned();
        let read = State::decode(&state.encode()).expect("still a record");
        assert_eq!(read.active, Slot::B);
        assert_eq!(read.failed[0].reason, "x active a");
        assert_eq!(read.failed[0].version, "1_2_3");
    }
}
