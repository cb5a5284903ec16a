//! Every change, as server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, stream};
use http::StatusCode;

use super::{App, problem::Problem};
use crate::{guests::Guest, hub};

/// How long a browser waits before it comes back to a stream that broke.
const RETRY: Duration = Duration::from_secs(1);
/// Through proxies and sleeping radios a silent stream is soon a dead one.
const ALIVE: Duration = Duration::from_secs(15);

/// The whole list, then each change; ends when this process stops.
pub(super) async fn stream(
    State(app): State<App>,
    guest: Option<Extension<Arc<Guest>>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let place = match guest {
        Some(Extension(guest)) => Some(guest.stream().ok_or_else(|| {
            let detail = "Too many pages are open from where you are; close some, or wait a moment.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })?),
        None => None,
    };
    let hello = Event::default()
        .event("node")
        .retry(RETRY)
        .data(serde_json::json!({ "node": app.node, "build": app.build }).to_string());
    let subscription = app.hub.subscribe();
    let stop = app.stop.clone();
    let state = (Some(hello), subscription, stop, place);
    let events = stream::unfold(state, async |(hello, mut events, stop, place)| {
        if let Some(hello) = hello {
            return Some((Ok(hello), (None, events, stop, place)));
        }
        // Cancel-safe: the subscription takes nothing before it returns it.
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            event = events.next() => event,
        }?;
        Some((Ok(write(&event)), (None, events, stop, place)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)))
}

fn write(event: &hub::Event) -> Event {
    Event::default().id(&event.id).event(event.name).data(&event.data)
}
