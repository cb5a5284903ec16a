//! What can be rolled out.

use std::fmt::Debug;

use fleet_model::NodeName;
use fleet_release::Warning;

use crate::releases::{Leave, Releases};

/// A release as a rollout needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offerable {
    /// SHA-256 of its agent program, unpacked.
    pub release: String,
    /// Its version.
    pub version: String,
    /// The signed manifest.
    pub manifest: Vec<u8>,
    /// Leave to go back to it that counts now.
    pub leave: Vec<Leave>,
    /// SHA-256 of everything a node fetches of it.
    pub packed: Vec<String>,
    /// Why no node would take it now.
    pub refused: Option<String>,
    /// What is worth knowing before it is rolled out.
    pub warnings: Vec<String>,
}

impl Offerable {
    /// The signed permit by which this node may go back to it, if there is one. No other is ever given it: a node refuses
    /// what comes with a permit that it cannot use, also where it needs none.
    pub fn permit_for(&self, node: &NodeName) -> Option<&[u8]> {
        let named = self.leave.iter().filter(|one| one.permit.nodes.contains(node));
        named.max_by_key(|one| one.permit.expires).map(|one| one.bytes.as_slice())
    }
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
            leave: self.leave(&kept),
            release: kept.release,
            manifest: kept.manifest_bytes,
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
