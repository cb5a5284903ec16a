//! What is released.

use fleet_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    document::Body,
    key::{sha256, unhex},
    refusal::Kind,
    version::Version,
};

/// A file of a release, found by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// What it is: `fleet-agent`, `fleet-todo`.
    pub name: String,
    /// In bytes, unpacked.
    pub size: u64,
    /// SHA-256, unpacked.
    pub sha256: String,
    /// In bytes, as fetched.
    pub packed_size: u64,
    /// SHA-256, as fetched.
    pub packed_sha256: String,
}

/// Oldest counterparts that this release gets along with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Minimum {
    /// Of the controller.
    pub controller: Version,
    /// Of the agent that is replaced.
    pub agent: Version,
}

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Only rises.
    pub version: Version,
    /// When it was made.
    pub created: Timestamp,
    /// From when on nothing is updated by it; what runs goes on.
    pub expires: Timestamp,
    /// Who has to be how new.
    pub minimum: Minimum,
    /// Its files, in the order of their names.
    pub artifacts: Vec<Artifact>,
}

impl Manifest {
    /// The artifact of this name.
    pub fn artifact(&self, name: &str) -> Option<&Artifact> {
        self.artifacts.iter().find(|artifact| artifact.name == name)
    }

    /// One digest for all artifacts: the same for a manifest signed afresh.
    pub fn artifacts_sha256(&self) -> String {
        let lines = self.artifacts.iter().map(|one| format!("{} {} {}\n", one.name, one.size, one.sha256));
        sha256(lines.collect::<String>().as_bytes())
    }
}

impl Body for Manifest {
    const KIND: Kind = Kind::Manifest;

    fn check(&self) -> Result<(), String> {
        if self.created >= self.expires {
            return Err("it expires before it is made".to_owned());
        }
        if self.artifacts.is_empty() {
            return Err("it has no artifact".to_owned());
        }
        for Artifact { name, sha256, packed_sha256, .. } in &self.artifacts {
            // A name is never a path, wherever somebody may use it.
            let word =
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            if !word || name.is_empty() || name.len() > 63 {
                return Err(format!("`{}` is not a name of an artifact", name.escape_debug()));
            }
            for digest in [sha256, packed_sha256] {
                unhex::<32>(digest)
                    .ok_or_else(|| format!("{name} has no SHA-256 of 64 lower-case digits"))?;
            }
        }
        if !self.artifacts.is_sorted_by(|a, b| a.name < b.name) {
            return Err("its artifacts are not in the order of their names".to_owned());
        }
        Ok(())
    }
}
