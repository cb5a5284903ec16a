//! One session: reads the agent's messages and yields ours, in the one task that writes the answer stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use fleet_model::Clock;
use fleet_proto::v1::{self, from_agent};
use futures::Stream;
use tonic::{Status, Streaming};

use super::{
    dispatch::Dispatch,
    registry::{Live, Registry},
};
use crate::{
    permit::{Ask, inbox::Inbox},
    rollout,
};

/// Messages read in one go before other sessions get their turn.
const BURST: usize = 32;

/// What a session works with.
#[derive(Debug)]
pub struct Desk {
    /// Who is there.
    pub registry: Registry,
    /// Questions under way.
    pub dispatch: Dispatch,
    /// What agents want that only so many may do at a time.
    pub permits: Inbox,
    /// What agents say that rollouts wait for.
    pub rollouts: rollout::inbox::Inbox,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// An open session; leaves the registry when dropped.
pub struct SessionStream {
    desk: Arc<Desk>,
    live: Arc<Live>,
    inbound: Streaming<v1::FromAgent>,
    welcome: Option<Box<v1::ToAgent>>,
    done: bool,
}

impl SessionStream {
    /// A session that greets with `welcome`.
    pub fn new(
        desk: Arc<Desk>,
        live: Arc<Live>,
        inbound: Streaming<v1::FromAgent>,
        welcome: v1::ToAgent,
    ) -> Self {
        desk.permits.session(&live.node);
        desk.rollouts.session(&live.node);
        Self { desk, live, inbound, welcome: Some(Box::new(welcome)), done: false }
    }

    fn take(&self, message: v1::FromAgent) {
        self.live.heard();
        match message.message {
            Some(from_agent::Message::Facts(facts)) => self.desk.registry.facts(&self.live, facts),
            Some(from_agent::Message::Observed(observed)) => {
                self.desk.registry.observed(&self.live, observed);
                self.desk.permits.observed(&self.live.node);
                self.desk.rollouts.observed(&self.live.node);
            }
            Some(from_agent::Message::Ask(ask)) => self.ask(&ask),
            Some(from_agent::Message::Release(release)) => {
                // What is no permit cannot be held either.
                if let Ok(permit) = release.permit.parse() {
                    self.desk.permits.release(&self.live.node, permit);
                }
            }
            Some(from_agent::Message::Answer(answer)) => self.desk.dispatch.answer(&self.live, &answer),
            Some(from_agent::Message::Standing(standing)) => {
                if self.desk.registry.standing(&self.live, standing) {
                    self.desk.rollouts.standing(&self.live.node);
                }
            }
            Some(from_agent::Message::Gate(answer)) => {
                if self.desk.registry.is_current(&self.live) {
                    self.desk.rollouts.gate(&self.live.node, answer);
                }
            }
            // Being heard is all a heartbeat is for, but for its clock.
            Some(from_agent::Message::Heartbeat(beat)) => self.live.clock(beat.node_time_ms),
            // A second greeting says nothing new; what we do not know comes from a newer agent and can wait.
            Some(from_agent::Message::Hello(_)) | None => {}
        }
    }

    /// Passes a question on that makes sense; answers one that makes none.
    fn ask(&self, ask: &v1::PermitAsk) {
        let desired = self.desk.registry.desired(&self.live.node);
        let taken = Ask::read(ask, desired.as_deref()).and_then(|ask| {
            self.desk.permits.ask(&self.live.node, ask).map_err(|too_many| too_many.to_string())
        });
        if let Err(reason) = taken {
            let permit = ask.permit.chars().take(80).collect();
            self.live.permit(v1::PermitAnswer { permit, granted: false, expires_in_ms: 0, reason });
        }
    }

    /// Whether the agent's side is over.
    fn poll_inbound(&mut self, context: &mut Context<'_>) -> bool {
        for _ in 0..BURST {
            match Pin::new(&mut self.inbound).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => self.take(message),
                Poll::Ready(Some(Err(status))) => {
                    tracing::debug!(node = %self.live.node, %status, "session broke");
                    return true;
                }
                Poll::Ready(None) => return true,
                Poll::Pending => return false,
            }
        }
        context.waker().wake_by_ref();
        false
    }
}

impl Stream for SessionStream {
    type Item = Result<v1::ToAgent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        if let Some(welcome) = self.welcome.take() {
            return Poll::Ready(Some(Ok(*welcome)));
        }
        // Inbound first: answers and facts arrive even while we have much to say.
        let over = self.poll_inbound(context);
        if let Some(next) = self.live.poll_outbox(context.waker()) {
            self.done = next.is_err();
            return Poll::Ready(Some(next));
        }
        if over { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        self.desk.registry.leave(&self.live);
        self.desk.permits.session(&self.live.node);
        self.desk.rollouts.session(&self.live.node);
    }
}
