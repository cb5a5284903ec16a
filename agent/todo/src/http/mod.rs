//! What browsers and programs ask this node.

mod api;
mod assets;
mod events;
mod forms;
mod guard;
mod health;
mod page;
mod problem;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use http::{HeaderValue, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::{
    hub::{Database, Hub},
    store::Store,
    todo::MOST_TODOS,
};

use self::problem::Problem;

/// Largest request body: the longest text, in any script, several times over.
const MOST_BODY: usize = 16 * 1024;
/// How long a write waits to see itself in the list, so that who reads next sees it too.
const SEEN: Duration = Duration::from_secs(1);

/// What every request can reach.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of [`App`].
pub struct Parts {
    /// The list.
    pub hub: Arc<Hub>,
    /// Where it is written.
    pub store: Arc<dyn Store>,
    /// Name of this node.
    pub node: String,
    /// Names the build that runs.
    pub build: String,
    /// Milliseconds since 1970.
    pub now: fn() -> u64,
    /// Ends open event streams.
    pub stop: CancellationToken,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Ready to be routed to.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Refuses a write at once while the database is known to be away.
    fn writable(&self) -> Result<(), Problem> {
        match self.hub.database() {
            Database::Ok => Ok(()),
            Database::Away(why) => Err(Problem::away(why.message())),
        }
    }

    /// Refuses a new todo while there are too many.
    fn room(&self) -> Result<(), Problem> {
        match self.hub.view().todos.len() {
            n if n < MOST_TODOS => Ok(()),
            _ => {
                let detail = format!("The list is full: it holds {MOST_TODOS} todos.");
                Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail))
            }
        }
    }
}

/// Everything there is to ask for.
pub fn router(app: App) -> Router {
    let node = HeaderValue::from_str(&app.node).unwrap_or(HeaderValue::from_static("unnamed"));
    Router::new()
        .route("/", get(page::show))
        .route("/add", post(forms::add))
        .route("/toggle", post(forms::toggle))
        .route("/toggle-all", post(forms::toggle_all))
        .route("/delete", post(forms::delete))
        .route("/clear-completed", post(forms::clear_completed))
        .route("/app.css", get(assets::style))
        .route("/app.js", get(assets::script))
        .route("/icon.svg", get(assets::icon))
        .route("/health", get(health::health))
        .route("/api/todos", get(api::list).post(api::create).delete(api::clear))
        .route("/api/todos/complete-all", post(api::complete_all))
        .route("/api/todos/{id}", get(api::read_todo).patch(api::change).delete(api::remove))
        .route("/api/events", get(events::stream))
        .fallback(async || Problem::not_found("There is nothing here."))
        .method_not_allowed_fallback(async || Problem::method())
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(middleware::from_fn(guard::same_origin))
        .layer(middleware::from_fn(guard::deadline))
        .layer(middleware::from_fn_with_state(node, guard::headers))
        .with_state(app)
}
