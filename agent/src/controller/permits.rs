//! Permits this node wants or holds. Survives the sessions it is asked and answered over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_proto::v1::{self, from_agent};
use fleet_task::Permission;
use tokio::{sync::Notify, time::Instant};

/// How old a *not yet* may be before it is asked for again: the controller tells when the turn has come, and this is
/// for the case that it forgot.
const STALE: Duration = Duration::from_secs(30);

/// The node's permits, and what is to be said about them.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    state: Mutex<State>,
    /// There is something to say to the controller.
    to_say: Notify,
    /// There is something the worker should look at.
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: BTreeMap<String, Wanted>,
    released: BTreeSet<String>,
}

#[derive(Debug)]
struct Wanted {
    task: String,
    answer: Answer,
    /// When it was last asked for; `None` means it is to be.
    asked: Option<Instant>,
}

#[derive(Debug)]
enum Answer {
    None,
    NotYet(String),
    Held { until: Instant, prolong: Instant },
}

impl Permits {
    /// Whether the permit is held; asks for it if not, and prolongs it if half its time is over.
    pub(crate) fn want(&self, permit: &str, task: &str) -> Permission {
        let now = Instant::now();
        let mut state = self.lock();
        let wanted = state.wanted.entry(permit.to_owned()).or_insert_with(|| Wanted {
            task: task.to_owned(),
            answer: Answer::None,
            asked: None,
        });
        if wanted.task != task {
            task.clone_into(&mut wanted.task);
            wanted.asked = None;
        }
        let permission = match &wanted.answer {
            Answer::Held { until, prolong } if now < *until => {
                if now >= *prolong && wanted.asked.is_some_and(|asked| asked < *prolong) {
                    wanted.asked = None;
                }
                Permission::Held
            }
            Answer::Held { .. } => {
                (wanted.answer, wanted.asked) = (Answer::None, None);
                Permission::Waiting(format!(
                    "the permit `{permit}`, whose time ran out and which is asked for again"
                ))
            }
            Answer::NotYet(reason) => {
                if wanted.asked.is_some_and(|asked| now >= asked + STALE) {
                    wanted.asked = None;
                }
                Permission::Waiting(reason.clone())
            }
            Answer::None => Permission::Waiting(format!("the controller's word on the permit `{permit}`")),
        };
        if wanted.asked.is_none() {
            self.to_say.notify_one();
        }
        permission
    }

    /// Gives a permit back. Said also of one this process knows nothing of: it may have been given before a restart.
    pub(crate) fn release(&self, permit: &str) {
        let mut state = self.lock();
        state.wanted.remove(permit);
        state.released.insert(permit.to_owned());
        self.to_say.notify_one();
    }

    /// A new session has opened: everything wanted is asked for again, what is held included.
    pub(crate) fn ask_again(&self) {
        self.lock().wanted.values_mut().for_each(|wanted| wanted.asked = None);
        self.to_say.notify_one();
    }

    /// The controller has answered.
    pub(crate) fn answered(&self, answer: v1::PermitAnswer) {
        let mut state = self.lock();
        let Some(wanted) = state.wanted.get_mut(&answer.permit) else {
            if answer.granted {
                // Nobody wants it any more.
                state.released.insert(answer.permit);
                self.to_say.notify_one();
            }
            return;
        };
        let was_held = matches!(wanted.answer, Answer::Held { .. });
        let was_open = matches!(wanted.answer, Answer::None);
        let now = Instant::now();
        wanted.answer = if answer.granted {
            let lasts = Duration::from_millis(u64::try_from(answer.expires_in_ms).unwrap_or(0));
            Answer::Held { until: now + lasts, prolong: now + lasts / 2 }
        } else {
            Answer::NotYet(answer.reason)
        };
        // A first word on it is worth showing, and a permit worth using.
        if (answer.granted && !was_held) || was_open {
            self.news.notify_one();
        }
    }

    /// The next thing to say, in an order the controller can follow: first what is given back.
    ///
    /// # Cancel safety
    /// Nothing is lost: what is handed out is taken off the list only then.
    pub(crate) async fn next(&self) -> from_agent::Message {
        loop {
            if let Some(message) = self.take() {
                return message;
            }
            self.to_say.notified().await;
        }
    }

