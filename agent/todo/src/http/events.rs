//! Every change, as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, stream};

use super::App;
use crate::hub;

/// How long a browser waits before it comes back to a stream that broke.
const RETRY: Duration = Duration::from_secs(1);
/// Through proxies and sleeping radios a silent stream is soon a dead one.
const ALIVE: Duration = Duration::from_secs(15);

/// The whole list, then each change; ends when this process stops.
pub(super) async fn stream(State(app): State<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let hello = Event::default()
        .event("node")
        .retry(RETRY)
        .data(serde_json::json!({ "node": app.node, "build": app.build }).to_string());
    let subscription = app.hub.subscribe();
    let stop = app.stop.clone();
    let events = stream::unfold((Some(hello), subscription, stop), async |(hello, mut events, stop)| {
        if let Some(hello) = hello {
            return Some((Ok(hello), (None, events, stop)));
        }
        // Cancel-safe: the subscription takes nothing before it returns it.
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            event = events.next() => event,
        }?;
        Some((Ok(write(&event)), (None, events, stop)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE))
}

fn write(event: &hub::Event) -> Event {
    Event::default().id(&event.id).event(event.name).data(&event.data)
}
