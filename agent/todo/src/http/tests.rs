//! The router against a store in memory: every status code, the forms, the events.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use axum::{Router, body::Body, response::Response};
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{App, Parts, router};
use crate::{
    guests::Guests,
    hub::{Hub, Why},
    store::{Created, Store, StoreError},
    todo::{MOST_TODOS, Patch, Text, Todo, TodoId},
};

const ID: &str = "7f1a3a52-5a0e-4c3e-9a86-0f9b6b4d5c11";
const OTHER: &str = "7f1a3a52-5a0e-4c3e-9a86-0f9b6b4d5c12";

/// A table that tells the hub at once what it did, unless it is told to fail.
struct Fake {
    hub: Arc<Hub>,
    fails: Mutex<Option<StoreError>>,
}

impl Fake {
    fn well(&self) -> Result<(), StoreError> {
        self.fails.lock().expect("whole").map_or(Ok(()), Err)
    }

    fn find(&self, id: TodoId) -> Option<Todo> {
        self.hub.view().todos.iter().find(|todo| todo.id == id).cloned()
    }
}

#[async_trait]
impl Store for Fake {
    async fn create(&self, todo: &Todo) -> Result<Created, StoreError> {
        self.well()?;
        if let Some(before) = self.find(todo.id) {
            return Ok(Created::Before(before));
        }
        self.hub.put(todo.clone());
        Ok(Created::New)
    }

    async fn get(&self, id: TodoId) -> Result<Option<Todo>, StoreError> {
        self.well().map(|()| self.find(id))
    }

    async fn change(&self, id: TodoId, patch: &Patch) -> Result<Option<Todo>, StoreError> {
        self.well()?;
        let Some(mut todo) = self.find(id) else { return Ok(None) };
        todo.completed = patch.completed.unwrap_or(todo.completed);
        todo.text = patch.text.clone().unwrap_or(todo.text);
        self.hub.put(todo.clone());
        Ok(Some(todo))
    }

    async fn remove(&self, id: TodoId) -> Result<bool, StoreError> {
        self.well()?;
        let was_there = self.find(id).is_some();
        self.hub.remove(id);
        Ok(was_there)
    }

    async fn mark_all(&self, completed: bool) -> Result<u64, StoreError> {
        self.well()?;
        let others: Vec<_> =
            self.hub.view().todos.iter().filter(|todo| todo.completed != completed).cloned().collect();
        let changed = others.len() as u64;
        others.into_iter().for_each(|todo| self.hub.put(Todo { completed, ..todo }));
        Ok(changed)
    }

    async fn clear_completed(&self) -> Result<u64, StoreError> {
        self.well()?;
        let done: Vec<_> =
            self.hub.view().todos.iter().filter(|todo| todo.completed).map(|todo| todo.id).collect();
        done.iter().for_each(|id| self.hub.remove(*id));
        Ok(done.len() as u64)
    }
}

/// A node with an empty list.
struct Node {
    router: Router,
    hub: Arc<Hub>,
    store: Arc<Fake>,
    stop: CancellationToken,
}

fn node() -> Node {
    static NOW: AtomicU64 = AtomicU64::new(1);
    let hub = Hub::new(1);
    let store = Arc::new(Fake { hub: hub.clone(), fails: Mutex::default() });
    let stop = CancellationToken::new();
    let app = App::new(Parts {
        hub: hub.clone(),
        store: store.clone(),
        node: "EU7rethinkSeed".into(),
        build: "b1".into(),
        now: || NOW.fetch_add(1, Ordering::Relaxed),
        stop: stop.clone(),
    });
    hub.replace([]);
    Node { router: router(app), hub, store, stop }
}

impl Node {
    async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.expect("a router always answers")
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path);
        let request = match body {
            Some(body) => {
                request.header("content-type", "application/json").body(Body::from(body.to_string()))
            }
            None => request.body(Body::empty()),
        };
        let response = self.send(request.expect("a request")).await;
        let status = response.status();
        let text = text(response).await;
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
        if status.is_client_error() || status.is_server_error() {
            assert_eq!(body["status"], status.as_u16(), "{body}");
            assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
        }
        (status, body)
    }

    async fn form(&self, path: &str, fields: &str) -> Response {
        let request = Request::post(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", "same-origin")
            .body(Body::from(fields.to_owned()));
        self.send(request.expect("a request")).await
    }

    async fn page(&self, path: &str) -> String {
        let response = self.send(Request::get(path).body(Body::empty()).expect("a request")).await;
        assert_eq!(response.status(), StatusCode::OK);
        text(response).await
    }

    fn texts(&self) -> Vec<String> {
        self.hub.view().todos.iter().map(|todo| todo.text.as_str().to_owned()).collect()
    }
}

