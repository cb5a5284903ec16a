//! The parts of the page that are files.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use ring::digest;

struct Asset {
    kind: &'static str,
    text: &'static str,
    tag: HeaderValue,
}

impl Asset {
    fn new(kind: &'static str, text: &'static str) -> Self {
        let sum = digest::digest(&digest::SHA256, text.as_bytes());
        let hex: String = sum.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let tag = HeaderValue::from_str(&format!("\"{hex}\"")).expect("hexadecimal digits are a value");
        Self { kind, text, tag }
    }

    /// Asked for anew each time, sent only when it changed: nodes may run different builds.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let common =
            [(header::CACHE_CONTROL, HeaderValue::from_static("no-cache")), (header::ETAG, self.tag.clone())];
        if headers.get(header::IF_NONE_MATCH) == Some(&self.tag) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        (common, [(header::CONTENT_TYPE, self.kind)], self.text).into_response()
    }
}

static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("text/css; charset=utf-8", include_str!("../../assets/app.css")));
static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("text/javascript; charset=utf-8", include_str!("../../assets/app.js")));
static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("image/svg+xml", include_str!("../../assets/icon.svg")));

pub(super) async fn style(headers: HeaderMap) -> Response {
    STYLE.answer(&headers)
}

pub(super) async fn script(headers: HeaderMap) -> Response {
    SCRIPT.answer(&headers)
}

pub(super) async fn icon(headers: HeaderMap) -> Response {
    ICON.answer(&headers)
}
