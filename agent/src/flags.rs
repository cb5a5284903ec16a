//! The command line: few flags, read by hand.

use std::{path::PathBuf, time::Duration};

/// What `--help` says.
pub const HELP: &str = "\
usage: fleet-agent [--root DIR] [--recheck-every SECONDS] [--once]

  --root DIR                work on the files below DIR instead of /; runs no program then
  --recheck-every SECONDS   mean time between two looks at every task (600)
  --once                    do the node's work once, without a controller; status 1 if not all converged
  --version                 print the version
  --help                    print this

FLEET_LOG sets what is logged: a level, or `target=level,…`.";

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Be the agent.
    Run,
    /// One run of the engine.
    Once,
    /// Print the version.
    Version,
    /// Print the usage.
    Help,
}

/// The command line, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// What to do.
    pub action: Action,
    /// Root folder of the node's files.
    pub root: PathBuf,
    /// Mean time between two looks.
    pub recheck: Option<Duration>,
}

/// A mistake on the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// Not a flag of ours.
    #[error("unknown flag `{0}`")]
    Unknown(String),
    /// A flag whose value is not there.
    #[error("{0} needs a value")]
    Missing(&'static str),
    /// A value that does not fit.
    #[error("{0} takes {1}")]
    Value(&'static str, &'static str),
}

impl Flags {
    /// Reads the arguments after the program's name.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, FlagError> {
        let mut flags = Self { action: Action::Run, root: "/".into(), recheck: None };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            let mut value = |flag| inline.clone().or_else(|| args.next()).ok_or(FlagError::Missing(flag));
            match name {
                "--root" => {
                    flags.root = value("--root")?.into();
                    if !flags.root.is_absolute() {
                        return Err(FlagError::Value("--root", "an absolute path"));
                    }
                }
                "--recheck-every" => {
                    let wrong = FlagError::Value("--recheck-every", "a number of seconds from 1 to 86400");
                    let seconds = value("--recheck-every")?.parse().ok().filter(|n| (1..=86_400).contains(n));
                    flags.recheck = Some(Duration::from_secs(seconds.ok_or(wrong)?));
                }
                "--once" if inline.is_none() => flags.action = Action::Once,
                "--version" | "-V" if inline.is_none() => flags.action = Action::Version,
                "--help" | "-h" if inline.is_none() => flags.action = Action::Help,
                _ => return Err(FlagError::Unknown(arg)),
            }
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagError> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_and_mistakes() {
        let check =
            |line: &str, expected: Result<Flags, FlagError>| assert_eq!(parse(line), expected, "{line}");
        let usual = Flags { action: Action::Run, root: "/".into(), recheck: None };
        check("", Ok(usual.clone()));
        check("--root /n/1", Ok(Flags { root: "/n/1".into(), ..usual.clone() }));
        check("--root=/n/1 --once", Ok(Flags { root: "/n/1".into(), action: Action::Once, ..usual.clone() }));
        check("--recheck-every 5", Ok(Flags { recheck: Some(Duration::from_secs(5)), ..usual }));
        check("--root", Err(FlagError::Missing("--root")));
        check("--root here", Err(FlagError::Value("--root", "an absolute path")));
        check("--frobnicate", Err(FlagError::Unknown("--frobnicate".into())));
        check("--once=yes", Err(FlagError::Unknown("--once=yes".into())));
        check("stray", Err(FlagError::Unknown("stray".into())));
        for bad in ["0", "-1", "soon", "86401"] {
            let line = format!("--recheck-every {bad}");
            check(&line, Err(FlagError::Value("--recheck-every", "a number of seconds from 1 to 86400")));
        }
    }
}
