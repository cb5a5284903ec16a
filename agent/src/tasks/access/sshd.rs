//! What sshd's configuration files amount to (sshd_config(5)), and where a drop-in of ours wins. Pure but for reading.
//!
//! The first value of a keyword wins, so a file that sorts before ours can undo it. What a `Match` block says is
//! conditional, and never counts as closing a door.

use std::fs;

use fleet_task::{Node, TaskError};

/// The main file.
pub(super) const MAIN: &str = "/etc/ssh/sshd_config";
/// The folder its first line includes on Debian.
pub(super) const FOLDER: &str = "/etc/ssh/sshd_config.d";
/// What is wanted, and what sshd does if nothing is said.
pub(super) const WANTED: [(&str, &str, &str); 4] = [
    ("PasswordAuthentication", "no", "yes"),
    ("KbdInteractiveAuthentication", "no", "yes"),
    ("PermitRootLogin", "no", "prohibit-password"),
    ("PermitEmptyPasswords", "no", "no"),
];
/// Names for the drop-in, each sorting before the one before it.
pub(super) const NAMES: [&str; 4] = ["10-fleet.conf", "00-fleet.conf", "00-00-fleet.conf", "!-fleet.conf"];
/// sshd's own limit of files within files.
const DEPTH: usize = 16;

/// One line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    keyword: String,
    value: String,
    file: String,
    line: usize,
    conditional: bool,
}

/// A door that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    keyword: &'static str,
    value: String,
    /// File and line, unless it is sshd's default.
    place: Option<(String, usize)>,
}

impl std::fmt::Display for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}", self.keyword, self.value)?;
        match &self.place {
            Some((file, line)) => write!(f, " ({file}, line {line})"),
            None => f.write_str(" (sshd's default)"),
        }
    }
}

/// The text of our drop-in.
pub(super) fn text() -> String {
    let lines = WANTED.iter().map(|(keyword, value, _)| format!("{keyword} {value}\n"));
    format!("# Written by the fleet's agent; changes in here are lost.\n{}", lines.collect::<String>())
}

/// The configuration files of a node, with drop-ins of ours thought to be as wished.
pub(super) struct Files<'a> {
    node: &'a Node,
    ours: Option<&'static str>,
}

impl<'a> Files<'a> {
    /// As they are.
    pub(super) fn of(node: &'a Node) -> Self {
        Self { node, ours: None }
    }

    /// As they would be with our drop-in under this name, and under no other.
    fn with(node: &'a Node, name: &'static str) -> Self {
        Self { node, ours: Some(name) }
    }

    /// All that is said, in the order sshd reads it.
    pub(super) fn settings(&self) -> Result<Vec<Setting>, TaskError> {
        let mut settings = Vec::new();
        self.collect(MAIN, false, 0, &mut settings)?;
        Ok(settings)
    }

