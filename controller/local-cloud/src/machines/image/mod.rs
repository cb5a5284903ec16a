//! The machine image: built once from Debian packages, kept under a key derived from its recipe.

mod build;
mod cpio;
mod disk;
mod initramfs;
mod kernel;
mod lvm;
mod mirror;
mod prune;
mod recipe;

use std::path::{Path, PathBuf};

pub(crate) use self::prune::prune;
pub use self::{build::ensure, disk::DISK_GB, recipe::Recipe};

/// One image in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image of the recipe, if it has been built.
    pub fn find(cache: &Path, recipe: &Recipe) -> Option<Self> {
        let image = Self::at(cache, recipe);
        image.disk().is_file().then_some(image)
    }

    /// Where the recipe's image is or will be.
    pub fn at(cache: &Path, recipe: &Recipe) -> Self {
        Self { folder: cache.join("images").join(recipe.key()) }
    }

    /// Raw base disk; servers' system disks are overlays of it.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }

    /// Kernel that QEMU loads.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// Its first file system.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }

    /// A first file system that only shows that a guest runs.
    pub fn probe(&self) -> PathBuf {
        self.folder.join("probe")
    }
}
