//! `fleetctl cloud serve|status|console|reset`, and what `up` and `down` need of the local cloud.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use fleet_local_cloud::{
    Access,
    backing::{Backing as _, NoBacking},
    machines::{self, Machines},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{console, orphans, serve::stop_signal, up::confirm};
use fleet_model::chain;

use crate::{
    args::{Backing, Cloud, CloudServe, Global, Output},
    background,
    failure::{Exit, Failure},
    home::{self, Home},
    log, notify, printer,
};

/// The first start builds the machine image.
const START: Duration = Duration::from_secs(30 * 60);
/// Open operations are finished first.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a cloud that is ending may hold its place.
const ENDING: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Marks lines of the background log that are for people.
const PROGRESS: &str = "local cloud: ";

pub async fn run(global: &Global, args: Cloud) -> Result<Exit, Failure> {
    let home = Home::of(global)?;
    match args {
        Cloud::Serve(args) => serve(&home, &args).await,
        Cloud::Status => status(&home, global.output).await,
        Cloud::Orphans(endpoint) => orphans::run(&home, &endpoint, global.output).await,
        Cloud::Console { server } => console::run(&home, &server).await,
        Cloud::Reset { yes } => {
            if !yes {
                confirm("This removes every machine, disk and network of the local cloud.")?;
            }
            let removed = reset(&home).await?;
            match global.output {
                Output::Json => printer::json(&json!({ "removed": removed }))?,
                Output::Text if removed.is_empty() => printer::text("nothing was there\n")?,
                Output::Text => printer::text(&(removed.join("\n") + "\n"))?,
            }
            Ok(Exit::Ok)
        }
    }
}

async fn serve(home: &Home, args: &CloudServe) -> Result<Exit, Failure> {
    log::start();
    let dir = home.cloud();
    let mut settings = fleet_local_cloud::Settings::new(&dir);
    settings.delays.default = Duration::from_millis(args.delay_ms);
    let backing: Arc<dyn fleet_local_cloud::backing::Backing> = match args.backing {
        Backing::None => Arc::new(NoBacking::default()),
        Backing::Machines => Arc::new(real_machines(home).await?),
    };
    let stop = stop_signal()?;
    let watchdog = tokio::spawn(notify::watchdog(stop.clone()));
    let served = fleet_local_cloud::serve(settings, backing, stop.clone(), |_| notify::ready()).await;
    notify::stopping();
    stop.cancel();
    // It only sleeps and writes to a socket: it cannot have failed in a way that matters now.
    let _ = watchdog.await;
    served.map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    Ok(Exit::Ok)
}

/// The machines, once the host has what they need and the image is there.
async fn real_machines(home: &Home) -> Result<Machines, Failure> {
    let cache = home::cache()?;
    require(home, &cache)?;
    let machines = Machines::new(machines::Settings::new(home.cloud(), cache));
    let progress = |line: String| eprintln!("{PROGRESS}{line}");
    machines.prepare(&progress).await.map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    Ok(machines)
}

/// What the host lacks, each with what fixes it.
pub fn missing(home: &Home, cache: &Path) -> Vec<(String, String)> {
    let settings = machines::Settings::new(home.cloud(), cache.to_owned());
    machines::preflight(&settings).into_iter().map(|missing| (missing.what, missing.fix)).collect()
}

/// Fails with the whole list if the host lacks anything.
fn require(home: &Home, cache: &Path) -> Result<(), Failure> {
    let missing = missing(home, cache);
    if missing.is_empty() {
        return Ok(());
    }
    let list: String = missing.iter().map(|(what, fix)| format!("\n  {what}: {fix}")).collect();
    Err(Failure::new(Exit::Input, format!("this host lacks what the local cloud needs:{list}")))
}

/// `access.json` of this home's cloud, whether it serves or not.
pub fn access(home: &Home) -> Option<Access> {
    Access::load(&home.cloud()).ok().flatten()
}

/// The cloud of this home, if it answers.
pub async fn answers(home: &Home) -> Option<Access> {
    fleet_local_cloud::status(&home.cloud()).await.ok().flatten()?;
    access(home)
}

