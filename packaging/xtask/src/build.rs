//! Release builds, and the gates every agent binary passes.

use std::{fs, path::Path, path::PathBuf, process::Command};

use crate::{
    paths,
    run::{Done, cargo, output, run},
};

/// Largest agent we ship, in bytes: 6 MB, the budget of the design.
const AGENT_MAX: u64 = 6_000_000;
/// Largest supervisor: the standard library and little else.
const SUPERVISOR_MAX: u64 = 1_500_000;

/// The finished programs.
pub struct Dist {
    /// The operator's program.
    pub fleetctl: PathBuf,
}

/// Where static programs are built and laid, and in which surroundings.
pub struct Yard {
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Where finished programs lie.
    pub dist: PathBuf,
    /// Set for cargo.
    pub env: Vec<(&'static str, String)>,
}

impl Yard {
    /// That of all builds but [`crate::dist`]'s.
    pub fn usual() -> Self {
        Self { target: paths::target(), dist: paths::dist(), env: Vec::new() }
    }
}

/// Builds every program and lays them side by side, as they are installed.
pub fn build() -> Done<Dist> {
    let dist = Dist { fleetctl: fleetctl()? };
    for_nodes(&Yard::usual())?;
    Ok(dist)
}

/// Builds the operator's program.
pub fn fleetctl() -> Done<PathBuf> {
    run(
        "build fleetctl",
        cargo().args(["build", "--release", "--locked", "--package", "fleet-cli", "--bin", "fleetctl"]),
    )?;
    let placed = paths::dist().join("fleetctl");
    place(&paths::target().join("release/fleetctl"), &placed, |_| Ok(()))?;
    Ok(placed)
}

/// Builds the static programs that nodes run; says where each lies.
pub fn for_nodes(yard: &Yard) -> Done<Vec<PathBuf>> {
    let programs = vec![
        static_program(yard, "fleet-agent", "fleet-agent", |file| gate_size(file, AGENT_MAX))?,
        static_program(yard, "fleet-supervisor", "fleet-supervisor", |file| gate_size(file, SUPERVISOR_MAX))?,
        static_program(yard, "fleet-todo", "fleet-todo", |_| Ok(()))?,
    ];
    for package in ["fleet-agent", "fleet-supervisor", "fleet-todo"] {
        gate_cryptography(package)?;
    }
    Ok(programs)
}

/// Builds program `name` of `package` so that it runs on any Linux of this architecture, and places it if it passes the
/// gates and `gate`.
pub fn static_program(
    yard: &Yard,
    package: &str,
    name: &str,
    gate: impl FnOnce(&Path) -> Done,
) -> Done<PathBuf> {
    // Unstripped first: the name-service gate reads its symbols.
    run(
        &format!("build {name}, static"),
        cargo()
            .env("CARGO_TARGET_DIR", &yard.target)
            .envs(yard.env.iter().map(|(name, value)| (name, value)))
            .args(["rustc", "--profile", "agent", "--locked", "--package", package, "--bin", name])
            .args(["--config", "profile.agent.strip=\"none\""])
            .args(["--", "-C", "target-feature=+crt-static"]),
    )?;
    let placed = yard.dist.join(name);
    place(&yard.target.join("agent").join(name), &placed, |file| {
        gate_names(file)?;
        run(&format!("strip {name}"), Command::new("strip").arg("--strip-all").arg(file))?;
        gate_static(file)?;
        gate(file)
    })?;
    Ok(placed)
}

/// Copies beside the destination, finishes the copy, renames: whoever runs the old file keeps it.
fn place(from: &Path, to: &Path, finish: impl FnOnce(&Path) -> Done) -> Done {
    let new = to.with_extension("new");
    let dist = to.parent().unwrap_or(to);
    fs::create_dir_all(dist).map_err(|why| format!("make {}: {why}", dist.display()))?;
    fs::copy(from, &new).map_err(|why| format!("copy {}: {why}", from.display()))?;
    finish(&new)?;
    fs::rename(&new, to).map_err(|why| format!("place {}: {why}", to.display()))
}

/// A static glibc binary that asks the name service loads shared objects of the *node's* libc and crashes.
fn gate_names(program: &Path) -> Done {
    let (fine, symbols) = output(Command::new("nm").arg(program))?;
    if !fine {
        return Err(format!("nm cannot read the symbols of {}", program.display()));
    }
    for symbol in ["__nss_module_load", "getaddrinfo", "getpwnam_r", "getgrnam_r"] {
        if symbols.lines().any(|line| line.split_whitespace().last() == Some(symbol)) {
            let program = program.display();
            return Err(format!(
                "{program} is static and links `{symbol}`: a dependency uses the name service"
            ));
        }
    }
    Ok(())
}

fn gate_static(program: &Path) -> Done {
    // `ldd` exits with 1 and prints to stderr for a non-dynamic file; a static-pie is "statically linked".
    let (fine, said) = output(Command::new("ldd").arg(program))?;
    if fine && !said.contains("statically linked") {
        return Err(format!("{} is not static: {said}", program.display()));
    }
    Ok(())
}

fn gate_size(program: &Path, most: u64) -> Done {
    let size = fs::metadata(program).map_err(|why| format!("{}: {why}", program.display()))?.len();
    // Not yet under its name.
    let program = program.with_extension("");
    let program = program.display();
    eprintln!("xtask: {program}: {:.2} MB (at most {:.1})", size as f64 / 1e6, most as f64 / 1e6);
    if size > most {
        return Err(format!("{program} has {size} bytes, more than {most}"));
    }
    Ok(())
}

/// aws-lc-rs comes in by many default features; it adds a megabyte and 26 ms of start-up to the agent.
fn gate_cryptography(package: &str) -> Done {
    let (found, _) =
        output(cargo().args(["tree", "--locked", "--package", package, "-e", "normal", "-i", "aws-lc-rs"]))?;
    if found {
        return Err(format!("{package} depends on aws-lc-rs; a dependency's default features let it in"));
    }
    Ok(())
}
