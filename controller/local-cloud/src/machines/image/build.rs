//! Builds the image: packages, then files of ours, then a disk that boots.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use super::{Image, Recipe, cpio::Archive, disk, initramfs, kernel, mirror, recipe::SUITE};
use crate::{
    backing::BackingError,
    machines::run::{Doing, Program},
};

/// Downloads included; a mirror slower than this is better replaced.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(1800);
/// Mirrors fail for moments, and a first start is worth more than one try.
const ATTEMPTS: u32 = 3;
/// Pause after a failed try; longer after each.
const PAUSE: Duration = Duration::from_secs(5);
/// How often a process that waits for another one's build looks again.
const LOCK_INTERVAL: Duration = Duration::from_millis(500);
/// How the names of folders end in which an image is being built.
pub(super) const UNFINISHED: &str = ".unfinished";
/// The script that tells whether an accelerator works.
const PROBE: &str = include_str!("files/probe-init");

/// The recipe's image, built if the cache does not have it. Safe when several processes ask at once; a build
/// that was interrupted goes on from its last finished stage.
pub async fn ensure(
    cache: &Path,
    recipe: &Recipe,
    mirror: Option<&str>,
    progress: &(dyn Fn(String) + Send + Sync),
) -> Result<Image, BackingError> {
    if let Some(image) = Image::find(cache, recipe) {
        return Ok(image);
    }
    let images = cache.join("images");
    fs::create_dir_all(&images)
        .map_err(|source| Doing::new(format!("make {}", images.display())).io(source))?;
    let _lock = lock(&images.join("lock"), progress).await?;
    if let Some(image) = Image::find(cache, recipe) {
        return Ok(image);
    }

    // Only the holder of the lock touches this folder, so what is in it is what an earlier build left.
    let work = images.join(format!(".{}{UNFINISHED}", recipe.key()));
    let stages = Stages { work: &work, recipe, mirror, progress };
    stages.tree().await?;
    stages.parts().await?;
    let image = Image { folder: images.join(recipe.key()) };
    fs::rename(work.join("image"), &image.folder)
        .and_then(|()| fs::remove_dir_all(&work))
        .map_err(|source| Doing::new(format!("put {} in place", image.folder.display())).io(source))?;
    progress("machine image ready".into());
    Ok(image)
}

struct Stages<'a> {
    work: &'a Path,
    recipe: &'a Recipe,
    mirror: Option<&'a str>,
    progress: &'a (dyn Fn(String) + Send + Sync),
}

