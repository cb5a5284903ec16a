//! Tasks for whatever a plan is about: files, packages, services, users, commands.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Notes,
    words::{each, flag, host_file, mode, number, package as package_name, path, unit, user as user_name},
};
use crate::{
    problem::Reporter,
    read::{Fields, any_text, wanted},
    resolved::{Command, Content, File, Packages, ServiceTask, Template, User},
    syntax::{Tree, Value},
};

/// A day: whatever takes longer is a service.
const LONGEST_COMMAND: u32 = 86_400;

pub(super) fn file(fields: &mut Fields<'_>, notes: &mut Notes, reporter: &mut Reporter<'_>) -> File {
    let path = fields
        .require("path", "where it is on the node: `/etc/motd`", reporter)
        .and_then(|tree| {
            notes.spot("path", tree);
            path(tree, "`path`", reporter)
        })
        .unwrap_or_default();
    let content = content(fields, notes, reporter);
    let mode_tree = fields.get("mode", reporter);
    let mode = mode_tree.and_then(|tree| mode(tree, reporter));
    let mut whose = |key: &'static str| {
        let tree = fields.get(key, reporter)?;
        Some((tree, user_name(tree, &format!("`{key}`"), reporter).unwrap_or_default()))
    };
    let (owner, group) = (whose("owner"), whose("group"));
    if content == Content::Absent {
        let settings =
            [mode_tree, owner.as_ref().map(|(tree, _)| *tree), group.as_ref().map(|(tree, _)| *tree)];
        if let Some(tree) = settings.into_iter().flatten().next() {
            let hint = "a file that is not there has neither mode nor owner".to_owned();
            reporter.problem(&tree.span, "a setting of a file that is absent", hint);
        }
    }
    let root = || "root".to_owned();
    let whose = |given: Option<(&Tree, String)>| given.map_or_else(root, |(_, name)| name);
    File { path, content, mode, owner: whose(owner), group: whose(group) }
}

/// Exactly one of `text`, `source`, `directory` and `absent`.
fn content(fields: &mut Fields<'_>, notes: &mut Notes, reporter: &mut Reporter<'_>) -> Content {
    let mut found: Vec<(&Tree, Content)> = Vec::new();
    if let Some(tree) = fields.get("text", reporter) {
        let text = any_text(tree, "`text`", reporter).map(|text| notes.text(text));
        found.push((tree, Content::Text(text.unwrap_or_default())));
    }
    if let Some(tree) = fields.get("source", reporter) {
        notes.spot("source", tree);
        found.push((tree, Content::Source(host_file(tree, "`source`", reporter).unwrap_or_default())));
    }
    for (key, content) in [("directory", Content::Directory), ("absent", Content::Absent)] {
        if let Some(tree) = fields.get(key, reporter) {
            match &tree.value {
                Value::Bool(true) => {}
                Value::Text(word) if word == "true" => {}
                Value::Unknown => {}
                _ => reporter.problem(
                    &tree.span,
                    format!("`{key}` can only be `true`"),
                    "say what the file is instead".to_owned(),
                ),
            }
            found.push((tree, content));
        }
    }
    let hint = "one of `text: \"…\"`, `source: FILE`, `directory: true` and `absent: true`".to_owned();
    if let Some((tree, _)) = found.get(1) {
        reporter.problem(&tree.span, "a file is one thing, and this makes it another", hint);
    } else if found.is_empty() && !["text", "source", "directory", "absent"].iter().any(|key| fields.has(key))
    {
        reporter.problem(fields.span(), "`file` does not say what the file is", hint);
    }
    found.into_iter().next().map_or_else(|| Content::Text(Template::default()), |(_, content)| content)
}

