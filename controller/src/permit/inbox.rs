//! What sessions say about permits: taken without waiting, read by the keeper. And what the keeper shows of it.
//!
//! Bounded by what there is to say: one word a node and permit, of which the latest counts; and news only of nodes
//! somebody waits for, so that ten thousand sessions that want nothing cost nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use fleet_model::NodeName;
use tokio::sync::{Notify, futures::Notified};

use super::{Ask, Permit};

/// Permits one node may ask for or give back before the keeper has read it, and may wait for afterwards. A node has a
/// task or two that ask.
pub const MOST: usize = 16;

/// A node wants more permits at once than [`MOST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node waits for {MOST} permits already; it is given no more before it has or gives up one of those"
)]
pub struct TooMany;

/// The latest a node said about a permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It wants it, for this task.
    Ask(String),
    /// It gives it back.
    Release,
}

/// What was said and happened since it was last looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// By node and permit.
    pub said: BTreeMap<(NodeName, Permit), Said>,
    /// Somebody waited for reported, came or went.
    pub changed: bool,
    /// Anybody came or went, while somebody waits for all to be there.
    pub sessions: bool,
}

/// The inbox.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    bell: Notify,
    /// What each node holds and waits for, in words.
    shown: Mutex<BTreeMap<NodeName, Vec<String>>>,
}

#[derive(Debug, Default)]
struct State {
    news: News,
    /// Nodes somebody waits for, and how many do.
    watched: HashMap<NodeName, usize>,
    /// How many wait for all to be there.
    watching_all: usize,
}

impl Inbox {
    /// A node asks.
    ///
    /// # Errors
    /// [`TooMany`]; the node is to be told.
    pub fn ask(&self, node: &NodeName, ask: Ask) -> Result<(), TooMany> {
        self.say(node, ask.permit, Said::Ask(ask.task))
    }

    /// A node gives back. One that gives back too much at once is not heard: what it has runs out by itself.
    pub fn release(&self, node: &NodeName, permit: Permit) {
        if let Err(error) = self.say(node, permit, Said::Release) {
            tracing::warn!(%node, %error, "a permit given back was not taken");
        }
    }

    fn say(&self, node: &NodeName, permit: Permit, said: Said) -> Result<(), TooMany> {
        let mut state = self.state();
        let all = &mut state.news.said;
        let key = (node.clone(), permit);
        // Permits sort from `reboot` on.
        let from = (node.clone(), Permit::Reboot);
        let others = all.range(from..).take_while(|((other, _), _)| other == node);
        if !all.contains_key(&key) && others.count() >= MOST {
            return Err(TooMany);
        }
        all.insert(key, said);
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    /// A node reported.
    pub fn observed(&self, node: &NodeName) {
        let mut state = self.state();
        if state.watched.contains_key(node) {
            state.news.changed = true;
            drop(state);
            self.bell.notify_one();
        }
    }

    /// A node's session began or ended.
    pub fn session(&self, node: &NodeName) {
        let mut state = self.state();
        let (one, all) = (state.watched.contains_key(node), state.watching_all > 0);
        state.news.changed |= one;
        state.news.sessions |= all;
        drop(state);
        if one || all {
            self.bell.notify_one();
        }
    }

    /// What a node holds and waits for, in words.
    pub fn shown(&self, node: &NodeName) -> Vec<String> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.get(node).cloned().unwrap_or_default()
    }

    pub(super) fn show(&self, shown: BTreeMap<NodeName, Vec<String>>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    /// Wakes the keeper whenever there is news.
    pub(super) fn bell(&self) -> Notified<'_> {
        self.bell.notified()
    }

    /// What is new; it counts as read.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut self.state().news)
    }

    /// Somebody waits for these nodes, or for all.
    pub(super) fn watch(&self, nodes: &BTreeSet<NodeName>, all: bool) {
        let mut state = self.state();
        for node in nodes {
            *state.watched.entry(node.clone()).or_default() += 1;
        }
        state.watching_all += usize::from(all);
    }

    /// Takes back what was said with [`Inbox::watch`].
    pub(super) fn unwatch(&self, nodes: &BTreeSet<NodeName>, all: bool) {
        let mut state = self.state();
        for node in nodes {
            if let Some(count) = state.watched.get_mut(node) {
                *count -= 1;
                if *count == 0 {
                    state.watched.remove(node);
                }
            }
        }
        state.watching_all -= usize::from(all);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().expect("a name")
    }

    #[test]
    fn the_latest_word_counts() {
        let inbox = Inbox::default();
        let ask = || Ask { permit: Permit::Reboot, task: "t".to_owned() };
        inbox.ask(&node("a"), ask()).expect("room");
        inbox.release(&node("a"), Permit::Reboot);
        inbox.ask(&node("b"), ask()).expect("room");
        let said = inbox.take().said;
        assert_eq!(said[&(node("a"), Permit::Reboot)], Said::Release);
        assert_eq!(said[&(node("b"), Permit::Reboot)], Said::Ask("t".to_owned()));
        assert_eq!(inbox.take(), News::default());
    }

    #[test]
    fn a_node_that_asks_for_everything_takes_nobodys_room() {
        let inbox = Inbox::default();
        let join = |number: usize| Ask { permit: Permit::Join(format!("c{number}")), task: "t".to_owned() };
        for number in 0..MOST {
            assert_eq!(inbox.ask(&node("b"), join(number)), Ok(()));
        }
        assert_eq!(inbox.ask(&node("b"), join(MOST)), Err(TooMany));
        assert_eq!(inbox.ask(&node("b"), Ask { permit: Permit::Reboot, task: "t".to_owned() }), Err(TooMany));
        inbox.release(&node("b"), Permit::Found("x".to_owned()));
        assert_eq!(inbox.ask(&node("b"), join(0)), Ok(()), "the same again");
        for other in ["a", "c"] {
            assert_eq!(inbox.ask(&node(other), join(MOST)), Ok(()), "{other} is another one");
        }
        assert_eq!(inbox.take().said.len(), MOST + 2);
        assert_eq!(inbox.ask(&node("b"), join(MOST)), Ok(()), "what was read takes no room");
    }

    #[test]
    fn only_nodes_somebody_waits_for_are_news() {
        let inbox = Inbox::default();
        let wanted = BTreeSet::from([node("a")]);
        let check = |what: &str, changed, sessions| {
            inbox.observed(&node("a"));
            inbox.session(&node("b"));
            let news = inbox.take();
            assert_eq!((news.changed, news.sessions), (changed, sessions), "{what}");
        };
        check("nobody waits", false, false);
        inbox.watch(&wanted, false);
        inbox.watch(&wanted, true);
        check("two wait", true, true);
        inbox.unwatch(&wanted, true);
        check("one waits", true, false);
        inbox.unwatch(&wanted, false);
        check("nobody any more", false, false);
    }
}
