//! What sessions say that concerns rollouts: taken without waiting, read by the driver. And what a node under an order
//! may fetch.
//!
//! Bounded by what there is to say: of each node that it has news, and its latest answer to each gate. While there is no
//! rollout nothing is taken in at all: a new one looks at everybody afresh.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use fleet_model::NodeName;
use fleet_proto::v1;
use tokio::sync::{Notify, futures::Notified};

/// Gates of one node whose answers wait to be read; a policy has a few.
const GATES: usize = 64;
/// Longest name of a gate taken from an answer.
const NAME: usize = 128;

/// What is new of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// Its session began or ended.
    pub session: bool,
    /// It said where it stands with its releases.
    pub standing: bool,
    /// It said how its work goes.
    pub observed: bool,
    /// What its gates answered.
    pub gates: BTreeMap<String, v1::GateAnswer>,
}

/// The inbox.
#[derive(Debug, Default)]
pub struct Inbox {
    listening: AtomicBool,
    news: Mutex<BTreeMap<NodeName, News>>,
    bell: Notify,
    /// Digests of what nodes may fetch because an order names it.
    allowed: Mutex<HashMap<NodeName, Vec<String>>>,
}

impl Inbox {
    /// A session began or ended.
    pub fn session(&self, node: &NodeName) {
        self.tell(node, |news| news.session = true);
    }

    /// A node said where it stands.
    pub fn standing(&self, node: &NodeName) {
        self.tell(node, |news| news.standing = true);
    }

    /// A node said how its work goes.
    pub fn observed(&self, node: &NodeName) {
        self.tell(node, |news| news.observed = true);
    }

    /// A gate answered.
    pub fn gate(&self, node: &NodeName, answer: v1::GateAnswer) {
        if answer.gate.len() > NAME {
            return;
        }
        self.tell(node, |news| {
            if news.gates.len() < GATES || news.gates.contains_key(&answer.gate) {
                news.gates.insert(answer.gate.clone(), answer);
            }
        });
    }

    fn tell(&self, node: &NodeName, what: impl FnOnce(&mut News)) {
        if !self.listening.load(Ordering::Acquire) {
            return;
        }
        let mut all = self.news();
        match all.get_mut(node) {
            Some(news) => what(news),
            None => what(all.entry(node.clone()).or_default()),
        }
        drop(all);
        self.bell.notify_one();
    }

    /// Whether an order names `sha256` to `node`.
    pub fn may_fetch(&self, node: &NodeName, sha256: &str) -> bool {
        self.allowed().get(node).is_some_and(|allowed| allowed.iter().any(|digest| digest == sha256))
    }

    /// Lets a node fetch these, and nothing that was allowed before.
    pub fn allow(&self, node: &NodeName, digests: Vec<String>) {
        let mut allowed = self.allowed();
        if digests.is_empty() {
            allowed.remove(node);
        } else {
            allowed.insert(node.clone(), digests);
        }
    }

    /// Takes news in from now on, or no more.
    pub(super) fn listen(&self, listening: bool) {
        self.listening.store(listening, Ordering::Release);
        if !listening {
            self.news().clear();
        }
    }

    /// Wakes the driver whenever there is news.
    pub(super) fn bell(&self) -> Notified<'_> {
        self.bell.notified()
    }

    /// What is new; it counts as read.
    pub(super) fn take(&self) -> BTreeMap<NodeName, News> {
        std::mem::take(&mut self.news())
    }

    fn news(&self) -> MutexGuard<'_, BTreeMap<NodeName, News>> {
        // No critical section can leave it half changed.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allowed(&self) -> MutexGuard<'_, HashMap<NodeName, Vec<String>>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_together_is_read_together_and_never_more_than_there_is_room_for() {
        let inbox = Inbox::default();
        let node: NodeName = "a".parse().expect("a name");
        let answer =
            |gate: &str, passed| v1::GateAnswer { gate: gate.to_owned(), passed, ..Default::default() };
        inbox.session(&node);
        assert!(inbox.take().is_empty(), "nobody listens");
        inbox.listen(true);
        inbox.session(&node);
        inbox.standing(&node);
        inbox.observed(&node);
        inbox.gate(&node, answer("todo", false));
        inbox.gate(&node, answer("todo", true));
        inbox.gate(&node, answer(&"x".repeat(NAME + 1), true));
        let news = inbox.take().remove(&node).expect("news");
        assert!(
            news.session
                && news.standing
                && news.observed
                && news.gates["todo"].passed
                && news.gates.len() == 1
        );
        for number in 0..GATES + 9 {
            inbox.gate(&node, answer(&number.to_string(), true));
        }
        assert_eq!(inbox.take()[&node].gates.len(), GATES);
    }

    #[test]
    fn only_what_the_newest_order_names_may_be_fetched() {
        let inbox = Inbox::default();
        let [a, b] = ["a", "b"].map(|name| name.parse::<NodeName>().expect("a name"));
        inbox.allow(&a, vec!["11".to_owned()]);
        assert!(inbox.may_fetch(&a, "11") && !inbox.may_fetch(&b, "11") && !inbox.may_fetch(&a, "22"));
        inbox.allow(&a, vec!["22".to_owned()]);
        assert!(!inbox.may_fetch(&a, "11") && inbox.may_fetch(&a, "22"));
        inbox.allow(&a, Vec::new());
        assert!(!inbox.may_fetch(&a, "22"));
    }
}
