//! `fleetctl release publish DIR`.

use std::{path::Path, slice};

use fleet_proto::v1::{PublishReply, PublishRequest, RootChain};
use serde_json::json;
use tonic::transport::Channel;

use super::{chain, client, folder::Folder, keys::Keys, note, words};
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
    if let Some(keys) = &keys {
        // A folder of another releaser's is theirs to answer for; the controller judges it.
        chain::fits(home, slice::from_ref(&fleet), keys, chain::Apart::is_stale).await?;
    }
    let (channel, _) = reach(&home.fleet(&fleet), &fleet).await?;
    let mut operator: Operator = Operator::new(channel);
    files::bring(&mut operator, &files, &artifacts, note).await?;
    let mut client = client(home, &fleet).await?;
    let request = |permit: Vec<u8>| PublishRequest {
        chain: Some(RootChain { roots: release.chain.clone() }),
        manifest: release.manifest_bytes.clone(),
        permit,
    };
    let mut permits = release.permits.iter().cloned();
    let mut reply = send(&mut client, request(permits.next().unwrap_or_default())).await?;
    for permit in permits {
        reply = send(&mut client, request(permit)).await?;
    }
    words::warn(&reply.warnings);
    let version = release.manifest.version;
    match global.output {
        Output::Json => printer::json(&json!({
            "fleet": fleet.as_str(), "version": version.to_string(), "release": reply.release,
            "permit": !release.permits.is_empty(), "warnings": reply.warnings,
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
