//! What holds for every request and every answer.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::problem::Problem;

/// Nothing here takes so long but a client that sends its body drop by drop.
const DEADLINE: Duration = Duration::from_secs(15);

/// Everything from this origin, nothing inline, nobody around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Says which node answered, and what browsers must not do with the answer.
pub(super) async fn headers(State(node): State<HeaderValue>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert("x-fleet-node", node);
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Lists grow old at once; what may be kept says so itself.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Ends requests whose body never comes. Streams are not cut: they are answers, begun in time.
pub(super) async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, "The request took too long.").into_response(),
    }
}

/// Refuses changes that another site's page asks a browser for.
pub(super) async fn same_origin(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if reads || is_same_origin(request.headers()) {
        return next.run(request).await;
    }
    Problem::new(StatusCode::FORBIDDEN, "This came from another site's page.").into_response()
}

/// Browsers say where a request comes from and pages cannot change what they say. A request that says
/// nothing is no browser's, unless it is a form of an old one.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
        return matches!(site, "same-origin" | "none");
    }
    if let Some(origin) = text(header::ORIGIN) {
        let host = origin.strip_prefix("https://");
        return host.is_some() && host == text(header::HOST);
    }
    let form = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
    let kind = text(header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    !form.iter().any(|form| kind.starts_with(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_request_it_is() {
        let check = |pairs: &[(&'static str, &str)], expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("node:5000"));
            for (name, value) in pairs {
                headers.insert(*name, value.parse().expect("a value"));
            }
            assert_eq!(is_same_origin(&headers), expected, "{pairs:?}");
        };
        let form = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        check(&[("content-type", "application/json")], true);
        check(&[], true);
        check(&[form], false);
        check(&[form, ("origin", "https://node:5000")], true);
        check(&[form, ("origin", "http://node:5000")], false);
        check(&[form, ("origin", "https://node")], false);
        check(&[form, ("origin", "null")], false);
        check(&[("origin", "https://evil.example")], false);
        // A page whose referrer policy hides its origin still says which site it is of.
        check(&[form, ("origin", "null"), ("sec-fetch-site", "same-origin")], true);
        check(&[form, ("sec-fetch-site", "none")], true);
        check(&[form, ("sec-fetch-site", "same-site")], false);
        check(&[("origin", "https://node:5000"), ("sec-fetch-site", "cross-site")], false);
    }
}
