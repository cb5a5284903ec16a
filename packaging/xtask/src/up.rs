//! The reference fleet, from a bare machine.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    build, paths,
    run::{Done, ours},
    setup, standin,
};

/// The signing key of the official repository: small, and needed by whoever installs from there.
const OFFICIAL: &str = "https://download.rethinkdb.com/repository/raw/pubkey.gpg";

/// Sets up, builds, and runs `fleetctl up` on the reference plan, with the RethinkDB package that can be had.
pub fn up(args: &[String]) -> Done {
    let (package, args) = named_package(args)?;
    setup::setup()?;
    let dist = build::build()?;
    let package = match package {
        Some(file) => Some(file),
        None if official_answers() => None,
        None => {
            let file = standin::package()?;
            eprintln!(
                "xtask: RETHINKDB CANNOT BE HAD FROM HERE ({OFFICIAL} does not answer): USING THE STAND-IN OF THE TESTS, \
                 WHICH IS NO DATABASE FOR YOUR DATA. Name a package with --rethinkdb PATH.deb"
            );
            Some(file)
        }
    };
    let plan = paths::checkout().join("packaging/plans/rethinkdb.yaml");
    let mut fleetctl = ours(&dist.fleetctl);
    fleetctl.arg("up").arg(&plan).args(&args);
    if let Some(file) = &package {
        fleetctl.arg("--set").arg(format!("rethinkdb={}", file.display()));
    }
    eprintln!("xtask: {}", shown(&fleetctl));
    let status = fleetctl
        .stdin(Stdio::inherit())
        .status()
        .map_err(|why| format!("start {}: {why}", dist.fleetctl.display()))?;
    let fleetctl = dist.fleetctl.display();
    eprintln!("\nxtask: look around:   {fleetctl} status");
    eprintln!(
        "xtask: change it:     cargo xtask up --set diskPerNode=20, or whatever else `fleetctl up` takes"
    );
    eprintln!("xtask: remove it all: {fleetctl} down");
    if status.success() { Ok(()) } else { Err(format!("`fleetctl up` ended with {status}")) }
}

/// Takes `--rethinkdb FILE` out of the arguments; the rest is for `fleetctl up`.
fn named_package(args: &[String]) -> Done<(Option<PathBuf>, Vec<String>)> {
    let Some(at) = args.iter().position(|arg| arg == "--rethinkdb") else {
        return Ok((None, args.to_vec()));
    };
    let file = args.get(at + 1).ok_or("--rethinkdb wants a file: --rethinkdb PATH.deb")?;
    // `fleetctl` reads paths from the plan's folder; people write them from where they are.
    let file = Path::new(file).canonicalize().map_err(|why| format!("--rethinkdb {file}: {why}"))?;
    let rest = args[..at].iter().chain(&args[at + 2..]).cloned().collect();
    Ok((Some(file), rest))
}

/// Whether the official repository can be reached, tried as the nodes will: by apt's own downloader.
fn official_answers() -> bool {
    let file = paths::target().join("rethinkdb-key");
    let mut download = Command::new("/usr/lib/apt/apt-helper");
    download
        .args(["-o", "Acquire::https::Timeout=10", "-o", "Acquire::Retries=0", "download-file", OFFICIAL])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    download.status().is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
