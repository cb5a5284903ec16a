//! First-boot reports as HTTP/1.1 and JSON.
//!
//! The reporter on a new server is a few lines of Python from the seed: it must work when the agent is missing
//! or damaged, and Python's standard library speaks no HTTP/2. Same token, same handler as the gRPC call.

use fleet_proto::v1::{FirstBootReport, Stage, enrolment_server::Enrolment as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tonic::body::Body;

use crate::enrol::service::EnrolmentService;

/// Where reports are posted.
pub const PATH: &str = "/first-boot";
/// Largest report, in bytes: a token, and a failing line of 2 KiB in JSON's longest spelling.
const MAX: usize = 16 * 1024;

/// A report as the seed's reporter writes it.
#[derive(Deserialize)]
struct Report {
    token: String,
    stage: String,
    #[serde(default)]
    failure: String,
    #[serde(default)]
    node_time_ms: i64,
}

/// Takes one report. The answer is a status and nothing else: the reporter does not read further.
pub async fn answer(service: &EnrolmentService, request: Request<Incoming>) -> Response<Body> {
    let status = match take(service, request).await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(status) => status,
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

async fn take(service: &EnrolmentService, request: Request<Incoming>) -> Result<(), StatusCode> {
    if request.method() != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let body = Limited::new(request.into_body(), MAX).collect().await;
    let body = body.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?.to_bytes();
    let report: Report = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let stage = stage(&report.stage).ok_or(StatusCode::BAD_REQUEST)?;
    let report = FirstBootReport {
        token: report.token,
        stage: stage.into(),
        failure: report.failure,
        node_time_ms: report.node_time_ms,
    };
    match service.report(tonic::Request::new(report)).await {
        Ok(_) => Ok(()),
        Err(refused) if refused.code() == tonic::Code::NotFound => Err(StatusCode::FORBIDDEN),
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// The seed's word for a stage.
fn stage(word: &str) -> Option<Stage> {
    match word {
        "seed-read" => Some(Stage::SeedRead),
        "agent-unpacked" => Some(Stage::AgentUnpacked),
        "agent-started" => Some(Stage::AgentStarted),
        "failed" => Some(Stage::Failed),
        _ => None,
    }
}
