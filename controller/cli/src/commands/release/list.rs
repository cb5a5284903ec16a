//! `fleetctl release list` and `show VERSION`.

use std::collections::BTreeSet;

use fleet_model::{Clock as _, SystemClock, Timestamp};
use fleet_proto::v1::{KeptRelease, ReleasesReply, ReleasesRequest};
use fleet_release::{Kind, Manifest, Permit, Signed, Version};
use serde_json::{Value, json};

use super::{client, words};
use crate::{
    args::{Global, Output},
    connect::refused,
    failure::{Exit, Failure},
    home::Home,
    printer,
};

/// A release the controller keeps, read. Its signatures are the controller's and the nodes' business.
struct Kept {
    wire: KeptRelease,
    manifest: Manifest,
    permits: Vec<Permit>,
    /// Who runs it, as nodes say.
    nodes: Vec<String>,
}

/// What a controller keeps.
struct All {
    kept: Vec<Kept>,
    /// Versions that run somewhere and are not kept.
    others: Vec<(String, usize)>,
    warnings: Vec<String>,
}

pub async fn list(global: &Global, home: &Home) -> Result<Exit, Failure> {
    let all = ask(global, home).await?;
    words::warn(&all.warnings);
    let now = SystemClock.now();
    match global.output {
        Output::Json => printer::json(&list_document(&all))?,
        Output::Text => printer::text(&list_text(&all, now))?,
    }
    Ok(Exit::Ok)
}

pub async fn show(global: &Global, home: &Home, version: Version) -> Result<Exit, Failure> {
    let all = ask(global, home).await?;
    let Some(kept) = all.kept.iter().find(|kept| kept.manifest.version == version) else {
        let known: Vec<String> = all.kept.iter().map(|kept| kept.manifest.version.to_string()).collect();
        let failure = Failure::new(Exit::Input, format!("the controller has no release {version}"));
        return Err(failure.hint(if known.is_empty() {
            "it has none yet: `fleetctl release create`, then `fleetctl release publish`".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        }));
    };
    match global.output {
        Output::Json => printer::json(&document(kept))?,
        Output::Text => printer::text(&text(kept, SystemClock.now()))?,
    }
    Ok(Exit::Ok)
}

async fn ask(global: &Global, home: &Home) -> Result<All, Failure> {
    let fleet = home.chosen(global)?;
    let reply = client(home, &fleet).await?.list(ReleasesRequest {}).await;
    read(reply.map_err(|status| refused(&status))?.into_inner())
}

fn read(reply: ReleasesReply) -> Result<All, Failure> {
    let mut running: Vec<(String, Vec<String>)> =
        reply.running.into_iter().map(|running| (running.version, running.nodes)).collect();
    let unread = |why: fleet_release::Refusal| {
        Failure::new(Exit::Failed, format!("what the controller keeps cannot be read: {why}"))
            .hint("use a command line of the controller's version")
    };
    let mut kept = Vec::new();
    for wire in reply.releases {
        let signed = Signed::decode(Kind::Manifest, &wire.manifest).map_err(unread)?;
        let manifest: Manifest = signed.claim().map_err(unread)?;
        let permit = |bytes: &Vec<u8>| Signed::decode(Kind::Permit, bytes).and_then(|one| one.claim());
        let permits = wire.permits.iter().map(permit).collect::<Result<_, _>>().map_err(unread)?;
        let at = running.iter().position(|(version, _)| *version == manifest.version.to_string());
        let nodes = at.map(|at| running.swap_remove(at).1).unwrap_or_default();
        kept.push(Kept { wire, manifest, permits, nodes });
    }
    let mut others: Vec<_> = running.into_iter().map(|(version, nodes)| (version, nodes.len())).collect();
    others.sort();
    Ok(All { kept, others, warnings: reply.warnings })
}

fn list_document(all: &All) -> Value {
    let others: serde_json::Map<_, _> =
        all.others.iter().map(|(version, nodes)| (version.clone(), (*nodes).into())).collect();
    json!({
        "releases": all.kept.iter().map(document).collect::<Vec<_>>(), "unpublished": others,
        "warnings": all.warnings,
    })
}

fn document(kept: &Kept) -> Value {
    let mut document = words::manifest_document(&kept.manifest);
    let or_null = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    document["release"] = kept.wire.release.clone().into();
    document["published"] = Timestamp::from_millis(kept.wire.published_ms).to_string().into();
    document["published_by"] = kept.wire.published_by.clone().into();
    document["signed_by"] = words::signers(Kind::Manifest, &kept.wire.manifest).into();
    document["refused"] = or_null(&kept.wire.refused).into();
    document["warnings"] = kept.wire.warnings.clone().into();
    document["nodes"] = kept.nodes.clone().into();
    let permits = kept.permits.iter().zip(&kept.wire.permits).map(|(permit, signed)| {
        let nodes: Vec<String> = permit.nodes.iter().map(ToString::to_string).collect();
        json!({
            "fleet": permit.fleet, "nodes": nodes, "reason": permit.reason, "created": permit.created.to_string(),
            "expires": permit.expires.to_string(), "signed_by": words::signers(Kind::Permit, signed),
        })
    });
    document["permits"] = permits.collect();
    document
}

