//! `fleetctl release remove VERSION`.

use fleet_proto::v1::RemoveReleaseRequest;
use fleet_release::Version;
use serde_json::json;

use super::client;
use crate::{
    args::{Global, Output},
    connect::refused,
    failure::{Exit, Failure},
    home::Home,
    printer,
};

pub async fn run(global: &Global, home: &Home, version: Version) -> Result<Exit, Failure> {
    let fleet = home.chosen(global)?;
    let request = RemoveReleaseRequest { version: version.to_string() };
    let reply = client(home, &fleet).await?.remove(request).await.map_err(|status| refused(&status))?;
    let reply = reply.into_inner();
    match global.output {
        Output::Json => printer::json(&json!({
            "fleet": fleet, "version": version.to_string(), "release": reply.release,
            "artifacts": reply.artifacts,
        }))?,
        Output::Text => printer::text(&format!(
            "the controller of fleet `{fleet}` has release {version} no longer; {} artifacts went with it\n",
            reply.artifacts
        ))?,
    }
    Ok(Exit::Ok)
}
