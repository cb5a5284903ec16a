//! What a connection that does not begin with TLS may ask for: a tunnel to our own API.
//!
//! Clients with `HTTPS_PROXY` set to this cloud send `CONNECT api-eu.dimensiondata.com:443`. They are answered
//! by the API itself, under the certificate for that name; nothing is ever forwarded.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::service_fn,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::hosts;

/// How long a client may take to send its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A tunnel that was granted: the region it leads to, and the connection to come.
type Granted = Arc<Mutex<Option<(&'static str, OnUpgrade)>>>;

/// Serves one plain connection; gives the region and the stream if a tunnel to an API host was asked for.
///
/// # Cancel safety
/// Dropping it closes the connection.
pub(crate) async fn tunnel(stream: TcpStream) -> Option<(&'static str, TokioIo<Upgraded>)> {
    let granted = Granted::default();
    let asked = granted.clone();
    let answer = service_fn(move |request| {
        let answer = answer(request, &asked);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "plain connection ended early");
    }
    let (region, upgrade) = granted.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    upgrade.await.ok().map(|stream| (region, TokioIo::new(stream)))
}

fn answer(mut request: Request<Incoming>, granted: &Granted) -> Response<Full<Bytes>> {
    if request.method() != Method::CONNECT {
        let text =
            "This is a CloudControl API: call it with https, or use it as a proxy for its host names.\n";
        return refusal(StatusCode::BAD_REQUEST, text);
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let Some(region) = hosts::tunnel(authority) else {
        tracing::info!(authority, "tunnel refused");
        return refusal(StatusCode::FORBIDDEN, "This proxy leads to hosts of the CloudControl API only.\n");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some((region, upgrade));
    Response::new(Full::default())
}

fn refusal(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    // A proxy's client that was refused has nothing more to say.
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}
