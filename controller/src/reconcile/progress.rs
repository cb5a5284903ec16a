//! What a run tells: to anybody who listens, from the beginning, never holding the run up.

use std::sync::{Arc, OnceLock};

use fleet_model::{Clock, NodeName};
use fleet_proto::v1::{self, progress::What};
use fleet_provider::event::{Step, StepState, Verb};
use tokio::sync::broadcast::{self, error::RecvError};

/// Progress kept for listeners that are behind; beyond it they miss some, never the end.
const BACKLOG: usize = 1024;

/// The sending side; lives as long as the run.
#[derive(Debug)]
pub struct Teller {
    sender: broadcast::Sender<v1::Progress>,
    end: Arc<OnceLock<v1::Progress>>,
    clock: Arc<dyn Clock>,
}

/// The listening side.
#[derive(Debug)]
pub struct Listener {
    receiver: broadcast::Receiver<v1::Progress>,
    end: Arc<OnceLock<v1::Progress>>,
    ended: bool,
}

impl Teller {
    /// A teller and its first listener.
    pub fn new(clock: Arc<dyn Clock>) -> (Self, Listener) {
        let (sender, receiver) = broadcast::channel(BACKLOG);
        let end = Arc::new(OnceLock::new());
        (Self { sender, end: end.clone(), clock }, Listener { receiver, end, ended: false })
    }

    /// A line for people about the run as a whole.
    pub fn note(&self, line: impl Into<String>) {
        self.tell(What::Note(line.into()));
    }

    /// How far a node is.
    pub fn node(&self, node: &NodeName, state: v1::NodeState, detail: &str) {
        self.tell(What::Node(v1::NodeProgress {
            node: node.to_string(),
            state: state.into(),
            detail: detail.to_owned(),
        }));
    }

    /// How far a step is.
    pub fn step(&self, step: &Step, state: &StepState) {
        let (state, detail) = match state {
            StepState::Started => (v1::StepState::Started, step.detail.as_str()),
            StepState::Waiting(why) => (v1::StepState::Waiting, why.as_str()),
            StepState::Done => (v1::StepState::Done, step.detail.as_str()),
            StepState::Failed(why) => (v1::StepState::Failed, why.as_str()),
        };
        self.tell(What::Step(v1::StepProgress {
            kind: step.kind.to_owned(),
            name: step.name.clone(),
            location: step.location.clone(),
            verb: verb(step.verb).into(),
            state: state.into(),
            detail: detail.to_owned(),
        }));
    }

    /// The end, told to everybody however far behind.
    pub fn finish(self, finished: v1::Finished) {
        let progress = self.stamped(What::Finished(finished));
        // Set once: finishing takes the teller.
        self.end.set(progress).ok();
    }

    fn tell(&self, what: What) {
        // Nobody listening is fine.
        self.sender.send(self.stamped(what)).ok();
    }

    fn stamped(&self, what: What) -> v1::Progress {
        v1::Progress { at_ms: self.clock.now().as_millis(), what: Some(what) }
    }
}

impl Listener {
    /// What is told next; `None` after the end.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<v1::Progress> {
        loop {
            match self.receiver.recv().await {
                Ok(progress) => return Some(progress),
                // Only how it went is missed; where it is follows.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) if self.ended => return None,
                Err(RecvError::Closed) => {
                    self.ended = true;
                    return self.end.get().cloned();
                }
            }
        }
    }
}

/// The word for a step's verb on the wire.
pub fn verb(verb: Verb) -> v1::StepVerb {
    match verb {
        Verb::Create => v1::StepVerb::StepCreate,
        Verb::Change => v1::StepVerb::StepChange,
        Verb::Destroy => v1::StepVerb::StepDestroy,
        Verb::Replace => v1::StepVerb::StepReplace,
        Verb::Adopt => v1::StepVerb::StepAdopt,
        Verb::Release => v1::StepVerb::StepRelease,
    }
}

#[cfg(test)]
mod tests {
    use fleet_model::SystemClock;

    use super::*;

    #[tokio::test]
    async fn the_end_reaches_those_who_are_behind() {
        let (teller, mut listener) = Teller::new(Arc::new(SystemClock));
        for number in 0..BACKLOG * 2 {
            teller.note(number.to_string());
        }
        teller.finish(v1::Finished { ok: true, ..v1::Finished::default() });
        let mut told = Vec::new();
        while let Some(progress) = listener.next().await {
            told.push(progress.what.expect("something"));
        }
        assert_eq!(told.len(), BACKLOG + 1);
        assert_eq!(told[0], What::Note(BACKLOG.to_string()), "the oldest were missed");
        assert!(matches!(told.last(), Some(What::Finished(finished)) if finished.ok));
    }

    #[tokio::test]
    async fn a_run_that_dies_ends_without_an_end() {
        let (teller, mut listener) = Teller::new(Arc::new(SystemClock));
        drop(teller);
        assert_eq!(listener.next().await, None);
    }
}
