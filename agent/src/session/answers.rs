//! Answers of the worker to commands, on their way to whoever asked.

use fleet_proto::v1;
use tokio::{sync::oneshot, task::JoinSet};

/// Answers that wait for the worker. They end with the session: whoever asked asks again at the next.
#[derive(Debug, Default)]
pub(super) struct Answers(JoinSet<Option<v1::Answer>>);

impl Answers {
    /// How many are waited for.
    pub(super) fn waiting(&self) -> usize {
        self.0.len()
    }

    /// Waits for what the worker says of command `id`.
    pub(super) fn expect(&mut self, id: u64, said: oneshot::Receiver<String>) {
        // None if the worker ends first; then so does everything.
        self.0.spawn(async move { said.await.ok().map(|error| v1::Answer { id, error }) });
    }

    /// The next that has come.
    ///
    /// # Cancel safety
    /// None is lost.
    pub(super) async fn next(&mut self) -> v1::Answer {
        loop {
            match self.0.join_next().await {
                Some(Ok(Some(answer))) => return answer,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_come_as_they_are_ready_and_a_worker_that_ends_says_nothing() {
        let mut answers = Answers::default();
        let [(first, wait), (second, later), (gone, never)] = std::array::from_fn(|_| oneshot::channel());
        answers.expect(1, wait);
        answers.expect(2, later);
        answers.expect(3, never);
        drop(gone);
        second.send("no".to_owned()).expect("waited for");
        assert_eq!(answers.next().await, v1::Answer { id: 2, error: "no".to_owned() });
        first.send(String::new()).expect("waited for");
        assert_eq!(answers.next().await, v1::Answer { id: 1, error: String::new() });
    }

    #[tokio::test]
    async fn nothing_waits_on_when_the_session_has_ended() {
        let mut answers = Answers::default();
        let (mut worker, said) = oneshot::channel();
        answers.expect(1, said);
        assert_eq!((answers.waiting(), worker.is_closed()), (1, false));
        drop(answers);
        // Ends only if whoever waited has ended.
        worker.closed().await;
    }
}
