//! One request: who calls, what for, what goes wrong on request, the answer, the log.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fleet_mcp::{Secret, resource::operation_name};
use fleet_model::Clock;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::{
    envelope::{self, Form},
    log::{Entry, Log},
    operations,
    request::{Body, parse_query},
    route::{Legacy, Route, minor, route},
};
use crate::{
    driver::{Command, Outcome},
    fault::{Faults, Target, Trouble},
    hosts,
    state::{Call, Change, Kind, Origin, Refused, Twist},
};

/// Largest body read; requests are a few kilobytes.
const MAX_BODY: usize = 1 << 20;
/// How long a client may take to send one.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What every connection shares.
pub(crate) struct Service {
    pub(super) calls: mpsc::Sender<Command>,
    username: String,
    password: Secret,
    organisation: String,
    clock: Arc<dyn Clock>,
    /// Region of callers who use no API host name.
    region: String,
    faults: Mutex<Faults>,
    log: Mutex<Log>,
}

/// The connection is closed without an answer, because a fault says so.
#[derive(Debug, thiserror::Error)]
#[error("closed on request")]
pub(crate) struct Closed;

/// What a call came to: status, content type, body, and what the log says.
struct Reply {
    status: u16,
    content: &'static str,
    body: String,
    code: String,
}

impl Reply {
    fn document(status: u16, form: Form, root: &str, value: &serde_json::Value) -> Self {
        let content = match form {
            Form::Xml => "application/xml;charset=UTF-8",
            Form::Json => "application/json;charset=UTF-8",
        };
        let code = value["responseCode"].as_str().unwrap_or_default().to_owned();
        Self { status, content, body: envelope::print(form, root, value), code }
    }

    fn legacy(status: u16, body: String, code: &str) -> Self {
        Self { status, content: "text/xml;charset=UTF-8", body, code: code.to_owned() }
    }
}

