//! What went wrong, from what apt and dpkg said. They have one exit status for everything, so their words are read; the
//! language is fixed to C.

use fleet_task::{Command, Output, TaskError};

/// Longest quotation of apt's own words, in characters.
const QUOTED: usize = 400;

/// What apt-get and dpkg are asked to do, among their options.
const VERBS: [&str; 5] = ["update", "install", "remove", "upgrade", "--configure"];

/// What was in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Somebody held a lock, and had let go of it when we looked.
    Locked,
    /// Something could not be fetched.
    Fetch(String),
    /// No such package in the lists there are.
    Unknown(String),
    /// The disk is full.
    Space {
        /// How many bytes more are needed, if that is known.
        missing: Option<u64>,
    },
    /// Anything else.
    Other(String),
}

/// Reads the output of a run that failed; `free` tells the bytes free where packages go.
pub(super) fn of(output: &Output, free: impl Fn() -> Option<u64>) -> Trouble {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let says = |words: &[&str]| words.iter().any(|word| stderr.contains(word) || stdout.contains(word));
    if says(&[
        "Could not get lock",
        "Unable to acquire the dpkg frontend lock",
        "is locked by another process",
    ]) {
        return Trouble::Locked;
    }
    if says(&["No space left on device", "enough free space in"]) {
        let missing = need(&stdout).zip(free()).and_then(|(need, free)| need.checked_sub(free));
        return Trouble::Space { missing: missing.filter(|missing| *missing > 0) };
    }
    let quoted = quote(&stderr, &stdout);
    if says(&["Unable to locate package", "has no installation candidate"]) {
        return Trouble::Unknown(quoted);
    }
    if says(&["Failed to fetch", "Unable to fetch", "Temporary failure resolving", "Could not resolve"]) {
        return Trouble::Fetch(quoted);
    }
    Trouble::Other(quoted)
}

impl Trouble {
    /// Whether fresh lists may cure it.
    pub(super) fn may_be_old_lists(&self) -> bool {
        matches!(self, Self::Fetch(_) | Self::Unknown(_))
    }

    /// The cause, with the next step.
    pub(super) fn explain(self, command: &Command) -> TaskError {
        let (why, next) = match self {
            Self::Locked => return TaskError::NotYet("another run of apt, which came first".into()),
            Self::Fetch(said) => (
                format!("packages could not be fetched: {said}"),
                "see whether the node reaches the mirror in /etc/apt/sources.list and sources.list.d (name \
                 resolution, route, proxy); it is tried again by itself"
                    .into(),
            ),
            Self::Unknown(said) => (
                format!("no repository of the node has it: {said}"),
                "correct the name in the plan, or add the repository first".into(),
            ),
            Self::Space { missing } => {
                let missing = missing.map_or_else(String::new, |bytes| {
                    format!(", {} KiB more are needed", bytes.div_ceil(1024))
                });
                (
                    format!("no space left for packages{missing}"),
                    "free some space (see `df`, `apt-get clean`); it is tried again by itself".into(),
                )
            }
            Self::Other(said) => {
                let verb = command.args.iter().find(|arg| VERBS.contains(&arg.as_str()));
                (
                    format!("`{} {}` failed: {said}", command.program, verb.map_or("…", String::as_str)),
                    "see /var/log/apt/term.log on the node".into(),
                )
            }
        };
        TaskError::Refused { why, next }
    }
}

/// apt's own errors, or the last words if there are none.
fn quote(stderr: &str, stdout: &str) -> String {
    let errors = |text: &str| {
        let found = text.lines().filter(|line| line.starts_with("E: ") || line.starts_with("dpkg: error"));
        found.map(|line| line.trim_start_matches("E: ").trim().to_owned()).collect::<Vec<_>>()
    };
    let mut found = errors(stderr);
    if found.is_empty() {
        let last = stderr.lines().chain(stdout.lines()).rev().find(|line| !line.trim().is_empty());
        found.push(last.unwrap_or("it said nothing").trim().to_owned());
    }
    found.join("; ").chars().take(QUOTED).collect()
}

/// Bytes apt said it needs for what it was about to do: to fetch, and to unpack.
fn need(stdout: &str) -> Option<u64> {
    let after = |words: &str| stdout.split_once(words).map(|(_, rest)| rest);
    let fetch = after("Need to get ").and_then(|rest| size(rest.split(" of archives").next()?));
    let unpack = after("After this operation, ").and_then(|rest| {
        rest.contains("of additional disk space").then(|| size(rest.split(" of additional").next()?))?
    });
    match (fetch, unpack) {
        (None, None) => None,
        (fetch, unpack) => Some(fetch.unwrap_or(0) + unpack.unwrap_or(0)),
    }
}

/// `12.3 MB`, `1,234 kB`, or `12.3 MB/45.6 MB`, of which the first is still to come.
fn size(text: &str) -> Option<u64> {
    let text = text.split('/').next()?.replace(',', "");
    let (number, unit) = text.trim().split_once(' ')?;
    let scale = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * scale;
    // Sizes of packages are far below 2^53, and never negative.
    Some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(stdout: &str, stderr: &str) -> Output {
        Output { code: Some(100), stdout: stdout.into(), stderr: stderr.into() }
    }

    fn check(stdout: &str, stderr: &str, expected: &str) {
        let command = Command::new("apt-get", ["-q", "-y", "install", "--", "chrony"]);
        let error = of(&output(stdout, stderr), || Some(1_000_000)).explain(&command).explain();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("next: "), "{error}");
    }

    #[test]
    fn each_cause_has_its_own_words() {
        check(
            "",
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1 (apt-get)\n",
            "waits for",
        );
        check(
            "",
            "W: old\nE: Failed to fetch http://deb.example/x.deb  Temporary failure resolving 'deb.example'\n",
            "packages could not be fetched: Failed to fetch http://deb.example/x.deb",
        );
        check("", "E: Package 'x' has no installation candidate\n", "no repository of the node has it");
        let need = "Need to get 1,500 kB of archives.\nAfter this operation, 2.5 MB of additional disk space will be used.\n";
        let full = "E: You don't have enough free space in /var/cache/apt/archives/.\n";
        check(need, full, "no space left for packages, 2930 KiB more are needed");
        check("", full, "no space left for packages; next: free");
        check(
            "",
            "dpkg: error processing package x (--configure)\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n",
            "`apt-get install` failed: dpkg: error processing package x (--configure); Sub-process",
        );
        check("last words\n", "", "failed: last words");
        check("", "", "failed: it said nothing");
    }

    #[test]
    fn a_lock_is_no_failure() {
        let trouble = of(&output("", "E: Could not get lock x"), || None);
        assert!(matches!(trouble.explain(&Command::new("apt-get", ["update"])), TaskError::NotYet(_)));
    }

    #[test]
    fn sizes_as_apt_writes_them() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(size(text), expected, "{text}");
        check("512 B", Some(512));
        check("1,234 kB", Some(1_234_000));
        check("12.5 MB/45.6 MB", Some(12_500_000));
        check("2.0 GB", Some(2_000_000_000));
        check("many", None);
        check("3 parsec", None);
    }
}
