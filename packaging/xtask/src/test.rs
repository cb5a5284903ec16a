//! Every check and test.

use crate::{
    binaries::{self, Binary},
    build,
    lanes::{self, Job, Lane},
    paths,
    run::{Done, cargo, run},
    setup, standin,
};

/// Test binaries that boot machines or make network namespaces. There is one set of either per host, so each has it for
/// itself; and as nothing else takes as long, they begin at once.
const MACHINES: &[(&str, &str)] = &[
    ("fleet-tests", "fleet"),
    ("fleet-tests", "kills"),
    ("fleet-peers", "machines"),
    ("fleet-local-cloud", "fleet_local_cloud"),
];

/// Test binaries that mostly wait: for minutes of the clock, for programs that pause.
const WAITING: &[(&str, &str)] = &[
    ("fleet-peers", "plumbery"),
    ("fleet-tests", "expiry"),
    ("fleet-supervisor", "native"),
    ("fleet-tests", "schedules"),
    ("fleet-tests", "rollouts"),
    ("fleet-tests", "hosts"),
];

/// The one whose tests all run at once, however few processors there are: each of them mostly waits, for minutes.
const AT_ONCE: (&str, &str) = ("fleet-tests", "rollouts");

/// Test binaries that run last in their lane: what takes long is not to hide what fails fast.
const LAST: &[(&str, &str)] = &[("fleet-tests", "fuzz")];

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
    let lanes = lanes(binaries::build()?)?;
    lanes::run(lanes, &paths::target().join("test-output"))
}

/// Puts every binary into a lane: one that is named nowhere into the last.
fn lanes(mut binaries: Vec<Binary>) -> Done<Vec<Lane>> {
    let mut take = |named: &[(&str, &str)]| {
        let mut take = |&(package, target): &(&str, &str)| {
            let at =
                binaries.iter().position(|binary| (&*binary.package, &*binary.target) == (package, target));
            // Else it would move to the last lane unnoticed.
            let at =
                at.ok_or_else(|| format!("no test binary is called `{package} {target}`; see test.rs"))?;
            Ok(job(&binaries.remove(at)))
        };
        named.iter().map(&mut take).collect::<Done<Vec<Job>>>()
    };
    let (machines, waiting, last) = (take(MACHINES)?, take(WAITING)?, take(LAST)?);
    let mut others: Vec<Job> = binaries.iter().map(job).collect();
    others.push(Job { name: "documentation".to_owned(), command: documentation() });
    others.extend(last);
    Ok(vec![
        Lane { name: "machines", jobs: machines },
        Lane { name: "waiting", jobs: waiting },
        Lane { name: "others", jobs: others },
    ])
}

fn job(binary: &Binary) -> Job {
    let mut command = binary.command();
    command
        // Whole-program tests drive these files, not debug builds of them.
        .env("FLEET_DIST", paths::dist())
        // Random cases are the same for everybody, so that a change is held against what the one before it passed;
        // `cargo test` alone draws others.
        .env("PROPTEST_RNG_SEED", "2026")
        // A minute for each reader; two at once.
        .env("FLEET_FUZZ_SECONDS", "60");
    if (&*binary.package, &*binary.target) == AT_ONCE {
        command.env("RUST_TEST_THREADS", "4");
    }
    Job { name: binary.name(), command }
}

fn documentation() -> std::process::Command {
    let mut command = cargo();
    command.current_dir(paths::checkout()).args([
        "test",
        "--workspace",
        "--doc",
        "--locked",
        "--no-fail-fast",
    ]);
    command
}
