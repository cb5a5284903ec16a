//! The reference fleet, from a bare machine.

use std::process::Stdio;

use crate::{
    build, paths,
    run::{Done, ours},
    setup,
};

/// Sets up, builds, and runs `fleetctl up` on the reference plan.
pub fn up(args: &[String]) -> Done {
    setup::setup()?;
    let dist = build::build()?;
    let plan = paths::checkout().join("packaging/plans/rethinkdb.yaml");
    eprintln!("xtask: {} up {} {}", dist.fleetctl.display(), plan.display(), args.join(" "));
    let status = ours(&dist.fleetctl)
        .arg("up")
        .arg(&plan)
        .args(args)
        .stdin(Stdio::inherit())
        .status()
        .map_err(|why| format!("start {}: {why}", dist.fleetctl.display()))?;
    eprintln!("\nxtask: look around:  {} status", dist.fleetctl.display());
    eprintln!("xtask: remove it all: {} down", dist.fleetctl.display());
    if status.success() { Ok(()) } else { Err(format!("`fleetctl up` ended with {status}")) }
}
