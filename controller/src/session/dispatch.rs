//! One question to many nodes: each answers once, and those that did not are listed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fleet_model::NodeName;
use fleet_proto::v1::{self, command};
use tokio::{sync::Notify, time::Instant};

use super::registry::Live;

/// Bits of a command's id that say which of the asked nodes it is; the rest count rounds.
const INDEX_BITS: u32 = 24;
/// Longest error taken from an answer, in characters.
const ERROR: usize = 2048;

/// Rounds of questions under way.
#[derive(Debug, Default)]
pub struct Dispatch {
    rounds: Mutex<HashMap<u64, Arc<Round>>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Round {
    asked: Vec<(Arc<Live>, AtomicBool)>,
    left: AtomicUsize,
    begun: Instant,
    /// What went wrong where it did.
    failed: Mutex<Vec<(NodeName, String)>>,
    /// Microseconds from the first question to the latest answer.
    took_us: AtomicU64,
    done: Notify,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// How many answered.
    pub answered: usize,
    /// Who could not do as asked, and why.
    pub failed: Vec<(NodeName, String)>,
    /// Who did not, sorted.
    pub silent: Vec<NodeName>,
    /// From the first question sent to the last answer received.
    pub took: Duration,
}

impl Dispatch {
    /// Asks every one of `lives` and waits until all have answered, at most `timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future ends the round; answers that come later are ignored.
    pub async fn ask(&self, lives: Vec<Arc<Live>>, what: command::What, timeout: Duration) -> Answers {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let round = Arc::new(Round {
            left: AtomicUsize::new(lives.len()),
            asked: lives.into_iter().map(|live| (live, AtomicBool::new(false))).collect(),
            begun: Instant::now(),
            failed: Mutex::default(),
            took_us: AtomicU64::new(0),
            done: Notify::new(),
        });
        self.rounds().insert(number, round.clone());
        let _open = Open { dispatch: self, number };
        for (index, (live, _)) in round.asked.iter().enumerate() {
            let index = u64::try_from(index).unwrap_or(u64::MAX);
            // One that takes no more commands will not answer either, and is listed at the end.
            live.command(v1::Command { id: number << INDEX_BITS | index, what: Some(what.clone()) });
        }
        if round.left.load(Ordering::Acquire) > 0 {
            tokio::time::timeout(timeout, round.done.notified()).await.ok();
        }
        round.answers()
    }

    /// Takes an answer; late, repeated and foreign ones change nothing.
    pub fn answer(&self, live: &Live, answer: &v1::Answer) {
        let Some(round) = self.rounds().get(&(answer.id >> INDEX_BITS)).cloned() else { return };
        let index = usize::try_from(answer.id & ((1 << INDEX_BITS) - 1)).unwrap_or(usize::MAX);
        let Some((asked, answered)) = round.asked.get(index) else { return };
        // Who answers is known from the session, not from the number it sends.
        if asked.node != live.node || answered.swap(true, Ordering::AcqRel) {
            return;
        }
        if !answer.error.is_empty() {
            let error = answer.error.chars().take(ERROR).collect();
            let mut failed = round.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.push((live.node.clone(), error));
        }
        let took = u64::try_from(round.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        round.took_us.fetch_max(took, Ordering::AcqRel);
        if round.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            round.done.notify_one();
        }
    }

    fn rounds(&self) -> MutexGuard<'_, HashMap<u64, Arc<Round>>> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    fn answers(&self) -> Answers {
        let mut silent: Vec<_> = self
            .asked
            .iter()
            .filter(|(_, answered)| !answered.load(Ordering::Acquire))
            .map(|(live, _)| live.node.clone())
            .collect();
        silent.sort();
        Answers {
            answered: self.asked.len() - silent.len(),
            failed: self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            silent,
            took: Duration::from_micros(self.took_us.load(Ordering::Acquire)),
        }
    }
}

/// Ends the round when the asker goes, however it goes.
struct Open<'a> {
    dispatch: &'a Dispatch,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.dispatch.rounds().remove(&self.number);
    }
}
