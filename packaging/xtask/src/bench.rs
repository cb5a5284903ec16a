//! Figures beside their budgets.

use crate::{
    build, paths,
    run::{Done, cargo, ours, run},
    setup,
};

/// Builds everything in release form and runs the benchmark program on it.
pub fn bench() -> Done {
    setup::setup()?;
    build::build()?;
    run(
        "build the load generator",
        cargo().args(["build", "--release", "--locked", "--package", "fleet-tests", "--bin", "fleet-load"]),
    )?;
    run(
        "measure",
        ours(&paths::target().join("release/fleet-load")).arg("all").env("FLEET_DIST", paths::dist()),
    )
}
