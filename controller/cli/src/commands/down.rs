//! `fleetctl down`: removes everything of one fleet, and what `up` had started for it.

use std::time::Duration;

use fleet_model::FleetName;
use fleet_plan::resolved::Cloud;
use fleet_proto::v1::{DownRequest, Finished, OrphansRequest};
use serde_json::json;

use super::{
    cloud, follow,
    follow::{End, follow},
    lost,
    lost::Search,
    orphans::clouds,
    release::keys::remove_unused,
    up::{confirm, controller},
};
use crate::{
    args::{Down, Global, Output},
    background,
    connect::{self, refused},
    failure::{Exit, Failure},
    home::Home,
    hosts, printer,
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
    let known = |fleet: &FleetName| home.fleets().contains(fleet);
    let lost = global.fleet.as_ref().map_or(home.fleets().is_empty(), |fleet| !known(fleet));
    if lost || args.id.is_some() {
        return without_state(&home, global, &args, &mut screen).await;
    }
    let fleet = home.chosen(global)?;
    let dir = home.fleet(&fleet);
    let taken = home.cloud_of(&fleet)? == Some(Cloud::Hosts);
    if !args.yes {
        confirm(&match taken {
            true => format!(
                "This removes the agent from every machine of fleet `{fleet}`; the machines stay, with what is on them."
            ),
            false => format!("This stops and deletes every server, disk and network of fleet `{fleet}`."),
        })?;
    }
    hosts::note_access(&home, &fleet, &[])?;
    let local = home.cloud_of(&fleet)?.is_none_or(|cloud| cloud == Cloud::Local);
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
    // A controller that knows of nothing may have lost its journal: the marks decide.
    let finished = if finished.ok && finished.proof.is_empty() {
        let search = Search { fleet: Some(&fleet), id: None, endpoint: &args.endpoint };
        match lost::choose(lost::find(&home, &search).await?)? {
            Some(lost) => {
                if !args.yes || lost.may_be_others() {
                    lost.confirm(&home)?;
                }
                lost.down(&home, &mut screen).await?
            }
            None => finished,
        }
    } else {
        finished
    };
    prove(&finished, taken, global.output)?;
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

/// `down` of a fleet that nothing here knows: by its mark, with the id if several fleets had that name.
async fn without_state(
    home: &Home,
    global: &Global,
    args: &Down,
    screen: &mut Screen,
) -> Result<Exit, Failure> {
    if global.fleet.is_none() && args.endpoint.cloud_endpoint.is_some() {
        return Err(Failure::new(Exit::Input, "the fleet is not named")
            .hint("others may have fleets in that cloud: say which with --fleet"));
    }
    let local = clouds(home, &args.endpoint)?.contains(&Cloud::Local);
    if local {
        cloud::ensure(home, |line| screen.note(line)).await?;
    }
    let search = Search { fleet: global.fleet.as_ref(), id: args.id.as_deref(), endpoint: &args.endpoint };
    let Some(lost) = lost::choose(lost::find(home, &search).await?)? else {
        return match (&args.id, home.chosen(global)) {
            (None, Err(failure)) => Err(failure),
            _ => Err(Failure::new(Exit::Input, "nothing in the cloud bears that mark")
                .hint("`fleetctl cloud orphans` lists the marks there are")),
        };
    };
    // Whoever was not named may be known all the same: what was found says who it is.
    let known = home.fleets().into_iter().find(|fleet| fleet.as_str() == lost.mark.fleet);
    if let Some(fleet) = &known {
        let mut operator = controller(home, fleet, |line| screen.note(line)).await?;
        let reply =
            operator.orphans(OrphansRequest {}).await.map_err(|status| refused(&status))?.into_inner();
        if reply.fleet_id == lost.mark.id {
            return Err(Failure::new(Exit::Input, format!("that is fleet `{fleet}`, which this home knows"))
                .hint(format!("`fleetctl down --fleet {fleet}` without --id takes it down")));
        }
    }
    // Whoever gives the id has said which.
    if !args.yes || (args.id.is_none() && lost.may_be_others()) {
        lost.confirm(home)?;
    }
    if known.is_none() {
        // Whatever still runs for it has nothing to stand on any more.
        for pid in background::controllers(home.dir(), &lost.mark.fleet) {
            background::stop(pid, PATIENCE).await;
        }
    }
    let finished = lost.down(home, screen).await?;
    prove(&finished, false, global.output)?;
    if !finished.ok {
        follow::explain(&finished);
        return Ok(Exit::Failed);
    }
    clear_away(home, local && home.fleets().is_empty(), screen).await?;
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
    let last = home.fleets().is_empty();
    // What was set aside goes after the keys: while it is there, another `down` finishes this one.
    let keys = if last { remove_unused(home) } else { Ok(()) };
    keys.and_then(|()| home.clear_set_aside())
        .and_then(|()| home.remove_if_empty())
        .map_err(|why| Failure::new(Exit::Failed, format!("clear {} away: {why}", home.dir().display())))
}

/// What is left, by the API's word, or by that of machines which were taken.
fn prove(finished: &Finished, taken: bool, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => printer::json(&json!({
            "ok": finished.ok, "left": finished.proof, "problems": finished.problems,
            "changing_calls": finished.changing_calls, "took_ms": finished.took_ms,
        })),
        Output::Text => {
            let who = if taken {
                "still taken for this fleet, and left on its machines"
            } else {
                "the API lists, of this fleet"
            };
            let mut text = format!("{who}:\n");
            for line in &finished.proof {
                text.push_str(&format!("  {line}\n"));
            }
            printer::text(&text)
        }
    }
}
