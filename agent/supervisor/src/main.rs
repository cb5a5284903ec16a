//! The program `fleet-supervisor`.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fleet_supervisor::{
    decide::PROBATION,
    disk::Host,
    install,
    record::Slot,
    run::{self, Settings},
    slots::{self, Slots},
};

const HELP: &str = "\
fleet-supervisor [OPTIONS] [COMMAND] [-- ARGUMENTS OF THE AGENT]

  run                  start the agent, and the old one again when a new one fails (default)
  show                 print the slots, the trial, and the versions that failed here
  return REASON        go back to what the idle slot holds, when the agent next exits
  adopt FILE VERSION   make FILE the first agent of this node, if it has none

  --slots DIR          folder of the slots [default: /usr/local/lib/fleet/slots]
  --run DIR            folder of the socket [default: /run/fleet-supervisor]
  --pause-ms N         pause before the first restart; doubles with each crash [default: 1000]
  --probation-ms N     a run of this length proves a committed version [default: 600000]
";

/// Exit status for a mistake on the command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut settings = Settings {
        slots: slots::FOLDER.into(),
        run: PathBuf::from("/run/fleet-supervisor"),
        pause: Duration::from_secs(1),
        probation: PROBATION,
        arguments: Vec::new(),
    };
    let mut words = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let known = match arg.as_str() {
            "--slots" => args.next().map(|dir| settings.slots = dir.into()),
            "--run" => args.next().map(|dir| settings.run = dir.into()),
            "--" => {
                settings.arguments = args.by_ref().collect();
                Some(())
            }
            "--pause-ms" => millis(args.next()).map(|pause| settings.pause = pause),
            "--probation-ms" => millis(args.next()).map(|time| settings.probation = time),
            _ if arg.starts_with('-') && arg != "--help" && arg != "-h" => None,
            _ => {
                words.push(arg.clone());
                Some(())
            }
        };
        if known.is_none() {
            return usage(&format!("{arg} is not known, or lacks its value"));
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut slots = Slots::new(&settings.slots, Host);
    let done = match words.as_slice() {
        [] | ["run"] => run::run(settings).map_err(|error| error.to_string()),
        ["show"] => show(&mut slots),
        ["return", reason] => install::go_back(&mut slots, reason, &id()).map_err(|error| chain(&error)),
        ["adopt", file, version] => match fs::read(file) {
            Ok(program) => install::adopt(&mut slots, version, &program).map_err(|error| chain(&error)),
            Err(error) => Err(format!("read {file}: {error}")),
        },
        ["--help" | "-h", ..] => say(HELP),
        _ => return usage(&format!("`{}` is not a command", words.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn millis(text: Option<String>) -> Option<Duration> {
    text?.parse().ok().map(Duration::from_millis)
}

fn show(slots: &mut Slots<Host>) -> Result<(), String> {
    let state = slots.load().map_err(|error| format!("read {}: {error}", slots.state().display()))?;
    let Some(state) = state else { return Err(format!("{} holds no agent", slots.folder().display())) };
    let found = slots.look();
    let mut text = String::new();
    for slot in Slot::BOTH {
        let Some(content) = state.content(slot) else { continue };
        let role = match (slot == state.active, &state.trial) {
            (true, _) if state.probation.is_some() => "active, on probation".to_owned(),
            (true, _) => "active".to_owned(),
            (false, Some(trial)) => format!("on trial, start {} of {}", trial.tries, trial.terms.tries),
            (false, None) => "idle".to_owned(),
        };
        let sound = if found.holds(slot, Some(content)) { "" } else { "; the program there is another" };
        text.push_str(&format!("slot {slot}: {} ({role}{sound}), {}\n", content.version, content.digest));
    }
    for failed in &state.failed {
        text.push_str(&format!("failed: {} ({}): {}\n", failed.version, failed.digest, failed.reason));
    }
    say(&text)
}

/// Used once on this node, unless its clock stands still.
fn id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", since.as_nanos(), std::process::id())
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn say(text: &str) -> Result<(), String> {
    // A closed pipe has nobody left to tell.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn usage(why: &str) -> ExitCode {
    eprint!("error: {why}\n\n{HELP}");
    ExitCode::from(USAGE)
}
