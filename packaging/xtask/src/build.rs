//! Release builds, and the gates every agent binary passes.

use std::{fs, path::Path, path::PathBuf, process::Command};

use crate::{
    paths,
    run::{Done, cargo, output, run},
};

/// Largest agent we ship, in bytes: 6 MB, the budget of the design.
const AGENT_MAX: u64 = 6_000_000;

/// The finished programs.
pub struct Dist {
    /// The operator's program.
    pub fleetctl: PathBuf,
    /// The static agent.
    pub agent: PathBuf,
}

/// Builds both programs and lays them side by side.
pub fn build() -> Done<Dist> {
    run(
        "build fleetctl",
        cargo().args(["build", "--release", "--locked", "--package", "fleet-cli", "--bin", "fleetctl"]),
    )?;
    // Unstripped first: the name-service gate reads its symbols.
    run(
        "build the static agent",
        cargo()
            .args([
                "rustc",
                "--profile",
                "agent",
                "--locked",
                "--package",
                "fleet-agent",
                "--bin",
                "fleet-agent",
            ])
            .args(["--config", "profile.agent.strip=\"none\""])
            .args(["--", "-C", "target-feature=+crt-static"]),
    )?;
    let target = paths::target();
    let dist = paths::dist();
    fs::create_dir_all(&dist).map_err(|why| format!("make {}: {why}", dist.display()))?;
    let built = Dist { fleetctl: dist.join("fleetctl"), agent: dist.join("fleet-agent") };
    place(&target.join("release/fleetctl"), &built.fleetctl, |_| Ok(()))?;
    place(&target.join("agent/fleet-agent"), &built.agent, |file| {
        gate_names(file)?;
        run("strip the agent", Command::new("strip").arg("--strip-all").arg(file))?;
        gate_static(file)?;
        gate_size(file)
    })?;
    gate_cryptography()?;
    Ok(built)
}

/// Copies beside the destination, finishes the copy, renames: whoever runs the old file keeps it.
fn place(from: &Path, to: &Path, finish: impl FnOnce(&Path) -> Done) -> Done {
    let new = to.with_extension("new");
    fs::copy(from, &new).map_err(|why| format!("copy {}: {why}", from.display()))?;
    finish(&new)?;
    fs::rename(&new, to).map_err(|why| format!("place {}: {why}", to.display()))
}

/// A static glibc binary that asks the name service loads shared objects of the *node's* libc and crashes.
fn gate_names(agent: &Path) -> Done {
    let (fine, symbols) = output(Command::new("nm").arg(agent))?;
    if !fine {
        return Err("nm cannot read the agent's symbols".to_owned());
    }
    for symbol in ["__nss_module_load", "getaddrinfo", "getpwnam_r", "getgrnam_r"] {
        if symbols.lines().any(|line| line.split_whitespace().last() == Some(symbol)) {
            return Err(format!("the static agent links `{symbol}`: a dependency uses the name service"));
        }
    }
    Ok(())
}

fn gate_static(agent: &Path) -> Done {
    // `ldd` exits with 1 and prints to stderr for a non-dynamic file; a static-pie is "statically linked".
    let (fine, said) = output(Command::new("ldd").arg(agent))?;
    if fine && !said.contains("statically linked") {
        return Err(format!("the agent is not static: {said}"));
    }
    Ok(())
}

fn gate_size(agent: &Path) -> Done {
    let size = fs::metadata(agent).map_err(|why| format!("{}: {why}", agent.display()))?.len();
    eprintln!("xtask: agent: {:.2} MB (at most {:.0})", size as f64 / 1e6, AGENT_MAX as f64 / 1e6);
    if size > AGENT_MAX {
        return Err(format!("the agent has {size} bytes, more than {AGENT_MAX}"));
    }
    Ok(())
}

/// aws-lc-rs comes in by many default features; it adds a megabyte and 26 ms of start-up to the agent.
fn gate_cryptography() -> Done {
    let (found, _) = output(cargo().args([
        "tree",
        "--locked",
        "--package",
        "fleet-agent",
        "-e",
        "normal",
        "-i",
        "aws-lc-rs",
    ]))?;
    if found {
        return Err("the agent depends on aws-lc-rs; a dependency's default features let it in".to_owned());
    }
    Ok(())
}
