//! The client: one call in, one typed answer out.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use reqwest::{Method, StatusCode, header};
use serde_json::Value;
use tokio::{sync::OnceCell, time::Instant};

use crate::{
    Id, McpError, Operation, Resource, Secret, account,
    error::Refusal,
    liberal, moment,
    resource::operation_name,
    retry::{Kind, Retry},
    tls,
    types::Response,
};

/// Largest answer read. A full page of servers is well below a megabyte.
const MAX_ANSWER: usize = 32 << 20;
/// Largest part of an answer that is no envelope shown in an error.
const MAX_EXCERPT: usize = 200;

/// Name and password of an account.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// What a client is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Base URL without a path: `https://api-eu.dimensiondata.com`.
    pub endpoint: String,
    /// Whose account.
    pub credentials: Credentials,
    /// Authorities to trust besides the public ones, PEM.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// Proxy to call through, `http://host:port`. `None` takes what the environment says (`HTTPS_PROXY`,
    /// `NO_PROXY`), but for services on this host.
    pub proxy: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one call may take, its answer included.
    pub call_timeout: Duration,
    /// When calls are repeated.
    pub retry: Retry,
}

impl Settings {
    /// Settings with the usual timeouts.
    pub fn new(endpoint: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            endpoint: endpoint.into(),
            credentials,
            extra_ca_pem: None,
            proxy: None,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(60),
            retry: Retry::default(),
        }
    }
}

/// A client of one account in one region. Cheap to share behind an `Arc`; every method takes `&self`.
///
/// # Cancel safety
/// Dropping a read is harmless. Dropping a change leaves open whether it had its effect, as
/// [`McpError::is_ambiguous`] does.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    settings: Settings,
    organisation: OnceCell<String>,
    changes: AtomicU64,
}

