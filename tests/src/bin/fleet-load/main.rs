//! The load generator: thousands of simulated agents against one controller, figures beside their budgets.
//!
//! `fleet-load all` measures everything. The controller under test is a process of its own (this program
//! once more, as `fleet-load controller …`), so that its memory is its own and SIGKILL means what it says.
//! Agents are simulated in this process: real TLS identities from real enrolments, real sessions, no node
//! work. Everything runs over mutual TLS on loopback and shares this machine's processors, as the budgets
//! assume.

mod agents;
mod controller;
mod figures;
mod handshake;
mod idle;
mod operator;
mod process;
mod scenario;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};

const HELP: &str = "\
usage: fleet-load all [--sizes N,N…] [--json]

  --sizes N,N…   numbers of agents (1000,10000)
  --json         one JSON object a line instead of a table

FLEET_DIST names the folder of the finished programs; with a `fleet-agent` there, that is measured too.";

/// The controller's own, since this program starts itself as the controller it measures.
#[global_allocator]
static ALLOCATOR: fleet_controller::memory::Paged = fleet_controller::memory::Paged;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let mut args = env::args().skip(1);
    match args.next().as_deref() {
        Some("all") => (),
        Some("controller") => {
            controller::child(args.next().context("which folder?")?.into(), args)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {
            eprintln!("{HELP}");
            return Ok(ExitCode::from(2));
        }
    }
    let (mut sizes, mut json) = (vec![1_000, 10_000], false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--sizes" => {
                let list = args.next().context("--sizes needs numbers")?;
                sizes = list.split(',').map(str::parse).collect::<Result<_, _>>().context("--sizes")?;
            }
            "--json" => json = true,
            other => bail!("unknown argument `{other}`\n{HELP}"),
        }
    }
    fleet_controller::tls::listen::raise_open_files();
    let mut figures = figures::Figures::new(json);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let rate = handshake::rate().await?;
        figures.add(figures::Figure::plain("bare rustls handshakes, mutual TLS, both ends here", rate, "/s"));
        if let Some(agent) = env::var_os("FLEET_DIST").map(|dist| PathBuf::from(dist).join("fleet-agent"))
            && agent.is_file()
        {
            idle::measure(&agent, &mut figures).await.context("measure the agent")?;
        }
        for size in sizes {
            scenario::run(size, rate, &mut figures).await.with_context(|| format!("{size} agents"))?;
        }
        anyhow::Ok(())
    })?;
    figures.print()?;
    Ok(ExitCode::SUCCESS)
}
