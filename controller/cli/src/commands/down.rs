//! `fleetctl down`: removes everything of one fleet, and what `up` had started for it.

use std::time::Duration;

use fleet_plan::resolved::Cloud;
use fleet_proto::v1::{DownRequest, Finished};
use serde_json::json;

use super::{
    cloud, follow,
    follow::{End, follow},
    up::{confirm, controller},
};
use crate::{
    args::{Down, Global, Output},
    background, connect,
    failure::{Exit, Failure},
    home::Home,
    printer,
    progress::Screen,
};

/// A controller drains within a few seconds; one that does not is ended.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn run(global: &Global, args: Down) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let mut screen = Screen::new();
    if global.fleet.is_none() && home.fleets().is_empty() && home.has_set_aside() {
        screen.note("an earlier `down` was cut while it cleared away; finishing that");
        clear_away(&home, home.cloud().exists(), &screen).await?;
        return Ok(Exit::Ok);
    }
    let fleet = home.chosen(global)?;
    let dir = home.fleet(&fleet);
    if !args.yes {
        confirm(&format!("This stops and deletes every server, disk and network of fleet `{fleet}`."))?;
    }
    let local = home.cloud_of(&fleet).is_none_or(|cloud| cloud == Cloud::Local);
    if local {
        cloud::ensure(&home, |line| screen.note(line)).await?;
    }
    let mut operator = controller(&home, &fleet, |line| screen.note(line)).await?;
    let mut opener = operator.clone();
    let finished = match follow(&mut operator, opener.down(DownRequest {}), &mut screen).await? {
        End::Finished(finished) => finished,
        End::Interrupted => {
            eprintln!("stopped half-way; `fleetctl down` goes on from here");
            return Ok(Exit::Interrupted);
        }
    };
    prove(&finished, global.output)?;
    if !finished.ok {
        follow::explain(&finished);
        return Ok(Exit::Failed);
    }
    drop((operator, opener));
    if let Some(pid) = connect::pid(&dir) {
        background::stop(pid, PATIENCE).await;
    }
    // In one step: from here on there is no fleet of this name, and what is left is rubbish.
    home.set_aside(&fleet)
        .map_err(|why| Failure::new(Exit::Failed, format!("set {} aside: {why}", dir.display())))?;
    clear_away(&home, local && home.fleets().is_empty(), &screen).await?;
    Ok(Exit::Ok)
}

/// What is left to do once a fleet is gone: the cloud that was started for it, then its folder, which says until the
/// end that there is something left to do.
async fn clear_away(home: &Home, end_cloud: bool, screen: &Screen) -> Result<(), Failure> {
    if end_cloud {
        for line in cloud::end(home).await? {
            screen.note(&line);
        }
    }
    home.clear_set_aside()
        .and_then(|()| home.remove_if_empty())
        .map_err(|why| Failure::new(Exit::Failed, format!("clear {} away: {why}", home.dir().display())))
}

fn prove(finished: &Finished, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => printer::json(&json!({
            "ok": finished.ok, "left": finished.proof, "problems": finished.problems,
            "changing_calls": finished.changing_calls, "took_ms": finished.took_ms,
        })),
        Output::Text => {
            let mut text = "the API lists, of this fleet:\n".to_owned();
            for line in &finished.proof {
                text.push_str(&format!("  {line}\n"));
            }
            printer::text(&text)
        }
    }
}
