//! `fleetctl cloud orphans`: what nobody answers for.

use std::collections::{BTreeMap, BTreeSet};

use fleet_model::{Clock as _, SystemClock, Timestamp, chain};
use fleet_plan::resolved::Cloud;
use fleet_proto::v1::{Orphan, OrphansRequest};
use fleet_provider::{orphans::Orphan as Found, provider::strays};
use serde_json::{Value, json};

use super::{cloud, serve, up};
use crate::{
    args::{Endpoint, Output},
    connect::refused,
    failure::{Exit, Failure},
    home::Home,
    printer,
};

pub async fn run(home: &Home, endpoint: &Endpoint, output: Output) -> Result<Exit, Failure> {
    let found = search(home, endpoint).await?;
    let now = SystemClock.now();
    match output {
        Output::Json => {
            let list: Vec<Value> = found.iter().map(|orphan| document(orphan, now)).collect();
            printer::json(&json!({ "orphans": list }))?;
        }
        Output::Text => printer::text(&text(&found, now))?,
    }
    Ok(if found.is_empty() { Exit::Ok } else { Exit::Changes })
}

/// Asks the controller of every fleet of this home, then looks at clouds that none of them has looked at.
async fn search(home: &Home, endpoint: &Endpoint) -> Result<Vec<Orphan>, Failure> {
    let note = |line: &str| eprintln!("{line}");
    let fleets = home.fleets();
    let mut clouds: Vec<Cloud> = clouds(home, endpoint)?;
    if clouds.contains(&Cloud::Local) {
        cloud::ensure(home, note).await?;
    }
    let (mut known, mut found) = (BTreeSet::new(), Vec::new());
    for fleet in &fleets {
        let mut operator = up::controller(home, fleet, note).await?;
        let reply =
            operator.orphans(OrphansRequest {}).await.map_err(|status| refused(&status))?.into_inner();
        if reply.looked {
            let of_fleet = home.cloud_of(fleet)?.unwrap_or(Cloud::Local);
            clouds.retain(|cloud| *cloud != of_fleet);
        }
        found.extend(reply.orphans.into_iter().map(|orphan| (reply.fleet_id.clone(), orphan)));
        known.insert(reply.fleet_id);
    }
    for cloud in clouds {
        let client = serve::client(home, &cloud)?;
        let strays = strays(&client).await.map_err(|error| {
            Failure::new(Exit::Unreachable, format!("look at the cloud: {}", chain(&error)))
                .hint(error.hint())
        })?;
        found.extend(strays.into_iter().map(|stray| (String::new(), wire(stray))));
    }
    Ok(merge(found, &known))
}

/// Clouds to look at: of this home's fleets, the local one if it was ever there, and the one that is named.
pub fn clouds(home: &Home, endpoint: &Endpoint) -> Result<Vec<Cloud>, Failure> {
    let mut clouds: Vec<Cloud> = Vec::new();
    let named = endpoint.cloud_endpoint.iter().map(|endpoint| Cloud::Mcp { endpoint: endpoint.clone() });
    let local = home.cloud().exists().then_some(Cloud::Local);
    let noted: Vec<Option<Cloud>> =
        home.fleets().iter().map(|fleet| home.cloud_of(fleet)).collect::<Result<_, _>>()?;
    for cloud in noted.into_iter().flatten().chain(local).chain(named) {
        // Machines that are somebody's are in no cloud that lists them.
        if cloud != Cloud::Hosts && !clouds.contains(&cloud) {
            clouds.push(cloud);
        }
    }
    Ok(clouds)
}

/// Each once, and only what nobody here answers for: each controller speaks for its own fleet alone.
fn merge(found: Vec<(String, Orphan)>, known: &BTreeSet<String>) -> Vec<Orphan> {
    let mut merged: BTreeMap<(String, String, String), Orphan> = BTreeMap::new();
    for (by, orphan) in found {
        if known.contains(&orphan.fleet_id) && orphan.fleet_id != by {
            continue;
        }
        merged.entry((orphan.location.clone(), orphan.kind.clone(), orphan.id.clone())).or_insert(orphan);
    }
    merged.into_values().collect()
}