impl Service {
    pub(crate) fn new(
        calls: mpsc::Sender<Command>,
        username: String,
        password: Secret,
        organisation: String,
        clock: Arc<dyn Clock>,
        region: String,
    ) -> Self {
        Self {
            calls,
            username,
            password,
            organisation,
            clock,
            region,
            faults: Mutex::default(),
            log: Mutex::default(),
        }
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        // A panic while holding it cannot leave the list half-changed; the same for the log.
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request. `region` is the one the caller's tunnel leads to, if there is one.
    ///
    /// # Errors
    /// [`Closed`] closes the connection without an answer.
    pub(crate) async fn serve(
        &self,
        request: Request<Incoming>,
        region: Option<&str>,
    ) -> Result<Response<Full<Bytes>>, Closed> {
        let (head, body) = request.into_parts();
        let form = envelope::form(head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()));
        let path = head.uri.path();
        if !self.is_allowed(&head.headers) {
            let value = envelope::response("", "AUTHORIZATION_FAILURE", "Wrong credentials.", &[], "");
            let mut response = http_response(Reply::document(401, form, "response", &value));
            let challenge = header::HeaderValue::from_static("Basic realm=\"CloudControl\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            self.note(&head.method, path, "AUTHENTICATE", false, 401, "AUTHORIZATION_FAILURE");
            return Ok(response);
        }
        let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
        let Ok(Ok(body)) = read else {
            let value = envelope::response(
                "",
                "INVALID_INPUT_DATA",
                "The request is too large or too slow.",
                &[],
                "",
            );
            return Ok(http_response(Reply::document(400, form, "response", &value)));
        };
        let body = body.to_bytes();
        let query = parse_query(head.uri.query().unwrap_or_default());
        let route = route(&head.method, path, head.uri.query().unwrap_or_default(), &self.organisation);
        if let Route::Admin(name) = route {
            let (status, value) = self.admin(&head.method, name, &query, &body).await;
            return Ok(http_response(Reply::document(status, Form::Json, "fleet", &value)));
        }
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(hosts::region);
        let region = region.or(host).unwrap_or(&self.region);
        let prepared = Prepared::new(&route, region, query, &body);
        let trouble = self.trouble(&prepared).await;
        tokio::time::sleep(trouble.slow).await;
        let note = |status, code: &str| {
            self.note(&head.method, path, &prepared.operation, prepared.changing, status, code);
        };
        if trouble.reset {
            note(0, "RESET");
            return Err(Closed);
        }
        let reply = self.reply(&route, minor(path), &prepared, &trouble, form).await;
        if trouble.lost_answer {
            note(0, "LOST_ANSWER");
            return Err(Closed);
        }
        note(reply.status, &reply.code);
        Ok(http_response(reply))
    }

    fn is_allowed(&self, headers: &HeaderMap) -> bool {
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let encoded = header.and_then(|header| header.split_once(' '));
        let encoded = encoded.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
        let Some(given) = encoded.and_then(|(_, text)| BASE64_STANDARD.decode(text.trim()).ok()) else {
            return false;
        };
        let wanted = format!("{}:{}", self.username, self.password.reveal());
        // Digests, so that the time this takes says nothing about the text.
        Sha256::digest(&given) == Sha256::digest(wanted.as_bytes())
    }

    async fn trouble(&self, prepared: &Prepared) -> Trouble {
        let mut subjects = prepared.subjects.clone();
        if self.faults().need_subjects() && !subjects.is_empty() {
            // Faults name servers by name as well; calls mostly carry ids.
            let (reply, status) = oneshot::channel();
            if self.calls.send(Command::Status { reply }).await.is_ok()
                && let Ok(status) = status.await
            {
                let named =
                    status.servers.into_iter().filter(|server| prepared.subjects.contains(&server.id));
                subjects.extend(named.map(|server| server.name));
            }
        }
        self.faults().take(&Target {
            operation: &prepared.operation,
            changing: prepared.changing,
            starts: prepared.starts,
            subjects: &subjects,
        })
    }

    async fn reply(
        &self,
        route: &Route<'_>,
        minor: u32,
        prepared: &Prepared,
        trouble: &Trouble,
        form: Form,
    ) -> Reply {
        let operation = prepared.operation.as_str();
        let request_id = self.request_id();
        let error = |status, code: &str, message: &str| {
            let value = envelope::response(operation, code, message, &[], &request_id);
            Reply::document(status, form, "response", &value)
        };
        if let Some(status) = trouble.server_error {
            return error(status, "UNEXPECTED_ERROR", "Trouble on request.");
        }
        let call = match (route, &prepared.call) {
            (Route::Account, _) => {
                return Reply::legacy(200, envelope::account(&self.username, &self.organisation), "");
            }
            (Route::MyUser, _) => {
                let value = envelope::my_user(&self.username, &self.organisation);
                return Reply::document(200, form, "user", &value);
            }
            (Route::LegacyNetworks, _) => return Reply::legacy(200, envelope::no_networks(), ""),
            (Route::Foreign, _) => return error(403, "AUTHORIZATION_FAILURE", "Not your organization."),
            (_, None) => return error(404, "INVALID_URI", "No such URI."),
            (_, Some(call)) => call,
        };
        let outcome = if trouble.busy {
            let message = "Another operation is in progress. Please try again later.".to_owned();
            Err(Refused { code: "RESOURCE_BUSY", message })
        } else if let Some(code) = trouble.refusal {
            Err(Refused { code, message: "Refused on request. Please try again later.".to_owned() })
        } else {
            match call {
                Ok(call) => self.call(call.clone(), prepared.origin.clone(), trouble.twist).await,
                Err(refused) => Err(refused.clone()),
            }
        };
        let status = match &outcome {
            Ok(_) => 200,
            Err(refused) if refused.code == "SYSTEM_ERROR" => 500,
            Err(_) => 400,
        };
        if matches!(route, Route::Legacy(_)) {
            let code = outcome.as_ref().map_or_else(|refused| refused.code, |_| "OK");
            return Reply::legacy(status, envelope::status(&prepared.legacy, &outcome), code);
        }
        match outcome {
            Ok(answer) => {
                let (root, value) = envelope::answer(operation, answer, minor, &request_id);
                Reply::document(status, form, root, &value)
            }
            Err(refused) => Reply::document(
                status,
                form,
                "response",
                &envelope::refusal(operation, &refused, &request_id),
            ),
        }
    }

    async fn call(&self, call: Call, origin: Origin, twist: Twist) -> Outcome {
        let stopping = || Refused { code: "SYSTEM_ERROR", message: "The cloud is stopping.".to_owned() };
        let (reply, outcome) = oneshot::channel();
        self.calls.send(Command::Call { call, origin, twist, reply }).await.map_err(|_| stopping())?;
        outcome.await.map_err(|_| stopping())?
    }

    fn request_id(&self) -> String {
        let compact: String =
            self.clock.now().to_string().chars().filter(char::is_ascii_alphanumeric).collect();
        format!("local_{compact}_{}", uuid::Uuid::new_v4())
    }

    fn note(
        &self,
        method: &http::Method,
        path: &str,
        operation: &str,
        changing: bool,
        status: u16,
        code: &str,
    ) {
        tracing::debug!(%method, path, operation, status, code, "call");
        let entry = Entry {
            number: 0,
            time: self.clock.now().to_string(),
            method: method.to_string(),
            path: path.to_owned(),
            operation: operation.to_owned(),
            changing,
            status,
            code: code.to_owned(),
        };
        self.log().push(entry);
    }
}

/// A request, read.
struct Prepared {
    operation: String,
    /// What 0.9 calls the operation.
    legacy: String,
    changing: bool,
    starts: bool,
    subjects: Vec<String>,
    origin: Origin,
    /// `None` if the route alone decides.
    call: Option<Result<Call, Refused>>,
}

impl Prepared {
    fn new(route: &Route<'_>, region: &str, query: Vec<(String, String)>, body: &[u8]) -> Self {
        let origin = |mentions| Origin { region: region.to_owned(), mentions };
        let read = |operation: String, subjects, call| Self {
            operation,
            legacy: String::new(),
            changing: false,
            starts: false,
            subjects,
            origin: origin(Vec::new()),
            call,
        };
        match route {
            Route::List(kind) => {
                let call = Call::List { kind: *kind, query };
                read(format!("LIST_{}", word(*kind)), Vec::new(), Some(Ok(call)))
            }
            Route::Get(kind, id) => {
                let call = Call::Get { kind: *kind, id: (*id).to_owned() };
                read(format!("GET_{}", word(*kind)), vec![(*id).to_owned()], Some(Ok(call)))
            }
            Route::Change(path) => {
                let body = Body::parse(body);
                let operation = operation_name(path);
                let start = body.as_ref().is_ok_and(|body| {
                    let start = &body.value["start"];
                    start == true || start.as_str().is_some_and(|start| start.eq_ignore_ascii_case("true"))
                });
                Self {
                    legacy: String::new(),
                    changing: true,
                    starts: operation == "START_SERVER" || operation == "DEPLOY_SERVER" && start,
                    subjects: body.as_ref().map(Body::subjects).unwrap_or_default(),
                    origin: origin(body.as_ref().map(Body::ids).unwrap_or_default()),
                    operation,
                    call: Some(body.and_then(|body| operations::build(path, &body)).map(boxed)),
                }
            }
            Route::Legacy(legacy) => {
                let (operation, name) = legacy.names();
                let ids = match legacy {
                    Legacy::Disk { server, disk, .. } => vec![(*server).to_owned(), (*disk).to_owned()],
                    Legacy::Edit(id) | Legacy::Clone(id) | Legacy::DeleteAffinity(id) => {
                        vec![(*id).to_owned()]
                    }
                    Legacy::CreateAffinity => Body::parse(body).map(|body| body.ids()).unwrap_or_default(),
                };
                Self {
                    operation: operation.to_owned(),
                    legacy: name.to_owned(),
                    changing: true,
                    starts: false,
                    subjects: ids.clone(),
                    origin: origin(ids),
                    call: Some(legacy.change(&query, body).map(boxed)),
                }
            }
            Route::Account => read("MY_ACCOUNT".to_owned(), Vec::new(), None),
            Route::MyUser => read("MY_USER".to_owned(), Vec::new(), None),
            Route::LegacyNetworks => read("LIST_NETWORK_WITH_LOCATION".to_owned(), Vec::new(), None),
            Route::Admin(_) | Route::Foreign | Route::Unknown => read(String::new(), Vec::new(), None),
        }
    }
}

fn boxed(change: Change) -> Call {
    Call::Change(Box::new(change))
}

/// `SERVER` of `server/server`.
fn word(kind: Kind) -> String {
    operation_name(kind.path())
}

fn http_response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(reply.content));
    response
}