fn list_text(all: &All, now: Timestamp) -> String {
    let mut text = String::new();
    if all.kept.is_empty() {
        text.push_str("no release yet: `fleetctl release create`, then `fleetctl release publish`\n");
    } else {
        let mut rows =
            vec![["VERSION", "MADE", "EXPIRES", "NODES", "RELEASE", "NOTES"].map(str::to_owned).to_vec()];
        for Kept { wire, manifest, permits, nodes } in &all.kept {
            let mut notes = Vec::new();
            if !wire.refused.is_empty() {
                notes.push("no node takes it".to_owned());
            }
            let named: BTreeSet<_> = permits
                .iter()
                .filter(|permit| permit.expires > now)
                .flat_map(|permit| &permit.nodes)
                .collect();
            if !named.is_empty() {
                notes.push(format!("permit for {}", named.len()));
            }
            rows.push(vec![
                manifest.version.to_string(),
                manifest.created.to_string()[..10].to_owned(),
                words::day(manifest.expires, now),
                nodes.len().to_string(),
                wire.release.chars().take(12).collect(),
                notes.join(", "),
            ]);
        }
        text.push_str(&printer::table(&rows));
    }
    if !all.others.is_empty() {
        let others: Vec<String> =
            all.others.iter().map(|(version, nodes)| format!("{version} on {nodes}")).collect();
        text.push_str(&format!("\nrunning and not published here: {}\n", others.join(", ")));
    }
    text
}

fn text(kept: &Kept, now: Timestamp) -> String {
    let Kept { wire, manifest, permits, nodes } = kept;
    let minimum = &manifest.minimum;
    let mut rows = vec![
        ("release", format!("{}, {}", manifest.version, wire.release)),
        ("made", manifest.created.to_string()),
        ("expires", words::day(manifest.expires, now)),
        ("signed by", words::signers(Kind::Manifest, &wire.manifest).join(", ")),
        ("published", format!("{} by {}", Timestamp::from_millis(wire.published_ms), wire.published_by)),
        ("needs", format!("controller {}, agent {} or newer", minimum.controller, minimum.agent)),
        ("runs on", if nodes.is_empty() { "no node".to_owned() } else { nodes.join(", ") }),
    ];
    if !wire.refused.is_empty() {
        rows.push(("refused", wire.refused.clone()));
    }
    for permit in permits {
        let nodes: Vec<String> = permit.nodes.iter().map(ToString::to_string).collect();
        rows.push((
            "permit",
            format!(
                "for {} of fleet `{}`, until {}: {}",
                nodes.join(", "),
                permit.fleet,
                words::day(permit.expires, now),
                permit.reason
            ),
        ));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(head, cell)| vec![head.to_owned(), cell]).collect();
    format!("{}\n{}", printer::table(&rows), words::artifacts(manifest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fleet_proto::v1::RunningVersion;
    use fleet_release::{Artifact, Minimum, SigningKey};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }

    fn kept(version: &str, days: u32) -> KeptRelease {
        let digest = |digit: &str| digit.repeat(64);
        let version: Version = version.parse().expect("a version");
        let artifact = |name: &str, digit: &str| Artifact {
            name: name.to_owned(),
            size: 4_812_345,
            sha256: digest(digit),
            packed_size: 2_101_010,
            packed_sha256: digest("e"),
        };
        let manifest = Manifest {
            version,
            created: now(),
            expires: now().after(DAY * days),
            minimum: Minimum {
                controller: version.oldest_counterpart(),
                agent: version.oldest_counterpart(),
            },
            artifacts: vec![artifact("fleet-agent", "a"), artifact("fleet-todo", "b")],
        };
        // Fixed, so that what is shown is: nothing here is trusted by it.
        let manifest = Signed::new(&manifest).expect("sound");
        KeptRelease {
            release: digest("a"),
            manifest: manifest.encode(),
            published_ms: now().as_millis(),
            published_by: "root".to_owned(),
            ..KeptRelease::default()
        }
    }

    fn permit(nodes: &[&str]) -> Vec<u8> {
        let permit = Permit {
            manifest: "0a".repeat(32),
            fleet: "reference".parse().expect("a name"),
            nodes: nodes.iter().map(|name| name.parse().expect("a name")).collect(),
            reason: "0.3.0 eats memory".to_owned(),
            created: now(),
            expires: now().after(DAY * 7),
        };
        Signed::new(&permit).expect("sound").encode()
    }

    fn reply() -> ReleasesReply {
        let running = |version: &str, nodes: &[&str]| RunningVersion {
            version: version.to_owned(),
            nodes: nodes.iter().map(|name| (*name).to_owned()).collect(),
        };
        ReleasesReply {
            releases: vec![
                kept("0.3.0", 180),
                KeptRelease {
                    permits: vec![permit(&["a1", "a2"]), permit(&["a2", "b1"])],
                    ..kept("0.2.0", 20)
                },
                KeptRelease {
                    refused: "the manifest is signed by nobody known".to_owned(),
                    ..kept("0.1.0", 1)
                },
            ],
            running: vec![running("0.3.0", &["a1", "a2", "b1"]), running("0.0.9", &["c1"])],
            ..ReleasesReply::default()
        }
    }

    #[test]
    fn the_list_says_what_runs_where_and_until_when() {
        let all = read(reply()).expect("readable");
        insta::assert_snapshot!(list_text(&all, now().after(DAY)));
        assert_eq!(list_document(&all)["unpublished"], json!({ "0.0.9": 1 }));
        let none = read(ReleasesReply::default()).expect("readable");
        insta::assert_snapshot!(list_text(&none, now()));
    }

    #[test]
    fn all_about_one() {
        let all = read(reply()).expect("readable");
        insta::assert_snapshot!(text(&all.kept[1], now()));
        insta::assert_json_snapshot!(document(&all.kept[0]));
        insta::assert_snapshot!(text(&all.kept[2], now().after(DAY)));
    }

    #[test]
    fn whoever_signed_is_named() {
        let (key, _) = SigningKey::generate().expect("a key");
        let mut signed = Signed::decode(Kind::Permit, &permit(&["a1"])).expect("one");
        signed.sign(&key);
        assert_eq!(words::signers(Kind::Permit, &signed.encode()), [key.public().id().to_string()]);
    }
}