/// An answer as it came.
pub(crate) struct Answer {
    status: StatusCode,
    /// When the service sent it, as it says.
    date: Option<String>,
    /// How long it wants to be left alone.
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

/// A request that can be sent again.
pub(crate) struct Call {
    pub(crate) operation: String,
    kind: Kind,
    url: String,
    pub(crate) query: Vec<(String, String)>,
    /// Content type and body.
    body: Option<(&'static str, Vec<u8>)>,
    accept: &'static str,
}

impl Client {
    /// Makes a client; sends nothing yet.
    ///
    /// # Errors
    /// [`McpError::Settings`]: the extra CA or the endpoint is not usable.
    pub fn new(settings: Settings) -> Result<Self, McpError> {
        let wrong =
            |what: String, source: reqwest::Error| McpError::Settings { what, source: Box::new(source) };
        let mut builder = reqwest::Client::builder();
        if let Some(proxy) = &settings.proxy {
            let proxy = reqwest::Proxy::all(proxy)
                .map_err(|error| wrong(format!("`{proxy}` is no address of a proxy"), error))?;
            builder = builder.proxy(proxy);
        } else if is_on_this_host(&settings.endpoint) {
            // A proxy somewhere else cannot reach it.
            builder = builder.no_proxy();
        }
        let http = builder
            .tls_backend_preconfigured(tls::config(settings.extra_ca_pem.as_deref())?)
            .https_only(settings.endpoint.starts_with("https://"))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.call_timeout)
            .user_agent(concat!("fleet-mcp/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| wrong("HTTP client".to_owned(), error))?;
        let mut settings = settings;
        settings.endpoint.truncate(settings.endpoint.trim_end_matches('/').len());
        http.get(&settings.endpoint)
            .build()
            .map_err(|error| wrong(format!("`{}` is no address of a cloud", settings.endpoint), error))?;
        Ok(Self { http, settings, organisation: OnceCell::new(), changes: AtomicU64::new(0) })
    }

    /// How many changing calls were sent so far, repetitions included.
    pub fn changing_calls(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The settings it was made of.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The service's clock, as the `Date` of an answer says it: `Sun, 06 Nov 1994 08:49:37 GMT`. `None` if it does not.
    ///
    /// # Errors
    /// The service cannot be asked.
    pub async fn date(&self) -> Result<Option<String>, McpError> {
        Ok(self.send(&self.my_account()).await?.date)
    }

    fn my_account(&self) -> Call {
        Call {
            operation: "MY_ACCOUNT".to_owned(),
            kind: Kind::Read,
            url: format!("{}/oec/0.9/myaccount", self.settings.endpoint),
            query: Vec::new(),
            body: None,
            accept: "text/xml",
        }
    }

    /// The account's organisation; asked once, then remembered.
    pub async fn organisation(&self) -> Result<&str, McpError> {
        let organisation = self.organisation.get_or_try_init(|| async {
            let call = self.my_account();
            let answer = self.send(&call).await?;
            let text = String::from_utf8_lossy(&answer.body);
            let found = account::child_text(&text, "orgId").map_err(|source| call.garbled(source))?;
            found.filter(|id| !id.is_empty()).ok_or_else(|| call.garbled("no `orgId` in it".into()))
        });
        Ok(organisation.await?)
    }

    /// The `T` of this id.
    pub async fn get<T: Resource>(&self, id: &Id<T>) -> Result<T, McpError> {
        let call = self.read::<T>("GET", &format!("{}/{id}", T::PATH)).await?;
        let answer = self.send(&call).await?;
        let value = call.json(&answer)?;
        liberal::decode(value).map_err(|error| call.garbled(error.into()))
    }

    /// The `T` of this id, or `None` if there is none.
    pub async fn find<T: Resource>(&self, id: &Id<T>) -> Result<Option<T>, McpError> {
        match self.get(id).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a change; returns once the service has accepted it.
    pub async fn change<O: Operation>(&self, request: &O) -> Result<Response, McpError> {
        self.post(O::PATH, request).await
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        request: &impl serde::Serialize,
    ) -> Result<Response, McpError> {
        let operation = operation_name(path);
        let body =
            liberal::encode(request).and_then(|value| serde_json::to_vec(&value)).map_err(|error| {
                McpError::Settings { what: format!("body of {operation}"), source: error.into() }
            })?;
        let call = Call {
            url: self.url(path).await?,
            operation,
            kind: Kind::Change,
            query: Vec::new(),
            body: Some(("application/json", body)),
            accept: "application/json",
        };
        let answer = self.send(&call).await?;
        let value = call.json(&answer)?;
        let response: Response = liberal::decode(value).map_err(|error| call.garbled(error.into()))?;
        // An envelope with a failure under status 200 was never seen; taking it for a success would be worse
        // than this line.
        if response.is_success() { Ok(response) } else { Err(call.refused(&answer, response)) }
    }

    /// Sends a 0.9 change in XML; `detail` ends its path.
    pub(crate) async fn post_legacy(
        &self,
        operation: &str,
        detail: &str,
        body: String,
    ) -> Result<(), McpError> {
        let organisation = self.organisation().await?;
        let call = Call {
            operation: operation.to_owned(),
            kind: Kind::Change,
            url: format!("{}/oec/0.9/{organisation}/{detail}", self.settings.endpoint),
            query: Vec::new(),
            body: Some(("application/xml", body.into_bytes())),
            accept: "text/xml",
        };
        let answer = self.send(&call).await?;
        let text = String::from_utf8_lossy(&answer.body);
        let result = account::child_text(&text, "result").map_err(|source| call.garbled(source))?;
        if result.as_deref() == Some("SUCCESS") { Ok(()) } else { Err(call.failed(&answer)) }
    }

    async fn url(&self, path: &str) -> Result<String, McpError> {
        Ok(format!("{}/caas/2.4/{}/{path}", self.settings.endpoint, self.organisation().await?))
    }

    pub(crate) async fn read<T: Resource>(&self, verb: &str, path: &str) -> Result<Call, McpError> {
        Ok(Call {
            operation: format!("{verb}_{}", kind_word::<T>()),
            kind: Kind::Read,
            url: self.url(path).await?,
            query: Vec::new(),
            body: None,
            accept: "application/json",
        })
    }

    /// Sends, and sends again as the policy says.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, McpError> {
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match self.send_once(call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let retry = &self.settings.retry;
            let pause = retry.pause(call.kind, &error, attempt, started.elapsed(), &mut rand::rng());
            let Some(pause) = pause else { return Err(error) };
            tracing::debug!(operation = call.operation, attempt, ?pause, %error, "call is repeated");
            tokio::time::sleep(pause).await;
        }
    }

    async fn send_once(&self, call: &Call) -> Result<Answer, McpError> {
        let method = if call.body.is_some() { Method::POST } else { Method::GET };
        let credentials = &self.settings.credentials;
        let mut request = self
            .http
            .request(method, call.address())
            .basic_auth(&credentials.username, Some(credentials.password.reveal()))
            .header(header::ACCEPT, call.accept);
        if let Some((content_type, body)) = &call.body {
            request = request.header(header::CONTENT_TYPE, *content_type).body(body.clone());
        }
        if call.kind == Kind::Change {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        let mut response = request.send().await.map_err(|error| call.lost(error))?;
        let status = response.status();
        let said = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let date = said(header::DATE).map(str::to_owned);
        let retry_after =
            said(header::RETRY_AFTER).and_then(|text| moment::retry_after(text, date.as_deref()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| call.lost(error))? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return Err(call.garbled(format!("more than {MAX_ANSWER} bytes").into()));
            }
        }
        let answer = Answer { status, date, retry_after, body };
        if status.is_success() { Ok(answer) } else { Err(call.failed(&answer)) }
    }
}

fn is_on_this_host(endpoint: &str) -> bool {
    let url = reqwest::Url::parse(endpoint).ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl Call {
    /// The URL with its query.
    fn address(&self) -> String {
        let pairs = self.query.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
        let query = pairs.collect::<Vec<_>>().join("&");
        if query.is_empty() { self.url.clone() } else { format!("{}?{query}", self.url) }
    }

    pub(crate) fn json(&self, answer: &Answer) -> Result<Value, McpError> {
        serde_json::from_slice(&answer.body).map_err(|error| self.garbled(error.into()))
    }

    pub(crate) fn garbled(&self, source: crate::error::Source) -> McpError {
        let accepted = self.kind == Kind::Change;
        McpError::Decode { operation: self.operation.clone(), accepted, source }
    }

    fn lost(&self, error: reqwest::Error) -> McpError {
        // Only a connection that was never made is proof that nothing was sent.
        let sent = !(error.is_connect() || error.is_builder());
        // The address is no secret, but it makes long lines and says nothing new.
        McpError::Transport { operation: self.operation.clone(), sent, source: error.without_url().into() }
    }

    /// The error for an answer with a status that is no success.
    fn failed(&self, answer: &Answer) -> McpError {
        let text = String::from_utf8_lossy(&answer.body);
        let json = serde_json::from_slice(&answer.body).ok();
        let response = json.and_then(|value: Value| liberal::decode::<Response>(value).ok());
        let response = response.filter(|response| !response.response_code.is_empty());
        self.refused(answer, response.unwrap_or_else(|| legacy_response(&text)))
    }

    fn refused(&self, answer: &Answer, response: Response) -> McpError {
        let (status, retry_after) = (answer.status.as_u16(), answer.retry_after);
        let code = match response.response_code {
            code if code.is_empty() => format!("HTTP {status}"),
            code => code,
        };
        let mut message = response.message;
        for detail in &response.error {
            message.push_str(&format!(" ({}: {})", detail.name, detail.value));
        }
        let operation = self.operation.clone();
        McpError::refused(
            status,
            Refusal { operation, code, message, request_id: response.request_id, retry_after },
        )
    }
}

/// What can be read of an answer that is no JSON envelope: the XML forms, or an excerpt.
fn legacy_response(text: &str) -> Response {
    let member = |name: &str| account::child_text(text, name).ok().flatten();
    if let Some(code) = member("responseCode") {
        return Response {
            response_code: code,
            message: member("message").unwrap_or_default(),
            ..Response::default()
        };
    }
    if let Some(detail) = member("resultDetail") {
        // 0.9 has no codes of this kind; REASON_392 is its "busy", REASON_395 its "no such server".
        let code = match member("resultCode").as_deref() {
            Some("REASON_392") => "RESOURCE_BUSY".to_owned(),
            Some("REASON_395") => "RESOURCE_NOT_FOUND".to_owned(),
            other => other.unwrap_or("ERROR").to_owned(),
        };
        return Response { response_code: code, message: detail, ..Response::default() };
    }
    let excerpt: String = text.trim().chars().take(MAX_EXCERPT).collect();
    Response { message: excerpt, ..Response::default() }
}

pub(crate) fn kind_word<T: Resource>() -> String {
    let name = operation_name(T::ITEM);
    // `ip` alone says little.
    if name == "IP" { operation_name(T::PATH) } else { name }
}

/// Percent-encoding of a query part: all but unreserved characters (RFC 3986, section 2.3).
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escape("a b*&=é"), "a%20b%2A%26%3D%C3%A9");
        assert_eq!(escape("name.LIKE"), "name.LIKE");
    }

