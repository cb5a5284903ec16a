//! Words with rules of their own: paths, names, keys, durations.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    problem::Reporter,
    read::{At, Fields, integer, list, text, wanted},
    resolved::Key,
    syntax::{Tree, Value},
};

/// Longest path Linux takes.
const LONGEST_PATH: usize = 4095;

/// Longest user name of Debian's tools.
const LONGEST_USER: usize = 32;

/// Kinds of units a task may keep.
const UNITS: [&str; 5] = ["service", "socket", "timer", "target", "path"];

/// Types of keys that OpenSSH of today lets in.
const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// `true` or `false`; text that spells one is fine, since parameters are put in as text.
pub(super) fn flag(
    fields: &mut Fields<'_>,
    key: &'static str,
    otherwise: bool,
    reporter: &mut Reporter<'_>,
) -> bool {
    let Some(tree) = fields.get(key, reporter) else { return otherwise };
    match &tree.value {
        Value::Bool(value) => *value,
        Value::Text(text) if text == "true" => true,
        Value::Text(text) if text == "false" => false,
        _ => {
            wanted(tree, &format!("`{key}`"), "`true` or `false`", reporter);
            otherwise
        }
    }
}

/// A number within bounds, or what holds without one.
pub(super) fn number(
    fields: &mut Fields<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<u32>,
    otherwise: u32,
    reporter: &mut Reporter<'_>,
) -> u32 {
    let number =
        fields.get(key, reporter).and_then(|tree| integer(tree, &format!("`{key}`"), range, reporter));
    number.map_or(otherwise, |number| number.value)
}

/// The items of the list `key`, each read by `one`; absent is empty.
pub(super) fn each<T>(
    fields: &mut Fields<'_>,
    key: &'static str,
    reporter: &mut Reporter<'_>,
    mut one: impl FnMut(&Tree, &mut Reporter<'_>) -> Option<T>,
) -> Vec<T> {
    let items = fields.get(key, reporter).and_then(|tree| list(tree, &format!("`{key}`"), reporter));
    items.unwrap_or_default().iter().filter_map(|item| one(item, reporter)).collect()
}

/// Text with a rule; wrong text is reported and given as it is.
pub(super) fn ruled(
    tree: &Tree,
    what: &str,
    hint: &str,
    fine: impl FnOnce(&str) -> bool,
    reporter: &mut Reporter<'_>,
) -> Option<At<String>> {
    let found = text(tree, what, reporter)?;
    if !fine(&found.value) {
        reporter.problem(&found.span, format!("{what} cannot be `{}`", found.value), hint.to_owned());
    }
    Some(found)
}

/// An absolute path on a node.
pub(super) fn path(tree: &Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<String> {
    let hint = "an absolute path without `..`: `/etc/motd`";
    ruled(tree, what, hint, is_path, reporter).map(|path| path.value)
}

fn is_path(path: &str) -> bool {
    path.len() > 1
        && path.len() <= LONGEST_PATH
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !part.is_empty() && part != "." && part != ".."))
        && !path.chars().any(char::is_control)
}

