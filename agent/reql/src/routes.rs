//! Which token belongs to whom, and the frames that wait to be written. No I/O: the two tasks of a
//! connection and its queries meet here, under a lock that is never held across an await.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    ReqlError, frame,
    response::{self, Response},
};

/// Numbers of `Query.QueryType` in the public `ql2.proto`, as whole queries.
const CONTINUE: &[u8] = b"[2]";
const STOP: &[u8] = b"[3]";

pub(crate) type Answer = Result<Response, ReqlError>;

/// What the tasks and the queries of one connection share.
pub(crate) struct Routes {
    state: Mutex<State>,
    /// The writer waits here for frames.
    pub(crate) filled: Notify,
    /// Cancelled once the connection has ended, for whatever reason.
    pub(crate) ended: CancellationToken,
}

#[derive(Default)]
struct State {
    last_token: u64,
    live: HashMap<u64, Live>,
    outbox: VecDeque<Outgoing>,
    /// Answers so far; tells a quiet connection from a dead one.
    heard: u64,
    end: Option<Arc<str>>,
}

/// A query somebody waits for.
struct Live {
    answer: mpsc::Sender<Answer>,
    sent: bool,
    /// The server owes an answer, or holds a cursor: it must be told when nobody waits any more.
    open: bool,
    permit: OwnedSemaphorePermit,
}

struct Outgoing {
    token: u64,
    bytes: Vec<u8>,
    /// Kept with a STOP until it is written, so that the outbox has a bound: per permit, two frames.
    _permit: Option<OwnedSemaphorePermit>,
}

/// A place among the routes; letting go of it stops the query.
pub(crate) struct Ticket {
    routes: Arc<Routes>,
    token: u64,
    pub(crate) answer: mpsc::Receiver<Answer>,
}

