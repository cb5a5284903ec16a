//! Figures beside their budgets.

use crate::{
    build, paths,
    run::{Done, cargo, ours, run},
    setup,
};

/// Builds everything in release form and runs the benchmark programs on it.
pub fn bench() -> Done {
    setup::setup()?;
    build::build()?;
    run(
        "build the load generator and the comparison",
        cargo().args(["build", "--release", "--locked", "--package", "fleet-tests"]).args([
            "--bin",
            "fleet-load",
            "--bin",
            "fleet-beside",
            "--bin",
            "fleet-work",
        ]),
    )?;
    run(
        "measure",
        ours(&paths::target().join("release/fleet-load")).arg("all").env("FLEET_DIST", paths::dist()),
    )?;
    run(
        "compare with plumbery",
        ours(&paths::target().join("release/fleet-beside"))
            .arg(paths::target().join("tmp"))
            .env("FLEET_DIST", paths::dist()),
    )?;
    run(
        "measure a node with nothing to do",
        ours(&paths::target().join("release/fleet-work"))
            .arg(paths::target().join("tmp/fleet-work"))
            .env("FLEET_DIST", paths::dist()),
    )?;
    run(
        "roll out to a thousand simulated agents, by our rules and by those of others",
        cargo().args([
            "run",
            "--release",
            "--locked",
            "--quiet",
            "--package",
            "fleet-rollout",
            "--example",
            "simulation",
        ]),
    )
}
