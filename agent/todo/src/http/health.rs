//! Whether this node serves the list.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::App;
use crate::{VERSION, hub::Database};

/// 200 while the database is there, 503 while it is away; the page itself is served all the same.
pub(super) async fn health(State(app): State<App>) -> Response {
    let view = app.hub.view();
    let (status, database, reason) = match view.database {
        Database::Ok => (StatusCode::OK, "ok", None),
        Database::Away(why) => (StatusCode::SERVICE_UNAVAILABLE, "away", Some(why.name())),
    };
    let mut body = json!({
        "node": app.node, "database": database, "version": VERSION, "build": app.build, "todos": view.todos.len(),
    });
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    let mut response = (status, Json(body)).into_response();
    if status != StatusCode::OK {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}
