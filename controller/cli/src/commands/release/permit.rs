//! `fleetctl release permit VERSION|DIR`.

use std::{fs, path::Path, slice};

use fleet_model::{Clock as _, FleetName, SystemClock};
use fleet_proto::v1::{PublishRequest, ReleasesRequest, RootChain};
use fleet_release::{Kind, Manifest, Permit as Leave, Signed, Version};
use serde_json::json;

use super::{
    chain, client,
    create::sha256,
    folder::{Folder, permit_name},
    keys::{Keys, RoleName},
    publish::send,
};
use crate::{
    args::{Global, Output, release::Permit},
    connect::refused,
    failure::{Exit, Failure},
    home::Home,
    printer,
};

pub async fn run(global: &Global, home: &Home, args: Permit) -> Result<Exit, Failure> {
    let Some(keys) = Keys::open(home)? else {
        return Err(Failure::new(Exit::Input, "there are no release keys here").hint(
            "sign the permit where the releases are signed; `fleetctl release keys` shows what is here",
        ));
    };
    // A folder may be for a fleet of another home: then it is named.
    let fleet = || global.fleet.clone().map_or_else(|| home.chosen(global), Ok);
    let dir = Path::new(&args.release);
    let (version, fleet) = match args.release.parse::<Version>() {
        // A version that is also a folder is a version: the folder can be called ./1.2.3.
        Ok(version) => {
            let fleet = home.chosen(global)?;
            let mut client = client(home, &fleet).await?;
            let reply =
                client.list(ReleasesRequest {}).await.map_err(|status| refused(&status))?.into_inner();
            let found = reply.releases.iter().find(|kept| claimed(&kept.manifest) == Some(version));
            let Some(found) = found else {
                return Err(Failure::new(Exit::Input, format!("the controller has no release {version}"))
                    .hint("`fleetctl release list` shows what it has; a folder that was not published can be named too"));
            };
            if let Some(apart) = chain::apart(keys.chain(), &reply.roots) {
                return Err(apart.refusal(&fleet, &keys));
            }
            let permit = sign(&keys, &args, &fleet, &found.manifest)?;
            let chain = Some(RootChain { roots: keys.chain().to_vec() });
            send(&mut client, PublishRequest { chain, manifest: found.manifest.clone(), permit }).await?;
            (version, fleet)
        }
        Err(_) => {
            let release = Folder::read(dir, keys.chain())?;
            let fleet = fleet()?;
            chain::fits(home, slice::from_ref(&fleet), &keys, |_| true).await?;
            let permit = sign(&keys, &args, &fleet, &release.manifest_bytes)?;
            // Beside those that are there: each is for its own nodes.
            let file = dir.join(permit_name(release.permits.len() + 1));
            fs::write(&file, permit)
                .map_err(|why| Failure::new(Exit::Failed, format!("write {}: {why}", file.display())))?;
            (release.manifest.version, fleet)
        }
    };
    let nodes: Vec<String> = args.nodes.iter().map(ToString::to_string).collect();
    match global.output {
        Output::Json => {
            printer::json(&json!({
                "version": version.to_string(), "fleet": fleet, "nodes": nodes, "reason": args.reason,
            }))?;
        }
        Output::Text => {
            let nodes = nodes.join(", ");
            printer::text(&format!("{nodes} of fleet `{fleet}` may go back to release {version}\n"))?;
        }
    }
    Ok(Exit::Ok)
}

fn claimed(manifest: &[u8]) -> Option<Version> {
    let signed = Signed::decode(Kind::Manifest, manifest).ok()?;
    Some(signed.claim::<Manifest>().ok()?.version)
}

fn sign(keys: &Keys, args: &Permit, fleet: &FleetName, manifest: &[u8]) -> Result<Vec<u8>, Failure> {
    let now = SystemClock.now();
    let leave = Leave {
        manifest: sha256(manifest),
        fleet: fleet.clone(),
        nodes: args.nodes.iter().cloned().collect(),
        reason: args.reason.clone(),
        created: now,
        expires: now.after(args.expires),
    };
    keys.sign(RoleName::Permit, &leave)
}
