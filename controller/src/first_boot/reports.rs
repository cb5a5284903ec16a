//! What new servers say of their first boot, before they have an identity.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fleet_model::NodeName;
use fleet_proto::v1::Stage;
use tokio::sync::watch;

use crate::enrol::token::TokenHash;

/// The latest word from a first boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// How far it is.
    Reached(Stage),
    /// It failed: the failing line.
    Failed(String),
    /// The agent wanted to enrol and was refused: why, and what to do.
    Refused(String),
}

/// Reports of every first boot somebody waits for, by the token of its seed: each attempt has its own, so that what
/// an earlier one still has to say is not taken for news of this one.
#[derive(Debug, Default)]
pub struct FirstBoots(Mutex<HashMap<TokenHash, watch::Sender<Option<Report>>>>);

impl FirstBoots {
    /// Waits for reports of the attempt whose seed holds this token.
    pub fn expect(&self, token: &TokenHash) -> watch::Receiver<Option<Report>> {
        let mut waiting = self.waiting();
        // Those nobody waits for any more go.
        waiting.retain(|_, sender| sender.receiver_count() > 0);
        let (sender, receiver) = watch::channel(None);
        waiting.insert(token.clone(), sender);
        receiver
    }

    /// Takes a report; dropped if nobody waits for it.
    pub fn reported(&self, token: &TokenHash, node: &NodeName, stage: Stage, failure: String) {
        tracing::info!(%node, stage = stage.as_str_name(), failure, "first boot");
        let report = if stage == Stage::Failed { Report::Failed(failure) } else { Report::Reached(stage) };
        self.tell(token, report);
    }

    /// Takes the news that whoever brought this token was refused when it wanted to enrol.
    pub fn refused(&self, token: &TokenHash, why: String) {
        self.tell(token, Report::Refused(why));
    }

    fn tell(&self, token: &TokenHash, report: Report) {
        if let Some(sender) = self.waiting().get(token) {
            sender.send_replace(Some(report));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<TokenHash, watch::Sender<Option<Report>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_attempt_is_not_heard_in_a_later_one() {
        let boots = FirstBoots::default();
        let node: NodeName = "web-1".parse().expect("a name");
        let [first, second] = ["first", "second"].map(|text| TokenHash::of(text).expect("plausible"));
        let mut earlier = boots.expect(&first);
        let mut later = boots.expect(&second);
        boots.reported(&first, &node, Stage::Failed, "no space left on device".to_owned());
        boots.refused(&first, "the clock is off".to_owned());
        assert!(!later.has_changed().expect("open"), "that was about the earlier one");
        assert!(earlier.has_changed().expect("open"));
        boots.reported(&second, &node, Stage::SeedRead, String::new());
        assert_eq!(*later.borrow_and_update(), Some(Report::Reached(Stage::SeedRead)));
        assert_eq!(*earlier.borrow_and_update(), Some(Report::Refused("the clock is off".to_owned())));
    }
}
