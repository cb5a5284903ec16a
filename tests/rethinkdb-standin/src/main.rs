//! `rethinkdb`, as the stand-in's package installs it.

#![allow(clippy::print_stdout, reason = "a program's version goes to standard output")]

use std::process::ExitCode;

use fleet_rethinkdb_standin::{Action, VERSION, create, exists, read, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = read(&args).and_then(|action| perform(action).map_err(|why| why.to_string()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn perform(action: Action) -> std::io::Result<()> {
    let settings = match action {
        Action::Version => {
            println!("rethinkdb {VERSION}");
            return Ok(());
        }
        Action::Create(settings) => return create(&settings, false),
        Action::Serve(settings) => settings,
        Action::CreateAndServe(settings) => {
            if !exists(&settings.directory) {
                create(&settings, settings.join.is_empty())?;
            }
            settings
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopped.cancel();
        });
        run(settings, stop).await
    })
}
