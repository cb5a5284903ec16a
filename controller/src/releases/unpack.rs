//! Whether artifacts are what a manifest says they are: packed as kept, unpacked as they will run.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use fleet_proto::v1;
use fleet_release::{Artifact, Manifest};
use ring::digest::{Context, SHA256};

use super::ReleaseError;
use crate::artifacts::{ArtifactError, Artifacts, Digest, LARGEST};

/// Bytes unpacked at once.
const BLOCK: usize = 256 * 1024;

/// Looks at every artifact of `manifest`. Blocks.
///
/// # Errors
/// [`ReleaseError`] naming those that are not here, or the first that is something else.
pub(super) fn check(artifacts: &Artifacts, manifest: &Manifest) -> Result<(), ReleaseError> {
    let wanted: Vec<v1::Artifact> = manifest.artifacts.iter().map(packed).collect();
    let missing = artifacts.missing(&wanted)?;
    if !missing.is_empty() {
        let names = missing.into_iter().map(|artifact| artifact.name).collect();
        return Err(ReleaseError::Missing { version: manifest.version, names });
    }
    manifest.artifacts.iter().try_for_each(|artifact| unpacks(artifacts, artifact))
}

/// As it is kept and fetched.
fn packed(artifact: &Artifact) -> v1::Artifact {
    v1::Artifact {
        name: artifact.name.clone(),
        sha256: artifact.packed_sha256.clone(),
        size: artifact.packed_size,
    }
}

fn unpacks(artifacts: &Artifacts, artifact: &Artifact) -> Result<(), ReleaseError> {
    let Artifact { name, size, sha256, packed_sha256, .. } = artifact;
    let differs = |why: String| ReleaseError::Differs { name: name.clone(), why };
    if *size > LARGEST {
        return Err(ArtifactError::TooLarge { name: name.clone(), size: *size }.into());
    }
    let digest: Digest = packed_sha256.parse().map_err(ArtifactError::from)?;
    // Never more than announced plus the byte that tells: a small file may unpack to a full disk's worth.
    let mut unpacked = GzDecoder::new(artifacts.file(&digest)?).take(size + 1);
    let (mut context, mut block, mut came) = (Context::new(&SHA256), vec![0; BLOCK], 0);
    loop {
        match unpacked.read(&mut block) {
            Ok(0) => break,
            Ok(read) => {
                context.update(&block[..read]);
                came += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(differs(format!("it does not unpack: {error}"))),
        }
    }
    if came != *size {
        let more = if came > *size { "more than that" } else { "fewer" };
        return Err(differs(format!("it should unpack to {size} bytes, and {more} came")));
    }
    let came = crate::enrol::hex(context.finish().as_ref());
    if came == *sha256 { Ok(()) } else { Err(differs(format!("it unpacks to {came}, not to {sha256}"))) }
}
