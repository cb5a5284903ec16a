//! `fleetctl stop-the-line [REASON]` and `fleetctl clear-the-line`: for every fleet of this user.

use fleet_model::FleetName;
use fleet_proto::v1::{ClearLineRequest, LineReply, StopLineRequest};
use serde_json::{Value, json};

use super::up;
use crate::{
    args::{Global, Output},
    connect::{ConnectError, refused, rollouts},
    failure::{Exit, Failure},
    home::Home,
    printer,
};

/// How it went with one fleet.
struct Done {
    fleet: FleetName,
    /// What its controller says, or why it could not be told.
    outcome: Result<String, Failure>,
}

/// Stops the line wherever one of this user's controllers runs; one that does not run finds it stopped when it starts.
pub async fn stop(global: &Global, reason: String) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let mut all = Vec::new();
    for fleet in chosen(global, &home)? {
        let outcome = stop_one(&home, &fleet, &reason).await;
        all.push(Done { fleet, outcome });
    }
    finish(&all, global.output)
}

async fn stop_one(home: &Home, fleet: &FleetName, reason: &str) -> Result<String, Failure> {
    let told = tell_to_stop(home, fleet, reason).await;
    if !matches!(told, Err(ConnectError::None(_) | ConnectError::Silent(..))) {
        return told?;
    }
    home.leave_line(fleet, reason)?;
    // It may have started just now, before the note was there.
    match tell_to_stop(home, fleet, reason).await {
        Ok(told) => told,
        Err(_) => {
            Ok("stopped: its controller does not run, and finds the line stopped when it starts".to_owned())
        }
    }
}

async fn tell_to_stop(
    home: &Home,
    fleet: &FleetName,
    reason: &str,
) -> Result<Result<String, Failure>, ConnectError> {
    let mut client = rollouts(&home.fleet(fleet), fleet).await?;
    let said = client.stop_line(StopLineRequest { reason: reason.to_owned() }).await;
    Ok(said.map(|reply| format!("stopped: {}", reply.into_inner().reason)).map_err(|status| refused(&status)))
}

/// Clears it; a controller that does not run is started, since only it knows its line.
pub async fn clear(global: &Global) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let mut all = Vec::new();
    for fleet in chosen(global, &home)? {
        let outcome = clear_one(&home, &fleet).await;
        all.push(Done { fleet, outcome });
    }
    finish(&all, global.output)
}

async fn clear_one(home: &Home, fleet: &FleetName) -> Result<String, Failure> {
    home.withdraw_line(fleet)?;
    up::controller(home, fleet, |line| eprintln!("{line}")).await?;
    let mut client = rollouts(&home.fleet(fleet), fleet).await?;
    let was = client.clear_line(ClearLineRequest {}).await.map_err(|status| refused(&status))?.into_inner();
    Ok(match was {
        LineReply { stopped: true, by, reason, .. } => format!("cleared; {by} had stopped it: {reason}"),
        _ => "was not stopped".to_owned(),
    })
}

/// The fleet that is named, or all of them.
fn chosen(global: &Global, home: &Home) -> Result<Vec<FleetName>, Failure> {
    match &global.fleet {
        Some(_) => Ok(vec![home.chosen(global)?]),
        None if home.fleets().is_empty() => Ok(vec![home.chosen(global)?]),
        None => Ok(home.fleets()),
    }
}

fn finish(all: &[Done], output: Output) -> Result<Exit, Failure> {
    if output == Output::Json {
        let list: Vec<Value> = all
            .iter()
            .map(|done| {
                let (ok, text) = match &done.outcome {
                    Ok(text) => (true, text.clone()),
                    Err(failure) => (false, failure.to_string()),
                };
                json!({ "fleet": done.fleet, "ok": ok, "detail": text })
            })
            .collect();
        printer::json(&json!({ "fleets": list }))?;
    }
    let mut exit = Exit::Ok;
    for done in all {
        match &done.outcome {
            Ok(text) if output == Output::Text => printer::text(&format!("{}: {text}\n", done.fleet))?,
            Ok(_) => {}
            Err(failure) => {
                eprintln!("fleet {}:", done.fleet);
                failure.print();
                exit = failure.exit;
            }
        }
    }
    Ok(exit)
}