impl Stages<'_> {
    fn tree_path(&self) -> PathBuf {
        self.work.join("tree")
    }

    /// The file system's contents. The slow part, so a finished tree is kept until the whole image is.
    async fn tree(&self) -> Result<(), BackingError> {
        let (tree, finished) = (self.tree_path(), self.work.join("tree-finished"));
        if finished.is_file() {
            (self.progress)("machine image: going on with the packages installed before".into());
            return Ok(());
        }
        let files = self.work.join("files");
        let lay_out = || -> io::Result<()> {
            remove_folder(self.work)?;
            for (name, text) in self.recipe.files() {
                let path = files.join(name);
                fs::create_dir_all(path.parent().unwrap_or(&files))?;
                fs::write(&path, text)?;
            }
            make_executable(&files.join("finish"))
        };
        lay_out().map_err(|source| Doing::new(format!("fill {}", files.display())).io(source))?;

        (self.progress)("machine image: installing Debian packages (once; one to three minutes)".into());
        let mut attempt = 1;
        while let Err(error) = self.packages(&files).await {
            if attempt == ATTEMPTS {
                return Err(error);
            }
            (self.progress)(format!("machine image: trying the package mirror again, because: {error}"));
            remove_folder(&tree)
                .map_err(|source| Doing::new(format!("empty {}", tree.display())).io(source))?;
            tokio::time::sleep(PAUSE * attempt).await;
            attempt += 1;
        }
        fs::write(&finished, "")
            .map_err(|source| Doing::new(format!("write {}", finished.display())).io(source))
    }

    /// Installs the packages, and our files on top, into an empty tree.
    async fn packages(&self, files: &Path) -> Result<(), BackingError> {
        let tree = self.tree_path();
        let sources = mirror::sources(self.mirror).await?;
        let mut bootstrap = Program::new("unshare")
            // A namespace of its own, so that nothing the build started outlives it.
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "mmdebstrap"])
            .args(["--quiet", "--variant=minbase", "--mode=root", "--architectures=amd64"])
            .arg(format!("--include={}", self.recipe.packages()))
            .arg("--aptopt=Apt::Install-Recommends \"false\"")
            .arg("--aptopt=Acquire::Languages \"none\"")
            .arg("--aptopt=Acquire::Retries \"3\"")
            // Kept in the image: what guests install later is as lean.
            .arg("--dpkgopt=path-exclude=/usr/share/man/*")
            .arg("--dpkgopt=path-exclude=/usr/share/info/*")
            .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
            .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
            .arg("--dpkgopt=path-include=/usr/share/doc/*/copyright");
        if let Some(proxy) = mirror::proxy().await? {
            bootstrap = bootstrap.arg(format!("--aptopt=Acquire::http::Proxy \"{proxy}\""));
        }
        bootstrap
            .arg(format!("--customize-hook={}", files.join("finish").display()))
            .args([SUITE.as_ref(), tree.as_os_str(), "-".as_ref()])
            .env("FILES", files)
            .input(sources)
            .timeout(BOOTSTRAP_TIMEOUT)
            .run("install the machine image's packages")
            .await?;
        Ok(())
    }

    /// Kernel, first file system, probe and disk.
    async fn parts(&self) -> Result<(), BackingError> {
        let tree = self.tree_path();
        let image = Image { folder: self.work.join("image") };
        let doing = || Doing::new(format!("fill {}", image.folder.display()));
        remove_folder(&image.folder)
            .and_then(|()| fs::create_dir(&image.folder))
            .map_err(|source| doing().io(source))?;

        (self.progress)("machine image: kernel and first file system".into());
        let archive = initramfs::pack(&tree).await?;
        let (from, to) = (tree.clone(), image.clone());
        tokio::task::spawn_blocking(move || -> io::Result<()> {
            let packed = fs::read(kernel_path(&from)?)?;
            fs::write(to.kernel(), kernel::unpack(&packed).unwrap_or(packed))?;
            fs::write(to.initramfs(), archive)?;
            fs::write(to.probe(), probe(&fs::read(from.join("bin/busybox"))?))
        })
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| doing().io(source))?;

        (self.progress)("machine image: disk".into());
        disk::write(&image.disk(), &tree, &self.recipe.key()).await
    }
}

/// Waits for the lock without blocking the runtime.
async fn lock(
    path: &Path,
    progress: &(dyn Fn(String) + Send + Sync),
) -> Result<Flock<fs::File>, BackingError> {
    let doing = || Doing::new(format!("lock {}", path.display()));
    let mut file = fs::File::create(path).map_err(|source| doing().io(source))?;
    let mut told = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, nix::Error::EAGAIN)) => file = same,
            Err((_, error)) => return Err(doing().io(error.into())),
        }
        if !told {
            progress("machine image: another process is building it; waiting".into());
            told = true;
        }
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
}

fn kernel_path(tree: &Path) -> io::Result<PathBuf> {
    for entry in fs::read_dir(tree.join("boot"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("vmlinuz-") {
            return Ok(entry.path());
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the tree has no kernel"))
}

fn probe(busybox: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.folder("bin");
    archive.folder("dev");
    archive.file("init", PROBE.as_bytes());
    archive.file("bin/busybox", busybox);
    archive.finish()
}

fn make_executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// Removes a folder that may not be there.
fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
