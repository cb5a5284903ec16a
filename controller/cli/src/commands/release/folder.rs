//! A release as a folder: what `create` makes and `publish` takes.
//!
//! ```text
//! manifest        signed
//! root.1 root.2 … signed: the chain by which the manifest is judged
//! permit permit.2 … signed: leave to go back to it, if there is any
//! NAME.gz         each program the manifest names, packed
//! ```

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use fleet_proto::v1;
use fleet_release::{Artifact, MAX_BYTES, Manifest, Refusal, Trust};

use crate::{
    failure::{Exit, Failure},
    files::Named,
};

/// The signed manifest's file.
pub const MANIFEST: &str = "manifest";
/// The file of a signed permit, the first one being number 1.
pub fn permit_name(number: usize) -> String {
    if number == 1 { "permit".to_owned() } else { format!("permit.{number}") }
}

/// A release's folder, read and found good.
#[derive(Debug)]
pub struct Folder {
    /// Signed roots, the first one first.
    pub chain: Vec<Vec<u8>>,
    /// Signed.
    pub manifest_bytes: Vec<u8>,
    /// What it says.
    pub manifest: Manifest,
    /// Signed.
    pub permits: Vec<Vec<u8>>,
    dir: PathBuf,
}

impl Folder {
    /// Reads the folder; `known` is the chain of this host's keys, which may be longer by now.
    ///
    /// # Errors
    /// It is no release, or not one by the keys it names.
    pub fn read(dir: &Path, known: &[Vec<u8>]) -> Result<Self, Failure> {
        let manifest_bytes = document(&dir.join(MANIFEST))?.ok_or_else(|| {
            Failure::new(Exit::Input, format!("{} holds no release", dir.display()))
                .hint("`fleetctl release create` makes such a folder")
        })?;
        let mut chain = Vec::new();
        for number in 1.. {
            let Some(root) = document(&dir.join(format!("root.{number}")))? else { break };
            chain.push(root);
        }
        if known.starts_with(&chain) {
            chain = known.to_vec();
        }
        let wrong = |refusal: Refusal| {
            Failure::new(Exit::Input, format!("{}: {refusal}", dir.display()))
                .hint("make it anew with `fleetctl release create`")
        };
        let trust = Trust::of_chain(&chain).map_err(wrong)?;
        let manifest = trust.manifest(&manifest_bytes).map_err(wrong)?;
        let mut permits = Vec::new();
        for number in 1.. {
            let Some(permit) = document(&dir.join(permit_name(number)))? else { break };
            trust.permit(&permit, &manifest_bytes, &manifest).map_err(wrong)?;
            permits.push(permit);
        }
        Ok(Self { chain, manifest_bytes, manifest, permits, dir: dir.to_owned() })
    }

    /// Its packed programs, as files and as the controller is to know them.
    ///
    /// # Errors
    /// One is missing.
    pub fn artifacts(&self) -> Result<(Vec<Named>, Vec<v1::Artifact>), Failure> {
        let mut files = Vec::new();
        for artifact in &self.manifest.artifacts {
            let path = self.dir.join(packed_name(artifact));
            let size = fs::metadata(&path).map_err(|why| {
                Failure::new(Exit::Input, format!("{}: {why}", path.display()))
                    .hint("make the folder anew with `fleetctl release create`")
            })?;
            files.push(Named { name: packed_name(artifact), path, size: size.len() });
        }
        let known = |artifact: &Artifact| v1::Artifact {
            name: packed_name(artifact),
            sha256: artifact.packed_sha256.clone(),
            size: artifact.packed_size,
        };
        Ok((files, self.manifest.artifacts.iter().map(known).collect()))
    }
}

fn packed_name(artifact: &Artifact) -> String {
    format!("{}.gz", artifact.name)
}

/// A document, if it is there; never more of it than a document may have.
fn document(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let read = File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(Failure::new(Exit::Input, format!("read {}: {why}", path.display()))),
    }
}
