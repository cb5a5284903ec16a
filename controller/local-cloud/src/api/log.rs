//! The last calls, for tests and for people who ask what a client did.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Calls remembered.
const CAPACITY: usize = 2000;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number of the call since the cloud started.
    pub number: u64,
    /// When it was answered, RFC 3339.
    pub time: String,
    /// `GET` or `POST`.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// `DEPLOY_SERVER`, `LIST_VLAN`, …
    pub operation: String,
    /// Whether it changes anything.
    pub changing: bool,
    /// HTTP status; 0 if the connection was closed on purpose instead.
    pub status: u16,
    /// Response code; empty for reads that went well.
    pub code: String,
}

/// A ring of calls.
#[derive(Debug, Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    count: u64,
}

impl Log {
    /// Remembers a call; numbers it.
    pub fn push(&mut self, mut entry: Entry) {
        self.count += 1;
        entry.number = self.count;
        if self.entries.len() == CAPACITY {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Calls with a number above `after`, oldest first.
    pub fn after(&self, after: u64) -> Vec<&Entry> {
        self.entries.iter().filter(|entry| entry.number > after).collect()
    }

    /// Calls so far.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest() {
        let mut log = Log::default();
        for number in 0..CAPACITY as u64 + 5 {
            log.push(Entry {
                number: 0,
                time: String::new(),
                method: "GET".into(),
                path: format!("/{number}"),
                operation: String::new(),
                changing: false,
                status: 200,
                code: String::new(),
            });
        }
        assert_eq!(log.after(0).len(), CAPACITY);
        assert_eq!(log.after(0)[0].path, "/5");
        assert_eq!(log.after(log.count() - 1)[0].path, format!("/{}", CAPACITY + 4));
    }
}
