//! Where RethinkDB comes from: a signed repository with a pinned key, or a package the controller hands out.

use std::{fs, time::Duration};

use fleet_proto::v1::{AptRepository, Artifact, rethinkdb_task::Source};
use fleet_task::{Command, Node, TaskError, TaskId, atomic};
use serde::{Deserialize, Serialize};

use super::{openpgp, units::folder_of};
use crate::tasks::support::{apt, dpkg, hex};

const PACKAGE: &str = "rethinkdb";
const KEYRING: &str = "/usr/share/keyrings/rethinkdb.gpg";
const SOURCES: &str = "/etc/apt/sources.list.d/rethinkdb.sources";
/// Where the key is fetched to before anything trusts it.
const FETCHED: &str = "/var/lib/fleet-agent/packages/rethinkdb-key";
/// apt's own way to fetch a file; no other program is sure to be there.
const HELPER: &str = "/usr/lib/apt/apt-helper";
/// How long fetching the key may take.
const FETCH: Duration = Duration::from_secs(120);
/// What is remembered of what was installed.
const NOTE: &str = "package";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Note {
    /// Digest of the keyring as it was written, once its key was found to be the pinned one.
    keyring: String,
    /// Digest of the artifact that was installed, and the version it brought.
    artifact: String,
    version: String,
}

fn refuse(why: impl Into<String>, next: impl Into<String>) -> TaskError {
    TaskError::Refused { why: why.into(), next: next.into() }
}

/// What the plan says of a repository, checked: one word each.
struct Repository<'a> {
    spec: &'a AptRepository,
    fingerprint: String,
}

impl<'a> Repository<'a> {
    fn read(spec: &'a AptRepository) -> Result<Self, TaskError> {
        let bad = |why: String| refuse(why, "correct the plan");
        for uri in [&spec.uri, &spec.key_uri] {
            let fine = ["https://", "http://", "file:/"].iter().any(|scheme| uri.starts_with(scheme));
            if !fine || uri.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(bad(format!("`{}` is not the address of a repository", uri.escape_debug())));
            }
        }
        for word in [&spec.suite, &spec.component] {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
            if word.is_empty() || !word.bytes().all(letter) || word.starts_with('-') {
                return Err(bad(format!("`{}` is no suite or component", word.escape_debug())));
            }
        }
        let fingerprint: String = spec
            .key_fingerprint
            .chars()
            .filter(|c| !c.is_whitespace())
            .collect::<String>()
            .to_ascii_uppercase();
        if fingerprint.len() != 40 || !fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let why = format!("`{}` is no fingerprint of 40 hex digits", spec.key_fingerprint.escape_debug());
            return Err(bad(why));
        }
        Ok(Self { spec, fingerprint })
    }

    /// In the form of sources.list(5) that names its key.
    fn sources(&self) -> String {
        let AptRepository { uri, suite, component, .. } = self.spec;
        let head = format!("# Written by fleet-agent.\nTypes: deb\nURIs: {uri}\nSuites: {suite}\n");
        // A suite that ends with a slash is a folder and has no components.
        let component =
            if suite.ends_with('/') { String::new() } else { format!("Components: {component}\n") };
        format!("{head}{component}Signed-By: {KEYRING}\n")
    }

    /// The key, without armour, if it is the one and only.
    fn key(&self, fetched: &[u8]) -> Result<Vec<u8>, TaskError> {
        let from = &self.spec.key_uri;
        let foreign = |why: String| {
            refuse(
                format!("the key at {from} is not taken: {why}"),
                "find out who signs that repository now, and correct `fingerprint` in the plan only then",
            )
        };
        let key = openpgp::binary(fetched).map_err(|error| foreign(error.to_string()))?;
        let found = openpgp::fingerprints(&key).map_err(|error| foreign(error.to_string()))?;
        match found.as_slice() {
            [only] if *only == self.fingerprint => Ok(key),
            [] => Err(foreign("there is none".into())),
            [only] => Err(foreign(format!("it is {only}, and the plan pins {}", self.fingerprint))),
            many => Err(foreign(format!("there are {}: {}", many.len(), many.join(", ")))),
        }
    }
}

/// Version of the package, if it is wholly installed.
pub(super) fn version(node: &Node) -> Result<Option<String>, TaskError> {
    Ok(dpkg::Packages::read(node)?.version(PACKAGE).map(str::to_owned))
}

