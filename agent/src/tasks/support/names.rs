//! Whether a text of a plan may become an argument, a path or a line of a file.
//!
//! No option can be smuggled in as a name, no second line as part of a first one, no path that means another place
//! than it shows.

use fleet_task::TaskError;

/// Longest path the kernel takes (PATH_MAX).
const MAX_PATH: usize = 4096;
/// Longest name of an account (useradd(8)).
const MAX_ACCOUNT: usize = 32;
/// Longest name of a unit (systemd.unit(5)).
const MAX_UNIT: usize = 255;
/// Kinds of unit a plan may name.
const UNITS: [&str; 5] = ["service", "socket", "timer", "target", "path"];

/// A refusal of what a plan says.
pub fn refuse(why: impl Into<String>) -> TaskError {
    TaskError::Refused { why: why.into(), next: "correct the plan".into() }
}

/// An absolute path with no detours, control characters or trailing slash.
///
/// # Errors
/// [`TaskError::Refused`].
pub fn path(what: &str, path: &str) -> Result<(), TaskError> {
    let shown = path.escape_debug();
    if !path.starts_with('/') {
        return Err(refuse(format!("{what} `{shown}` is not an absolute path")));
    }
    if path.chars().any(char::is_control) {
        return Err(refuse(format!("{what} `{shown}` has control characters")));
    }
    if path.len() >= MAX_PATH {
        return Err(refuse(format!("{what} is longer than {MAX_PATH} bytes")));
    }
    if path[1..].split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(refuse(format!("{what} `{shown}` has empty parts, `.` or `..`")));
    }
    Ok(())
}

/// Name of a Debian package, optionally with an architecture (Debian policy 5.6.1).
///
/// # Errors
/// [`TaskError::Refused`].
pub fn package(name: &str) -> Result<(), TaskError> {
    let (bare, arch) = name.split_once(':').unwrap_or((name, "any"));
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fine = bare.len() >= 2
        && bare.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        // apt takes a trailing minus for a wish to remove.
        && !bare.ends_with('-')
        && bare.bytes().all(|byte| lower(byte) || b"+-.".contains(&byte))
        && !arch.is_empty()
        && arch.bytes().all(|byte| lower(byte) || byte == b'-')
        && !arch.starts_with('-');
    if fine { Ok(()) } else { Err(refuse(format!("`{}` is not the name of a package", name.escape_debug()))) }
}

/// Name of a systemd unit.
///
/// # Errors
/// [`TaskError::Refused`].
pub fn unit(name: &str) -> Result<(), TaskError> {
    let fine = name.len() <= MAX_UNIT
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
        && name.rsplit_once('.').is_some_and(|(stem, kind)| !stem.is_empty() && UNITS.contains(&kind));
    if fine {
        return Ok(());
    }
    let why = format!("`{}` is not the name of a unit, such as nginx.service", name.escape_debug());
    Err(refuse(why))
}

/// Name of a user or group (useradd(8)).
///
/// # Errors
/// [`TaskError::Refused`].
pub fn account(what: &str, name: &str) -> Result<(), TaskError> {
    let fine = name.len() <= MAX_ACCOUNT
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
    if fine { Ok(()) } else { Err(refuse(format!("`{}` is not the name of a {what}", name.escape_debug()))) }
}

/// A host name or an address, one word of a configuration file.
///
/// # Errors
/// [`TaskError::Refused`].
pub fn host(name: &str) -> Result<(), TaskError> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    let is_name = !name.is_empty() && name.len() <= 253 && letters && !name.starts_with(['-', '.']);
    if is_name || name.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(refuse(format!("`{}` is neither a host name nor an address", name.escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(judge: impl Fn(&str) -> Result<(), TaskError>, good: &[&str], bad: &[&str]) {
        for name in good {
            assert!(judge(name).is_ok(), "{name}");
        }
        for name in bad {
            let error = judge(name).expect_err(name).explain();
            assert!(error.contains("next: correct the plan") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn paths() {
        let long = format!("/{}", "x".repeat(MAX_PATH));
        check(
            |text| path("path", text),
            &["/x", "/etc/nginx/nginx.conf", "/with space", "/ünder", "/..x", "/-x"],
            &["", "x", "./x", "/", "/x/", "/x//y", "/x/../y", "/./x", "/x\ny", "/x\0", "/\u{1b}[31m", &long],
        );
    }

    #[test]
    fn packages() {
        check(
            package,
            &["nginx", "g++", "libc6:amd64", "0ad", "python3.11", "libx:kfreebsd-amd64"],
            &[
                "",
                "x",
                "-y",
                "-oDebug=1",
                "nginx-",
                "nginx/sid",
                "nginx=1",
                "Nginx",
                "a b",
                "a\nb",
                "nginx:",
                "ä1",
                "nginx:-o",
            ],
        );
    }

    #[test]
    fn units() {
        check(
            unit,
            &["nginx.service", "rethinkdb@fleet.service", "apt-daily.timer", "dev-x\\x2d.service"],
            &[
                "",
                "nginx",
                ".service",
                "-H.service",
                "--now",
                "a b.service",
                "a/b.service",
                "x.mount",
                "x\n.service",
            ],
        );
    }

    #[test]
    fn accounts() {
        check(
            |name| account("user", name),
            &["fleet", "_apt", "www-data", "a1"],
            &["", "-r", "Root", "a.b", "a:b", "a\nb", "1a", "a b", "x23456789012345678901234567890123"],
        );
    }

    #[test]
    fn hosts() {
        check(
            host,
            &["ntp.example", "192.0.2.1", "2001:db8::1", "a"],
            &["", "-x", "a b", "a\nserver b", "2001:db8::1 iburst", "#", ".a"],
        );
    }
}
