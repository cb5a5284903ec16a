//! The program fleetctl: arguments in, exit status out.

mod args;
mod background;
mod commands;
mod connect;
mod failure;
mod files;
mod home;
mod hosts;
mod identity;
mod log;
mod notify;
mod printer;
mod problems;
mod progress;
mod words;

use std::process::ExitCode;

/// Gives what a storm of sessions took back to the system.
#[global_allocator]
static ALLOCATOR: fleet_controller::memory::Paged = fleet_controller::memory::Paged;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(message) => {
            // Help and version come this way too, on standard output; printing fails only into a closed pipe.
            let _ = message.print();
            let exit = if message.use_stderr() { failure::Exit::Input } else { failure::Exit::Ok };
            return ExitCode::from(exit as u8);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("error: start the runtime: {why}");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(commands::run(args)).unwrap_or_else(|failure| {
        failure.print();
        failure.exit
    });
    // Blocking reads of standard input may still hang around; nobody waits for them.
    runtime.shutdown_background();
    ExitCode::from(exit as u8)
}
