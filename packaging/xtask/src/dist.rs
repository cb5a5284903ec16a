//! A signed release from the tree, reproducibly: two builds of one commit, anywhere, give the same bytes.
//!
//! What could differ is taken out: the folders of checkout, cargo and target (`--remap-path-prefix`), the linker's build
//! id, the time (`SOURCE_DATE_EPOCH` is the commit's). Toolchain and dependencies are pinned by the lock file and by
//! whoever compares. Packing and signing are `fleetctl release create`'s, deterministic too: the same keys make the same
//! manifest.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    build::{self, Yard},
    paths,
    run::{Done, ours, output, run},
    setup,
};

/// Builds, packs, signs, and prints the digests to compare.
pub fn dist(args: &[String]) -> Done {
    let (signer, args) = split(args)?;
    setup::setup()?;
    let commit = Commit::read()?;
    if commit.changed {
        eprintln!(
            "xtask: the tree differs from commit {}: nobody else can build what is built here",
            commit.id
        );
    }
    let target = paths::target().join("reproducible");
    let yard = Yard { dist: target.join("dist"), env: surroundings(&target, &commit)?, target };
    let programs = build::for_nodes(&yard)?;
    let fleetctl = match signer {
        Some(told) => told,
        None => build::fleetctl()?,
    };
    run(
        "sign",
        ours(&fleetctl)
            .env("SOURCE_DATE_EPOCH", &commit.seconds)
            .args(["release", "create", "--agent"])
            .arg(yard.dist.join("fleet-agent"))
            .arg("--todo")
            .arg(yard.dist.join("fleet-todo"))
            .args(args),
    )?;
    // The supervisor goes with the seed and is in no manifest, so its digest is told here.
    run(&format!("digests of commit {}", commit.id), Command::new("sha256sum").args(programs))
}

/// `--fleetctl PATH`, and the rest.
fn split(args: &[String]) -> Done<(Option<PathBuf>, &[String])> {
    match args {
        [flag, path, rest @ ..] if flag == "--fleetctl" => {
            let path = std::path::absolute(path).map_err(|why| format!("{path}: {why}"))?;
            Ok((Some(path), rest))
        }
        [flag] if flag == "--fleetctl" => Err("--fleetctl needs the path of a program".to_owned()),
        rest => Ok((None, rest)),
    }
}

/// What is built.
struct Commit {
    id: String,
    /// When it was made, in seconds since 1970.
    seconds: String,
    /// Whether the tree differs from it.
    changed: bool,
}

impl Commit {
    fn read() -> Done<Self> {
        let git = |args: &[&str]| match output(Command::new("git").args(args))? {
            (true, said) => Ok(said.trim().to_owned()),
            (false, _) => Err(format!("`git {}` failed: a release is built from a commit", args.join(" "))),
        };
        Ok(Self {
            id: git(&["rev-parse", "--short=12", "HEAD"])?,
            seconds: git(&["log", "-1", "--format=%ct"])?,
            changed: !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty(),
        })
    }
}

/// What makes the compiler forget where it ran, and when.
fn surroundings(target: &Path, commit: &Commit) -> Done<Vec<(&'static str, String)>> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo_home = cargo_home.or_else(home).ok_or("neither CARGO_HOME nor HOME is set")?;
    let mut flags = Vec::new();
    // Of two that fit, the last one counts: a target directory may be in the checkout.
    for (from, to) in [(cargo_home.as_path(), "/cargo"), (&paths::checkout(), "/fleet"), (target, "/target")]
    {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    flags.push("-Clink-arg=-Wl,--build-id=none".to_owned());
    Ok(vec![
        // Separated so that folders may have spaces in their names.
        ("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")),
        ("SOURCE_DATE_EPOCH", commit.seconds.clone()),
        ("CARGO_INCREMENTAL", "0".to_owned()),
        // Objects of C know where they were compiled.
        ("CFLAGS", format!("-ffile-prefix-map={}=/cargo", cargo_home.display())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_go_where_they_belong() {
        let args = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let all = args("--fleetctl /x/fleetctl --out d");
        let (signer, rest) = split(&all).expect("fine");
        assert_eq!((signer, rest), (Some("/x/fleetctl".into()), &all[2..]));
        let all = args("--out d");
        assert_eq!(split(&all), Ok((None, &all[..])));
        assert!(split(&args("--fleetctl")).is_err());
    }

    #[test]
    fn the_compiler_is_told_to_forget_every_folder() {
        let commit = Commit { id: "a".to_owned(), seconds: "7".to_owned(), changed: false };
        let env = surroundings(Path::new("/a b/target"), &commit).expect("a home");
        let flags: Vec<&str> = env[0].1.split('\x1f').collect();
        assert_eq!(flags.len(), 4);
        assert!(flags.contains(&"--remap-path-prefix=/a b/target=/target"));
        assert!(flags[1].ends_with("=/fleet") && flags[1].contains(&*paths::checkout().to_string_lossy()));
        assert_eq!(env[1], ("SOURCE_DATE_EPOCH", "7".to_owned()));
    }
}