impl Routes {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), filled: Notify::new(), ended: CancellationToken::new() })
    }

    /// Puts a query into the outbox.
    pub(crate) fn start(
        self: &Arc<Self>,
        query: &[u8],
        permit: OwnedSemaphorePermit,
    ) -> Result<Ticket, ReqlError> {
        // One answer per START or CONTINUE, and the next CONTINUE only once it was taken.
        let (sender, answer) = mpsc::channel(1);
        let mut state = self.state();
        if let Some(reason) = &state.end {
            return Err(ReqlError::Gone { reason: reason.clone(), sent: false });
        }
        state.last_token += 1;
        let token = state.last_token;
        state.live.insert(token, Live { answer: sender, sent: false, open: true, permit });
        state.outbox.push_back(Outgoing { token, bytes: frame::encode(token, query), _permit: None });
        drop(state);
        self.filled.notify_one();
        Ok(Ticket { routes: self.clone(), token, answer })
    }

    /// The next frame to write, if there is one.
    pub(crate) fn next_frame(&self) -> Option<Vec<u8>> {
        let mut state = self.state();
        let outgoing = state.outbox.pop_front()?;
        if let Some(live) = state.live.get_mut(&outgoing.token) {
            live.sent = true;
        }
        Some(outgoing.bytes)
    }

    /// Gives an answer to whoever waits for it. Answers nobody waits for, to stopped queries, are let go.
    pub(crate) fn deliver(&self, token: u64, json: &[u8]) {
        let mut state = self.state();
        state.heard += 1;
        let Some(live) = state.live.get(&token) else { return };
        let sender = live.answer.clone();
        drop(state);
        // Outside the lock: a large answer takes a while to parse.
        let answer = response::parse(json);
        let more = matches!(answer, Ok(Response::Rows { more: true, .. }));
        if let Some(live) = self.state().live.get_mut(&token) {
            live.open = more;
        }
        // Full only if the server answers twice; the second one is not asked for.
        let _ = sender.try_send(answer);
    }

    /// Ends every query, and every later one.
    pub(crate) fn end(&self, reason: &str) {
        let mut state = self.state();
        if state.end.is_none() {
            state.end = Some(reason.into());
        }
        state.outbox.clear();
        let live = std::mem::take(&mut state.live);
        let reason = state.end.clone().unwrap_or_default();
        drop(state);
        for (_, query) in live {
            let _ = query.answer.try_send(Err(ReqlError::Gone { reason: reason.clone(), sent: query.sent }));
        }
        self.ended.cancel();
    }

    /// Why it ended, once it has.
    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        self.state().end.clone()
    }

    /// How many answers came so far, and whether a query waits for one.
    pub(crate) fn pulse(&self) -> (u64, bool) {
        let state = self.state();
        (state.heard, !state.live.is_empty())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Asks for the next batch.
    pub(crate) fn more(&self) {
        let mut state = self.routes.state();
        if state.end.is_none() && state.live.contains_key(&self.token) {
            let bytes = frame::encode(self.token, CONTINUE);
            state.outbox.push_back(Outgoing { token: self.token, bytes, _permit: None });
            drop(state);
            self.routes.filled.notify_one();
        }
    }

    /// Whether the query has, or may have, left this process.
    pub(crate) fn sent(&self) -> bool {
        self.routes.state().live.get(&self.token).is_none_or(|live| live.sent)
    }

    /// The error of an answer that never came.
    pub(crate) fn lost(&self) -> ReqlError {
        ReqlError::Gone {
            reason: self.routes.reason().unwrap_or_else(|| "answered twice".into()),
            sent: true,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.routes.state();
        let Some(live) = state.live.remove(&self.token) else { return };
        // What was not written need not be; a query of ours that never left did certainly not happen.
        state.outbox.retain(|outgoing| outgoing.token != self.token);
        if live.sent && live.open {
            let bytes = frame::encode(self.token, STOP);
            state.outbox.push_back(Outgoing { token: self.token, bytes, _permit: Some(live.permit) });
            drop(state);
            self.routes.filled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn start(routes: &Arc<Routes>, slots: &Arc<Semaphore>) -> Ticket {
        let permit = slots.clone().try_acquire_owned().expect("a slot");
        routes.start(b"[1,[59]]", permit).expect("started")
    }

    fn written(routes: &Routes) -> Vec<(u64, String)> {
        std::iter::from_fn(|| routes.next_frame())
            .map(|bytes| {
                let token = u64::from_le_bytes(bytes[..8].try_into().expect("eight"));
                (token, String::from_utf8_lossy(&bytes[12..]).into_owned())
            })
            .collect()
    }

    #[test]
    fn a_query_dropped_before_it_was_written_is_never_sent() {
        let (routes, slots) = (Routes::new(), Arc::new(Semaphore::new(1)));
        drop(start(&routes, &slots));
        assert_eq!(written(&routes), []);
        assert_eq!(slots.available_permits(), 1);
    }

    #[test]
    fn a_query_dropped_later_is_stopped_once() {
        let (routes, slots) = (Routes::new(), Arc::new(Semaphore::new(1)));
        let ticket = start(&routes, &slots);
        assert!(!ticket.sent());
        assert_eq!(written(&routes), [(1, "[1,[59]]".into())]);
        assert!(ticket.sent());
        drop(ticket);
        assert_eq!(slots.available_permits(), 0, "its slot is taken until the STOP is written");
        assert_eq!(written(&routes), [(1, "[3]".into())]);
        assert_eq!(slots.available_permits(), 1);
        routes.deliver(1, br#"{"t":2,"r":[]}"#);
    }

    #[test]
    fn a_finished_query_is_not_stopped_but_an_open_cursor_is() {
        let (routes, slots) = (Routes::new(), Arc::new(Semaphore::new(2)));
        let (mut done, feed) = (start(&routes, &slots), start(&routes, &slots));
        written(&routes);
        routes.deliver(1, br#"{"t":1,"r":[7]}"#);
        routes.deliver(2, br#"{"t":3,"r":[]}"#);
        assert_eq!(done.answer.try_recv().expect("there").expect("good"), Response::Atom(7.into()));
        drop((done, feed));
        assert_eq!(written(&routes), [(2, "[3]".into())]);
    }

    #[test]
    fn the_end_reaches_everyone() {
        let (routes, slots) = (Routes::new(), Arc::new(Semaphore::new(3)));
        let mut sent = start(&routes, &slots);
        written(&routes);
        let mut unsent = start(&routes, &slots);
        routes.end("cut");
        routes.end("again");
        for (ticket, was_sent) in [(&mut sent, true), (&mut unsent, false)] {
            match ticket.answer.try_recv().expect("there") {
                Err(ReqlError::Gone { reason, sent }) => assert_eq!((&*reason, sent), ("cut", was_sent)),
                other => panic!("{other:?}"),
            }
        }
        let permit = slots.clone().try_acquire_owned().expect("slots are free again");
        assert!(matches!(routes.start(b"", permit), Err(ReqlError::Gone { sent: false, .. })));
        drop((sent, unsent));
        assert_eq!(written(&routes), []);
    }
}