    /// Returns when the worker should look again.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    fn take(&self) -> Option<from_agent::Message> {
        let mut state = self.lock();
        if let Some(permit) = state.released.pop_first() {
            return Some(from_agent::Message::Release(v1::PermitRelease { permit }));
        }
        let (permit, wanted) = state.wanted.iter_mut().find(|(_, wanted)| wanted.asked.is_none())?;
        wanted.asked = Some(Instant::now());
        Some(from_agent::Message::Ask(v1::PermitAsk { permit: permit.clone(), task: wanted.task.clone() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(permits: &Permits) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(message) = permits.take() {
            all.push(match message {
                from_agent::Message::Ask(ask) => format!("ask {} for {}", ask.permit, ask.task),
                from_agent::Message::Release(release) => format!("release {}", release.permit),
                other => panic!("not about permits: {other:?}"),
            });
        }
        all
    }

    fn grant(permit: &str, expires_in_ms: i64) -> v1::PermitAnswer {
        v1::PermitAnswer { permit: permit.into(), granted: true, expires_in_ms, reason: String::new() }
    }

    fn refuse(permit: &str, reason: &str) -> v1::PermitAnswer {
        v1::PermitAnswer { permit: permit.into(), reason: reason.into(), ..v1::PermitAnswer::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn asked_once_held_prolonged_and_run_out() {
        let permits = Permits::default();
        assert!(matches!(permits.want("reboot", "update"), Permission::Waiting(_)));
        assert!(matches!(permits.want("reboot", "update"), Permission::Waiting(_)));
        assert_eq!(said(&permits), ["ask reboot for update"]);
        permits.answered(refuse("reboot", "n2, which reboots"));
        assert_eq!(permits.want("reboot", "update"), Permission::Waiting("n2, which reboots".into()));
        assert!(said(&permits).is_empty(), "its turn is being kept");
        tokio::time::advance(STALE).await;
        permits.want("reboot", "update");
        assert_eq!(said(&permits), ["ask reboot for update"], "in case the controller forgot");

        permits.answered(grant("reboot", 10_000));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(permits.want("reboot", "update"), Permission::Held);
        assert!(said(&permits).is_empty());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(permits.want("reboot", "update"), Permission::Held);
        assert_eq!(said(&permits), ["ask reboot for update"], "more than half is over");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(matches!(permits.want("reboot", "update"), Permission::Waiting(_)), "ran out");
        assert_eq!(said(&permits), ["ask reboot for update"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_session_asks_for_everything_again() {
        let permits = Permits::default();
        permits.want("a", "t");
        permits.want("b", "t");
        said(&permits);
        permits.answered(grant("a", 10_000));
        permits.ask_again();
        assert_eq!(said(&permits), ["ask a for t", "ask b for t"]);
        assert_eq!(permits.want("a", "t"), Permission::Held, "until the controller says otherwise");
        permits.answered(refuse("a", "taken"));
        assert_eq!(permits.want("a", "t"), Permission::Waiting("taken".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn released_also_if_given_before_a_restart_or_too_late() {
        let permits = Permits::default();
        permits.release("before");
        permits.want("late", "t");
        permits.release("late");
        assert_eq!(said(&permits), ["release before", "release late"]);
        permits.answered(grant("late", 1000));
        assert_eq!(said(&permits), ["release late"]);
        permits.answered(refuse("late", "no"));
        assert!(said(&permits).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_worker_hears_of_grants_and_first_words() {
        let permits = Permits::default();
        let heard = async || tokio::time::timeout(Duration::from_millis(1), permits.news()).await.is_ok();
        permits.want("a", "t");
        assert!(!heard().await);
        permits.answered(refuse("a", "first"));
        assert!(heard().await);
        permits.answered(refuse("a", "second"));
        assert!(!heard().await);
        permits.answered(grant("a", 1000));
        assert!(heard().await);
        permits.answered(grant("a", 1000));
        assert!(!heard().await, "prolonged is no news");
    }
}