/// A path on the operator's host.
pub(super) fn host_file(tree: &Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<String> {
    let hint = "a file of this host, relative to the plan's folder: `site/index.html`";
    let fine =
        |name: &str| !name.trim().is_empty() && !name.ends_with('/') && !name.chars().any(char::is_control);
    ruled(tree, what, hint, fine, reporter).map(|name| name.value)
}

/// A user or a group.
pub(super) fn user(tree: &Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<String> {
    let hint = "a lower-case letter or `_`, then those, digits and `-`, at most 32";
    ruled(tree, what, hint, is_user, reporter).map(|name| name.value)
}

fn is_user(name: &str) -> bool {
    name.len() <= LONGEST_USER
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// A package of Debian; see its policy manual, section 5.6.1.
pub(super) fn package(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<String> {
    let hint = "lower-case letters, digits, `+`, `-` and `.`, at least two, a letter or digit first";
    ruled(tree, "a package", hint, is_package, reporter).map(|name| name.value)
}

fn is_package(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() >= 2
        && name.bytes().next().is_some_and(word)
        // apt takes a trailing minus for a wish to remove.
        && !name.ends_with('-')
        && name.bytes().all(|b| word(b) || b"+-.".contains(&b))
}

/// A unit of systemd, with what it ends with.
pub(super) fn unit(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<String> {
    let hint = "its full name: `nginx.service`";
    ruled(tree, "`unit`", hint, is_unit, reporter).map(|unit| unit.value)
}

fn is_unit(unit: &str) -> bool {
    // systemd.unit(5).
    const LONGEST: usize = 255;
    let Some((name, kind)) = unit.rsplit_once('.') else { return false };
    unit.len() <= LONGEST
        && !name.is_empty()
        && UNITS.contains(&kind)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b))
        && !name.starts_with(['@', '-', '.'])
        // `name@.service` is a template, which cannot run.
        && !name.ends_with('@')
}

/// Whether a text is a host name or an address.
pub(super) fn is_host(name: &str) -> bool {
    const LONGEST: usize = 253;
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    let is_name = !name.is_empty() && name.len() <= LONGEST && letters && !name.starts_with(['-', '.']);
    is_name || name.parse::<std::net::IpAddr>().is_ok()
}

/// Permission bits, as quoted octal text.
pub(super) fn mode(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<u32> {
    let octal = "octal digits in quotes: `\"0644\"`";
    let Value::Text(digits) = &tree.value else {
        if tree.value != Value::Unknown {
            // YAML reads 0644 as a number of one kind or another; which one is not worth knowing.
            reporter.problem(&tree.span, "`mode` must be text", octal.to_owned());
        }
        return None;
    };
    let fine = (3..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| fine);
    if mode.is_none() {
        reporter.problem(&tree.span, format!("`mode` cannot be `{digits}`"), octal.to_owned());
    }
    mode
}

/// Name of a database or a table.
pub(super) fn database(tree: &Tree, what: &str, reporter: &mut Reporter<'_>) -> Option<String> {
    const LONGEST: usize = 127;
    let hint = "letters, digits, `_` and `-`; `rethinkdb` is the cluster's own";
    let fine = |name: &str| {
        !name.is_empty()
            && name.len() <= LONGEST
            && name != "rethinkdb"
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    ruled(tree, what, hint, fine, reporter).map(|name| name.value)
}

/// A key: `operator`, or a line of authorized_keys without options.
pub(super) fn key(tree: &Tree, reporter: &mut Reporter<'_>) -> Option<Key> {
    let line = text(tree, "a key", reporter)?;
    if line.value == "operator" {
        return Some(Key::Operator);
    }
    let line = line.map(|line| line.trim().to_owned());
    if let Err(why) = is_key(&line.value) {
        reporter.problem(
            &line.span,
            format!("a key {why}"),
            "`operator`, or a line as in ~/.ssh/id_ed25519.pub: `ssh-ed25519 AAAA… name`".to_owned(),
        );
        return None;
    }
    Some(Key::Line(line.value))
}

/// Whether a line is type, key and perhaps a comment, and the key is of that type (RFC 4253, section 6.6).
pub(crate) fn is_key(line: &str) -> Result<(), &'static str> {
    if line.chars().any(char::is_control) {
        return Err("must be one line");
    }
    if line.contains("PRIVATE KEY") {
        return Err("must be the public one");
    }
    let mut words = line.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    if !KEY_TYPES.contains(&kind) {
        return Err("is of no known type");
    }
    let body = STANDARD.decode(words.next().unwrap_or_default()).map_err(|_| "is not whole")?;
    let rest = body.strip_prefix(&[0, 0, 0]).ok_or("is not whole")?;
    let (length, rest) = rest.split_first().ok_or("is not whole")?;
    match rest.split_at_checked(usize::from(*length)) {
        Some((name, rest)) if name == kind.as_bytes() && !rest.is_empty() => Ok(()),
        Some(_) => Err("is not of the type it says"),
        None => Err("is not whole"),
    }
}

/// `90s`, `10m` or `2h`.
pub(crate) fn duration(
    tree: &Tree,
    what: &str,
    range: std::ops::RangeInclusive<Duration>,
    reporter: &mut Reporter<'_>,
) -> Option<Duration> {
    let written = text(tree, what, reporter)?;
    let Some(found) = parse_duration(&written.value) else {
        let hint = "a number and `s`, `m` or `h`: `10m`".to_owned();
        reporter.problem(&written.span, format!("{what} cannot be `{}`", written.value), hint);
        return None;
    };
    if !range.contains(&found) {
        let hint = format!("{} to {} seconds", range.start().as_secs(), range.end().as_secs());
        reporter.problem(&written.span, format!("{what} is {}, out of range", written.value), hint);
        return None;
    }
    Some(found)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fine: impl Fn(&str) -> bool, yes: &[&str], no: &[&str]) {
        assert_eq!(yes.iter().filter(|text| !fine(text)).collect::<Vec<_>>(), [&""; 0], "refused");
        assert_eq!(no.iter().filter(|text| fine(text)).collect::<Vec<_>>(), [&""; 0], "taken");
    }

    #[test]
    fn words_have_rules() {
        check(
            is_path,
            &["/etc/motd", "/a"],
            &["", "/", "etc", "/etc/", "/etc//x", "/etc/../x", "/x\n", "/./x"],
        );
        check(
            is_user,
            &["fleet", "_apt", "www-data", "a1"],
            &["", "Fleet", "1a", "-x", "a b", &"a".repeat(33)],
        );
        check(
            is_package,
            &["nginx", "g++", "libc6", "0ad"],
            &["", "a", "Nginx", "+x", "a_b", "a b", "a=1", "nginx-"],
        );
        check(
            is_unit,
            &["nginx.service", "rethinkdb@fleet.service", "apt-daily.timer"],
            &["nginx", ".service", "a b.service", "x@.service", "nginx.conf", "-x.service", "x.mount"],
        );
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        check(
            is_host,
            &["ntp.example.org", "192.0.2.1", "2001:db8::1"],
            &["", "a b", "-x", ".x", "a;b", "ü"],
        );
    }

    #[test]
    fn keys_are_looked_into() {
        let ed = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBqwerd0hIiVoE7J6zC0M4WmbPCTcr1rEYrzcf3RCUXI me@host";
        assert_eq!(is_key(ed), Ok(()));
        let check = |line: &str, why: &str| assert_eq!(is_key(line), Err(why), "{line}");
        check(&ed.replace("ssh-ed25519 ", "ssh-rsa "), "is not of the type it says");
        check("ssh-ed25519 AAAA", "is not whole");
        check("ssh-ed25519 not/base64!", "is not whole");
        check("ssh-ed25519", "is not whole");
        check("ssh-dss AAAAB3NzaC1kc3MAAACBAI", "is of no known type");
        check(&format!("no-pty {ed}"), "is of no known type");
        check(&format!("{ed}\n{ed}"), "must be one line");
        check("-----BEGIN OPENSSH PRIVATE KEY-----", "must be the public one");
        check("", "is of no known type");
    }

    #[test]
    fn durations_have_units() {
        let check = |text: &str, seconds: Option<u64>| {
            assert_eq!(parse_duration(text).map(|found| found.as_secs()), seconds, "{text}");
        };
        check("90s", Some(90));
        check("10m", Some(600));
        check("2h", Some(7200));
        for wrong in ["", "10", "m", "1.5h", "-1s", "10 m", "1d", "10µ", "99999999999999999999h"] {
            check(wrong, None);
        }
    }
}
