//! Keys, releases and their expiry as people and programs read them.

use fleet_model::{Clock as _, SystemClock, Timestamp};
use fleet_release::{Kind, Manifest, Signed, Trust, WARN_AHEAD, outlook as expiring};
use serde_json::{Value, json};

use super::keys::{Keys, RoleName};
use crate::printer;

/// What expires within four weeks, or has, one line each.
pub fn outlook(trust: &Trust, manifest: Option<&Manifest>) -> Vec<String> {
    let line = |warning: &fleet_release::Warning| {
        let next = match warning.kind {
            Kind::Root => "`fleetctl release rotate root` makes the next one",
            Kind::Manifest | Kind::Permit => "`fleetctl release create` signs it afresh",
        };
        let (kind, expires) = (warning.kind, warning.expires);
        if warning.left.is_zero() {
            format!("the {kind} expired at {expires}: nothing is updated by it; {next}")
        } else {
            format!("the {kind} expires at {expires}, in {} days; {next}", warning.left.as_secs() / 86_400)
        }
    };
    expiring(trust, manifest, SystemClock.now()).iter().map(line).collect()
}

/// Prints warnings where they do not disturb programs.
pub fn warn(lines: &[String]) {
    let yellow = console::style("warning:").yellow().bold().for_stderr();
    lines.iter().for_each(|line| eprintln!("{yellow} {line}"));
}

/// A day, and how far it is.
pub fn day(at: Timestamp, now: Timestamp) -> String {
    let day = &at.to_string()[..10];
    match (at <= now, at.since(now)) {
        (true, _) => format!("{day} (over)"),
        (false, left) if left <= WARN_AHEAD => format!("{day} ({} days left)", left.as_secs() / 86_400),
        (false, _) => day.to_owned(),
    }
}

/// Ids of whoever signed a document.
pub fn signers(kind: Kind, bytes: &[u8]) -> Vec<String> {
    let signed = Signed::decode(kind, bytes);
    signed.iter().flat_map(Signed::signers).map(|id| id.to_string()).collect()
}

/// What a manifest says, for programs.
pub fn manifest_document(manifest: &Manifest) -> Value {
    let artifacts: Vec<Value> = manifest
        .artifacts
        .iter()
        .map(|one| {
            json!({
                "name": one.name, "size": one.size, "sha256": one.sha256,
                "packed_size": one.packed_size, "packed_sha256": one.packed_sha256,
            })
        })
        .collect();
    json!({
        "version": manifest.version.to_string(), "created": manifest.created.to_string(),
        "expires": manifest.expires.to_string(), "artifacts": artifacts,
        "minimum": {
            "controller": manifest.minimum.controller.to_string(), "agent": manifest.minimum.agent.to_string(),
        },
    })
}

/// Artifacts, one line each.
pub fn artifacts(manifest: &Manifest) -> String {
    let row = |one: &fleet_release::Artifact| {
        vec![format!("  {}", one.name), megabytes(one.size), megabytes(one.packed_size), one.sha256.clone()]
    };
    let heads = ["  PROGRAM", "SIZE", "PACKED", "SHA256"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(heads).chain(manifest.artifacts.iter().map(row)).collect();
    printer::table(&rows)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// Keys, for programs.
pub fn keys_document(keys: &Keys) -> Value {
    let root = keys.trust().root();
    let role = |role: RoleName| {
        let ids: Vec<String> = role.of(root).keys.iter().map(|key| key.id().to_string()).collect();
        json!({ "threshold": role.of(root).threshold, "keys": ids, "here": keys.has(role) })
    };
    json!({
        "folder": keys.dir(), "root": root.number, "created": root.created.to_string(),
        "expires": root.expires.to_string(),
        "roles": {
            "root": role(RoleName::Root), "release": role(RoleName::Release), "permit": role(RoleName::Permit),
        },
    })
}

/// Keys, for people.
pub fn keys_text(keys: &Keys) -> String {
    let root = keys.trust().root();
    let mut rows = vec![["ROLE", "KEY", "HERE"].map(str::to_owned).to_vec()];
    for role in RoleName::ALL {
        let ids: Vec<String> = role.of(root).keys.iter().map(|key| key.id().to_string()).collect();
        let here = if keys.has(role) { "yes" } else { "no" };
        rows.push(vec![role.word().to_owned(), ids.join(", "), here.to_owned()]);
    }
    format!(
        "root {}, in {}, good until {}\n\n{}",
        root.number,
        keys.dir().display(),
        day(root.expires, SystemClock.now()),
        printer::table(&rows)
    )
}
