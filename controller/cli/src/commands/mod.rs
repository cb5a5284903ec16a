//! One file per command.

pub mod cloud;
mod console;
mod doctor;
mod down;
mod follow;
pub mod import;
mod information;
mod line;
mod lost;
mod orphans;
mod plan;
mod preview;
pub mod release;
mod repair;
mod replace;
mod rollout;
mod rollout_view;
mod serve;
mod ssh;
mod status;
mod up;
mod user_data;

use crate::{
    args::{Args, Command},
    failure::{Exit, Failure},
};

/// Runs the command to its end.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let global = &args.global;
    match args.command {
        Command::Up(up) => up::run(global, up).await,
        Command::Plan(args) => plan::run(global, args),
        Command::Import(args) => import::run(global, args),
        Command::Status(status) => status::run(global, status).await,
        Command::Information => information::run(global).await,
        Command::Ssh(args) => ssh::run(global, args).await,
        Command::Down(down) => down::run(global, down).await,
        Command::Replace(args) => replace::run(global, args).await,
        Command::Repair(args) => repair::run(global, args).await,
        Command::Release(args) => release::run(global, args).await,
        Command::Rollout(args) => rollout::run(global, args).await,
        Command::Rollback { node } => rollout::rollback(global, &node).await,
        Command::StopTheLine { reason } => line::stop(global, reason.unwrap_or_default()).await,
        Command::ClearTheLine => line::clear(global).await,
        Command::Serve(serve) => serve::run(global, serve).await,
        Command::Cloud(cloud) => cloud::run(global, cloud).await,
        Command::UserData { node } => user_data::run(global, &node).await,
        Command::Doctor => doctor::run(global).await,
    }
}
