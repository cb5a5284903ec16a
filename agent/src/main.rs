//! The program `fleet-agent`: reads its flags, starts logging, runs.

mod flags;

use std::{env, io, process::ExitCode, time::Duration};

use fleet_agent::{AgentError, Settings};
use fleet_program::{fail, log, say, tell_systemd};
use fleet_task::Outcome;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::flags::{Action, Flags};

/// Exit status for a mistake on the command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let flags = match Flags::parse(env::args().skip(1)) {
        Ok(flags) => flags,
        Err(error) => return say(&mut io::stderr(), &format!("error: {error}\n{}", flags::HELP), USAGE),
    };
    match flags.action {
        Action::Help => return say(&mut io::stdout(), flags::HELP, 0),
        Action::Version => {
            return say(&mut io::stdout(), &format!("fleet-agent {}", fleet_agent::VERSION), 0);
        }
        Action::Run | Action::Once => (),
    }
    if let Err(error) = log() {
        return say(&mut io::stderr(), &format!("error: FLEET_LOG: {error}"), USAGE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(flags)),
        Err(error) => return say(&mut io::stderr(), &format!("error: start the runtime: {error}"), 1),
    };
    match result {
        Ok(code) => code,
        Err(error) => fail(&mut io::stderr(), &error),
    }
}

/// What systemd may pass on through the supervisor has no meaning here; dying of it on probation would be a rollback.
/// An ignored signal would stay ignored in every program started from here: each is caught, and nothing comes of it.
async fn pass_over(signals: Vec<Signal>) {
    let pass = |mut signal: Signal| async move { while signal.recv().await.is_some() {} };
    signals.into_iter().map(pass).collect::<JoinSet<_>>().join_all().await;
}

async fn run(flags: Flags) -> Result<ExitCode, AgentError> {
    let stop = CancellationToken::new();
    // Both end with the process.
    tokio::spawn(stop_on_signal(stop.clone()));
    let meaningless = [SignalKind::hangup(), SignalKind::user_defined1(), SignalKind::user_defined2()];
    tokio::spawn(pass_over(meaningless.into_iter().filter_map(|kind| signal(kind).ok()).collect()));
    let mut settings = Settings::new(flags.root);
    if let Some(recheck) = flags.recheck {
        settings.recheck = recheck;
    }
    settings.supervised = fleet_supervisor::agent::Supervised::from_env();
    if flags.action == Action::Once {
        return Ok(report(&fleet_agent::once(&settings, &stop).await?));
    }
    tracing::info!(version = fleet_agent::VERSION, root = %settings.root.display(), "fleet-agent starts");
    // Ready means at work, not enrolled: a controller that is away must not make systemd restart us.
    tell_systemd("READY=1");
    tokio::spawn(watchdog());
    fleet_agent::run(settings, stop).await?;
    tell_systemd("STOPPING=1");
    Ok(ExitCode::SUCCESS)
}

async fn stop_on_signal(stop: CancellationToken) {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        tracing::error!("signals cannot be received; only SIGKILL ends this agent");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    tracing::info!("stopping");
    stop.cancel();
}

/// On the same single thread as everything else: when that hangs, systemd hears nothing and restarts us.
async fn watchdog() {
    let Some(every) = fleet_program::watchdog() else { return };
    loop {
        tell_systemd("WATCHDOG=1");
        tokio::time::sleep(every.max(Duration::from_secs(1))).await;
    }
}

fn report(reports: &[fleet_task::Report]) -> ExitCode {
    let mut text = String::new();
    for report in reports {
        let line = match &report.outcome {
            Outcome::Unchanged => "unchanged".to_owned(),
            Outcome::Changed(what) => format!("changed: {}", what.join(", ")),
            Outcome::Failed(why) => format!("failed: {why}"),
            Outcome::Waiting(what) => format!("waiting for {what}"),
            Outcome::Drifted { lines, .. } => format!("drifted: {}", lines.join(", ")),
            Outcome::Running => "cut off".to_owned(),
        };
        text.push_str(&format!("{}: {line}\n", report.task));
        for warning in &report.warnings {
            text.push_str(&format!("{}: note: {warning}\n", report.task));
        }
    }
    let converged = reports.iter().all(fleet_task::Report::is_converged);
    say(&mut io::stdout(), text.trim_end(), u8::from(!converged))
}
