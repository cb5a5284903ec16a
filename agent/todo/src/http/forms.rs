//! The list for browsers without JavaScript: forms in, a redirect to the page out.

use axum::{
    Form,
    extract::{FromRequest, Request, State, rejection::FormRejection},
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    App, api,
    page::{self, Trouble},
    problem::Problem,
};
use crate::{
    store::Created,
    todo::{Patch, Show, Text, Todo, TodoId},
};

/// A body that must be a form of these fields.
pub(super) struct Fields<T>(T);

impl<T: DeserializeOwned> FromRequest<App> for Fields<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let refused = |rejection: FormRejection| match rejection.status() {
            status @ (StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE) => {
                Problem::new(status, "This form cannot be taken.")
            }
            StatusCode::UNPROCESSABLE_ENTITY => Problem::content("The form lacks a field."),
            _ => Problem::new(StatusCode::BAD_REQUEST, "The form cannot be read."),
        };
        Form::from_request(request, app).await.map(|Form(fields)| Self(fields)).map_err(refused)
    }
}

/// Fields of every form.
#[derive(Deserialize)]
pub(super) struct Common {
    #[serde(default)]
    show: String,
    id: Option<TodoId>,
    completed: Option<bool>,
    #[serde(default)]
    text: String,
}

/// POST /add
pub(super) async fn add(State(app): State<App>, Fields(form): Fields<Common>) -> Response {
    let result = async {
        let text = Text::new(&form.text).map_err(|error| Problem::content(error.to_string()))?;
        // The page chose the id: a form sent twice adds one todo.
        let id = form.id.unwrap_or_else(TodoId::random);
        let todo = Todo { id, text, completed: false, created: (app.now)() };
        match api::add(&app, &todo).await? {
            Created::Before(before) if before.text != todo.text => {
                // The page was kept and its form used again: another todo, and the same one however often it is sent.
                api::add(&app, &Todo { id: id.of_text(&todo.text), ..todo }).await
            }
            created => Ok(created),
        }
    };
    let result = result.await.map(|_| ());
    answer(&app, &form, result)
}

/// POST /toggle
pub(super) async fn toggle(State(app): State<App>, Fields(form): Fields<Common>) -> Response {
    let patch = Patch { text: None, completed: form.completed };
    let result = match (form.id, form.completed) {
        // One that is gone by now needs no mark.
        (Some(id), Some(_)) => api::alter(&app, id, &patch).await.map(|_| ()),
        _ => Err(Problem::content("The form lacks a field.")),
    };
    answer(&app, &form, result)
}

/// POST /toggle-all
pub(super) async fn toggle_all(State(app): State<App>, Fields(form): Fields<Common>) -> Response {
    let result = api::mark_all(&app, form.completed.unwrap_or(true)).await.map(|_| ());
    answer(&app, &form, result)
}

/// POST /delete
pub(super) async fn delete(State(app): State<App>, Fields(form): Fields<Common>) -> Response {
    let result = match form.id {
        Some(id) => api::take(&app, id).await.map(|_| ()),
        None => Err(Problem::content("The form lacks a field.")),
    };
    answer(&app, &form, result)
}

/// POST /clear-completed
pub(super) async fn clear_completed(State(app): State<App>, Fields(form): Fields<Common>) -> Response {
    let result = api::clear_completed(&app).await.map(|_| ());
    answer(&app, &form, result)
}

/// Back to the page; or the page again with what went wrong, and what was typed.
fn answer(app: &App, form: &Common, result: Result<(), Problem>) -> Response {
    let show = Show::named(&form.show);
    match result {
        Ok(()) => Redirect::to(show.path()).into_response(),
        Err(problem) => {
            let trouble = Trouble { message: &problem.detail, typed: &form.text, id: form.id };
            let page = page::render(app, show, Some(&trouble));
            let status = problem.status;
            // Its headers, too: when to try again.
            let mut response = problem.into_response();
            response.headers_mut().remove(http::header::CONTENT_TYPE);
            let (parts, _) = response.into_parts();
            (status, parts.headers, page).into_response()
        }
    }
}