fn wire(found: Found) -> Orphan {
    let (fleet, fleet_id) = found.mark.map(|mark| (mark.fleet, mark.id)).unwrap_or_default();
    Orphan {
        kind: found.kind.to_owned(),
        name: found.name,
        id: found.id,
        location: found.location,
        fleet,
        fleet_id,
        why: found.why,
        next_step: found.next_step,
        created_ms: found.created.map_or(0, |at| at.as_millis()),
    }
}

fn document(orphan: &Orphan, now: Timestamp) -> Value {
    let or_null = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let created = (orphan.created_ms != 0).then(|| Timestamp::from_millis(orphan.created_ms));
    json!({
        "kind": orphan.kind, "name": orphan.name, "id": orphan.id, "location": orphan.location,
        "fleet": or_null(&orphan.fleet), "fleet_id": or_null(&orphan.fleet_id),
        "created": created.map(|at| at.to_string()), "age_s": created.map(|at| now.since(at).as_secs()),
        "why": orphan.why, "next_step": orphan.next_step,
    })
}

fn text(found: &[Orphan], now: Timestamp) -> String {
    if found.is_empty() {
        return "none: everything in the cloud belongs to a plan\n".to_owned();
    }
    let heads = ["KIND", "NAME", "LOCATION", "AGE", "ID", "WHY"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    let mut steps: Vec<&str> = Vec::new();
    for orphan in found {
        rows.push(vec![
            orphan.kind.clone(),
            orphan.name.clone(),
            orphan.location.clone(),
            age(orphan.created_ms, now),
            orphan.id.clone(),
            orphan.why.clone(),
        ]);
        if !steps.contains(&orphan.next_step.as_str()) {
            steps.push(&orphan.next_step);
        }
    }
    let mut text = printer::table(&rows);
    text.push('\n');
    steps.iter().for_each(|step| text.push_str(&format!("{step}\n")));
    text
}

/// How old something is; a dash if the cloud does not say.
pub fn age(created_ms: i64, now: Timestamp) -> String {
    if created_ms == 0 {
        return "–".to_owned();
    }
    let seconds = now.since(Timestamp::from_millis(created_ms)).as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orphan(kind: &str, id: &str, fleet_id: &str) -> Orphan {
        Orphan {
            kind: kind.to_owned(),
            name: format!("{kind}-{id}"),
            id: id.to_owned(),
            location: "EU7".to_owned(),
            fleet: if fleet_id.is_empty() { String::new() } else { "rethink".to_owned() },
            fleet_id: fleet_id.to_owned(),
            why: "unmarked".to_owned(),
            next_step: "delete it".to_owned(),
            created_ms: 1_000,
        }
    }

    #[test]
    fn each_fleet_speaks_for_itself_and_each_thing_is_told_once() {
        let known = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let found = vec![
            ("a".to_owned(), orphan("server", "1", "a")),
            ("a".to_owned(), orphan("server", "2", "b")),
            ("a".to_owned(), orphan("server", "3", "lost")),
            ("b".to_owned(), orphan("server", "3", "lost")),
            ("b".to_owned(), orphan("disk", "4", "")),
        ];
        let ids: Vec<String> = merge(found, &known).into_iter().map(|orphan| orphan.id).collect();
        assert_eq!(ids, ["4", "1", "3"]);
    }

    #[test]
    fn the_list_says_what_where_how_old_and_what_to_do() {
        let found = [orphan("server", "1", ""), orphan("vlan", "2", "lost")];
        insta::assert_snapshot!(text(&found, Timestamp::from_millis(601_000)));
        assert_eq!(document(&found[0], Timestamp::from_millis(601_000))["age_s"], 600);
    }
}