    #[test]
    fn services_on_this_host_need_no_proxy() {
        let check = |endpoint: &str, want: bool| assert_eq!(is_on_this_host(endpoint), want, "{endpoint}");
        check("https://127.0.0.1:4321", true);
        check("https://localhost:4321", true);
        check("https://[::1]:4321/", true);
        check("https://api-eu.dimensiondata.com", false);
        check("https://127.0.0.1.example.org", false);
        check("", false);
    }

    #[test]
    fn errors_are_read_in_every_form() {
        let check = |text: &str, code: &str, message: &str| {
            let response = legacy_response(text);
            assert_eq!((response.response_code.as_str(), response.message.as_str()), (code, message));
        };
        check(
            "<response><responseCode>RESOURCE_BUSY</responseCode><message>wait</message></response>",
            "RESOURCE_BUSY",
            "wait",
        );
        check(
            "<Status><result>ERROR</result><resultDetail>wait</resultDetail><resultCode>REASON_392</resultCode></Status>",
            "RESOURCE_BUSY",
            "wait",
        );
        check("<Status><resultDetail>too big</resultDetail></Status>", "ERROR", "too big");
        check(" bad gateway ", "", "bad gateway");
        check("", "", "");
    }

    #[test]
    fn unusable_settings_are_named() {
        let credentials = Credentials { username: "u".into(), password: Secret::new("p") };
        let mut settings = Settings::new("https://127.0.0.1:1", credentials.clone());
        settings.extra_ca_pem = Some(b"no certificate".to_vec());
        let error = Client::new(settings).expect_err("no CA in it");
        assert!(error.to_string().contains("extra CA"), "{error}");
        let error = Client::new(Settings::new("not an address", credentials)).expect_err("no URL");
        assert!(error.to_string().contains("`not an address`"), "{error}");
    }
}
