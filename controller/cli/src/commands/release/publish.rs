//! `fleetctl release publish DIR`.

use std::path::Path;

use fleet_proto::v1::{PublishReply, PublishRequest, RootChain};
use serde_json::json;
use tonic::transport::Channel;

use super::{client, folder::Folder, keys::Keys, note, words};
use crate::{
    args::{Global, Output},
    connect::{Operator, reach, refused},
    failure::{Exit, Failure},
    files,
    home::Home,
    printer,
};

pub async fn run(global: &Global, home: &Home, dir: &Path) -> Result<Exit, Failure> {
    let keys = Keys::open(home)?;
    let release = Folder::read(dir, keys.as_ref().map_or(&[], |keys| keys.chain()))?;
    let (files, artifacts) = release.artifacts()?;
    let fleet = home.chosen(global)?;
    let (channel, _) = reach(&home.fleet(&fleet), &fleet).await?;
    let mut operator: Operator = Operator::new(channel);
    files::bring(&mut operator, &files, &artifacts, note).await?;
    let request = PublishRequest {
        chain: Some(RootChain { roots: release.chain.clone() }),
        manifest: release.manifest_bytes.clone(),
        permit: release.permit.clone().unwrap_or_default(),
    };
    let reply = send(&mut client(home, &fleet).await?, request).await?;
    words::warn(&reply.warnings);
    let version = release.manifest.version;
    match global.output {
        Output::Json => printer::json(&json!({
            "fleet": fleet.as_str(), "version": version.to_string(), "release": reply.release,
            "permit": release.permit.is_some(), "warnings": reply.warnings,
        }))?,
        Output::Text => printer::text(&format!(
            "the controller of fleet `{fleet}` keeps release {version}, {}\n",
            reply.release
        ))?,
    }
    Ok(Exit::Ok)
}

/// Hands it over; the controller judges.
pub async fn send(
    client: &mut fleet_proto::v1::releases_client::ReleasesClient<Channel>,
    request: PublishRequest,
) -> Result<PublishReply, Failure> {
    Ok(client.publish(request).await.map_err(|status| refused(&status))?.into_inner())
}
