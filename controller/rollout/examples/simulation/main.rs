//! How a thousand simulated agents fare under this engine and under the rules of others, and how a fleet fares whose
//! controller dies at every step.
//!
//! `cargo run -p fleet-rollout --example simulation [SEED]`

mod agents;
mod engine;
mod fleet;
mod peers;
mod report;
#[cfg(test)]
mod tests;

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut out = std::io::stdout();
    out.write_all(report::table(seed).as_bytes())?;
    for (kind, brought) in ["release", "plan"].iter().zip(report::brought()) {
        let (deaths, different) = report::deaths(&brought);
        writeln!(
            out,
            "\nrollout of a {kind}, controller killed {deaths} times, once per run: {} runs ended otherwise",
            different.len()
        )?;
        for death in different {
            writeln!(out, "  {death:?}")?;
        }
    }
    Ok(())
}