/// What differs from having it installed from there, one line each. Starts no program.
pub(super) fn drift(node: &Node, id: &TaskId, source: Option<&Source>) -> Result<Vec<String>, TaskError> {
    let (version, note) = (version(node)?, recall(node, id));
    let mut drift = Vec::new();
    match source {
        Some(Source::Repository(spec)) => {
            let repository = Repository::read(spec)?;
            if !has_key(node, &repository, &note)? {
                drift.push(format!("{KEYRING} is not the key {}", repository.fingerprint));
            }
            if node.read(SOURCES)?.as_deref() != Some(repository.sources().as_bytes()) {
                drift.push(format!("{SOURCES} does not name {}", spec.uri));
            }
            if version.is_none() {
                drift.push(format!("{PACKAGE} is not installed, to come from {}", spec.uri));
            }
        }
        Some(Source::Package(artifact)) => match version {
            None => drift.push(format!("{PACKAGE} is not installed, to come from {}", artifact.name)),
            Some(version) if note.artifact != artifact.sha256 || note.version != version => {
                drift.push(format!("{PACKAGE} {version} is not from {}", artifact.name));
            }
            Some(_) => (),
        },
        None => {
            return Err(refuse(
                "the plan does not say where RethinkDB comes from",
                "update the agent, or correct the plan",
            ));
        }
    }
    Ok(drift)
}

/// Installs it from there.
pub(super) async fn install(node: &Node, id: &TaskId, source: Option<&Source>) -> Result<(), TaskError> {
    match source {
        Some(Source::Repository(spec)) => from_repository(node, id, &Repository::read(spec)?).await,
        Some(Source::Package(artifact)) => from_artifact(node, id, artifact).await,
        None => Ok(()),
    }
}

async fn from_artifact(node: &Node, id: &TaskId, artifact: &Artifact) -> Result<(), TaskError> {
    let file = node.controller().artifact(artifact).await?;
    apt::install_files(node, &[file]).await?;
    let Some(version) = version(node)? else {
        return Err(refuse(
            format!("`{}` was installed and brought no package `{PACKAGE}`", artifact.name),
            "name another file as `package` in the plan",
        ));
    };
    remember(node, id, &Note { artifact: artifact.sha256.clone(), version, ..recall(node, id) })
}

async fn from_repository(node: &Node, id: &TaskId, repository: &Repository<'_>) -> Result<(), TaskError> {
    let note = recall(node, id);
    if !has_key(node, repository, &note)? {
        let key = repository.key(&fetch(node, repository).await?)?;
        put(node, KEYRING, &key)?;
        remember(node, id, &Note { keyring: keyring(repository, &key), ..note })?;
    }
    let sources = repository.sources();
    if node.read(SOURCES)?.as_deref() != Some(sources.as_bytes()) {
        put(node, SOURCES, sources.as_bytes())?;
        if let Err(error) = apt::update_lists(node).await {
            // A repository that cannot be read would be in the way of everybody else's updates.
            atomic::remove(&node.path(SOURCES))?;
            return Err(error);
        }
    }
    if version(node)?.is_none() {
        apt::install(node, &[PACKAGE]).await?;
    }
    Ok(())
}

/// The file at the key's address, as untrusted bytes.
async fn fetch(node: &Node, repository: &Repository<'_>) -> Result<Vec<u8>, TaskError> {
    let from = &repository.spec.key_uri;
    let fetched = node.path(FETCHED);
    let unreadable = |source| TaskError::Read { path: FETCHED.into(), source };
    folder_of(node, FETCHED)?;
    atomic::remove(&fetched)?;
    let args = ["download-file".to_owned(), from.clone(), fetched.display().to_string()];
    let output = node.output(&Command::new(HELPER, args).within(FETCH)).await?;
    if output.code != Some(0) {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said
            .lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix("E: "))
            .unwrap_or("no reason was given");
        return Err(refuse(
            format!("RethinkDB's repository cannot be reached: {from}: {said}"),
            "let the node reach that address, or name a .deb as `package` in the plan: the controller hands it out",
        ));
    }
    let length = fs::metadata(&fetched).map_err(unreadable)?.len();
    if length > openpgp::LARGEST as u64 {
        return Err(refuse(format!("what {from} gives is no key: {length} bytes"), "correct the plan"));
    }
    fs::read(&fetched).map_err(unreadable)
}

fn put(node: &Node, path: &str, bytes: &[u8]) -> Result<(), TaskError> {
    folder_of(node, path)?;
    node.write(path, bytes, 0o644)
}

/// Whether the keyring is the one written when its key was found to be the pinned one.
fn has_key(node: &Node, repository: &Repository<'_>, note: &Note) -> Result<bool, TaskError> {
    Ok(node.read(KEYRING)?.is_some_and(|bytes| keyring(repository, &bytes) == note.keyring))
}

fn keyring(repository: &Repository<'_>, bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    format!("{} {}", repository.fingerprint, hex(digest.as_ref()))
}

fn recall(node: &Node, id: &TaskId) -> Note {
    let text = node.journal().recall(id, NOTE);
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn remember(node: &Node, id: &TaskId, note: &Note) -> Result<(), TaskError> {
    let text = serde_json::to_string(note).expect("text always becomes JSON");
    Ok(node.journal().remember(id, NOTE, &text)?)
}
