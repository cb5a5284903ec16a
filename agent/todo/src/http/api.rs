//! The list for programs: JSON in, JSON out.

use axum::{
    Json,
    extract::{FromRequest, Path, Query, Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{error::Category, json};

use super::{App, SEEN, problem::Problem};
use crate::{
    store::Created,
    todo::{Patch, Text, Todo, TodoId},
};

const NO_SUCH: &str = "There is no such todo.";

/// A body that must be JSON of this shape.
pub(super) struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must be application/json.",
            ));
        }
        let bytes = read(request, app).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| match error.classify() {
            // The parser's words name the place; they quote no text of the body but unknown field names.
            Category::Data => Problem::content(format!("The body does not fit: {error}.")),
            _ => Problem::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}.")),
        })
    }
}

async fn read(request: Request, app: &App) -> Result<Bytes, Problem> {
    Bytes::from_request(request, app).await.map_err(|rejection| match rejection.status() {
        status @ StatusCode::PAYLOAD_TOO_LARGE => Problem::new(status, "The body is too long."),
        _ => Problem::new(StatusCode::BAD_REQUEST, "The body could not be read."),
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

fn id(text: &str) -> Result<TodoId, Problem> {
    text.parse().map_err(|_| Problem::not_found(NO_SUCH))
}

/// GET /api/todos
pub(super) async fn list(State(app): State<App>) -> Result<Response, Problem> {
    let view = app.hub.view();
    if !view.known {
        return Err(Problem::unknown());
    }
    let body = Json(json!({ "todos": view.todos, "stale": view.stale(), "node": app.node })).into_response();
    Ok(mark(body, view.stale()))
}

/// One todo, and whether it may be old.
async fn read_one(app: &App, id: TodoId) -> Result<(Option<Todo>, bool), Problem> {
    if app.writable().is_ok()
        && let Ok(todo) = app.store.get(id).await
    {
        return Ok((todo, false));
    }
    let view = app.hub.view();
    if !view.known {
        return Err(Problem::unknown());
    }
    Ok((view.todos.iter().find(|todo| todo.id == id).cloned(), true))
}

/// GET /api/todos/{id}
pub(super) async fn read_todo(State(app): State<App>, Path(text): Path<String>) -> Result<Response, Problem> {
    let (todo, stale) = read_one(&app, id(&text)?).await?;
    let todo = todo.ok_or(Problem::not_found(NO_SUCH))?;
    Ok(mark(Json(todo).into_response(), stale))
}

fn mark(mut response: Response, stale: bool) -> Response {
    if stale {
        response.headers_mut().insert("x-fleet-stale", HeaderValue::from_static("true"));
    }
    response
}

/// A todo as it is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    id: Option<TodoId>,
    text: String,
    #[serde(default)]
    completed: bool,
}

/// POST /api/todos
pub(super) async fn create(State(app): State<App>, Body(draft): Body<Draft>) -> Result<Response, Problem> {
    let text = Text::new(&draft.text).map_err(|error| Problem::content(error.to_string()))?;
    let id = draft.id.unwrap_or_else(TodoId::random);
    let todo = Todo { id, text, completed: draft.completed, created: (app.now)() };
    let location = format!("/api/todos/{id}");
    match add(&app, &todo).await? {
        Created::New => Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(todo)).into_response()),
        // The same request came before; its answer was lost.
        Created::Before(before) if before.text == todo.text => {
            Ok(([(header::LOCATION, location)], Json(before)).into_response())
        }
        Created::Before(_) => Err(Problem::conflict("There is another todo of this id.")),
    }
}

/// Adds one and waits until the list shows it.
pub(super) async fn add(app: &App, todo: &Todo) -> Result<Created, Problem> {
    app.writable()?;
    app.room()?;
    let created = app.store.create(todo).await?;
    if created == Created::New {
        app.hub.until(SEEN, |todos| todos.contains_key(&todo.id)).await;
    }
    Ok(created)
}

/// What is to change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    text: Option<String>,
    completed: Option<bool>,
}

/// PATCH /api/todos/{id}
pub(super) async fn change(
    State(app): State<App>,
    Path(text): Path<String>,
    Body(wish): Body<Wish>,
) -> Result<Response, Problem> {
    let id = id(&text)?;
    let text = wish.text.as_deref().map(Text::new).transpose();
    let patch =
        Patch { text: text.map_err(|error| Problem::content(error.to_string()))?, completed: wish.completed };
    if patch == Patch::default() {
        return Err(Problem::content("The body names nothing to change."));
    }
    let todo = alter(&app, id, &patch).await?.ok_or(Problem::not_found(NO_SUCH))?;
    Ok(Json(todo).into_response())
}

/// Changes one and waits until the list shows it.
pub(super) async fn alter(app: &App, id: TodoId, patch: &Patch) -> Result<Option<Todo>, Problem> {
    app.writable()?;
    let todo = app.store.change(id, patch).await?;
    if todo.is_some() {
        app.hub.until(SEEN, |todos| todos.get(&id).is_none_or(|todo| patch.holds_for(todo))).await;
    }
    Ok(todo)
}

/// DELETE /api/todos/{id}
pub(super) async fn remove(State(app): State<App>, Path(text): Path<String>) -> Result<StatusCode, Problem> {
    match take(&app, id(&text)?).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found(NO_SUCH)),
    }
}

/// Removes one and waits until the list is without it.
pub(super) async fn take(app: &App, id: TodoId) -> Result<bool, Problem> {
    app.writable()?;
    let was_there = app.store.remove(id).await?;
    app.hub.until(SEEN, |todos| !todos.contains_key(&id)).await;
    Ok(was_there)
}

/// What `complete-all` may be told.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    #[serde(default = "yes")]
    completed: bool,
}

fn yes() -> bool {
    true
}

/// POST /api/todos/complete-all; with `{"completed": false}` it marks all as still to be done.
pub(super) async fn complete_all(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let completed = match request.headers().contains_key(header::CONTENT_TYPE) {
        true => Body::<Mark>::from_request(request, &app).await?.0.completed,
        false if read(request, &app).await?.is_empty() => true,
        false => {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must be application/json.",
            ));
        }
    };
    let changed = mark_all(&app, completed).await?;
    Ok(Json(json!({ "changed": changed })).into_response())
}

/// Marks all and waits until the list shows it.
pub(super) async fn mark_all(app: &App, completed: bool) -> Result<u64, Problem> {
    app.writable()?;
    let changed = app.store.mark_all(completed).await?;
    app.hub.until(SEEN, |todos| todos.values().all(|todo| todo.completed == completed)).await;
    Ok(changed)
}

/// Which todos to remove.
#[derive(Deserialize)]
pub(super) struct Which {
    completed: Option<String>,
}

/// DELETE /api/todos?completed=true; the whole list is never removed at once.
pub(super) async fn clear(State(app): State<App>, Query(which): Query<Which>) -> Result<Response, Problem> {
    if which.completed.as_deref() != Some("true") {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "Only `?completed=true` can be removed at once."));
    }
    let removed = clear_completed(&app).await?;
    Ok(Json(json!({ "removed": removed })).into_response())
}

/// Removes those done and waits until the list is without them.
pub(super) async fn clear_completed(app: &App) -> Result<u64, Problem> {
    app.writable()?;
    let removed = app.store.clear_completed().await?;
    app.hub.until(SEEN, |todos| !todos.values().any(|todo| todo.completed)).await;
    Ok(removed)
}