    fn read(&self, path: &str) -> Result<String, TaskError> {
        if let (Some(ours), Some(name)) = (self.ours, path.strip_prefix(FOLDER)) {
            let name = name.trim_start_matches('/');
            if name == ours {
                return Ok(text());
            }
            if NAMES.contains(&name) {
                return Ok(String::new());
            }
        }
        let bytes = self.node.read(path)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn collect(
        &self,
        file: &str,
        conditional: bool,
        depth: usize,
        settings: &mut Vec<Setting>,
    ) -> Result<(), TaskError> {
        if depth > DEPTH {
            return Ok(());
        }
        let mut conditional = conditional;
        for (at, line) in self.read(file)?.lines().enumerate() {
            let Some((keyword, value)) = words(line) else { continue };
            match keyword.as_str() {
                // A block ends with the next one or with its file.
                "match" => conditional = true,
                "include" => {
                    for pattern in value.split_whitespace() {
                        for file in self.matching(pattern.trim_matches('"')) {
                            self.collect(&file, conditional, depth + 1, settings)?;
                        }
                    }
                }
                _ => settings.push(Setting {
                    keyword,
                    value,
                    file: file.to_owned(),
                    line: at + 1,
                    conditional,
                }),
            }
        }
        Ok(())
    }

    /// The files a pattern means, in order; wildcards in the last part only.
    fn matching(&self, pattern: &str) -> Vec<String> {
        let pattern =
            if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/ssh/{pattern}") };
        let Some((folder, wanted)) = pattern.rsplit_once('/') else { return Vec::new() };
        let entries = fs::read_dir(self.node.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        if folder == FOLDER
            && let Some(ours) = self.ours
        {
            names.push(ours.to_owned());
        }
        names.retain(|name| is_like(name, wanted));
        names.sort();
        names.dedup();
        names.into_iter().map(|name| format!("{folder}/{name}")).collect()
    }
}

/// The host keys that are named; none means sshd's own choice. Pure.
pub(super) fn host_keys(settings: &[Setting]) -> Vec<String> {
    let named = settings.iter().filter(|setting| setting.keyword == "hostkey" && !setting.conditional);
    named.map(|setting| setting.value.clone()).collect()
}

/// Doors that are open for everybody. Pure.
pub(super) fn open(settings: &[Setting]) -> Vec<Open> {
    let judge = |(keyword, wanted, default): &(&'static str, &str, &str)| {
        let first = settings.iter().find(|setting| !setting.conditional && means(setting, keyword));
        let value = first.map_or(*default, |setting| setting.value.as_str());
        (!value.eq_ignore_ascii_case(wanted)).then(|| Open {
            keyword,
            value: value.to_owned(),
            place: first.map(|setting| (setting.file.clone(), setting.line)),
        })
    };
    WANTED.iter().filter_map(judge).collect()
}

/// Doors that a `Match` block may open for some. Pure.
pub(super) fn open_for_some(settings: &[Setting]) -> Vec<Open> {
    let mut found = Vec::new();
    for setting in settings.iter().filter(|setting| setting.conditional) {
        for (keyword, wanted, _) in WANTED {
            if means(setting, keyword) && !setting.value.eq_ignore_ascii_case(wanted) {
                let place = Some((setting.file.clone(), setting.line));
                found.push(Open { keyword, value: setting.value.clone(), place });
            }
        }
    }
    found
}

/// The name under which our drop-in closes all doors.
///
/// # Errors
/// [`TaskError::Refused`] if it does so under none, naming what is in the way.
pub(super) fn name(node: &Node) -> Result<&'static str, TaskError> {
    let mut left = Vec::new();
    for name in NAMES {
        left = open(&Files::with(node, name).settings()?);
        if left.is_empty() {
            return Ok(name);
        }
    }
    let named: Vec<String> = left.iter().map(ToString::to_string).collect();
    Err(TaskError::Refused {
        why: format!("no drop-in can close SSH: {}", named.join(", ")),
        next: format!("take those lines out, or put `Include {FOLDER}/*.conf` first in {MAIN}"),
    })
}

fn means(setting: &Setting, keyword: &str) -> bool {
    setting.keyword.eq_ignore_ascii_case(keyword)
        // Its old name.
        || (keyword == "KbdInteractiveAuthentication" && setting.keyword == "challengeresponseauthentication")
}

/// Keyword in lower case and the rest; `None` for comments and blank lines.
fn words(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    // A comment may follow.
    let value = rest.split('#').next().unwrap_or_default().trim().trim_matches('"');
    Some((line[..end].to_ascii_lowercase(), value.to_owned()))
}

/// Whether a name matches a pattern of stars; other wildcards are taken for no match, which can only make us stricter.
fn is_like(name: &str, pattern: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    match pattern.split_once('*') {
        None => name == pattern,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|name| {
            (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| is_like_rest(&name[at..], rest))
        }),
    }
}

