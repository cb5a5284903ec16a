//! Tasks of this project's own making: clock, updates, access, the database and its application.

use std::time::Duration;

use fleet_model::NodeName;

use super::{
    Notes,
    words::{database as database_name, each, flag, host_file, is_host, key, number, user},
};
use crate::{
    problem::Reporter,
    read::{At, Fields, any_text, integer, text, wanted},
    resolved::{Access, AptRepository, Clock, Database, Package, Rethinkdb, Todo, Update},
    suggest::suggest,
    syntax::{Tree, Value},
};

/// Most replicas of a table the database takes.
const MOST_REPLICAS: u32 = 64;
/// Where the todo application listens unless told otherwise.
const TODO_PORT: u32 = 5000;
/// Name of the application's database and of its table, unless told otherwise.
const TODO: (&str, &str) = ("todo", "tasks");

pub(super) fn clock(fields: &mut Fields<'_>, notes: &mut Notes, reporter: &mut Reporter<'_>) -> Clock {
    let servers = each(fields, "servers", reporter, |tree, reporter| {
        let server = any_text(tree, "a time server", reporter)?;
        // What a reference will be is an address.
        if !server.value.contains("{{") && !is_host(&server.value) {
            let hint = "a name or an address: `ntp.example.org`".to_owned();
            reporter.problem(&server.span, format!("a time server cannot be `{}`", server.value), hint);
        }
        Some(notes.text(server))
    });
    let most_offset = number(fields, "mostOffsetMs", 1..=60_000, 500, reporter);
    Clock { servers, most_offset: Duration::from_millis(most_offset.into()) }
}

pub(super) fn update(fields: &mut Fields<'_>, reporter: &mut Reporter<'_>) -> Update {
    Update {
        every_hours: number(fields, "everyHours", 1..=8760, 24, reporter),
        reboot: flag(fields, "reboot", false, reporter),
    }
}

pub(super) fn access(fields: &mut Fields<'_>, reporter: &mut Reporter<'_>) -> Access {
    let login = fields
        .require("login", "the user to log in as: `fleet`", reporter)
        .and_then(|tree| {
            let login = user(tree, "`login`", reporter)?;
            if login == "root" {
                let hint = "root is shut out; the login may become root without a password".to_owned();
                reporter.problem(&tree.span, "`login` cannot be `root`", hint);
            }
            Some(login)
        })
        .unwrap_or_default();
    let mut keys = Vec::new();
    if let Some(tree) = fields.require("keys", "whose keys let in: `[operator]`", reporter) {
        match &tree.value {
            Value::List(items) if items.is_empty() => {
                let hint = "without one nobody could log in: `[operator]`".to_owned();
                reporter.problem(&tree.span, "`keys` is empty", hint);
            }
            Value::List(items) => {
                for item in items {
                    let Some(found) = key(item, reporter) else { continue };
                    if keys.contains(&found) {
                        reporter.problem(&item.span, "a key is given twice", None);
                    } else {
                        keys.push(found);
                    }
                }
            }
            _ => wanted(tree, "`keys`", "a list", reporter),
        }
    }
    Access { login, keys }
}

pub(super) fn rethinkdb(
    fields: &mut Fields<'_>,
    notes: &mut Notes,
    reporter: &mut Reporter<'_>,
) -> Option<Rethinkdb> {
    let seed = fields
        .require("seed", "the node that founds the cluster", reporter)
        .and_then(|tree| {
            notes.spot("seed", tree);
            text(tree, "`seed`", reporter)
        })
        .and_then(|name| match name.value.parse::<NodeName>() {
            Ok(seed) => Some(seed),
            Err(error) => {
                reporter.problem(&name.span, error.to_string(), "a node of this plan".to_owned());
                None
            }
        });
    let package = match fields.get("package", reporter) {
        None => Package::Repository(AptRepository::official()),
        Some(tree) => package(tree, reporter),
    };
    let cache_mb = match fields.get("cacheMb", reporter) {
        None => None,
        Some(Tree { value: Value::Text(word), .. }) if word == "auto" => None,
        Some(tree) => integer(tree, "`cacheMb`", 16..=1 << 20, reporter).map(|size| size.value),
    };
    Some(Rethinkdb { seed: seed?, package, cache_mb })
}

/// `official`, a package of the operator's host, or a repository.
fn package(tree: &Tree, reporter: &mut Reporter<'_>) -> Package {
    let official = Package::Repository(AptRepository::official());
    match &tree.value {
        Value::Text(word) if word == "official" => official,
        Value::Text(word) if !word.contains("{{") && !word.ends_with(".deb") => {
            let hint = suggest(word, ["official"]).filter(|hint| hint.starts_with("did you"));
            let hint = hint.unwrap_or_else(|| {
                "`official`, the path of a `.deb` of this host, or a mapping that begins with `uri`"
                    .to_owned()
            });
            reporter.problem(&tree.span, format!("`package` cannot be `{word}`"), hint);
            official
        }
        Value::Text(_) => host_file(tree, "`package`", reporter).map_or(official, Package::File),
        Value::Map(_) => Package::Repository(repository(tree, reporter)),
        _ => {
            wanted(tree, "`package`", "`official`, a path or a mapping", reporter);
            official
        }
    }
}