/// The cloud of this home; started in the background if none answers.
pub async fn ensure(home: &Home, note: impl Fn(&str)) -> Result<Access, Failure> {
    if let Some(access) = serving(home).await? {
        return Ok(access);
    }
    if std::env::var("FLEET_CLOUD_BACKING").as_deref() != Ok("none") {
        require(home, &home::cache()?)?;
    }
    note("starting the local cloud in the background");
    let arguments =
        ["cloud".to_owned(), "serve".to_owned(), "--home".to_owned(), home.dir().display().to_string()];
    let log = home.cloud().join("serve.log");
    let started = background::start("the local cloud", &arguments, &log)?;
    let there = async || answers(home).await;
    let shown = |line: &str| {
        if line.starts_with(PROGRESS) {
            note(line);
        }
    };
    let hint = |failure: Failure| {
        failure.hint(format!("its log is {}; `fleetctl doctor` says what is wrong", log.display()))
    };
    started.until(START, there, shown).await.map_err(hint)
}

/// The cloud that serves this home, or `None` if none does. One that is just ending holds its place a moment
/// longer than it answers.
async fn serving(home: &Home) -> Result<Option<Access>, Failure> {
    let started = Instant::now();
    loop {
        match fleet_local_cloud::status(&home.cloud()).await {
            Ok(Some(_)) => return Ok(access(home)),
            Ok(None) => return Ok(None),
            Err(_) if started.elapsed() < ENDING => sleep(LOOK_AGAIN).await,
            Err(error) => {
                return Err(Failure::new(Exit::Unreachable, chain(&error)).hint(
                    "a cloud serves this home but cannot be used: stop its process, then run the command again",
                ));
            }
        }
    }
}

async fn status(home: &Home, output: Output) -> Result<Exit, Failure> {
    let found = fleet_local_cloud::status(&home.cloud())
        .await
        .map_err(|error| Failure::new(Exit::Unreachable, chain(&error)))?;
    let Some(status) = found else {
        return Err(Failure::new(
            Exit::Unreachable,
            format!("no local cloud serves {}", home.cloud().display()),
        )
        .hint("`fleetctl up PLAN` starts it when the plan says `cloud: local`"));
    };
    match output {
        Output::Json => {
            let document = serde_json::to_value(&status)
                .map_err(|why| Failure::new(Exit::Failed, format!("print the status: {why}")))?;
            printer::json(&document)?;
        }
        Output::Text => {
            let heads = ["SERVER", "DATA CENTRE", "STATE", "POWER", "PRIVATE IPV4", "IPV6"];
            let mut rows = vec![heads.map(str::to_owned).to_vec()];
            for server in &status.servers {
                let power = if server.started { "on" } else { "off" };
                let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "–".to_owned());
                let state = match &server.failure {
                    Some(why) => format!("{} ({why})", server.state),
                    None => server.state.clone(),
                };
                rows.push(vec![
                    server.name.clone(),
                    server.datacenter.clone(),
                    state,
                    power.to_owned(),
                    or_dash(&server.private_ipv4),
                    or_dash(&server.ipv6),
                ]);
            }
            let count = status.servers.len();
            let head = format!("backing {}, process {}, {count} servers\n", status.backing, status.pid);
            printer::text(&(head + &printer::table(&rows)))?;
        }
    }
    Ok(Exit::Ok)
}

/// Stops the cloud and removes every trace of it.
async fn reset(home: &Home) -> Result<Vec<String>, Failure> {
    let dir = home.cloud();
    let mut removed = Vec::new();
    if let Some(access) = access(home)
        && fleet_local_cloud::is_served(&dir).unwrap_or(false)
    {
        background::stop(i32::try_from(access.pid).unwrap_or(0), PATIENCE).await;
        removed.push(format!("stopped process {}", access.pid));
    }
    let settings = machines::Settings::new(dir.clone(), home::cache()?);
    let lines = machines::reset(&settings).await;
    removed.extend(lines.map_err(|error| Failure::new(Exit::Failed, chain(&error)))?);
    match fs::remove_dir_all(&dir) {
        Ok(()) => removed.push(format!("removed {}", dir.display())),
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) => return Err(Failure::new(Exit::Failed, format!("remove {}: {why}", dir.display()))),
    }
    Ok(removed)
}

/// Ends the cloud once nothing is left in it; a cloud that still holds servers is left running.
pub async fn end(home: &Home) -> Result<Vec<String>, Failure> {
    match fleet_local_cloud::status(&home.cloud()).await {
        Ok(Some(status)) if status.network_domains > 0 => Ok(vec![format!(
            "the local cloud still holds {} network domains and {} servers of others, and stays up",
            status.network_domains,
            status.servers.len()
        )]),
        Ok(_) => reset(home).await,
        // What is in it is not known.
        Err(error) => Ok(vec![format!("the local cloud stays up: {}", chain(&error))]),
    }
}
