//! `fleetctl down`: removes everything of one fleet, and what `up` had started for it.

use std::{fs, io, time::Duration};

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
    background,
    connect::{self, refused},
    failure::{Exit, Failure},
    home::Home,
    printer,
    progress::Screen,
};

/// A controller drains within a few seconds; one that does not is ended.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn run(global: &Global, args: Down) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    let fleet = home.chosen(global)?;
    let dir = home.fleet(&fleet);
    if !args.yes {
        confirm(&format!("This stops and deletes every server, disk and network of fleet `{fleet}`."))?;
    }
    let mut screen = Screen::new();
    let local = home.cloud_of(&fleet).is_none_or(|cloud| cloud == Cloud::Local);
    if local {
        cloud::ensure(&home, |line| screen.note(line)).await?;
    }
    let mut operator = controller(&home, &fleet, |line| screen.note(line)).await?;
    let stream = operator.down(DownRequest {}).await.map_err(|status| refused(&status))?.into_inner();
    let finished = match follow(&mut operator, stream, &mut screen).await? {
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
    drop(operator);
    if let Some(pid) = connect::pid(&dir) {
        background::stop(pid, PATIENCE).await;
    }
    remove(&dir)?;
    if local && home.fleets().is_empty() {
        for line in cloud::end(&home).await? {
            screen.note(&line);
        }
    }
    home.remove_if_empty()
        .map_err(|why| Failure::new(Exit::Failed, format!("remove {}: {why}", home.dir().display())))?;
    Ok(Exit::Ok)
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

fn remove(dir: &std::path::Path) -> Result<(), Failure> {
    match fs::remove_dir_all(dir) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(Failure::new(Exit::Failed, format!("remove {}: {why}", dir.display())))
        }
        _ => Ok(()),
    }
}