/// A mirror; what it does not say is as in the official repository, the fingerprint included.
fn repository(tree: &Tree, reporter: &mut Reporter<'_>) -> AptRepository {
    let mut found = AptRepository::official();
    let Some(mut fields) = Fields::of(tree, "`package`", reporter) else { return found };
    let is_url = |url: &str| {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
            && !url.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"')
    };
    let is_word = |word: &str| {
        !word.is_empty()
            && word.split('/').all(|part| !part.is_empty() && part != "..")
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/".contains(&b))
    };
    let is_fingerprint = |digits: &str| digits.len() == 40 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let uri = fields.get("uri", reporter);
    let suite = fields.get("suite", reporter);
    let component = fields.get("component", reporter);
    let key = fields.get("key", reporter);
    let fingerprint = fields.get("fingerprint", reporter);
    let mut take =
        |tree: Option<&Tree>, what: &str, hint: &str, fine: &dyn Fn(&str) -> bool, to: &mut String| {
            let Some(tree) = tree else { return };
            if let Some(text) = super::words::ruled(tree, what, hint, fine, reporter) {
                *to = text.value;
            }
        };
    take(uri, "`uri`", "the repository's base: `https://HOST/PATH`", &is_url, &mut found.uri);
    take(suite, "`suite`", "as in sources.list: `bookworm`", &is_word, &mut found.suite);
    take(component, "`component`", "as in sources.list: `main`", &is_word, &mut found.component);
    take(key, "`key`", "where its public key is: `https://HOST/PATH.gpg`", &is_url, &mut found.key);
    let spaced = |text: &str| is_fingerprint(&text.replace(' ', ""));
    let hint = "40 hexadecimal digits, as `gpg --show-keys` prints them";
    take(fingerprint, "`fingerprint`", hint, &spaced, &mut found.fingerprint);
    found.fingerprint = found.fingerprint.replace(' ', "").to_ascii_uppercase();
    if uri.is_none() {
        fields.require("uri", "a mirror's base, or `package: official`", reporter);
    }
    fields.finish(reporter);
    found
}

pub(super) fn database(fields: &mut Fields<'_>, notes: &mut Notes, reporter: &mut Reporter<'_>) -> Database {
    let name = required_name(fields, "name", "`name` of a database", TODO.0, reporter);
    let table = required_name(fields, "table", "`table`", TODO.1, reporter);
    let replicas = fields
        .require("replicas", "how many servers hold each row; odd: `3`", reporter)
        .and_then(|tree| {
            notes.spot("replicas", tree);
            let replicas: At<u32> = integer(tree, "`replicas`", 1..=MOST_REPLICAS, reporter)?;
            if replicas.value.is_multiple_of(2) {
                let hint = "an odd number: with an even one, no more servers may fail than with one less";
                reporter.problem(&tree.span, format!("`replicas` is {}", replicas.value), hint.to_owned());
            }
            Some(replicas.value)
        })
        .unwrap_or(1);
    Database { name, table, replicas }
}

pub(super) fn todo(fields: &mut Fields<'_>, notes: &mut Notes, reporter: &mut Reporter<'_>) -> Todo {
    let mut name = |key: &'static str, otherwise: &str, reporter: &mut Reporter<'_>| {
        let tree = fields.get(key, reporter)?;
        notes.spot(key, tree);
        Some(database_name(tree, &format!("`{key}`"), reporter).unwrap_or_else(|| otherwise.to_owned()))
    };
    let database = name("database", TODO.0, reporter).unwrap_or_else(|| TODO.0.to_owned());
    let table = name("table", TODO.1, reporter).unwrap_or_else(|| TODO.1.to_owned());
    let port = fields.get("port", reporter).and_then(|tree| {
        notes.spot("port", tree);
        integer(tree, "`port`", 1..=u32::from(u16::MAX), reporter)
    });
    let port = port.map_or(TODO_PORT, |port| port.value);
    Todo { port: u16::try_from(port).unwrap_or(u16::MAX), database, table }
}

fn required_name(
    fields: &mut Fields<'_>,
    key: &'static str,
    what: &str,
    example: &str,
    reporter: &mut Reporter<'_>,
) -> String {
    let found = fields
        .require(key, &format!("`{key}: {example}`"), reporter)
        .and_then(|tree| database_name(tree, what, reporter));
    found.unwrap_or_else(|| example.to_owned())
}