pub(super) fn package(fields: &mut Fields<'_>, reporter: &mut Reporter<'_>) -> Packages {
    let mut names = Vec::new();
    if let Some(tree) = fields.require("names", "the packages: `[nginx]`", reporter) {
        let mut seen = BTreeSet::new();
        match &tree.value {
            Value::List(items) => {
                for item in items {
                    let Some(name) = package_name(item, reporter) else { continue };
                    if seen.insert(name.clone()) {
                        names.push(name);
                    } else {
                        reporter.problem(&item.span, format!("package `{name}` is named twice"), None);
                    }
                }
                if items.is_empty() {
                    reporter.problem(&tree.span, "`names` is empty", "the packages: `[nginx]`".to_owned());
                }
            }
            _ => wanted(tree, "`names`", "a list", reporter),
        }
    }
    Packages { names, absent: flag(fields, "absent", false, reporter) }
}

pub(super) fn service(fields: &mut Fields<'_>, reporter: &mut Reporter<'_>) -> ServiceTask {
    let unit = fields
        .require("unit", "the unit of systemd: `nginx.service`", reporter)
        .and_then(|tree| unit(tree, reporter))
        .unwrap_or_default();
    ServiceTask {
        unit,
        running: flag(fields, "running", true, reporter),
        enabled: flag(fields, "enabled", true, reporter),
        restart_on: each(fields, "restartOn", reporter, |tree, reporter| path(tree, "a file", reporter)),
    }
}

pub(super) fn user(fields: &mut Fields<'_>, reporter: &mut Reporter<'_>) -> User {
    let name = fields
        .require("name", "the user's name", reporter)
        .and_then(|tree| {
            let name = user_name(tree, "`name` of a user", reporter)?;
            if name == "root" {
                reporter.problem(
                    &tree.span,
                    "`root` is the system's own user",
                    "name another one".to_owned(),
                );
            }
            Some(name)
        })
        .unwrap_or_default();
    let mut place = |key: &'static str| {
        let tree = fields.get(key, reporter)?;
        let found = path(tree, &format!("`{key}`"), reporter)?;
        if found.contains(':') {
            // It would end the field of /etc/passwd.
            reporter.problem(&tree.span, format!("`{key}` cannot hold a colon"), None);
        }
        Some(found)
    };
    let (shell, home) = (place("shell"), place("home"));
    User {
        name,
        system: flag(fields, "system", false, reporter),
        shell,
        home,
        groups: each(fields, "groups", reporter, |tree, reporter| user_name(tree, "a group", reporter)),
        absent: flag(fields, "absent", false, reporter),
    }
}

/// Without `unless` and `creates` it is run once, and again whenever it changes.
pub(super) fn command(fields: &mut Fields<'_>, notes: &mut Notes, reporter: &mut Reporter<'_>) -> Command {
    let example = "program and arguments, one item each: `[/usr/bin/touch, /etc/done]`";
    fields.require("args", example, reporter);
    let mut words = |key: &'static str| {
        let given = fields.get(key, &mut Reporter::new("")).map(|tree| (tree, &tree.value));
        if let Some((tree, Value::Text(_))) = given {
            // The one mistake everybody makes.
            let hint = format!("{example}; a shell line is `[/bin/sh, -c, \"…\"]`");
            reporter.problem(&tree.span, format!("`{key}` must be a list, not a line"), hint);
            return Vec::new();
        }
        let items = each(fields, key, reporter, |tree, reporter| {
            any_text(tree, "an argument", reporter).map(|word| {
                if word.value.contains('\0') {
                    reporter.problem(&word.span, "an argument cannot hold a zero byte", None);
                }
                notes.text(word)
            })
        });
        if let Some((tree, Value::List(written))) = given {
            let program = items.first().is_none_or(|first: &Template| first.0.is_empty());
            if program && !written.iter().any(|item| item.value == Value::Unknown) {
                reporter.problem(&tree.span, format!("`{key}` names no program"), example.to_owned());
            }
        }
        items
    };
    let (args, unless) = (words("args"), words("unless"));
    let creates = fields.get("creates", reporter).and_then(|tree| path(tree, "`creates`", reporter));
    let timeout = number(fields, "timeoutSeconds", 1..=LONGEST_COMMAND, 300, reporter);
    Command { args, unless, creates, timeout: Duration::from_secs(timeout.into()) }
}