fn is_like_rest(name: &str, pattern: &str) -> bool {
    if pattern.contains('*') { is_like(name, pattern) } else { name == pattern }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::tests::Rig;

    const DEBIAN: &str =
        "Include /etc/ssh/sshd_config.d/*.conf\nKbdInteractiveAuthentication no\nUsePAM yes\n";

    fn check(main: &str, drop_ins: &[(&str, &str)], expected: &[&str], name: Result<&str, &str>) {
        let rig = Rig::new(&[(MAIN, main), (&format!("{FOLDER}/.keep"), "")]);
        for (name, text) in drop_ins {
            fs::write(rig.path(&format!("{FOLDER}/{name}")), text).expect("drop-in");
        }
        let node = rig.node();
        let found: Vec<String> =
            open(&Files::of(&node).settings().expect("read")).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{main} {drop_ins:?}");
        match (super::name(&node), name) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(expected)) => assert!(error.explain().contains(expected), "{}", error.explain()),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    const PASSWORDS: &str = "PasswordAuthentication is yes (sshd's default)";
    const ROOT: &str = "PermitRootLogin is prohibit-password (sshd's default)";

    #[test]
    fn the_first_value_wins() {
        check(DEBIAN, &[], &[PASSWORDS, ROOT], Ok("10-fleet.conf"));
        let image = ("10-image.conf", "PermitRootLogin yes\nPasswordAuthentication yes\n");
        let open = [
            "PasswordAuthentication is yes (/etc/ssh/sshd_config.d/10-image.conf, line 2)",
            "PermitRootLogin is yes (/etc/ssh/sshd_config.d/10-image.conf, line 1)",
        ];
        check(DEBIAN, &[image], &open, Ok("10-fleet.conf"));
        check(DEBIAN, &[image, ("10-fleet.conf", &text())], &[], Ok("10-fleet.conf"));
        check(
            DEBIAN,
            &[("10-image.conf.bak", "PermitRootLogin yes\n")],
            &[PASSWORDS, ROOT],
            Ok("10-fleet.conf"),
        );
    }

    #[test]
    fn what_sorts_before_ours_makes_us_take_an_earlier_name() {
        let early = |name| (name, "passwordauthentication=yes\n");
        let open = |name: &str| format!("PasswordAuthentication is yes ({FOLDER}/{name}, line 1)");
        check(DEBIAN, &[early("05-x.conf")], &[&open("05-x.conf"), ROOT], Ok("00-fleet.conf"));
        check(DEBIAN, &[early("00-a.conf")], &[&open("00-a.conf"), ROOT], Ok("00-00-fleet.conf"));
        check(DEBIAN, &[early("+.conf")], &[&open("+.conf"), ROOT], Ok("!-fleet.conf"));
        check(DEBIAN, &[early("!!.conf")], &[&open("!!.conf"), ROOT], Err("!!.conf, line 1"));
    }

    #[test]
    fn a_main_file_that_no_drop_in_can_beat_is_named() {
        let before = format!("PermitRootLogin yes\n{DEBIAN}");
        let yes = "PermitRootLogin is yes (/etc/ssh/sshd_config, line 1)";
        check(&before, &[], &[PASSWORDS, yes], Err("PermitRootLogin is yes (/etc/ssh/sshd_config, line 1)"));
        let kbd = "KbdInteractiveAuthentication is yes (sshd's default)";
        check(
            "UsePAM yes\n",
            &[],
            &[PASSWORDS, kbd, ROOT],
            Err("put `Include /etc/ssh/sshd_config.d/*.conf` first"),
        );
    }

    #[test]
    fn a_condition_closes_nothing_and_is_told_when_it_opens() {
        let text =
            format!("{DEBIAN}Match User x\n  PasswordAuthentication no\n  PermitRootLogin yes # why\n");
        check(&text, &[], &[PASSWORDS, ROOT], Ok("10-fleet.conf"));
        let rig = Rig::new(&[(MAIN, &text)]);
        let settings = Files::of(&rig.node()).settings().expect("read");
        let some: Vec<String> = open_for_some(&settings).iter().map(ToString::to_string).collect();
        assert_eq!(some, ["PermitRootLogin is yes (/etc/ssh/sshd_config, line 6)"]);
    }

    #[test]
    fn a_condition_ends_with_its_file() {
        let text = "Include /etc/ssh/sshd_config.d/*.conf\n";
        let drop_ins = [
            ("20-a.conf", "Match all\nX11Forwarding no\n"),
            ("30-b.conf", "ChallengeResponseAuthentication no\n"),
        ];
        check(text, &drop_ins, &[PASSWORDS, ROOT], Ok("10-fleet.conf"));
    }

    #[test]
    fn files_that_include_themselves_end() {
        let rig = Rig::new(&[(MAIN, "Include sshd_config\n")]);
        assert_eq!(Files::of(&rig.node()).settings().expect("read"), []);
    }
}
