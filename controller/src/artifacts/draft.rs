//! An artifact on its way in: a file of its own until every byte has been counted and digested.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use fleet_proto::v1;
use nix::sys::statvfs::statvfs;
use ring::digest::{Context, SHA256};

use super::{ArtifactError, Artifacts, Digest, LARGEST};
use crate::enrol::hex;

/// How the names of unfinished files begin.
const DRAFT: &str = ".draft-";

/// Whether this is an unfinished file.
pub(super) fn is_draft(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(DRAFT))
}

/// An artifact on its way in; dropped unfinished, nothing is left of it.
pub struct Draft {
    artifacts: Artifacts,
    announced: v1::Artifact,
    digest: Digest,
    path: PathBuf,
    file: File,
    came: u64,
    context: Box<Context>,
    kept: bool,
}

impl Draft {
    pub(super) fn begin(artifacts: &Artifacts, announced: &v1::Artifact) -> Result<Self, ArtifactError> {
        let digest = announced.sha256.parse()?;
        if announced.size > LARGEST {
            return Err(ArtifactError::TooLarge { name: announced.name.clone(), size: announced.size });
        }
        // Looked at first, because half a gigabyte would otherwise travel in vain.
        if let Ok(disk) = statvfs(&*artifacts.dir) {
            room(announced, announced.size, disk.blocks_available().saturating_mul(disk.fragment_size()))?;
        }
        let path = artifacts.dir.join(format!("{DRAFT}{}", uuid::Uuid::new_v4()));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| ArtifactError::File { path: path.clone(), source })?;
        Ok(Self {
            artifacts: artifacts.clone(),
            announced: announced.clone(),
            digest,
            path,
            file,
            came: 0,
            context: Box::new(Context::new(&SHA256)),
            kept: false,
        })
    }

    /// Takes the next bytes. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// [`ArtifactError`] if they are too many, or cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.came += bytes.len() as u64;
        if self.came > self.announced.size {
            return Err(self.size());
        }
        self.context.update(bytes);
        self.file.write_all(bytes).map_err(|source| self.failed(source))
    }

    /// Keeps it, durably, if it is what was announced. Blocks.
    ///
    /// # Errors
    /// [`ArtifactError`]; nothing is kept then.
    pub fn finish(mut self) -> Result<(), ArtifactError> {
        if self.came != self.announced.size {
            return Err(self.size());
        }
        let came = Digest(hex(self.context.clone().finish().as_ref()));
        if came != self.digest {
            let (name, announced) = (self.announced.name.clone(), self.digest.clone());
            return Err(ArtifactError::Differs { name, announced, came });
        }
        let now = self.artifacts.now();
        self.file
            .set_modified(now)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| fs::rename(&self.path, self.artifacts.path(&self.digest)))
            .map_err(|source| self.failed(source))?;
        self.kept = true;
        let dir = File::open(&self.artifacts.dir).and_then(|dir| dir.sync_all());
        dir.map_err(|source| ArtifactError::File { path: self.artifacts.dir.to_path_buf(), source })?;
        tracing::info!(name = self.announced.name, digest = %self.digest, size = self.came, "artifact kept");
        Ok(())
    }

    fn size(&self) -> ArtifactError {
        let (name, announced) = (self.announced.name.clone(), self.announced.size);
        ArtifactError::Size { name, announced, came: self.came }
    }

    fn failed(&self, source: io::Error) -> ArtifactError {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ArtifactError::NoRoom {
                name: self.announced.name.clone(),
                missing: self
                    .announced
                    .size
                    .saturating_sub(self.file.metadata().map_or(0, |file| file.len())),
            },
            _ => ArtifactError::File { path: self.path.clone(), source },
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is at the next start.
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Whether `size` bytes go into `free` ones.
pub(super) fn room(artifact: &v1::Artifact, size: u64, free: u64) -> Result<(), ArtifactError> {
    match size.saturating_sub(free) {
        0 => Ok(()),
        missing => Err(ArtifactError::NoRoom { name: artifact.name.clone(), missing }),
    }
}