async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[tokio::test]
async fn a_todo_from_its_making_to_its_end() {
    let node = node();
    let (status, made) = node.ask("POST", "/api/todos", Some(json!({"text": " cut ", "id": ID}))).await;
    assert_eq!(
        (status, &made["text"], &made["completed"]),
        (StatusCode::CREATED, &json!("cut"), &json!(false))
    );
    // The same request again makes no second one; another text under the same id is refused.
    let (status, again) = node.ask("POST", "/api/todos", Some(json!({"text": "cut", "id": ID}))).await;
    assert_eq!((status, again), (StatusCode::OK, made.clone()));
    let (status, _) = node.ask("POST", "/api/todos", Some(json!({"text": "fry", "id": ID}))).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, second) =
        node.ask("POST", "/api/todos", Some(json!({"text": "fry", "completed": true}))).await;
    assert_eq!((status, &second["completed"]), (StatusCode::CREATED, &json!(true)));

    let (status, list) = node.ask("GET", "/api/todos", None).await;
    assert_eq!(
        (status, &list["todos"], &list["stale"]),
        (StatusCode::OK, &json!([made, second]), &json!(false))
    );
    let path = format!("/api/todos/{ID}");
    assert_eq!(node.ask("GET", &path, None).await, (StatusCode::OK, made));
    let (status, changed) = node.ask("PATCH", &path, Some(json!({"completed": true, "text": "peel"}))).await;
    assert_eq!(
        (status, &changed["text"], &changed["completed"]),
        (StatusCode::OK, &json!("peel"), &json!(true))
    );

    let (_, answer) = node.ask("POST", "/api/todos/complete-all", Some(json!({"completed": false}))).await;
    assert_eq!(answer, json!({"changed": 2}));
    let (_, answer) = node.ask("POST", "/api/todos/complete-all", None).await;
    assert_eq!(answer, json!({"changed": 2}));
    assert_eq!(node.ask("DELETE", &path, None).await, (StatusCode::NO_CONTENT, Value::Null));
    assert_eq!(node.ask("DELETE", "/api/todos?completed=true", None).await.1, json!({"removed": 1}));
    assert!(node.texts().is_empty());
    for (method, body) in [("GET", None), ("DELETE", None), ("PATCH", Some(json!({"completed": true})))] {
        assert_eq!(node.ask(method, &path, body).await.0, StatusCode::NOT_FOUND, "{method}");
    }
}

#[tokio::test]
async fn where_a_new_todo_is() {
    let node = node();
    let request = Request::post("/api/todos").header("content-type", "application/json; charset=utf-8");
    let body = json!({"text": "x", "id": ID}).to_string();
    let response = node.send(request.body(Body::from(body)).expect("a request")).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()["location"], format!("/api/todos/{ID}"));
}

