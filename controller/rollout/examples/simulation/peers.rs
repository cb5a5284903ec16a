//! Rules of others, as their documents give them, on the same agents.
//!
//! Re-implementations of rules, not of programs: each sees the same words as the engine, and the agents fall back by
//! themselves under all of them, which most of these systems leave to somebody else.

use crate::fleet::{Seen, Strategy, Time, Want, Word};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Waiting,
    Sent(Time),
    Updated,
    Failed,
}

/// What every one of them keeps.
struct Book {
    nodes: Vec<At>,
    up: Vec<bool>,
    order: u64,
    now: Time,
}

impl Book {
    fn new(count: usize) -> Self {
        Self { nodes: vec![At::Waiting; count], up: vec![false; count], order: 0, now: 0 }
    }

    fn see(&mut self, seen: &Seen, now: Time) {
        self.now = now;
        match *seen {
            Seen::Session(i, open) => self.up[i] = open,
            Seen::Said(i, _, Word::New) => self.nodes[i] = At::Updated,
            Seen::Said(i, _, Word::Returned) => self.nodes[i] = At::Failed,
            // Who says it runs the old version is seen as not updated: a clone makes them send again.
            Seen::Said(i, _, Word::Old) if self.nodes[i] == At::Updated => self.nodes[i] = At::Waiting,
            _ => {}
        }
    }

    fn sent(&self) -> usize {
        self.nodes.iter().filter(|at| matches!(at, At::Sent(_))).count()
    }

    fn failed(&self) -> usize {
        self.nodes.iter().filter(|at| **at == At::Failed).count()
    }

    fn send(&mut self, i: usize) -> Want {
        self.order += 1;
        self.nodes[i] = At::Sent(self.now);
        Want::Update(i, self.order)
    }

    /// As many as there is room for, of those that wait and have a session.
    fn fill(&mut self, room: usize, among: impl Fn(usize) -> bool) -> Vec<Want> {
        let next: Vec<usize> = (0..self.nodes.len())
            .filter(|i| self.nodes[*i] == At::Waiting && self.up[*i] && among(*i))
            .take(room)
            .collect();
        next.into_iter().map(|i| self.send(i)).collect()
    }

    fn all_seen(&self) -> bool {
        (0..self.nodes.len()).all(|i| matches!(self.nodes[i], At::Updated | At::Failed) || !self.up[i])
    }
}

/// brupop (one at a time) and FleetLock (a counting semaphore): a slot is free again when its holder is through,
/// however that went; nothing halts.
pub struct Slots {
    book: Book,
    slots: usize,
}

impl Slots {
    pub fn new(count: usize, slots: usize) -> Self {
        Self { book: Book::new(count), slots }
    }
}

impl Strategy for Slots {
    fn see(&mut self, seen: &Seen, now: Time) -> Vec<Want> {
        self.book.see(seen, now);
        let room = self.slots.saturating_sub(self.book.sent());
        if matches!(seen, Seen::Tick) { self.book.fill(room, |_| true) } else { Vec::new() }
    }

    fn halted(&self) -> bool {
        false
    }

    fn finished(&self) -> bool {
        self.book.now > 20 && self.book.all_seen()
    }
}

/// hawkBit: groups; a share of successes opens the next one, a share of errors stops everything.
pub struct Groups {
    book: Book,
    groups: usize,
    open: usize,
    success: usize,
    error: usize,
    halted: bool,
}

impl Groups {
    /// `success` and `error` in percent of a group.
    pub fn new(count: usize, groups: usize, success: usize, error: usize) -> Self {
        Self { book: Book::new(count), groups, open: 0, success, error, halted: false }
    }

    fn group(&self, i: usize) -> usize {
        i * self.groups / self.book.nodes.len()
    }
}

impl Strategy for Groups {
    fn see(&mut self, seen: &Seen, now: Time) -> Vec<Want> {
        self.book.see(seen, now);
        if !matches!(seen, Seen::Tick) || self.halted {
            return Vec::new();
        }
        for group in 0..=self.open {
            let all: Vec<At> = (0..self.book.nodes.len())
                .filter(|i| self.group(*i) == group)
                .map(|i| self.book.nodes[i])
                .collect();
            let share = |at: At| all.iter().filter(|x| **x == at).count() * 100 / all.len();
            if share(At::Failed) >= self.error {
                self.halted = true;
                return Vec::new();
            }
            if group == self.open && share(At::Updated) >= self.success && self.open + 1 < self.groups {
                self.open += 1;
            }
        }
        let (open, groups, count) = (self.open, self.groups, self.book.nodes.len());
        self.book.fill(count, |i| i * groups / count <= open)
    }

    fn halted(&self) -> bool {
        self.halted
    }

    fn finished(&self) -> bool {
        !self.halted && self.open + 1 == self.groups && self.book.all_seen()
    }
}

/// Teleport: five canaries have to say the new version within 20 minutes; then as many in flight as may be, and a stop
/// when too many drop off.
pub struct Canaries {
    book: Book,
    canaries: Vec<usize>,
    begun: Time,
    in_flight: usize,
    passed: bool,
    halted: bool,
}

impl Canaries {
    pub fn new(count: usize, in_flight: usize) -> Self {
        Self {
            book: Book::new(count),
            canaries: Vec::new(),
            begun: 0,
            in_flight,
            passed: false,
            halted: false,
        }
    }
}

impl Strategy for Canaries {
    fn see(&mut self, seen: &Seen, now: Time) -> Vec<Want> {
        self.book.see(seen, now);
        if !matches!(seen, Seen::Tick) || self.halted {
            return Vec::new();
        }
        if self.canaries.is_empty() {
            let wants = self.book.fill(5, |_| true);
            self.canaries = wants
                .iter()
                .filter_map(|want| if let Want::Update(i, _) = want { Some(*i) } else { None })
                .collect();
            self.begun = now;
            return wants;
        }
        if !self.passed {
            self.passed = self.canaries.iter().all(|i| self.book.nodes[*i] == At::Updated);
            self.halted = !self.passed && now >= self.begun + 20 * 60;
            return Vec::new();
        }
        // Dropped off: sent, and neither there nor heard of.
        let dropped = (0..self.book.nodes.len())
            .filter(|i| matches!(self.book.nodes[*i], At::Sent(at) if !self.book.up[*i] && now >= at + 300))
            .count();
        if dropped + self.book.failed() >= self.in_flight {
            self.halted = true;
            return Vec::new();
        }
        let room = self.in_flight.saturating_sub(self.book.sent());
        self.book.fill(room, |_| true)
    }

    fn halted(&self) -> bool {
        self.halted
    }

    fn finished(&self) -> bool {
        self.passed && !self.halted && self.book.all_seen()
    }
}
