//! What can be rolled out.

use std::fmt::Debug;

use fleet_release::Warning;

use crate::releases::Releases;

/// A release as a rollout needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offerable {
    /// SHA-256 of its agent program, unpacked.
    pub release: String,
    /// Its version.
    pub version: String,
    /// The signed manifest.
    pub manifest: Vec<u8>,
    /// The signed permit, if there is one.
    pub permit: Option<Vec<u8>>,
    /// SHA-256 of everything a node fetches of it.
    pub packed: Vec<String>,
    /// Why no node would take it now.
    pub refused: Option<String>,
    /// What is worth knowing before it is rolled out.
    pub warnings: Vec<String>,
}

/// All releases.
pub trait Catalogue: Send + Sync + Debug {
    /// Every release, the highest version first.
    fn list(&self) -> Vec<Offerable>;

    /// One of them.
    fn get(&self, release: &str) -> Option<Offerable>;

    /// The chain of signed roots, the first one first.
    fn roots(&self) -> Vec<Vec<u8>>;
}

impl Catalogue for Releases {
    fn list(&self) -> Vec<Offerable> {
        Self::list(self).iter().filter_map(|kept| Catalogue::get(self, &kept.release)).collect()
    }

    fn get(&self, release: &str) -> Option<Offerable> {
        let kept = Self::get(self, release)?;
        Some(Offerable {
            version: kept.manifest.version.to_string(),
            packed: kept.manifest.artifacts.iter().map(|artifact| artifact.packed_sha256.clone()).collect(),
            refused: self.verdict(&kept).err().map(|why| why.to_string()),
            warnings: self.outlook(Some(&kept)).iter().chain(&self.outlook(None)).map(ahead).collect(),
            release: kept.release,
            manifest: kept.manifest_bytes,
            permit: kept.permit,
        })
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        Self::roots(self)
    }
}

fn ahead(warning: &Warning) -> String {
    format!(
        "the {} expires at {}; after that no node takes the release any more",
        warning.kind, warning.expires
    )
}
