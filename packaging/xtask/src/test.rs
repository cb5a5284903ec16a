//! Every check and test.

use crate::{
    build, paths,
    run::{Done, cargo, run},
    setup, standin,
};

/// Formatting, lints, unit to end-to-end tests, in the order in which they fail fastest.
pub fn test() -> Done {
    setup::setup()?;
    run("format", cargo().args(["fmt", "--all", "--check"]))?;
    run(
        "lints",
        cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
    )?;
    build::build()?;
    standin::package()?;
    run(
        "tests",
        cargo()
            .args(["test", "--workspace", "--locked", "--no-fail-fast"])
            // Whole-program tests drive these files, not debug builds of them.
            .env("FLEET_DIST", paths::dist())
            // Random cases are the same for everybody, so that a change is held against what the one before it
            // passed; `cargo test` alone draws others.
            .env("PROPTEST_RNG_SEED", "2026")
            // A minute for each reader; two at once.
            .env("FLEET_FUZZ_SECONDS", "60"),
    )
}