#[tokio::test]
async fn requests_that_are_refused() {
    let node = node();
    node.ask("POST", "/api/todos", Some(json!({"text": "x", "id": ID}))).await;
    let one = format!("/api/todos/{ID}");
    let check = async |method: &str, path: &str, kind: &str, body: &str, expected: u16| {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let response = node.send(request.body(Body::from(body.to_owned())).expect("a request")).await;
        let what = format!("{method} {path} {body:.60}");
        assert_eq!(response.status().as_u16(), expected, "{what}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        let body: Value = serde_json::from_str(&text(response).await).expect("JSON");
        assert_eq!(body["status"], expected, "{what}");
    };
    let json = "application/json";
    check("POST", "/api/todos", json, "{", 400).await;
    check("POST", "/api/todos", json, "", 400).await;
    check("POST", "/api/todos", json, "\u{1}", 400).await;
    check("POST", "/api/todos", json, "[]", 422).await;
    check("POST", "/api/todos", json, "{}", 422).await;
    check("POST", "/api/todos", json, r#"{"text":""}"#, 422).await;
    check("POST", "/api/todos", json, r#"{"text":7}"#, 422).await;
    check("POST", "/api/todos", json, r#"{"text":"x","id":"7"}"#, 422).await;
    check("POST", "/api/todos", json, r#"{"text":"x","more":1}"#, 422).await;
    check("POST", "/api/todos", json, &format!(r#"{{"text":"{}"}}"#, "x".repeat(501)), 422).await;
    check("POST", "/api/todos", json, &format!(r#"{{"text":"{}"}}"#, "x".repeat(17_000)), 413).await;
    check("POST", "/api/todos", "text/json", r#"{"text":"x"}"#, 415).await;
    check("POST", "/api/todos/complete-all", json, r#"{"completed":"yes"}"#, 422).await;
    check("POST", "/api/todos/complete-all", "application/xml", "<a/>", 415).await;
    check("PATCH", &one, json, "{}", 422).await;
    check("PATCH", &one, json, r#"{"text":"  "}"#, 422).await;
    check("PATCH", &one, json, r#"{"id":"x"}"#, 422).await;
    check("PATCH", &one, "text/html", "{}", 415).await;
    check("PATCH", "/api/todos/7", json, r#"{"completed":true}"#, 404).await;
    check("GET", "/api/todos/7", json, "", 404).await;
    check("GET", "/api", json, "", 404).await;
    check("DELETE", "/api/todos", json, "", 400).await;
    check("DELETE", "/api/todos?completed=false", json, "", 400).await;
    check("PUT", "/api/todos", json, "", 405).await;
    check("POST", &one, json, "", 405).await;
    check("POST", "/health", json, "", 405).await;
    check("GET", "/add", json, "", 405).await;
    check("POST", "/add", json, "{}", 415).await;
    assert_eq!(node.texts(), ["x"], "nothing was changed");
}

#[tokio::test]
async fn other_sites_change_nothing() {
    let node = node();
    for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        for path in ["/add", "/api/todos"] {
            let request = Request::post(path).header(name, value).header("host", "node:5000");
            let request = request.header("content-type", "application/x-www-form-urlencoded");
            let response = node.send(request.body(Body::from("text=x")).expect("a request")).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path} {name}");
        }
    }
    assert!(node.texts().is_empty());
}

#[tokio::test]
async fn every_answer_names_the_node_and_binds_the_browser() {
    let node = node();
    for path in ["/", "/app.js", "/app.css", "/icon.svg", "/health", "/api/todos", "/nothing"] {
        let response = node.send(Request::get(path).body(Body::empty()).expect("a request")).await;
        let headers = response.headers();
        assert_eq!(headers["x-fleet-node"], "EU7rethinkSeed", "{path}");
        let policy = headers["content-security-policy"].to_str().expect("text");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{path}");
        for (name, value) in [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")] {
            assert_eq!(headers[name], value, "{path}");
        }
    }
    // What the policy demands of the page itself.
    let page = node.page("/").await;
    assert!(!page.contains("style=") && !page.contains("onclick") && page.matches("<script").count() == 1);
    let request = Request::get("/app.js").body(Body::empty()).expect("a request");
    let tag = node.send(request).await.headers()["etag"].clone();
    let request =
        Request::get("/app.js").header("if-none-match", tag).body(Body::empty()).expect("a request");
    assert_eq!(node.send(request).await.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn while_the_database_is_away() {
    let node = node();
    node.ask("POST", "/api/todos", Some(json!({"text": "kept", "id": ID}))).await;
    assert_eq!(node.ask("GET", "/health", None).await.0, StatusCode::OK);
    node.hub.away(Why::Unreachable);

    let response = node.send(Request::get("/health").body(Body::empty()).expect("a request")).await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"5".parse().expect("a value"))
    );
    let health: Value = serde_json::from_str(&text(response).await).expect("JSON");
    assert_eq!((&health["database"], &health["reason"]), (&json!("away"), &json!("unreachable")));

    let (status, list) = node.ask("GET", "/api/todos", None).await;
    assert_eq!(
        (status, &list["stale"], &list["todos"][0]["text"]),
        (StatusCode::OK, &json!(true), &json!("kept"))
    );
    let one = format!("/api/todos/{ID}");
    let response = node.send(Request::get(&one).body(Body::empty()).expect("a request")).await;
    assert_eq!(
        (response.status(), &response.headers()["x-fleet-stale"]),
        (StatusCode::OK, &"true".parse().expect("a value"))
    );

    let patch = Some(json!({"completed": true}));
    for (method, path, body) in [
        ("POST", "/api/todos", Some(json!({"text": "lost?"}))),
        ("POST", "/api/todos/complete-all", None),
        ("PATCH", one.as_str(), patch),
        ("DELETE", one.as_str(), None),
        ("DELETE", "/api/todos?completed=true", None),
    ] {
        assert_eq!(node.ask(method, path, body).await.0, StatusCode::SERVICE_UNAVAILABLE, "{method} {path}");
    }
    let response = node.form("/add", &format!("text=%3Cb%3Etyped&id={OTHER}&show=active")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(response.headers()["retry-after"], "5");
    let page = text(response).await;
    for part in ["value=\"&lt;b&gt;typed\"", OTHER, "does not answer", "Nothing was changed", ">kept<"] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert_eq!(node.texts(), ["kept"]);
}

#[tokio::test]
async fn a_list_that_was_never_read_is_not_an_empty_one() {
    let node = node();
    let fresh = Hub::new(2);
    let app = App::new(Parts {
        hub: fresh,
        store: node.store.clone(),
        node: "n".into(),
        build: String::new(),
        now: || 0,
        stop: node.stop.clone(),
    });
    let node = Node { router: router(app), ..node };
    for path in ["/api/todos".to_owned(), format!("/api/todos/{ID}")] {
        assert_eq!(node.ask("GET", &path, None).await.0, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    assert!(node.page("/").await.contains("as soon as it can be read"));
}

#[tokio::test]
async fn a_store_that_fails_half_way() {
    let node = node();
    for error in [StoreError::Away, StoreError::Uncertain] {
        *node.store.fails.lock().expect("whole") = Some(error);
        let (status, body) = node.ask("POST", "/api/todos", Some(json!({"text": "x"}))).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let uncertain = body["detail"].as_str().expect("text").contains("did not say");
        assert_eq!(uncertain, error == StoreError::Uncertain);
    }
}

#[tokio::test]
async fn a_form_whose_fate_is_unknown_comes_back_with_its_id() {
    let node = node();
    *node.store.fails.lock().expect("whole") = Some(StoreError::Uncertain);
    let response = node.form("/add", &format!("text=peel&id={ID}&show=all")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let page = text(response).await;
    assert!(
        page.contains(&format!("name=\"id\" value=\"{ID}\"")) && page.contains("value=\"peel\""),
        "{page}"
    );
    // It was written after all.
    *node.store.fails.lock().expect("whole") = None;
    let id = ID.parse().expect("an id");
    node.hub.put(Todo { id, text: Text::new("peel").expect("a text"), completed: false, created: 1 });
    node.form("/add", &format!("text=peel&id={ID}&show=all")).await;
    assert_eq!(node.texts(), ["peel"]);
}

#[tokio::test]
async fn a_client_with_too_many_pages_is_told_and_comes_in_when_one_is_closed() {
    let node = node();
    let guests = Arc::new(Guests::default());
    let guest = guests.admit("192.0.2.1:7".parse().expect("an address")).expect("room");
    let ask = async || {
        let request = Request::get("/api/events").extension(guest.clone()).body(Body::empty());
        node.send(request.expect("a request")).await
    };
    let mut open = Vec::new();
    let refused = loop {
        match ask().await {
            response if response.status() == StatusCode::OK => open.push(response),
            response => break response,
        }
    };
    assert_eq!((refused.status(), open.len()), (StatusCode::SERVICE_UNAVAILABLE, 96));
    assert!(refused.headers().contains_key("retry-after"));
    assert!(text(refused).await.contains("Too many pages"));
    open.pop();
    assert_eq!(ask().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_full_list() {
    let node = node();
    let text = Text::new("x").expect("a text");
    let todo = |created| Todo { id: TodoId::random(), text: text.clone(), completed: false, created };
    node.hub.replace((0..MOST_TODOS as u64).map(todo));
    let (status, _) = node.ask("POST", "/api/todos", Some(json!({"text": "one more"}))).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE);
}

#[tokio::test]
async fn without_a_script() {
    let node = node();
    let check = async |path: &str, fields: &str, back_to: &str| {
        let response = node.form(path, fields).await;
        assert_eq!(
            (response.status(), &response.headers()["location"]),
            (StatusCode::SEE_OTHER, &back_to.parse().expect("a value")),
            "{path}"
        );
    };
    check("/add", &format!("text=cut+%26+peel&id={ID}&show=all"), "/").await;
    check("/add", &format!("text=cut+%26+peel&id={ID}&show=all"), "/").await;
    assert_eq!(node.texts(), ["cut & peel"], "a form sent twice adds one");
    check("/add", &format!("text=fry&id={ID}&show=active"), "/?show=active").await;
    check("/add", &format!("text=fry&id={ID}&show=active"), "/?show=active").await;
    assert_eq!(node.texts(), ["cut & peel", "fry"], "a form of a page that was kept adds another, once");
    check("/toggle", &format!("id={ID}&completed=true&show=completed"), "/?show=completed").await;
    let page = node.page("/?show=completed").await;
    assert!(page.contains("cut &amp; peel") && page.contains("1 item left"), "{page}");
    check("/toggle", &format!("id={OTHER}&completed=true"), "/").await;
    check("/clear-completed", "show=nonsense", "/").await;
    assert_eq!(node.texts(), ["fry"]);
    check("/toggle-all", "completed=true", "/").await;
    assert!(node.hub.view().todos.iter().all(|todo| todo.completed));
    let id = node.hub.view().todos[0].id;
    check("/delete", &format!("id={id}"), "/").await;
    check("/delete", &format!("id={id}"), "/").await;
    assert!(node.texts().is_empty());

    for (path, fields) in [
        ("/add", "text=+&show=all"),
        ("/toggle", "id=&completed=true"),
        ("/delete", "show=all"),
        ("/toggle", &format!("id={ID}")),
    ] {
        assert_eq!(
            node.form(path, fields).await.status(),
            StatusCode::UNPROCESSABLE_ENTITY,
            "{path} {fields}"
        );
    }
    let long = format!("text={}", "x".repeat(20_000));
    assert_eq!(node.form("/add", &long).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

/// The next event of a stream: its name, its id, its data.
async fn event(
    body: &mut (impl futures::Stream<Item = Result<bytes::Bytes, axum::Error>> + Unpin),
) -> Option<(String, String, Value)> {
    let bytes = body.next().await?.expect("a piece");
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_default().to_owned()
    };
    Some((field("event"), field("id"), serde_json::from_str(&field("data")).expect("JSON")))
}

#[tokio::test]
async fn events_tell_everything_and_end_with_the_process() {
    let node = node();
    node.ask("POST", "/api/todos", Some(json!({"text": "one\u{2028}line", "id": ID}))).await;
    let request = Request::builder().method(Method::GET).uri("/api/events").header("last-event-id", "1-77");
    let response = node.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body().into_data_stream();
    let (name, _, data) = event(&mut body).await.expect("comes");
    assert_eq!((name.as_str(), data), ("node", json!({"node": "EU7rethinkSeed", "build": "b1"})));
    let (name, id, data) = event(&mut body).await.expect("comes");
    assert_eq!((name.as_str(), id.as_str(), &data["todos"][0]["id"]), ("snapshot", "1-2", &json!(ID)));
    node.ask("PATCH", &format!("/api/todos/{ID}"), Some(json!({"completed": true}))).await;
    let (name, id, data) = event(&mut body).await.expect("comes");
    assert_eq!((name.as_str(), id.as_str(), &data["put"]["completed"]), ("change", "1-3", &json!(true)));
    node.ask("DELETE", &format!("/api/todos/{ID}"), None).await;
    assert_eq!(event(&mut body).await.expect("comes").2, json!({"removed": ID}));
    node.hub.away(Why::NotReady);
    let (name, _, data) = event(&mut body).await.expect("comes");
    assert_eq!((name.as_str(), &data["message"]), ("database", &json!("The database is not ready yet.")));
    node.hub.replace([]);
    let (name, _, data) = event(&mut body).await.expect("comes");
    assert_eq!((name.as_str(), &data["database"]), ("snapshot", &json!("ok")));
    node.stop.cancel();
    assert!(event(&mut body).await.is_none());
}
